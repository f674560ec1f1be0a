#!/usr/bin/env bash
# From an empty machine with Python 3.11 or 3.12 to test error rates: a virtual environment, the install, the quickstart config.
# Run again, it goes on where it stopped. Options after the script's name go to `dsrun train`.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" - <<'PY' || { echo "Set PYTHON to a Python 3.11 or newer, e.g. PYTHON=python3.11 scripts/quickstart.sh" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

if [ ! -x .venv/bin/dsrun ]; then
  echo "installing into .venv (a minute or two) ..." >&2
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
fi
exec .venv/bin/dsrun train --config configs/prompts_float32.yaml "$@"
