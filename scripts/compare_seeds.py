"""Error rates of configs over seeds, beside a baseline's: a Markdown table from run folders.

    python scripts/compare_seeds.py FOLDER BASELINE CONFIG... --seeds 1 2 3

Reads FOLDER/CONFIG-seedN/evaluation/{dev,test}.jsonl. A rate is that of all seeds together; the difference to the baseline is paired, seed
with the same seed and utterance with the same utterance: for each utterance the errors of all seeds are summed, and utterances
are drawn with replacement. Of the updates that were not zero, the share that changed a weight is read from the last `watch` event.
"""

import argparse
import json
import sys
from pathlib import Path

from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval, paired_bootstrap, total_errors
from dsrun.record import read_events


def counts(folder: Path, config: str, seed: int, split: str) -> dict[str, ErrorCount]:
    """Character errors of each utterance."""
    path = folder / f"{config}-seed{seed}" / "evaluation" / f"{split}.jsonl"
    if not path.is_file():
        sys.exit(f"{path}: missing; train the run, or evaluate it on {split}.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    fields = ("substitutions", "deletions", "insertions", "reference_length")
    return {row["id"]: ErrorCount(*(row["characters"][field] for field in fields)) for row in rows}


def summed(folder: Path, config: str, seeds: list[int], split: str) -> list[ErrorCount]:
    """Errors of each utterance over the seeds, in the order of the ids."""
    by_seed = [counts(folder, config, seed, split) for seed in seeds]
    return [total_errors([found[id] for found in by_seed]) for id in sorted(by_seed[0])]


def surviving(folder: Path, config: str, seeds: list[int]) -> str:
    """Share of non-zero updates that changed the weight, at the last step that was watched; mean over the seeds."""
    shares = []
    for seed in seeds:
        events = read_events(folder / f"{config}-seed{seed}" / "events.jsonl")
        watched = [event["changed_share"] for event in events if event["event"] == "watch"]
        if not watched:
            return ""
        shares.append(watched[-1])
    return f"{sum(shares) / len(shares):.3f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("baseline")
    parser.add_argument("configs", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    print(
        "| config | dev CER, by seed | dev CER | difference | test CER, by seed | test CER | difference | updates that changed a weight |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for config in (options.baseline, *options.configs):
        cells = [config.removeprefix("prompts_")]
        for split in ("dev", "test"):
            own = summed(options.folder, config, options.seeds, split)
            rates = [total_errors(list(counts(options.folder, config, s, split).values())).rate for s in options.seeds]
            low, high = bootstrap_interval(own, seed=0)
            cells += [
                ", ".join(f"{rate:.3f}" for rate in rates),
                f"{total_errors(own).rate:.3f} [{low:.3f}, {high:.3f}]",
            ]
            if config == options.baseline:
                cells.append("")
                continue
            pair = paired_bootstrap(summed(options.folder, options.baseline, options.seeds, split), own, seed=0)
            cells.append(f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]")
        cells.append(surviving(options.folder, config, options.seeds))
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
