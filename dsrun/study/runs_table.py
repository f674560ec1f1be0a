"""What was run, for the end of a report: a row for each run, what all have in common said once, and what a reader must know.

Nothing here says where a folder lies or when the page was made, so that the page is the same from a copy of the folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun.study.groups import differing_keys, group_runs, short_names, shown
from dsrun.study.number_words import counted, first_of
from dsrun.study.outcomes import outcome
from dsrun.study.results_record import clean_command
from dsrun.study.run_record import SPLITS, RunRecord

ABSENT = "–"
MOST_NAMED = 6
MOST_SETTINGS = 5  # columns of the table


@dataclass(frozen=True)
class Cell:
    """A value in a table; `label` is its column's name, which a narrow page writes beside it."""

    text: str
    label: str = ""
    is_number: bool = False


def cell(value: Any, label: str = "") -> Cell:
    """A value as a reader wants it: four digits of a number, a dash for nothing."""
    if value is None or value == "":
        return Cell(ABSENT, label)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", label)
    if isinstance(value, int):
        return Cell(str(value), label, is_number=True)
    if isinstance(value, float):
        return Cell(f"{value:.4g}", label, is_number=True)
    return Cell(str(value), label)


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """The folders' names, numbered where several folders have one name."""
    names = [run.name for run in runs]
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if names.count(name) == 1 else f"{name} ({counts[name]})")
    return unique


@dataclass(frozen=True)
class RunsTable:
    """What was run.

    Fields:
        head, rows: a row a run. shared: names and values of what all runs have in common.
        more: settings that differ and for which the table has no room, each with its value in every run.
    """

    head: list[Cell]
    rows: list[list[Cell]]
    shared: list[tuple[str, str]]
    more: list[tuple[str, list[str]]]


def runs_table(runs: Sequence[RunRecord]) -> RunsTable:
    """The runs in the order given."""
    always = [{"run": name, **_progress(run)} for name, run in zip(run_names(runs), runs, strict=True)]
    facts = [_facts(run) for run in runs]
    is_shared = {name: len({fact[name] for fact in facts}) == 1 for name in facts[0]}
    shared = [(name, str(facts[0][name])) for name, same in is_shared.items() if same and facts[0][name] is not None]
    own = [name for name, same in is_shared.items() if not same]
    names, settings = _settings(runs)
    shown_names = names[:MOST_SETTINGS]
    rows = [
        row | {key: settings[id(run)][key] for key in shown_names} | {name: fact[name] for name in own}
        for row, run, fact in zip(always, runs, facts, strict=True)
    ]
    cells = [[cell(value, name) for name, value in row.items()] for row in rows]
    is_number = [
        all(row[column].is_number or row[column].text == ABSENT for row in cells) for column in range(len(cells[0]))
    ]
    cells = [[Cell(c.text, c.label, number) for c, number in zip(row, is_number, strict=True)] for row in cells]
    head = [Cell(name, "", number) for name, number in zip(rows[0], is_number, strict=True)]
    more = [(key, [settings[id(run)][key] for run in runs]) for key in names[MOST_SETTINGS:]]
    return RunsTable(head, cells, shared, more)


def _progress(run: RunRecord) -> dict[str, Any]:
    found = outcome(run)
    return {
        "state": found.kind,
        "seed": run.seed,
        "steps": run.step,
        "best dev CER": run.best["cer"] if run.best else None,
        "at step": run.best["step"] if run.best else None,
    }


def _settings(runs: Sequence[RunRecord]) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Names of the settings that are not the same in all runs, those that all of them have first, and their values by run's `id`."""
    groups = group_runs(runs)
    keys = sorted(differing_keys(groups), key=lambda key: any(group.config.get(key) is None for group in groups))
    names = short_names(keys)
    values = {
        id(run): {names[key]: _short(shown(group, key)) for key in keys} for group in groups for run in group.runs
    }
    return list(names.values()), values


def _short(value: str) -> str:
    """A path's last two parts: where it lies is the matter of the machine that it was on."""
    return "/".join(Path(value).parts[-2:]) if value.startswith("/") else value


def _facts(run: RunRecord) -> dict[str, str | None]:
    packages = run.facts.get("packages")
    versions = packages if isinstance(packages, Mapping) else {}
    data = {split: run.data_digest(split) for split in ("train", "dev", "test")}
    dsrun = run.facts.get("dsrun")
    return {
        "device": run.device,
        "commit": run.commit,
        "determinism": str(run.config.get("determinism")) if run.config.get("determinism") is not None else None,
        "versions": ", ".join(
            [
                f"{name} {version}"
                for name, version in (("dsrun", dsrun), ("Python", run.facts.get("python")))
                if version
            ]
            + [f"{name} {version}" for name, version in versions.items()]
        )
        or None,
        "data": ", ".join(f"{_manifest(run, split)} {digest[:8]}" for split, digest in data.items() if digest) or None,
    }


def _manifest(run: RunRecord, split: str) -> str:
    return Path(str(run.config.get(f"data.{split}") or split)).name


def commands(run: RunRecord) -> str | None:
    """The command that started the run, and how often it was started again; without folders that are of a machine."""
    if not run.run.command.is_file():
        return None
    lines = run.run.command.read_text(encoding="utf-8", errors="replace").splitlines()
    typed = [clean_command(line) for line in lines if line.strip()]
    if not typed:
        return None
    first, again = typed[0], len(typed) - 1
    return first + (f"   (started again {counted(again, 'time')})" if again else "")


def notes(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know before believing a figure; empty where there is nothing."""
    names = run_names(runs)
    return [
        *_on_ends(runs, names),
        *_on_data(runs),
        *_on_code(runs, names),
        *_on_bits(runs, names),
        *_on_scores(runs, names),
    ]


def _on_ends(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    found = []
    for name, run in zip(names, runs, strict=True):
        end = outcome(run)
        if end.kind != "complete":
            reason = run.status.get("reason")
            why = f" ({reason})" if end.kind == "diverged" and isinstance(reason, str) else ""
            found.append(f"{name} {end.text}{why}" + ("; what it left is shown." if run.last_step else "."))
    return found


def _on_data(runs: Sequence[RunRecord]) -> list[str]:
    found = []
    for split, consequence in (
        ("train", "a difference may be one of data"),
        ("dev", "dev rates are not of the same utterances"),
        ("test", "test rates are not of the same utterances"),
    ):
        if len({digest for run in runs if (digest := run.data_digest(split))}) > 1:
            found.append(f"The runs have different {split} manifests: {consequence}.")
    return found


def _on_code(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    found = []
    if len(commits := {run.commit for run in runs if run.commit}) > 1:
        found.append(f"The runs are of {len(commits)} commits of dsrun: {', '.join(sorted(commits))}.")
    elif len({str(run.facts.get("source_sha256")) for run in runs}) > 1:
        found.append("The runs are of different source files of dsrun.")
    if changed := [name for name, run in zip(names, runs, strict=True) if (run.commit or "").endswith("+")]:
        found.append(f"The source files of dsrun were not those of the commit in {first_of(changed, MOST_NAMED)}.")
    if len(devices := {run.device for run in runs if run.device}) > 1:
        found.append(
            f"The runs are of {len(devices)} kinds of device: {', '.join(sorted(devices))}; their times are not of one machine."
        )
    return found


def _on_bits(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    found = []
    loose = [
        f"{name} ({run.config['determinism']})"
        for name, run in zip(names, runs, strict=True)
        if run.config.get("determinism") not in (None, "strict")
    ]
    if loose:
        found.append(
            f"Determinism was not strict, so that the same command may give other bits: {first_of(loose, MOST_NAMED)}."
        )
    for name, run in zip(names, runs, strict=True):
        for event in run.events:
            if event["event"] == "environment":
                changed = event.get("changed")
                keys = [str(key) for key in changed] if isinstance(changed, Mapping | list) else []
                what = f": {first_of(keys, MOST_NAMED)}" if keys else ""
                found.append(
                    f"{name} went on at step {event['step']} under other circumstances than it began with{what}."
                )
    return found


def _on_scores(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    found = []
    for split in SPLITS:
        due = [(name, run) for name, run in zip(names, runs, strict=True) if run.config.get(f"data.{split}")]
        missing = [name for name, run in due if not run.results_path(split)]
        if missing and len(missing) < len(runs):
            found.append(f"Not scored on {split}, so without an interval there: {first_of(missing, MOST_NAMED)}.")
        elif missing:
            found.append(
                f"No run has results of each utterance on {split}, so there are no intervals; `dsrun eval RUN --manifest FILE` makes them."
            )
    return found
