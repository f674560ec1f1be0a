"""Formats: which values exist.

A binary floating-point format is its precision `p` (significand bits, the implicit one counted, as IEEE 754 counts), the
smallest normal exponent `min_exponent` and the largest exponent `max_exponent`. Everything else follows: bits stored,
largest value, spacing. Counting `p` with the implicit bit is the convention of the standard; XLA's `reduce_precision` and
QPyTorch count stored bits, one fewer.

A value is `m * 2**(e - p + 1)` with an integer |m| < 2**p and min_exponent <= e <= max_exponent; m below 2**(p-1) only at
e = min_exponent (subnormal). All three formats here have subnormals, signed zero, infinities and NaN.

Source: IEEE 754-2019, table 3.5, for float32 and float16; bfloat16 is the upper half of float32.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A set of representable values. `name` is JAX's dtype name; `bits` is the width of one stored value."""

    name: str
    bits: int
    precision: int
    min_exponent: int
    max_exponent: int

    @property
    def max_value(self) -> float:
        """Largest finite value."""
        return (2.0 - 2.0 ** (1 - self.precision)) * 2.0**self.max_exponent

    @property
    def smallest_subnormal(self) -> float:
        """Spacing of the grid around zero."""
        return 2.0 ** (self.min_exponent - self.precision + 1)

    def __str__(self) -> str:
        return self.name


FLOAT32 = Format("float32", bits=32, precision=24, min_exponent=-126, max_exponent=127)
BFLOAT16 = Format("bfloat16", bits=16, precision=8, min_exponent=-126, max_exponent=127)
FLOAT16 = Format("float16", bits=16, precision=11, min_exponent=-14, max_exponent=15)

FORMATS = {format.name: format for format in (FLOAT32, BFLOAT16, FLOAT16)}


def parse_format(name: str) -> Format:
    """The format called `name` ("float32", "bfloat16" or "float16").

    Raises:
        ValueError: no such format; the text lists those that exist.
    """
    if name not in FORMATS:
        raise ValueError(f"{name!r} is no format that is available; available are {', '.join(FORMATS)}.")
    return FORMATS[name]
