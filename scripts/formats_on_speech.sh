#!/usr/bin/env bash
# The arithmetic experiments on speech: every config of the small network, three seeds each, dev and test error rates with paired
# bootstrap intervals, as the table in docs/MEASUREMENTS.md. Stopped, it goes on where it was; about two minutes a run on one core.
#   scripts/formats_on_speech.sh [FOLDER]     FOLDER: where the runs go (runs/formats)
#   JOBS=4 scripts/formats_on_speech.sh       runs side by side, one device each (2)
#   SEEDS="1 2" CONFIGS="prompts_ternary" scripts/formats_on_speech.sh
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
folder="${1:-runs/formats}"
baseline=prompts_small_float32
configs="${CONFIGS:-prompts_small_float16_storage prompts_float16_no_master prompts_float16_stochastic
  prompts_bfloat16_no_master prompts_bfloat16_stochastic prompts_bfloat16_kahan prompts_fixed16_nearest
  prompts_fixed16_stochastic prompts_float8 prompts_ternary prompts_binary prompts_float16_ctc}"
seeds="${SEEDS:-1 2 3}"
export python folder

train() {
  run="$folder/$1-seed$2"
  if ! grep -qs '"state": "done"' "$run/status.json"; then
    echo "$1, seed $2" >&2
    "$python" -m dsrun train --config "configs/$1.yaml" --set "seed=$2" --run-dir "$run" --devices 1 >"$run.txt" 2>&1 ||
      { echo "$1, seed $2 failed: $run.txt" >&2; exit 1; }
  fi
  [ -f "$run/evaluation/dev.jsonl" ] ||
    "$python" -m dsrun eval "$run" --manifest data/prompts_en/dev.jsonl >"$run.dev.txt"
}
export -f train

mkdir -p "$folder"
for seed in $seeds; do
  for config in $baseline $configs; do
    echo "$config $seed"
  done
done | xargs -P "${JOBS:-2}" -L 1 bash -c 'train "$@"' train
# shellcheck disable=SC2086
"$python" scripts/compare_seeds.py "$folder" "$baseline" $configs --seeds $seeds
