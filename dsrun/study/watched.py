"""What the watched steps of runs counted, taken together by layer: the numbers behind the report's figures about numbers. No JAX.

A file of magnitudes has a row a tensor, some hundreds; a reader wants a row a layer. All figures are counts of values, so tensors of a
layer, and runs that differ by their seed alone, are added, and a share is formed at the end: the share of all values, in which a
large tensor counts as much as it has values.

Besides the kinds of the file there is `HANDED_ON`: the last activation of a layer, which is what the next layer reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from dsrun.record.magnitudes import FIELDS, Magnitudes, file_of, load_magnitudes
from dsrun.study.magnitudes import layer_of
from dsrun.study.run_record import RunRecord

HANDED_ON = "handed on"
MOST_STEPS = 120  # of a heat map: each is a file that has to be read
_COUNTS = ("flushed", "subnormal", "overflowed", "updates", "changed", "swallowed")


@dataclass(frozen=True)
class Tally:
    """Numbers of values; see record/magnitudes.py for the names.

    Fields:
        by_exponent: non-zero finite values by float32's exponent field.
    """

    by_exponent: np.ndarray = field(default_factory=lambda: np.zeros(FIELDS, np.int64))
    zeros: int = 0
    nonfinite: int = 0
    flushed: int = 0
    subnormal: int = 0
    overflowed: int = 0
    updates: int = 0
    changed: int = 0
    swallowed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def finite(self) -> int:
        """Non-zero finite values, of which shares are taken."""
        return int(self.by_exponent.sum())

    @property
    def values(self) -> int:
        """All values."""
        return self.finite + self.zeros + self.nonfinite

    def share(self, part: str, whole: str = "finite") -> float:
        """One count as a share of another; NaN if there is nothing to take a share of."""
        total = getattr(self, whole)
        return float(getattr(self, part)) / total if total else np.nan


@dataclass(frozen=True)
class Range:
    """A format's name and magnitudes; NaN where its scale follows the data."""

    format: str
    smallest_positive: float
    smallest_normal: float
    largest: float

    @property
    def is_fixed(self) -> bool:
        """Whether it lies still, so that it can be drawn beside numbers."""
        return not np.isnan(self.largest)


@dataclass(frozen=True)
class LayerStep:
    """One watched step: tallies by kind and layer, in the network's order, and each kind's commonest format.

    `loss_scales` are those of the seeds that are added here, each once: a dynamic scale may be another one with another seed.
    """

    step: int
    loss_scales: tuple[float, ...]
    tallies: Mapping[tuple[str, str], Tally]
    ranges: Mapping[str, Range]

    @property
    def layers(self) -> list[str]:
        """From the features to the output."""
        return list(dict.fromkeys(layer for _, layer in self.tallies))

    def total(self, kind: str) -> Tally:
        """All layers together."""
        return sum((tally for (own, _), tally in self.tallies.items() if own == kind), Tally())


def together(steps: Iterable[LayerStep]) -> LayerStep:
    """A step of each of several seeds, added; `step` and formats are the first one's.

    What carries a loss scale is added as the format met it, whatever the seeds' scales.
    """
    first, *others = steps
    scales = tuple(dict.fromkeys(scale for one in (first, *others) for scale in one.loss_scales))
    tallies = dict(first.tallies)
    for other in others:
        for key, tally in other.tallies.items():
            tallies[key] = tallies[key] + tally if key in tallies else tally
    return LayerStep(first.step, scales, tallies, first.ranges)


def read_layers(run: RunRecord, step: int) -> LayerStep:
    """A watched step by layer.

    Raises:
        DataError: the file is damaged.
    """
    path = file_of(run.run.magnitudes, step)
    about = path.stat()
    return _read(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)  # several figures read the same files; one entry is some tens of kB
def _read(path: Path, _changed: int, _size: int) -> LayerStep:
    return by_layer(load_magnitudes(path))


def by_layer(found: Magnitudes) -> LayerStep:
    """A step's table with the tensors of each layer added."""
    layers = np.array([layer_of(str(path)) for path in found.path])
    order = list(dict.fromkeys(layers[found.kind == "activation"])) or list(dict.fromkeys(layers))
    order += [layer for layer in dict.fromkeys(layers) if layer not in order]
    tallies: dict[tuple[str, str], Tally] = {}
    for layer in map(str, order):
        for kind in dict.fromkeys(map(str, found.kind[layers == layer])):
            places = np.flatnonzero((layers == layer) & (found.kind == kind))
            tallies[kind, layer] = _tally(found, places)
            if kind == "activation":
                tallies[HANDED_ON, layer] = _tally(found, places[-1:])
    ranges = {kind: _range(found, np.flatnonzero(found.kind == kind)) for kind in dict.fromkeys(map(str, found.kind))}
    if "activation" in ranges:
        ranges[HANDED_ON] = ranges["activation"]
    return LayerStep(found.step, (found.loss_scale,), tallies, ranges)


def _tally(found: Magnitudes, places: np.ndarray) -> Tally:
    by_exponent = found.fields[places].sum(axis=0).astype(np.int64)
    zeros, nonfinite = int(found.zeros[places].sum()), int(by_exponent[-1])
    by_exponent[0] -= zeros
    by_exponent[-1] = 0
    return Tally(by_exponent, zeros, nonfinite, *(int(getattr(found, name)[places].sum()) for name in _COUNTS))


def _range(found: Magnitudes, places: np.ndarray) -> Range:
    formats = [str(name) for name in found.format[places]]
    # Of several the commonest: in a float16 network the logits alone are float32.
    name = max(dict.fromkeys(formats), key=formats.count)
    first = places[formats.index(name)]
    return Range(name, *(float(getattr(found, limit)[first]) for limit in _LIMITS))


_LIMITS = ("smallest_positive", "smallest_normal", "largest")


def common_steps(runs: Sequence[RunRecord]) -> list[int]:
    """Steps that every one of the runs has watched, in order."""
    sets = [set(run.watched_steps) for run in runs]
    return sorted(set.intersection(*sets)) if sets else []


def chosen_steps(runs: Sequence[RunRecord], height: Mapping[int, float]) -> list[int]:
    """The common steps, or of many at most `MOST_STEPS`: of each stretch the one of greatest height, so that a spike stays.

    Args:
        height: by step, known without reading files; a step that is missing has none.
    """
    steps = common_steps(runs)
    if len(steps) <= MOST_STEPS:
        return steps
    stretches = [steps[:1], *(list(map(int, part)) for part in np.array_split(steps[1:-1], MOST_STEPS - 2)), steps[-1:]]
    return [max(stretch, key=lambda step: height.get(step, -1.0)) for stretch in stretches]


@dataclass(frozen=True)
class LayerSeries:
    """Tallies of one kind by layer and step, seeds added: [layer][step]."""

    layers: list[str]
    steps: list[int]
    tallies: list[list[Tally]]

    def share(self, part: str, whole: str = "finite") -> np.ndarray:
        """[layer, step]; NaN where there is nothing to take a share of."""
        return np.array([[tally.share(part, whole) for tally in row] for row in self.tallies]).reshape(
            len(self.layers), len(self.steps)
        )

    def overall(self, part: str, whole: str = "finite") -> float:
        """All layers and steps together."""
        return sum((tally for row in self.tallies for tally in row), Tally()).share(part, whole)


def layer_series(runs: Sequence[RunRecord], kind: str, steps: Sequence[int]) -> LayerSeries:
    """One kind of tensors of runs that differ by their seed, by layer and step.

    Raises:
        DataError: a file is damaged.
    """
    found = [together(read_layers(run, step) for run in runs) for step in steps]
    layers = list(dict.fromkeys(layer for one in found for layer in one.layers if (kind, layer) in one.tallies))
    rows = [[one.tallies.get((kind, layer), Tally()) for one in found] for layer in layers]
    return LayerSeries(layers, list(steps), rows)
