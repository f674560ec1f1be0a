"""Codes: how a tensor becomes small integers (or float8 numbers) with a scale, and back. NumPy; what a program does is `network`'s.

    code  = round_half_even(x * inverse_scale) + zero_point, held to -largest..largest
    value = (code - zero_point) * scale

Convention. int8 codes are -127..127 and int4's -7..7: -128 (of int4: -8) is never used, so the codes are symmetric, a product of two
fits, and negation is exact. Multiplication by the scale's reciprocal, rounded once and stored, and no division: XLA makes of a division
by one number a product with the reciprocal, so that a division's last bit, and one code in millions, would depend on the compiler.
Weights are symmetric (zero_point 0). Inputs are symmetric too, or affine where the values have (almost) one sign, as behind a rectifier;
zero is always a code. A scale is rounded up to 16 significand bits, so that code * scale is exact in float32 and nothing lies beyond the
largest code for the rounding of the scale alone (`arithmetic.scaled` has the same rule for it, so values that were trained on the grid
keep their codes).

float8_e4m3fn: codes are numbers of that format, the scale puts the end of the range on 448, beyond it they saturate.

Ranges (`Method`), from values or from a histogram of them:
* `absmax`: the largest magnitude; nothing is clipped.
* `percentile`: 99.99 % of the values lie within; the rest is clipped.
* `mse`: the end, among 64 up to the largest magnitude, with the smallest mean squared error of rounding and clipping together.
* `minmax_of_histogram`: from the lowest to the highest bin that holds a value, always affine (for weights: as absmax).

Sources: Jacob et al. 2018 (integer products, affine inputs); Micikevicius et al. 2022 (float8 with a scale for each tensor).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float, Float32, Shaped

from dsrun.arithmetic.scaled import absmax_scale

DeployFormat = Literal["float32", "float16", "bfloat16", "int8", "int4", "float8_e4m3fn"]
Granularity = Literal["layer", "channel"]
Method = Literal["absmax", "percentile", "mse", "minmax_of_histogram"]
FORMATS: tuple[DeployFormat, ...] = get_args(DeployFormat)
METHODS: tuple[Method, ...] = get_args(Method)
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
LARGEST_CODE = {"int8": 127, "int4": 7, "float8_e4m3fn": 448}  # of the formats with a scale
INTEGERS = ("int8", "int4")
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4, "float8_e4m3fn": 8}
PERCENTILE = 99.99
CANDIDATES = 64  # ends that `mse` tries
ONE_SIDED = 64  # a range whose shorter side is less than so small a part of the longer one is coded affinely


def has_scale(format: str) -> bool:
    """Whether values of the format are codes with a scale."""
    return format in LARGEST_CODE


def most_inputs(format: DeployFormat) -> int:
    """Of a product in an integer format, so that no int32 sum of codes as they are made here wraps, that of a zero point included."""
    return (2**31 - 1) // (2 * LARGEST_CODE["int8"] * LARGEST_CODE[format])


def input_format(format: DeployFormat) -> DeployFormat:
    """What a product's inputs are, by its weights' format: int4 weights are multiplied by int8 inputs."""
    return "int8" if format == "int4" else format


@dataclass(frozen=True)
class Coding:
    """A format with a scale and zero point; the scale is one number, or one a channel (the last axis)."""

    format: DeployFormat
    scale: Float32[np.ndarray, "..."]
    zero_point: int = 0

    def encode(self, x: Float[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """Codes: int8 for the integer formats, float8 numbers otherwise."""
        largest = LARGEST_CODE[self.format]
        ratio = np.asarray(x, np.float32) * self.inverse_scale
        if self.format not in INTEGERS:
            return np.clip(ratio, -largest, largest).astype(ml_dtypes.float8_e4m3fn)
        return np.clip(np.rint(ratio) + self.zero_point, -largest, largest).astype(np.int8)

    def decode(self, codes: Shaped[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
        """The values that codes stand for."""
        return (codes.astype(np.float32) - np.float32(self.zero_point)) * self.scale

    @property
    def inverse_scale(self) -> Float32[np.ndarray, "..."]:
        """The reciprocal, rounded to float32."""
        return np.asarray(np.float32(1) / self.scale)

    @property
    def low(self) -> Float32[np.ndarray, "..."]:
        """Smallest value with a code."""
        return np.asarray(np.float32(-LARGEST_CODE[self.format] - self.zero_point) * self.scale)

    @property
    def high(self) -> Float32[np.ndarray, "..."]:
        """Largest value with a code."""
        return np.asarray(np.float32(LARGEST_CODE[self.format] - self.zero_point) * self.scale)

    def clipped(self, x: Float[np.ndarray, "*shape"]) -> int:
        """How many values lie beyond the outermost codes by more than half a step, and are moved by more than rounding moves them."""
        step = self.scale / 2 if self.format in INTEGERS else np.float32(0)
        return int(np.count_nonzero((x > self.high + step) | (x < self.low - step)))


def scale_reaching(largest: Float[np.ndarray, "*shape"], max_code: int) -> Float32[np.ndarray, "*shape"]:
    """The smallest scale of 16 significand bits whose max_code-fold reaches `largest`."""
    return np.asarray(absmax_scale(jnp.asarray(largest, jnp.float32), max_code))


def weight_coding(
    weight: Float32[np.ndarray, "... channel"], format: DeployFormat, granularity: Granularity, method: Method
) -> Coding:
    """Symmetric coding of a weight, one scale for all of it or one for each channel (its last axis)."""
    rows = np.abs(weight.reshape(-1, weight.shape[-1]))
    if granularity == "layer":
        rows = rows.reshape(-1, 1)
    end = rows.max(axis=0)
    if method == "percentile":
        end = np.percentile(rows, PERCENTILE, axis=0).astype(np.float32)
    elif method == "mse":
        end = _ends_by_error(rows, end, format)
    scale = scale_reaching(end, LARGEST_CODE[format])
    return Coding(format, scale if granularity == "channel" else scale.reshape(()))


def _ends_by_error(
    rows: Float32[np.ndarray, "value channel"], largest: Float32[np.ndarray, " channel"], format: DeployFormat
) -> Float32[np.ndarray, " channel"]:
    best, least = largest, np.full(largest.shape, np.inf)
    for end in _candidates(largest):
        coding = Coding(format, scale_reaching(end, LARGEST_CODE[format]))
        error = np.mean(np.square(rows - coding.decode(coding.encode(rows)), dtype=np.float64), axis=0)
        best, least = np.where(error < least, end, best), np.minimum(error, least)
    return best.astype(np.float32)


def _candidates(largest: Float[np.ndarray, "..."]) -> list[Float32[np.ndarray, "..."]]:
    """Ends of a range to try, the widest first: of equal errors the one that clips less counts."""
    return [np.asarray(largest * (part / CANDIDATES), np.float32) for part in range(CANDIDATES, CANDIDATES // 8, -1)]


@dataclass(frozen=True)
class Histogram:
    """How often values of a tensor lie in bins of equal width over low..high, which are its smallest and largest value."""

    low: float
    high: float
    counts: np.ndarray

    @property
    def centres(self) -> Float32[np.ndarray, " bin"]:
        """Middle of each bin."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return ((edges[1:] + edges[:-1]) / 2).astype(np.float32)


def input_coding(histogram: Histogram, format: DeployFormat, method: Method) -> Coding:
    """Coding of what goes into a product: one scale, symmetric or affine as the module says."""
    if method == "minmax_of_histogram" and format in INTEGERS:
        occupied = np.flatnonzero(histogram.counts)
        edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
        return _affine(float(edges[occupied[0]]), float(edges[occupied[-1] + 1]), format)
    low, high = _percentiles(histogram) if method == "percentile" else (histogram.low, histogram.high)
    if method != "mse":
        return _coding_between(low, high, format)
    best, least = _coding_between(low, high, format), np.inf
    for part in _candidates(np.array([low, high])):
        coding = _coding_between(float(part[0]), float(part[1]), format)
        error = _error_of(coding, histogram)
        if error < least:
            best, least = coding, error
    return best


def _coding_between(low: float, high: float, format: DeployFormat) -> Coding:
    is_one_sided = format in INTEGERS and min(-low, high) * ONE_SIDED < max(-low, high)
    if is_one_sided:
        return _affine(low, high, format)
    return Coding(format, scale_reaching(np.array(max(-low, high)), LARGEST_CODE[format]))


def _affine(low: float, high: float, format: DeployFormat) -> Coding:
    """Both ends on the outermost codes, zero on a code."""
    low, high, largest = min(low, 0.0), max(high, 0.0), LARGEST_CODE[format]
    scale = scale_reaching(np.array(high - low), 2 * largest)
    zero_point = int(np.clip(np.rint(-largest - np.float32(low) / scale), -largest, largest))
    return Coding(format, scale, zero_point)


def _percentiles(histogram: Histogram) -> tuple[float, float]:
    """Between which that share of the values lies; the tails are equal, or one tail where all values have one sign."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1 - PERCENTILE / 100) / (1 if histogram.low >= 0 else 2)
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    low = histogram.low if histogram.low >= 0 else float(edges[np.searchsorted(share, tail)])
    return low, float(edges[min(int(np.searchsorted(share, 1 - tail)) + 1, len(histogram.counts))])


def _error_of(coding: Coding, histogram: Histogram) -> float:
    centres = histogram.centres
    return float(np.dot(histogram.counts, np.square(centres - coding.decode(coding.encode(centres)), dtype=np.float64)))
