#!/usr/bin/env bash
# Everything worth knowing about dsrun on the GPU at hand, within 8 minutes: correctness first (self-check, equal bits from equal runs, the
# kernels), then the chip's ceilings, GRU layers, XLA's flags, CTC and Deep Speech 2's step beside PyTorch where this Python has it, then
# rounding, accuracy and narrow formats. Prints a table; --json FILE keeps it.
#   scripts/gpu_report.sh                          on a GPU
#   scripts/gpu_report.sh --only ceilings gru      some parts; --list names them
#   scripts/gpu_report.sh --torch-python PATH      PyTorch from another Python
#   scripts/gpu_report.sh --tiny                   on a CPU with toy sizes, to try the script
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
exec "$python" -m benchmarks.gpu_report "$@"
