"""The sections of a sweep file, read one by one into choices; what is wrong with them is gathered.

On the roof beside `sweep_file.py`, which says what a sweep file is and puts the choices together. An axis is a list of choices of which
each run makes one: the entries of `list`, the rows of a `zip`, the values of a key of the grid.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsrun.config import Config
from dsrun.config_file import Node, Problem, Unusable, is_dotted_key, read_base
from dsrun.config_messages import did_you_mean, unknown_key
from dsrun.sweep_names import LONGEST

ENTRY_KEYS = ("name", "base", "set")
SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+=-")


@dataclass(frozen=True)
class Choice:
    """One of the choices on an axis: values by dotted key, of the list or a zip a name, of the list perhaps another base."""

    values: dict[str, Node]
    name: str | None = None
    base: Node | None = None
    is_of_list: bool = False


@dataclass
class SectionReader:
    """A sweep file on its way to variations; problems are gathered."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    bases: dict[str, Node | None] = field(default_factory=dict)

    def refuse(self, node: Node, key: str, message: str) -> None:
        self.problems.append(Problem(node.place, key, message))

    # The file's sections.

    def mapping(self, node: Node | None, key: str) -> dict[str, Node]:
        """Values by dotted key of a `set`, `grid` or `zip`; unknown keys are refused and left out."""
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self.refuse(node, key, "must be a section of `dotted.key: value` lines")
            return {}
        return {dotted: value for dotted, value in node.value.items() if self.is_known(dotted, value, key)}

    def is_known(self, dotted: str, value: Node, section: str) -> bool:
        message: str | None = "the key must be names joined by dots, such as model.hidden"
        if dotted == "base":
            message = "a base is written at the top of the file, or beside the name of an entry of `list`"
        elif is_dotted_key(dotted):
            message = unknown_key(dotted, Config)
        if message:
            self.refuse(value, f"{section}: {dotted}", message)
        return message is None

    def columns(self, node: Node | None, key: str) -> dict[str, list[Node]]:
        """Lists of values by dotted key."""
        return {
            dotted: values
            for dotted, node in self.mapping(node, key).items()
            if (values := self.values(node, f"{key}: {dotted}"))
        }

    def values(self, node: Node, key: str) -> list[Node]:
        if not isinstance(node.value, list):
            self.refuse(node, key, "must be a list of values, such as [1, 2, 3]")
            return []
        if not node.value:
            self.refuse(node, key, "is empty; write the values, such as [1, 2, 3], or remove it")
        return node.value

    def grid_axes(self, node: Node | None) -> list[list[Choice]]:
        self.refuse_empty(node, "grid")
        axes = []
        for key, values in self.columns(node, "grid").items():
            self.refuse_equal_choices([[value] for value in values], f"grid: {key}")
            axes.append([Choice({key: value}) for value in values])
        return axes

    def zip_axes(self, node: Node | None) -> list[list[Choice]]:
        if node is None:
            return []
        self.refuse_empty(node, "zip")
        parts = node.value if isinstance(node.value, list) else [node]
        return [axis for part in parts if (axis := self.zip_axis(part))]

    def zip_axis(self, node: Node) -> list[Choice]:
        named = node.value.pop("name", None) if isinstance(node.value, dict) else None
        names = self.values(named, "zip: name") if named else []
        columns = self.columns(node, "zip")
        if not columns:
            return []
        first, count = next((key, len(values)) for key, values in columns.items())
        for key, values in [*columns.items(), *([("name", names)] if names else [])]:
            if len(values) != count:
                message = f"{len(values)} values, and {first} has {count}; values go together, so there must be as many of each"
                self.refuse(values[0], f"zip: {key}", message)
                return []
        called = [self.name(name, "zip: name") for name in names] or [None] * count
        self.refuse_equal_names(called, names)
        rows = list(zip(*columns.values(), strict=True))
        self.refuse_equal_choices(rows, f"zip: {', '.join(columns)}")
        return [Choice(dict(zip(columns, row, strict=True)), name) for row, name in zip(rows, called, strict=True)]

    def list_axes(self, node: Node | None) -> list[list[Choice]]:
        if node is None:
            return []
        if not isinstance(node.value, list) or not node.value:
            self.refuse(node, "list", "must be a list of entries such as `- {name: float16, set: {...}}`")
            return []
        entries = [self.entry(entry) for entry in node.value]
        self.refuse_equal_names([entry.name for entry in entries], node.value)
        return [entries]

    def refuse_equal_names(self, names: Sequence[str | None], nodes: Sequence[Node]) -> None:
        seen: dict[str, Node] = {}
        for name, node in zip(names, nodes, strict=False):
            if name in seen:
                self.refuse(
                    node, "name", f"{name!r} is a name already, in line {seen[name].place.line}; choose another"
                )
            seen |= {name: node} if name else {}

    def refuse_empty(self, node: Node | None, key: str) -> None:
        if node is not None and node.value in ({}, []):
            self.refuse(node, key, "is empty; write `dotted.key: [values]` lines, or remove it")

    def refuse_equal_choices(self, choices: Sequence[Sequence[Node]], key: str) -> None:
        """Of an axis; they would be runs of one config, under names that nobody wrote."""
        seen: dict[str, Node] = {}
        for nodes in choices:
            values = [json.dumps(node.plain(), ensure_ascii=False) for node in nodes]
            if first := seen.get(text := ", ".join(values)):
                where = "" if first.place.line == nodes[0].place.line else f", first in line {first.place.line}"
                self.refuse(nodes[0], key, f"{text} twice{where}; remove one")
            seen.setdefault(text, nodes[0])

    def name(self, node: Node, key: str) -> str | None:
        text = node.value
        if isinstance(text, str) and 0 < len(text) <= LONGEST and not set(text) - SAFE and text[0] not in ".-=":
            return text
        self.refuse(
            node, key, f"must be text of letters, digits and _ . + = -, {LONGEST} at most, as it names a folder"
        )
        return None

    def entry(self, node: Node) -> Choice:
        if not isinstance(node.value, dict):
            self.refuse(node, "list", "must be an entry such as `- {name: float16, set: {...}}`")
            return Choice({}, is_of_list=True)
        self.known_keys(node.value, ENTRY_KEYS, "list: ")
        name, found = None, node.value.get("name")
        if found is None:
            self.refuse(node, "list: name", "missing: what this variation is called")
        else:
            name = self.name(found, "list: name")
        return Choice(self.mapping(node.value.get("set"), "set"), name, node.value.get("base"), is_of_list=True)

    def known_keys(self, found: Mapping[str, Node], keys: Sequence[str], prefix: str = "") -> None:
        for key in found.keys() - set(keys):
            hint = did_you_mean(key, keys)
            if unknown_key(key, Config) is None and not prefix:
                hint = "; what is the same in all runs is written in `set`, as a dotted key"
            self.refuse(found[key], prefix + key, f"unknown key{hint}")

    def without(self, node: Node | None) -> list[tuple[Node, dict[str, Node]]]:
        """Entries of `without`: each with its place, values by dotted key."""
        if node is None:
            return []
        if not isinstance(node.value, list):
            self.refuse(node, "without", "must be a list of entries such as `- {seed: 1, model.hidden: 64}`")
            return []
        entries = []
        for entry in node.value:
            if not isinstance(entry.value, dict) or not entry.value:
                self.refuse(entry, "without", "must be an entry such as `- {seed: 1, model.hidden: 64}`")
                continue
            unknown = [
                key for key in entry.value if key != "name" and not self.is_known(key, entry.value[key], "without")
            ]
            if not unknown:
                entries.append((entry, entry.value))
        return entries

    # Values that would never be seen.

    def refuse_overridden(
        self, fixed: Mapping[str, Node], axes: Sequence[Sequence[Choice]], sets: Sequence[Node]
    ) -> None:
        """Of two axes that say the same key one would win in silence; the same for `set` and an axis, an axis and --set."""
        said: dict[str, Node] = {}
        for keys in _keys_of_axes(axes):
            for key, node in keys.items():
                if other := _overlapping(key, said):
                    self.refuse(
                        node, key, f"varied in line {said[other].place.line} too ({other}); vary it in one place"
                    )
            said |= keys
        # What only some entries of the list set, they set instead of what all have.
        always = dict(
            pair for axis in axes if not axis[0].is_of_list for keys in _keys_of_axes([axis]) for pair in keys.items()
        )
        for key, node in _opened(fixed).items():
            if other := _overlapping(key, always):
                self.refuse(
                    node, f"set: {key}", f"varied in line {always[other].place.line}, so this is never used; remove it"
                )
        for tree in sets:
            for key, node in _opened({"": tree}).items():
                if other := _overlapping(key, said):
                    message = f"{key} is what {self.path.name} varies (line {said[other].place.line}); choose among its runs with --only"
                    self.refuse(node, "", message)

    # From choices to configs.

    def base(self, node: Node) -> Node | None:
        """The tree of a base, read once."""
        name = str(node.value)
        if name not in self.bases:
            self.bases[name] = None
            try:
                self.bases[name] = read_base(node, self.path, self.problems)
            except Unusable as error:
                self.problems.append(error.problem)
        return self.bases[name]


def _opened(values: Mapping[str, Node]) -> dict[str, Node]:
    """Nodes of single values by dotted key, sections opened."""

    def walk(key: str, node: Node) -> Iterator[tuple[str, Node]]:
        if isinstance(node.value, dict) and node.value:
            for name, below in node.value.items():
                yield from walk(f"{key}.{name}" if key else name, below)
        else:
            yield key, node

    return dict(pair for key, node in values.items() for pair in walk(key, node))


def _keys_of_axes(axes: Sequence[Sequence[Choice]]) -> list[dict[str, Node]]:
    return [{key: node for choice in axis for key, node in _opened(choice.values).items()} for axis in axes]


def _overlapping(key: str, others: Mapping[str, Node]) -> str | None:
    """One of the others that is this key, a section around it or a part of it."""
    return next(
        (other for other in others if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")), None
    )
