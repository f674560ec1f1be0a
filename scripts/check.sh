#!/usr/bin/env bash
# Format, lint, types and tests, in that order: the first failure ends it. Arguments go to pytest, e.g.
#   scripts/check.sh tests/record -x      some tests
#   scripts/check.sh -m slow              the long ones, minutes each
# Under CI=true the long tests that are marked `ci` run too.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
selection=()
# One file stays with one worker: fixtures and compiled programs are shared within it.
[ "${CI:-}" = true ] && selection=(-m "not slow or ci" -n 2 --dist loadfile)

"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest -q "${selection[@]}" "$@"
