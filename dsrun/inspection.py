"""Looking at things: run folders, data, this machine.

On the roof beside `experiment.py`. Nothing here trains or changes a run.
"""

import os
import platform
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.config import Config, load_config
from dsrun.errors import DataError, DsrunError
from dsrun.record import RunDir, read_events

if TYPE_CHECKING:
    from dsrun.speech import Alphabet, Utterance


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """A row for each run folder: state, steps, best dev CER, test CER, storage format, wait for data, determinism."""
    rows = []
    for path in sorted(p.parent for p in folder.glob("*/config.yaml")):
        run = RunDir(path)
        try:
            run.require_own_contents()  # a pipe would never answer
            config = load_config(run.config).config
            status, events = run.read_status(), read_events(run.events)
        except DsrunError as error:  # of another version of dsrun, or damaged; the others are still worth a list
            print(f"{path}: {error}", file=sys.stderr)
            continue
        rates = [e["cer"] for e in events if e["event"] == "eval" and isinstance(e.get("cer"), int | float)]
        result = status.get("result")
        rows.append(
            {
                "run": str(path),
                "state": status.get("state", "new"),
                "step": status.get("step", 0),
                "dev_cer": min(rates, default=None),
                "test_cer": result.get("cer") if isinstance(result, dict) else None,
                "storage": config.arithmetic.storage.format,
                "compute": config.arithmetic.compute.format,
                "seed": config.seed,
                "data_wait": _data_wait(events),
                "determinism": _determinism(config, events),
            }
        )
    return rows


def _data_wait(events: list[dict[str, Any]]) -> str | None:
    """Share of the training steps' time that was spent waiting for batches, compilation included in the time."""
    pairs = [(e.get("data_wait_seconds"), e.get("seconds")) for e in events if e["event"] == "step"]
    known = [(w, s) for w, s in pairs if isinstance(w, int | float) and isinstance(s, int | float)]
    seconds = sum(s for _, s in known)
    return f"{sum(w for w, _ in known) / seconds:.1%}" if seconds else None


def _determinism(config: Config, events: list[dict[str, Any]]) -> str:
    """The config's, and where the run went on under other circumstances than it began with."""
    changed = [str(event["step"]) for event in events if event["event"] == "environment"]
    return config.determinism + (f", changed at {' '.join(changed)}" if changed else "")


def check_data(manifest: Path, *, config: Path | None, sample_rate: int) -> dict[str, Any]:
    """Decode every file of a manifest; all errors, warnings and totals.

    With a config the characters (against the alphabet of its training text) and the CTC feasibility of each utterance are
    checked too.
    """
    from dsrun.speech import AudioSettings, check_manifest, read_manifest

    utterances = read_manifest(manifest)
    if config is None:
        report = check_manifest(utterances, audio=AudioSettings(sample_rate)).to_json()
    else:
        from dsrun import build

        resolved = load_config(config).config
        alphabet = build.build_alphabet(resolved, read_manifest(resolved.data.train))
        report = check_manifest(utterances, audio=build.build_audio(resolved), alphabet=alphabet).to_json()
        report["errors"] += _infeasible(resolved, utterances, alphabet)
    report["totals"] |= {"errors": len(report["errors"]), "warnings": len(report["warnings"])}
    return {"manifest": str(manifest), **report}


def _infeasible(config: Config, utterances: "list[Utterance]", alphabet: "Alphabet") -> list[str]:
    """Utterances that CTC could not align at the config's fastest speed, by the manifest's durations."""
    from dsrun import build
    from dsrun.model import output_frames
    from dsrun.speech import encode_all
    from dsrun.training.feasibility import find_infeasible

    labels = encode_all({u.id: u.text for u in utterances}, alphabet, on_unknown="drop").labels
    settings = build.build_model_settings(config, num_classes=alphabet.num_classes)
    features = build.build_features(config)
    fastest = max(config.augment.speeds) if config.augment else 1.0
    frames = [features.num_frames(int((u.duration or 0.0) * config.data.sample_rate / fastest)) for u in utterances]
    ids = [utterance.id for utterance in utterances]
    found = find_infeasible(ids, frames, labels, output_frames=lambda n: output_frames(settings, n))
    return [str(infeasible) for infeasible in found]


def draw_utterance(manifest: Path, id: str | None, *, config: Path, epoch: int, output: Path) -> str:
    """Write a picture of an utterance's features, plain and augmented; returns the caption.

    Raises:
        DataError: no such utterance, or its audio cannot be used.
    """
    from dsrun import build
    from dsrun.speech import estimate_normalization, load_dataset, read_manifest

    resolved = load_config(config).config
    utterances = read_manifest(manifest)
    chosen = [u for u in utterances if id is None or u.id == id][:1]
    if not chosen:
        raise DataError(f"{manifest}: no utterance {id!r}; the first is {utterances[0].id!r}.")
    dataset = load_dataset(
        chosen,
        [[]],
        audio=build.build_audio(resolved),
        features=build.build_features(resolved),
        cache=build.cache_of(resolved),
        augmentation=build.build_augmentation(resolved),
        seed=resolved.seed,
    )
    clip = dataset.clips[0][1.0]
    dataset = replace(dataset, normalization=estimate_normalization([clip]))
    plain = replace(dataset, augmentation=None).features(0, epoch)
    panels = [("plain", plain)]
    if dataset.augmentation is not None:
        panels.append((f"as epoch {epoch} sees it, speed {dataset.speed(0, epoch):g}", dataset.features(0, epoch)))
    _draw(panels, f"{chosen[0].id}: {chosen[0].text}", resolved.features.hop_ms, output)
    return f"{output}: {chosen[0].id}, {len(clip)} frames of {clip.shape[1]} bins, {chosen[0].text!r}"


def _draw(panels: list[tuple[str, np.ndarray]], title: str, hop_ms: float, output: Path) -> None:
    from matplotlib.figure import Figure

    if output.suffix not in (".png", ".svg"):
        raise DataError(f"{output}: write a name that ends in .png or .svg.")
    figure = Figure(figsize=(9, 2.6 * len(panels) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    longest = max(len(values) for _, values in panels) * hop_ms / 1000
    for axes, (name, values) in zip(np.ravel(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True):
        extent = (0, len(values) * hop_ms / 1000, 0, values.shape[1])
        image = axes.imshow(values.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-3, vmax=3)
        axes.set(title=name, ylabel="bin", xlim=(0, longest))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=figure.axes, label="deviations from the clip's mean")
    figure.savefig(output, dpi=110, metadata={"Date": None} if output.suffix == ".svg" else None)


def doctor_report() -> dict[str, Any]:
    """Facts about this machine and a self-check of what results depend on."""
    from dsrun.record import configure_runtime, in_force
    from dsrun.record.runtime import ALLOCATOR_VARIABLE

    configure_runtime()
    import jax
    import soundfile

    from dsrun.arithmetic import Policy
    from dsrun.self_check import run_self_check

    devices = jax.devices()
    cache = jax.config.values[
        "jax_compilation_cache_dir"
    ]  # of the environment: a run's own is training.compilation_cache
    facts = {
        "dsrun": metadata.version("dsrun"),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")},
        "libsndfile": soundfile.__libsndfile_version__,
        "backend": jax.default_backend(),
        "devices": ", ".join(f"{device.id}: {device.device_kind}" for device in devices),
        "cores": os.cpu_count(),
        "determinism": "strict, where a config does not say otherwise",
        **in_force(),
        "float32 products": f"{Policy().describe_products()}, unless arithmetic.compute says otherwise; JAX's default here: "
        f"{jax.config.values['jax_default_matmul_precision'] or 'its own'}, which dsrun does not use",
        "compilation cache": f"{cache}: its programs are trusted code" if cache else "none",
        ALLOCATOR_VARIABLE: os.environ.get(ALLOCATOR_VARIABLE, ""),
    }
    return {"facts": facts, "checks": [check.to_json() for check in run_self_check()]}
