"""Memory preflight: the largest batch shapes are compiled and run before the first step.

Batches of the longest utterances come late, with `sort_first_epoch` last of all, and a run that dies of them dies after hours. So the
gradient of a batch of filler is computed at every padded shape that no other exceeds in both frames and labels, on every device and
through the sum over devices, and thrown away: (900, 200) may take more than either of (1000, 10) and (100, 210), since CTC's lattice
is frames times labels. No state changes and no bit of the result: a step is a function of state and batch. Nothing is compiled that
would not be compiled later; what it costs is a step's time for each of these shapes.

A GPU's allocator refuses what does not fit, which is told with the shape. A CPU's does not: Linux promises memory and ends the process
that uses it. There XLA's own plan of the program, results and temporary arrays, is compared with what is free before it is run.
The update is left to the first step: its size is the same for every batch.

A dev or test set may hold an utterance that is far longer than any of training, and dev is evaluated after a whole epoch, test after the
last. So the evaluation is tried as well, with the very functions that will evaluate, at the largest shapes of both together. It may
need more than the gradient even at equal lengths: one device computes all rows of a batch, not a shard's. Test's program alone is
compiled again when it is scored, unless `training.compilation_cache` keeps it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from dsrun.errors import UsageError
from dsrun.record.host import available_memory
from dsrun.training.state import Replicas
from dsrun.training.step import Shard, TrainStep

ADVICE = (
    "What helps: more batches.shards (a device works on one shard of global_batch / shards rows at a time), a smaller "
    "batches.global_batch, a lower data.max_seconds with the longest utterances left out or cut, a narrower model, or "
    "model.residuals: recompute. Each of them is another experiment: results change."
)


def evaluation_advice(sources: Sequence[str]) -> str:
    """What helps where "data.dev" or "data.test", or both, cannot be evaluated as the config has it."""
    has_dev = "data.dev" in sources
    effect = "which changes rates" + (", and by dev's which checkpoint is best" if has_dev else "")
    later = "data.test left out here and scored after training (dsrun eval RUN --manifest FILE --batch 1), or "
    return (
        f"What helps: the longest utterances of {' and '.join(sources)} cut or left out ({effect}), or {'' if has_dev else later}"
        "a smaller batches.global_batch, of which one device evaluates all rows, or a narrower model (both another experiment: "
        "results change)."
    )


DEV_ADVICE = evaluation_advice(["data.dev"])


@dataclass(frozen=True)
class Need:
    """A batch shape, and what XLA plans for it on a device beside what lies there already: bytes, None where it does not say."""

    rows: int
    frames: int
    labels: int
    bytes_planned: int | None
    source: str = ""  # of an evaluation: data.dev, data.test or both

    def __str__(self) -> str:
        return f"a batch of {self.rows} rows x {self.frames} frames x {self.labels} labels"


@dataclass(frozen=True)
class EvaluationShape:
    """A padded shape in which utterances will be evaluated, and those that make it so large.

    Fields:
        source: what they are of, such as data.dev.
        longest, wordiest: ids of those with most frames and with most labels, often the same.
    """

    frames: int
    labels: int
    source: str
    longest: str
    wordiest: str

    def __str__(self) -> str:
        also = "" if self.wordiest == self.longest else f", the one with most labels {self.wordiest!r}"
        return f"{self.source}, its longest utterance {self.longest!r}{also}"


@runtime_checkable  # the tests check every annotation by isinstance, which a plain Protocol answers with a TypeError
class Evaluates(Protocol):
    """What will evaluate: compiled for a batch's shape by whichever of these comes first, for good.

    A batch is whatever has a `Shard`'s features, num_frames, labels and num_labels: filler here, a `Batch` of all rows later.
    """

    def planned_bytes(self, weights: Any, statistics: Any, batch: Any) -> int | None:
        """Bytes that one batch takes on the device; None where nothing says."""
        ...

    def logits(self, weights: Any, statistics: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Class scores of one batch, on the host."""
        ...


def largest_shapes(shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (frames, labels) that no other exceeds in one without being less in the other, most frames first."""
    found: list[tuple[int, int]] = []
    for frames, labels in sorted(set(shapes), reverse=True):
        if not found or labels > found[-1][1]:
            found.append((frames, labels))
    return found


def preflight(
    step: TrainStep,
    state: Replicas,
    shapes: Sequence[tuple[int, int]],
    *,
    rows: int,
    free: Callable[[jax.Device], int | None] | None = None,
) -> list[Need]:
    """Compute and discard the gradient of filler at the largest of these padded (frames, labels); what each needs.

    Args:
        state: is not changed; its buffers stay.
        rows: of a global batch.
        free: bytes that a device may still take, None where nothing says; for tests.

    Raises:
        UsageError: it does not fit; names the shape, the bytes where they are known, and what to change.
    """
    return [_run(step, state, frames, labels, rows, free or free_memory) for frames, labels in largest_shapes(shapes)]


def preflight_evaluation(
    evaluator: Evaluates,
    step: TrainStep,
    state: Replicas,
    shapes: Sequence[EvaluationShape],
    *,
    rows: int,
    free: Callable[[jax.Device], int | None] | None = None,
) -> list[Need]:
    """Evaluate filler at the largest of these shapes, on the first device and with the weights as they are.

    Args:
        evaluator: that will evaluate them.
        state: is not changed.
        shapes: of dev and test together; several may be equal.
        rows: of a batch.
        free: as for `preflight`.

    Raises:
        UsageError: it does not fit; names the shape, whose it is, the bytes where they are known, and what to change.
    """
    left = free or free_memory
    weights, statistics = step.weights(state.first), state.first.statistics
    alike: dict[tuple[int, int], list[EvaluationShape]] = {}
    for shape in shapes:
        alike.setdefault((shape.frames, shape.labels), []).append(shape)

    def tried(frames: int, labels: int) -> Need:
        found = alike[frames, labels]
        sources = list(dict.fromkeys(shape.source for shape in found))
        advice = evaluation_advice(sources)
        need = Need(rows, frames, labels, None, " and ".join(sources))
        what = f"the evaluation of {need} ({'; '.join(map(str, found))})"
        batch = _filler(rows, frames, labels, step.settings.num_bins)
        with explaining_lack_of_memory(lambda: f"trying {what} before the first step", advice):
            need = replace(need, bytes_planned=evaluator.planned_bytes(weights, statistics, batch))
            _require(what, need, step.devices[:1], left, advice)
            evaluator.logits(weights, statistics, batch)
        return need

    return [tried(*shape) for shape in largest_shapes(list(alike))]


def _run(
    step: TrainStep,
    state: Replicas,
    frames: int,
    labels: int,
    rows: int,
    free: Callable[[jax.Device], int | None],
) -> Need:
    shards = [_filler(rows // step.shards, frames, labels, step.settings.num_bins) for _ in range(step.shards)]
    with explaining_lack_of_memory(lambda: f"trying {Need(rows, frames, labels, None)} before the first step"):
        need = Need(rows, frames, labels, step.planned_bytes(state.first, shards[0]))
        _require(f"the gradient of {need}", need, step.devices, free, ADVICE)
        jax.block_until_ready(step.total(state, shards))
    return need


def _filler(rows: int, frames: int, labels: int, bins: int) -> Shard:
    return Shard(
        np.zeros((rows, frames, bins), np.float32),
        np.full(rows, frames, np.int32),
        np.ones((rows, labels), np.int32),
        np.full(rows, labels, np.int32),
    )


def _require(
    what: str, need: Need, devices: Sequence[jax.Device], free: Callable[[jax.Device], int | None], advice: str
) -> None:
    """Refuse what XLA's plan says will not fit on any of these devices. Those of a CPU share its memory."""
    is_shared = devices[0].platform == "cpu"
    planned = (need.bytes_planned or 0) * (len(devices) if is_shared else 1)
    available = free(devices[0])
    if available is not None and planned > available:
        where = f" on {len(devices)} devices together" if is_shared and len(devices) > 1 else ""
        raise UsageError(
            f"out of memory before the first step: {what} needs about {_size(planned)}{where}, {_size(available)} are free. {advice}"
        )


def free_memory(device: jax.Device) -> int | None:
    """Bytes that a device's arrays may still take; of a CPU what the machine, or this job's control group, has left."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return available_memory() if device.platform == "cpu" else None


@contextmanager
def explaining_lack_of_memory(doing: Callable[[], str], advice: str = ADVICE) -> Iterator[None]:
    """Turn a device's refusal into a message: what was being done, what the allocator said, and what helps."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        said = text.split("\n")[0].strip().rstrip(".") or "no more memory"
        raise UsageError(f"out of memory while {doing()}: {said}. {advice}") from None


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
