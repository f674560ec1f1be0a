"""CTC in float64, twice, slow and obvious; neither shares a line with the other or with dsrun.

`enumerate_paths` lists every path of classes^frames, merges repeats, removes blanks, and keeps those that spell the
label. It needs no recursion and no lattice, so it cannot share a mistake with one. `forward_backward` is the textbook
recursion in log space (Graves et al. 2006), for lengths that enumeration cannot reach; in float64 its rounding at a
loss of 2000 is 1e-12. Blank is class 0; one utterance at a time; both return (loss, gradient with respect to the
logits).
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np


def enumerate_paths(logits: np.ndarray, labels: Sequence[int]) -> tuple[float, np.ndarray]:
    """Loss and gradient by listing all paths; logits [frame, class], every frame valid."""
    frames, classes = logits.shape
    probabilities = np.exp(_log_softmax(logits))
    terms = []
    through: list[list[list[float]]] = [[[] for _ in range(classes)] for _ in range(frames)]
    for path in itertools.product(range(classes), repeat=frames):
        if [c for c, _ in itertools.groupby(path) if c != 0] != list(labels):
            continue
        probability = math.prod(probabilities[t, c] for t, c in enumerate(path))
        terms.append(probability)
        for t, c in enumerate(path):
            through[t][c].append(probability)
    total = math.fsum(terms)
    if total == 0.0:
        return math.inf, np.zeros(logits.shape)
    occupancy = np.array([[math.fsum(cell) for cell in row] for row in through]).reshape(logits.shape) / total
    return -math.log(total), probabilities - occupancy


def forward_backward(logits: np.ndarray, labels: Sequence[int]) -> tuple[float, np.ndarray]:
    """Loss and gradient by the recursion over the states blank, label, blank, ..., blank; logits [frame, class]."""
    frames, classes = logits.shape
    states = [0]
    for label in labels:
        states += [int(label), 0]
    log_probs = _log_softmax(logits)
    can_skip = [s >= 2 and states[s] != 0 and states[s] != states[s - 2] for s in range(len(states))]
    emission = log_probs[:, states]

    alpha = np.full((frames, len(states)), -np.inf)
    alpha[0, :2] = emission[0, :2]
    for t in range(1, frames):
        skipped = np.where(can_skip, _shifted(alpha[t - 1], 2), -np.inf)
        alpha[t] = emission[t] + np.logaddexp.reduce([alpha[t - 1], _shifted(alpha[t - 1], 1), skipped])
    beta = np.full((frames, len(states)), -np.inf)
    beta[-1, -2:] = 0.0
    for t in range(frames - 2, -1, -1):
        following = emission[t + 1] + beta[t + 1]
        skipped = _shifted(np.where(can_skip, following, -np.inf), -2)
        beta[t] = np.logaddexp.reduce([following, _shifted(following, -1), skipped])

    log_total = np.logaddexp.reduce(alpha[-1, -2:])
    occupancy = np.zeros((frames, classes))
    for s, label in enumerate(states):
        occupancy[:, label] += np.exp(alpha[:, s] + beta[:, s] - log_total)
    return -float(log_total), np.exp(log_probs) - occupancy


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _shifted(row: np.ndarray, by: int) -> np.ndarray:
    """Element s receives element s - by; outside is log 0."""
    moved = np.full_like(row, -np.inf)
    if by > 0:
        moved[by:] = row[:-by]
    else:
        moved[:by] = row[-by:]
    return moved
