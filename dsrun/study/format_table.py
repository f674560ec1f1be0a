"""What each format can hold: a row of numbers, computed from the format's parameters. No JAX.

Conventions. `precision` counts significand bits with the implicit one, as IEEE 754 does; `values` counts different finite
values, so +0 and -0 are one. Fixed point is "a float that is all subnormal": it has no smallest normal, and its spacing is its smallest
subnormal. For formats with a scale (int8, ternary, mxfp4, ...) the numbers are in units of the scale, which is taken from the data.
"""

import math
from collections.abc import Sequence
from typing import Any

from dsrun.arithmetic import BlockFormat, FixedFormat, FloatFormat, Format, ScaledFormat
from dsrun.arithmetic.formats import FORMATS, NATIVE_NAMES
from dsrun.study.grid import parse_named, ulp

# A scale is taken from finished data, so what is still being summed cannot have one. The log-space loss needs an infinity.
SCALED_ROLES = ("storage", "compute", "gradient")
GRID_ROLES = (*SCALED_ROLES, "accumulate", "reduce", "master", "update", "state")


def format_rows(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each named format, or for all of the table.

    Raises:
        UsageError: no such format.
    """
    return [format_row(parse_named(name)) for name in names or FORMATS]


def format_row(format: Format) -> dict[str, Any]:
    """Parameters, range, spacing, number of values, specials, and the roles that a network can give to a format."""
    return _parameters(format) | {"roles": list(roles_of(format))}


def roles_of(format: Format) -> tuple[str, ...]:
    """Roles that a format may have in a network."""
    if isinstance(format, ScaledFormat | BlockFormat):
        return SCALED_ROLES
    has_log_of_zero = isinstance(format, FloatFormat) and "infinity" in format.overflows
    return (*GRID_ROLES, "ctc") if has_log_of_zero else GRID_ROLES


def _parameters(format: Format) -> dict[str, Any]:
    if isinstance(format, FloatFormat):
        return _float_row(format)
    if isinstance(format, FixedFormat):
        return _fixed_row(format)
    if isinstance(format, BlockFormat):
        element = _float_row(format.element)
        return element | {
            **{"format": format.name, "kind": "block", "bits": format.bits, "scale": _scale_of(format)},
            **{"infinity": False, "nan": True, "native": False},
        }
    return _scaled_row(format)


def count_values(format: Format) -> int:
    """Different finite values, zero once; of a format with a scale, those of one scale."""
    if isinstance(format, BlockFormat):
        return count_values(format.element)
    if isinstance(format, FixedFormat):
        return int(2**format.word_length)
    if isinstance(format, ScaledFormat):
        return 2 * format.max_code + int(format.has_zero)
    in_binade = 2 ** (format.precision - 1)
    # The top binade ends at the largest value: e4m3fn's lacks the code that is its NaN.
    in_top_binade = int((format.max_value - 2.0 ** max_exponent(format)) / ulp(format, format.max_value)) + 1
    normal = (max_exponent(format) - format.min_exponent) * in_binade + in_top_binade
    subnormal = in_binade - 1 if format.subnormals else 0
    return 2 * (normal + subnormal) + 1


def max_exponent(format: FloatFormat) -> int:
    """Exponent of the largest value."""
    return math.frexp(format.max_value)[1] - 1


def _float_row(format: FloatFormat) -> dict[str, Any]:
    return {
        **{"format": format.name, "kind": "float", "bits": format.bits, "precision": format.precision},
        **{"min_exponent": format.min_exponent, "max_exponent": max_exponent(format)},
        **{"largest": format.max_value, "smallest_normal": format.smallest_normal},
        "smallest_subnormal": format.smallest_positive if format.subnormals else None,
        **{"spacing_at_1": ulp(format, 1.0), "values": count_values(format), "scale": None},
        **{"infinity": format.infinity, "nan": format.nan, "negative_zero": format.negative_zero},
        **{"overflow": format.overflow, "overflows": list(format.overflows), "native": format.name in NATIVE_NAMES},
    }


def _fixed_row(format: FixedFormat) -> dict[str, Any]:
    return {
        **{"format": format.name, "kind": "fixed", "bits": format.bits, "precision": format.word_length},
        **{"min_exponent": None, "max_exponent": None},
        **{"largest": format.max_value, "smallest_normal": None, "smallest_subnormal": format.smallest_positive},
        **{"spacing_at_1": format.smallest_positive, "values": count_values(format), "scale": None},
        **{"infinity": False, "nan": False, "negative_zero": False},
        **{"overflow": format.overflow, "overflows": list(format.overflows), "native": False},
    }


def _scaled_row(format: ScaledFormat) -> dict[str, Any]:
    return {
        **{"format": format.name, "kind": "scaled", "bits": format.bits, "precision": None},
        **{"min_exponent": None, "max_exponent": None},
        **{"largest": float(format.max_code), "smallest_normal": None, "smallest_subnormal": None},
        **{"spacing_at_1": 1.0 if format.has_zero else 2.0, "values": count_values(format), "scale": _scale_of(format)},
        **{"infinity": False, "nan": False, "negative_zero": False},
        **{"overflow": "saturate", "overflows": ["saturate"], "native": False},
    }


def _scale_of(format: ScaledFormat | BlockFormat) -> str:
    if isinstance(format, BlockFormat):
        return f"a power of two for {format.block} values"
    what = {"absmax": f"largest magnitude / {format.max_code}", "absmean": "mean magnitude"}[format.scale]
    return f"{what}, per {format.granularity}"
