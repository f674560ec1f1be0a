"""Forced alignment: which frames say which label, when the labels are known.

The most probable of all paths that spell the labels, found by Viterbi's recursion over the states blank, label, blank, ..., blank,
the lattice that the loss sums over (Graves et al. 2006); here the sum is a maximum. Computed in float64 log space: a sum of
thousands of logarithms is compared with its neighbour, and float32 has an ulp of 1e-4 there.

For labels that greedy search found, the alignment is greedy search's own path. For any other text it says where the text would
have to be; its posteriors then say how little the network agrees.

CTC asks only for the order of labels, not for their place: a network emits a label in one or two frames somewhere in the sound
or soon after it, and blanks between. So spans are short, and the sound itself began before and ends behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int8

from dsrun.ctc.alignment import BLANK, frames_needed
from dsrun.errors import DataError

STEPS = 3  # back by 0, 1 or 2 states


@dataclass(frozen=True)
class Span:
    """The output frames, `first` to `last` included, that emit one label, and the label's mean probability there, 0 to 1."""

    label: int
    first: int
    last: int
    score: float


@dataclass(frozen=True)
class Alignment:
    """The best path's natural log-probability, and a span for each label, in order and never overlapping."""

    log_prob: float
    spans: tuple[Span, ...]


def best_alignment(log_probs: Float[np.ndarray, "output_frame class"], labels: Sequence[int]) -> Alignment:
    """Frames of each label on the most probable path that spells `labels`.

    Args:
        log_probs: natural log-probabilities of one utterance's valid frames. labels: class ids, none of them blank.

    Returns:
        One span a label. Where paths are equally probable the labels lie as early as they can.

    Raises:
        DataError: the frames are too few for the labels, or every path has probability 0.
    """
    frames, needed = len(log_probs), frames_needed(labels)
    if frames < needed:
        raise DataError(
            f"{len(labels)} labels, {needed - len(labels)} of them repeats, need {needed} output frames; there are {frames}."
        )
    if not frames:
        return Alignment(0.0, ())
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    emission = np.asarray(log_probs, np.float64)[:, states]
    scores, steps = _forward(emission, states)
    state = _last_state(scores)
    if not np.isfinite(scores[state]):  # NaN is not finite either
        raise DataError(f"no path through {frames} output frames that spells the {len(labels)} labels is possible.")
    path = _walk_back(steps, state)
    return Alignment(float(scores[state]), tuple(_spans(path, emission, states)))


def _forward(
    emission: Float64[np.ndarray, "output_frame state"], states: Int[np.ndarray, " state"]
) -> tuple[Float64[np.ndarray, " state"], Int8[np.ndarray, "output_frame state"]]:
    """Best log-probability of ending in each state, and by how many states each frame's best path moved."""
    cannot_skip = np.ones(len(states), bool)
    # A blank may be left out between labels that differ; between equal ones it keeps them apart.
    cannot_skip[2:] = (states[2:] == BLANK) | (states[2:] == states[:-2])
    steps = np.zeros(emission.shape, np.int8)
    before = np.full((STEPS, len(states)), -np.inf)
    scores = np.full(len(states), -np.inf)
    scores[:2] = emission[0, :2]
    for t in range(1, len(emission)):
        for step in range(STEPS):
            before[step, step:] = scores[: len(states) - step]
        before[2, cannot_skip] = -np.inf
        steps[t] = before.argmax(axis=0)
        scores = before.max(axis=0) + emission[t]
    return scores, steps


def _last_state(scores: Float64[np.ndarray, " state"]) -> int:
    """A path ends in the last label or in the blank behind it."""
    last = len(scores) - 1
    return last - 1 if last and scores[last - 1] > scores[last] else last


def _walk_back(steps: Int8[np.ndarray, "output_frame state"], state: int) -> Int[np.ndarray, " output_frame"]:
    path = np.empty(len(steps), np.int64)
    for t in range(len(steps) - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    return path


def _spans(
    path: Int[np.ndarray, " output_frame"],
    emission: Float64[np.ndarray, "output_frame state"],
    states: Int[np.ndarray, " state"],
) -> list[Span]:
    spans = []
    for state in range(1, len(states), 2):
        first, end = np.searchsorted(path, [state, state + 1])  # states never go back
        score = float(np.exp(emission[first:end, state]).mean())
        spans.append(Span(int(states[state]), int(first), int(end) - 1, score))
    return spans
