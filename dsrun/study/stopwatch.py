"""Measuring: what is compared takes turns, and a figure is a median with its spread.

A shared machine is busy in patches of seconds. So contenders are called in turn, A B C A B C, and what is quoted of two of them is
the median of the ratios of one round each, which a busy patch meets both sides of. Beside a median stand the lowest and the highest
and the quartiles: a figure without a spread is a rumour. All calls are compiled and warmed up before, and waited for.

Peak memory is the device's own count where it has one, of the process so far. A CPU has none; there it is the largest resident size of
the whole process, Python and compiler included. `planned_bytes` is what XLA laid out for one program: arguments, results and
temporary arrays. It says what a program needs, not what else was there.
"""

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

WARM_UP = 2
TURN_SECONDS = 0.05


@dataclass(frozen=True)
class Program:
    """A compiled function: calling it runs it."""

    run: Callable[..., Any]
    compile_seconds: float
    planned_bytes: int

    def __call__(self, *arguments: Any) -> Any:
        return self.run(*arguments)


def compile_program(function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()) -> Program:
    """Trace, lower and compile for these arguments, with the seconds that took."""
    start = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    plan: Any = compiled.memory_analysis()
    sizes = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    planned = sum(getattr(plan, name, 0) for name in sizes) - getattr(plan, "alias_size_in_bytes", 0)
    return Program(compiled, seconds, planned)


def take_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: int = WARM_UP, turn_seconds: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each call, one figure a round.

    A contender whose call is shorter than `turn_seconds` is called so often in its turn that it lasts that long, and the figure is the
    mean: the first call finds the caches as the contender before left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    counts = dict.fromkeys(calls, 1)
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                jax.block_until_ready(call())
            seconds = (time.perf_counter() - start) / counts[name]
            if number >= warm_up:
                times[name].append(seconds)
            elif number == warm_up - 1:
                counts[name] = max(1, math.ceil(turn_seconds / seconds))
    return times


def quartiles(samples: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [*samples] * 3


def ratios(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """Quartiles of time / time, each pair of one round."""
    return quartiles([a / b for a, b in zip(slower, faster, strict=True)])


def summary(samples: Sequence[float], unit: str = "seconds") -> dict[str, Any]:
    """Median and spread as JSON has them, e.g. {"seconds_median": ..., "seconds_lowest": ...}."""
    low, middle, high = quartiles(samples)
    return {
        f"{unit}_median": middle,
        f"{unit}_lowest": min(samples),
        f"{unit}_highest": max(samples),
        f"{unit}_lower_quartile": low,
        f"{unit}_upper_quartile": high,
        "repeats": len(samples),
    }


def peak_memory(device: jax.Device) -> dict[str, Any]:
    """Largest use of memory so far, and what was counted."""
    found = device.memory_stats()
    if found and "peak_bytes_in_use" in found:
        return {"peak_memory_bytes": found["peak_bytes_in_use"], "peak_memory_is": "the device allocator's, so far"}
    # Linux counts kibibytes, macOS bytes.
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak_memory_bytes": size, "peak_memory_is": "the whole process's largest resident size, so far"}


def announce(text: str) -> None:
    """Progress, for the person who waits."""
    print(text, file=sys.stderr, flush=True)
