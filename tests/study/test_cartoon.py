"""The one-weight descent against the real formats of NumPy and ml_dtypes, and against the known answers."""

import math

import ml_dtypes
import numpy as np
import pytest

from dsrun.arithmetic import parse_format
from dsrun.errors import UsageError
from dsrun.study.cartoon import climb, real_sequence, stall_radius

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


def final(name, method, **options):
    return float(climb(parse_format(name), method, draws=100, **options).final[0])


def climb_in(dtype, start):
    """Final weight and the step of the last move, with a weight that really has the dtype and a float32 update."""
    w, last = dtype(start), 0
    for step in range(1, 2001):
        moved = dtype(np.float32(w) + np.float32(0.02) * (np.float32(3) - np.float32(w)))
        w, last = moved, step if moved != w else last
    return float(w), last


def climb_with_kahan(dtype):
    w, owed = dtype(0), dtype(0)
    for _ in range(2000):
        update = dtype(np.float32(0.02) * (np.float32(3) - np.float32(w)))
        y = dtype(np.float32(update) - np.float32(owed))
        moved = dtype(np.float32(w) + np.float32(y))
        owed = dtype(np.float32(dtype(np.float32(moved) - np.float32(w))) - np.float32(y))
        w = moved
    return float(w)


@pytest.mark.parametrize("start", [0.0, 6.0])
@pytest.mark.parametrize("name", DTYPES)
def test_nearest_goes_the_way_of_the_real_dtype_to_the_step(name, start):
    found = climb(parse_format(name), "ties_to_even", start=start)
    assert (float(found.final[0]), int(found.last_moved[0])) == climb_in(DTYPES[name], start)


@pytest.mark.parametrize(
    ("name", "start", "stop", "step"),
    [
        *(("float16", 0.0, 2.953125, 199), ("float16", 6.0, 3.046875, 199)),
        *(("bfloat16", 0.0, 2.625, 94), ("bfloat16", 6.0, 3.375, 93)),
        *(("float8_e4m3fn", 0.0, 1.0, 17), ("float8_e4m3fn", 2.0, 2.0, 0), ("float8_e5m2", 0.0, 0.5, 8)),
    ],
)
@pytest.mark.parametrize("rounded", ["weight", "operations"])
def test_nearest_stops_at_the_known_place_whether_or_not_the_operations_are_rounded(name, start, stop, step, rounded):
    found = climb(parse_format(name), "ties_to_even", start=start, rounded=rounded)
    assert float(found.final[0]) == stop
    if name in ("float16", "bfloat16"):
        assert int(found.last_moved[0]) == pytest.approx(step, abs=0 if rounded == "weight" else 3)


@pytest.mark.parametrize(("bits", "stop"), [(6, 2.609375), (8, 2.90234375), (10, 2.9755859375), (12, 2.993896484375)])
def test_fixed_point_with_every_operation_rounded_stops_where_the_update_is_half_a_spacing(bits, stop):
    assert final(f"fixed_q4.{bits}", "ties_to_even", rounded="operations") == stop
    assert final(f"fixed_q4.{bits}", "master", rounded="operations") == stop  # what is lost before the sum stays lost
    assert final(f"fixed_q4.{bits}", "stochastic", rounded="operations") == 3.0


@pytest.mark.parametrize("name", [*DTYPES, "fixed_q4.8", "float_e6m4"])
def test_nearest_stalls_within_the_predicted_radius_and_stochastic_and_master_reach_three(name):
    format = parse_format(name)
    row = climb(format, "ties_to_even").row()
    assert 0 < row["distance"] <= stall_radius(format, row["final"], 0.01)
    row = climb(format, "stochastic", draws=500).row()
    assert (row["min"], row["max"], row["at_target"]) == (3.0, 3.0, 1.0)
    assert final(name, "master") == 3.0


@pytest.mark.parametrize(
    ("name", "end"), [("float16", 3.0), ("bfloat16", 3.0), ("float8_e4m3fn", 3.0), ("float8_e5m2", 2.0)]
)
def test_kahan_reaches_three_but_not_with_three_significand_bits(name, end):
    assert final(name, "kahan") == climb_with_kahan(DTYPES[name]) == end


@pytest.mark.parametrize(
    ("name", "sd"), [("float16", 0.0038), ("bfloat16", 0.032), ("float8_e4m3fn", 0.255), ("float8_e5m2", 0.360)]
)
def test_the_stochastic_mean_is_the_real_sequence_in_every_format(name, sd):
    found = climb(parse_format(name), "stochastic", steps=200)
    for step, expected in ((50, 1.9075), (100, 2.6021), (200, 2.9472)):
        row = found.expectation_row(step)
        assert row["draws"] == 10_000
        assert row["expected"] == pytest.approx(3 * (1 - 0.98**step))
        assert row["expected"] == pytest.approx(expected, abs=1e-4)
        assert abs(row["standard_errors_off"]) < 4
    assert found.expectation_row(100)["sd"] == pytest.approx(sd, rel=0.06)  # two digits are known


def test_mean_and_standard_error_of_a_step_are_those_of_its_draws():
    format = parse_format("bfloat16")
    row = climb(format, "stochastic", steps=70, draws=333).expectation_row(70)
    values = climb(format, "stochastic", steps=70, draws=333).final.astype(np.float64)
    assert row["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert row["standard_error"] == pytest.approx(values.std(ddof=1) / math.sqrt(333), rel=1e-4)


def test_the_real_sequence_is_the_iteration_in_float64():
    w = 0.5
    for _ in range(30):
        w += 2 * 0.01 * (3 - w)
    assert real_sequence(30, start=0.5, learning_rate=0.01) == pytest.approx(w, abs=1e-14)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("fixed_q2.14", {}, "no value of fixed_q2.14"),
        ("float8_e3m4", {"start": 20.0}, "start 20 lies beyond"),
        ("float16", {"learning_rate": 1.5}, "between 0 and 1"),
        ("float32", {}, "cannot be shown on float32"),
    ],
)
def test_what_cannot_be_shown_is_refused(name, options, text):
    with pytest.raises(UsageError, match=text):
        climb(parse_format(name), "stochastic", **options)
