"""Rounding against the casts of NumPy (float16) and ml_dtypes (bfloat16), bit by bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32, parse_format, round_to

NUMPY_DTYPE = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16}

# Ties, near-ties and quarter points at every width that matters, under each of the 65,536 high halves of float32.
LOW_HALVES = [0x0, 0x1, 0xFFF, 0x1000, 0x1001, 0x2000, 0x3FFF, 0x4000, 0x4001, 0x6000, 0x7FFF, 0x8000, 0x8001, 0xFFFF]


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def hard_patterns():
    high = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    return (high | np.array(LOW_HALVES, np.uint32)).ravel().view(np.float32)


@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16], ids=str)
def test_rounding_equals_the_cast_on_all_high_halves_and_fourteen_low_halves(format):
    x = hard_patterns()
    with np.errstate(all="ignore"):
        expected = x.astype(NUMPY_DTYPE[format]).astype(np.float32)
    got = np.asarray(jax.jit(lambda v: round_to(v, format))(x))
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), is_nan)
    np.testing.assert_array_equal(bits(got)[~is_nan], bits(expected)[~is_nan])


@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16], ids=str)
def test_every_code_rounds_to_itself_and_every_midpoint_to_even(format):
    codes = np.arange(1 << 16, dtype=np.uint16).view(NUMPY_DTYPE[format])
    values = codes.astype(np.float32)
    finite = np.sort(np.unique(values[np.isfinite(values)]))
    np.testing.assert_array_equal(
        bits(round_to(jnp.asarray(values[np.isfinite(values)]), format)), bits(values[np.isfinite(values)])
    )
    with np.errstate(over="ignore"):
        midpoints = ((finite[:-1].astype(np.float64) + finite[1:].astype(np.float64)) / 2).astype(np.float32)
    is_exact = midpoints.astype(np.float64) * 2 == finite[:-1].astype(np.float64) + finite[1:].astype(np.float64)
    rounded = np.asarray(round_to(jnp.asarray(midpoints[is_exact]), format))
    last_bit = rounded.astype(NUMPY_DTYPE[format]).view(np.uint16) & 1
    assert not last_bit.any()


@pytest.mark.parametrize(
    ("x", "expected"),
    [(65519.996, 65504.0), (65520.0, np.inf), (-65520.0, -np.inf), (6.102146e-05, 2.0**-14), (2.0**-25, 0.0)],
)
def test_float16_edges(x, expected):
    assert float(round_to(jnp.float32(x), FLOAT16)) == np.float32(expected)


def test_rounding_to_float32_is_the_identity_and_adds_no_operation():
    assert not jax.make_jaxpr(lambda v: round_to(v, FLOAT32))(jnp.ones(3)).eqns


def test_jit_vmap_and_eager_give_the_same_bits():
    x = jnp.asarray(hard_patterns()[::97].copy())
    x = x[: (x.size // 8) * 8]
    eager = bits(round_to(x, FLOAT16))
    np.testing.assert_array_equal(eager, bits(jax.jit(lambda v: round_to(v, FLOAT16))(x)))
    np.testing.assert_array_equal(eager, bits(jax.vmap(lambda v: round_to(v, FLOAT16))(x.reshape(8, -1)).reshape(-1)))


def test_an_unknown_format_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="float17.*float32, bfloat16, float16"):
        parse_format("float17")


@pytest.mark.parametrize("mode", ["stochastic", "nearest"])
def test_a_mode_that_does_not_exist_is_refused(mode):
    with pytest.raises(ValueError, match="not available yet"):
        round_to(jnp.ones(2), FLOAT16, mode=mode)


def test_a_key_is_refused_where_nothing_is_drawn():
    with pytest.raises(ValueError, match="draws no random bits"):
        round_to(jnp.ones(2), FLOAT16, key=jax.random.key(0))
