"""The grid of a format as a reader with pencil and paper has it: its spacing at a number, in exact arithmetic. No JAX.

`ulp` is the spacing of the binade that the number lies in: 2**(max(exponent, min_exponent) - p + 1) for a float format, constant
for fixed point. Just below a power of two the neighbour is half of that away.
"""

import math
from fractions import Fraction

from dsrun.arithmetic import FLOAT32, FixedFormat, FloatFormat, parse_format
from dsrun.arithmetic.formats import Format, GridFormat, check_rounding
from dsrun.errors import UsageError


def parse_named(name: str) -> Format:
    """The format called `name`. Raises UsageError if there is none."""
    try:
        return parse_format(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def parse_grid(name: str) -> GridFormat:
    """The format called `name`, if one number alone can be rounded to it.

    Raises:
        UsageError: no such format, or one whose values depend on their neighbours.
    """
    format = parse_named(name)
    if not isinstance(format, FloatFormat | FixedFormat):
        raise UsageError(
            f"{format} takes its scale from all values of a tensor or block, so it has no grid for one number alone; write a float "
            "or fixed-point format, e.g. float16, float8_e4m3fn or fixed_q4.12."
        )
    return format


def check_mode(format: GridFormat, mode: str, random_bits: int | None = None) -> None:
    """Refuse a mode that cannot be shown on this format; float32 is what sums are made in.

    Raises:
        UsageError: says why and what to write.
    """
    try:
        check_rounding(format, mode, random_bits)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if format == FLOAT32 and mode != "ties_to_even":
        raise UsageError(
            f"float32 sums are rounded by the hardware, to nearest with ties to even; {mode} cannot be shown on float32. Choose a "
            "smaller format, e.g. float_e8m20."
        )


def ulp(format: GridFormat, x: float) -> float:
    """Spacing of the grid in the binade of `x`."""
    if isinstance(format, FixedFormat):
        return format.smallest_positive
    exponent = math.frexp(x)[1] - 1 if x else format.min_exponent
    if exponent >= format.min_exponent:
        return 2.0 ** (exponent - format.precision + 1)
    return format.smallest_positive


def is_on_grid(format: GridFormat, x: float) -> bool:
    """`x` is a value of the format."""
    return format.min_value <= x <= format.max_value and Fraction(x) % Fraction(ulp(format, x)) == 0


def nearest(format: GridFormat, x: float) -> float:
    """`x`, within the range, rounded to nearest on the grid, ties to even."""
    spacing = ulp(format, x)
    return round(Fraction(x) / Fraction(spacing)) * spacing  # Python's round to an integer ties to even


def require_in_range(format: GridFormat, x: float, what: str) -> None:
    """Raises UsageError if `x` lies beyond the format's range."""
    if not format.min_value <= x <= format.max_value:
        raise UsageError(
            f"{what} {x:g} lies beyond {format}, which ends at {format.min_value:g} and {format.max_value:g}."
        )
