"""Rounding: how a real number becomes a representable one.

The kernel works on the bits of float32 with unsigned integers and never on floats, for three reasons. XLA:CPU flushes
float32's subnormals to zero and ignores them in comparisons, which would lose half of bfloat16's smallest binade. Under
jit a backend may delete the pair `x.astype(float16).astype(float32)` as "excess precision"; it cannot delete integer
arithmetic. And `lax.reduce_precision(x, 5, 10)` flushes float16's subnormals.

Two regimes, chosen for each element:

* normal in the target: the magnitude, read as an integer, is rounded at a fixed bit. A carry runs into the exponent field
  and gives the next binade, as it should.
* subnormal in the target (only where its smallest exponent lies above float32's): the significand is shifted until its
  unit is the smallest subnormal, rounded to an integer, and that integer times the smallest subnormal is exact.

Only `ties_to_even` exists so far. Overflow gives infinity, as IEEE 754 asks of it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt32

from dsrun.arithmetic.formats import FLOAT32, Format

_SIGN = 0x8000_0000
_INFINITY = 0x7F80_0000
_HIDDEN = 0x0080_0000
_FRACTION = 0x007F_FFFF
_BIAS = 127


def round_to(
    x: Float32[Array, "*shape"], format: Format, *, mode: str = "ties_to_even", key: Array | None = None
) -> Float32[Array, "*shape"]:
    """Each element of `x` on the grid of `format`, still carried in float32.

    Args:
        x: any float32 values, subnormals, infinities and NaNs included.
        format: the target; float32 returns `x` itself.
        mode: `ties_to_even`.
        key: unused by the modes that exist; a mode that draws random bits will need it.

    Returns:
        float32 array of x's shape. NaN stays NaN, infinities and signed zeros stay themselves.

    Raises:
        ValueError: a mode that is not available, or a key given to a mode that draws nothing.

    Arithmetic: correctly rounded, once; the same bits under jit, vmap and on every backend.
    """
    if mode != "ties_to_even":
        raise ValueError(f"rounding mode {mode!r} is not available yet; write ties_to_even.")
    if key is not None:
        raise ValueError("ties_to_even draws no random bits; call it without key.")
    if format == FLOAT32:
        return x
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = bits & jnp.uint32(_SIGN)
    magnitude = bits ^ sign
    rounded = _round_bits(magnitude, jnp.uint32(FLOAT32.precision - format.precision))
    if format.min_exponent > FLOAT32.min_exponent:
        is_subnormal = magnitude < jnp.uint32((format.min_exponent + _BIAS) << 23)
        rounded = jnp.where(is_subnormal, _round_subnormal(magnitude, format), rounded)
    rounded = jnp.where(rounded > jnp.uint32(_max_bits(format)), jnp.uint32(_INFINITY), rounded)
    # A NaN's bits must not be rounded: 0x7F800001 would lose its fraction and become infinity.
    rounded = jnp.where(magnitude >= jnp.uint32(_INFINITY), magnitude, rounded)
    return jax.lax.bitcast_convert_type(sign | rounded, jnp.float32)


def _round_bits(value: UInt32[Array, "..."], drop: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """`value` rounded to a multiple of 2**drop, ties to the even multiple; 1 <= drop <= 31, all bits stay in place."""
    one = jnp.uint32(1)
    is_odd = (value >> drop) & one
    half_minus_one = (one << (drop - one)) - one
    return ((value + half_minus_one + is_odd) >> drop) << drop


def _round_subnormal(magnitude: UInt32[Array, "..."], format: Format) -> UInt32[Array, "..."]:
    """Float32 bits of a magnitude below the target's smallest normal, rounded to its smallest subnormal's multiples."""
    field = magnitude >> jnp.uint32(23)
    # A float32 subnormal has field 0 and no hidden bit; its exponent is that of field 1. It is far below half of the
    # target's smallest subnormal, so the clamped shift takes it to zero.
    significand = (magnitude & jnp.uint32(_FRACTION)) | jnp.where(field > 0, jnp.uint32(_HIDDEN), jnp.uint32(0))
    unit_field = format.min_exponent - format.precision + 1 + _BIAS + 23  # field at which one significand bit is a unit
    shift = jnp.minimum(jnp.uint32(unit_field) - field, jnp.uint32(25))
    units = _round_bits(significand, shift) >> shift
    value = units.astype(jnp.float32) * jnp.float32(format.smallest_subnormal)
    return jax.lax.bitcast_convert_type(value, jnp.uint32)


def _max_bits(format: Format) -> int:
    """Float32 bits of the format's largest finite value."""
    fraction = _FRACTION & ~((1 << (FLOAT32.precision - format.precision)) - 1)
    return ((format.max_exponent + _BIAS) << 23) | fraction
