"""Distances in ulps against counting, over whole formats where they are small."""

import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.study.tensor_distance import distance


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "int8", "int4"])
def test_the_distance_of_any_two_numbers_is_how_many_values_lie_between_them(dtype):
    dtype = jnp.dtype(dtype)
    codes = np.arange(16 if dtype == "int4" else 256, dtype=np.uint8)
    values = codes.view(dtype) if dtype != "int4" else (codes.astype(np.int8) - 8).astype(dtype)
    finite = values[np.isfinite(values.astype(np.float32))]
    ranks = {value: rank for rank, value in enumerate(sorted(set(finite.astype(np.float32).tolist())))}
    for a in finite[:: 1 if len(finite) < 20 else 7]:
        for b in finite:
            found = distance(np.array([a]), np.array([b]))
            if a.tobytes() == b.tobytes():
                assert found.differing == 0
            else:
                assert found.largest_ulps == abs(ranks[float(a)] - ranks[float(b)]), (a, b)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "bfloat16"])
def test_neighbours_are_one_apart_also_across_zero_and_binades(dtype):
    dtype = jnp.dtype(dtype)
    for value in (1.0, -2.0, 0.0, 4096.0):
        x = np.array([value], dtype)
        assert distance(x, np.nextafter(x, np.array([np.inf], dtype))).largest_ulps == 1
        assert distance(x, np.nextafter(x, np.array([-np.inf], dtype))).largest_ulps == 1
    assert distance(np.array([0.0], dtype), np.array([-0.0], dtype)).largest_ulps == 0
    assert distance(np.array([0.0], dtype), np.array([-0.0], dtype)).differing == 1


def test_nans_and_infinities_are_counted_apart_and_the_first_difference_is_shown_with_its_bits():
    a = np.zeros((3, 4), np.float32)
    b = a.copy()
    a[1, 2], b[1, 2] = np.nan, 1.0
    b[2, 0], b[2, 1] = np.inf, np.float32(2**-149) * 5
    found = distance(a, b)
    assert (found.elements, found.differing, found.nonfinite, found.largest_ulps) == (12, 3, 2, 5)
    assert found.first == (1, 2)
    assert found.bits == ("0x7fc00000", "0x3f800000")
    assert distance(a[1:2], b[1:2]).largest_ulps is None


def test_integers_of_64_bits_may_be_a_65_bit_number_apart():
    a, b = np.array([2**63 - 1]), np.array([-(2**63)])
    assert distance(a, b).largest_ulps == 2**64 - 1
    assert distance(np.array(7, np.int32), np.array(3, np.int32)).largest_ulps == 4
    assert distance(np.array(True), np.array(False)).values == (True, False)


def test_equal_arrays_without_elements_or_with_equal_nans_do_not_differ():
    for x in (np.zeros((0, 3), np.float32), np.array([np.nan, 1], np.float32), np.float32(3)[()].reshape(())):
        assert distance(x, x.copy()).differing == 0
