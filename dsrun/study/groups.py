"""Runs that are one experiment repeated: equal but for the seed, so that their spread says what the seed's chance does.

Not compared are settings that change no result, only where files lie, how fast it goes and what is written down on the way
(`WITHOUT_EFFECT`). Data are compared by the manifests' digests in `provenance.json` and not by path: a run from another machine is
of the same experiment. A run that has a setting which another, older one lacks is of another experiment: nobody knows what the
older version did there.

A seed counts once. Of two runs with equal settings and the same seed, such as before and after a change of the code, the second
begins a group of its own: as two draws of one group they would make the seed's chance look smaller than it is, and to compare them is
what somebody who gives both wants.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun.study.run_record import RunRecord
from dsrun.study.styles import label_of

MANIFESTS = ("train", "dev", "test")
WITHOUT_EFFECT = frozenset(
    {
        *(f"data.{name}" for name in MANIFESTS),  # compared by digest
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
ARITHMETIC = "arithmetic."
MOST_NAMED = 3  # settings in a label besides the arithmetic
LONGEST_LABEL = 68


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, by seed; `label` is short and no other group of the same set has it."""

    label: str
    config: Mapping[str, Any]
    runs: tuple[RunRecord, ...]

    @property
    def seeds(self) -> tuple[Any, ...]:
        """Of the runs, in their order."""
        return tuple(run.seed for run in self.runs)


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """The runs by experiment, in the order in which the first of each was given."""
    members: dict[tuple[str, int], list[RunRecord]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for run in runs:
        identity, seed = _text(settings_of(run)), _text(run.seed)  # a stranger's seed may be anything
        repeat = seen[identity, seed]
        seen[identity, seed] += 1
        members.setdefault((identity, repeat), []).append(run)
    groups = [Group("", found[0].config, tuple(sorted(found, key=_by_seed))) for found in members.values()]
    return [Group(label, g.config, g.runs) for label, g in zip(_labels(groups), groups, strict=True)]


def settings_of(run: RunRecord) -> dict[str, Any]:
    """What decides a run's result, but for the seed, by dotted key; manifests by digest, where it is not known by path."""
    found = {key: value for key, value in run.config.items() if key != "seed" and key not in WITHOUT_EFFECT}
    for name in MANIFESTS:
        if path := run.config.get(f"data.{name}"):
            found[f"data.{name}"] = run.data_digest(name) or str(path)
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
    others = [key for key in keys if not key.startswith(ARITHMETIC) and key not in ("data.dev", "data.test")]
    if len(others) <= MOST_NAMED:
        for key in others:
            labels = _with(labels, groups, key, names[key])
    # What an older run lacks says less than what is set in all, so it comes later.
    for key in sorted(keys, key=lambda key: not all(group.config.get(key) is not None for group in groups)):
        if _splits(labels, groups, key):
            labels = _with(labels, groups, key, names[key], only_of=_repeated(labels))
    labels = [
        _by_run(label, group) if len(label) > LONGEST_LABEL else label
        for label, group in zip(labels, groups, strict=True)
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
