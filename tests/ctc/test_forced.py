"""Forced alignment against the list of all paths, and where there is none."""

import itertools

import numpy as np
import pytest

from dsrun.ctc import best_alignment, greedy_search
from dsrun.errors import DataError


def random_log_probs(frames, classes, seed):
    logits = 3.0 * np.random.default_rng(seed).standard_normal((frames, classes))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def collapsed(path):
    return [c for c, _ in itertools.groupby(path) if c != 0]


def path_of(alignment, frames):
    path = [0] * frames
    for span in alignment.spans:
        path[span.first : span.last + 1] = [span.label] * (span.last + 1 - span.first)
    return path


@pytest.mark.parametrize(
    "labels", [[], [1], [2], [1, 1], [1, 2], [2, 1, 2], [1, 1, 1], [1, 2, 2], [3, 1, 2], [1, 2, 3, 1, 2]]
)
@pytest.mark.parametrize("seed", range(5))
def test_no_other_path_that_spells_the_labels_is_more_probable(labels, seed):
    log_probs = random_log_probs(6, 4, seed)
    spelling = [path for path in itertools.product(range(4), repeat=6) if collapsed(path) == labels]
    best = max(spelling, key=lambda path: sum(log_probs[t, c] for t, c in enumerate(path)))
    found = best_alignment(log_probs, labels)
    assert path_of(found, 6) == list(best)
    assert found.log_prob == pytest.approx(sum(log_probs[t, c] for t, c in enumerate(best)), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_labels_of_greedy_search_are_aligned_on_its_own_path(seed):
    log_probs = random_log_probs(40, 5, seed)
    labels = greedy_search(log_probs[None], [40])[0]
    assert path_of(best_alignment(log_probs, labels), 40) == log_probs.argmax(axis=1).tolist()


def test_a_score_is_the_mean_probability_of_the_label_in_its_own_frames():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.0, 1.0, 0.0], [0.9, 0.1, 0.0]])
    with np.errstate(divide="ignore"):
        found = best_alignment(np.log(probabilities), [1])
    (span,) = found.spans
    assert (span.label, span.first, span.last) == (1, 1, 2)
    assert span.score == pytest.approx(0.8)


def test_exactly_as_many_frames_as_needed_are_enough_and_one_less_is_refused():
    assert [(s.first, s.last) for s in best_alignment(random_log_probs(4, 3, 0), [1, 1, 2]).spans] == [
        (0, 0),
        (2, 2),
        (3, 3),
    ]
    with pytest.raises(DataError, match="3 labels, 1 of them repeats, need 4 output frames; there are 3"):
        best_alignment(random_log_probs(3, 3, 0), [1, 1, 2])


def test_labels_of_probability_zero_are_refused_and_none_are_aligned_with_no_frames():
    log_probs = random_log_probs(5, 3, 0)
    log_probs[:, 2] = -np.inf
    with pytest.raises(DataError, match="no path"):
        best_alignment(log_probs, [1, 2])
    assert best_alignment(log_probs[:0], []).spans == ()


def test_a_sum_of_thousands_of_logarithms_still_tells_neighbouring_places_apart():
    # At -40,000 one float32 ulp is 4e-3, more than what makes frame 3000 better than frame 1000.
    log_probs = np.full((4000, 2), [-10.0, -11.0])
    log_probs[1000, 1] += 1e-3
    log_probs[3000, 1] += 2e-3
    assert [(span.first, span.last) for span in best_alignment(log_probs, [1]).spans] == [(3000, 3000)]


def test_labels_that_could_lie_anywhere_lie_as_early_as_they_can():
    found = best_alignment(np.log(np.full((6, 3), 1 / 3)), [1, 2, 2])
    assert [(span.first, span.last) for span in found.spans] == [(0, 0), (1, 1), (3, 3)]
