"""Time of one bidirectional GRU layer, forward + backward to its input and weights, beside torch.nn.GRU on the same CPU.

Each contender has a process of its own (torch beside XLA's thread pool in one process is slowed many times) and the
processes alternate, so that a change of the machine's load hits all of them:

    dsrun            `dsrun.model.gru.bidirectional_gru`, one CPU device
    dsrun, 2 shards  the same batch as two shards on two CPU devices, as the trainer spreads shards; without their sum
    torch            torch.nn.GRU(bidirectional=True), directions summed, 2 threads

    python benchmarks/gru.py --torch-python /path/to/an/environment/with/torch/bin/python

Prints medians in ms over all rounds, the ratio to torch, and the fastest run of each. Quote ratios; times are the machine's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHAPES = ((8, 200, 128), (16, 200, 256))  # batch, frames, input = hidden
REPEATS = 9
PEER = Path(__file__).parent / "peers" / "torch_gru.py"


def measure(batch: int, frames: int, hidden: int, devices: int) -> list[float]:
    """Milliseconds of each repeat, in this process."""
    from dsrun.record.runtime import configure_runtime

    configure_runtime(devices=devices)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dsrun.model.gru import GruWeights, Recurrence, bidirectional_gru

    random = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(hidden)).astype(np.float32)

    def direction() -> GruWeights:
        recurrence = Recurrence(*(values(hidden, hidden) for _ in range(3)), values(hidden))
        return GruWeights(*(values(hidden, hidden) for _ in range(3)), *(values(hidden) for _ in range(3)), recurrence)

    def loss(x, weights, num_frames):
        return jnp.sum(jnp.square(bidirectional_gru(x, num_frames, weights)))

    rows = batch // devices
    shard = (values(rows, frames, hidden), (direction(), direction()), np.full(rows, frames, np.int32))
    shards = [jax.device_put(shard, device) for device in jax.devices()[:devices]]
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return timed(lambda: jax.block_until_ready([gradient(*arrays) for arrays in shards]))


def timed(run) -> list[float]:
    for _ in range(3):
        run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="interpreter that has torch; without it dsrun is timed alone")
    parser.add_argument("--rounds", type=int, default=3, help="how often the processes alternate")
    parser.add_argument("--child", type=int, nargs=4, metavar=("BATCH", "FRAMES", "HIDDEN", "DEVICES"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    for shape in SHAPES:
        sizes = [str(n) for n in shape]
        own = [sys.executable, __file__, "--child", *sizes]
        commands = {"dsrun": [*own, "1"], "dsrun, 2 shards": [*own, "2"]}
        if options.torch_python:
            commands["torch"] = [options.torch_python, str(PEER), *sizes, str(REPEATS)]
        report(shape, commands, options.rounds)


def report(shape: tuple[int, ...], commands: dict[str, list[str]], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times[name] += json.loads(output)
    torch = statistics.median(times["torch"]) if "torch" in times else None
    print("batch, frames, hidden:", *shape)
    for name, values in times.items():
        median = statistics.median(values)
        ratio = f"   torch / this {torch / median:5.2f}" if torch else ""
        print(f"  {name:16s} median {median:7.1f} ms   fastest {min(values):7.1f} ms{ratio}", flush=True)


if __name__ == "__main__":
    main()
