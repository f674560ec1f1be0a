"""Config files: YAML 1.2 with line numbers, `base`, `--set`, and where every value came from.

Precedence: schema default < `base` < file < `--set`. A mapping is merged key by key, except that a mapping whose `kind` changes
replaces the old one. Values that are paths are relative to the file that says them.

ruamel.yaml reads YAML 1.2, where `1e-4` is a number and `off` a word, and keeps the place of every key. Tags, anchors, aliases and
duplicate keys are refused; so are files over 1 MB or nested deeper than 20. Every problem is reported at once, sorted by place:

    configs/prompts_fp16.yaml:9:3  model.hiden: unknown key; did you mean 'hidden'?

Beside `config.py` on the roof, which holds the schema alone.
"""

import difflib
import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from dsrun.config import PATH_KEYS, Config
from dsrun.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

Tree = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file with line and column, or the n-th --set."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"

    @property
    def origin(self) -> str:
        """Short form for tables: file name and line."""
        return self.source if self.line is None else f"{Path(self.source).name}:{self.line}"

    def sort_key(self) -> tuple[str, int, int]:
        """By file, then line."""
        return self.source, self.line or 0, self.column or 0


@dataclass(frozen=True)
class Resolved:
    """A checked config, the file it came from, the origin of every value, and its hash (paths as written, not as they lie here)."""

    config: Config
    path: Path
    origins: dict[str, str]
    digest: str

    @property
    def name(self) -> str:
        """`<config stem>-<6 hex>`: the run folder of this config."""
        return f"{self.path.stem}-{self.digest[:6]}"


class _Problems(Exception):
    def __init__(self, problems: list[tuple[Place, str]]):
        self.problems = problems


def load_config(path: Path | str, sets: list[str] | None = None) -> Resolved:
    """Read, merge and check a config.

    Args:
        path: YAML file.
        sets: overrides `a.b=c`, values in YAML.

    Raises:
        ConfigError: every problem, one a line, with file, line and column.
    """
    path = Path(path)
    try:
        tree, places = _read_with_base(path, ())
        for number, text in enumerate(sets or [], start=1):
            _apply_set(tree, places, text, number)
        written = _validated(tree, places, path)
        located = _validated(_with_absolute_paths(tree, places, path), places, path)
    except _Problems as found:
        ordered = sorted(found.problems, key=lambda problem: problem[0].sort_key())
        lines = [f"{place}  {text}" for place, text in ordered]
        lines.append(f"{len(lines)} problem{'s' if len(lines) > 1 else ''}; nothing was started. `dsrun schema` lists what is allowed.")
        raise ConfigError("\n".join(lines)) from None
    digest = hashlib.sha256(_canonical(written).encode()).hexdigest()
    origins = {key: places[key].origin if key in places else "default" for key in flatten(located.model_dump(mode="json"))}
    return Resolved(located, path, origins, digest)


def render_origins(resolved: Resolved) -> list[dict[str, Any]]:
    """One row a value: dotted key, value, and where it came from."""
    values = flatten(resolved.config.model_dump(mode="json"))
    return [{"key": key, "value": _scalar(value), "origin": resolved.origins[key]} for key, value in values.items()]


def to_yaml(config: Config) -> str:
    """The whole config as YAML that loads to the same config; paths are absolute."""
    out = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(config.model_dump(mode="json"), out)
    return out.getvalue()


def diff_configs(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever they differ; None stands for absent."""
    before, after = (flatten(c.model_dump(mode="json")) for c in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def list_configs(folder: Path) -> list[dict[str, str]]:
    """Configs of a folder: path, and the first sentence of the comment that each opens with."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of configs.")
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        comments = [line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        said = [comment for comment in comments if comment and not comment.startswith("yaml-language-server")]
        rows.append({"config": str(path), "about": said[0] if said else ""})
    return rows


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# --- reading ---------------------------------------------------------------------------------------------------------------


def _read_with_base(path: Path, chain: tuple[Path, ...]) -> tuple[Tree, dict[str, Place]]:
    tree, places = _read(path)
    base = tree.pop("base", None)
    base_place = places.pop("base", Place(str(path)))
    if base is None:
        return tree, places
    if not isinstance(base, str):
        raise _Problems([(base_place, f"base: {base!r} is no path; write the name of a config file.")])
    target = path.parent / base
    if target.resolve() in {p.resolve() for p in (*chain, path)}:
        raise _Problems([(base_place, f"base: {base} leads back to this file.")])
    if not target.is_file():
        raise _Problems([(base_place, f"base: {target}: no such config.")])
    below, below_places = _read_with_base(target, (*chain, path))
    _merge(below, tree, below_places, places)
    return below, below_places


def _read(path: Path) -> tuple[Tree, dict[str, Place]]:
    here = Place(str(path))
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise _Problems([(here, "no such config; `dsrun configs list` shows those there are.")]) from None
    except UnicodeDecodeError as error:
        raise _Problems([(here, f"not UTF-8 text ({error.reason} at byte {error.start}).")]) from None
    except OSError as error:
        raise _Problems([(here, f"cannot be read: {error.strerror}.")]) from None
    if len(data) > MAX_BYTES:
        raise _Problems([(here, f"{len(data)} bytes; a config has at most {MAX_BYTES}.")])
    tree = _parse(text, here)
    if tree is None:
        raise _Problems([(here, "empty; a config is a mapping of sections.")])
    if not isinstance(tree, dict):
        raise _Problems([(here, f"a {type(tree).__name__}; a config is a mapping of sections.")])
    places: dict[str, Place] = {}
    return _plain(tree, "", str(path), places), places


def _parse(text: str, place: Place) -> Any:
    reader = YAML(typ="rt", pure=True)
    reader.allow_duplicate_keys = False
    depth = 0
    try:
        for event in YAML(typ="rt", pure=True).parse(io.StringIO(text)):
            name = type(event).__name__
            depth += {"MappingStartEvent": 1, "SequenceStartEvent": 1, "MappingEndEvent": -1, "SequenceEndEvent": -1}.get(name, 0)
            refused = None
            if name == "AliasEvent" or getattr(event, "anchor", None):
                refused = "anchors and aliases are not used in configs; write the value out."
            elif name in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent") and event.ctag:
                refused = f"tag {event.ctag}: tags are not used in configs."
            elif depth > MAX_DEPTH:
                refused = f"nested deeper than {MAX_DEPTH}."
            if refused:
                mark = event.start_mark
                raise _Problems([(Place(place.source, mark.line + 1, mark.column + 1), refused)])
        return reader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Place(place.source, mark.line + 1, mark.column + 1) if mark else place
        raise _Problems([(at, f"not YAML: {str(error.problem).splitlines()[0]}.")]) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise _Problems([(place, f"not YAML: {str(error).splitlines()[0]}.")]) from None


def _plain(node: Any, prefix: str, source: str, places: dict[str, Place]) -> Any:
    """Plain dicts and lists; the place of every key goes into `places`."""
    if not isinstance(node, dict):
        return _plain_value(node)
    tree = {}
    for key, value in node.items():
        dotted = f"{prefix}{key}"
        line, column = node.lc.key(key) if hasattr(node, "lc") else (0, 0)
        places[dotted] = Place(source, line + 1, column + 1)
        tree[str(key)] = _plain(value, f"{dotted}.", source, places)
    return tree


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(entry) if not isinstance(entry, dict) else dict(entry) for entry in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value if value is None else str(value)


def _merge(below: Tree, above: Tree, below_places: dict[str, Place], above_places: dict[str, Place], prefix: str = "") -> None:
    for key, value in above.items():
        dotted, old = f"{prefix}{key}", below.get(key)
        changes_kind = isinstance(value, dict) and isinstance(old, dict) and "kind" in value and value["kind"] != old.get("kind")
        if isinstance(value, dict) and isinstance(old, dict) and not changes_kind:
            _merge(old, value, below_places, above_places, f"{dotted}.")
        else:
            below[key] = value
            for name in [name for name in below_places if name == dotted or name.startswith(f"{dotted}.")]:
                del below_places[name]
        below_places |= {n: p for n, p in above_places.items() if n == dotted or (n.startswith(f"{dotted}.") and key in below)}


def _apply_set(tree: Tree, places: dict[str, Place], text: str, number: int) -> None:
    place = Place(f"--set #{number}")
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise _Problems([(place, f"{text!r}: write KEY=VALUE, for example model.hidden=512.")])
    parsed = _parse(value, place)
    nested: Any = _plain(parsed, "", place.source, {}) if isinstance(parsed, dict) else _plain_value(parsed)
    for name in reversed(names):
        nested = {name: nested}
    _merge(tree, nested, places, {key: place for key in flatten(nested)})
    places |= {key.strip(): place}


def _with_absolute_paths(tree: Tree, places: dict[str, Place], path: Path) -> Tree:
    copy = json.loads(json.dumps(tree))
    for dotted in PATH_KEYS:
        section, name = dotted.split(".")
        value = copy.get(section, {}).get(name)
        if isinstance(value, str) and dotted in places:
            source = places[dotted]
            folder = Path.cwd() if source.line is None else Path(source.source).parent
            copy[section][name] = str((folder / value).resolve())
    return copy


# --- checking --------------------------------------------------------------------------------------------------------------


def _validated(tree: Tree, places: dict[str, Place], path: Path) -> Config:
    try:
        return Config.model_validate_json(json.dumps(tree, allow_nan=False))
    except ValueError as error:
        if isinstance(error, ValidationError):
            raise _Problems(_problems(error, tree, places, path)) from None
        infinite = [key for key, value in flatten(tree).items() if isinstance(value, float) and not math.isfinite(value)]
        raise _Problems([(places.get(key, Place(str(path))), f"{key}: must be a finite number") for key in infinite]) from None


def _problems(error: ValidationError, tree: Tree, places: dict[str, Place], path: Path) -> list[tuple[Place, str]]:
    found: dict[str, tuple[Place, list[str]]] = {}
    for problem in error.errors():
        names = _written_path(problem["loc"], tree, problem["type"])
        dotted = ".".join(names)
        place = _nearest_place(names, places, path)
        text = _message(problem, names, tree)
        messages = found.setdefault(dotted, (place, []))[1]
        if text not in messages:
            messages.append(text)
    return [(place, f"{dotted}: " * bool(dotted) + " or ".join(texts)) for dotted, (place, texts) in found.items()]


def _written_path(location: tuple, tree: Tree, kind: str) -> list[str]:
    """The keys of an error's location; pydantic adds the names of union members, which nobody wrote."""
    names, node = [], tree
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(node, dict) and part in node:
            node = node[part]
            names.append(str(part))
        elif isinstance(part, int):
            names.append(str(part))
        elif is_last and kind == "missing":
            names.append(str(part))
    return names


def _nearest_place(names: list[str], places: dict[str, Place], path: Path) -> Place:
    for length in range(len(names), 0, -1):
        if ".".join(names[:length]) in places:
            return places[".".join(names[:length])]
    return Place(str(path), 1, 1)


def _message(problem: Any, names: list[str], tree: Tree) -> str:
    kind, value = problem["type"], problem.get("input")
    if kind == "missing":
        return "missing; it has no default and must be written"
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(names[-1], _known_keys(names[:-1], tree), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(_known_keys(names[:-1], tree))}"
        return f"unknown key{hint}"
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return text
    shown = json.dumps(value, default=str)
    return f"{text[0].lower()}{text[1:]}, got {shown if len(shown) < 60 else shown[:57] + '...'}"


def _known_keys(names: list[str], tree: Tree) -> list[str]:
    """Keys that the section at `names` may have; of a choice by `kind`, those of the kind that is written."""
    models: list[type[BaseModel]] = [Config]
    node: Any = tree
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        models = [model for field in fields for model in _models_in(field.annotation)]
    kind = node.get("kind") if isinstance(node, dict) else None
    fitting = [m for m in models if "kind" in m.model_fields and kind in _literals(m.model_fields["kind"].annotation)]
    keys = {key for model in fitting or models for key in model.model_fields}
    return sorted(keys | ({"base"} if not names else set()))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def _literals(annotation: Any) -> tuple:
    return getattr(annotation, "__args__", ())


def _canonical(config: Config) -> str:
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value
