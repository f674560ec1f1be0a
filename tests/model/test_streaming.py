"""The network in pieces gives the logits of the whole pass, with the delay that is stated."""

import sys
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_deep_speech import SMALL, parameters_of

from dsrun.arithmetic import FLOAT32_POLICY, Policy, parse_format
from dsrun.arithmetic.policy import Rounding
from dsrun.ctc import greedy_search
from dsrun.model import Conv2dSettings, FrameStackSettings, apply, initial_statistics, store_weights, time_stride
from dsrun.model.streaming import LogitStream, frames_needed, lag

BFLOAT16 = Rounding(parse_format("bfloat16"))
NATIVE = Policy(storage=BFLOAT16, compute=BFLOAT16, carrier="native")
INT8 = Rounding(parse_format("int8"))
FORWARD = replace(SMALL, direction="forward")
LENGTH = 40

CASES = {
    "batch, 20 ahead": (replace(FORWARD, lookahead=20), FLOAT32_POLICY),
    "conv2d": (replace(FORWARD, front_end=Conv2dSettings(channels=2), lookahead=1, layers=1), FLOAT32_POLICY),
}
MORE = {
    "three layers": (replace(FORWARD, lookahead=20, layers=3), FLOAT32_POLICY),
    "layer, 2 ahead": (replace(FORWARD, normalization="layer", lookahead=2), FLOAT32_POLICY),
    "none, wide stack": (
        replace(FORWARD, normalization="none", front_end=FrameStackSettings(stack=7, stride=2, hidden=8), layers=1),
        FLOAT32_POLICY,
    ),
    "native bfloat16": (replace(FORWARD, lookahead=3, layers=1), NATIVE),
    "frames between windows unseen": (
        replace(FORWARD, front_end=FrameStackSettings(stack=1, stride=4, hidden=8)),
        FLOAT32_POLICY,
    ),
    "conv2d, layer": (
        replace(FORWARD, front_end=Conv2dSettings(channels=2), normalization="layer", lookahead=20),
        FLOAT32_POLICY,
    ),
    "int8, a scale a frame": (replace(FORWARD, lookahead=3), Policy(storage=INT8, compute=INT8)),
}


@lru_cache
def network(settings, policy):
    """Parameters and statistics of a network, and its whole pass over one utterance padded to LENGTH frames."""
    run = jax.jit(partial(apply, settings, policy, mode="evaluate"))
    random = np.random.default_rng(2)
    statistics = jax.tree.map(
        lambda x: x + jnp.asarray(0.3 * random.random(x.shape), jnp.float32), initial_statistics(settings)
    )
    weights = store_weights(policy, parameters_of(settings))

    def whole(features):
        padded = np.full((1, LENGTH, 10), np.nan, np.float32)
        padded[0, : len(features)] = features
        output = run(weights, statistics, jnp.asarray(padded), jnp.asarray([len(features)], jnp.int32))
        return np.asarray(output.logits[0, : int(output.num_frames[0])])

    return weights, statistics, whole


def features_of(frames, seed=1):
    return np.random.default_rng(seed).standard_normal((frames, 10)).astype(np.float32)


def in_pieces(stream, features, sizes):
    """Logits from pieces of these sizes, repeated as often as needed."""
    stream.restart()
    found, start = [], 0
    while start < len(features):
        for size in sizes:
            found.append(stream.push(features[start : start + size]))
            start += size
    return np.concatenate([*found, stream.finish()])


@lru_cache
def stream_of(case, chunk):
    settings, policy = (CASES | MORE)[case]
    weights, statistics, _ = network(settings, policy)
    return LogitStream(settings, policy, weights, statistics, chunk=chunk)


def assert_pieces_are_the_whole(case, chunk):
    settings, policy = (CASES | MORE)[case]
    whole, stream = network(settings, policy)[2], stream_of(case, chunk)
    random = np.random.default_rng(chunk)
    for length in (LENGTH, 17, 1):
        features = features_of(length, seed=length)
        expected = whole(features)
        for sizes in ([1], [length], list(random.integers(0, 9, 20))):
            found = in_pieces(stream, features, sizes)
            assert found.shape == expected.shape
            # The same operations, sums over another number of rows; a bfloat16 beside a tie may fall to the other side.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if policy == FLOAT32_POLICY else 0.05)
            if policy == FLOAT32_POLICY:
                assert greedy_search(found[None], [len(found)]) == greedy_search(expected[None], [len(expected)])


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_any_size_give_the_logits_and_the_text_of_the_whole_pass(case):
    assert_pieces_are_the_whole(case, chunk=4)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("case", [*CASES, *MORE])
def test_chunks_of_any_size_give_the_logits_and_the_text_of_the_whole_pass(case, chunk):
    assert_pieces_are_the_whole(case, chunk=chunk)


@pytest.mark.parametrize(
    "case",
    ["batch, 20 ahead", *(pytest.param(case, marks=pytest.mark.slow) for case in ("conv2d", "none, wide stack"))],
)
def test_logits_come_when_the_future_that_they_see_has_come_and_the_chunk_is_full(case):
    stream, chunk = stream_of(case, 4), 4
    stream.restart()
    known, needed, stride = 0, frames_needed(stream.settings), time_stride(stream.settings.front_end)
    for pushed, frame in enumerate(features_of(90), start=1):
        known += len(stream.push(frame[None]))
        whole_chunks = pushed - pushed % (chunk * stride)
        # Output frame t needs all frames up to t * stride + `needed`.
        assert known == max(0, min(whole_chunks // stride, (whole_chunks - needed - 1) // stride + 1))
    assert known > 0


def test_future_and_lag_are_those_of_the_layers():
    """frame_stack 3/3: one frame. conv2d: 5 frames, then 5 outputs of 2 frames each. The row convolution: its output frames."""
    conv = CASES["conv2d"][0]
    assert [frames_needed(replace(FORWARD, lookahead=n)) for n in (0, 20)] == [1, 61]
    assert [frames_needed(replace(conv, lookahead=n)) for n in (0, 20)] == [15, 55]
    assert [lag(replace(FORWARD, lookahead=n)) for n in (0, 20)] == [0, 20]
    assert lag(replace(conv, lookahead=0)) == 7  # of 2 frames each: the 15th is in the 8th


def test_an_utterance_leaves_nothing_to_the_next_one():
    stream = stream_of("batch, 20 ahead", 4)
    first = in_pieces(stream, features_of(17), [17])
    in_pieces(stream, 5.0 * features_of(LENGTH), [3])
    np.testing.assert_array_equal(in_pieces(stream, features_of(17), [17]), first)


def test_one_program_serves_every_length():
    stream = stream_of("batch, 20 ahead", 4)
    for length in (1, 13, 40):
        in_pieces(stream, features_of(length), [5])
    assert stream._step._cache_size() == 1


def test_utterance_without_frames_has_no_logits():
    stream = stream_of("conv2d", 4)
    stream.restart()
    assert stream.finish().shape == (0, 5)


@pytest.mark.parametrize(
    ("settings", "policy", "reason"),
    [
        (SMALL, FLOAT32_POLICY, "begin at the end of a recording.*direction: forward"),
        (FORWARD, Policy(storage=Rounding(parse_format("float16"), "stochastic")), "rounds at random"),
    ],
    ids=["bidirectional", "random roundings"],
)
def test_what_cannot_be_streamed_is_refused_with_reason_and_way_out(settings, policy, reason):
    with pytest.raises(ValueError, match=reason):
        LogitStream(settings, policy, {}, {}, chunk=4)
