"""torch.nn.GRU, the peer of `benchmarks/gru.py`: forward + backward to input and weights, 2 threads; prints ms as JSON.

Arguments: batch frames hidden repeats. Time-major, which is torch's faster layout; the directions are summed as dsrun's are.
"""

import json
import sys
import time

import torch


def main() -> None:
    batch, frames, hidden, repeats = map(int, sys.argv[1:])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    layer = torch.nn.GRU(hidden, hidden, bidirectional=True)
    x = torch.randn(frames, batch, hidden, requires_grad=True)

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        y, _ = layer(x)
        (y[..., :hidden] + y[..., hidden:]).square().sum().backward()

    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
