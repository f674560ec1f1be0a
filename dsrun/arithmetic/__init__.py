"""Arithmetic: formats (which values exist), rounding (how a number becomes one), policy (where that happens).

Knows nothing of speech. Emulated values are float32 arrays: a smaller format is a set of values that they may hold.

* `formats`: the table; no JAX, so that a config is checked at once.
* `rounding`: one integer kernel; `scaled`: formats with a scale; `scalar`: the same rules in exact fractions, to be read.
* `random_bits`: a hash of (seed, step, role, path, element). `summation`: fixed orders and narrow accumulators.
* `policy`: roles, rules by path, and what the network calls.

Names are loaded when they are first used: the formats must not bring JAX in.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsrun.arithmetic.formats import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    BlockFormat,
    FixedFormat,
    FloatFormat,
    Format,
    ScaledFormat,
    parse_format,
)

if TYPE_CHECKING:
    from dsrun.arithmetic.policy import FLOAT32_POLICY, Policy
    from dsrun.arithmetic.rounding import round_to

_PLACES = {"FLOAT32_POLICY": "policy", "Policy": "policy", "round_to": "rounding"}

__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "FLOAT32",
    "FLOAT32_POLICY",
    "BlockFormat",
    "FixedFormat",
    "FloatFormat",
    "Format",
    "Policy",
    "ScaledFormat",
    "parse_format",
    "round_to",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dsrun.arithmetic' has no attribute {name!r}")
    return getattr(import_module(f"dsrun.arithmetic.{_PLACES[name]}"), name)
