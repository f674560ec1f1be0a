"""Policy: float32 costs nothing, smaller formats round where the page says, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32_POLICY, Policy, round_to

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape, np.float32))


def primitives(f, *args):
    return {equation.primitive.name for equation in jax.make_jaxpr(f)(*args).eqns}


def test_float32_adds_no_operation():
    assert primitives(FLOAT32_POLICY.store, normal(3)) == set()
    assert primitives(FLOAT32_POLICY.dot, normal(2, 3), normal(3, 4)) == {"dot_general"}


def test_store_puts_values_on_the_grid_and_passes_the_gradient_through():
    policy = Policy(storage=FLOAT16)
    x = normal(1000) * 1e-5
    value, pullback = jax.vjp(policy.store, x)
    np.testing.assert_array_equal(value, round_to(x, FLOAT16))
    g = normal(1000)
    np.testing.assert_array_equal(pullback(g)[0], g)


def test_dot_rounds_both_operands_forward_and_the_incoming_gradient_backward():
    policy = Policy(compute=BFLOAT16)
    a, b, g = normal(5, 7), normal(7, 3), normal(5, 3)
    y, pullback = jax.vjp(policy.dot, a, b)
    a16, b16, g16 = (round_to(v, BFLOAT16) for v in (a, b, g))
    np.testing.assert_array_equal(y, FLOAT32_POLICY.dot(a16, b16))
    da, db = pullback(g)
    np.testing.assert_array_equal(da, FLOAT32_POLICY.dot(g16, b16.T))
    np.testing.assert_array_equal(db, FLOAT32_POLICY.dot(a16.T, g16))


def test_convolve_equals_the_sum_over_the_window_written_out():
    x, kernel = normal(2, 6, 5, 3), normal(3, 2, 3, 4)
    y = FLOAT32_POLICY.convolve(x, kernel, strides=(2, 1), padding=((1, 1), (0, 0)))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (0, 0), (0, 0)))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[:, 2 * i : 2 * i + 3, j : j + 2]
            expected = np.einsum("bhwc,hwco->bo", window, np.asarray(kernel, np.float64))
            np.testing.assert_allclose(y[:, i, j], expected, rtol=0, atol=1e-5)  # 18 float32 products of size ~1
