"""Cells against exact fractions: a cell is mantissa * 2**exponent and nothing else."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.ctc import cells
from dsrun.ctc.cells import Cells

ULP = Fraction(1, 2**23)


def cell(mantissa: float, exponent: int) -> Cells:
    return Cells(jnp.full((1,), mantissa, jnp.float32), jnp.full((1,), exponent, jnp.int32))


def value(number: Cells) -> Fraction:
    mantissa, exponent = Fraction(float(number.mantissa[0])), int(number.exponent[0])
    return mantissa * Fraction(2) ** exponent


def relative_error(found: Fraction, expected: Fraction) -> Fraction:
    return abs(found - expected) / expected


@pytest.mark.parametrize("exponent", [0, -1, -130, -5000, 77])
@pytest.mark.parametrize("gap", [0, 1, 23, 24, 30, 126])
def test_sum_of_three_is_exact_to_two_roundings(exponent, gap):
    terms = [cell(1.9999999, exponent), cell(1.2345678, exponent - gap), cell(1.5, exponent - gap // 2)]
    expected = sum(value(term) for term in terms)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert relative_error(value(cells.add(*(terms[i] for i in order))), expected) <= 2 * ULP


def test_a_term_below_the_range_of_the_shift_is_lost_and_not_wrapped_around():
    for gap in (127, 128, 255, 256, 1000, 2**28):
        assert value(cells.add(cell(1.25, 0), cell(1.5, -gap))) == Fraction(5, 4)


def test_product_is_normalized_and_exact_to_one_rounding():
    for a, b in [((1.9999999, -3000), (1.9999999, -4000)), ((5.75, 12), (1.1, -9)), ((1.0, 0), (1.0, 0))]:
        product = cells.multiply(cell(*a), cell(*b))
        assert relative_error(value(product), value(cell(*a)) * value(cell(*b))) <= ULP
        assert 1.0 <= float(product.mantissa[0]) < 2.0


def test_dead_stays_dead_through_a_long_utterance_and_never_touches_the_living():
    def frame(carry, _):
        grown = cells.normalize(cells.add(carry, carry, carry))
        return cells.multiply(grown, cell(1.9, -1)), None

    rising, _ = jax.lax.scan(frame, cell(1.0, cells.DEAD), None, length=20_000)
    falling = cells.multiply(cells.multiply(cell(1.0, cells.DEAD), cell(1.0, cells.DEAD)), cell(1.0, -(2**28)))
    for dead in (rising, falling):
        assert cells.DEAD <= int(dead.exponent[0]) < cells.LOWEST_ALIVE
        assert value(cells.add(dead, cell(1.5, -1000))) == Fraction(3, 2) / 2**1000


def test_exp_equals_float64_far_below_the_range_of_float32():
    x = -np.concatenate([np.linspace(0, 2, 501), np.geomspace(1e-6, 7000, 501)]).astype(np.float32)
    got = cells.exp(jnp.asarray(x), jnp.zeros(x.shape, jnp.float32), num_factors=800)
    log = np.log(np.asarray(got.mantissa, np.float64)) + np.asarray(got.exponent, np.float64) * np.log(2)
    # Three roundings of a number below 1 and that of the mantissa: 2.5e-7 is four half ulps of 1.
    assert np.max(np.abs(log - x.astype(np.float64))) < 2.5e-7


def test_exp_takes_what_cannot_be_for_zero():
    x = jnp.array([np.nan, -np.inf, -3e38, -233_000.0, -231_000.0], jnp.float32)
    got = cells.exp(x, jnp.full((5,), np.nan, jnp.float32).at[4].set(0.0), num_factors=800)
    assert (np.asarray(got.exponent) == cells.DEAD).tolist() == [True, True, True, True, False]
    assert np.all(np.isfinite(np.asarray(got.mantissa)))


def test_a_product_of_as_many_factors_as_were_announced_stays_alive():
    lowest = cells.exp(jnp.full((1,), -232_000.0, jnp.float32), jnp.zeros((1,), jnp.float32), num_factors=800)
    product, _ = jax.lax.scan(lambda c, _: (cells.multiply(c, lowest), None), cell(1.0, 0), None, length=800)
    assert int(product.exponent[0]) >= cells.LOWEST_ALIVE
