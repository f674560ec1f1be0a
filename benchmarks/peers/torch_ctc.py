"""torch's ctc_loss, the peer of `benchmarks/ctc.py`: loss and gradient with respect to the logits, as a worker that takes turns.

Arguments: folder with problem.npz, threads, seconds that a unit of work should take. Writes torch.npz there, prints a line of JSON when
it is ready, then one for each line on stdin.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    folder, threads, unit_seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    with np.load(folder / "problem.npz") as arrays:
        logits = torch.tensor(arrays["logits"], requires_grad=True)
        lengths = [torch.tensor(arrays[n], dtype=torch.int64) for n in ("labels", "num_frames", "num_labels")]

    def one_pass() -> torch.Tensor:
        logits.grad = None
        log_probs = torch.log_softmax(logits, dim=2).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, *lengths, blank=0, reduction="none")
        loss.sum().backward()
        return loss

    loss = one_pass()
    np.savez(folder / "torch.npz", loss=loss.detach().numpy(), gradient=logits.grad.numpy())
    one_pass()
    start = time.perf_counter()
    one_pass()
    count = max(1, round(unit_seconds / (time.perf_counter() - start)))
    print(json.dumps({"version": f"torch {torch.__version__}"}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(count):
            one_pass()
        print(json.dumps({"seconds": (time.perf_counter() - start) / count}), flush=True)


if __name__ == "__main__":
    main()
