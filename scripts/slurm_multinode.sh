#!/usr/bin/env bash
#SBATCH --job-name=dsrun
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# Train on several nodes: one process a node drives its GPUs, and JAX finds the others by SLURM's variables. The bits are those of one
# device.
#
#   sbatch --nodes=4 --gres=gpu:2 scripts/slurm_multinode.sh --config configs/prompts_float32.yaml
#   scripts/slurm_multinode.sh --print --config my.yaml      what it would run; needs no SLURM
#
# Everything after the script's own options (--print, --help) goes to `dsrun train`. All devices together must be at most the config's
# batches.shards. The nodes need one file system for the repository, the data and runs/, and TCP between them. Leave one task a node, and
# do not bind GPUs to tasks (--gpus-per-task, --gpu-bind): a process must see all of its node's. Account, partition, time and requeueing
# are as in scripts/slurm_train.sh.
#
# If one process dies, the others end too, within JAX's heartbeat (100 seconds); their codes mean little, and the first `srun: error` line
# names the one to look at. srun is told not to kill the rest at the first code: a process that leaves with 75 must not cut off the one
# that still writes the checkpoint. A node that fails makes SLURM itself requeue the job.
#
# Variables, by `export` before sbatch:
#   DEVICES       GPUs of each process (SLURM's count for a node; without GPUs what dsrun takes)
#   DSRUN         the program: .venv/bin/dsrun if there is one, else dsrun
#   DSRUN_ROOT    the repository, if the job is submitted elsewhere
#   MAX_RESTARTS  20

set -euo pipefail

# SLURM runs a copy of this file from a folder of its own.
root="${DSRUN_ROOT:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
[ -f "$root/scripts/slurm_job.sh" ] || { echo "no scripts/slurm_job.sh in $root: submit in the repository's folder, or set DSRUN_ROOT." >&2; exit 2; }
# shellcheck source=scripts/slurm_job.sh
source "$root/scripts/slurm_job.sh"
dsrun="${DSRUN:-$([ -x "$root/.venv/bin/dsrun" ] && echo "$root/.venv/bin/dsrun" || echo dsrun)}"

group=(--distributed)
devices="${DEVICES:-${SLURM_GPUS_ON_NODE:-}}"
[ -z "$devices" ] || group+=(--devices "$devices")
# Since SLURM 22.05 srun does not take the job's --cpus-per-task by itself.
step=(srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" --kill-on-bad-exit=0 --wait=0 --label)

case "${1:-}" in
  --help | -h) help_of "$0"; exit 0 ;;
  --print)
    shift
    require_options "$0" "$@"
    sbatch_options_of "$0"
    show_command "${step[@]}" "$dsrun" train "${group[@]}" "$@"
    exit 0
    ;;
esac
require_options "$0" "$@"
require_a_job "$0"

describe_job "$root"
for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; do
  [ -z "${!name:-}" ] || say "warning: $name is set, which can keep processes from finding each other; unset it if the start hangs"
done
keep_options_of_this_start "$@"
folder="$("$dsrun" train "${options[@]}" --where)"
leave_if_done "$folder" "${options[@]}"
run_to_the_end "$folder" "${step[@]}" "$dsrun" train "${group[@]}" "${options[@]}"
