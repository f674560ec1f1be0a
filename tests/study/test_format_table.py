"""The table's numbers, computed from parameters, against all codes enumerated by ml_dtypes."""

import ml_dtypes
import numpy as np
import pytest

from dsrun.arithmetic.formats import FORMATS, parse_format
from dsrun.study.format_table import count_values, format_row, format_rows
from dsrun.study.grid import is_on_grid
from tests.reference.rounding import REAL

SMALL = [format.name for format in REAL]


def all_values(name):
    dtype = np.dtype(name) if name == "float16" else np.dtype(getattr(ml_dtypes, name))
    bits = FORMATS[name].bits
    codes = np.arange(2**bits, dtype=np.uint16 if bits > 8 else np.uint8)
    with np.errstate(invalid="ignore"):  # signalling NaN among the codes
        return codes.view(dtype).astype(np.float64), float(ml_dtypes.finfo(dtype).smallest_normal)


@pytest.mark.parametrize("name", SMALL)
def test_a_float_formats_row_is_what_its_codes_are(name):
    values, smallest_normal = all_values(name)
    finite = values[np.isfinite(values)]
    positive = np.unique(finite[finite > 0])
    row = format_row(FORMATS[name])
    assert row["values"] == len(np.unique(finite))
    assert row["largest"] == positive[-1]
    assert row["smallest_subnormal"] == positive[0]
    assert row["smallest_normal"] == smallest_normal
    assert row["spacing_at_1"] == positive[np.searchsorted(positive, 1.0) + 1] - 1.0
    assert row["infinity"] == bool(np.isinf(values).any())
    assert row["nan"] == bool(np.isnan(values).any())
    assert row["negative_zero"] == bool((np.signbit(values) & (values == 0)).any())
    assert 2.0 ** row["max_exponent"] <= row["largest"] < 2.0 ** (row["max_exponent"] + 1)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("float16", 63487), ("bfloat16", 65279), ("float8_e5m2", 247), ("float8_e4m3fn", 253), ("float8_e4m3", 239)),
        *(("float8_e3m4", 223), ("float8_e4m3fnuz", 255), ("float6_e2m3fn", 63), ("float4_e2m1fn", 15)),
        *(("fixed_q2.14", 65536), ("int8", 255), ("ternary", 3), ("binary", 2), ("mxfp4", 15)),
        ("float32", 2**32 - 2 * 2**23 - 1),
    ],
)
def test_the_numbers_of_values_are_the_known_ones(name, values):
    assert count_values(parse_format(name)) == values


def test_without_subnormals_there_are_fewer_values_and_no_smallest_subnormal():
    with_them, without = parse_format("float_e4m3"), parse_format("float_e4m3", subnormals=False)
    assert count_values(with_them) - count_values(without) == 2 * 7
    assert format_row(without)["smallest_subnormal"] is None


def test_a_fixed_point_rows_numbers_lie_on_its_grid():
    format = parse_format("fixed_q4.12")
    row = format_row(format)
    assert is_on_grid(format, row["largest"])
    assert (row["spacing_at_1"], row["smallest_normal"], row["values"]) == (2.0**-12, None, 65536)


def test_all_rows_have_the_same_keys_and_the_table_is_whole():
    rows = format_rows()
    assert [row["format"] for row in rows] == list(FORMATS)
    assert len({tuple(sorted(row)) for row in [*rows, *format_rows(["fixed_q4.12", "float_e6m9"])]}) == 1


@pytest.mark.parametrize(("name", "role"), [("int8", "accumulate"), ("mxfp8_e4m3", "master"), ("fixed_q4.12", "ctc")])
def test_roles_leave_out_what_a_config_would_refuse(name, role):
    assert role not in format_row(parse_format(name))["roles"]
    assert role in format_row(parse_format("float16"))["roles"]
