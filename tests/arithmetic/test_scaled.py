"""Formats whose grid follows the data, against float64, exact fractions and gfloat's blocks."""

import math
from fractions import Fraction

import gfloat
import gfloat.formats
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic.formats import BINARY, INT4, INT8, MXFP8_E4M3, TERNARY, BlockFormat, parse_format
from dsrun.arithmetic.random_bits import draw, make_key
from dsrun.arithmetic.rounding import round_to
from dsrun.arithmetic.scalar import round_scalar
from dsrun.arithmetic.scaled import round_scaled, scale_of
from tests.reference.rounding import mismatches, pattern

BLOCK_FORMATS = [parse_format(name) for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4")]
GFLOAT_ELEMENT = {
    "mxfp8_e4m3": gfloat.formats.format_info_ocp_e4m3,
    "mxfp8_e5m2": gfloat.formats.format_info_ocp_e5m2,
    "mxfp6_e3m2": gfloat.formats.format_info_ocp_e3m2,
    "mxfp6_e2m3": gfloat.formats.format_info_ocp_e2m3,
    "mxfp4": gfloat.formats.format_info_ocp_e2m1,
}
KEY = make_key(3, "storage", "conv_0")
# Compiled as one program each: operation by operation takes ten times as long here, and test_rounding.py compares the two.
rounded_to = jax.jit(round_to, static_argnames=("format", "mode"))
rounded_with = jax.jit(round_scaled, static_argnames=("format", "mode", "random_bits", "axis"))
compiled_scale = jax.jit(scale_of, static_argnames="format")


def tensors(count, shape=(37, 5)):
    """Normal values of magnitudes 1e-6 to 1e6."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield (random.standard_normal(shape) * 10 ** random.uniform(-6, 6)).astype(np.float32)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "frame"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rounding_a_second_time_gives_the_same_bits_under_jit_and_outside(name, granularity):
    format = parse_format(name, granularity=granularity)
    compiled = jax.jit(lambda v: round_to(v, format))
    for x in tensors(40):
        once = compiled(x)
        assert mismatches(compiled(once), once) == 0
        assert mismatches(round_to(jnp.asarray(x), format), once) == 0


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_the_scale_is_the_smallest_of_sixteen_bits_whose_largest_code_reaches_the_largest_magnitude(name):
    format = parse_format(name)
    for x in tensors(60):
        scale = Fraction(float(compiled_scale(x, format).item()))
        largest = Fraction(float(np.abs(x).max()))
        unit = Fraction(2) ** (math.frexp(float(scale))[1] - 16)
        assert scale % unit == 0
        assert scale * format.max_code >= largest > (scale - unit) * format.max_code


@pytest.mark.parametrize("format", [INT8, INT4, TERNARY, BINARY], ids=str)
def test_a_value_is_its_code_times_the_scale_exactly(format):
    for x in tensors(20):
        rounded = np.asarray(rounded_to(x, format)).astype(np.float64)
        codes = rounded / float(compiled_scale(x, format).item())
        assert (codes == np.round(codes)).all()
        assert np.abs(codes).max() <= format.max_code


def test_int8_codes_are_the_nearest_integers_to_the_float32_quotient():
    for x in tensors(20):
        scale = np.asarray(compiled_scale(x, INT8))
        expected = np.clip(np.round((x / scale).astype(np.float64)), -127, 127) * scale.astype(np.float64)
        np.testing.assert_array_equal(np.asarray(rounded_to(x, INT8)), expected.astype(np.float32))


def test_a_scale_per_channel_or_frame_is_that_of_each_column_or_row_alone():
    for x in tensors(1, (6, 5)):
        for name in ("int8", "int4", "ternary", "binary"):
            columns = np.asarray(rounded_to(x, parse_format(name, granularity="channel")))
            rows = np.asarray(rounded_to(x, parse_format(name, granularity="frame")))
            for number in range(x.shape[1]):
                assert mismatches(columns[:, number], rounded_to(x[:, number], parse_format(name))) == 0
            for number in range(x.shape[0]):
                assert mismatches(rows[number], rounded_to(x[number], parse_format(name))) == 0


def test_ternary_and_binary_scale_by_the_mean_magnitude():
    x = np.float32([0.1, -0.2, 0.9, -3.0, 0.0, 0.5])
    scale = compiled_scale(x, TERNARY).item()
    assert abs(scale - np.abs(x).mean()) <= 2.0**-15 * scale  # rounded up to 16 bits
    assert scale >= np.abs(x).mean()
    np.testing.assert_array_equal(rounded_to(x, TERNARY), np.float32([0, 0, 1, -1, 0, 1]) * np.float32(scale))
    np.testing.assert_array_equal(rounded_to(x, BINARY), np.float32([1, -1, 1, -1, -1, 1]) * np.float32(scale))
    away = np.asarray(rounded_to(x, BINARY, mode="ties_to_away"))
    np.testing.assert_array_equal(away, np.float32([1, -1, 1, -1, 1, 1]) * np.float32(scale))


def test_the_sign_of_a_value_far_below_the_scale_is_not_lost_by_binary():
    x = jnp.float32([1e-30, -1e-30, 1e-9, 1e-40, -1e-40, 1.0])
    np.testing.assert_array_equal(jnp.sign(rounded_to(x, BINARY)), np.float32([1, -1, 1, 1, -1, 1]))


@pytest.mark.parametrize("x", [-1.7, -1.0, -0.5, 0.0, 0.25, 0.875, 1.0, 2.5])
def test_binary_takes_plus_scale_for_exactly_the_hard_sigmoids_share_of_all_random_values(x):
    random = jnp.arange(2**10, dtype=jnp.uint32) << jnp.uint32(22)
    # A thousand values x and the rest such that the mean magnitude is exactly 1.
    rest = np.full(2**10, 2 - abs(x), np.float32)
    values = jnp.asarray(np.concatenate([np.full(2**10, x, np.float32), rest]))
    bits = jnp.concatenate([random, random])
    rounded = rounded_with(values, BINARY, mode="stochastic", bits=bits, random_bits=10)
    assert int(jnp.sum(rounded[: 2**10] > 0)) == 2**10 * min(max((x + 1) / 2, 0), 1)


def test_ternary_takes_the_scale_for_exactly_the_share_of_random_values_that_is_the_magnitude():
    random = jnp.arange(2**10, dtype=jnp.uint32) << jnp.uint32(22)
    values = jnp.asarray(np.concatenate([np.full(2**10, -0.375, np.float32), np.full(2**10, 1.625, np.float32)]))
    rounded = rounded_with(values, TERNARY, mode="stochastic", bits=jnp.concatenate([random, random]), random_bits=10)
    assert int(jnp.sum(rounded[: 2**10] == -1)) == 384
    assert int(jnp.sum(rounded[: 2**10] == 0)) == 640


@pytest.mark.parametrize("format", [INT8, INT4], ids=str)
def test_directed_modes_of_an_integer_format_end_on_their_side(format):
    for x in tensors(5):
        low, high = (np.asarray(rounded_to(x, format, mode=f"toward_{side}")) for side in ("negative", "positive"))
        scale = compiled_scale(x, format).item()
        # An ulp of the quotient: x / scale is itself a float32 division.
        assert (low <= x * np.float32(1 + 2.0**-22 * np.sign(x))).all()
        assert (high >= x * np.float32(1 - 2.0**-22 * np.sign(x))).all()
        assert ((high - low == 0) | np.isclose(high - low, scale)).all()


def test_a_value_far_below_the_scale_moves_by_a_directed_mode_even_where_the_quotient_underflows():
    x = jnp.float32([1e-30, -1e-30, 1e-42, 0.0, 1e30])
    scale = compiled_scale(x, INT8).item()
    up = np.asarray(rounded_to(x, INT8, mode="toward_positive"))
    np.testing.assert_array_equal(up[:4], np.float32([scale, 0, scale, 0]))
    down = np.asarray(rounded_to(x, INT8, mode="toward_negative"))
    np.testing.assert_array_equal(down[:4], np.float32([0, -scale, 0, 0]))


@pytest.mark.parametrize("format", [INT8, INT4, TERNARY, BINARY], ids=str)
def test_zeros_stay_zero_and_the_largest_floats_stay_finite(format):
    if format.has_zero:
        assert not np.asarray(rounded_to(jnp.zeros((4, 3)), format)).any()
    largest = np.finfo(np.float32).max
    rounded = np.asarray(rounded_to(jnp.float32([largest, -largest]), format))
    if format.scale == "absmax":  # the sum behind a mean overflows, and says so
        assert np.isfinite(rounded).all()
        assert (np.sign(rounded) == [1, -1]).all()
    else:
        assert not np.isfinite(rounded).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format", [INT8, INT4, TERNARY, BINARY], ids=str)
def test_a_tensor_with_a_number_that_is_not_finite_becomes_nan_or_stays_visible(format, bad):
    rounded = np.asarray(rounded_to(jnp.float32([1.0, bad, -2.0]), format))
    assert not np.isfinite(rounded).any()


def test_a_scalar_and_an_empty_tensor_have_scales_too():
    assert float(rounded_to(jnp.float32(-0.3), INT8)) == pytest.approx(-0.3, rel=2.0**-15)
    assert rounded_to(jnp.zeros((0, 3)), INT8).shape == (0, 3)


# Blocks.


def block_by_fractions(values, format: BlockFormat, mode, random, random_bits):
    """One block, from the specification: shared exponent, division, element, multiplication."""
    if not np.isfinite(values).all():
        return [math.nan] * len(values)
    element = format.element
    lowest = -126 - (math.frexp(element.smallest_positive)[1] - 1)
    largest = max(abs(Fraction(v)) for v in values.tolist())
    exponent = lowest
    if largest > 0:
        exponent = max(lowest, math.frexp(float(largest))[1] - math.frexp(element.max_value)[1])
    scale = Fraction(2) ** exponent
    ratios = [math.copysign(float(Fraction(v) / scale), v) for v in values.tolist()]
    rounded = [
        round_scalar(v, element, mode, random=r, random_bits=random_bits) for v, r in zip(ratios, random, strict=True)
    ]
    return [v * float(scale) for v in rounded]


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_blocks_equal_exact_fractions_over_the_whole_range_of_float32(format):
    random = np.random.default_rng(1)
    exponents = np.linspace(-149, 127.9, 20)
    x = (random.standard_normal((20, 70)) * 2.0 ** random.uniform(-12, 0, (20, 70))).astype(np.float64)
    x = x / np.abs(x).max(axis=1, keepdims=True) * 2.0 ** exponents[:, None]
    x = x.astype(np.float32)
    x[:, 5], x[:, 40] = 0, -0.0
    bits = draw(KEY, x.shape)
    for mode in ("ties_to_even", "ties_to_away", "toward_positive", "stochastic", "stochastic_equal"):
        got = np.asarray(rounded_with(jnp.asarray(x), format, mode=mode, bits=bits, random_bits=16))
        drawn = (np.asarray(bits) >> np.uint32(16)).tolist()
        for row in range(len(x)):
            for start in (0, 32, 64):
                part = slice(start, min(start + 32, 70))
                expected = block_by_fractions(x[row, part], format, mode, drawn[row][part], 16)
                assert mismatches(got[row, part], np.float32(expected)) == 0, (mode, row, start)


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_blocks_equal_gfloats(format):
    info = gfloat.BlockFormatInfo(format.name, GFLOAT_ELEMENT[format.name], 32, gfloat.formats.format_info_ocp_e8m0)
    random = np.random.default_rng(2)
    x = (random.standard_normal((30, 32)) * 2.0 ** random.uniform(-60, 60, (30, 1))).astype(np.float32)
    got = np.asarray(rounded_to(x, format))
    for block, ours in zip(x.astype(np.float64), got, strict=True):
        theirs = gfloat.quantize_block(info, block, gfloat.compute_scale_amax).astype(np.float32)
        np.testing.assert_array_equal(ours, theirs)  # values: gfloat's codes of zero lose no sign that we keep


def test_a_shorter_last_block_has_a_scale_of_its_own():
    x = np.concatenate([np.full(32, 1000.0), [0.001, 0.0013]]).astype(np.float32)
    rounded = np.asarray(rounded_to(x, MXFP8_E4M3))
    assert mismatches(rounded[32:], rounded_to(x[32:], MXFP8_E4M3)) == 0
    assert (rounded[32:] > 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_blocks_lie_along_the_axis_that_is_named(axis):
    x = np.random.default_rng(4).standard_normal((40, 33, 35)).astype(np.float32)
    x *= np.float32(2.0) ** np.arange(35).astype(np.float32)
    along = rounded_with(jnp.asarray(x), MXFP8_E4M3, mode="ties_to_even", bits=None, random_bits=24, axis=axis)
    moved = rounded_to(jnp.asarray(np.moveaxis(x, axis, -1)), MXFP8_E4M3)
    assert mismatches(along, np.moveaxis(np.asarray(moved), -1, axis)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_number_that_is_not_finite_makes_its_block_nan_and_no_other(bad):
    x = np.ones(96, np.float32)
    x[40] = bad
    rounded = np.asarray(rounded_to(x, MXFP8_E4M3))
    np.testing.assert_array_equal(np.isnan(rounded), np.repeat([False, True, False], 32))


def test_rounding_blocks_a_second_time_gives_the_same_bits():
    for format in BLOCK_FORMATS:
        for x in tensors(5, (4, 70)):
            once = rounded_to(x, format)
            np.testing.assert_array_equal(pattern(rounded_to(once, format)), pattern(once))


def test_a_scalar_is_no_block():
    with pytest.raises(ValueError, match="a scalar has no neighbours"):
        rounded_to(jnp.float32(1.0), MXFP8_E4M3)
