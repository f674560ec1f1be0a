"""Runs that are one experiment repeated: equal but for the seed, so that their spread says what the seed's chance does.

Not compared are settings that change no result, only where files lie, how fast it goes and what is written down on the way
(`WITHOUT_EFFECT`). Data, and the weights that a run began with, are compared by their digests in `provenance.json` and not by path:
a run from another machine is of the same experiment. A run that has a setting which another, older one lacks is of another experiment:
nobody knows what the older version did there.

A seed counts once. Of two runs with equal settings and the same seed, such as before and after a change of the code, each is of a group
of its own: as two draws of one group they would make the seed's chance look smaller than it is, and to compare them is what somebody who
gives both wants. All runs of these settings are then told apart by the first of commit, folder around the run folder and device by which
no seed is there twice (`APART`): seeds 1, 2 of before and 1, 2, 3 of after are two groups, and the 3 is after's. Where none of them
does it, the first runs of each seed are a group, the second ones another, in the order given, and `are_mixed` says so.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsrun.study.run_record import RunRecord
from dsrun.study.styles import FLOAT32, label_of

MANIFESTS = ("train", "dev", "test")
ORIGIN = "init_from"  # a run folder: its checkpoint's digest is in provenance.json
WITHOUT_EFFECT = frozenset(
    {
        *(f"data.{name}" for name in MANIFESTS),  # compared by digest
        ORIGIN,  # compared by digest
        "data.cache",
        "batches.prefetch",
        "batches.workers",
        *(
            f"training.{name}"
            for name in (
                "checkpoint_every_epochs",
                "checkpoint_every_steps",
                "keep_last",
                "keep_every_steps",
                "watchdog_minutes",
                "log_every_steps",
                "watch_every_steps",
                "hash_every_steps",
                "digest_every_steps",
                "compilation_cache",
            )
        ),
    }
)
APART = ((), ("commit",), ("folder",), ("device",), ("commit", "folder"), ("commit", "device"), ("folder", "device"))
ARITHMETIC = "arithmetic."
MOST_NAMED = 3  # settings in a label besides the arithmetic
QUIET = ("data.dev", "data.test", "training.evaluate_every_epochs")  # named only where nothing else tells groups apart
LONGEST_LABEL = 68


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, by seed; `label` is short and no other group of the same set has it.

    Fields:
        apart: what its runs have besides their settings where others with the same settings and seeds were given, in words.
        are_mixed: nothing told such runs apart, so that it is chance which are together.
    """

    label: str
    config: Mapping[str, Any]
    runs: tuple[RunRecord, ...]
    apart: str = ""
    are_mixed: bool = False

    @property
    def seeds(self) -> tuple[Any, ...]:
        """Of the runs, in their order."""
        return tuple(run.seed for run in self.runs)


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """The runs by experiment, in the order in which the first of each was given."""
    by_settings: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_settings.setdefault(_text(settings_of(run)), []).append(run)
    groups = [group for found in by_settings.values() for group in _by_seeds(found)]
    place = {id(run): number for number, run in enumerate(runs)}
    groups.sort(key=lambda group: min(place[id(run)] for run in group.runs))
    return [replace(group, label=label) for label, group in zip(_labels(groups), groups, strict=True)]


def _by_seeds(runs: Sequence[RunRecord]) -> list[Group]:
    """Runs of equal settings as one group, or as many as it takes that none has a seed twice."""
    for names in APART:
        parts: dict[tuple[str, ...], list[RunRecord]] = {}
        for run in runs:
            parts.setdefault(tuple(_apart(run)[name] for name in names), []).append(run)
        if not any(_repeats(part) for part in parts.values()):
            said = [", ".join(f"{name} {_words(part[0])[name]}" for name in names) for part in parts.values()]
            return [_group(part, apart=text) for part, text in zip(parts.values(), said, strict=True)]
    seen: Counter[str] = Counter()
    rounds: dict[int, list[RunRecord]] = {}
    for run in runs:
        seed = _text(run.seed)
        rounds.setdefault(seen[seed], []).append(run)
        seen[seed] += 1
    return [_group(part, are_mixed=len(runs) > len(rounds)) for part in rounds.values()]


def _group(runs: Sequence[RunRecord], *, apart: str = "", are_mixed: bool = False) -> Group:
    return Group("", runs[0].config, tuple(sorted(runs, key=_by_seed)), apart, are_mixed)


def _repeats(runs: Sequence[RunRecord]) -> bool:
    """Whether a seed is there twice; a stranger's seed may be anything."""
    return len({_text(run.seed) for run in runs}) < len(runs)


def _apart(run: RunRecord) -> dict[str, str]:
    """What tells runs of equal settings apart; of a commit with changes also which."""
    git = run.facts.get("git")
    return {
        "commit": _text(git) if isinstance(git, Mapping) else "",
        "folder": str(run.path.resolve().parent),
        "device": run.device or "",
    }


def _words(run: RunRecord) -> dict[str, str]:
    """The same in words."""
    return {
        "commit": run.commit or "unknown",
        "folder": run.path.resolve().parent.name,
        "device": run.device or "unknown",
    }


def usual_baseline(groups: Sequence[Group]) -> tuple[Group, str | None]:
    """The group that others are compared with where nobody named one or put runs into an order, and what must be said of the choice.

    It is the first plain float32 that was scored and is done. Where none is, what comes nearest: float32 that was scored and is not done,
    then other numbers, scored and done, then whatever was scored.
    """
    ranks = [_rank(group) for group in groups]
    best = min(range(len(groups)), key=lambda number: ranks[number])
    chosen, (is_other, is_unscored, is_unfinished) = groups[best], ranks[best]
    plain = [group for group in groups if label_of(group.config) == FLOAT32]
    if is_unscored or len(groups) == 1:
        return chosen, None
    if is_other:
        what = "no plain float32 was scored" if plain else "none is plain float32"
        return chosen, f"baseline: {chosen.label}, since {what}; --baseline takes another"
    if len(plain) > 1:
        among = "that was scored" + ("" if is_unfinished else " and is done")
        return (
            chosen,
            f"baseline: {chosen.label}, the first of {len(plain)} float32 settings {among}; --baseline takes another",
        )
    return chosen, None


def _rank(group: Group) -> tuple[bool, bool, bool]:
    """What a group lacks for a baseline; the fewer and later, the better."""
    scored = [run for run in group.runs if run.best or run.results_path("dev") or run.results_path("test")]
    is_unscored = not scored
    # What was not scored is no float32 to compare with either.
    is_other = is_unscored or label_of(group.config) != FLOAT32
    return is_other, is_unscored, not any(run.state == "done" for run in scored)


def settings_of(run: RunRecord) -> dict[str, Any]:
    """What decides a run's result, but for the seed, by dotted key; manifests, and the weights that it began with, by digest, where it is
    not known by path."""
    found = {key: value for key, value in run.config.items() if key != "seed" and key not in WITHOUT_EFFECT}
    for name in MANIFESTS:
        if path := run.config.get(f"data.{name}"):
            found[f"data.{name}"] = run.data_digest(name) or str(path)
    if path := run.config.get(ORIGIN):
        found[ORIGIN] = run.origin_digest or str(path)
    return found


def differing_keys(groups: Sequence[Group]) -> list[str]:
    """Settings that are not equal in all groups, in the order of the configs."""
    settings = [settings_of(group.runs[0]) for group in groups]
    order = [key for group in groups for key in group.config]
    keys = dict.fromkeys([*order, *(key for each in settings for key in each)])
    return [key for key in keys if len({_text(each.get(key)) for each in settings}) > 1]


def shown(group: Group, key: str) -> str:
    """A group's setting in a few letters; of a manifest its name and the beginning of its digest."""
    value = group.config.get(key)
    section, _, name = key.partition(".")
    if section == "data" and name in MANIFESTS and value:
        digest = group.runs[0].data_digest(name)
        return text_of(value) + (f" {digest[:6]}" if digest else "")
    if key == ORIGIN and value:
        return f"{Path(str(value)).name} {(group.runs[0].origin_digest or '')[:6]}".strip()
    return text_of(value)


def text_of(value: Any) -> str:
    """A setting's value in a few letters, `-` where it is not set; of a path to a manifest the last two names."""
    if isinstance(value, str) and value.endswith(".jsonl"):
        return "/".join(Path(value).with_suffix("").parts[-2:])
    return "-" if value is None else value if isinstance(value, str) else _text(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart, of the arithmetic with the role: `storage.format`, `hidden`."""
    names = {}
    for key in keys:
        parts = key.split(".")
        shortest = 2 if key.startswith(ARITHMETIC) and len(parts) > 2 else 1
        ends = [".".join(parts[-length:]) for length in range(shortest, len(parts) + 1)]
        names[key] = next((end for end in ends if not _is_end_of_other(end, key, keys)), key)
    return names


def _is_end_of_other(end: str, key: str, keys: Sequence[str]) -> bool:
    return any(other != key and f".{other}".endswith(f".{end}") for other in keys)


def _labels(groups: Sequence[Group]) -> list[str]:
    """The arithmetic's name, then what else differs, as far as it is needed: all of it if it is little."""
    keys = differing_keys(groups)
    names = short_names(keys)
    labels = [label_of(group.config) for group in groups]
    others = [key for key in keys if not key.startswith(ARITHMETIC) and key not in QUIET]
    if len(others) <= MOST_NAMED:
        for key in others:
            labels = _with(labels, groups, key, names[key])
    # What an older run lacks says less than what is set in all, so it comes later.
    for key in sorted(keys, key=lambda key: (key in QUIET, any(group.config.get(key) is None for group in groups))):
        if _splits(labels, groups, key):
            labels = _with(labels, groups, key, names[key], only_of=_repeated(labels))
    labels = [
        _by_run(label, group) if len(label) > LONGEST_LABEL else label
        for label, group in zip(labels, groups, strict=True)
    ]
    if repeated := _repeated(labels):
        labels = [
            f"{label}, {g.apart}" if label in repeated and g.apart else label
            for label, g in zip(labels, groups, strict=True)
        ]
    if repeated := _repeated(labels):
        labels = [
            f"{label}, run {g.runs[0].name}" if label in repeated else label
            for label, g in zip(labels, groups, strict=True)
        ]
    return _numbered(labels)


def _by_run(label: str, group: Group) -> str:
    """Of what would be a long list of settings the folder's name, which somebody chose to be short."""
    return min(label, f"{label_of(group.config)}, run {group.runs[0].name}", key=len)


def _with(
    labels: Sequence[str], groups: Sequence[Group], key: str, name: str, only_of: set[str] | None = None
) -> list[str]:
    return [
        f"{label}, {name} {shown(group, key)}" if only_of is None or label in only_of else label
        for label, group in zip(labels, groups, strict=True)
    ]


def _splits(labels: Sequence[str], groups: Sequence[Group], key: str) -> bool:
    """Whether the setting tells groups apart that have one label."""
    values: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        values.setdefault(label, set()).add(shown(group, key))
    return any(len(found) > 1 for found in values.values())


def _repeated(labels: Sequence[str]) -> set[str]:
    return {label for label, count in Counter(labels).items() if count > 1}


def _numbered(labels: Sequence[str]) -> list[str]:
    """Runs of one name in several folders: by number."""
    seen: Counter[str] = Counter()
    repeated = _repeated(labels)
    numbered = []
    for label in labels:
        seen[label] += 1
        numbered.append(f"{label} ({seen[label]})" if label in repeated else label)
    return numbered


def _by_seed(run: RunRecord) -> tuple[bool, Any]:
    return (not isinstance(run.seed, int), run.seed if isinstance(run.seed, int) else str(run.seed))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
