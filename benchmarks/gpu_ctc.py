"""Part of the GPU report: CTC loss and gradient from the logits, beside torch's own kernel, cuDNN's and optax.

Problems as in `benchmarks.ctc`; torch's log-softmax is part of its time. cuDNN takes full lengths, fewer than 256 labels, blank 0, targets
int32 on the host; whether torch really called it is torch's own word. Errors are the largest of the gradient, of the first utterances
only (float64 on the host takes seconds), against a forward-backward in NumPy.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.ctc_problem import Problem, exact, random_problem
from benchmarks.gpu_parts import (
    NO_TORCH,
    Failed,
    Settings,
    Worker,
    beside,
    jax_worker,
    part_settings,
    row,
    spread,
    take_turns,
    torch_worker,
)
from benchmarks.turns import ratio

SIZES = ((32, 800, 150, 29), (16, 400, 40, 4000), (128, 475, 100, 29), (16, 400, 80, 29), (4, 150, 40, 29))
TINY_SIZES = ((2, 20, 5, 7),)
OURS = {"scan": "scan", "mosaic kernel": "mosaic", "optax": "optax"}
PEERS = {"torch native": "native", "torch cuDNN": "cudnn"}
CHECKED = 4  # utterances
ROUNDS = 7


def main() -> None:
    """All rows, size by size."""
    settings = part_settings(__doc__)
    ours, peer = jax_worker("dsrun"), torch_worker(settings)
    try:
        if peer is None:
            row("torch ctc_loss", NO_TORCH)
        for size in TINY_SIZES if settings.tiny else SIZES:
            name = "x".join(map(str, size))
            if settings.covers(name, 3 if settings.tiny else 10):
                with TemporaryDirectory() as folder:
                    measure(settings, name, size, Path(folder), ours, peer)
    finally:
        for worker in filter(None, (ours, peer)):
            worker.close()


def measure(
    settings: Settings, name: str, size: tuple[int, ...], folder: Path, ours: Worker, peer: Worker | None
) -> None:
    """All contenders at one size."""
    problem = random_problem(
        utterances=size[0], frames=size[1], labels=size[2], classes=size[3], deviation=3.0, confidence=0.0, seed=0
    )
    problem.save(folder / "problem.npz")
    given = {"kind": "ctc", "problem": str(folder / "problem.npz")}
    # The kernel is compiled for a GPU; on a CPU it is interpreted, which says nothing of its time (see the part `ctc-kernel`).
    own = {label: walk for label, walk in OURS.items() if not (settings.tiny and walk == "mosaic")}
    if settings.tiny:
        row(f"{name} mosaic kernel", "not run: it is compiled for a GPU only")
    facts: dict[str, Any] = {}
    calls: dict[str, Any] = {}
    for worker, labels, key in ((ours, own, "walk"), (peer, PEERS, "engine")):
        if worker is None:
            continue
        cases = {
            label: given | {key: choice, "result": str(folder / f"{label}.npz")} for label, choice in labels.items()
        }
        try:
            worker.ask("forget")
            facts |= worker.ask("prepare", cases=cases, unit_seconds=settings.unit_seconds)
            calls |= {label: partial(worker.seconds, label) for label in labels}
        except Failed as reason:
            row(f"{name} {worker.name}", f"FAILED: {reason}")
    times, reasons = take_turns(calls, settings.rounds(ROUNDS))
    for label, why in reasons.items():
        row(f"{name} {label}", f"FAILED: {facts[label].get('error', why)}")
    _, truth = exact(Problem(*(array[:CHECKED] for array in problem)))
    for label, seconds in times.items():
        words, figures = describe(label, seconds, times, folder / f"{label}.npz", truth)
        engine = f"; {facts[label]['engine']}" if "engine" in facts[label] else ""
        row(f"{name} {label}", words + engine, **facts[label], **figures)


def describe(
    label: str, seconds: list[float], times: dict[str, list[float]], result: Path, truth: np.ndarray
) -> tuple[str, dict[str, Any]]:
    """Time, ratio to torch's native kernel, error."""
    with np.load(result) as found:
        error = float(np.max(np.abs(found["gradient"][: len(truth)] - truth)))
    words, figures = spread(seconds, 1e3, "ms"), {"seconds": seconds, "gradient_error": error}
    native = times.get("torch native")
    if native and label != "torch native":
        figures["time_over_torch_natives"] = ratio(seconds, native)
        words += "; " + beside(figures["time_over_torch_natives"], "torch native")
    return f"{words}; gradient error {error:.1e}", figures


if __name__ == "__main__":
    main()
