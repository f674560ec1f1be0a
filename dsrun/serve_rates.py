"""How long people wait for a served model's text, by format and number of streams, with batch dispatch and without.

On the roof: it exports runs (`exporting`), lets simulated clients speak to the dispatcher (`serving.load`) and draws (`study`). Contenders
take turns: in each round everything is measured once for some seconds, so that a busy patch of the machine meets all of them, and what is
said of two formats is the median of the ratios of one round each. Percentiles are of the chunks of all rounds together.

Without batches (`most_a_step` 1) the same dispatcher gives every step one stream, the longest waiting first: what dispatch brings is the
difference. Who could not keep up with so many streams in half of the rounds is not tried with them again, nor with more.

The sound is a manifest's, by default the test manifest of the run that a model is from.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import jax
import numpy as np

from dsrun.config import load_config
from dsrun.deploy.folder import Exported, load
from dsrun.deploy.streams import StreamPool
from dsrun.errors import DataError, UsageError
from dsrun.exporting import ExportSettings, make_export
from dsrun.models import is_exported, start_runtime_of_runs
from dsrun.record import RunDir
from dsrun.record.runtime import start_for_inference
from dsrun.serving.dispatch import Dispatcher
from dsrun.serving.engine import hearing_of, pool_of
from dsrun.serving.figures import latency_json
from dsrun.serving.load import Load, Outcome, speak
from dsrun.speech import read_manifest, read_utterance
from dsrun.streaming import stream_latency
from dsrun.study.ceilings import machine_facts
from dsrun.study.stopwatch import announce, peak_memory, quartiles

RECORDINGS = 64  # of the manifest, at most
MOST_WAITING_SECONDS = 3.0  # of a stream's sound: whoever has more cannot keep up
EAGER, SINGLE = "eager", "none"  # kinds of batching
# Amodei et al. 2015 (Deep Speech 2), on deployment: one Quadro K1200; streams: median and 98th percentile, ms.
DEEP_SPEECH_2 = {10: (44.0, 70.0), 20: (48.0, 86.0), 30: (67.0, 114.0)}


@dataclass(frozen=True)
class ServeSettings:
    """What to measure.

    Fields:
        streams: numbers of them. seconds: of sound, in a round. block_ms: that a client sends at a time; None is a hop.
        manifest: None is the model's own. formats: that runs are served in (an export has its own). compare_single: measure without
        batches too.
    """

    streams: tuple[int, ...]
    seconds: float
    rounds: int
    chunk_ms: float
    block_ms: float | None
    manifest: Path | None
    formats: tuple[str, ...]
    checkpoint: str
    compare_single: bool
    seed: int


@dataclass
class Contender:
    """A model in a format, with its pool and what it is to hear."""

    name: str
    exported: Exported
    pool: StreamPool
    compile_seconds: float
    manifest: Path
    recordings: list[np.ndarray]
    outcomes: dict[tuple[int, str], list[Outcome]] = field(default_factory=dict)

    def keeps_up(self, cell: tuple[int, str], rounds: int) -> bool:
        """Whether fewer than half of so many rounds were too slow: one may have met a busy patch of the machine."""
        return 2 * sum(bool(outcome.too_slow) for outcome in self.outcomes.get(cell, [])) < rounds

    def gave_up(self, cell: tuple[int, str], rounds: int) -> bool:
        """Whether it could not keep up with so many streams, or fewer."""
        count, batching = cell
        return not all(
            self.keeps_up((own, batching), rounds) for own, kind in self.outcomes if kind == batching and own <= count
        )


def bench_serve(models: Sequence[Path], settings: ServeSettings) -> dict[str, Any]:
    """Rows by format, number of streams and batching.

    Raises:
        UsageError: neither run nor export, a network that cannot be streamed, no manifest. DataError: a folder or a recording is damaged.
    """
    start_runtime(models)
    contenders = [_contender(name, exported, settings) for name, exported in _exported(models, settings)]
    cells = [(count, EAGER) for count in settings.streams]
    cells += [(count, SINGLE) for count in settings.streams if settings.compare_single and count > 1]
    announce(_plan(len(contenders) * len(cells), settings))
    for number in range(settings.rounds):
        for count, batching in cells:
            for contender in contenders:
                if not contender.gave_up((count, batching), settings.rounds):
                    _measure(contender, count, batching, settings, number)
    first = contenders[0]
    rows = [
        _row(contender, first, cell, settings.rounds)
        for cell in cells
        for contender in contenders
        if cell in contender.outcomes
    ]
    return {
        "benchmark": "serve",
        "machine": machine_facts(jax.devices()),
        "models": [_model_json(contender, settings) for contender in contenders],
        "seconds_a_round": settings.seconds,
        "rounds": settings.rounds,
        "block_ms": settings.block_ms or 1000.0 * first.exported.features.hop / first.exported.features.sample_rate,
        "seed": settings.seed,
        "rows": rows,
        "not_tried": [
            {"model": contender.name, "streams": count, "batching": batching}
            for count, batching in cells
            for contender in contenders
            if (count, batching) not in contender.outcomes
        ],
        "deep_speech_2": [
            {"streams": count, "median_ms": middle, "percentile_98_ms": high}
            for count, (middle, high) in DEEP_SPEECH_2.items()
        ],
        **peak_memory(jax.devices()[0]),
    }


def start_runtime(models: Sequence[Path]) -> None:
    """As the runs among them were trained. Raises UsageError for what cannot be served at all, before anything is exported."""
    runs = [path for path in models if not is_exported(path)]
    for path in runs:
        if not RunDir(path).config.is_file():
            raise UsageError(
                f"{path}: neither a run folder (no config.yaml) nor an exported model (no model.json). `dsrun runs` lists runs."
            )
        if load_config(RunDir(path).config).config.model.direction != "forward":
            raise UsageError(
                f"{path}: cannot be served in streams: its layers are bidirectional (model.direction), and the backward ones begin at "
                "the end of a recording. Train a network with direction: forward, such as configs/prompts_streaming.yaml."
            )
    start_runtime_of_runs(runs)
    start_for_inference()


def _exported(models: Sequence[Path], settings: ServeSettings) -> list[tuple[str, Exported]]:
    """Every model in every format it is served in, by a name that is its own."""
    found: list[tuple[str, Path, Exported]] = []
    for path in models:
        if is_exported(path):
            exported = load(path)
            found.append((_format_of(exported), path, exported))
            continue
        for format in settings.formats:
            announce(f"{path}: {format}")
            wanted = ExportSettings(cast(Any, format), checkpoint=settings.checkpoint)
            exported = make_export(path, wanted, say=announce)
            found.append((_format_of(exported), path, exported))
    names = [name for name, _, _ in found]
    return [(name if names.count(name) == 1 else f"{name} of {path}", exported) for name, path, exported in found]


def _format_of(exported: Exported) -> str:
    """Format, and of codes how scales were found where it is not the usual."""
    said = [exported.document.get(key) for key in ("granularity", "method")]
    usual = ("layer", "absmax", None)
    return "-".join([exported.format, *(str(word) for word in said if word not in usual)])


def _contender(name: str, exported: Exported, settings: ServeSettings) -> Contender:
    pool = pool_of(exported, chunk_ms=settings.chunk_ms, most_streams=max(settings.streams))
    manifest = settings.manifest or _own_manifest(exported)
    recordings = _recordings(manifest, exported, settings.seed)
    announce(f"{name}: compiling steps of {', '.join(map(str, pool.sizes))} streams")
    start = time.perf_counter()
    pool.compile()
    return Contender(name, exported, pool, time.perf_counter() - start, manifest, recordings)


def _own_manifest(exported: Exported) -> Path:
    named = exported.document.get("manifests") or {}
    for split in ("test", "dev"):
        path = (named.get(split) or {}).get("path")
        if path and Path(path).is_file():
            return Path(path)
    raise UsageError(
        f"{exported.path or 'the run'}: its test and dev manifests are not there, so there is nothing to speak. Name one with --manifest."
    )


def _recordings(manifest: Path, exported: Exported, seed: int) -> list[np.ndarray]:
    """Samples of some utterances, drawn by the seed."""
    if not manifest.is_file():
        raise UsageError(f"--manifest {manifest}: not there.")
    utterances = sorted(read_manifest(manifest), key=lambda utterance: utterance.id)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(utterances))[:RECORDINGS]
    found = [read_utterance(utterances[place], exported.audio) for place in order]
    found = [samples for samples in found if len(samples) >= exported.features.window]
    if not found:
        raise DataError(f"{manifest}: no recording as long as a window, so there is nothing to speak.")
    return found


def _measure(contender: Contender, count: int, batching: str, settings: ServeSettings, number: int) -> None:
    features = contender.exported.features
    block = max(1, round(settings.block_ms * features.sample_rate / 1000)) if settings.block_ms else features.hop
    outcome = _speak(contender, batching, Load(count, settings.seconds, block, settings.seed + number))
    contender.outcomes.setdefault((count, batching), []).append(outcome)
    found = latency_json(outcome.latencies)
    what = outcome.too_slow or f"median {found['median_ms']:.1f} ms, 98th percentile {found['percentile_98_ms']:.1f}"
    words = "batches" if batching == EAGER else "without batches"
    announce(f"round {number + 1} of {settings.rounds}, {count} streams, {words}, {contender.name}: {what}")


def _speak(contender: Contender, batching: str, load: Load) -> Outcome:
    most = {EAGER: None, SINGLE: 1}[batching]
    hearing = hearing_of(contender.exported, contender.pool)
    waiting = max(MOST_WAITING_SECONDS, 2.0 * hearing.chunk_seconds)
    with Dispatcher(contender.pool, hearing, most_waiting_seconds=waiting, most_a_step=most) as dispatcher:
        return speak(dispatcher, contender.recordings, load)


def _row(contender: Contender, first: Contender, cell: tuple[int, str], rounds: int) -> dict[str, Any]:
    count, batching = cell
    outcomes = contender.outcomes[cell]
    seconds = sum(outcome.seconds for outcome in outcomes)
    busy = sum(outcome.busy_seconds for outcome in outcomes)
    steps = sum(outcome.steps for outcome in outcomes)
    too_slow = [outcome.too_slow for outcome in outcomes if outcome.too_slow]
    keeps_up = contender.keeps_up(cell, rounds)
    medians = [1000.0 * median(outcome.latencies) for outcome in outcomes if outcome.latencies]
    latencies = [latency for outcome in outcomes for latency in outcome.latencies]
    endings = [ending for outcome in outcomes for ending in outcome.endings]
    return {
        "model": contender.name,
        "format": contender.exported.format,
        "streams": count,
        "batching": batching,
        "keeps_up": keeps_up,
        "rounds": len(outcomes),
        "rounds_too_slow": len(too_slow),
        "too_slow": too_slow[0] if too_slow else "",
        # A latency that grew while it was measured says how long one measured.
        "latency": latency_json(latencies if keeps_up else []),
        "round_medians_ms": medians if keeps_up else [],
        "ending": latency_json(endings if keeps_up else []),
        "median_over_first": _over_first(outcomes, first.outcomes.get(cell, []))
        if keeps_up and first.keeps_up(cell, rounds)
        else None,
        "mean_batch": sum(size * times for outcome in outcomes for size, times in outcome.batches.items())
        / max(1, steps),
        "steps": steps,
        "milliseconds_a_step": 1000.0 * busy / max(1, steps),
        "busy_share": busy / seconds,
        "clients_share": sum(outcome.clients_seconds for outcome in outcomes) / seconds,
        "sound_over_compute": sum(outcome.heard_seconds for outcome in outcomes) / busy if busy else None,
        "seconds": seconds,
    }


def _over_first(own: Sequence[Outcome], first: Sequence[Outcome]) -> list[float] | None:
    """Quartiles of the ratio of the medians, each of one round; None where there is none of both."""
    pairs = [(a, b) for a, b in zip(own, first, strict=False) if a.latencies and b.latencies]
    return quartiles([median(a.latencies) / median(b.latencies) for a, b in pairs]) if pairs else None


def _model_json(contender: Contender, settings: ServeSettings) -> dict[str, Any]:
    exported, pool = contender.exported, contender.pool
    by_design = stream_latency(exported.network.settings, exported.features, chunk=pool.chunk)
    return {
        "name": contender.name,
        "format": exported.format,
        "path": str(exported.path) if exported.path else None,
        "source": exported.document.get("source"),
        "chunk_ms": by_design.chunk,
        "latency_by_design": by_design.to_json(),
        "step_sizes": list(pool.sizes),
        "compile_seconds": contender.compile_seconds,
        "manifest": str(contender.manifest),
        "recordings": len(contender.recordings),
    }


def _plan(measurements: int, settings: ServeSettings) -> str:
    seconds = measurements * settings.rounds * settings.seconds
    return f"{settings.rounds} rounds of {measurements} measurements of {settings.seconds:g} s: about {seconds:.0f} s in all"
