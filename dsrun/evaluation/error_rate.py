"""Error rates: edit distance between what was said and what was read, and how sure one can be of it.

Errors are the substitutions, deletions and insertions of a shortest edit (kaldialign). Their total is unique; where several
shortest edits exist, the split into kinds is one of them. A corpus's rate is its errors divided by its reference length, and
is never clamped: insertions can take it above 1.

Empty references. An utterance with an empty reference adds its hypothesis as insertions and nothing to the length. A corpus
whose references are all empty has rate infinity with any insertion and 0 with none.

Words are what white space separates; characters are Unicode code points, spaces included. Both texts are compared as they
are: bring them to one normal form first (`Alphabet.normalize`). In a script without spaces (Chinese, Japanese, Thai) an utterance
is one word, so that WER counts wrong sentences: read CER there.

Intervals are percentile bootstrap over utterances (Bisani & Ney 2004): utterances are drawn with replacement, and the rate of
each such corpus computed; the 2.5th and 97.5th percentiles bound 95% of them. To compare two systems the same draw serves both,
since they find the same utterances hard. The draws are seeded: the same counts give the same interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np

DRAWS_AT_ONCE = 1_000_000  # indices in memory; 8 MB


@dataclass(frozen=True)
class ErrorCount:
    """Edits against a reference of `reference_length` words or characters."""

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
        """Edits a reference word or character; infinite if there are edits and no reference, 0 if there is neither."""
        if self.reference_length == 0:
            return float("inf") if self.errors else 0.0
        return self.errors / self.reference_length

    def to_json(self) -> dict[str, int]:
        """As reports and files have it."""
        return {
            "errors": self.errors,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "reference_length": self.reference_length,
        }

    def __add__(self, other: "ErrorCount") -> "ErrorCount":
        return ErrorCount(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


@dataclass(frozen=True)
class PairedDifference:
    """Rate of the second system minus the first's on the same utterances, with its 95% interval.

    `p_value` is two-sided: how often resampling turns the sign, doubled; never 0, since the draws are finite.
    """

    difference: float
    low: float
    high: float
    p_value: float


def word_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Word edits from reference to hypothesis."""
    return _count(reference.split(), hypothesis.split())


def character_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Character edits from reference to hypothesis, spaces included."""
    return _count(list(reference), list(hypothesis))


def total_errors(counts: Sequence[ErrorCount]) -> ErrorCount:
    """Counts of a corpus."""
    return sum(counts, start=ErrorCount(0, 0, 0, 0))


def bootstrap_interval(counts: Sequence[ErrorCount], *, seed: int, samples: int = 10_000) -> tuple[float, float]:
    """95% interval of the corpus rate over utterances; the rate twice if there are fewer than two of them."""
    if len(counts) < 2:
        rate = total_errors(counts).rate
        return rate, rate
    errors = _Errors(counts)
    rates = np.concatenate([errors.rates(drawn) for drawn in _draws(len(counts), seed=seed, samples=samples)])
    return _interval(rates)


def paired_bootstrap(
    first: Sequence[ErrorCount], second: Sequence[ErrorCount], *, seed: int, samples: int = 10_000
) -> PairedDifference:
    """Compare two systems on the same utterances, in the same order.

    Raises:
        ValueError: no utterances, or the references' lengths differ: not the same utterances in the same order.
    """
    if not first:
        raise ValueError("a paired comparison needs utterances; got none.")
    if [count.reference_length for count in first] != [count.reference_length for count in second]:
        raise ValueError(
            f"a paired comparison needs the same utterances in the same order: {len(first)} and {len(second)} of them differ in "
            "their references' lengths."
        )
    ours, theirs = _Errors(first), _Errors(second)
    differences = np.concatenate(
        [
            _difference(ours.rates(drawn), theirs.rates(drawn))
            for drawn in _draws(len(first), seed=seed, samples=samples)
        ]
    )
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    observed = _difference(np.array(total_errors(first).rate), np.array(total_errors(second).rate))
    return PairedDifference(float(observed), *_interval(differences), min(2 * (tail + 1) / (samples + 1), 1.0))


def _count(reference: list[str], hypothesis: list[str]) -> ErrorCount:
    found = kaldialign.edit_distance(reference, hypothesis)
    return ErrorCount(int(found["sub"]), int(found["del"]), int(found["ins"]), len(reference))


def _draws(count: int, *, seed: int, samples: int) -> Iterator[np.ndarray]:
    """Indices of the utterances drawn, [draw, utterance], a block at a time; `samples` draws in all."""
    generator = np.random.Generator(np.random.Philox(seed))
    block = max(DRAWS_AT_ONCE // count, 1)
    for start in range(0, samples, block):
        yield generator.integers(count, size=(min(block, samples - start), count))


class _Errors:
    """Counts of a corpus as arrays: made once, and not for each of the many blocks of draws that a large corpus needs."""

    def __init__(self, counts: Sequence[ErrorCount]):
        self._errors = np.array([count.errors for count in counts])
        self._lengths = np.array([count.reference_length for count in counts])

    def rates(self, drawn: np.ndarray) -> np.ndarray:
        """Of the corpora drawn, one a row."""
        errors, lengths = self._errors[drawn].sum(axis=1), self._lengths[drawn].sum(axis=1)
        without_reference = np.where(errors > 0, np.inf, 0.0)
        return np.where(lengths > 0, errors / np.maximum(lengths, 1), without_reference)


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """second - first, where infinity minus infinity is no difference."""
    return np.subtract(second, first, out=np.zeros_like(first), where=first != second)


def _interval(values: np.ndarray) -> tuple[float, float]:
    # A percentile that was drawn, not interpolated: between infinity and infinity lies NaN.
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)
