#!/usr/bin/env bash
#SBATCH --job-name=dsrun
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# Train on the GPUs of one node: one process drives all of them, so there is no coordinator and no port.
#
#   sbatch scripts/slurm_train.sh --config configs/prompts_float32.yaml
#   sbatch --gres=gpu:8 --time=24:00:00 --account=speech scripts/slurm_train.sh --config my.yaml --set seed=2
#   scripts/slurm_train.sh --print --config my.yaml      what it would run; needs no SLURM
#
# Everything after the script's own options (--print, --help) goes to `dsrun train`. Submit it in the repository's folder. Resources
# are sbatch's own options, before the script's name, or the lines at the top of this file; account and partition differ from site to
# site, and some want --gpus=N or --gpus-per-node=N instead of --gres=gpu:N.
#
# 180 seconds before the time limit (SLURM may do it a minute earlier) the job is signalled, writes a checkpoint and comes back;
# scripts/slurm_job.sh says when it does not. The run folder is named by the config's content, so every start finds it. `B:` signals this
# script only, which passes it on. Make it more than 180 where a step or a checkpoint takes minutes. Not every site signals before it
# preempts: what is then lost is what came after the last checkpoint (training.checkpoint_every_steps).
#
# Variables, by `export` before sbatch:
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

case "${1:-}" in
  --help | -h) help_of "$0"; exit 0 ;;
  --print)
    shift
    require_options "$0" "$@"
    sbatch_options_of "$0"
    show_command "$dsrun" train "$@"
    exit 0
    ;;
esac
require_options "$0" "$@"
require_a_job "$0"

describe_job "$root"
keep_options_of_this_start "$@"
folder="$("$dsrun" train "${options[@]}" --where)"
leave_if_done "$folder" "${options[@]}"
run_to_the_end "$folder" "$dsrun" train "${options[@]}"
