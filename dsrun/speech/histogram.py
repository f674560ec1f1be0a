"""Histogram: how often which value, in bins of a round width, for reports and pictures."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

MOST_BINS = 40


@dataclass(frozen=True)
class Histogram:
    """Counts of values from `start` on in bins of `width`, the last of them closed; and where 5, 50 and 95 of 100 values end."""

    start: float
    width: float
    counts: tuple[int, ...]
    percentiles: tuple[float, float, float] | None = None


def histogram(values: Float64[np.ndarray, " value"]) -> Histogram:
    """Bins of 1, 2 or 5 times a power of ten, at most 40, from a multiple of their width on."""
    if not len(values):
        return Histogram(0.0, 1.0, ())
    low, high = float(values.min()), float(values.max())
    width = _round_width((high - low) / (MOST_BINS - 1) or abs(high) / 10 or 1.0)
    start = math.floor(low / width)
    count = math.floor(high / width) - start + 1
    edges = (start + np.arange(count + 1)) * width
    counts, _ = np.histogram(values, edges)
    percentiles = tuple(round(float(p), 3) for p in np.percentile(values, (5, 50, 95)))
    return Histogram(float(edges[0]), width, tuple(map(int, counts)), (percentiles[0], percentiles[1], percentiles[2]))


def _round_width(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
