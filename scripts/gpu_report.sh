#!/usr/bin/env bash
# Everything worth knowing about dsrun on the GPU at hand, within 8 minutes: self-check, CTC accuracy, equal bits from equal runs, and
# speed by storage format, of the quickstart and of Deep Speech 2's shape. Correctness first. Prints a table; --json FILE keeps it.
#   scripts/gpu_report.sh            on a GPU
#   scripts/gpu_report.sh --tiny     the same on a CPU with small networks, to try the script
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
exec "$python" -m benchmarks.gpu_report "$@"
