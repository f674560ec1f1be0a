"""Formats with a scale: integers times a float32 taken from the data, and blocks of 32 with a power of two.

Scale of an integer format. absmax / max_code (int8: 127, the code -128 is not used; int4: 7), or the mean magnitude (ternary and
binary, as BitNet b1.58 and XNOR-Net have it). It is rounded up to 16 significand bits, so that code * scale is exact in
float32: a multiply-add that a compiler contracts gives the same bits, and rounding an int8 or int4 tensor to nearest again gives
the same tensor. Up, so that no value lies beyond the largest code by more than rounding x / scale.

    code  = x / scale, a float32 division, rounded to an integer by the mode, held to -max_code..max_code
    value = code * scale

No division by a constant takes part: under jit XLA multiplies by the constant's reciprocal, outside it divides, and the last bit
differs (which moved the scale of 123 of 200 int4 tensors when they were rounded again). absmax / max_code is the smallest 16-bit
number whose max_code-fold reaches absmax, found by exact products; a mean is a sum times 1 / n, n's reciprocal being rounded.

`binary` has two values, so its rounding is on a grid of spacing 2 * scale: nearest is the sign, stochastic takes
+scale with probability (x / scale + 1) / 2 held to 0..1 (BinaryConnect's rule).

Block formats (OCP Microscaling): scale 2**(exponent of the largest magnitude - largest exponent of the element); elements
saturate. e8m0 would allow scales down to 2**-127; ours end where the smallest element times the scale is still a normal float32
(mxfp8_e4m3: 2**-117), since XLA:CPU would flush what is smaller. The last block of an axis may be shorter. A NaN or an
infinity in a block makes it all NaN, as it does a tensor (channel, frame) of an integer format.

Sources: Jacob et al. 2018 (symmetric int8); Ma et al. 2024, BitNet b1.58 (absmean); Rastegari et al. 2016, XNOR-Net (binary scale);
Courbariaux et al. 2015, BinaryConnect; OCP Microscaling Formats specification.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt32

from dsrun.arithmetic.formats import RANDOM_MODES, BlockFormat, FixedFormat, FloatFormat, ScaledFormat
from dsrun.arithmetic.rounding import round_on_grid
from dsrun.arithmetic.summation import sum_magnitudes

_SCALE = FloatFormat("scale", 25, 16, -126, (2 - 2.0**-15) * 2.0**127)
_INTEGER = FixedFormat("integer", 9, 0)
_UNIT = FixedFormat("zero_or_one", 2, 0)  # -2..1; held to 0..1 before it is rounded
_SMALLEST_SCALE = 2.0**-100  # of a tensor of zeros; code * scale stays normal
_SCALE_STEP = 0x100  # float32 bits between neighbouring 16-bit significands
_SIGN = 0x8000_0000
_FRACTION = 0x007F_FFFF
_SMALLEST_NORMAL = 0x0080_0000  # of float32
_NOT_FINITE = 254  # an exponent field that no scale has: the largest element exponents are 2 to 15


def round_scaled(
    x: Float32[Array, "*shape"],
    format: ScaledFormat | BlockFormat,
    *,
    mode: str,
    bits: UInt32[Array, "*shape"] | None,
    random_bits: int,
    axis: int = -1,
) -> Float32[Array, "*shape"]:
    """`x` on the grid that its own values choose. `axis`: along which the blocks of a block format lie."""
    if isinstance(format, BlockFormat):
        return _round_blocks(x, format, mode=mode, bits=bits, random_bits=random_bits, axis=axis)
    rounded = partial(round_on_grid, mode=mode, bits=bits, random_bits=random_bits)
    scale = scale_of(x, format)
    ratio = _without_underflow(x, x / scale)
    if format.has_zero:
        codes = rounded(jnp.clip(ratio, -format.max_code, format.max_code), _INTEGER)
    elif mode in RANDOM_MODES:
        codes = 2.0 * rounded(jnp.clip(0.5 * (ratio + 1.0), 0.0, 1.0), _UNIT) - 1.0
    else:  # the sign itself: ratio + 1 would lose a ratio below 2**-24
        is_up = (ratio >= 0) if mode == "ties_to_away" else (ratio > 0)
        codes = jnp.where(jnp.isnan(ratio), ratio, jnp.where(is_up, jnp.float32(1), jnp.float32(-1)))
    return codes * scale


def scale_of(x: Float32[Array, "*shape"], format: ScaledFormat) -> Float32[Array, "..."]:
    """The scale, broadcastable to x's shape.

    tensor: one for all. channel: one for each index of the last axis; a vector, whose values are channels, has one for all. frame: one
    for each index of the first two axes, batch and time in either order, of [.., .., feature] or [.., .., bin, channel].
    """
    axes = tuple(range(x.ndim))
    if format.granularity == "channel" and x.ndim > 1:
        axes = axes[:-1]
    elif format.granularity == "frame":
        axes = axes[2:] if x.ndim > 2 else axes[-1:]
    if format.scale == "absmax":
        return absmax_scale(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0), format.max_code)
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    shared = math.prod(x.shape[axis] for axis in axes)
    rows = jnp.moveaxis(x, axes, range(len(axes))).reshape(shared, *(size for size in kept if size != 1))
    mean = sum_magnitudes(rows).reshape(kept) * jnp.float32(1 / max(shared, 1))
    return jnp.maximum(round_on_grid(mean, _SCALE, mode="toward_positive"), jnp.float32(_SMALLEST_SCALE))


def absmax_scale(largest: Float32[Array, "*shape"], max_code: int) -> Float32[Array, "*shape"]:
    """The smallest 16-bit number >= 2**-100 whose max_code-fold reaches `largest`."""
    # The float32 quotient may be off in its last bits; its neighbours on the 16-bit grid are tried by exact products.
    highest = 2.0 ** (128 - max_code.bit_length())  # beyond it the product would overflow; the largest codes saturate
    quotient = jnp.clip(largest / jnp.float32(max_code), _SMALLEST_SCALE, highest)
    first = (jax.lax.bitcast_convert_type(quotient, jnp.uint32) // jnp.uint32(_SCALE_STEP)) * jnp.uint32(_SCALE_STEP)
    candidates = [
        jax.lax.bitcast_convert_type(first + jnp.uint32(place * _SCALE_STEP), jnp.float32) for place in range(3)
    ]
    scale = candidates[2]
    for candidate in (candidates[1], candidates[0]):
        scale = jnp.where(candidate * jnp.float32(max_code) >= largest, candidate, scale)
    return jnp.where(jnp.isfinite(largest), scale, jnp.float32(jnp.nan))


def _without_underflow(x: Float32[Array, "*shape"], ratio: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """`ratio`, but 2**-126 with x's sign where x is not zero and the ratio is below that.

    XLA:CPU flushes those to zero, others do not; a directed mode would tell them apart, and all modes treat them alike.
    """
    pattern, ratio_pattern = (jax.lax.bitcast_convert_type(value, jnp.uint32) for value in (x, ratio))
    is_lost = (ratio_pattern & ~jnp.uint32(_SIGN)) < jnp.uint32(_SMALLEST_NORMAL)
    # By a carry and not by `> 0`: LLVM makes of that a comparison of the float with 0, for which a subnormal of a CPU that flushes is one.
    is_not_zero = ((pattern & ~jnp.uint32(_SIGN)) + jnp.uint32(~_SIGN & 0xFFFF_FFFF)) >> jnp.uint32(31)
    tiny = is_not_zero * jnp.uint32(_SMALLEST_NORMAL)
    return jax.lax.bitcast_convert_type(
        jnp.where(is_lost, (pattern & jnp.uint32(_SIGN)) | tiny, ratio_pattern), jnp.float32
    )


def _round_blocks(
    x: Float32[Array, "*shape"],
    format: BlockFormat,
    *,
    mode: str,
    bits: UInt32[Array, "*shape"] | None,
    random_bits: int,
    axis: int,
) -> Float32[Array, "*shape"]:
    if x.ndim == 0:
        raise ValueError(f"{format} rounds blocks of {format.block} values; a scalar has no neighbours.")
    axis %= x.ndim
    size = x.shape[axis]
    padding = [(0, -size % format.block if place == axis else 0) for place in range(x.ndim)]
    in_blocks = (*x.shape[:axis], -(-size // format.block), format.block, *x.shape[axis + 1 :])
    # The blocks get an axis of their own: a scale is then broadcast within the loop that rounds, not written out first.
    blocks = jnp.pad(x, padding).reshape(in_blocks)
    bits = None if bits is None else jnp.pad(bits, padding).reshape(in_blocks)
    exponent = _block_exponent(blocks, format, axis + 1)
    scale = jax.lax.bitcast_convert_type(exponent << jnp.uint32(23), jnp.float32)
    ratio = _divided_by_power_of_two(blocks, exponent)
    rounded = round_on_grid(ratio, format.element, mode=mode, bits=bits, random_bits=random_bits) * scale
    rounded = jnp.where(exponent == jnp.uint32(_NOT_FINITE), jnp.float32(jnp.nan), rounded)
    padded = (*in_blocks[:axis], in_blocks[axis] * format.block, *in_blocks[axis + 2 :])
    return jax.lax.slice_in_dim(rounded.reshape(padded), 0, size, axis=axis)


def _divided_by_power_of_two(
    x: Float32[Array, "*shape"], exponent: UInt32[Array, "*scales"]
) -> Float32[Array, "*shape"]:
    """x / 2**(exponent - 127) on the exponent field, since a product would flush a subnormal x; 2**-126 where it underflows."""
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32)
    magnitude = pattern & ~jnp.uint32(_SIGN)
    is_subnormal = magnitude < jnp.uint32(_SMALLEST_NORMAL)
    # A subnormal is an integer times 2**-149; the conversion of that integer is exact and normal.
    as_integer = jax.lax.bitcast_convert_type(magnitude.astype(jnp.float32), jnp.uint32)
    normal = jnp.where(is_subnormal, as_integer, magnitude)
    field = (normal >> jnp.uint32(23)) + jnp.where(is_subnormal, jnp.uint32(0), jnp.uint32(149))
    down = exponent + jnp.uint32(149 - 127)
    divided = ((jnp.maximum(field, down) - down) << jnp.uint32(23)) | (normal & jnp.uint32(_FRACTION))
    divided = jnp.where(field > down, divided, jnp.minimum(magnitude, jnp.uint32(1)) * jnp.uint32(_SMALLEST_NORMAL))
    return jax.lax.bitcast_convert_type((pattern & jnp.uint32(_SIGN)) | divided, jnp.float32)


def _block_exponent(x: Float32[Array, "*blocks"], format: BlockFormat, axis: int) -> UInt32[Array, "*scales"]:
    """Float32 exponent field of the scale that `axis` shares, kept as an axis of one; 254 marks a block that is not finite."""
    magnitude = jax.lax.bitcast_convert_type(x, jnp.uint32) & ~jnp.uint32(_SIGN)
    field = jnp.max(magnitude, axis=axis, keepdims=True) >> jnp.uint32(23)
    element = _exponent_of(format.element.max_value)
    lowest = 1 - _exponent_of(format.element.smallest_positive)  # keeps smallest_positive * scale normal
    shared = jnp.maximum(field, jnp.uint32(element + lowest)) - jnp.uint32(element)
    return jnp.where(field == jnp.uint32(255), jnp.uint32(_NOT_FINITE), shared)


def _exponent_of(value: float) -> int:
    """Exponent of a positive value's leading bit."""
    numerator, denominator = value.as_integer_ratio()
    exponent = numerator.bit_length() - denominator.bit_length()
    return exponent if numerator >= denominator * 2.0**exponent else exponent - 1
