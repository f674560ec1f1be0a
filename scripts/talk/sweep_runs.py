"""Which run folder is which variation's with which seed, and how each ended.

A run's folder is the one that `dsrun sweep --json` named when the seed was over. Of a seed that is not over there is no such document, and
folders go by their names. Then two folders may claim one seed of one variation, as when a config was edited between two calls: which
of them is meant nobody can say, and the variation is refused until one is moved away. So is a variation whose seeds are of different
settings, which would be pooled as if chance alone were between them. A folder that cannot be read is left out, by name, and so is one that
is not over.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsrun.inspection import open_run
from dsrun.study.groups import settings_of
from dsrun.study.outcomes import outcome
from dsrun.study.run_record import RunRecord
from scripts.talk.claims import DAMAGE
from scripts.talk.versus import seed_order

RUNS, DOCUMENTS = "runs", "sweep"


@dataclass
class SweepRuns:
    """By variation, one a seed, by seed.

    Fields:
        complete, diverged: a diverged run is a result, though it has no error rate.
        refused: why a variation has none. left_out: a sentence for each folder that is not taken.
    """

    complete: dict[str, list[RunRecord]] = field(default_factory=dict)
    diverged: dict[str, list[RunRecord]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read_sweep(folder: Path, variations: Sequence[str]) -> SweepRuns:
    """Of a folder that scripts/reproduce_talk.sh filled; runs of other variations are somebody else's."""
    found = SweepRuns()
    for name, candidates in by_name(folder):
        variation = variation_of(name)
        if variation not in variations:
            continue
        if len(candidates) > 1:
            found.refused[variation] = (
                f"{' and '.join(path.name for path in candidates)} are both {name}: move away the one that is not meant"
            )
        for path in candidates:
            _take(found, variation, path)
    for runs in (*found.complete.values(), *found.diverged.values()):
        runs.sort(key=lambda run: seed_order(run.seed))
    for variation in variations:
        _refuse_mixture(found, variation)
    return found


def variation_of(run_name: str) -> str:
    """`float16_nearest` of `float16_nearest-seed=1`."""
    return run_name.rpartition("-seed=")[0]


def _take(found: SweepRuns, variation: str, path: Path) -> None:
    try:
        run = open_run(path)
        how = outcome(run)
        if how.kind == "complete":
            run.results("test")  # read here, so that a damaged file costs its run and not the page
    except DAMAGE as error:
        found.left_out.append(f"{path.name} cannot be read: {error}")
        return
    if how.kind == "unfinished":
        found.left_out.append(f"{path.name} {how.text}")
        return
    kind = found.complete if how.kind == "complete" else found.diverged
    kind.setdefault(variation, []).append(run)


def _refuse_mixture(found: SweepRuns, variation: str) -> None:
    """Settings may only differ by the seed."""
    runs = [*found.complete.get(variation, []), *found.diverged.get(variation, [])]
    settings = [settings_of(run) for run in runs]
    keys = sorted({key for each in settings for key in each})
    differing = [key for key in keys if any(key not in each or each[key] != settings[0].get(key) for each in settings)]
    if differing:
        found.refused.setdefault(
            variation,
            f"{' and '.join(run.name for run in runs)} differ by more than the seed ({', '.join(differing[:3])}): seeds of one "
            "experiment are compared only",
        )


def by_name(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Run names with the folders that may be theirs."""
    listed = listed_folders(folder)
    there = sorted(file.parent for file in (folder / RUNS).glob("*/config.yaml"))
    taken = {path for path in there if path.name in listed.values()}
    names = {path: path.name.rpartition("-")[0] for path in there}
    for name in dict.fromkeys([*listed, *names.values()]):
        own = [path for path in there if listed.get(name) == path.name]
        candidates = own or [path for path in there if names[path] == name and path not in taken]
        if candidates:
            yield name, candidates


def listed_folders(folder: Path) -> dict[str, str]:
    """Run folders by name, as the sweep's documents have them; damaged ones list nothing."""
    listed: dict[str, str] = {}
    for file in sorted((folder / DOCUMENTS).glob("seed_*.json")):
        try:
            document: Any = json.loads(file.read_text(encoding="utf-8"))
            listed |= {str(run["name"]): Path(str(run["run"])).name for run in document["runs"]}
        except DAMAGE:
            continue
    return listed
