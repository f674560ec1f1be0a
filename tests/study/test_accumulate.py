"""Sums of small numbers against NumPy's float16, against the exact distribution, and against the known answers."""

import math
from collections import defaultdict
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32, parse_format
from dsrun.arithmetic.random_bits import draw, fold_in, make_key
from dsrun.arithmetic.rounding import round_on_grid
from dsrun.errors import UsageError
from dsrun.study.accumulate import SEQUENCES, accumulate, master_row, predict, sum_uniforms, sweep_random_bits

FLOAT16, BFLOAT16, INTEGERS = (parse_format(name) for name in ("float16", "bfloat16", "fixed_q12.0"))


def exact_mean_and_sd(mode, random_bits, *, start, increment, times):
    """The distribution of the float16 sum as a Markov chain over all float16 values, in fractions."""
    grid = np.unique(np.arange(2**16, dtype=np.uint16).view(np.float16).astype(float)[:0x7C00])
    chances = {start: Fraction(1)}
    for _ in range(times):
        following = defaultdict(Fraction)
        for value, chance in chances.items():
            target = Fraction(value) + Fraction(increment)
            place = int(np.searchsorted(grid, float(target), side="right")) - 1
            low, high = Fraction(grid[place]), Fraction(grid[place + 1])
            up = (target - low) / (high - low)
            if up and mode == "stochastic":
                up = Fraction(math.floor(up * 2**random_bits), 2**random_bits)
            elif up:
                up = Fraction(1, 2)
            following[float(high)] += chance * up
            following[float(low)] += chance * (1 - up)
        chances = {value: chance for value, chance in following.items() if chance}
    mean = sum(Fraction(value) * chance for value, chance in chances.items())
    variance = sum((Fraction(value) - mean) ** 2 * chance for value, chance in chances.items())
    return float(mean), math.sqrt(variance)


@pytest.mark.parametrize("increment", [0.01, -0.01, 0.07])
@pytest.mark.parametrize(("mode", "random_bits"), [("stochastic", 3), ("stochastic", 24), ("stochastic_equal", 24)])
def test_the_prediction_is_the_exact_distributions_mean_and_sd(mode, random_bits, increment):
    found = predict(FLOAT16, mode, random_bits, start=100.0, increment=increment, times=12)
    mean, sd = exact_mean_and_sd(mode, random_bits, start=100.0, increment=increment, times=12)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.sd == pytest.approx(sd, abs=1e-12)


def test_no_prediction_is_made_across_a_power_of_two_or_beyond_the_range():
    assert predict(FLOAT16, "stochastic", 24, start=127.0, increment=0.1, times=100).mean is None
    assert predict(INTEGERS, "stochastic", 24, start=2040.0, increment=0.5, times=100).mean is None


@pytest.mark.parametrize(
    ("format", "sd"), [(FLOAT16, 0.229), (BFLOAT16, 0.700), (INTEGERS, 0.995)], ids=["float16", "bfloat16", "integers"]
)
def test_a_hundred_hundredths_are_lost_to_nearest_and_kept_on_average_by_stochastic(format, sd):
    assert accumulate(format, "ties_to_even").row()["mean"] == 100.0
    row = accumulate(format, "stochastic").row()
    assert row["draws"] == 10_000
    assert row["predicted_sd"] == pytest.approx(sd, abs=5e-4)
    # 4 standard errors; that of an sd over n draws is about sd / sqrt(2 n), here times 1.2 for the binomial's tails.
    assert abs(row["mean"] - 101.0) < 4 * sd / 100
    assert abs(row["sd"] - sd) < 4 * 1.2 * sd / math.sqrt(20_000)


def test_a_hundredth_of_the_integers_draws_never_move_as_0_99_to_the_100():
    row = accumulate(INTEGERS, "stochastic").row()
    assert abs(row["at_start"] - 0.99**100) < 4 * math.sqrt(0.366 * 0.634 / 10_000)


def test_a_float32_master_gives_101_where_numpy_gives_it():
    row = master_row(FLOAT16, start=100.0, increment=0.01, times=100)
    total = np.float32(100)
    for _ in range(100):
        total += np.float32(0.01)
    assert (row["mean"], row["unrounded"], row["accumulator"]) == (101.0, float(total), "float32")
    assert row["unrounded"] == 101.00021362304688


@pytest.mark.parametrize(
    ("n", "mean"), [(1, 100.0), (2, 100.0), (3, 100.78125), (4, 100.78125), (5, 100.9765625), (8, 100.9765625)]
)
def test_few_random_bits_have_the_known_means(n, mean):
    row = sweep_random_bits(FLOAT16, most=n)[-1]
    assert row["predicted_mean"] == mean
    assert abs(row["mean"] - mean) <= 4 * row["standard_error"] + 3e-4  # the last: 0.01 in float32


@pytest.mark.parametrize("n", [1, 3, 10])
def test_random_bits_whose_low_ones_are_masked_are_that_few_random_bits(n):
    key = make_key(0, "test", "mask")
    x = jnp.asarray(np.random.default_rng(0).normal(size=4096) * 100, jnp.float32)
    bits = draw(key, x.shape)
    few = round_on_grid(x, FLOAT16, mode="stochastic", bits=bits, random_bits=n)
    masked = round_on_grid(x, FLOAT16, mode="stochastic", bits=bits & jnp.uint32((2**32 - 1) ^ (2 ** (32 - n) - 1)))
    assert np.array_equal(few, masked)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    first, again, other = (accumulate(FLOAT16, "stochastic", draws=50, seed=seed).final for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_float16_sum_of_ten_thousand_uniforms_is_2048_and_bfloat16_256():
    assert np.all(sum_uniforms(FLOAT16, "ties_to_even").final == 2048)
    assert np.all(sum_uniforms(BFLOAT16, "ties_to_even").final == 256)


def test_stochastic_sums_of_uniforms_follow_the_exact_ones():
    found = sum_uniforms(FLOAT16, "stochastic")
    off = found.final.astype(np.float64) - found.exact
    assert abs(off.mean()) < 4 * off.std() / math.sqrt(SEQUENCES)
    assert found.row()["relative_error"] < 0.02  # the notes' 1.3e-2


def test_exact_sums_of_uniforms_are_float64s():
    found = sum_uniforms(FLOAT32, "ties_to_even", count=300)
    key = fold_in(make_key(0, "study uniform numbers", ""), 0)
    numbers = np.stack([np.asarray(draw(fold_in(key, step), (SEQUENCES,))) >> 8 for step in range(300)])
    assert np.array_equal(found.exact, (numbers * 2.0**-24).sum(axis=0))
    assert np.allclose(found.final, found.exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("format", "mode", "text"),
    [
        (FLOAT32, "stochastic", "cannot be shown on float32"),
        (FLOAT16, "nearest", "ambiguous"),
        (parse_format("float8_e3m4"), "ties_to_even", "start 100 lies beyond float8_e3m4"),
    ],
)
def test_what_cannot_be_shown_is_refused(format, mode, text):
    with pytest.raises(UsageError, match=text):
        accumulate(format, mode)
