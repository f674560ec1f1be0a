"""How fast rounding is, beside `lax.reduce_precision` and beside a copy of the same bytes.

A rounding reads four bytes a value and writes four, so a copy is its bound. `lax.reduce_precision` is no rounding to a format (it
flushes the format's subnormals, and knows IEEE-like formats only); it is the fastest thing that XLA has of the kind. What a stochastic
rounding pays is its random bits, so the generator alone stands beside it, and JAX's.

There are no floating-point operations to credit: the kernel works on integers. `benchmarks/rounding.py` compares with other
projects and with bounds; it times these same contenders.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic.formats import MODES, RANDOM_MODES, check_rounding, parse_format
from dsrun.arithmetic.random_bits import draw, make_key
from dsrun.arithmetic.rounding import round_to
from dsrun.study.ceilings import Ceilings, machine_facts
from dsrun.study.stopwatch import TURN_SECONDS, announce, peak_memory, quartiles, ratios, summary, take_turns

REFERENCE = "lax.reduce_precision(5, 10)"
THREEFRY, HASH = "threefry bits alone", "hash bits alone"
FORMATS = (
    *("float16", "bfloat16", "tensorfloat32", "float8_e4m3fn", "float8_e5m2", "float_e6m5"),
    *("fixed_q2.14", "int8", "int4", "ternary", "binary", "mxfp8_e4m3", "mxfp6", "mxfp4"),
)
STOCHASTIC_FORMATS = ("float16", "bfloat16", "float8_e4m3fn", "fixed_q2.14", "int8", "ternary", "mxfp8_e4m3")
BYTES_A_VALUE = 8  # float32 read and float32 written


def default_cases() -> tuple[str, ...]:
    """Every format to nearest, float16 in every mode, and the formats that are worth rounding stochastically."""
    cases = [f"{name} ties_to_even" for name in FORMATS] + [f"float16 {mode}" for mode in MODES]
    return tuple(dict.fromkeys([*cases, *(f"{name} stochastic" for name in STOCHASTIC_FORMATS)]))


def all_cases(formats: Sequence[str]) -> tuple[str, ...]:
    """Formats in every mode that they can honour."""
    return tuple(f"{name} {mode}" for name in dict.fromkeys(formats) for mode in MODES if _honours(name, mode))


def contenders(values: int, *, names: tuple[str, ...] | None = None) -> dict[str, Callable[[], Any]]:
    """What is timed, by name: "format mode"; without names the default cases and what is compared with them."""
    x = jax.device_put(np.random.default_rng(0).standard_normal(values, np.float32))
    found = {case: _rounding(x, *case.split()) for case in names or default_cases()}
    return found if names else {REFERENCE: reference(x), **found, **_streams(values)}


def reference(x: jax.Array) -> Callable[[], Any]:
    """XLA's own reduction of precision."""
    reduce_precision = jax.jit(lambda x: jax.lax.reduce_precision(x, 5, 10))
    return lambda: reduce_precision(x)


def bench_rounding(
    formats: Sequence[str], *, values: int, repeats: int, ceilings: Ceilings | None = None
) -> dict[str, Any]:
    """A row a format and mode; without formats the default cases and the generators."""
    device = jax.devices()[0]
    limits = ceilings or Ceilings([], [device], copy_values=values)
    calls = contenders(values)
    if formats:
        calls = {REFERENCE: calls[REFERENCE], **contenders(values, names=all_cases(formats))}
    announce(f"rounding: {values:,} values, {repeats} rounds of {len(calls)} contenders")
    times = take_turns({**limits.calls, **calls}, repeats, turn_seconds=TURN_SECONDS / 5)
    rows = []
    for name in calls:
        is_stream = name.endswith("alone")
        size = BYTES_A_VALUE // 2 if is_stream else BYTES_A_VALUE
        rows.append(
            {
                "name": name,
                **summary(times[name]),
                "values_per_second": values / quartiles(times[name])[1],
                **limits.traffic(times, name, size * values),
                "rate_to_reference": ratios(times[REFERENCE], times[name])[1],
                "rate_to_reference_quartiles": ratios(times[REFERENCE], times[name])[::2],
            }
        )
    return {
        "benchmark": "rounding",
        "machine": machine_facts([device]),
        "values": values,
        "flops": None,
        "flops_are": "none: the kernel works on integers",
        "reference": REFERENCE,
        "ceilings": limits.report(times),
        "rows": rows,
        **peak_memory(device),
    }


def _honours(name: str, mode: str) -> bool:
    try:
        check_rounding(parse_format(name), mode)
    except ValueError:
        return False
    return True


def _rounding(x: jax.Array, name: str, mode: str) -> Callable[[], Any]:
    format = parse_format(name)
    if mode in RANDOM_MODES:
        key = make_key(0, "benchmark", "x")
        drawn = jax.jit(lambda x, key: round_to(x, format, mode=mode, key=key))
        return lambda: drawn(x, key)
    compiled = jax.jit(lambda x: round_to(x, format, mode=mode))
    return lambda: compiled(x)


def _streams(values: int) -> dict[str, Callable[[], Any]]:
    """Generators of random bits: dsrun's hash, and JAX's two."""
    key = make_key(0, "benchmark", "x")
    hashed = jax.jit(lambda key: draw(key, (values,)))
    bits = jax.jit(lambda key: jax.random.bits(key, (values,), jnp.uint32))
    threefry, rbg = jax.random.key(0, impl="threefry2x32"), jax.random.key(0, impl="rbg")
    return {
        HASH: lambda: hashed(key),
        THREEFRY: lambda: bits(threefry),
        "rbg bits alone": lambda: bits(rbg),
    }
