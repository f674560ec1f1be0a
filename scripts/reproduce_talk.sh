#!/usr/bin/env bash
# The claims and figures of the talk "Computer Arithmetic in Deep Learning" that this machine can test, from real runs on it, into one report:
# a table of claim, what was measured, agrees / differs / cannot tell / not testable here, and command; and the figures.
# Two cores: about an hour and a quarter if they are quiet. Stopped, it goes on where it was; a part that fails is told in the table.
#   scripts/reproduce_talk.sh                          everything, into runs/talk: talk.html, talk.md, talk.json
#   scripts/reproduce_talk.sh --list                   the parts, with minutes
#   scripts/reproduce_talk.sh --print                  the commands, run nothing
#   scripts/reproduce_talk.sh --only sweep speech      some parts, and the report of what is there
#   scripts/reproduce_talk.sh --only report            the report again
#   scripts/reproduce_talk.sh --full --data TRAIN DEV TEST    Deep Speech 2 with your manifests, on GPUs
#   scripts/reproduce_talk.sh --tiny --folder DIR      minutes, toy sizes: a trial of the script
# Exit codes: 0 every part ran (whatever the verdicts); 1 a part failed; 2 bad usage; 75 stopped by a signal, 130 Ctrl-C: the same command goes on.
set -euo pipefail
here="$(pwd)"
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
exec "$python" -m scripts.talk --here "$here" "$@"
