# shellcheck shell=bash
# What slurm_train.sh, slurm_multinode.sh and slurm_array.sh share; read by them with `source`, not run.
#
# A job is a run that goes on until it is done, through as many time limits as it takes: shortly before the limit SLURM signals the
# job, dsrun finishes its step, writes a checkpoint and leaves with 75, and the job puts itself back into the queue. It does so only
#   - after 75, which says that the same command goes on (2, 3 and 4 would fail again, 0 is done);
#   - if this start made a step, so that a run that cannot get through its start does not come back for ever;
#   - at most MAX_RESTARTS times;
#   - unless the batch shell got SIGTERM: that is `scancel`, by which somebody wants it to end, or a preemption, after which SLURM itself
#     requeues a job with --requeue.
#
# The signal that is passed on is always SIGUSR1. dsrun treats it as SIGTERM; srun hands it to its tasks, while a SIGTERM makes srun kill
# them on the spot, before they could write a checkpoint.

MAX_RESTARTS="${MAX_RESTARTS:-20}"

say() { echo "$(date '+%F %T') $*" >&2; }

# The text at the top of a script, without the lines that speak to bash and sbatch.
help_of() { sed -n -e '2,/^$/{' -e '/^#SBATCH/d' -e 's/^# \{0,1\}//p' -e '}' "$1"; }

# A command as one may paste it; a comma needs no quotes.
show_command() {
  printf '%q ' "$@" | sed -e 's/\\,/,/g' -e 's/ $//'
  printf '\n'
}

sbatch_options_of() { grep '^#SBATCH' "$1"; }

require_a_job() {
  [ -n "${SLURM_JOB_ID:-}" ] && return
  echo "$1: not in a SLURM job. Submit it: sbatch $1 ...; or see what it would run: $1 --print ..." >&2
  exit 2
}

require_options() {
  [ $# -gt 1 ] && return
  echo "$1: nothing to train. Give the options of \`dsrun train\`, e.g. --config configs/prompts_float32.yaml; --help says more." >&2
  exit 2
}

# SLURM's name of this job for `scontrol requeue`. The plain id of an array's task can stand for the whole array.
job_name() {
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    echo "$SLURM_JOB_ID"
  fi
}

# describe_job REPOSITORY: where this ran, what one asks first when two jobs differ.
describe_job() {
  say "job $(job_name), start $((${SLURM_RESTART_COUNT:-0} + 1)) of at most $((MAX_RESTARTS + 1)), host $(hostname), nodes ${SLURM_JOB_NODELIST:-unknown}"
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index,name,driver_version --format=csv,noheader 2>&1 | while read -r line; do say "GPU $line"; done
  else
    say "no nvidia-smi: no GPUs"
  fi
  if commit="$(git -C "$1" rev-parse HEAD 2>/dev/null)"; then
    [ -z "$(git -C "$1" status --porcelain --untracked-files=no 2>/dev/null)" ] || commit="$commit and changes that are not committed"
    say "commit $commit"
  fi
}

# A field of RUN/status.json: a word or a number; empty if there is no such file. Two spaces: `result` in it has a `step` too.
status_field() { sed -n "s/^  \"$2\": *\"\{0,1\}\([A-Za-z0-9]*\).*/\1/p" "$1/status.json" 2>/dev/null || true; }

steps_made() {
  local step
  step="$(status_field "$1" step)"
  echo "${step:-0}"
}

# Options of `dsrun train` for this start: a job that comes back must not overwrite what it made before.
options=()
keep_options_of_this_start() {
  local option
  options=()
  for option in "$@"; do
    [ "$option" = --overwrite ] && [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || options+=("$option")
  done
}

# The command in the background and `wait` in front: bash runs a trap only between commands, so with the command in front the signal would
# wait until the command has ended. Whoever starts this has the exit code of the command.
child='' woken='' terminated=''
pass_on() {
  woken=yes
  [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null || true
}
run_and_pass_signals_on() {
  local code
  trap pass_on USR1
  trap 'terminated=yes; pass_on' TERM
  "$@" &
  child=$!
  [ -z "$woken" ] || pass_on # a signal that came between the two lines above
  # A trap ends `wait` with a code above 128 while the command still runs.
  while true; do
    woken='' code=0
    wait "$child" || code=$?
    [ -n "$woken" ] || break
  done
  child=''
  return "$code"
}

# run_to_the_end FOLDER COMMAND...: the command, and after it the decision whether the job comes back. Leaves with the command's code.
run_to_the_end() {
  local folder="$1" code=0 before after
  shift
  before="$(steps_made "$folder")"
  case " $* " in *" --overwrite "*) before=0 ;; esac
  say "$(show_command "$@")"
  say "run folder $folder, from step $before"
  run_and_pass_signals_on "$@" || code=$?
  after="$(steps_made "$folder")"
  say "exit code $code, step $after"
  [ "$code" -eq 75 ] || exit "$code"
  # Of several processes those that lost another end with 75, and srun reports the highest code: that hides a full disk (3) of the first.
  if [ "$(status_field "$folder" state)" = 'failed' ]; then
    code="$(status_field "$folder" exit_code)"
    say "not requeued: the run's own record says that it failed, with exit code $code"
    exit "$code"
  fi
  if [ -n "$terminated" ]; then
    say "not requeued here: SIGTERM, so cancelled or preempted; the same command goes on"
  elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_RESTARTS" ]; then
    say "not requeued: started again $MAX_RESTARTS times already (MAX_RESTARTS); the same command goes on"
  elif [ "$after" -le "$before" ]; then
    say "not requeued: no step since this start, so the next would make none either. Give the job more time."
  else
    say "requeued: scontrol requeue $(job_name)"
    trap '' TERM USR1 # SLURM ends a job that it requeues
    scontrol requeue "$(job_name)"
  fi
  exit "$code"
}

# A complete run is not an error of a job that comes back after its last step, or of an array that is submitted again.
leave_if_done() {
  local folder="$1"
  shift
  case " $* " in *" --overwrite "*) return ;; esac
  if [ "$(status_field "$folder" state)" = 'done' ]; then
    say "$folder: complete, nothing to do"
    exit 0
  fi
}
