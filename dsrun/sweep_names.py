"""Names of a sweep's runs: short, made of what differs, and fit for a folder.

A run is a choice on each axis of the sweep (the list, each `zip`, each key of the grid), and its name is the choices' names joined by
`-`: `float16-stochastic-seed=2`. A choice's name is made of those of its values that other choices of the axis do not share, and of
no more of them than are needed to tell it from those:

| value | in the name |
|---|---|
| a word that only this key takes | the word: `stochastic` |
| a number, true, false, null, none, or a word that two keys take | `key=value`, the key as short as is clear: `seed=2` |
| a path | its last two parts, without the ending: `prompts_en_train` |
| anything longer, or names that would be equal | the place in the list: `rules=v1` |

On the roof beside `sweep_file.py`. Names are for people; which run it is, its folder's six digits say.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

LONGEST = 60  # characters of a choice's name
LONGEST_NAME = 200  # of a run's: with digits and an ending it must be the name of a file, of 255 bytes at most
OPAQUE = {"none", "off", "strict", "error"}  # words that say nothing without their key
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+]+")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")

Leaves = dict[str, Any]


def leaves_of(values: Mapping[str, Any]) -> Leaves:
    """Values by dotted key, sections opened."""
    flat: Leaves = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{below}": leaf for below, leaf in leaves_of(value).items()}
        else:
            flat[key] = value
    return flat


def labels_of(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted key that no other has; `arithmetic.storage.format` is called `storage`."""
    called = {key: re.sub(r"(?<=.)\.(format|kind)$", "", key) for key in keys}
    # Both `arithmetic.master` and `arithmetic.master.format` would be arithmetic.master.
    called = {key: name if list(called.values()).count(name) == 1 else key for key, name in called.items()}
    return {key: _shortest(name, [other for other in called.values() if other != name]) for key, name in called.items()}


def _shortest(name: str, others: Sequence[str]) -> str:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        end = ".".join(parts[-count:])
        if not any(f".{other}".endswith(f".{end}") for other in others):
            return end
    return name


def names_of(axes: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """A name for each choice of each axis, different ones within an axis; empty for the only choice of an axis.

    Args:
        axes: each a list of choices, each choice values by dotted key.
    """
    opened = [[leaves_of(choice) for choice in axis] for axis in axes]
    differing = [_differing(axis) for axis in opened]
    labels = labels_of([key for keys in differing for key in keys])
    words = Counter(
        word
        for axis in opened
        for word, _ in {(str(v), k) for choice in axis for k, v in choice.items() if k in labels}
    )
    return [
        _names_of_axis(axis, keys, labels, shared={word for word, count in words.items() if count > 1})
        for axis, keys in zip(opened, differing, strict=True)
    ]


def _differing(choices: Sequence[Leaves]) -> list[str]:
    """Keys whose values are not the same in all choices, in the order of their first appearance."""
    keys = dict.fromkeys(key for choice in choices for key in choice)
    missing = object()
    return [key for key in keys if any(choice.get(key, missing) != choices[0].get(key, missing) for choice in choices)]


def _names_of_axis(
    choices: Sequence[Leaves], keys: Sequence[str], labels: Mapping[str, str], *, shared: set[str]
) -> list[str]:
    if len(choices) == 1:
        return [""]
    parts = [[_part(choice[key], labels[key], shared) for key in keys if key in choice] for choice in choices]
    names = ["-".join(_enough(own, [other for other in parts if other is not own])) for own in parts]
    if len(set(names)) == len(names) and all(0 < len(name) <= LONGEST for name in names):
        return names
    label = labels[keys[0]] if keys else "choice"
    return [f"{label}=v{number}" for number in range(1, len(choices) + 1)]


def _enough(parts: Sequence[str], others: Sequence[Sequence[str]]) -> Sequence[str]:
    """As many of a choice's first parts as no other choice begins with."""
    for count in range(1, len(parts)):
        if not any(parts[:count] == other[:count] for other in others):
            return parts[:count]
    return parts


def _part(value: Any, label: str, shared: set[str]) -> str:
    text = shown(value)
    if isinstance(value, str) and _WORD.fullmatch(value) and value not in OPAQUE and value not in shared:
        return text
    return f"{label}={text}"


def shown(value: Any) -> str:
    """A value as a name has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return "+".join(shown(part) for part in value) or "empty"
    if isinstance(value, dict):
        return "+".join(f"{key}.{shown(part)}" for key, part in value.items()) or "empty"
    if isinstance(value, str) and "/" in value:
        path = PurePosixPath(value)
        value = "_".join((*(part for part in path.parts[-2:-1] if part.strip("./")), path.stem))
    # A minus within a number would look like the dash between parts; it is the one that may stay.
    text = str(value)
    return text if isinstance(value, int | float) else _UNSAFE.sub("_", text) or "empty"
