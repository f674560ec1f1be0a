"""Arithmetic: formats (which values exist), rounding (how a number becomes one), policy (where that happens).

Knows nothing of speech. Every array here is float32; a smaller format is a set of values that it may hold. What this room
has so far: float32, bfloat16 and float16, rounded to nearest with ties to even.
"""

from dsrun.arithmetic.formats import BFLOAT16, FLOAT16, FLOAT32, Format, parse_format
from dsrun.arithmetic.policy import FLOAT32_POLICY, Policy, round_gradient, round_straight_through
from dsrun.arithmetic.rounding import round_to

__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "FLOAT32",
    "FLOAT32_POLICY",
    "Format",
    "Policy",
    "parse_format",
    "round_gradient",
    "round_straight_through",
    "round_to",
]
