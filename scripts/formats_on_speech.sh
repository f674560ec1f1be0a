#!/usr/bin/env bash
# The arithmetic experiments on speech: every config of the small network, three seeds each, dev and test error rates with intervals and
# differences to float32, as the table in docs/MEASUREMENTS.md. Stopped, it goes on where it was; about two minutes a run on one core.
#   scripts/formats_on_speech.sh [FOLDER]     FOLDER: where the runs go (runs/small_configs)
#   JOBS=4 scripts/formats_on_speech.sh       runs side by side, one device each (2)
#   ONLY="ternary-*" scripts/formats_on_speech.sh
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
folder="${1:-runs/small_configs}"
"$python" -m dsrun sweep configs/sweeps/small_configs.yaml --folder "$folder" --jobs "${JOBS:-2}" --devices 1 ${ONLY:+--only "$ONLY"} >&2
"$python" -m dsrun compare "$folder" --md
