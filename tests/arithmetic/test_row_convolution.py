"""The row convolution: the paper's equation, its derivative, and every role of the arithmetic in both."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
import row_convolution as reference

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32_POLICY, Policy, round_to
from dsrun.arithmetic.policy import Rounding, pass_key
from dsrun.arithmetic.row_convolution import row_convolve

LENGTH, BATCH, UNITS, ROWS = 9, 2, 3, 4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((LENGTH, BATCH, UNITS)), jnp.float32)
KERNEL = jnp.asarray(RNG.standard_normal((ROWS, UNITS)), jnp.float32)
G = jnp.asarray(RNG.standard_normal((LENGTH, BATCH, UNITS)), jnp.float32)


def looked_ahead(policy, x, kernel, key=None):
    """As many frames as `x` has, zeros behind it."""
    return row_convolve(policy, jnp.pad(x, ((0, len(kernel) - 1), (0, 0), (0, 0))), kernel, "kernel", key)


def passed(policy, x=X, kernel=KERNEL, g=G, key=None):
    """Value and both gradients, in float32."""
    y, pullback = jax.vjp(lambda x, kernel: looked_ahead(policy, x, kernel, key), x, kernel)
    return tuple(np.asarray(array, np.float32) for array in (y, *pullback(g)))


def test_value_and_gradients_are_those_of_the_papers_equation():
    y, dx, dkernel = passed(FLOAT32_POLICY)
    expected = np.zeros((UNITS, ROWS))
    for row in range(BATCH):
        h, w = np.asarray(X[:, row], np.float64), np.asarray(KERNEL.T, np.float64)
        dh, dw = reference.gradients(h, w, np.asarray(G[:, row], np.float64))
        expected += dw
        np.testing.assert_allclose(y[:, row], reference.row_convolution(h, w), rtol=0, atol=1e-6)
        np.testing.assert_allclose(dx[:, row], dh, rtol=0, atol=1e-6)
    np.testing.assert_allclose(dkernel, expected.T, rtol=0, atol=1e-5)


def test_a_frame_has_the_same_bits_however_many_frames_stand_around_it():
    whole = jax.jit(lambda x: looked_ahead(FLOAT32_POLICY, x, KERNEL))(X)
    for first in range(LENGTH - ROWS):
        part = jax.jit(lambda x: row_convolve(FLOAT32_POLICY, x, KERNEL))(X[first : first + ROWS])
        np.testing.assert_array_equal(part[0], whole[first])


def test_operands_and_the_incoming_error_are_rounded_to_the_compute_format():
    rounded = [round_to(array, BFLOAT16) for array in (X, KERNEL, G)]
    for a, b in zip(passed(Policy(compute=Rounding(BFLOAT16))), passed(FLOAT32_POLICY, *rounded), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_narrow_sums_round_each_product_and_each_addition_and_a_chunk_only_behind_it():
    for chunk in (1, 3):
        policy = Policy(accumulate=Rounding(FLOAT16), chunk=chunk)
        total = jnp.zeros_like(X)
        padded = jnp.pad(X, ((0, ROWS - 1), (0, 0), (0, 0)))
        for first in range(0, ROWS, chunk):
            part = sum(padded[j : j + LENGTH] * KERNEL[j][None, None] for j in range(first, min(first + chunk, ROWS)))
            total = round_to(total + round_to(part, FLOAT16), FLOAT16)
        y, dx, dkernel = passed(policy)
        np.testing.assert_array_equal(y, total)
        for found, exact in zip((dx, dkernel), passed(FLOAT32_POLICY)[1:], strict=True):
            np.testing.assert_array_equal(found, round_to(jnp.asarray(found), FLOAT16))
            assert 0 < np.max(np.abs(found - exact)) < 2e-2  # 18 sums of order 1, each rounded to 2^-11


@pytest.mark.slow
@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16], ids=str)
def test_native_arrays_give_the_bits_of_emulated_ones(format):
    rounding = Rounding(format)
    x, kernel = round_to(X, format), round_to(KERNEL, format)
    emulated = passed(Policy(storage=rounding, compute=rounding, gradient=rounding), x, kernel)
    native = passed(
        Policy(storage=rounding, compute=rounding, gradient=rounding, carrier="native"),
        x.astype(format.name),
        kernel.astype(format.name),
    )
    np.testing.assert_array_equal(native[0], emulated[0])
    for found, wide in zip(native[1:], emulated[1:], strict=True):  # a cotangent has its array's dtype
        np.testing.assert_array_equal(found, round_to(jnp.asarray(wide), format))


@pytest.mark.slow
def test_random_roundings_repeat_by_key_and_differ_by_it():
    policy = Policy(compute=Rounding(BFLOAT16, "stochastic"))
    keys = [pass_key(1, jnp.uint32(step), jnp.uint32(0)) for step in (1, 1, 2)]
    first, again, other = (passed(policy, key=key) for key in keys)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
