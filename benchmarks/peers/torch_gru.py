"""torch.nn.GRU, the peer of `benchmarks/gru.py`: forward + backward to input and weights, as a worker that takes turns.

Arguments: batch frames hidden threads passes eager|compiled. Time-major, which is torch's faster layout; the directions are summed as
dsrun's are. Prints a line of JSON when it is ready, then one for each line on stdin.
"""

import json
import os
import sys
import time

import torch


def main() -> None:
    batch, frames, hidden, threads, passes = map(int, sys.argv[1:6])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = torch.nn.GRU(hidden, hidden, bidirectional=True)
    x = torch.randn(frames, batch, hidden, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        y, _ = layer(x)
        return (y[..., :hidden] + y[..., hidden:]).square().sum()

    run = torch.compile(loss) if sys.argv[6] == "compiled" else loss

    def one_pass() -> None:
        layer.zero_grad()
        x.grad = None
        run(x).backward()

    for _ in range(3):
        one_pass()
    print(json.dumps({"version": f"torch {torch.__version__}"}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(passes):
            one_pass()
        print(json.dumps({"seconds": (time.perf_counter() - start) / passes}), flush=True)


if __name__ == "__main__":
    main()
