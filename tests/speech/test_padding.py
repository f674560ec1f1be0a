"""Padding by number of buckets: what the batcher will do, known before it is built."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrun.speech import Augmentation, Batcher, Dataset, padding_by_buckets
from dsrun.speech.cuts import cheapest_cuts, cheapest_cuts_up_to


def dataset(lengths, speeds=(1.0,)):
    clips = tuple({speed: np.zeros((round(n / speed), 1), np.float32) for speed in {1.0, *speeds}} for n in lengths)
    ids = tuple(f"{number:03}" for number in range(len(lengths)))
    return Dataset(ids, ((1,),) * len(ids), (1.0,) * len(ids), clips, None, Augmentation(speeds), 0)


@pytest.mark.parametrize("speeds", [(1.0,), (0.8, 1.0, 1.25)])
def test_the_share_and_the_shapes_are_those_of_the_batcher(speeds):
    lengths = np.random.default_rng(0).integers(20, 900, 70)
    data = dataset(lengths, speeds)
    longest = np.array([data.most_frames(member) for member in range(len(lengths))])
    rows = padding_by_buckets(lengths, longest, global_batch=8, frame_multiple=24)
    assert [row.buckets for row in rows] == [1, 2, 4, 8, 16]
    for row in rows:
        batcher = Batcher(data, global_batch=8, buckets=row.buckets, frame_multiple=24, seed=0, sort_first_epoch=False)
        assert row.shapes == len(batcher.shapes())
        assert row.share == pytest.approx(batcher.padding_waste(), abs=1e-12)
        frames = [batch.features.shape[0] * batch.features.shape[1] for batch in batcher.epoch(0)]
        assert row.frames_a_step == pytest.approx(np.mean(frames))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 30))
def test_more_buckets_never_cost_more(lengths, global_batch, multiple):
    frames = np.array(lengths, np.int64)
    shares = [
        row.share for row in padding_by_buckets(frames, frames, global_batch=global_batch, frame_multiple=multiple)
    ]
    assert all(0 <= share < 1 for share in shares)
    assert shares == sorted(shares, reverse=True)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 5))
def test_cuts_are_the_cheapest_of_all_and_of_equal_ones_those_with_the_smaller_edges(lengths, pieces):
    lengths = sorted(lengths)
    places = [n for n in range(1, len(lengths)) if lengths[n] > lengths[n - 1]]
    all_cuts = [
        (0, *middle, len(lengths)) for count in range(pieces) for middle in itertools.combinations(places, count)
    ]

    def cost(edges):
        return sum((b - a) * lengths[b - 1] for a, b in itertools.pairwise(edges))

    best = min(all_cuts, key=lambda edges: (cost(edges), edges))
    assert cheapest_cuts(lengths, pieces) == list(best)


def test_cuts_of_a_thousand_different_lengths_take_well_under_a_second():
    lengths = np.cumsum(np.random.default_rng(0).integers(1, 50, 1000)).tolist()
    start = time.process_time()
    cuts = cheapest_cuts_up_to(lengths, 16)
    assert time.process_time() - start < 2  # a loop over all pairs took four
    assert [len(edges) for edges in cuts] == list(range(2, 18))
