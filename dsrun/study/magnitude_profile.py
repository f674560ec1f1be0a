"""How a set of numbers is spread over the binades, in a few figures: where it peaks, how few binades hold it, how its tails fall.

    binades_99   the fewest neighbouring binades that hold 99% of the non-zero finite values
    peak         the fullest binade, 2**e to below 2**(e+1), and its share
    median       the binade in which the median magnitude lies
    tails        log2 of the shares against the exponent, by least squares, from the second binade beside the peak outwards: by how many
                 binades' worth the share falls with each binade, and R²

Below the peak a slope of 1 means that the share halves with each binade towards zero. That is a power law with exponent 1 in the
magnitude, and what numbers with a finite density at zero must do, whatever else they are: a binade half as wide holds half as many.
So a straight tail below says little. A tail above the peak says more: those of normal, Laplace and logistic numbers end within three
binades, and that of log-normal ones is a parabola, whose R² stays below `STRAIGHT`; Student's t with 3 degrees of freedom or fewer keeps
a straight one for `LEAST_BINADES` and more (a test draws them all). "Peaked" is said where the fullest binade holds at least twice what
it would if the binades that hold 99% were equally full; all of these are, and evenly spread exponents are not.
"""

from dataclasses import dataclass

import numpy as np

from dsrun.record.magnitudes import BIAS
from dsrun.study.watched import Tally

MOST = 0.99
FEWEST_POINTS = 4  # of a line through a tail
STRAIGHT, LEAST_BINADES = 0.99, 5  # of a power law above the peak
_TAIL, _FEWEST_VALUES = 1e-5, 10  # share, and number, below which a binade holds too few values to say anything


@dataclass(frozen=True)
class Tail:
    """One side of the peak: log2 of the share falls by `slope` a binade, over so many binades; `straightness` is R²."""

    slope: float
    straightness: float
    binades: int


@dataclass(frozen=True)
class Profile:
    """Of at least one value."""

    binades_99: int
    peak: int
    peak_share: float
    median: int
    below: Tail | None
    above: Tail | None

    @property
    def is_peaked(self) -> bool:
        """Whether the fullest binade stands out."""
        return self.peak_share >= 2 * MOST / self.binades_99

    @property
    def is_power_law(self) -> bool:
        """Whether the shares above the peak fall on a straight line, as no density does that falls faster than every power."""
        tail = self.above
        return tail is not None and tail.slope > 0 and tail.binades >= LEAST_BINADES and tail.straightness >= STRAIGHT

    @property
    def slope(self) -> float | None:
        """Of the tail towards zero."""
        return self.below.slope if self.below else None


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
        below=_tail(
            counts[peak - 2 : 0 : -1] if peak >= 2 else counts[:0], total
        ),  # field 0 has all of float32's subnormals
        above=_tail(counts[peak + 2 :], total),
    )


def _fewest_binades(counts: np.ndarray, wanted: float) -> int:
    """Length of the shortest stretch that holds so many."""
    sums = np.concatenate([[0], np.cumsum(counts)])
    # For each beginning the first end by which enough are held.
    ends = np.searchsorted(sums, sums[:-1] + wanted)
    lengths = np.where(ends < len(sums), ends - np.arange(len(counts)), len(counts))
    return int(lengths.min())


def _tail(counts: np.ndarray, total: int) -> Tail | None:
    """From the peak's side outwards, up to the first binade with too few values; None where it has too few binades for a line."""
    is_enough = counts >= max(_TAIL * total, _FEWEST_VALUES)
    shares = counts[: len(counts) if is_enough.all() else int(np.argmin(is_enough))] / total
    if len(shares) < FEWEST_POINTS:
        return None
    places, logs = np.arange(len(shares)), np.log2(shares)
    slope, offset = np.polyfit(places, logs, 1)
    rest, all_of_it = float(((logs - slope * places - offset) ** 2).sum()), float(((logs - logs.mean()) ** 2).sum())
    return Tail(-float(slope), 1 - rest / all_of_it if all_of_it else 0.0, len(shares))
