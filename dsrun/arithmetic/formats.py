"""Formats: which values exist. A page of literals in the standard's parameters; no JAX.

* `FloatFormat`: precision `p` (significand bits, the implicit one counted, as IEEE 754 counts), smallest normal exponent
  `min_exponent`, largest value, and which of infinity, NaN, subnormals and -0 exist. A value is m * 2**(e - p + 1) with an
  integer |m| < 2**p and e >= min_exponent; m below 2**(p-1) only at e = min_exponent (subnormal). XLA's `reduce_precision`
  and QPyTorch count stored bits, one fewer than p; microxcaling counts the sign too.
* `FixedFormat`: two's complement integers of `word_length` bits times 2**-fraction_length. `fixed_q2.14` has 2 bits before
  the point, the sign among them (ARM's way of counting; TI would call it Q1.14), 14 behind: 16 bits, from -2 to 2 - 2**-14.
* `ScaledFormat`: small integers times one float32 scale that is taken from the data, per tensor, per output channel
  (last axis of a weight matrix) or per frame (activations).
* `BlockFormat`: 32 neighbouring values share a power-of-two scale (OCP Microscaling).

Overflow is part of a format, because the stacks disagree: ml_dtypes, JAX and eager PyTorch give float8_e4m3fn's NaN beyond
448; CUDA's conversion, Triton and ONNX give 448. `infinity` and `nan` round as if the exponent were unbounded and then
test the range, so a directed mode may still end at the largest value; `saturate` ends there always; `wrap` is two's
complement. Infinite inputs become infinity, NaN, or the largest value, in the same way.

Sources: IEEE 754-2019 table 3.5 (float32, float16); OCP 8-bit Floating Point Specification (e4m3fn, e5m2); OCP Microscaling
Formats (float6, float4, blocks); ml_dtypes' documentation (float8_e4m3, float8_e3m4 and the fnuz kinds). A scale rounded to 16
bits is ours, see `scaled.py`.
"""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

Overflow = Literal["infinity", "nan", "saturate", "wrap"]
Granularity = Literal["tensor", "channel", "frame"]
Mode = Literal[
    "ties_to_even",
    "ties_to_away",
    "toward_zero",
    "toward_positive",
    "toward_negative",
    "stochastic",
    "stochastic_equal",
]

MODES: tuple[str, ...] = get_args(Mode)
RANDOM_MODES = ("stochastic", "stochastic_equal")
MAX_RANDOM_BITS = 31
DEFAULT_RANDOM_BITS = 24


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format. `name` is JAX's dtype name where one exists; `bits` the width of a stored value."""

    name: str
    bits: int
    precision: int
    min_exponent: int
    max_value: float
    infinity: bool = True
    nan: bool = True
    negative_zero: bool = True
    subnormals: bool = True
    overflow: Overflow = "infinity"

    @property
    def min_value(self) -> float:
        """Most negative finite value."""
        return -self.max_value

    @property
    def smallest_normal(self) -> float:
        """Smallest positive value with full precision."""
        return 2.0**self.min_exponent

    @property
    def smallest_positive(self) -> float:
        """Spacing of the grid around zero: the smallest subnormal, or the smallest normal where there are none."""
        return self.smallest_normal * (2.0 ** (1 - self.precision) if self.subnormals else 1.0)

    @property
    def epsilon(self) -> float:
        """Spacing at 1."""
        return 2.0 ** (1 - self.precision)

    @property
    def overflows(self) -> tuple[Overflow, ...]:
        """What this format can do beyond its range."""
        possible: list[Overflow] = ["saturate"]
        if self.nan:
            possible.insert(0, "nan")
        if self.infinity:
            possible.insert(0, "infinity")
        return tuple(possible)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FixedFormat:
    """Signed fixed point: integers of `word_length` bits times 2**-fraction_length."""

    name: str
    word_length: int
    fraction_length: int
    overflow: Overflow = "saturate"

    @property
    def bits(self) -> int:
        """Width of a stored value."""
        return self.word_length

    @property
    def smallest_positive(self) -> float:
        """Spacing of the grid, everywhere."""
        return 2.0**-self.fraction_length

    @property
    def max_value(self) -> float:
        """Largest value."""
        return (2.0 ** (self.word_length - 1) - 1) * self.smallest_positive

    @property
    def min_value(self) -> float:
        """Most negative value, one step further from zero than the largest."""
        return -(2.0 ** (self.word_length - 1)) * self.smallest_positive

    @property
    def overflows(self) -> tuple[Overflow, ...]:
        """What this format can do beyond its range."""
        return ("saturate", "wrap")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ScaledFormat:
    """Integers -max_code..max_code times a scale taken from the data; `binary` has the codes -1 and 1 only.

    `scale`: "absmax" puts the largest magnitude on the largest code; "absmean" is the mean magnitude.
    """

    name: str
    bits: int  # of a stored value, without its share of the scale
    max_code: int
    scale: Literal["absmax", "absmean"]
    has_zero: bool = True
    granularity: Granularity = "tensor"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class BlockFormat:
    """`block` neighbouring values of a small float format and one e8m0 scale, a power of two."""

    name: str
    element: FloatFormat
    block: int = 32

    @property
    def bits(self) -> float:
        """Width of a stored value with its share of the scale."""
        return self.element.bits + 8 / self.block

    def __str__(self) -> str:
        return self.name


GridFormat = FloatFormat | FixedFormat  # one grid for all values: what a scalar alone can be rounded to
Format = FloatFormat | FixedFormat | ScaledFormat | BlockFormat

FLOAT32 = FloatFormat("float32", 32, 24, -126, (2 - 2.0**-23) * 2.0**127)
TENSORFLOAT32 = FloatFormat("tensorfloat32", 19, 11, -126, (2 - 2.0**-10) * 2.0**127)
BFLOAT16 = FloatFormat("bfloat16", 16, 8, -126, (2 - 2.0**-7) * 2.0**127)
FLOAT16 = FloatFormat("float16", 16, 11, -14, 65504.0)
FLOAT8_E5M2 = FloatFormat("float8_e5m2", 8, 3, -14, 57344.0)
FLOAT8_E4M3 = FloatFormat("float8_e4m3", 8, 4, -6, 240.0)
FLOAT8_E3M4 = FloatFormat("float8_e3m4", 8, 5, -2, 15.5)
FLOAT8_E4M3FN = FloatFormat("float8_e4m3fn", 8, 4, -6, 448.0, infinity=False, overflow="nan")
FLOAT6_E3M2FN = FloatFormat("float6_e3m2fn", 6, 3, -2, 28.0, infinity=False, nan=False, overflow="saturate")
FLOAT6_E2M3FN = FloatFormat("float6_e2m3fn", 6, 4, 0, 7.5, infinity=False, nan=False, overflow="saturate")
FLOAT4_E2M1FN = FloatFormat("float4_e2m1fn", 4, 2, 0, 6.0, infinity=False, nan=False, overflow="saturate")
_FNUZ = {"infinity": False, "negative_zero": False, "overflow": "nan"}
FLOAT8_E5M2FNUZ = FloatFormat("float8_e5m2fnuz", 8, 3, -15, 57344.0, **_FNUZ)  # type: ignore[arg-type]
FLOAT8_E4M3FNUZ = FloatFormat("float8_e4m3fnuz", 8, 4, -7, 240.0, **_FNUZ)  # type: ignore[arg-type]
FLOAT8_E4M3B11FNUZ = FloatFormat("float8_e4m3b11fnuz", 8, 4, -10, 30.0, **_FNUZ)  # type: ignore[arg-type]
INT8 = ScaledFormat("int8", 8, 127, "absmax")
INT4 = ScaledFormat("int4", 4, 7, "absmax")
TERNARY = ScaledFormat("ternary", 2, 1, "absmean")
BINARY = ScaledFormat("binary", 1, 1, "absmean", has_zero=False)
MXFP8_E4M3 = BlockFormat("mxfp8_e4m3", replace(FLOAT8_E4M3FN, overflow="saturate"))
MXFP8_E5M2 = BlockFormat("mxfp8_e5m2", replace(FLOAT8_E5M2, overflow="saturate"))
MXFP6_E3M2 = BlockFormat("mxfp6_e3m2", FLOAT6_E3M2FN)
MXFP6_E2M3 = BlockFormat("mxfp6_e2m3", FLOAT6_E2M3FN)
MXFP4 = BlockFormat("mxfp4", FLOAT4_E2M1FN)

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        *(FLOAT32, TENSORFLOAT32, BFLOAT16, FLOAT16),
        *(FLOAT8_E4M3FN, FLOAT8_E5M2, FLOAT8_E4M3, FLOAT8_E3M4, FLOAT8_E4M3FNUZ, FLOAT8_E5M2FNUZ, FLOAT8_E4M3B11FNUZ),
        *(FLOAT6_E3M2FN, FLOAT6_E2M3FN, FLOAT4_E2M1FN),
        *(INT8, INT4, TERNARY, BINARY),
        *(MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4),
    )
}
ALIASES = {"fp32": "float32", "tf32": "tensorfloat32", "fp16": "float16", "bf16": "bfloat16", "mxfp6": "mxfp6_e3m2"}
FAMILIES = ("float_eXmY (X 2 to 8, Y 1 to 23)", "fixed_qM.N (M + N at most 25 bits, the sign among the M)")
NATIVE_NAMES = ("float32", "float16", "bfloat16")  # formats that a network's arrays may have as their dtype
_OTHER_NAMES = {
    **dict.fromkeys(("half", "f16", "binary16"), "float16"),
    **dict.fromkeys(("single", "float", "f32", "binary32"), "float32"),
    **dict.fromkeys(("double", "fp64", "float64"), "float32"),
    **dict.fromkeys(("fp8", "e4m3", "float8", "float8_e4m3fnz"), "float8_e4m3fn"),
    **dict.fromkeys(("e5m2", "float8_e5m2fn"), "float8_e5m2"),
    **dict.fromkeys(("fp4", "e2m1", "float4"), "float4_e2m1fn"),
    **dict.fromkeys(("mxfp8", "mx8"), "mxfp8_e4m3"),
    **dict.fromkeys(("binary1", "1bit", "sign"), "binary"),
    "tfloat32": "tensorfloat32",
}
_FLOAT = re.compile(r"float_e([1-9][0-9]?)m(0|[1-9][0-9]?)")
_FIXED = re.compile(r"fixed_q(0|[1-9][0-9]?)\.(0|[1-9][0-9]?)")


def parse_format(
    name: str, *, overflow: str | None = None, subnormals: bool = True, granularity: str | None = None
) -> Format:
    """The format called `name`.

    Args:
        name: a name of the table (`FORMATS`), an alias (`fp16`, `bf16`, `tf32`, ...), or a member of a family:
            `float_e6m9` is IEEE-like with 6 exponent bits and 9 stored significand bits, `fixed_q2.14` has 16 bits.
        overflow: `infinity`, `nan`, `saturate` or `wrap`; None for the format's own: infinity where the format has one, else
            NaN, else the largest value; fixed point saturates.
        subnormals: False leaves them out, for the `float_eXmY` family.
        granularity: what shares a scale, `tensor` (the default), `channel` or `frame`; for int8, int4, ternary and binary.

    Raises:
        ValueError: no such format, or one that cannot do what is asked; the text lists what exists.
    """
    format = _named(ALIASES.get(name, name))
    if overflow is not None and overflow != getattr(format, "overflow", None):
        possible = getattr(format, "overflows", ())
        if overflow not in possible:
            reason = f"write {' or '.join(possible)}" if possible else "its scale follows the data, nothing overflows"
            raise ValueError(f"{format} cannot overflow to {overflow!r}; {reason}.")
        format = replace(format, overflow=overflow)  # type: ignore[arg-type, type-var]
    if not subnormals:
        if not (isinstance(format, FloatFormat) and _FLOAT.fullmatch(format.name)):
            raise ValueError(f"{format} is defined with subnormals or has none; only float_eXmY can be without.")
        format = replace(format, subnormals=False)
    if granularity is not None:
        if not isinstance(format, ScaledFormat):
            raise ValueError(
                f"{format} has no scale of its own, so no granularity; int8, int4, ternary and binary have."
            )
        if granularity not in get_args(Granularity):
            raise ValueError(f"unknown granularity {granularity!r}; {format} has one scale a tensor, channel or frame.")
        format = replace(format, granularity=granularity)  # type: ignore[arg-type]
    return format


def check_rounding(format: Format, mode: str, random_bits: int | None = None) -> None:
    """Refuse a mode that does not exist or that the format cannot honour.

    Raises:
        ValueError: says why and what to write.
    """
    if mode in ("nearest", "round"):
        raise ValueError(f"{mode!r} is ambiguous: IEEE 754 has two nearest modes. Write ties_to_even or ties_to_away.")
    if mode not in MODES:
        known = {"nearest_even": "ties_to_even", "rne": "ties_to_even", "floor": "toward_negative"} | {
            "truncate": "toward_zero", "ceil": "toward_positive", "sr": "stochastic"
        }  # fmt: skip
        close = difflib.get_close_matches(mode, MODES, n=1)
        meant = known.get(mode.lower()) or (close[0] if close else None)
        hint = f"did you mean {meant!r}? " if meant else ""
        raise ValueError(f"unknown rounding {mode!r}; {hint}There are {', '.join(MODES)}.")
    if isinstance(format, ScaledFormat) and not format.has_zero and mode.startswith("toward_"):
        raise ValueError(
            f"binary has no value between -scale and scale, so {mode} cannot be honoured; write ties_to_even (the sign, 0 to "
            "-scale), ties_to_away (the sign, 0 to +scale) or stochastic."
        )
    if random_bits is not None:
        if mode != "stochastic":
            raise ValueError(
                f"random_bits belongs to stochastic; {mode} draws {'one' if mode in RANDOM_MODES else 'none'}."
            )
        if not 1 <= random_bits <= MAX_RANDOM_BITS:
            raise ValueError(f"random_bits must be 1 to {MAX_RANDOM_BITS}, found {random_bits}.")


def _named(name: str) -> Format:
    if name in FORMATS:
        return FORMATS[name]
    if match := _FLOAT.fullmatch(name):
        return _float_format(name, exponent_bits=int(match[1]), fraction_bits=int(match[2]))
    if match := _FIXED.fullmatch(name):
        return fixed_format(word_length=int(match[1]) + int(match[2]), fraction_length=int(match[2]))
    close = difflib.get_close_matches(name, (*FORMATS, *ALIASES), n=1)
    meant = _OTHER_NAMES.get(name.lower()) or (close[0] if close else None)
    hint = f"did you mean {meant!r}? " if meant else ""
    raise ValueError(f"unknown format {name!r}; {hint}There are {', '.join(FORMATS)}, {' and '.join(FAMILIES)}.")


def fixed_format(*, word_length: int, fraction_length: int) -> FixedFormat:
    """Signed fixed point of so many bits; saturates.

    Raises:
        ValueError: more bits than float32, which carries the values, can hold exactly; or no bit before the point.
    """
    if not 2 <= word_length <= 25:
        raise ValueError(f"fixed point of {word_length} bits: 2 to 25 are carried exactly by float32.")
    if not 0 <= fraction_length < word_length:
        raise ValueError(
            f"fixed point of {word_length} bits with {fraction_length} behind the point: the sign needs one before it."
        )
    return FixedFormat(f"fixed_q{word_length - fraction_length}.{fraction_length}", word_length, fraction_length)


def _float_format(name: str, *, exponent_bits: int, fraction_bits: int) -> FloatFormat:
    if not (2 <= exponent_bits <= 8 and 1 <= fraction_bits <= 23):
        raise ValueError(
            f"{name}: float32 carries 2 to 8 exponent bits and 1 to 23 significand bits (without significand bits neighbours "
            "have no even one to tie to)."
        )
    if (exponent_bits, fraction_bits) == (8, 23):
        return FLOAT32
    max_exponent = 2 ** (exponent_bits - 1) - 1
    largest = (2 - 2.0**-fraction_bits) * 2.0**max_exponent
    return FloatFormat(name, 1 + exponent_bits + fraction_bits, fraction_bits + 1, 1 - max_exponent, largest)
