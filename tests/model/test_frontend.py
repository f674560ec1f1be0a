"""Front ends against NumPy loops, and over padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.model.frontend import (
    Conv2dSettings,
    FrameStackSettings,
    front_end_frames,
    make_front_end,
    time_stride,
)
from dsrun.model.norm import ForwardPass

BINS = 9
SETTINGS = {"frame_stack": FrameStackSettings(stack=5, stride=3, hidden=6), "conv2d": Conv2dSettings(channels=3)}


def filled(settings, normalization="none", relu_clip=20.0, seed=0):
    """A front end with random kernels, and biases that let zeros in padding show."""
    front_end = make_front_end(settings, BINS, normalization, relu_clip)
    random = np.random.default_rng(seed)
    for name, value in vars(front_end).items():
        if name.startswith("kernel"):
            fan_in = np.prod(value.shape[:-1])
            value[...] = jnp.asarray(random.standard_normal(value.shape) / np.sqrt(fan_in), jnp.float32)
        if name.startswith("normalization"):
            value.shift[...] = jnp.asarray(0.3 + random.random(value.shift.shape), jnp.float32)
    return front_end


def run(front_end, features, num_frames, statistics=None):
    forward = ForwardPass(FLOAT32_POLICY, statistics)
    return np.asarray(front_end(jnp.asarray(features, jnp.float32), jnp.asarray(num_frames, jnp.int32), forward))


def utterances(lengths, frames, seed=1):
    random = np.random.default_rng(seed)
    features = np.zeros((len(lengths), frames, BINS), np.float32)
    for row, length in enumerate(lengths):
        features[row, :length] = random.standard_normal((length, BINS))
    return features


@pytest.mark.parametrize("kind", SETTINGS)
def test_output_frames_are_the_ceiling_for_ints_and_arrays_and_match_the_array(kind):
    settings = SETTINGS[kind]
    lengths = np.arange(60)
    expected = [int(np.ceil(n / time_stride(settings))) for n in lengths]
    assert [front_end_frames(settings, int(n)) for n in lengths] == expected
    np.testing.assert_array_equal(front_end_frames(settings, lengths), expected)
    np.testing.assert_array_equal(front_end_frames(settings, jnp.asarray(lengths, jnp.int32)), expected)
    for frames in (1, 2, 3, 4, 17):
        assert run(filled(settings), np.zeros((1, frames, BINS)), [frames]).shape[1] == expected[frames]


def test_frame_stack_equals_a_loop_over_frames():
    settings, features = SETTINGS["frame_stack"], utterances([20, 7], 20)
    front_end = filled(settings)
    kernel, shift = np.asarray(front_end.kernel[...], np.float64), np.asarray(front_end.normalization.shift[...])
    y = run(front_end, features, [20, 7])
    for row, length in enumerate([20, 7]):
        for t in range(-(-length // 3)):
            window = [
                features[row, 3 * t + i] if 0 <= 3 * t + i < length else np.zeros(BINS) for i in (-2, -1, 0, 1, 2)
            ]
            expected = np.clip(np.concatenate(window) @ kernel + shift, 0.0, 20.0)
            np.testing.assert_allclose(y[row, t], expected, rtol=0, atol=1e-5)


def test_convolutions_equal_a_loop_over_output_cells():
    """Deep Speech 2's filters 41 x 11 and 21 x 11 and strides 2 x 2 and 2 x 1 (frequency x time), zeros outside."""
    features, front_end = utterances([13], 13), filled(SETTINGS["conv2d"])
    y = features[0, :, :, None].astype(np.float64)  # [time, frequency, channel]
    for layer, (high, wide, step, stride) in enumerate([(41, 11, 2, 2), (21, 11, 2, 1)]):
        kernel = np.asarray(getattr(front_end, f"kernel_{layer}")[...], np.float64)
        shift = np.asarray(getattr(front_end, f"normalization_{layer}").shift[...])
        padded = np.pad(y, ((wide // 2, wide // 2), (high // 2, high // 2), (0, 0)))
        times, bins = -(-y.shape[0] // stride), -(-y.shape[1] // step)
        y = np.zeros((times, bins, kernel.shape[-1]))
        for t in range(times):
            for f in range(bins):
                patch = padded[t * stride : t * stride + wide, f * step : f * step + high]
                y[t, f] = np.clip(np.einsum("tfi,tfio->o", patch, kernel) + shift, 0.0, 20.0)
    np.testing.assert_allclose(run(front_end, features, [13])[0], y.reshape(len(y), -1), rtol=0, atol=1e-5)


def test_deep_speech_2_turns_161_bins_into_1312_inputs():
    assert make_front_end(Conv2dSettings(), 161, "batch", 20.0).num_outputs == 1312


@pytest.mark.parametrize("kind", SETTINGS)
def test_utterance_alone_equals_the_same_utterance_padded_among_longer_ones(kind):
    front_end, lengths = filled(SETTINGS[kind]), [37, 14, 1]
    features = utterances(lengths, 37)
    together = run(front_end, features, lengths)
    for row, length in enumerate(lengths):
        alone = run(front_end, features[row : row + 1, :length], [length])
        # Same products; their order of summation may follow the array's shape.
        np.testing.assert_allclose(together[row, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)
        assert np.all(together[row, alone.shape[1] :] == 0.0)


@pytest.mark.parametrize("kind", SETTINGS)
def test_nan_in_padded_frames_changes_no_bit(kind):
    front_end, lengths = filled(SETTINGS[kind], "batch"), [37, 14, 0]
    features = utterances(lengths, 37)
    poisoned = np.array(features)
    for row, length in enumerate(lengths):
        poisoned[row, length:] = np.nan
    clean = run(front_end, features, lengths)
    assert np.all(np.isfinite(clean))
    assert np.all(clean[2] == 0.0)
    np.testing.assert_array_equal(run(front_end, poisoned, lengths), clean)


@pytest.mark.parametrize("kind", SETTINGS)
def test_rectifier_is_clipped_at_both_ends(kind):
    front_end = filled(SETTINGS[kind], relu_clip=0.5)
    shift = [value for name, value in vars(front_end).items() if name.startswith("normalization")][-1].shift
    shift[...] = jnp.linspace(-2.0, 2.0, shift.shape[0])
    y = run(front_end, 100.0 * utterances([30], 30), [30])
    assert y.min() == 0.0
    assert y.max() == 0.5


@pytest.mark.parametrize("kind", SETTINGS)
def test_batch_normalisation_gives_the_same_in_evaluation_when_fed_its_own_statistics(kind):
    front_end, lengths = filled(SETTINGS[kind], "batch"), [37, 14, 1]
    features = utterances(lengths, 37)
    forward = ForwardPass(FLOAT32_POLICY, None)
    trained = front_end(jnp.asarray(features), jnp.asarray(lengths, jnp.int32), forward)
    statistics = {}
    for name, sums in forward.moments.items():
        mean = sums.total / sums.count
        statistics[name] = {"mean": mean, "variance": sums.squares / sums.count - jnp.square(mean)}
    # The variance from sums, E[x^2] - E[x]^2, in float32.
    np.testing.assert_allclose(run(front_end, features, lengths, statistics), trained, rtol=0, atol=1e-4)
