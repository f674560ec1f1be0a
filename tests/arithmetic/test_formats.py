"""The table of formats against ml_dtypes and NumPy, code by code; and what a user reads who asks for something else."""

import ml_dtypes
import numpy as np
import pytest

from dsrun.arithmetic.formats import (
    FLOAT32,
    FORMATS,
    MODES,
    BlockFormat,
    FixedFormat,
    FloatFormat,
    ScaledFormat,
    check_rounding,
    fixed_format,
    parse_format,
)
from dsrun.arithmetic.scalar import finite_values
from tests.reference.rounding import FAMILY, NUMPY_DTYPE, REAL, TABLE, decoded, mismatches


def codes_of_the_real_dtype(format):
    """Every code as a value of the real dtype, seen as float32."""
    width = np.uint16 if format.bits == 16 else np.uint8
    return np.arange(2**format.bits, dtype=width).view(NUMPY_DTYPE[format]).astype(np.float32)


@pytest.mark.parametrize("format", REAL, ids=str)
def test_every_code_decodes_to_what_the_real_dtype_holds(format):
    assert mismatches(decoded(format), codes_of_the_real_dtype(format)) == 0


@pytest.mark.parametrize("format", REAL, ids=str)
def test_the_range_of_each_format_is_that_of_its_real_dtype(format):
    info = ml_dtypes.finfo(NUMPY_DTYPE[format])
    assert (format.max_value, format.min_value) == (float(info.max), float(info.min))
    assert format.smallest_normal == float(info.smallest_normal)
    assert format.smallest_positive == float(info.smallest_subnormal)
    assert format.epsilon == float(info.eps)
    assert format.bits == info.bits


@pytest.mark.parametrize("format", TABLE + FAMILY, ids=str)
def test_the_parameters_agree_with_the_decoded_values(format):
    codes = decoded(format)
    values = codes[np.isfinite(codes)].astype(np.float64)
    assert (values.max(), values.min()) == (format.max_value, format.min_value)
    assert values[values > 0].min() == format.smallest_positive
    assert np.isinf(codes).any() == format.infinity
    assert np.isnan(codes).any() == format.nan
    assert np.signbit(values[values == 0]).any() == format.negative_zero


@pytest.mark.parametrize(
    ("name", "finite", "nans"),
    [
        *(("float16", 63487, 2046), ("bfloat16", 65279, 254), ("float8_e5m2", 247, 6), ("float8_e4m3fn", 253, 2)),
        *(("float8_e4m3", 239, 14), ("float8_e3m4", 223, 30), ("float8_e4m3fnuz", 255, 1), ("float8_e5m2fnuz", 255, 1)),
        *(("float8_e4m3b11fnuz", 255, 1), ("float6_e2m3fn", 63, 0), ("float6_e3m2fn", 63, 0), ("float4_e2m1fn", 15, 0)),
    ],
)
def test_the_number_of_finite_values_and_of_nan_codes_is_the_published_one(name, finite, nans):
    codes = decoded(parse_format(name))
    assert len(np.unique(codes[np.isfinite(codes)])) == finite
    assert np.isnan(codes).sum() == nans


@pytest.mark.parametrize(
    ("member", "name"), [("float_e5m10", "float16"), ("float_e8m7", "bfloat16"), ("float_e5m2", "float8_e5m2")]
)
def test_a_member_of_the_family_has_the_values_of_the_standard_format_of_its_shape(member, name):
    assert mismatches(decoded(parse_format(member)), decoded(parse_format(name))) == 0


def test_the_widest_member_of_the_family_is_float32():
    assert parse_format("float_e8m23") is FLOAT32


def test_a_format_without_subnormals_has_nothing_between_zero_and_its_smallest_normal():
    format = parse_format("float_e4m3", subnormals=False)
    assert min(value for value in finite_values(format) if value > 0) == format.smallest_positive == 2.0**-6


def test_fixed_point_counts_the_sign_among_the_bits_before_the_point():
    format = parse_format("fixed_q2.14")
    assert isinstance(format, FixedFormat)
    assert (format.word_length, format.fraction_length) == (16, 14)
    assert (format.min_value, format.max_value, format.smallest_positive) == (-2.0, 2.0 - 2.0**-14, 2.0**-14)


@pytest.mark.parametrize(
    ("alias", "name"), [("fp16", "float16"), ("bf16", "bfloat16"), ("tf32", "tensorfloat32"), ("mxfp6", "mxfp6_e3m2")]
)
def test_an_alias_is_the_format_itself(alias, name):
    assert parse_format(alias) is FORMATS[name]


def test_every_name_of_the_table_is_parsed_to_its_entry_and_printed_as_itself():
    for name, format in FORMATS.items():
        assert parse_format(name) is format
        assert str(format) == name


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("half", "float16"),
        ("flaot16", "float16"),
        ("bfloat61", "bfloat16"),
        ("e4m3", "float8_e4m3fn"),
        ("fp64", "float32"),
    ],
)
def test_an_unknown_format_is_refused_with_the_one_that_was_meant(name, meant):
    with pytest.raises(ValueError, match=f"unknown format '{name}'; did you mean '{meant}'\\?.*fixed_qM.N"):
        parse_format(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("float_e9m3", "2 to 8 exponent bits"),
        ("float_e1m3", "2 to 8 exponent bits"),
        ("float_e4m0", "no even one to tie to"),
        ("float_e4m24", "1 to 23 significand bits"),
        ("fixed_q2.24", "2 to 25 are carried exactly"),
        ("fixed_q1.0", "2 to 25 are carried exactly"),
        ("fixed_q0.8", "the sign needs one"),
        ("sixteen", "unknown format 'sixteen'; "),
    ],
)
def test_a_format_that_float32_cannot_carry_is_refused_with_the_limits(name, reason):
    with pytest.raises(ValueError, match=reason):
        parse_format(name)


@pytest.mark.parametrize(
    ("name", "overflow", "way_out"),
    [
        ("float8_e4m3fn", "infinity", "write nan or saturate"),
        ("float8_e5m2", "wrap", "write infinity or nan or saturate"),
        ("float4_e2m1fn", "nan", "write saturate"),
        ("fixed_q8.8", "infinity", "write saturate or wrap"),
        ("int8", "infinity", "its scale follows the data"),
        ("mxfp4", "saturate", "its scale follows the data"),
    ],
)
def test_an_overflow_that_a_format_does_not_have_is_refused_with_those_it_has(name, overflow, way_out):
    with pytest.raises(ValueError, match=f"{name} cannot overflow to '{overflow}'; {way_out}"):
        parse_format(name, overflow=overflow)


def test_overflow_is_part_of_the_format():
    assert parse_format("float8_e4m3fn", overflow="saturate") != parse_format("float8_e4m3fn")
    assert parse_format("float16", overflow="infinity") == parse_format("float16")
    assert parse_format("fixed_q8.8", overflow="wrap").overflow == "wrap"  # type: ignore[union-attr]


def test_granularity_belongs_to_formats_with_a_scale():
    assert parse_format("int8", granularity="channel").granularity == "channel"  # type: ignore[union-attr]
    for name in ("float16", "fixed_q8.8", "mxfp8_e4m3"):
        with pytest.raises(ValueError, match="no granularity; int8, int4, ternary and binary have"):
            parse_format(name, granularity="channel")
    with pytest.raises(ValueError, match="'row'.*tensor, channel or frame"):
        parse_format("int8", granularity="row")


@pytest.mark.parametrize("name", ["float16", "float8_e4m3fn", "float4_e2m1fn", "fixed_q8.8", "int8"])
def test_subnormals_can_be_left_out_of_the_family_only(name):
    with pytest.raises(ValueError, match="only float_eXmY can be without"):
        parse_format(name, subnormals=False)


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_every_mode_is_accepted_but_directed_ones_by_binary(format):
    for mode in MODES:
        if format.name == "binary" and mode.startswith("toward_"):
            with pytest.raises(ValueError, match=f"{mode} cannot be honoured; write ties_to_even"):
                check_rounding(format, mode)
        else:
            check_rounding(format, mode)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("nearest", "ambiguous.*ties_to_even or ties_to_away"),
        ("RNE", "did you mean 'ties_to_even'"),
        ("truncate", "did you mean 'toward_zero'"),
        ("stochastics", "did you mean 'stochastic'"),
        ("xyz", "unknown rounding 'xyz'; There are ties_to_even"),
    ],
)
def test_an_unknown_mode_is_refused_with_the_one_that_was_meant(mode, text):
    with pytest.raises(ValueError, match=text):
        check_rounding(FLOAT32, mode)


def test_random_bits_are_1_to_31_and_belong_to_stochastic():
    check_rounding(FLOAT32, "stochastic", 31)
    for count in (0, 32):
        with pytest.raises(ValueError, match=f"1 to 31, found {count}"):
            check_rounding(FLOAT32, "stochastic", count)
    with pytest.raises(ValueError, match="toward_zero draws none"):
        check_rounding(FLOAT32, "toward_zero", 8)
    with pytest.raises(ValueError, match="stochastic_equal draws one"):
        check_rounding(FLOAT32, "stochastic_equal", 8)


def test_the_width_of_a_block_format_includes_its_share_of_the_scale():
    widths = {name: format.bits for name, format in FORMATS.items() if isinstance(format, BlockFormat)}
    assert widths == {"mxfp8_e4m3": 8.25, "mxfp8_e5m2": 8.25, "mxfp6_e3m2": 6.25, "mxfp6_e2m3": 6.25, "mxfp4": 4.25}


def test_formats_can_be_told_apart_and_used_as_keys():
    assert len(set(FORMATS.values())) == len(FORMATS)
    assert all(
        isinstance(format, FloatFormat | FixedFormat | ScaledFormat | BlockFormat) for format in FORMATS.values()
    )
    assert fixed_format(word_length=16, fraction_length=14) == parse_format("fixed_q2.14")
