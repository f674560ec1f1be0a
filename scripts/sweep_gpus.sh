#!/usr/bin/env bash
# Train the runs of a sweep on the GPUs of this machine, one run a GPU: as soon as one is over, the next takes its GPU.
#
#   scripts/sweep_gpus.sh configs/sweeps/formats.yaml                     all GPUs
#   CUDA_VISIBLE_DEVICES=0,1 scripts/sweep_gpus.sh my_sweep.yaml          two of them
#   scripts/sweep_gpus.sh --runs 2 my_sweep.yaml --set training.epochs=5  two runs at a time, each with half of the GPUs
#   scripts/sweep_gpus.sh --print my_sweep.yaml                           only print the command
#
# Options of the script come before the sweep file, those of `dsrun sweep` after it. What each run says is in RUN.log beside its run
# folder; this terminal has a line when one begins and one when it ends. The same command goes on after a stop or a failure, and several
# machines that share a file system may run it at the same time: each takes runs that no other has. SIGTERM, SIGUSR1 and Ctrl-C make the
# runs write checkpoints. DSRUN names the program: .venv/bin/dsrun if there is one, else dsrun.

set -euo pipefail

root="$(dirname "$0")/.."
dsrun="${DSRUN:-$([ -x "$root/.venv/bin/dsrun" ] && echo "$root/.venv/bin/dsrun" || echo dsrun)}"

fail() { echo "sweep_gpus.sh: $*" >&2; exit 2; }

runs='' print=''
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n -e '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --print) print=yes; shift ;;
    --runs)
      runs="${2:-}"
      case "$runs" in '' | 0 | *[!0-9]*) fail "--runs '$runs': give the number of runs at the same time." ;; esac
      shift 2
      ;;
    -*) fail "$1: not an option of this script; what is for \`dsrun sweep\` comes after the sweep file." ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || fail "which sweep? Such as configs/sweeps/formats.yaml; --help says more."
file="$1"
shift

# The GPUs that this shell may use, one a line.
gpus=()
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  IFS=',' read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
  while read -r gpu; do gpus+=("$gpu"); done < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
[ ${#gpus[@]} -gt 0 ] || fail "no GPUs found; on CPUs: $dsrun sweep $file --jobs 2"
[ -z "$runs" ] || [ $((${#gpus[@]} % runs)) -eq 0 ] || fail "--runs $runs: ${#gpus[@]} GPUs are not shared out evenly."

command=("$dsrun" sweep "$file" --gpus "$(IFS=','; echo "${gpus[*]}")")
[ -z "$runs" ] || command+=(--jobs "$runs")
command+=("$@")
if [ -n "$print" ]; then
  printf '%q ' "${command[@]}" | sed -e 's/\\,/,/g' -e 's/ $//'
  printf '\n'
  exit 0
fi
exec "${command[@]}"
