"""Cells: positive numbers far outside any hardware format, as a float32 mantissa and an int32 exponent.

A cell means mantissa * 2**exponent. It is a logarithm whose integer part is exact and whose fractional part keeps 24
bits however large the integer part is. In plain log space the two share 24 bits: at log p = -2000 one float32 ulp is
1.2e-4, so every probability carries a relative error of that size.

Multiplying cells is one float product and one integer addition. Adding them is a shift to the largest exponent, whose
factor 2**n is assembled from bits, and float additions. No exp, no log, and no rounding but that of IEEE products and
sums.

Mantissas lie between 1 (1 - 6e-8 where an emission rounds down) and 6: `normalize` brings one back to [1, 2), and
`add` of three such is below 6. A mantissa is never zero. Zero is an exponent so low that the shift takes it to zero
beside any number that is alive:

    alive       exponent >= LOWEST_ALIVE = -2**28
    zero        exponent <= DEAD + 3 * (number of frames), DEAD = -2**29: adding dead cells can raise them by 3 a frame
    int32 ends at -2**31, four DEAD together: no sum of exponents in this room is of more than three.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

DEAD = -(2**29)
LOWEST_ALIVE = -(2**28)
LN2 = 0.6931471805599453
# ln 2 in two pieces (Cody & Waite 1980): the first has 10 bits, so its product with an integer below 2**14 is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.121944400546905e-4


class Cells(NamedTuple):
    """An array of numbers mantissa * 2**exponent; both fields have the same shape or broadcast to one."""

    mantissa: Float32[Array, "..."]
    exponent: Int32[Array, "..."]


def one_where(condition: Bool[Array, "*shape"]) -> Cells:
    """1 where the condition holds, elsewhere zero."""
    exponent = jnp.where(condition, jnp.int32(0), jnp.int32(DEAD))
    return Cells(jnp.ones(condition.shape, jnp.float32), exponent)


def exp(x: Float32[Array, "*shape"], error: Float32[Array, "*shape"], *, num_factors: int) -> Cells:
    """exp(x + error) for x <= 0, where at most `num_factors` such cells are multiplied together.

    `error` is what rounding took from x. Zero where x is NaN, -infinity, or so low that the product of `num_factors` of
    them would leave the range of living cells (for 800 factors below -232,000).
    """
    lowest = LOWEST_ALIVE // max(num_factors, 1) * LN2
    is_alive = x > jnp.float32(lowest)
    x = jnp.where(is_alive, x, jnp.float32(0))
    exponent = jnp.floor(x * jnp.float32(1 / LN2))
    rest = (x - exponent * jnp.float32(_LN2_HIGH)) - exponent * jnp.float32(_LN2_LOW)
    mantissa = jnp.exp(rest + jnp.where(is_alive, error, jnp.float32(0)))
    return Cells(mantissa, jnp.where(is_alive, exponent.astype(jnp.int32), jnp.int32(DEAD)))


def normalize(cells: Cells) -> Cells:
    """The same numbers with mantissas in [1, 2)."""
    bits = jax.lax.bitcast_convert_type(cells.mantissa, jnp.int32)
    mantissa = jax.lax.bitcast_convert_type((bits & 0x007F_FFFF) | 0x3F80_0000, jnp.float32)
    return Cells(mantissa, cells.exponent + (bits >> 23) - 127)


def multiply(a: Cells, b: Cells) -> Cells:
    """a * b, normalized; dead times anything stays dead and does not drift down."""
    return normalize(Cells(a.mantissa * b.mantissa, jnp.maximum(a.exponent + b.exponent, DEAD)))


def add(first: Cells, *others: Cells) -> Cells:
    """Sum of two or three normalized cells, not normalized; a term more than 2**126 below the largest is lost."""
    exponent = first.exponent
    for cells in others:
        exponent = jnp.maximum(exponent, cells.exponent)
    mantissa = first.mantissa * _power_of_two(first.exponent - exponent)
    for cells in others:
        mantissa = mantissa + cells.mantissa * _power_of_two(cells.exponent - exponent)
    return Cells(mantissa, exponent)


def share(a: Cells, b: Cells, exponent: Int32[Array, "..."]) -> Float32[Array, "..."]:
    """a * b / 2**exponent as a plain float32, for results of order 1 or less; below 2**-126 it is 0."""
    return a.mantissa * b.mantissa * _power_of_two(a.exponent + b.exponent - exponent)


def _power_of_two(exponent: Int32[Array, "..."]) -> Float32[Array, "..."]:
    """2**exponent for exponents up to 127, from bits; 0 below -126: CPU and GPU treat subnormals differently."""
    return jax.lax.bitcast_convert_type(jnp.maximum(exponent + 127, 0) << 23, jnp.float32)
