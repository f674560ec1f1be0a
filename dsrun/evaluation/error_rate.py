"""Error rates: edit distance between what was said and what was read, and how sure one can be of it.

Errors are the substitutions, deletions and insertions of a shortest edit (kaldialign). Their total is unique; where several
shortest edits exist the split into kinds is one of them. A corpus's rate is its errors divided by its reference length, and is
never clamped: insertions can take it above 1.

Empty references. An utterance with an empty reference adds its hypothesis as insertions and nothing to the length. A corpus
whose references are all empty has rate infinity with any insertion and 0 with none.

Intervals are percentile bootstrap over utterances (Bisani & Ney 2004): utterances are drawn with replacement, the corpus rate of
each draw computed; the 2.5th and 97.5th percentile bound 95% of them. Comparing two systems, the same draw serves both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np



@dataclass(frozen=True)
class ErrorCount:
    """Counts against a reference of `reference_length` words or characters."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a reference unit; see the page's text for empty references."""
        if self.reference_length == 0:
            return float("inf") if self.errors else 0.0
        return self.errors / self.reference_length


def word_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Word edits; words are what white space separates."""
    return _count(reference.split(), hypothesis.split())


def character_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Character edits, spaces included."""
    return _count(list(reference), list(hypothesis))


def total_errors(counts: Sequence[ErrorCount]) -> ErrorCount:
    """Sum over utterances."""
    return ErrorCount(
        sum(c.substitutions for c in counts),
        sum(c.deletions for c in counts),
        sum(c.insertions for c in counts),
        sum(c.reference_length for c in counts),
    )


def bootstrap_interval(counts: Sequence[ErrorCount], *, seed: int, samples: int = 10_000) -> tuple[float, float]:
    """95% interval of the corpus rate over utterances; (rate, rate) for fewer than two of them."""
    if len(counts) < 2:
        rate = total_errors(counts).rate
        return rate, rate
    rates = _resampled_rates(counts, _draws(len(counts), seed, samples))
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """Rate of the second system minus the first on the same utterances, 95% interval, and the share of draws with the other sign."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    first: Sequence[ErrorCount], second: Sequence[ErrorCount], *, seed: int, samples: int = 10_000
) -> PairedDifference:
    """Compare two systems on the same utterances in the same order.

    Raises:
        ValueError: different numbers of utterances.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} utterances against {len(second)}: a paired comparison needs the same ones.")
    draws = _draws(len(first), seed, samples)
    differences = _resampled_rates(second, draws) - _resampled_rates(first, draws)
    low, high = np.quantile(differences, [0.025, 0.975])
    p_value = 2 * min(float((differences <= 0).mean()), float((differences >= 0).mean()))
    observed = total_errors(second).rate - total_errors(first).rate
    return PairedDifference(observed, float(low), float(high), min(p_value, 1.0))


def _draws(count: int, seed: int, samples: int) -> np.ndarray:
    """How often each utterance is drawn: [samples, utterance]."""
    return np.random.Generator(np.random.Philox(seed)).multinomial(count, np.full(count, 1 / count), size=samples)


def _resampled_rates(counts: Sequence[ErrorCount], draws: np.ndarray) -> np.ndarray:
    errors = draws @ np.array([c.errors for c in counts])
    lengths = draws @ np.array([c.reference_length for c in counts])
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = errors / lengths
    return np.where(lengths > 0, rates, np.where(errors > 0, np.inf, 0.0))


def _count(reference: list[str], hypothesis: list[str]) -> ErrorCount:
    found = kaldialign.edit_distance(reference, hypothesis)
    return ErrorCount(found["sub"], found["del"], found["ins"], len(reference))
