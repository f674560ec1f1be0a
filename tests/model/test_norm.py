"""Normalisations against NumPy over the valid frames, and what shards' sums add up to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.model.norm import (
    EPSILON,
    ForwardPass,
    Moments,
    Normalization,
    batch_normalize,
    layer_normalize,
    running_normalize,
    update_running,
)

NUM_FRAMES = np.array([9, 4, 0])


def make_case(seed=0, mean=0.5, deviation=2.0, features=6):
    """Time-major values with other means in padding, and the mask."""
    random = np.random.default_rng(seed)
    is_valid = (np.arange(9)[:, None] < NUM_FRAMES[None])[..., None]
    values = mean + deviation * random.standard_normal((9, 3, features))
    return np.where(is_valid, values, 1e3).astype(np.float32), is_valid


def valid_rows(x, is_valid):
    return np.asarray(x, np.float64)[np.broadcast_to(is_valid, (*x.shape[:-1], 1))[..., 0]]


def add(a, b):
    return jax.tree.map(jnp.add, a, b)


def test_batch_statistics_are_those_of_the_valid_frames():
    x, is_valid = make_case()
    y, moments = batch_normalize(jnp.asarray(x), jnp.asarray(is_valid))
    rows = valid_rows(x, is_valid)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON)
    np.testing.assert_allclose(valid_rows(y, is_valid), expected, rtol=0, atol=2e-6)  # float32, values up to 3
    assert float(moments.count) == NUM_FRAMES.sum()
    np.testing.assert_allclose(moments.total, rows.sum(0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(moments.squares, np.square(rows).sum(0), rtol=1e-6)


def test_batch_statistics_of_a_convolution_count_every_bin_of_a_valid_frame():
    random = np.random.default_rng(1)
    x = random.standard_normal((3, 9, 5, 4)).astype(np.float32)  # [batch, frame, bin, channel]
    is_valid = (np.arange(9)[None] < NUM_FRAMES[:, None])[..., None, None]
    y, moments = batch_normalize(jnp.asarray(x), jnp.asarray(is_valid))
    rows = np.asarray(x, np.float64)[is_valid[..., 0, 0]].reshape(-1, 4)
    assert float(moments.count) == len(rows) == NUM_FRAMES.sum() * 5
    found = np.asarray(y)[is_valid[..., 0, 0]].reshape(-1, 4)
    np.testing.assert_allclose(found, (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON), rtol=0, atol=2e-6)


def test_nan_in_padding_changes_no_bit_of_values_sums_or_gradient():
    x, is_valid = make_case()

    @jax.jit
    def results(x):
        def loss(x):
            y, moments = batch_normalize(x, jnp.asarray(is_valid))
            return jnp.sum(jnp.where(is_valid, jnp.sin(y), 0.0)), (y, moments)

        gradient, (y, moments) = jax.grad(loss, has_aux=True)(x)
        return gradient, y, moments

    clean, dirty = results(jnp.asarray(x)), results(jnp.where(is_valid, x, jnp.nan))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_goes_through_mean_and_variance():
    """Finite differences; a gradient that treats the statistics as constants fails this by far."""
    x, is_valid = make_case()
    x = jnp.where(is_valid, x, 0.0)
    check_grads(
        lambda x: batch_normalize(jnp.asarray(x), jnp.asarray(is_valid))[0], (x,), order=1, modes=["rev"], rtol=2e-2
    )


def test_mean_far_from_zero_costs_no_accuracy_within_the_shard():
    """Two passes: at a mean of a thousand deviations E[x^2] - E[x]^2 would have no correct digit left."""
    x, is_valid = make_case(mean=1000.0, deviation=1.0)
    y, _ = batch_normalize(jnp.asarray(x), jnp.asarray(is_valid))
    rows = valid_rows(x, is_valid)
    # x itself is known to half an ulp of 1000, 3e-5, and so is its mean.
    np.testing.assert_allclose(valid_rows(y, is_valid), (rows - rows.mean(0)) / rows.std(0), rtol=0, atol=2e-4)


@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 1e-6), (2.0, 2e-6), (100.0, 5e-3)])
def test_running_variance_from_added_sums_loses_the_square_of_mean_over_deviation(mean, tolerance):
    """float32 rounding, 6e-8, times 1 + (mean / deviation)^2, with room for a few roundings."""
    shards = [make_case(seed, mean=mean, deviation=1.0) for seed in range(4)]
    sums = [batch_normalize(jnp.asarray(x), jnp.asarray(is_valid))[1] for x, is_valid in shards]
    total = add(add(sums[0], sums[1]), add(sums[2], sums[3]))
    start = {"norm": {"mean": jnp.zeros(6), "variance": jnp.ones(6)}}
    moved = update_running(start, {"norm": total}, momentum=0.0)["norm"]
    rows = np.concatenate([valid_rows(x, is_valid) for x, is_valid in shards])
    np.testing.assert_allclose(moved["mean"], rows.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moved["variance"], rows.var(0), rtol=tolerance)


def test_running_statistics_move_by_one_minus_momentum():
    start = {"norm": {"mean": jnp.full(2, 4.0), "variance": jnp.full(2, 2.0)}}
    moments = {"norm": Moments(jnp.float32(4.0), jnp.array([4.0, 8.0]), jnp.array([16.0, 24.0]))}  # mean 1, 2; var 3, 2
    moved = update_running(start, moments, momentum=0.75)["norm"]
    np.testing.assert_array_equal(moved["mean"], [3.25, 3.5])
    np.testing.assert_array_equal(moved["variance"], [2.25, 2.0])


def test_shard_of_filler_rows_gives_zeros_and_leaves_running_statistics_alone():
    x, is_valid = make_case()
    nothing = jnp.zeros_like(jnp.asarray(is_valid))
    y, moments = batch_normalize(jnp.full(x.shape, jnp.nan, jnp.float32), nothing)
    assert np.all(np.asarray(y) == 0.0)
    assert all(np.all(np.asarray(leaf) == 0.0) for leaf in jax.tree.leaves(moments))
    gradient = jax.grad(lambda x: jnp.sum(batch_normalize(x, nothing)[0]))(jnp.asarray(x))
    assert np.all(np.asarray(gradient) == 0.0)
    start = {"norm": {"mean": jnp.full(6, 4.0), "variance": jnp.full(6, 2.0)}}
    moved = update_running(start, {"norm": moments}, momentum=0.5)
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(moved), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_with_a_shards_own_statistics_gives_what_training_gave():
    x, is_valid = make_case()
    rows = valid_rows(x, is_valid)
    statistics = {"mean": jnp.asarray(rows.mean(0), jnp.float32), "variance": jnp.asarray(rows.var(0), jnp.float32)}
    trained, _ = batch_normalize(jnp.asarray(x), jnp.asarray(is_valid))
    evaluated = running_normalize(jnp.asarray(x), statistics)
    np.testing.assert_allclose(valid_rows(evaluated, is_valid), valid_rows(trained, is_valid), rtol=0, atol=2e-6)


def test_layer_normalisation_is_over_the_features_of_each_frame():
    x, is_valid = make_case()
    y = layer_normalize(jnp.asarray(x))
    rows = valid_rows(x, is_valid)
    expected = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(valid_rows(y, is_valid), expected, rtol=0, atol=2e-6)


def test_kind_none_is_a_bias_and_batch_in_training_leaves_its_sums_by_name():
    x, is_valid = make_case()
    forward = ForwardPass(FLOAT32_POLICY, None)
    bias = Normalization("none", 6, "a")
    bias.shift[...] = jnp.arange(6, dtype=jnp.float32)
    np.testing.assert_array_equal(
        bias(jnp.asarray(x), jnp.asarray(is_valid), forward), x + np.arange(6, dtype=np.float32)
    )
    assert forward.moments == {}
    Normalization("batch", 6, "b")(jnp.asarray(x), jnp.asarray(is_valid), forward)
    assert list(forward.moments) == ["b"]
