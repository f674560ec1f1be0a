#!/usr/bin/env bash
#SBATCH --job-name=dsrun-array
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
# Train the runs of a sweep, or a list of configs, one job each: an array of which task I trains run or line I.
#
#   scripts/slurm_array.sh configs/sweeps/formats.yaml       submit all runs of a sweep, four at a time
#   scripts/slurm_array.sh --only 3,7 configs/sweeps/formats.yaml --set training.epochs=5 --folder runs/short
#   scripts/slurm_array.sh runs.txt                          submit all lines, four at a time
#   scripts/slurm_array.sh --at-once 16 runs.txt --set training.epochs=5
#   scripts/slurm_array.sh --only 3,7 runs.txt               lines 3 and 7 again; they go on where they stopped
#   scripts/slurm_array.sh --print runs.txt                  what each line would run; needs no SLURM
#   sbatch --array=0-11%4 --time=24:00:00 scripts/slurm_array.sh runs.txt      by hand, with sbatch's own options
#
# A file whose name ends in .yaml is a sweep (`dsrun sweep FILE --list` shows its runs and how far they are), any other is a list. Options
# after it go to every run. A sweep file must stay as it is while the array is under way: an index means a place in it.
#
# A line of the list is a config and options of `dsrun train`, separated by spaces, without quotes; empty lines and those that begin with
# `#` do not count, and the first that does is line 0:
#   configs/prompts_float32.yaml --set seed=1
#   configs/prompts_float32.yaml --set seed=2
# Run folders are named by content, so what is trained again, by any job, finds its own; a complete one is left alone. Account, partition
# and time: sbatch's variables (SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT) or the lines at the top of this file. Time limit, signals and requeueing are as in scripts/slurm_train.sh, for each task by itself.
#
# Variables, by `export` before: DSRUN, DSRUN_ROOT, MAX_RESTARTS, as in scripts/slurm_train.sh.

set -euo pipefail

# SLURM runs a copy of this file from a folder of its own.
root="${DSRUN_ROOT:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
[ -f "$root/scripts/slurm_job.sh" ] || { echo "no scripts/slurm_job.sh in $root: submit in the repository's folder, or set DSRUN_ROOT." >&2; exit 2; }
# shellcheck source=scripts/slurm_job.sh
source "$root/scripts/slurm_job.sh"
dsrun="${DSRUN:-$([ -x "$root/.venv/bin/dsrun" ] && echo "$root/.venv/bin/dsrun" || echo dsrun)}"

fail() { echo "$*" >&2; exit 2; }

at_once=4 only='' print=''
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) help_of "$0"; exit 0 ;;
    --print) print=yes; shift ;;
    --at-once) at_once="${2:-}"; shift; shift || true ;;
    --only) only="${2:-}"; shift; shift || true ;;
    -*) fail "$1: not an option of this script; options of \`dsrun\` come after the sweep or the list." ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || fail "$0: which runs? A sweep file, or a text file with a config and its options a line; --help says more."
case "$at_once" in '' | 0 | *[!0-9]*) fail "--at-once '$at_once': give the number of tasks that may run at the same time." ;; esac

list="$1"
shift
[ -f "$list" ] || fail "$list: no such file."
is_sweep='' verb=train unit=line
case "$list" in *.yaml | *.yml) is_sweep=yes verb=sweep unit=run ;; esac

task="${SLURM_ARRAY_TASK_ID:-}"
[ -z "$print" ] || task=''
lines=() is_counted=yes
if [ -n "$is_sweep" ] && [ -n "$task" ]; then
  # `dsrun sweep --index` knows how many there are; for the table each task would read the folders of all.
  is_counted=''
elif [ -n "$is_sweep" ]; then
  # A line of the table a run, behind that of the names.
  table="$("$dsrun" sweep "$list" "$@" --list)"
  while IFS= read -r line; do lines+=("$line"); done < <(tail -n +2 <<<"$table")
fi
[ -n "$is_sweep" ] || while IFS= read -r line || [ -n "$line" ]; do
  line="${line%$'\r'}"
  case "${line//[[:space:]]/}" in '' | '#'*) continue ;; esac
  lines+=("$line")
done <"$list"
last=$((${#lines[@]} - 1))
[ "$last" -ge 0 ] || [ -z "$is_counted" ] || fail "$list: has no line with a config."
twice=''
[ -n "$is_sweep" ] || twice="$(printf '%s\n' "${lines[@]}" | sort | uniq -d | head -n 1)"
[ -z "$twice" ] || fail "$list: '$twice' stands there twice; both would train in one run folder."

# The options of run or line I and those for all, in `words`.
words=()
words_of_line() {
  local index="$1"
  shift
  case "$index" in *[!0-9]* | '') fail "$unit '$index': a number from 0 is needed." ;; esac
  [ "$index" -le "$last" ] || [ -z "$is_counted" ] || fail "$unit $index: $list has ${unit}s 0 to $last."
  if [ -n "$is_sweep" ]; then
    words=("$list" --index "$index" "$@")
    return
  fi
  read -ra words <<<"${lines[$index]}"
  case "${words[0]}" in
    -*) ;;
    *) words=(--config "${words[@]}") ;;
  esac
  words+=("$@")
}

if [ -n "$task" ]; then
  words_of_line "$task" "$@"
  describe_job "$root"
  keep_options_of_this_start "${words[@]}"
  folder="$("$dsrun" "$verb" "${options[@]}" --where)"
  leave_if_done "$folder" "${options[@]}"
  run_to_the_end "$folder" "$dsrun" "$verb" "${options[@]}"
fi
[ -n "$print" ] || [ -z "${SLURM_JOB_ID:-}" ] || fail "$0: a job without an index. Submit it with --array=0-$last, or run it outside of a job."

IFS=', ' read -ra indices <<<"${only:-$(seq -s ' ' 0 "$last")}"
for index in "${indices[@]}"; do
  words_of_line "$index" "$@"
  [ -z "$print" ] || { printf '%s: ' "$index"; show_command "$dsrun" "$verb" "${words[@]}"; }
done
submit=(sbatch --array="${only:-0-$last}%$at_once" "$0" "$list" "$@")
if [ -n "$print" ]; then
  sbatch_options_of "$0"
  show_command "${submit[@]}"
else
  exec "${submit[@]}"
fi
