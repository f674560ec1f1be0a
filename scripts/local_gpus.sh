#!/usr/bin/env bash
# Train with several processes on this machine, its GPUs shared out among them. One process drives all GPUs of a machine by itself
# (`dsrun train`), with the same bits; this is for trying what a cluster does, and for measuring.
#
#   scripts/local_gpus.sh --config configs/prompts_float32.yaml                  one process a GPU
#   scripts/local_gpus.sh --processes 2 --config my.yaml                         half of the GPUs each
#   scripts/local_gpus.sh --cpu --processes 4 --devices 2 --config my.yaml       4 processes with 2 CPU devices each
#   scripts/local_gpus.sh --print --processes 2 --config my.yaml                 only print the commands
#
# The script's own options come first; everything from the first other one goes to `dsrun train`:
#   --processes P   how many; default one a GPU
#   --devices N     devices of each process; default its share of the GPUs, or 1 on CPUs
#   --cpu           CPU devices, though there are GPUs
#   --logs FOLDER   where processes 1 to P-1 write what they say (RUN.processes, beside the run folder)
#   --port PORT     of the coordinator on 127.0.0.1; default a free one
#   --grace S       seconds from asking the others to end to killing them (30)
#   --print, --help
#
# Process 0 writes the run folder and speaks on this terminal. The first process that fails ends the others, and its exit code is the
# script's; the codes of those that lost a peer mean nothing. SIGTERM, SIGUSR1 and Ctrl-C are passed on to all: they agree on a step, write
# a checkpoint and leave with 75 or 130. DSRUN names the program: .venv/bin/dsrun if there is one, else dsrun.

set -euo pipefail

root="$(dirname "$0")/.."
dsrun="${DSRUN:-$([ -x "$root/.venv/bin/dsrun" ] && echo "$root/.venv/bin/dsrun" || echo dsrun)}"

fail() { echo "local_gpus.sh: $*" >&2; exit 2; }

processes='' devices='' cpu='' logs='' port='' grace=30 print=''
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n -e '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --print) print=yes; shift; continue ;;
    --cpu) cpu=yes; shift; continue ;;
    --processes | --devices | --logs | --port | --grace) [ $# -gt 1 ] || fail "$1 needs a value." ;;
    *) break ;;
  esac
  case "$1" in
    --logs) logs="$2" ;;
    *[!a-z-]*) ;;
    *)
      case "$2" in '' | *[!0-9]*) fail "$1 '$2': a number is needed." ;; esac
      printf -v "${1#--}" '%s' "$((10#$2))"
      ;;
  esac
  shift 2
done
[ $# -gt 0 ] || fail "nothing to train. Give the options of \`dsrun train\`, e.g. --config configs/prompts_float32.yaml; --help says more."
for option in "$@"; do
  case "$option" in
    --devices | --devices=* | --processes | --processes=*) fail "$option: an option of this script; it comes before those of \`dsrun train\`." ;;
  esac
done

# The GPUs that this shell may use, one a line.
gpus=()
if [ -z "$cpu" ]; then
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=',' read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    while read -r gpu; do gpus+=("$gpu"); done < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
  fi
fi
processes="${processes:-${#gpus[@]}}"
[ "$processes" -ge 1 ] || fail "no GPUs found: say how many processes, e.g. --processes 2."
if [ ${#gpus[@]} -gt 0 ]; then
  [ $((${#gpus[@]} % processes)) -eq 0 ] || [ -n "$devices" ] ||
    fail "${#gpus[@]} GPUs are not shared out evenly among $processes processes. Choose --processes, or --devices for each."
  devices="${devices:-$((${#gpus[@]} / processes))}"
  [ $((devices * processes)) -le ${#gpus[@]} ] || fail "$processes processes with $devices devices each need $((devices * processes)) GPUs; here are ${#gpus[@]}."
fi
devices="${devices:-1}"

is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
# Below 32768: there Linux takes ports of its own accord.
while [ -z "$port" ]; do
  candidate=$((20000 + RANDOM % 12000))
  ! is_free "$candidate" || port=$candidate
done

# What process I runs, in `command`.
command=()
command_of() {
  local first=$((devices * $1)) mine
  command=()
  if [ ${#gpus[@]} -gt 0 ]; then
    mine="$(IFS=','; echo "${gpus[*]:first:devices}")"
    command+=(env "CUDA_VISIBLE_DEVICES=$mine")
  elif [ -n "$cpu" ]; then
    command+=(env JAX_PLATFORMS=cpu)
  fi
  command+=("$dsrun" train --devices "$devices")
  # One process needs no coordinator.
  [ "$processes" -eq 1 ] || command+=(--processes "$processes" --process "$1" --coordinator "127.0.0.1:$port")
  command+=("${options[@]}")
}
options=("$@")

if [ -n "$print" ]; then
  for ((index = 0; index < processes; index++)); do
    command_of "$index"
    printf '%q ' "${command[@]}" | sed -e 's/\\,/,/g' -e 's/ $//'
    printf '\n'
  done
  exit 0
fi

logs="${logs:-$("$dsrun" train "${options[@]}" --where).processes}"
[ "$processes" -eq 1 ] || mkdir -p "$logs"

pids=()
to_all() {
  local pid
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'to_all TERM' TERM HUP
trap 'to_all USR1' USR1
trap 'to_all INT' INT

# With job control each process has a process group of its own: Ctrl-C reaches this script alone, which passes it on once, and a process
# in the background does not start with SIGINT ignored.
set -m
for ((index = 0; index < processes; index++)); do
  command_of "$index"
  if [ "$index" -eq 0 ]; then
    "${command[@]}" </dev/null &
  else
    "${command[@]}" </dev/null >"$logs/process_$index.log" 2>&1 &
  fi
  pids+=($!)
done


# 75 and 130 are orderly: the others leave in the same way, and one of them may still be writing the checkpoint.
is_failure() { case "$1" in 0 | 75 | 130) return 1 ;; *) return 0 ;; esac; }

result=0 deadline='' ended=()
for ((index = 0; index < processes; index++)); do ended[index]=''; done
while true; do
  running=0
  for ((index = 0; index < processes; index++)); do
    [ -z "${ended[index]}" ] || continue
    if kill -0 "${pids[index]}" 2>/dev/null; then
      running=$((running + 1))
      continue
    fi
    code=0
    wait "${pids[index]}" || code=$?
    ended[index]="$code"
    if [ -z "$deadline" ] && is_failure "$code"; then
      result="$code" deadline=$((SECONDS + grace))
      echo "local_gpus.sh: process $index ended with exit code $code; ending the others$([ "$index" -eq 0 ] || echo " (what it said: $logs/process_$index.log)")" >&2
      to_all TERM
    elif [ -z "$deadline" ] && [ "$code" -ne 0 ]; then
      result="$code"
    fi
  done
  [ "$running" -gt 0 ] || break
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  fi
  sleep 0.2 & # in the background, so that a trap runs at once
  wait $! || true
done
exit "$result"
