"""The best, the median and the worst utterance, and those that settings read most differently, beside one another with their errors marked.

A rate says how many errors there are, and these lines what kind: a format that loses small updates leaves out what is rare, a network that
has not learnt yet writes what is frequent. Every setting is shown by its first run; the utterances are the same for all, chosen by
the first setting's results, and then those where the settings are furthest apart. On test, and on dev where that alone was scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from dsrun.evaluation.page import Line, align_line, aligned, aligned_style, visible
from dsrun.evaluation.results import Evaluation, UtteranceResult
from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import group_runs
from dsrun.study.number_words import listed
from dsrun.study.run_record import RunRecord, Split

MOST_APART = 3  # utterances beside the best, the median and the worst
MOST_SETTINGS = 12
Results = dict[str, UtteranceResult]


@dataclass(frozen=True)
class Reader:
    """A setting: its label, the run whose results are shown, and these by utterance id."""

    label: str
    run: RunRecord
    results: Results


@dataclass(frozen=True)
class Shown:
    """An utterance, why it is shown, and how each setting reads it (None: it was not scored there)."""

    id: str
    why: str
    lines: tuple[tuple[str, Line | None], ...]


def utterances(runs: Sequence[RunRecord], *, split: Split = "test") -> Exhibit | None:
    """What settings read; None where nothing was scored.

    Raises:
        DataError: a file of results is damaged.
    """
    splits: tuple[Split, ...] = (split, "dev" if split == "test" else "test")
    found = next(((own, readers) for own in splits if (readers := _readers(runs, own))), None)
    if found is None:
        return None
    split, readers = found
    strangers = [reader.label for reader in readers if reader.results.keys().isdisjoint(readers[0].results)]
    readers = [reader for reader in readers if reader.label not in strangers]
    left_out, readers = [reader.label for reader in readers[MOST_SETTINGS:]], readers[:MOST_SETTINGS]
    chosen = _chosen(readers)
    shown = [
        Shown(id, why, tuple((r.label, align_line(r.results[id]) if id in r.results else None) for r in readers))
        for id, why in chosen.items()
    ]
    answer = _answer(readers, split)
    more = [f"Shown are the best, the median and the worst utterance of {readers[0].label} by character error rate"]
    if len(readers) > 1 and len(chosen) > 3:
        more[0] += ", and those where the settings are furthest apart"
    more[0] += "."
    if any(run is not r.run for r in readers for run in _others(runs, r)):
        more.append("Of each setting the run with the first seed is shown.")
    if strangers:
        more.append(f"Scored on other utterances, and so not here: {' / '.join(strangers)}.")
    if left_out:
        more.append(f"Not shown, beyond {MOST_SETTINGS} settings: {listed(left_out)}.")
    return Exhibit(
        "utterances",
        "Utterances, read",
        " ".join([answer, *more]),
        answer,
        [_row(one, reader, split) for one in shown for reader in readers if one.id in reader.results],
        html=_template().render(shown=shown, aligned_style=aligned_style()),
    )


def _readers(runs: Sequence[RunRecord], split: Split) -> list[Reader]:
    readers = []
    for group in group_runs(runs):
        scored = next(((run, found) for run in group.runs if (found := run.results(split))), None)
        if scored:
            readers.append(Reader(group.label, scored[0], {u.id: u for u in scored[1].utterances}))
    return readers


def _others(runs: Sequence[RunRecord], reader: Reader) -> Sequence[RunRecord]:
    group = next(group for group in group_runs(runs) if any(run is reader.run for run in group.runs))
    return group.runs


def _chosen(readers: Sequence[Reader]) -> dict[str, str]:
    """Utterances by id, each with why it is shown."""
    first = readers[0]
    examples = Evaluation(tuple(first.results.values())).examples()
    chosen: dict[str, str] = {}
    for name, found in examples.items():
        chosen[found.id] = f"{chosen[found.id]} and {name}" if found.id in chosen else name.capitalize()
    common = set.intersection(*(set(reader.results) for reader in readers)) - chosen.keys()
    spans = {id: [reader.results[id].characters.errors for reader in readers] for id in common}
    apart = sorted(common, key=lambda id: (min(spans[id]) - max(spans[id]), id))
    return chosen | {id: "Far apart" for id in apart[:MOST_APART] if max(spans[id]) > min(spans[id])}


def _answer(readers: Sequence[Reader], split: Split) -> str:
    first = readers[0]
    if len(readers) == 1:
        right = sum(not result.characters.errors for result in first.results.values())
        return f"{first.label} reads {right} of {len(first.results)} {split} utterances without an error."
    alike = {reader.label: _alike(first.results, reader.results) for reader in readers[1:]}
    label, (same, common) = min(alike.items(), key=lambda item: (item[1][0] / max(item[1][1], 1), item[0]))
    if all(same == common for same, common in alike.values()):
        what = label if len(alike) == 1 else "Every setting"
        return f"{what} reads all {common} {split} utterances letter for letter as {first.label} does."
    shares = [one[0] / max(one[1], 1) for one in alike.values()]
    is_alone = shares.count(min(shares)) == 1
    least = "" if len(alike) == 1 else ", the fewest of all settings" if is_alone else ", as few as any"
    return f"{label} reads {same} of {common} {split} utterances letter for letter as {first.label} does{least}."


def _alike(a: Mapping[str, UtteranceResult], b: Mapping[str, UtteranceResult]) -> tuple[int, int]:
    """Utterances with the same hypothesis, and those that both have."""
    common = a.keys() & b.keys()
    return sum(a[id].hypothesis == b[id].hypothesis for id in common), len(common)


def _row(one: Shown, reader: Reader, split: Split) -> dict[str, Any]:
    result = reader.results[one.id]
    count = result.characters
    return {
        "utterance": one.id,
        "why": one.why,
        "setting": reader.label,
        "run": reader.run.name,
        "split": split,
        "said": result.reference,
        "read": result.hypothesis,
        "CER": count.rate,
        "character errors": count.errors,
        "substitutions": count.substitutions,
        "deletions": count.deletions,
        "insertions": count.insertions,
        "characters said": count.reference_length,
    }


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    environment.globals["aligned"] = aligned
    return environment.from_string((files(__package__) / "utterances.html").read_text(encoding="utf-8"))
