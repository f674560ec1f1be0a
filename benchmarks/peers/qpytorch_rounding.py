"""QPyTorch (package `qtorch`), the peer of `benchmarks/rounding.py`: seconds of each case as JSON on the last line.

Arguments: values rounds threads. Its names for the formats: stored significand bits, and a word length with a fraction length.
Its nearest is not IEEE 754's: float_quantize ties away from zero. What is compared is time alone.
"""

import json
import sys
import time

import torch
from qtorch.quant import fixed_point_quantize, float_quantize

MODES = {"ties_to_even": "nearest", "stochastic": "stochastic"}


def main() -> None:
    values, rounds, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(values)
    calls = {}
    for mode, name in MODES.items():
        calls[f"float16 {mode}"] = lambda name=name: float_quantize(x, exp=5, man=10, rounding=name)
        calls[f"bfloat16 {mode}"] = lambda name=name: float_quantize(x, exp=8, man=7, rounding=name)
        calls[f"float8_e4m3fn {mode}"] = lambda name=name: float_quantize(x, exp=4, man=3, rounding=name)
        calls[f"fixed_q2.14 {mode}"] = lambda name=name: fixed_point_quantize(x, wl=16, fl=14, rounding=name)
    times = {name: [] for name in calls}
    for number in range(2 + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
