"""Config files as a tree that remembers where each value was written: YAML, `base`, `--set`.

On the roof beside `config.py`, which has the models; this file knows YAML and no setting. The order is base < file <
`--set`: mappings merge key by key, everything else replaces, and a section that writes another `kind` than the layer
below starts anew (the settings of SGD mean nothing to AdamW). A relative path belongs to the file that says it, for
`--set` to the current folder.

YAML is read as version 1.2 with its core schema: `1e-4` is a number, `off`, `no` and `12:30` are text, `010` is ten.
ruamel parses; values are resolved here, so that tags, anchors, aliases, duplicate keys, inf and nan are refused, each
with its line. Size and depth are limited: a file that reaches the limits is not a config.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

MAX_BYTES = 65_536
MAX_DEPTH = 12
MAX_BASES = 8
MAX_DIGITS = 18
SWEEP_KEYS = {"set", "grid", "zip", "list", "without"}  # of a sweep file (sweep_file.py), and of no config
FIRST_SET = 1000  # layers: 0 the file, 1 its base, ..., from here on --set

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, **dict.fromkeys(("null", "Null", "NULL"))} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Source:
    """Where text came from: its name in messages, its rank among the layers, the folder its paths are relative to."""

    label: str
    layer: int
    folder: Path


@dataclass(frozen=True)
class Place:
    """A position in a source; lines and columns count from 1, and line 0 is the source as a whole."""

    source: Source
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source.label}:{self.line}:{self.column}" if self._has_line else self.source.label

    @property
    def _has_line(self) -> bool:
        return self.line > 0 and self.source.layer < FIRST_SET

    @property
    def origin(self) -> str:
        """Short form for tables: `base.yaml:7` or `--set #2`."""
        return f"{Path(self.source.label).name}:{self.line}" if self._has_line else self.source.label

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts problems by file and line."""
        return self.source.layer, self.line, self.column


@dataclass
class Node:
    """A value and its place (that of its key, if it has one). A section that `starts_anew` takes nothing from below."""

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    place: Place
    starts_anew: bool = False

    def find(self, dotted: str) -> "Node | None":
        """The node at a dotted key."""
        node = self
        for part in dotted.split("."):
            if not isinstance(node.value, dict) or part not in node.value:
                return None
            node = node.value[part]
        return node

    def plain(self) -> Any:
        """The values alone."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True)
class Problem:
    """One thing to mend: where, which key ('' for the whole file), and what to do."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}  {self.key}: {self.message}" if self.key else f"{self.place}  {self.message}"


class Unusable(Exception):
    """Nothing more can be said about a source before its problem is mended."""

    def __init__(self, place: Place, message: str, *, key: str = ""):
        self.problem = Problem(place, key, message)


def read_tree(path: Path, sets: Sequence[str], problems: list[Problem]) -> Node | None:
    """The file merged over its bases, and `--set` values merged over both.

    Problems are appended; None means that nothing more can be said before they are mended.
    """
    overrides = read_sets(sets, problems)
    try:
        tree = _read_with_base(path, [], problems)
    except Unusable as error:
        problems.append(error.problem)
        return None
    return None if overrides is None else merge_over(tree, overrides)


def read_sets(sets: Sequence[str], problems: list[Problem]) -> list[Node] | None:
    """`--set` values, each as a tree; None if one cannot be read, with problems appended."""
    layers = []
    for number, text in enumerate(sets, start=1):
        try:
            layers.append(_read_set(text, number, problems))
        except Unusable as error:
            problems.append(error.problem)
    return layers if len(layers) == len(sets) else None


def merge_over(tree: Node, overrides: Sequence[Node]) -> Node:
    """A tree under overrides, the last of which wins."""
    # Overrides are merged among themselves first, so that a new `kind` may come after the settings that go with it.
    return _merge(tree, reduce(_merge, overrides, Node({}, tree.place)))


def read_file(path: Path, problems: list[Problem]) -> Node:
    """One file as a tree, whatever it says; the root's place is its first line.

    Raises:
        Unusable: it cannot be read, or is no mapping.
    """
    return _read_file(path, 0, problems)


def read_base(base: Node, of: Path, problems: list[Problem]) -> Node:
    """The config, with its own bases, whose path a `base` of the file `of` says.

    Raises:
        Unusable: there is none, or it cannot be read.
    """
    return _read_with_base(_base_path(base, [of]), [of], problems)


def at_key(dotted: str, node: Node) -> Node:
    """A tree that has nothing but a node at a dotted key."""
    for part in reversed(dotted.split(".")):
        node = Node({part: node}, node.place)
    return node


def similar_file(path: Path) -> str:
    """` (did you mean first.yaml?)` where a config of a similar name is in the folder, else nothing."""
    there = {file.stem: file for file in sorted(path.parent.glob("*.y*ml"))}
    close = difflib.get_close_matches(path.stem, there, n=1)
    return f" (did you mean {there[close[0]]}?)" if close else ""


def is_dotted_key(text: str) -> bool:
    """Whether text is names joined by dots."""
    return bool(_KEY.fullmatch(text))


def parse_yaml(text: str, source: Source, problems: list[Problem], *, key: str = "") -> Node:
    """A YAML document as a tree, or as the value of a key.

    Problems with single values are appended.

    Raises:
        Unusable: broken syntax.
    """
    return _Parser(source, problems, key.split(".") if key else []).document(text)


def _read_file(path: Path, layer: int, problems: list[Problem]) -> Node:
    source = Source(str(path), layer, path.parent)
    tree = parse_yaml(_read_text(path, source), source, problems)
    if not isinstance(tree.value, dict):
        what = "the file is empty" if tree.value is None else "a config is a mapping of `key: value` lines"
        raise Unusable(Place(source, 1, 1), f"{what}; start from `dsrun configs list`")
    tree.place = Place(source, 1, 1)
    return tree


def _read_with_base(path: Path, above: list[Path], problems: list[Problem]) -> Node:
    tree = _read_file(path, len(above), problems)
    assert isinstance(tree.value, dict)
    for key in SWEEP_KEYS & tree.value.keys():
        raise Unusable(
            tree.value[key].place,
            "this file is a sweep of several runs, not a config; `dsrun sweep FILE --list` shows them",
            key=key,
        )
    base = tree.value.pop("base", None)
    if base is None:
        return tree
    chain = [*above, path]
    return _merge(_read_with_base(_base_path(base, chain), chain, problems), tree)


def _base_path(base: Node, chain: list[Path]) -> Path:
    """The file below the last of a chain."""
    if not isinstance(base.value, str) or not base.value:
        raise Unusable(base.place, "must be the path of another config, relative to this file", key="base")
    below = Path(os.path.normpath(chain[-1].parent / base.value))
    real = [file.resolve() for file in chain]
    try:
        is_file, below_resolved = below.is_file(), below.resolve()
    except (OSError, ValueError) as error:  # too long; a NUL
        raise Unusable(
            base.place, f"cannot be a path: {getattr(error, 'strerror', None) or error}", key="base"
        ) from None
    if below_resolved in real:
        circle = [*(file.name for file in chain[real.index(below_resolved) :]), below.name]
        raise Unusable(base.place, f"goes round in a circle: {' -> '.join(circle)}", key="base")
    if len(chain) > MAX_BASES:
        message = f"more than {MAX_BASES} files below each other; copy the settings into one file"
        raise Unusable(base.place, message, key="base")
    if not is_file:
        message = f"no such file: {below}{similar_file(below)}; paths are relative to the file that says them"
        raise Unusable(base.place, message, key="base")
    return below


def _read_text(path: Path, source: Source) -> str:
    place = Place(source)
    if not path.exists():
        raise Unusable(place, f"no such file{similar_file(path)}; `dsrun configs list` shows those in configs/")
    if not path.is_file():
        raise Unusable(place, "is not a file; give one YAML file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unusable(place, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise Unusable(place, f"is larger than {MAX_BYTES} bytes; is this a config?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(source, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise Unusable(place, message) from error


def _read_set(text: str, number: int, problems: list[Problem]) -> Node:
    source = Source(f"--set #{number}", FIRST_SET + number, Path.cwd())
    place = Place(source)
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise Unusable(place, f"{text!r}: no '='; write --set KEY=VALUE, for example --set model.hidden=512")
    if not _KEY.fullmatch(key):
        raise Unusable(place, f"{text!r}: the key must be names joined by dots, for example model.hidden")
    if key == "base":
        raise Unusable(place, f"{text!r}: base belongs in the file; give the other file to --config instead")
    if not value.strip():
        raise Unusable(
            place, f"{text!r}: no value after '='; write {key}=null for nothing, {key}='\"\"' for empty text"
        )
    return at_key(key, replace(parse_yaml(value, source, problems, key=key), place=place))


def _merge(lower: Node, upper: Node) -> Node:
    """`upper` over `lower`; the places of what is kept stay."""
    if upper.starts_anew or not isinstance(upper.value, dict):
        return upper
    if not isinstance(lower.value, dict):
        return replace(upper, starts_anew=True)
    kind = upper.value.get("kind")
    if kind is not None and "kind" in lower.value and lower.value["kind"].value != kind.value:
        return replace(upper, starts_anew=True)
    merged = dict(lower.value)
    for key, node in upper.value.items():
        merged[key] = _merge(merged[key], node) if key in merged else node
    return Node(merged, upper.place if upper.value else lower.place, lower.starts_anew)


@dataclass
class _Parser:
    """YAML events to nodes. The dotted key of the value being read is kept for messages."""

    source: Source
    problems: list[Problem]
    path: list[str] = field(default_factory=list)

    def document(self, text: str) -> Node:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            return self._document(YAML(typ="safe", pure=True).parse(text))
        except MarkedYAMLError as error:
            raise Unusable(self._place(error.problem_mark or error.context_mark), _syntax_message(error)) from error
        except ReaderError as error:
            before = text[: error.position]
            place = Place(self.source, before.count("\n") + 1, error.position - before.rfind("\n"))
            raise Unusable(place, "a control character; YAML allows none") from error

    def _document(self, events: Iterator[Any]) -> Node:
        next(events)
        start = next(events)
        if type(start).__name__ == "StreamEndEvent":
            return Node(None, Place(self.source, 1, 1))
        if start.version or start.tags:
            self._refuse(self._place(start.start_mark), "remove the % directive: configs are YAML 1.2")
        tree = self._node(next(events), events)
        next(events)
        after = next(events)
        if type(after).__name__ == "DocumentStartEvent":
            self._refuse(self._place(after.start_mark), "a second document starts here; a config is one document")
        return tree

    def _node(self, event: Any, events: Iterator[Any], depth: int = 0) -> Node:
        place = self._place(event.start_mark)
        name = type(event).__name__
        if depth > MAX_DEPTH:
            key = ".".join(part for part in self.path if not part.isdecimal())  # without a dozen places in lists
            raise Unusable(place, f"nested deeper than {MAX_DEPTH} levels; no config is", key=key)
        if name == "AliasEvent":
            self._refuse(place, f"alias *{event.anchor}: aliases are not read; write the value out")
            return Node(None, place)
        if event.anchor:
            self._refuse(place, f"anchor &{event.anchor}: anchors are not read; use `base` for shared settings")
        if event.tag:
            self._refuse(place, f"tag {event.tag}: tags are not read; write the plain value")
        if name == "ScalarEvent":
            return Node(self._scalar(event, place), place)
        if name == "SequenceStartEvent":
            return Node(list(self._items(events, depth)), place)
        return Node(self._mapping(events, depth), place)

    def _items(self, events: Iterator[Any], depth: int) -> Iterator[Node]:
        for number, event in enumerate(events):
            if type(event).__name__ == "SequenceEndEvent":
                return
            self.path.append(str(number))
            yield self._node(event, events, depth + 1)
            self.path.pop()

    def _mapping(self, events: Iterator[Any], depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            place = self._place(event.start_mark)
            is_word = type(event).__name__ == "ScalarEvent"
            key = event.value if is_word else "?"
            if not is_word:
                self._node(event, events, depth + 1)
                self._refuse(place, "a key must be a word")
            self.path.append(key)
            node = self._node(next(events), events, depth + 1)
            if key in entries:
                self._refuse(place, f"written twice (first in line {entries[key].place.line}); remove one")
            elif is_word:
                entries[key] = Node(node.value, place)
            self.path.pop()
        return entries

    def _scalar(self, event: Any, place: Place) -> str | int | float | bool | None:
        text = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._refuse(place, "half a surrogate pair; write the character itself")
            return None
        if event.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            self._refuse(place, f"{text}: numbers must be finite")
            return None
        if _INT.fullmatch(text):
            if len(text) > MAX_DIGITS:
                self._refuse(place, f"{text[:MAX_DIGITS]}...: more than {MAX_DIGITS} digits")
                return None
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if abs(number) == float("inf"):
                self._refuse(place, f"{text}: too large for a number")
                return None
            return number
        return text

    def _place(self, mark: Any) -> Place:
        """Place of ruamel's mark, which counts from 0."""
        return Place(self.source, mark.line + 1, mark.column + 1)

    def _refuse(self, place: Place, message: str) -> None:
        self.problems.append(Problem(place, ".".join(self.path), message))


def _syntax_message(error: Any) -> str:
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return "a tab; indent with spaces"
    if error.context and error.context != problem:
        problem = f"{problem} {error.context}"
    return f"not YAML: {problem}"
