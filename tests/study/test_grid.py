"""Spacing, nearest value and membership, against NumPy's own."""

import ml_dtypes
import numpy as np
import pytest

from dsrun.arithmetic import parse_format
from dsrun.errors import UsageError
from dsrun.study.grid import is_on_grid, nearest, parse_grid, ulp

FLOAT16 = parse_format("float16")


def all_float16():
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return values[np.isfinite(values)]


def test_ulp_is_numpys_spacing_at_every_float16_and_the_same_at_its_negative():
    values = all_float16()
    values = values[(values >= 0) & (values < 65504)]  # NumPy's spacing looks upward; at the largest it is infinite
    assert [ulp(FLOAT16, float(x)) for x in values] == np.spacing(values).astype(float).tolist()
    assert [ulp(FLOAT16, -float(x)) for x in values] == np.spacing(values).astype(float).tolist()


def test_every_float16_is_on_the_grid_and_a_quarter_of_a_spacing_beside_it_is_not():
    for x in all_float16()[::7].astype(float):
        assert is_on_grid(FLOAT16, x)
        assert not is_on_grid(FLOAT16, x + ulp(FLOAT16, x) / 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e5m2"])
def test_nearest_is_the_cast(dtype):
    format = parse_format(dtype)
    x = np.random.default_rng(0).normal(size=2000) * np.exp2(np.random.default_rng(1).integers(-18, 12, 2000))
    x = x.astype(np.float32)
    assert [nearest(format, float(v)) for v in x] == x.astype(ml_dtypes.finfo(dtype).dtype).astype(float).tolist()


@pytest.mark.parametrize("name", ["int8", "binary", "mxfp4"])
def test_a_format_whose_scale_comes_from_the_data_has_no_grid_for_one_number(name):
    with pytest.raises(UsageError, match="takes its scale from all values"):
        parse_grid(name)
