"""Rounding: how a real number becomes a representable one. One integer kernel for every grid and every mode.

The kernel works on the bits of float32 with unsigned integers and never on floats, for three reasons. XLA:CPU flushes
float32's subnormals to zero and ignores them in comparisons, which would lose half of bfloat16's smallest binade. Under
jit a backend may delete the pair `x.astype(float16).astype(float32)` as "excess precision"; it cannot delete integer
arithmetic. And `lax.reduce_precision(x, 5, 10)` flushes float16's subnormals.

Sign and magnitude are separated. To drop d low bits of an integer is to add a bias below 2**d and to cut, and the mode is
the bias: half less one plus the last kept bit (ties_to_even), half (ties_to_away), 0 (toward_zero), all ones or 0 by the sign
(toward_positive, toward_negative), random bits (stochastic), all ones half of the time (stochastic_equal). A value that is on
the grid has nothing to drop and stays, whatever the bias. Where to cut:

* at or above the smallest normal, at a fixed bit of the magnitude read as an integer; a carry runs into the exponent
  field and gives the next binade, as it should;
* below it the spacing is constant: the significand is shifted until its unit is that spacing, cut, and the integer times the
  unit is exact. A fixed-point format is all of this kind: "a float that is all subnormal".

Then the range test, on integers too; then infinities and NaN, whose bits must not be rounded (0x7F800001 would lose its
fraction and become infinity).

Stochastic with n random bits r: with the dropped part t of d bits, go away from zero if floor(t 2**(n-d)) + r >= 2**n, so
P(away) is t / 2**d cut to n bits: exact for n >= d, else biased towards zero by 2**-(n+1) of a spacing on average. The same r
moves a larger magnitude at least as far (monotone coupling), and the sign does not matter. Beyond the range it
follows the overflow rule of the format: the chance of infinity in the last interval is the distance from the largest value.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt32

from dsrun.arithmetic import random_bits as generator
from dsrun.arithmetic.formats import (
    DEFAULT_RANDOM_BITS,
    FLOAT32,
    RANDOM_MODES,
    FixedFormat,
    FloatFormat,
    Format,
    GridFormat,
    check_rounding,
)

_SIGN = 0x8000_0000
_INFINITY = 0x7F80_0000
_QUIET_NAN = 0x7FC0_0000
_HIDDEN = 0x0080_0000
_FRACTION = 0x007F_FFFF
_BIAS = 127


def round_to(
    x: Float32[Array, "*shape"],
    format: Format,
    *,
    mode: str = "ties_to_even",
    key: Array | None = None,
    random_bits: int = DEFAULT_RANDOM_BITS,
) -> Float32[Array, "*shape"]:
    """Each element of `x` on the grid of `format`, still carried in float32.

    Args:
        x: any float32 values, subnormals, infinities and NaNs included.
        format: the target; float32 returns `x` itself. A scaled format takes its scale from all of `x` (by its granularity), a
            block format from 32 neighbours on the last axis.
        mode: one of `formats.MODES`.
        key: of `dsrun.arithmetic.random_bits`, for the modes that draw: stochastic and stochastic_equal.
        random_bits: how many bits a stochastic rounding compares, 1 to 31.

    Returns:
        float32 array of x's shape. NaN stays NaN, also in a format without one; infinities and numbers beyond the range become
        what the format's `overflow` says; signed zeros stay themselves where the format has them.

    Raises:
        ValueError: a mode that does not exist or that the format cannot honour, a key given to a mode that draws nothing, or
            none given to one that does.

    Arithmetic: correctly rounded, once, from float32; the same bits under jit and any sharding, and under vmap for modes that draw nothing
        (one that draws needs `random_bits.draw` with the number of each part's first element). The input is float32: rounding
        a float64 result here would be its second rounding. The same bits on every backend too, but for the formats with a scale:
        they divide, and a backend whose float32 division is not correctly rounded may choose another code near a tie.
    """
    check_rounding(format, mode, None if random_bits == DEFAULT_RANDOM_BITS else random_bits)
    if (key is None) == (mode in RANDOM_MODES):
        reason = "random bits; give key" if key is None else "no random bits; call it without key"
        raise ValueError(f"{mode} draws {reason}.")
    if format == FLOAT32:
        return x
    bits = None if key is None else generator.draw(key, x.shape)
    if isinstance(format, FloatFormat | FixedFormat):
        return round_on_grid(x, format, mode=mode, bits=bits, random_bits=random_bits)
    from dsrun.arithmetic.scaled import round_scaled

    return round_scaled(x, format, mode=mode, bits=bits, random_bits=random_bits)


def round_on_grid(
    x: Float32[Array, "*shape"],
    format: GridFormat,
    *,
    mode: str = "ties_to_even",
    bits: UInt32[Array, "*shape"] | None = None,
    random_bits: int = DEFAULT_RANDOM_BITS,
) -> Float32[Array, "*shape"]:
    """The kernel: `x` on the grid of a float or fixed-point format, with 32 random bits an element given (the top ones are used)."""
    grid = _grid_of(format)
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = pattern & jnp.uint32(_SIGN)
    magnitude = pattern ^ sign
    bias = _Bias(mode, sign, bits, random_bits)
    rounded = bias.cut(magnitude, grid.normal_drop) if grid.normal_drop else magnitude
    units = None
    if grid.threshold:
        units = _units(magnitude, grid, bias)
        value = units.astype(jnp.float32) * jnp.float32(2.0**grid.unit_exponent)
        below = jax.lax.bitcast_convert_type(value, jnp.uint32)
        rounded = jnp.where(magnitude < jnp.uint32(grid.threshold), below, rounded)
    if format.overflow == "wrap":
        assert units is not None
        assert isinstance(format, FixedFormat)
        return _wrapped(magnitude, sign, units, grid, format)
    beyond, of_infinity = _overflow_bits(format, grid, mode, sign)
    limit = jnp.where(sign != 0, jnp.uint32(grid.min_bits), jnp.uint32(grid.max_bits))
    rounded = jnp.where(
        rounded > (limit if grid.min_bits != grid.max_bits else jnp.uint32(grid.max_bits)), beyond, rounded
    )
    rounded = jnp.where(magnitude == jnp.uint32(_INFINITY), of_infinity, rounded)
    rounded = jnp.where(magnitude > jnp.uint32(_INFINITY), magnitude | jnp.uint32(_QUIET_NAN), rounded)
    if not grid.negative_zero:
        sign = jnp.where(rounded == 0, jnp.uint32(0), sign)
    return jax.lax.bitcast_convert_type(sign | rounded, jnp.float32)


@dataclass(frozen=True)
class _Grid:
    """A format as the kernel reads it; magnitudes as float32 bits."""

    normal_drop: int  # low bits dropped at or above the threshold
    threshold: int  # where the spacing starts to grow with the magnitude; 0 where float32's own subnormals do it
    unit_exponent: int  # the spacing below the threshold is 2**unit_exponent
    max_bits: int
    min_bits: int  # of the most negative value
    negative_zero: bool


def _grid_of(format: GridFormat) -> _Grid:
    largest, lowest = float32_bits(format.max_value), float32_bits(-format.min_value)
    if isinstance(format, FixedFormat):
        # From 2**24 spacings on every float32 is a multiple of the spacing: nothing to drop.
        unit = -format.fraction_length
        return _Grid(0, (unit + 24 + _BIAS) << 23, unit, largest, lowest, negative_zero=False)
    drop = FLOAT32.precision - format.precision
    has_own_threshold = format.min_exponent > FLOAT32.min_exponent or not format.subnormals
    unit = format.min_exponent - (format.precision - 1 if format.subnormals else 0)
    threshold = (format.min_exponent + _BIAS) << 23 if has_own_threshold else 0
    return _Grid(drop, threshold, unit, largest, lowest, format.negative_zero)


def float32_bits(value: float) -> int:
    """Bits of a float32 value that is normal or zero, by exact arithmetic."""
    if value == 0:
        return 0
    numerator, denominator = value.as_integer_ratio()
    exponent = numerator.bit_length() - denominator.bit_length()
    significand = numerator * 2**23 / (denominator * 2.0**exponent)
    if significand < 2**23:
        exponent, significand = exponent - 1, significand * 2
    return ((exponent + _BIAS) << 23) | (int(significand) & _FRACTION)


@dataclass(frozen=True)
class _Bias:
    """What is added before the cut, by mode."""

    mode: str
    sign: UInt32[Array, "..."]
    bits: UInt32[Array, "..."] | None
    random_bits: int

    @property
    def is_all_or_nothing(self) -> bool:
        """The bias is all ones or nothing, so the smallest dropped part decides."""
        return self.mode in ("toward_positive", "toward_negative", "stochastic_equal")

    def cut(self, value: UInt32[Array, "..."], drop: int) -> UInt32[Array, "..."]:
        """`value` to a multiple of 2**drop."""
        return self.quotient(value, drop) << jnp.uint32(drop)

    def quotient(self, value: UInt32[Array, "..."], drop: int | UInt32[Array, "..."]) -> UInt32[Array, "..."]:
        """`value` / 2**drop rounded to an integer; 0 <= drop <= 31, one for all or one an element."""
        one = jnp.uint32(1)
        random = self._random(drop) if self.mode == "stochastic" else None
        drop = jnp.asarray(drop, jnp.uint32)
        ones = (one << drop) - one
        if self.mode == "ties_to_even":
            bias = (ones >> one) + ((value >> drop) & one & jnp.minimum(drop, one))
        elif self.mode == "ties_to_away":
            bias = (ones + one) >> one
        elif self.mode == "toward_zero":
            bias = jnp.zeros_like(value)
        elif random is not None:
            bias = random
        else:
            bias = jnp.where(self._is_away(), ones, jnp.uint32(0))
        return (value + bias) >> drop

    def _is_away(self) -> Array:
        if self.mode == "stochastic_equal":
            assert self.bits is not None
            return self.bits >= jnp.uint32(_SIGN)
        return (self.sign == 0) == (self.mode == "toward_positive")

    def _random(self, drop: int | UInt32[Array, "..."]) -> UInt32[Array, "..."]:
        """The top `random_bits` bits, as the top bits of a number of `drop` bits; what does not fit is cut."""
        assert self.bits is not None
        n = self.random_bits
        drawn = self.bits >> jnp.uint32(32 - n)
        if isinstance(drop, int):
            return drawn >> jnp.uint32(n - drop) if drop <= n else drawn << jnp.uint32(drop - n)
        width = jnp.uint32(n)
        return (drawn >> (jnp.maximum(width, drop) - drop)) << (jnp.maximum(drop, width) - width)


def _units(magnitude: UInt32[Array, "..."], grid: _Grid, bias: _Bias) -> UInt32[Array, "..."]:
    """A magnitude below the threshold in whole spacings; above it anything."""
    field = magnitude >> jnp.uint32(23)
    # A float32 subnormal has field 0, no hidden bit, and the exponent of field 1.
    significand = (magnitude & jnp.uint32(_FRACTION)) | jnp.where(field > 0, jnp.uint32(_HIDDEN), jnp.uint32(0))
    unit_field = jnp.uint32(grid.unit_exponent + _BIAS + 23)  # the field at which one significand bit is one spacing
    distance = jnp.maximum(unit_field, field) - jnp.maximum(field, jnp.uint32(1))
    # A shift of more than 31 is undefined: what is beyond goes out of the significand first.
    extra = jnp.minimum(jnp.maximum(distance, jnp.uint32(31)) - jnp.uint32(31), jnp.uint32(31))
    value = significand >> extra
    if bias.is_all_or_nothing:
        value = jnp.maximum(value, jnp.minimum(significand, jnp.uint32(1)))
    return bias.quotient(value, jnp.minimum(distance, jnp.uint32(31)))


def _overflow_bits(format: GridFormat, grid: _Grid, mode: str, sign: UInt32[Array, "..."]) -> tuple[Array, Array]:
    """Magnitude bits that a finite number beyond the range and an infinity get."""
    largest = jnp.uint32(grid.max_bits)
    if grid.min_bits != grid.max_bits:
        largest = jnp.where(sign != 0, jnp.uint32(grid.min_bits), largest)
    if format.overflow == "saturate":
        return largest, largest
    special = jnp.uint32(_INFINITY if format.overflow == "infinity" else _QUIET_NAN)
    if mode == "toward_zero":
        return largest, special
    if mode in ("toward_positive", "toward_negative"):
        return jnp.where((sign == 0) == (mode == "toward_positive"), special, largest), special
    return special, special


def _wrapped(
    magnitude: UInt32[Array, "..."],
    sign: UInt32[Array, "..."],
    units: UInt32[Array, "..."],
    grid: _Grid,
    format: FixedFormat,
) -> Float32[Array, "..."]:
    """Two's complement: the number of spacings modulo 2**word_length; infinities have none and become NaN."""
    field = magnitude >> jnp.uint32(23)
    shift = jnp.maximum(field, jnp.uint32(grid.unit_exponent + _BIAS + 23)) - jnp.uint32(
        grid.unit_exponent + _BIAS + 23
    )
    significand = (magnitude & jnp.uint32(_FRACTION)) | jnp.uint32(_HIDDEN)
    multiple = jnp.where(shift < 32, significand << jnp.minimum(shift, jnp.uint32(31)), jnp.uint32(0))
    units = jnp.where(magnitude < jnp.uint32(grid.threshold), units, multiple)
    code = jnp.where(sign != 0, jnp.uint32(0) - units, units) << jnp.uint32(32 - format.word_length)
    signed = jax.lax.bitcast_convert_type(code, jnp.int32) >> jnp.int32(32 - format.word_length)
    value = signed.astype(jnp.float32) * jnp.float32(2.0**grid.unit_exponent)
    return jnp.where(magnitude >= jnp.uint32(_INFINITY), jnp.float32(jnp.nan), value)
