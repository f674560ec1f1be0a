"""How fast a bidirectional GRU layer is: forward, and forward and backward with gradients to input and weights.

The layer is `dsrun.model.gru.bidirectional_gru`, as training runs it, with an input as wide as its state and all frames valid. Formats
narrower than float32 are in storage, operands and errors, in arrays of that dtype (carrier native), with float32 sums. `tensorfloat32`
is a format of operands only, on a GPU those of its matrix units.

Two times decide: of all frames' products at once, which a large product's rate bounds (hoistable), and of the frames one after the
other, which latency and the reading of the recurrent matrices bound (sequential). So beside the rate stands the time of a frame
of both directions, what the recurrent matrices alone would take at the measured copy bandwidth if each frame read them again, and a
scan's empty turn.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from dsrun.arithmetic import FLOAT32_POLICY, Policy, parse_format
from dsrun.arithmetic.policy import Rounding
from dsrun.model.gru import GruWeights, Loops, Recurrence, Residuals, bidirectional_gru, describe_loops
from dsrun.study.bench_sizes import GruSize
from dsrun.study.ceilings import Ceilings, how_multiplied, machine_facts
from dsrun.study.flops import Work, gru_work, weight_bytes_a_frame
from dsrun.study.stopwatch import TURN_SECONDS, Program, announce, compile_program, peak_memory, summary, take_turns

FORMATS = ("float32", "tensorfloat32", "bfloat16", "float16")
Pass = Literal["forward", "both"]


def bench_gru(
    sizes: Sequence[GruSize],
    formats: Sequence[str],
    passes: Sequence[Pass],
    *,
    residuals: Residuals = "store",
    repeats: int,
    ceilings: Ceilings | None = None,
) -> dict[str, Any]:
    """Rows by size, format and pass, and the ceilings that they were measured beside."""
    device = jax.devices()[0]
    limits = ceilings or Ceilings(formats, [device])
    rows: list[dict[str, Any]] = []
    all_times: dict[str, list[float]] = {name: [] for name in limits.calls}
    for size in sizes:
        arguments = jax.device_put(layer_arguments(size))
        programs = {
            (format, name): _compiled(size, format, name, residuals, arguments) for format in formats for name in passes
        }
        calls = {f"{format} {name}": partial(program, *arguments) for (format, name), program in programs.items()}
        flops = sum(gru_work(size, has_gradient=name == "both").flops for _, name in programs)
        announce(f"gru {size}: {repeats} rounds of {', '.join(calls)}, {flops / 1e9:,.0f} GFLOP a round")
        times = take_turns({**limits.calls, **calls}, repeats, turn_seconds=TURN_SECONDS)
        for name in all_times:
            all_times[name] += times[name]
        for (format, name), program in programs.items():
            rows.append(_row(size, format, name, residuals, program, times, limits))
    return {
        "benchmark": "gru",
        "machine": machine_facts([device]),
        "loops": {format: describe_loops(gru_policy(format), ("", ""), residuals) for format in formats},
        "residuals": residuals,
        "ceilings": limits.report(all_times),
        "rows": rows,
        **peak_memory(device),
    }


def gru_policy(format: str) -> Policy:
    """Operands in the format, and storage and errors too where arrays may have its dtype."""
    if format == "float32":
        return FLOAT32_POLICY
    rounding = Rounding(parse_format(format))
    if format == "tensorfloat32":
        return Policy(compute=rounding, carrier="native")  # on a GPU its matrix units, elsewhere float32 products
    return Policy(storage=rounding, compute=rounding, gradient=rounding, carrier="native")


def layer_pass(format: str, name: Pass, residuals: Residuals = "store", loops: Loops | None = None) -> Any:
    """The function that is timed: of (x, num_frames, weights), and for both passes the gradient that comes in."""
    layer: Any = partial(bidirectional_gru, policy=gru_policy(format), residuals=residuals, loops=loops)
    if name == "forward":
        return lambda x, num_frames, weights, incoming: layer(x, num_frames, weights)

    def both(x: Any, num_frames: Any, weights: Any, incoming: Any) -> Any:
        return jax.vjp(lambda x, weights: layer(x, num_frames, weights), x, weights)[1](incoming)

    return both


def layer_arguments(size: GruSize) -> tuple[Any, ...]:
    """Input, lengths, weights of both directions, incoming gradient: random, all frames valid."""
    random = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    def weights() -> GruWeights:
        scale = np.float32(size.hidden**-0.5)
        matrices: Any = [values(size.hidden, size.hidden) * scale for _ in range(6)]
        biases: Any = [values(size.hidden) * scale for _ in range(4)]
        w_r, w_z, w_n, u_r, u_z, u_n = matrices
        b_r, b_z, b_x, b_n = biases
        return GruWeights(w_r, w_z, w_n, b_r, b_z, b_x, Recurrence(u_r, u_z, u_n, b_n))

    shape = (size.batch, size.frames, size.hidden)
    return values(*shape), np.full(size.batch, size.frames, np.int32), (weights(), weights()), values(*shape)


def _compiled(size: GruSize, format: str, name: Pass, residuals: Residuals, arguments: tuple[Any, ...]) -> Program:
    announce(f"gru {size} {format} {name}: compiling")
    return compile_program(layer_pass(format, name, residuals), *arguments)


def _row(
    size: GruSize,
    format: str,
    name: Pass,
    residuals: Residuals,
    program: Program,
    times: dict[str, list[float]],
    limits: Ceilings,
) -> dict[str, Any]:
    width = 2 if format in ("bfloat16", "float16") else 4
    is_both = name == "both"
    work: Work = gru_work(size, has_gradient=is_both, item_bytes=width, recompute=is_both and residuals == "recompute")
    case = f"{format} {name}"
    found = summary(times[case])
    reading = weight_bytes_a_frame(size, width) * (2 if is_both else 1)
    return {
        "size": str(size),
        **asdict(size),
        "format": format,
        "pass": name,
        **found,
        "microseconds_a_frame": 1e6 * found["seconds_median"] / size.frames,
        **limits.figures(times, case, work, format),
        "sequential_share_of_flops": work.sequential / work.flops,
        "hoistable_share_of_flops": work.hoistable / work.flops,
        "recomputed_flops": work.recomputed,
        "recurrent_weight_bytes_a_frame": reading,
        "copy_microseconds_of_recurrent_weights": 1e6 * _copy_seconds(times, limits, reading),
        "compile_seconds": program.compile_seconds,
        "planned_memory_bytes": program.planned_bytes,
        "multiplied_as": how_multiplied(format, jax.default_backend()),
    }


def _copy_seconds(times: dict[str, list[float]], limits: Ceilings, count: int) -> float:
    return summary(times["copy"])["seconds_median"] * count / limits.copied_bytes
