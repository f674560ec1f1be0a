"""What others say: the casts of NumPy and ml_dtypes, gfloat's rounding, our scalar twin; and the inputs to ask them about."""

from functools import cache

import gfloat
import ml_dtypes
import numpy as np

from dsrun.arithmetic.formats import FORMATS, FloatFormat, GridFormat, parse_format
from dsrun.arithmetic.scalar import decode, round_scalar

# Ties, near-ties and quarter points at every width that matters, under each of the 65,536 high halves of float32.
LOW_HALVES = [0x0, 0x1, 0xFFF, 0x1000, 0x1001, 0x2000, 0x3FFF, 0x4000, 0x4001, 0x6000, 0x7FFF, 0x8000, 0x8001, 0xFFFF]

TABLE = [format for format in FORMATS.values() if isinstance(format, FloatFormat) and format.bits <= 16]
# Those that somebody else has made too; of a format of our own gfloat alone has an opinion.
REAL = [format for format in TABLE if format.name == "float16" or hasattr(ml_dtypes, format.name)]
FAMILY = [
    parse_format(f"float_e{e}m{m}") for e, m in ((6, 9), (6, 5), (8, 7), (2, 1), (2, 13), (7, 8), (3, 2), (4, 11))
]
FIXED = [
    *(parse_format(f"fixed_q{bits - point}.{point}") for bits in (8, 16) for point in range(0, bits, 2)),
    *(parse_format(name, overflow="wrap") for name in ("fixed_q1.7", "fixed_q2.14", "fixed_q16.0")),
]
NUMPY_DTYPE = {
    format: np.dtype(np.float16 if format.name == "float16" else getattr(ml_dtypes, format.name)) for format in REAL
}
GFLOAT_MODE = {
    "ties_to_even": gfloat.RoundMode.TiesToEven,
    "ties_to_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
    "toward_positive": gfloat.RoundMode.TowardPositive,
    "toward_negative": gfloat.RoundMode.TowardNegative,
    # Goes away when f + r / 2**n >= 1: for an integer r the same as floor(f * 2**n) + r >= 2**n, ours.
    "stochastic": gfloat.RoundMode.StochasticFastest,
}


def pattern(x) -> np.ndarray:
    """Bits of float32 values: equality that sees the sign of zero."""
    return np.asarray(x, np.float32).view(np.uint32)


@cache
def hard_patterns() -> np.ndarray:
    """917,504 float32 values: each high half with each low half."""
    high = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    return (high | np.array(LOW_HALVES, np.uint32)).ravel().view(np.float32)


@cache
def decoded(format: GridFormat) -> np.ndarray:
    """Every code's value, by the scalar twin."""
    return np.array([decode(format, code) for code in range(2**format.bits)], np.float32)


def mismatches(got, expected) -> int:
    """Number of places where two float32 arrays differ in a bit; NaN equals NaN of any payload."""
    got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
    return int(np.sum((pattern(got) != pattern(expected)) & ~(np.isnan(got) & np.isnan(expected))))


def cast(x: np.ndarray, format: FloatFormat) -> np.ndarray:
    """Through the real dtype and back."""
    with np.errstate(all="ignore"):
        return x.astype(NUMPY_DTYPE[format]).astype(np.float32)


def gfloat_round(
    x: np.ndarray, format: FloatFormat, mode: str, *, random: np.ndarray | None = None, random_bits: int = 0
):
    """gfloat's answer, from a description of the format in gfloat's terms."""
    high_nans = 2 ** (format.precision - 1) - 1 if format.infinity else int(format.nan and format.negative_zero)
    info = gfloat.FormatInfo(
        format.name,
        format.bits,
        format.precision,
        bias=1 - format.min_exponent,
        is_signed=True,
        domain=gfloat.Domain.Extended if format.infinity else gfloat.Domain.Finite,
        has_nz=format.negative_zero,
        num_high_nans=high_nans,
        has_subnormals=True,
        is_twos_complement=False,
    )
    assert format.subnormals
    # In float64: in float32, f + r / 2**n would itself be rounded.
    with np.errstate(all="ignore"):
        rounded = gfloat.round_ndarray(
            info, x.astype(np.float64), GFLOAT_MODE[mode], format.overflow == "saturate", random, random_bits
        )
        return rounded.astype(np.float32)


def twin(x: np.ndarray, format: GridFormat, mode: str, *, random=None, random_bits: int = 24) -> np.ndarray:
    """The scalar twin over an array."""
    random = np.zeros(x.shape, np.uint32) if random is None else random
    pairs = zip(x.tolist(), random.tolist(), strict=True)
    rounded = [round_scalar(v, format, mode, random=r, random_bits=random_bits) for v, r in pairs]
    with np.errstate(over="ignore"):
        return np.array(rounded, np.float64).astype(np.float32)
