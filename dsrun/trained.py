"""A run folder's checkpoint, ready to recognise.

On the roof. A run folder is enough: `config.yaml` rebuilds the network, the checkpoint brings weights, statistics, alphabet and feature
normalisation, so training audio is not needed again.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dsrun import build
from dsrun.config import Config, load_config
from dsrun.dev_results import own_manifests
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import ModelSettings, initial_statistics, parameter_table
from dsrun.model.streaming import LogitStream
from dsrun.models import Model
from dsrun.record import RunDir, autotune_flags, read_provenance
from dsrun.speech import Alphabet, Batcher, Normalization
from dsrun.speech.batching import AnyDataset
from dsrun.training import checkpoint as checkpoints
from dsrun.training.loop import Best
from dsrun.training.preflight import explaining_lack_of_memory
from dsrun.training.state_digest import flatten
from dsrun.training.step import weights_as_read

# In `meta`, and as the kind of the event, of a checkpoint that only a signal asked for: an undisturbed run has neither.
STOP = "stop"


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a run, ready to recognise."""

    run: RunDir
    config: Config
    step: int
    settings: ModelSettings
    alphabet: Alphabet
    normalization: Normalization
    weights: Any
    statistics: Any
    evaluator: Evaluator

    @property
    def model(self) -> Model:
        """What recognising needs of it."""
        config, policy = self.config, build.build_policy(self.config)
        cache = build.cache_of(config, access="read")

        def batcher(dataset: AnyDataset, rows: int) -> Batcher:
            batches = config.batches.model_copy(update={"global_batch": rows})
            return build.build_batcher(config.model_copy(update={"batches": batches}), dataset, purpose="evaluate")

        return Model(
            path=self.run.path,
            evaluation=self.run.evaluation,
            step=self.step,
            origin={"run": str(self.run.path), "step": self.step},
            exported=None,
            settings=self.settings,
            alphabet=self.alphabet,
            normalization=self.normalization,
            features=build.build_features(config),
            audio=build.build_audio(config),
            weights=self.weights,
            statistics=self.statistics,
            network=trained_pass(self.settings, policy),
            evaluator=self.evaluator,
            stream=lambda chunk: LogitStream(self.settings, policy, self.weights, self.statistics, chunk=chunk),
            manifests=own_manifests(config),
            digests=digests_at_the_start(self.run),
            determinism=config.determinism,
            cache=cache,
            read=lambda manifest: build.build_evaluation_data(
                config, manifest, self.alphabet, self.normalization, cache=cache
            ),
            batcher=batcher,
            rows=config.batches.global_batch,
        )


@explaining_lack_of_memory(
    lambda: "loading the run's checkpoint", "What helps: a device, or a machine, with more free memory."
)
def load_run(path: Path, checkpoint: str) -> Trained:
    """A run folder's checkpoint: "best", "last" or a step number.

    Raises:
        UsageError: not a run folder, or no such checkpoint.
        DataError: the checkpoint is damaged.
    """
    run = RunDir(path)
    if not run.config.is_file():
        raise UsageError(f"{path}: not a run folder (no config.yaml). `dsrun runs` lists those there are.")
    run.require_own_contents()
    config = load_config(run.config).config
    build.start_runtime(config, autotune=autotune_flags(run.path, writes=False))
    found = checkpoints.restore(run.checkpoints, _which(run, checkpoint))
    require_complete(found, run)
    alphabet = Alphabet(tuple(found.meta["alphabet"]), config.data.normalizer)
    settings = build.build_model_settings(config, num_classes=alphabet.num_classes)
    require_fitting(found, settings, run)
    policy = build.build_policy(config)
    state = found.arrays["state"]
    master = jax.tree.map(jax.numpy.asarray, state["master"])
    read = jax.jit(partial(weights_as_read, policy, config.seed))
    return Trained(
        run=run,
        config=config,
        step=found.step,
        settings=settings,
        alphabet=alphabet,
        normalization=Normalization.from_arrays(found.arrays["features"]),
        weights=read(master, jax.numpy.asarray(state["step"])),
        statistics=jax.tree.map(jax.numpy.asarray, found.arrays["state"].get("statistics", {})),
        evaluator=Evaluator(trained_pass(settings, policy)),
    )


def _which(run: RunDir, checkpoint: str) -> int | str:
    there = checkpoints.available_steps(run.checkpoints)
    if not there:
        raise UsageError(f"{run.path}: holds no checkpoint yet.")
    if checkpoint in ("best", "last"):
        return checkpoint
    if not checkpoint.isdecimal() or int(checkpoint) not in there:
        raise UsageError(f"--checkpoint {checkpoint}: there are best, last, {', '.join(map(str, there))}.")
    return int(checkpoint)


def require_complete(found: checkpoints.Checkpoint, run: RunDir) -> None:
    """Refuse a checkpoint that is whole, and yet none that training writes."""
    meta, arrays = found.meta, found.arrays
    symbols, best, state = meta.get("alphabet"), meta.get("best"), arrays.get("state")
    features = arrays.get("features")
    is_ours = (
        isinstance(symbols, list)
        and all(isinstance(symbol, str) for symbol in symbols)
        and isinstance(best, dict)
        and best.keys() == asdict(Best()).keys()
        and all(type(best[name]) is int for name in ("step", "evaluations_without_gain"))
        and (best["cer"] is None or isinstance(best["cer"], float))
        and isinstance(meta.get(STOP, {}), dict)
        and isinstance(state, dict)
        and isinstance(state.get("master"), dict)
        and getattr(state.get("step"), "shape", None) == ()
        and isinstance(features, dict)
        and all(getattr(features.get(name), "ndim", None) == 1 for name in ("mean", "deviation"))
    )
    if not is_ours:
        raise DataError(
            f"{run.checkpoints}: the checkpoint of step {found.step} is whole, but not one that dsrun trains with. Restore it from a "
            "copy, or ask for another step."
        )


def require_fitting(found: checkpoints.Checkpoint, settings: ModelSettings, run: RunDir) -> None:
    """Refuse arrays of another network than the run's config describes."""
    state = found.arrays["state"]
    statistics = flatten(jax.device_get(initial_statistics(settings)))
    expected = {f"master.{path}": shape for path, shape, _ in parameter_table(settings)}
    expected |= {f"statistics.{name}".replace("/", "."): value.shape for name, value in statistics.items()}
    expected |= {f"features.{name}": (settings.num_bins,) for name in ("mean", "deviation")}
    parts = {"master": state["master"], "statistics": state.get("statistics", {}), "features": found.arrays["features"]}
    arrays = {name.replace("/", "."): value.shape for name, value in flatten(parts).items()}
    differing = sorted(name for name in expected.keys() | arrays.keys() if expected.get(name) != arrays.get(name))
    if differing:
        texts = (f"{name} is {arrays.get(name)}, the config asks for {expected.get(name)}" for name in differing[:5])
        raise DataError(f"{run.checkpoints}: step {found.step} does not fit the run's config: {'; '.join(texts)}.")


def digests_at_the_start(run: RunDir) -> dict[str, str]:
    """Of the manifests, by split."""
    found = read_provenance(run.provenance).get("data", {}) if run.provenance.is_file() else {}
    return {name: str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}
