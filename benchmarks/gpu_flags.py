"""Part of the GPU report: what XLA's flags do to a recurrence, each alone and together, a process a combination.

All stand beside the flags of a training run, but for `deterministic ops off`, which leaves them out: there XLA times several kernels for
each product and keeps the fastest. The processes of a wave start side by side and are timed in turn. A flag that XLA does not know ends
its process: that is a row. Waves and not all at once, because each process keeps the memory that its largest program took.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.ctc_problem import random_problem
from benchmarks.gpu_parts import (
    Failed,
    Settings,
    Worker,
    beside,
    jax_worker,
    part_settings,
    row,
    spread,
    take_turns,
)
from benchmarks.turns import ratio

REFERENCE = "as in training"
WHILE = "--xla_gpu_enable_command_buffer=+WHILE"
UNROLL = "--xla_gpu_command_buffer_unroll_loops=true"
SMALL = "--xla_gpu_graph_min_graph_size=1"
OFF = "--xla_gpu_enable_command_buffer="
UNORDERED = "deterministic ops off"
WAVES: tuple[dict[str, list[str]], ...] = (
    {"+WHILE": [WHILE], "+WHILE, unrolled, graphs from 1": [WHILE, UNROLL, SMALL], "command buffers off": [OFF]},
    {UNORDERED: []},
    {"unrolled": [UNROLL], "graphs from 1": [SMALL], "+WHILE, unrolled": [WHILE, UNROLL]},
)
SIZE, TINY_SIZE = [64, 800, 1760], [2, 8, 16]
ROUNDS = 5


def main() -> None:
    """Waves, each beside the reference."""
    settings = part_settings(__doc__)
    with TemporaryDirectory() as folder:
        cases = _cases(settings, Path(folder))
        reference = jax_worker(REFERENCE)
        try:
            prepared = reference.ask("prepare", cases=cases, unit_seconds=settings.unit_seconds)
            for number, wave in enumerate(WAVES[:2] if settings.tiny else WAVES):
                if settings.covers(", ".join(wave), 8 if settings.tiny else 30):
                    run_wave(settings, wave, cases, reference, is_first=number == 0)
        except Failed as reason:
            row(REFERENCE, f"FAILED: {reason}")
            return
        finally:
            reference.close()
        for name, facts in prepared.items():
            if "error" in facts:
                row(f"{name}, {REFERENCE}", f"FAILED: {facts['error']}")


def _cases(settings: Settings, folder: Path) -> dict[str, dict[str, Any]]:
    size = TINY_SIZE if settings.tiny else SIZE
    problem = folder / "problem.npz"
    utterances, frames, labels = (2, 20, 5) if settings.tiny else (32, 800, 150)
    random_problem(
        utterances=utterances, frames=frames, labels=labels, classes=29, deviation=3.0, confidence=0.0, seed=0
    ).save(problem)
    gru = {"kind": "gru", "size": size, "pass": "both"}
    return {
        f"GRU {'x'.join(map(str, size))} bfloat16 both": gru | {"format": "bfloat16"},
        f"GRU {'x'.join(map(str, size))} float32 both": gru | {"format": "float32"},
        f"CTC scan {utterances}x{frames}x{labels}x29": {"kind": "ctc", "problem": str(problem), "walk": "scan"},
    }


def run_wave(
    settings: Settings, wave: dict[str, list[str]], cases: dict[str, Any], reference: Worker, *, is_first: bool
) -> None:
    """One wave's processes, timed in turn with the reference case by case."""
    workers = {name: jax_worker(name, flags, any_order=name == UNORDERED) for name, flags in wave.items()}
    errors: dict[tuple[str, str], str] = {}
    try:
        for worker in workers.values():
            worker.send("prepare", cases=cases, unit_seconds=settings.unit_seconds)
        for name, worker in workers.items():
            try:
                found = worker.answer()
                errors |= {(name, case): facts["error"] for case, facts in found.items() if "error" in facts}
            except Failed as reason:
                row(name, f"FAILED: {reason}")
        alive = {name: worker for name, worker in workers.items() if worker.process.poll() is None}
        for case in cases:
            calls = {REFERENCE: partial(reference.seconds, case)}
            calls |= {name: partial(worker.seconds, case) for name, worker in alive.items()}
            times, reasons = take_turns(calls, settings.rounds(ROUNDS))
            _rows(case, times, reasons, errors, is_first=is_first)
    finally:
        for worker in workers.values():
            worker.close()


def _rows(
    case: str,
    times: dict[str, list[float]],
    reasons: dict[str, str],
    errors: dict[tuple[str, str], str],
    *,
    is_first: bool,
) -> None:
    for name, reason in reasons.items():
        row(f"{case}, {name}", f"FAILED: {errors.get((name, case), reason)}")
    for name, seconds in times.items():
        if name == REFERENCE and not is_first:
            continue
        words, figures = spread(seconds, 1e3, "ms"), {"seconds": seconds}
        if name != REFERENCE and REFERENCE in times:
            figures["time_over_the_references"] = ratio(seconds, times[REFERENCE])  # type: ignore[assignment]
            words += "; " + beside(figures["time_over_the_references"], REFERENCE)  # type: ignore[arg-type]
        row(f"{case}, {name}", words, **figures)


if __name__ == "__main__":
    main()
