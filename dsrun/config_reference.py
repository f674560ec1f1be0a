"""The reference of all settings, as text: docs/SETTINGS.md and `dsrun schema KEY`.

Read from the schema that editors read, so a setting is described in one place, the line under its field in
`config.py`, and no page can fall behind. Settings of one class are described once, under all of their keys: storage,
compute and gradient have the same. What a value means for another one (`random_bits` belongs to stochastic rounding)
is in the meaning, and in the message that refuses it; a schema has no words for that.
"""

import difflib
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dsrun.config import FORMAT_SCHEMA, PATH_KEYS, json_schema
from dsrun.errors import UsageError

DEFAULTS = "its keys' defaults"
NUMBER = "N"  # the place in a list, as in arithmetic.rules.N.path
PREFACE = """\
# Settings

Every key of a config, from the schema; `dsrun schema --markdown > docs/SETTINGS.md` writes this page. `dsrun schema KEY` prints a
part of it, e.g. `dsrun schema arithmetic.update`.

A value comes from the default, then from `base`, then from the file, then from `--set KEY=VALUE`; `dsrun configs show FILE` says from
which. What an experiment is about has no default ("required"). An unknown key is refused, and so is a value that another setting keeps from
having an effect: `dsrun configs check FILE` lists all problems with their lines.

A config file may begin with `base: FILE`, another config, relative to this one; the file is then the difference to it.
"""


@dataclass(frozen=True)
class Setting:
    """A key of a section: what may be written, the default as YAML (None: to be written), the meaning, and the classes below it."""

    name: str
    value: str
    default: str | None
    meaning: str
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A class of the schema under all of its keys; one of several kinds where `kind` chooses. The top level has the key ''."""

    keys: tuple[str, ...]
    kind: str | None
    meaning: str
    settings: tuple[Setting, ...]


def sections() -> list[Section]:
    """All of them, each behind the first section that names it; kinds of one key together."""
    classes = json_schema()["$defs"]
    keys: dict[str, list[str]] = {}
    for name, key in _walk("Config", "", classes):
        keys.setdefault(name, []).append(key)
    return [
        Section(
            tuple(keys[name]),
            _kind(classes[name]),
            " ".join(classes[name]["description"].split()),
            tuple(_setting(field, keys[name][0], text, name, classes) for field, text in _fields(classes[name])),
        )
        for name in keys
    ]


def settings_page() -> str:
    """docs/SETTINGS.md."""
    found = sections()
    places = {key: _anchor(_heading(section)) for section in found for key in section.keys}
    parts = [PREFACE]
    heading = None
    for section in found:
        if _heading(section) != heading:
            heading = _heading(section)
            parts.append(f"## {heading}\n")
        if section.kind:
            parts.append(f"### kind: {section.kind}\n")
        others = [f"`{key}`" for key in section.keys if key not in _first_keys(section)]
        parts.append(section.meaning + (f" The same for {', '.join(others)}.\n" if others else "\n"))
        rows = [_row(setting, section.keys[0], places) for setting in section.settings]
        parts.append("| key | value | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def explain(key: str) -> str:
    """A section's settings, or one of them, as lines of text.

    Raises:
        UsageError: no such key.
    """
    asked = ".".join(NUMBER if part.isdecimal() else part for part in key.split("."))
    found = sections()
    whole = [section for section in found if asked in section.keys or f"{asked}.{NUMBER}" in section.keys]
    if whole:
        return "\n\n".join(_section_text(section, asked) for section in whole)
    above, _, name = asked.rpartition(".")
    one = [
        _setting_text(setting, f"{asked}{_of_kind(section)}")
        for section in found
        for setting in section.settings
        if above in section.keys and setting.name == name
    ]
    if not one:
        raise UsageError(_no_such_key(key, asked, found))
    return "\n\n".join(one)


def _no_such_key(key: str, asked: str, found: list[Section]) -> str:
    every = (f"{above}.{setting.name}".lstrip(".") for s in found for above in s.keys for setting in s.settings)
    known = list(dict.fromkeys(every))
    same_name = [other for other in known if other.rsplit(".", 1)[-1] == asked.rsplit(".", 1)[-1]]
    close = same_name or difflib.get_close_matches(asked, known, n=1)
    if close:
        return f"{key}: no such setting; did you mean {' or '.join(close[:4])}?"
    top = ", ".join(setting.name for setting in found[0].settings)
    return f"{key}: no such setting; the top level has {top}."


def _walk(name: str, key: str, classes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Classes with their keys, in the order of the fields."""
    yield name, key
    for field, text in _fields(classes[name]):
        inner = f"{key}.{field}".lstrip(".") + (f".{NUMBER}" if "items" in text else "")
        for below in _classes_of(text):
            yield from _walk(below, inner, classes)


def _kind(section: Mapping[str, Any]) -> str | None:
    return section["properties"].get("kind", {}).get("const")


def _fields(section: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(section["properties"].items())


def _classes_of(text: Any) -> tuple[str, ...]:
    """Names of the classes that a schema refers to."""
    if isinstance(text, list):
        return tuple(name for part in text for name in _classes_of(part))
    if not isinstance(text, dict):
        return ()
    if "$ref" in text:
        return (text["$ref"].rsplit("/", 1)[-1],)
    return tuple(name for key in ("anyOf", "oneOf", "items") for name in _classes_of(text.get(key)))


def _setting(field: str, key: str, text: dict[str, Any], name: str, classes: Mapping[str, Any]) -> Setting:
    below = _classes_of(text)
    dotted = f"{key}.{field}".lstrip(".")
    value = _value(text)
    if below:
        kinds = [kind for name in below if (kind := _kind(classes[name]))]
        value = value.replace("section", f"section, kind {_either(kinds)}" if kinds else "section")
    if dotted in PATH_KEYS:
        value = value.replace("text", "path")
    default = None if field in classes[name].get("required", ()) else _default(text["default"], bool(below))
    return Setting(field, value, default, " ".join(text["description"].split()), below)


def _default(value: Any, is_section: bool) -> str:
    if is_section and isinstance(value, dict):
        return f"kind: {value['kind']}" if "kind" in value else DEFAULTS
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: Mapping[str, Any]) -> str:
    """What may be written, in words."""
    if text.get("anyOf") == FORMAT_SCHEMA:
        return "format"
    if "const" in text:
        return str(text["const"])
    if "enum" in text:
        return _either([str(value) for value in text["enum"]])
    if "anyOf" in text or "oneOf" in text:
        choices = text.get("anyOf") or text["oneOf"]
        if choices[1:] == FORMAT_SCHEMA:
            return f"{_value(choices[0])} or format"
        names = [name for choice in choices for name in choice.get("enum", [_value(choice)])]
        return _either(list(dict.fromkeys(names)))
    if "$ref" in text:
        return "section"
    if text["type"] == "array":
        return _list(text)
    if text["type"] in ("integer", "number"):
        return _number(text)
    return {"boolean": "true or false", "null": "null", "string": "text"}[text["type"]]


def _either(choices: list[str]) -> str:
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _list(text: Mapping[str, Any]) -> str:
    if "prefixItems" in text:
        return f"list of {len(text['prefixItems'])}, each {_value(text['prefixItems'][0])}"
    return f"list, each {_value(text['items'])}"


def _number(text: Mapping[str, Any]) -> str:
    whole = text["type"] == "integer"
    bounds = {name: _bound(text[key], whole) for name, key in _BOUNDS.items() if key in text}
    noun = "whole number" if whole else "number"
    if {"at least", "at most"} <= bounds.keys():
        return f"{noun} from {bounds['at least']} to {bounds['at most']}"
    return " and ".join([noun, *(f"{name} {bound}" for name, bound in bounds.items())]).replace(f"{noun} and", noun, 1)


_BOUNDS = {
    "at least": "minimum",
    "above": "exclusiveMinimum",
    "at most": "maximum",
    "below": "exclusiveMaximum",
}


def _bound(value: float, whole: bool) -> str:
    mantissa, exponent = math.frexp(value)
    if mantissa == 0.5 and abs(exponent) > 20:
        return f"2^{exponent - 1}"
    return str(int(value)) if whole else f"{value:g}"


def _heading(section: Section) -> str:
    return ", ".join(_first_keys(section)) or "The top level"


def _first_keys(section: Section) -> list[str]:
    """Without those of a list's elements, where there are others."""
    return [key for key in section.keys if f".{NUMBER}." not in key] or list(section.keys)


def _anchor(heading: str) -> str:
    """GitHub's: lower case, without punctuation, hyphens for spaces."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _row(setting: Setting, key: str, places: Mapping[str, str]) -> str:
    dotted = f"{key}.{setting.name}".lstrip(".")
    inner = places.get(dotted) or places.get(f"{dotted}.{NUMBER}")
    name = f"[`{setting.name}`](#{inner})" if inner else f"`{setting.name}`"
    default = "required" if setting.default is None else f"`{setting.default}`"
    default = DEFAULTS if setting.default == DEFAULTS else default
    cells = [text.replace("|", "\\|") for text in (name, setting.value, default, setting.meaning)]
    return f"| {' | '.join(cells)} |"


def _of_kind(section: Section) -> str:
    return f" (kind {section.kind})" if section.kind else ""


def _section_text(section: Section, key: str) -> str:
    head = _wrapped(f"{key}{_of_kind(section)}: {section.meaning}", "")
    return "\n\n".join([head, *(_setting_text(setting, setting.name, key) for setting in section.settings)])


def _setting_text(setting: Setting, name: str, above: str = "") -> str:
    default = "required" if setting.default is None else f"default {setting.default}"
    more = f" (dsrun schema {above}.{name})" if setting.below and above else ""
    return f"{name}: {setting.value}{more}; {default}\n{_wrapped(setting.meaning, '    ')}"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, 110, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
