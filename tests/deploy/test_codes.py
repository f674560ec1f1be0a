"""Codes and scales against exact fractions, and against the formats that training has."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.arithmetic import parse_format, round_to
from dsrun.deploy.codes import METHODS, Coding, Histogram, input_coding, scale_reaching, weight_coding

floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def exact_code(x, scale, zero_point, largest):
    """round_half_even of the float32 product with the float32 reciprocal, by fractions."""
    ratio = Fraction(float(np.float32(x) * (np.float32(1) / np.float32(scale))))
    return max(-largest, min(largest, round(ratio) + zero_point))


@given(st.lists(floats, min_size=1, max_size=20), st.floats(2**-10, 8.0, width=32), st.integers(-127, 127))
@settings(max_examples=200, deadline=None)
def test_a_code_is_the_product_with_the_reciprocal_rounded_half_to_even_and_held(values, scale, zero_point):
    coding = Coding("int8", np.asarray(scale, np.float32), zero_point)
    found = coding.encode(np.array(values, np.float32))
    assert found.tolist() == [exact_code(x, scale, zero_point, 127) for x in values]


def test_ties_go_to_the_even_code_and_128_is_never_used():
    coding = Coding("int8", np.asarray(0.5, np.float32))
    x = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 1e9, -1e9], np.float32)
    assert coding.encode(x).tolist() == [0, 2, 2, 0, -2, 127, -127]


@given(floats.filter(lambda x: abs(x) > 1e-20), st.sampled_from([7, 127, 254, 448]))
@settings(max_examples=100, deadline=None)
def test_a_scale_has_16_bits_and_is_the_smallest_that_reaches(largest, max_code):
    scale = float(scale_reaching(np.array(abs(largest), np.float32), max_code))
    below = scale * (1 - 2.0**-16)
    numerator = Fraction(scale).numerator
    assert numerator.bit_length() <= 16 or numerator % (1 << (numerator.bit_length() - 16)) == 0
    assert (
        Fraction(scale) * max_code
        >= Fraction(float(np.float32(abs(largest))))
        > Fraction(below) * max_code * (1 - Fraction(1, 2**14))
    )


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_what_was_trained_in_a_format_keeps_its_codes(format, granularity):
    # A weight that training put on the grid comes back bit for bit: nothing is lost a second time.
    w = np.random.default_rng(2).normal(size=(20, 6)).astype(np.float32)
    named = {"layer": "tensor", "channel": "channel"}[granularity]
    trained = np.asarray(round_to(jnp.asarray(w), parse_format(format, granularity=named)))
    coding = weight_coding(trained, format, granularity, "absmax")
    assert np.array_equal(coding.decode(coding.encode(trained)), trained)
    coding = weight_coding(w, format, granularity, "absmax")
    assert np.array_equal(coding.decode(coding.encode(w)), trained)


def test_values_of_one_sign_are_coded_affinely_with_zero_on_a_code():
    x = np.abs(np.random.default_rng(3).normal(size=5000)).astype(np.float32)
    coding = input_coding(histogram(x), "int8", "absmax")
    assert coding.zero_point == -127
    assert coding.decode(coding.encode(np.zeros(1, np.float32))) == 0.0
    assert coding.high >= x.max() > coding.high - coding.scale
    symmetric = input_coding(histogram(x - 1), "int8", "absmax")
    assert symmetric.zero_point == 0
    assert symmetric.scale > coding.scale


def histogram(x, bins=4096):
    """Of all values."""
    return Histogram(float(x.min()), float(x.max()), np.histogram(x, bins)[0])


def error_of(coding, x):
    return np.square(coding.decode(coding.encode(x)).astype(np.float64) - x).mean()


def test_methods_differ_as_they_say_on_values_with_few_large_ones():
    x = np.random.default_rng(4).standard_t(3, size=200_000).astype(np.float32)
    found = {method: input_coding(histogram(x), "int8", method) for method in METHODS}
    assert found["absmax"].clipped(x) == 0
    assert 0 < found["percentile"].clipped(x) / x.size <= 1.5e-4
    errors = {method: error_of(coding, x) for method, coding in found.items()}
    assert errors["mse"] < 0.9 * min(errors["absmax"], errors["percentile"])
    affine = found["minmax_of_histogram"]
    assert affine.zero_point != 0
    assert affine.low == pytest.approx(x.min(), rel=0.02)
    assert affine.high == pytest.approx(x.max(), rel=0.02)


def test_mse_of_a_weight_is_no_worse_than_any_other_method_for_each_channel():
    w = np.random.default_rng(5).standard_t(4, size=(300, 4)).astype(np.float32)
    errors = {}
    for method in METHODS:
        coding = weight_coding(w, "int4", "channel", method)
        errors[method] = np.square(coding.decode(coding.encode(w)) - w).mean(axis=0)
    assert (errors["mse"] <= errors["absmax"]).all()
    assert (errors["mse"] <= errors["percentile"]).all()
    assert (errors["mse"] < errors["absmax"]).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_one_value_can_be_coded(method):
    for value in (0.0, 2.5, -1.0):
        x = np.full(100, value, np.float32)
        seen = Histogram(value - 0.5, value + 0.5, np.histogram(x, 64, (value - 0.5, value + 0.5))[0])
        coding = input_coding(seen, "int8", method)
        assert coding.decode(coding.encode(x)) == pytest.approx(x, abs=0.02)


def test_float8_saturates_instead_of_becoming_nan():
    coding = Coding("float8_e4m3fn", np.asarray(1.0, np.float32))
    assert coding.encode(np.array([1e9, -1e9, 464.0], np.float32)).astype(np.float32).tolist() == [448.0, -448.0, 448.0]
