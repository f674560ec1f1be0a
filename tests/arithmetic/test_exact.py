"""Products that nothing is fused with, and functions made of them."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import exact
from tests.reference import deployed

ZERO = jnp.int32(0)


def values(count=200_000):
    """All sizes, both signs, the ends and zeros."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=count) * 10.0 ** rng.uniform(-30, 2, count)
    return np.concatenate([spread, np.linspace(-10, 10, count), [0.0, -0.0, 1e30, -np.inf, np.inf]]).astype(np.float32)


def test_a_product_is_rounded_before_what_follows_is_added():
    # Fused, a * b - c would keep the error of the product: 2**-46 instead of 0.
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 100_000)).astype(np.float32)
    found = jax.jit(lambda a, b, c, zero: exact.times(a, b, zero) - c)(a, b, a * b, ZERO)
    assert not np.asarray(found).any()


def test_tanh_and_sigmoid_have_numpys_bits():
    x = values()
    for ours, wanted in ((exact.tanh, deployed.tanh), (exact.sigmoid, deployed.sigmoid)):
        assert np.asarray(jax.jit(ours)(x, ZERO)).tobytes() == wanted(x).tobytes()


def test_tanh_is_within_its_stated_error_odd_and_held_to_one():
    x = values()
    y = np.asarray(jax.jit(exact.tanh)(x, ZERO))
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 3.6e-7
    assert np.abs(y).max() == 1.0
    assert np.array_equal(np.asarray(jax.jit(exact.tanh)(-x, ZERO)), -y)


def test_sigmoid_is_within_its_stated_error():
    x = values()
    wanted = 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -700, 700)))
    assert np.abs(np.asarray(jax.jit(exact.sigmoid)(x, ZERO)) - wanted).max() < 2e-7


def test_nan_stays_nan():
    assert np.isnan(np.asarray(exact.tanh(jnp.array([np.nan], jnp.float32), ZERO))).all()
