"""CTC loss and gradient beside torch's and optax's on the same CPU: time, and error against float64.

    python -m benchmarks.ctc --torch-python PATH [--rounds 7] [--sizes 32x800x150x29] [--json]

Sizes are batch x frames x labels x classes; labels of half to the whole length, logits of standard deviation 3. Every contender starts from
the logits (torch's log-softmax is part of its time) and gives the loss and the gradient with respect to them, on the same threads, in a
process of its own; they take turns. A time is the median over the rounds of a pass among as many as take about a fifth of a second.
Errors are the largest over all frames, utterances and classes, against a float64 forward-backward in NumPy.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ctc_problem import Problem, exact, loss_and_gradient, optax_loss_and_gradient, random_problem
from benchmarks.turns import Contender, compete, ratio, serve
from dsrun.record.runtime import configure_runtime

SIZES = ((4, 150, 40, 29), (16, 400, 80, 29), (32, 800, 150, 29), (16, 400, 40, 4000))
PEER = Path(__file__).parent / "peers" / "torch_ctc.py"
UNIT_SECONDS = 0.2


def work(contender: str, folder: Path, threads: int) -> None:
    """A worker in JAX: dsrun or optax."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    configure_runtime(1, pool_size=threads)
    import jax
    import optax

    from dsrun.ctc import ctc_loss

    problem = Problem.load(folder / "problem.npz")
    if contender == "dsrun":
        function, version = jax.jit(lambda *arrays: loss_and_gradient(ctc_loss, *arrays)), f"jax {jax.__version__}"
    else:
        function, version = jax.jit(optax_loss_and_gradient), f"optax {optax.__version__}"
    arrays = [jax.numpy.asarray(x) for x in problem]
    start = time.perf_counter()
    loss, gradient = jax.device_get(function(*arrays))
    compiled = time.perf_counter() - start
    np.savez(folder / f"{contender}.npz", loss=loss, gradient=gradient)
    count = passes(lambda: jax.block_until_ready(function(*arrays)))

    def unit() -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(function(*arrays))
        return {"seconds": (time.perf_counter() - start) / count}

    serve({"version": version, "first_call_seconds": compiled}, unit)


def passes(one: Any) -> int:
    """How many make a unit of work."""
    one()
    start = time.perf_counter()
    one()
    return max(1, round(UNIT_SECONDS / (time.perf_counter() - start)))


def measure(size: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    """All contenders at one size."""
    problem = random_problem(
        utterances=size[0], frames=size[1], labels=size[2], classes=size[3], deviation=3.0, confidence=0.0, seed=0
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem.save(folder / "problem.npz")
        threads = str(options.threads)
        commands = {
            own: [sys.executable, "-m", "benchmarks.ctc", "--work", own, name, threads] for own in ("dsrun", "optax")
        }
        if options.torch_python:
            commands["torch"] = [options.torch_python, str(PEER), name, threads, str(UNIT_SECONDS)]
        contenders = compete(commands, rounds=options.rounds)
        truth = exact(problem)
        rows = [_row(contender, contenders[0], folder, truth) for contender in contenders]
    return {"size": list(size), "rows": rows}


def _row(contender: Contender, ours: Contender, folder: Path, truth: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    loss, gradient = truth
    with np.load(folder / f"{contender.name}.npz") as found:
        return {
            "contender": contender.name,
            "version": contender.ready["version"],
            "milliseconds": 1e3 * statistics.median(contender.seconds),
            "time_over_dsruns": ratio(contender.seconds, ours.seconds),
            "gradient_error": float(np.max(np.abs(found["gradient"] - gradient))),
            "loss_error": float(np.max(np.abs(found["loss"] - loss) / loss)),
            "first_call_seconds": contender.ready.get("first_call_seconds"),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="interpreter that has torch; without it torch is left out")
    parser.add_argument("--sizes", nargs="*", metavar="BATCHxFRAMESxLABELSxCLASSES")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=3, metavar=("NAME", "FOLDER", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work[0], Path(options.work[1]), int(options.work[2]))
    sizes = [tuple(int(n) for n in text.split("x")) for text in options.sizes] if options.sizes else SIZES
    results = []
    for size in sizes:
        results.append(measure(size, options))
        if not options.json:
            show(results[-1])
    if options.json:
        print(json.dumps(results))
    return None


def show(result: dict[str, Any]) -> None:
    """One size as a table."""
    print("{} utterances, {} frames, {} labels, {} classes".format(*result["size"]))
    for row in result["rows"]:
        found = row["time_over_dsruns"]
        print(
            f"  {row['contender']:8} {row['milliseconds']:8.2f} ms   over dsrun's {found['median']:5.2f} ({found['lowest']:.2f} to "
            f"{found['highest']:.2f})   gradient error {row['gradient_error']:.1e}   loss {row['loss_error']:.1e}   {row['version']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
