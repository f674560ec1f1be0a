"""Streams that come together: each has the logits of the whole pass, whoever else is there."""

from functools import partial

import jax
import numpy as np
import pytest

from dsrun.deploy.network import logits
from dsrun.deploy.streams import UNKNOWN, PoolFull, StreamPool
from tests.deploy.networks import CONVOLUTIONS, STACK, quantized, small, speech

LENGTHS = (41, 16, 3)


def heard(pool, features, num_frames, order):
    """Logits of all streams, stepped in groups as `order` says, again and again until all have ended."""
    slots = [pool.open() for _ in num_frames]
    found, done = [[] for _ in slots], [0] * len(slots)
    for group in order:
        group = [k for k in group if pool.given(slots[k]) < pool.output_frames(int(num_frames[k]))]
        if not group:
            continue
        chunks = np.full((len(group), pool.frames_a_chunk, pool.num_bins), np.nan, np.float32)
        totals = np.full(len(group), UNKNOWN, np.int32)
        for row, k in enumerate(group):
            piece = features[k, done[k] : min(done[k] + pool.frames_a_chunk, num_frames[k])]
            chunks[row, : len(piece)] = piece
            done[k] += pool.frames_a_chunk
            if done[k] > num_frames[k]:
                totals[row] = num_frames[k]
        for k, fresh in zip(group, pool.step([slots[k] for k in group], chunks, totals), strict=True):
            found[k].append(fresh)
    for slot in slots:
        pool.close(slot)
    return [np.concatenate(parts) for parts in found]


@pytest.mark.parametrize(
    "front_end", [STACK, pytest.param(CONVOLUTIONS, marks=pytest.mark.slow)], ids=["stack", "convolutions"]
)
def test_int8_streams_have_the_bits_of_the_whole_pass_in_whatever_company(front_end):
    settings = small(front_end, direction="forward", lookahead=2)
    network, arrays = quantized(settings, "int8")
    features, num_frames = speech(settings, LENGTHS)
    scores, counts = jax.jit(partial(logits, network))(arrays, features, num_frames)
    pool = StreamPool(network, arrays, chunk=3, most_streams=3)
    alone = [[k] for k in (0, 1, 2) for _ in range(20)]
    for order in ([[0, 1, 2]] * 20, alone, [[0], [1, 2], [0, 2], [0, 1]] * 15):
        for k, found in enumerate(heard(pool, features, num_frames, order)):
            assert found.tobytes() == np.asarray(scores)[k, : counts[k]].tobytes(), (k, order[:2])


def test_a_slot_forgets_who_was_there_and_is_not_given_twice():
    network, arrays = quantized(small(direction="forward"), "int8")
    pool = StreamPool(network, arrays, chunk=2, most_streams=2)
    features = np.ones((1, pool.frames_a_chunk, pool.num_bins), np.float32)
    first = pool.open()
    fresh = pool.step([first], features, np.array([UNKNOWN], np.int32))[0]
    pool.step([first], 3 * features, np.array([UNKNOWN], np.int32))
    pool.close(first)
    slots = {pool.open(), pool.open()}
    assert len(slots) == pool.open_streams == 2
    with pytest.raises(PoolFull, match="2 streams are open"):
        pool.open()
    again = pool.step([first], features, np.array([UNKNOWN], np.int32))[0]
    assert again.tobytes() == fresh.tobytes()


def test_only_a_few_sizes_are_compiled_and_the_largest_is_all_slots():
    network, arrays = quantized(small(direction="forward"), "int8")
    sizes = {most: StreamPool(network, arrays, chunk=2, most_streams=most).sizes for most in (1, 2, 5, 30, 32)}
    assert sizes == {1: (1,), 2: (1, 2), 5: (1, 2, 4, 5), 30: (1, 2, 4, 8, 16, 30), 32: (1, 2, 4, 8, 16, 32)}


def test_a_bidirectional_network_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="direction: forward"):
        StreamPool(*quantized(small(), "int8"), chunk=2, most_streams=1)
