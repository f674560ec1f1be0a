"""The scalar twin: the same formats and roundings, one number at a time, in exact fractions. To be read against the standard.

No JAX, no NumPy, no bit patterns of float32. `rounding.py` is the fast way to say what this page says; the same tests run
both and ask for equality. The steps are those of IEEE 754-2019, clause 4.3: take the exact number; find its neighbours on
the grid as if the exponent had no upper bound, `lo` towards zero and `hi` away from it; let the mode choose; then, if the
choice lies beyond the largest value, let the overflow rule answer.

* The grid is lo = units * spacing, hi = lo + spacing, and f = (|x| - lo) / spacing is in [0, 1). f = 0 is a value
  of the format: it stays, in every mode.
* Even means that `units` is even. That agrees with the last bit of the stored code, also across binades. A format without
  subnormals has 0 and its smallest normal as neighbours; of these 0 counts as even.
* Stochastic with n random bits r goes to hi when floor(f * 2**n) + r >= 2**n: with probability f cut to n bits.
* NaN stays NaN, also in a format that has none: the values are carried in float32, and an error must stay visible.

Codes: sign, exponent field, fraction, from the top bit down. Which codes are not numbers depends on the kind of format: with
infinities, the whole top exponent (IEEE 754); `fn`, all ones (OCP's e4m3); `fnuz`, the code that would be -0; the 6- and
4-bit formats have none. Fixed point's codes are integers in two's complement. (The letters are ml_dtypes': finite, NaN, unsigned zero.)
"""

import math
from fractions import Fraction

from dsrun.arithmetic.formats import DEFAULT_RANDOM_BITS, FixedFormat, FloatFormat, GridFormat


def decode(format: GridFormat, code: int) -> float:
    """The value of a stored code, 0 to 2**bits - 1. In a format without subnormals their codes are zeros."""
    if isinstance(format, FixedFormat):
        is_negative = code >= 2 ** (format.word_length - 1)
        return math.ldexp(code - (2**format.word_length if is_negative else 0), -format.fraction_length)
    fraction_bits = format.precision - 1
    exponent_bits = format.bits - format.precision
    fraction = code % 2**fraction_bits
    field = code // 2**fraction_bits % 2**exponent_bits
    is_negative = code >= 2 ** (format.bits - 1)
    is_top_field = field == 2**exponent_bits - 1
    if format.infinity and is_top_field:
        return _signed(math.inf, is_negative) if fraction == 0 else math.nan
    if format.nan and not format.infinity:
        is_all_ones = is_top_field and fraction == 2**fraction_bits - 1
        is_minus_zero = is_negative and field == fraction == 0
        if is_all_ones if format.negative_zero else is_minus_zero:
            return math.nan
    hidden = 2**fraction_bits if field > 0 else 0
    significand = hidden + (fraction if field > 0 or format.subnormals else 0)
    return _signed(math.ldexp(significand, format.min_exponent + max(field, 1) - 1 - fraction_bits), is_negative)


def finite_values(format: GridFormat) -> list[float]:
    """Every finite value, ascending, zero once. For formats of up to 16 bits or so."""
    return sorted({value for code in range(2**format.bits) if math.isfinite(value := decode(format, code))})


def round_scalar(
    x: float, format: GridFormat, mode: str, *, random: int = 0, random_bits: int = DEFAULT_RANDOM_BITS
) -> float:
    """`x` on the grid of `format`.

    Args:
        x: any float of Python, 53 bits wide, so that a float64 is rounded once.
        mode: one of `formats.MODES`.
        random: 0 to 2**random_bits - 1, for the modes that draw; stochastic_equal reads its top bit.
    """
    if math.isnan(x):
        return x
    is_negative = math.copysign(1.0, x) < 0
    if math.isinf(x):
        return _beyond_the_range(format, mode, is_negative, is_infinite=True)
    magnitude = abs(Fraction(x))
    spacing = _spacing(magnitude, format)
    units, rest = divmod(magnitude, spacing)
    f = rest / spacing
    if _goes_away(f, mode, units % 2 == 1, is_negative, random, random_bits):
        units += 1
    rounded = units * spacing
    if format.overflow == "wrap":
        return _wrap(-units if is_negative else units, format)
    if rounded > abs(Fraction(format.min_value if is_negative else format.max_value)):
        return _beyond_the_range(format, mode, is_negative, is_infinite=False)
    if rounded == 0 and not (isinstance(format, FloatFormat) and format.negative_zero):
        return 0.0
    return _signed(float(rounded), is_negative)


def _spacing(magnitude: Fraction, format: GridFormat) -> Fraction:
    """Distance of the two neighbours of a magnitude (of the values at it and above, where it is a value itself)."""
    if not isinstance(format, FloatFormat):
        return Fraction(1, 2**format.fraction_length)
    is_normal = magnitude >= Fraction(2) ** format.min_exponent
    if not is_normal and not format.subnormals:
        return Fraction(2) ** format.min_exponent
    exponent = _exponent(magnitude) if is_normal else format.min_exponent
    return Fraction(2) ** (exponent - format.precision + 1)


def _exponent(magnitude: Fraction) -> int:
    """The e with 2**e <= magnitude < 2**(e + 1)."""
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if Fraction(2) ** guess <= magnitude else guess - 1


def _goes_away(f: Fraction, mode: str, is_odd: bool, is_negative: bool, random: int, random_bits: int) -> bool:
    """Whether the mode chooses the neighbour further from zero."""
    half = Fraction(1, 2)
    match mode:
        case "ties_to_even":
            return f > half or (f == half and is_odd)
        case "ties_to_away":
            return f >= half
        case "toward_zero":
            return False
        case "toward_positive":
            return f > 0 and not is_negative
        case "toward_negative":
            return f > 0 and is_negative
        case "stochastic":
            return math.floor(f * 2**random_bits) + random >= 2**random_bits
        case "stochastic_equal":
            return f > 0 and random >= 2 ** (random_bits - 1)
    raise ValueError(f"unknown rounding {mode!r}")


def _beyond_the_range(format: GridFormat, mode: str, is_negative: bool, *, is_infinite: bool) -> float:
    """IEEE 754-2019, 7.4: a mode that points back towards zero ends at the largest value, the others at infinity (or NaN)."""
    points_back = {"toward_zero": True, "toward_positive": is_negative, "toward_negative": not is_negative}
    if format.overflow == "wrap":
        return math.nan  # only an infinity comes here: it is no number of spacings
    if format.overflow == "saturate" or (points_back.get(mode, False) and not is_infinite):
        return format.min_value if is_negative else format.max_value
    return _signed(math.inf, is_negative) if format.overflow == "infinity" else math.nan


def _wrap(units: int, format: GridFormat) -> float:
    """Two's complement: the representative of `units` modulo 2**bits that the word holds."""
    half = 2 ** (format.bits - 1)
    return ((units + half) % (2 * half) - half) * format.smallest_positive


def _signed(magnitude: float, is_negative: bool) -> float:
    return -magnitude if is_negative else magnitude
