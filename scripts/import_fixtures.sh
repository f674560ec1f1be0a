#!/bin/sh
# Import every kind of corpus by command and check what comes out: generated tones, in each corpus one utterance of every fault.
#   scripts/import_fixtures.sh [FOLDER]      (default: a temporary one, removed afterwards)
# Ends with 0 if every import leaves the good utterances and every check of their manifests finds no error.
set -eu
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then work=$1; mkdir -p "$work"; else work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; fi
python=${PYTHON:-python}
failed=0
for kind in $("$python" tests/speech/corpora.py "$work/corpora"); do
    echo "== dsrun data import $kind"
    "$python" -m dsrun data import "$kind" "$work/corpora/$kind" "$work/manifests/$kind" --overwrite || failed=1
    rate=$("$python" -c "import json, sys; print(*next(iter(json.load(open(sys.argv[1]))['splits'].values()))['sample_rates'])" \
        "$work/manifests/$kind/import.json")
    for manifest in "$work/manifests/$kind"/*.jsonl; do
        echo "-- dsrun data check $kind/$(basename "$manifest") --sample-rate $rate"
        "$python" -m dsrun data check "$manifest" --sample-rate "$rate" || failed=1
    done
done
exit $failed
