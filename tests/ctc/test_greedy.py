"""Greedy search against merging and removing written with itertools."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.ctc import GreedyStream, greedy_search


def logits_of(path: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[path]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 12))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_repeats_merge_then_blanks_go(path, num_frames):
    num_frames = min(num_frames, len(path))
    expected = [c for c, _ in itertools.groupby(path[:num_frames]) if c != 0]
    assert greedy_search(logits_of(path, 4)[None], np.array([num_frames])) == [expected]


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pieces_give_the_labels_of_the_whole_as_soon_as_their_first_frame_is_there(pieces):
    stream, found, path = GreedyStream(), [], []
    for piece in pieces:
        found += stream.push(logits_of(piece, 3) if piece else np.zeros((0, 3), np.float32))
        path += piece
        whole = logits_of(path, 3) if path else np.zeros((0, 3), np.float32)
        assert found == greedy_search(whole[None], [len(path)])[0]


def test_a_blank_keeps_equal_neighbours_apart():
    batch = np.stack([logits_of([1, 0, 1, 1], 3), logits_of([1, 1, 1, 1], 3)])
    assert greedy_search(batch, np.array([4, 4], np.int32)) == [[1, 1], [1]]


def test_padded_frames_have_no_effect_even_as_nan():
    logits = logits_of([2, 0, 1, 2], 3)
    logits[2:] = np.nan
    assert greedy_search(logits[None], np.array([2])) == [[2]]


def test_ids_are_plain_ints_and_an_utterance_without_frames_is_empty():
    hypotheses = greedy_search(np.stack([logits_of([2, 1], 3)] * 2), np.array([2, 0]))
    assert hypotheses == [[2, 1], []]
    assert all(type(label) is int for label in hypotheses[0])
