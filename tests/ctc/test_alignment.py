"""Frames that a label needs, against the definition: the shortest path that spells it."""

import itertools

import numpy as np
import pytest

from dsrun.ctc import frames_needed


def shortest_path(labels: tuple[int, ...], classes: int) -> int:
    """Length of the shortest sequence of classes that collapses to `labels`."""
    for frames in itertools.count():
        for path in itertools.product(range(classes), repeat=frames):
            if [c for c, _ in itertools.groupby(path) if c != 0] == list(labels):
                return frames
    raise AssertionError


@pytest.mark.parametrize("labels", [p for n in range(5) for p in itertools.product((1, 2), repeat=n)])
def test_frames_needed_is_the_length_of_the_shortest_path(labels):
    assert frames_needed(labels) == shortest_path(labels, classes=3)


def test_lists_and_arrays_give_a_plain_int():
    for labels in ([3, 3, 1], np.array([3, 3, 1], np.int32)):
        needed = frames_needed(labels)
        assert needed == 4
        assert type(needed) is int
