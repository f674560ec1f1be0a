"""How a set of numbers is spread over the binades, in a few figures: where it peaks, how few binades hold it, how its tails fall.

    binades_99   the fewest neighbouring binades that hold 99% of the non-zero finite values
    peak         the fullest binade, 2**e to below 2**(e+1), and its share
    median       the binade in which the median magnitude lies
    tail slope   log2 of the shares against the exponent, below the peak, by least squares

A slope of 1 means that the share halves with each binade towards zero. That is a power law with exponent 1 in the magnitude, and what
numbers with a finite density at zero must do: a binade half as wide holds half as many. "Peaked" is said where the fullest
binade holds at least twice what it would if the binades that hold 99% were equally full.
"""

from dataclasses import dataclass

import numpy as np

from dsrun.record.magnitudes import BIAS
from dsrun.study.watched import Tally

MOST = 0.99
FEWEST_POINTS = 4  # of a line through a tail
_TAIL = 1e-6  # share below which a binade holds too few values to say anything


@dataclass(frozen=True)
class Profile:
    """Of at least one value."""

    binades_99: int
    peak: int
    peak_share: float
    median: int
    slope: float | None

    @property
    def is_peaked(self) -> bool:
        """Whether the fullest binade stands out."""
        return self.peak_share >= 2 * MOST / self.binades_99


def profile(tally: Tally) -> Profile | None:
    """None where there is no value that is finite and not zero."""
    counts = tally.by_exponent
    total = int(counts.sum())
    if not total:
        return None
    peak = len(counts) - 1 - int(np.argmax(counts[::-1]))  # of equals the largest
    median = int(np.searchsorted(np.cumsum(counts), total / 2))
    return Profile(
        binades_99=_fewest_binades(counts, MOST * total),
        peak=peak - BIAS,
        peak_share=float(counts[peak] / total),
        median=median - BIAS,
        slope=_slope(counts / total, peak),
    )


def _fewest_binades(counts: np.ndarray, wanted: float) -> int:
    """Length of the shortest stretch that holds so many."""
    sums = np.concatenate([[0], np.cumsum(counts)])
    # For each beginning the first end by which enough are held.
    ends = np.searchsorted(sums, sums[:-1] + wanted)
    lengths = np.where(ends < len(sums), ends - np.arange(len(counts)), len(counts))
    return int(lengths.min())


def _slope(shares: np.ndarray, peak: int) -> float | None:
    """Of the tail towards zero, from the second binade below the peak; None where it has too few binades."""
    places = np.arange(1, max(peak - 1, 1))  # field 0 collects all of float32's subnormals
    places = places[shares[places] >= _TAIL]
    if len(places) < FEWEST_POINTS:
        return None
    return float(np.polyfit(places, np.log2(shares[places]), 1)[0])
