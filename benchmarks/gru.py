"""Time of one bidirectional GRU layer, forward and backward to its input and weights, beside torch and flax on the same CPU.

    python -m benchmarks.gru --torch-python PATH [--rounds 7] [--json]

    dsrun           `dsrun.model.gru.bidirectional_gru`, one CPU device, a pool of `--threads` threads
    two shards      the batch as two shards on two CPU devices, as `dsrun train` spreads it, and the sum of their weight gradients
    recompute       as dsrun, with `residuals="recompute"`
    torch           torch.nn.GRU(bidirectional=True), directions summed, time-major (torch's faster layout)
    torch.compile   the same layer through torch.compile
    flax            flax.nnx.Bidirectional(RNN(GRUCell), RNN(GRUCell)), directions summed, time-major, under jax.jit

A time is of `--passes` passes in a row, enough of them that waking up does not show. Beside dsrun's stands its share of the rate that a
large float32 product reaches in the same process right before, FLOPs counted by formula: with D = H inputs and N frames in all, 12 H^2 N
for the projections and 12 H^2 N for the recurrence, three times that with the gradients. Every figure is the median over the rounds
(lowest to highest). Quote ratios; times are the machine's.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.turns import Contender, compete, ratio, serve
from dsrun.record.runtime import configure_runtime

SIZES = ((8, 200, 128), (16, 200, 256), (16, 200, 800))  # batch, frames, input = hidden
PASSES = {128: 20, 256: 5, 800: 2}
PEER = Path(__file__).parent / "peers" / "torch_gru.py"
OWN = ("dsrun", "two shards", "recompute", "flax")


def flops(batch: int, frames: int, hidden: int) -> float:
    """Of forward and backward of both directions."""
    return 72.0 * hidden**2 * batch * frames


def passes(hidden: int) -> int:
    """Passes in a unit of work, on a CPU some tens of milliseconds or more."""
    return next((count for size, count in sorted(PASSES.items()) if hidden <= size), 1)


def work(contender: str, batch: int, frames: int, hidden: int, threads: int) -> None:
    """A worker in JAX."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    shards = 2 if contender == "two shards" else 1
    configure_runtime(shards, pool_size=threads)
    import jax
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(0)
    x = random.standard_normal((shards, batch // shards, frames, hidden)).astype(np.float32)
    gradient, weights = (_flax if contender == "flax" else _dsrun)(contender, batch // shards, frames, hidden)
    arrays = [jax.device_put((x[i], weights), jax.devices()[i]) for i in range(shards)]
    add = jax.jit(lambda parts: [parts[0][0], parts[1][0], jax.tree.map(jnp.add, parts[0][1], parts[1][1])])

    def one_pass() -> Any:
        parts = [gradient(*own) for own in arrays]
        return jax.block_until_ready(add(jax.device_put(parts, jax.devices()[0])) if shards == 2 else parts)

    square = jnp.asarray(random.standard_normal((2048, 2048)), jnp.float32)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))

    def unit() -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(4):
            multiply(square).block_until_ready()
        rate = 4 * 2.0 * 2048**3 / (time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(passes(hidden)):
            one_pass()
        return {"seconds": (time.perf_counter() - start) / passes(hidden), "product_flops_per_second": rate}

    start = time.perf_counter()
    one_pass()
    ready = {"version": f"jax {jax.__version__}", "first_call_seconds": time.perf_counter() - start}
    unit()
    serve(ready, unit)


def _dsrun(contender: str, batch: int, frames: int, hidden: int) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dsrun.model.gru import GruWeights, Recurrence, bidirectional_gru

    random = np.random.default_rng(1)

    def values(*shape: int) -> Any:
        return jnp.asarray(random.uniform(-1, 1, shape) / np.sqrt(hidden), jnp.float32)

    def direction() -> GruWeights:
        recurrence = Recurrence(*(values(hidden, hidden) for _ in range(3)), values(hidden))
        return GruWeights(*(values(hidden, hidden) for _ in range(3)), *(values(hidden) for _ in range(3)), recurrence)

    num_frames = jnp.full(batch, frames, jnp.int32)
    residuals: Any = "recompute" if contender == "recompute" else "store"

    def loss(x: Any, weights: Any) -> Any:
        return jnp.sum(jnp.square(bidirectional_gru(x, num_frames, weights, residuals=residuals)))

    return jax.jit(jax.grad(loss, argnums=(0, 1))), (direction(), direction())


def _flax(contender: str, batch: int, frames: int, hidden: int) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rngs = nnx.Rngs(0)
    ways = [nnx.RNN(nnx.GRUCell(hidden, hidden, rngs=rngs), time_major=True) for _ in range(2)]
    layer = nnx.Bidirectional(*ways, merge_fn=jnp.add, time_major=True)
    graph, state = nnx.split(layer)

    def loss(x: Any, state: Any) -> Any:
        return jnp.sum(jnp.square(nnx.merge(graph, state)(jnp.swapaxes(x, 0, 1))))

    return jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True)), state


def measure(size: tuple[int, int, int], options: argparse.Namespace) -> dict[str, Any]:
    """All contenders at one size."""
    sizes = [str(number) for number in (*size, options.threads)]
    commands = {name: [sys.executable, "-m", "benchmarks.gru", "--work", name, *sizes] for name in OWN}
    if options.torch_python:
        count = str(passes(size[2]))
        commands["torch"] = [options.torch_python, str(PEER), *sizes, count, "eager"]
        if options.torch_compile:
            commands["torch.compile"] = [options.torch_python, str(PEER), *sizes, count, "compiled"]
    found = {contender.name: contender for contender in compete(commands, rounds=options.rounds)}
    return {
        "batch": size[0],
        "frames": size[1],
        "hidden": size[2],
        "rows": [_row(c, found, size) for c in found.values()],
    }


def _row(contender: Contender, found: dict[str, Contender], size: tuple[int, int, int]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "contender": contender.name,
        "version": contender.ready["version"],
        "milliseconds": 1e3 * statistics.median(contender.seconds),
        "time_over_dsruns": ratio(contender.seconds, found["dsrun"].seconds),
    }
    if "first_call_seconds" in contender.ready:
        row["first_call_seconds"] = contender.ready["first_call_seconds"]
        shares = [flops(*size) / r["seconds"] / r["product_flops_per_second"] for r in contender.results]
        row["share_of_product_rate"] = statistics.median(shares)
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="interpreter that has torch; without it torch is left out")
    parser.add_argument("--torch-compile", action="store_true", help="also torch.compile (needs a C++ compiler)")
    parser.add_argument(
        "--sizes", nargs="*", metavar="BATCHxFRAMESxHIDDEN", help="default: the three of docs/MEASUREMENTS.md"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--work", nargs=5, metavar=("NAME", "BATCH", "FRAMES", "HIDDEN", "THREADS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.work:
        return work(options.work[0], *(int(number) for number in options.work[1:]))
    sizes = [tuple(int(n) for n in text.split("x")) for text in options.sizes] if options.sizes else SIZES
    results = []
    for size in sizes:
        results.append(measure(size, options))
        if not options.json:
            show(results[-1])
    if options.json:
        print(json.dumps(results))
    else:
        for name in [row["contender"] for row in results[0]["rows"] if row["contender"] != "dsrun"]:
            found = [
                row["time_over_dsruns"]["median"] for r in results for row in r["rows"] if row["contender"] == name
            ]
            print(f"{name} / dsrun, geometric mean over the sizes: {statistics.geometric_mean(found):.2f}")
    return None


def show(result: dict[str, Any]) -> None:
    """One size as a table."""
    print(f"batch {result['batch']}, {result['frames']} frames, input = hidden = {result['hidden']}")
    for row in result["rows"]:
        found = row["time_over_dsruns"]
        share = f"   {row['share_of_product_rate']:.0%} of the product rate" if "share_of_product_rate" in row else ""
        ratios = f"{found['median']:5.2f} ({found['lowest']:.2f} to {found['highest']:.2f})"
        print(
            f"  {row['contender']:14} {row['milliseconds']:8.1f} ms   over dsrun's {ratios}{share}   {row['version']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
