"""What is wrong with a config, in words: each validation error with its place, value, reason and way out.

On the roof beside `config.py`. Pydantic finds the errors, all of them at once; this file translates them, finds the
line that wrote each value, and suggests the nearest name. It learns keys, kinds and meanings from the models, and
names none.
"""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dsrun.config_file import Node, Place, Problem, Source

Models = list[type[BaseModel]]

_BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}
_QUOTED = re.compile(r"'([^']*)'")
_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list such as [0.9, 1.0, 1.1]",
    "dict_type": "must be a section of `key: value` lines",
    "model_type": "must be a section of `key: value` lines",
    "model_attributes_type": "must be a section of `key: value` lines",
}


def problems_of(error: ValidationError, tree: Node, model: type[BaseModel]) -> list[Problem]:
    """Every error as a problem with its line. A key that is missing because it was misspelt is one problem, not two."""
    errors = [found for found in error.errors(include_url=False) if not _follows_from_elements(found)]
    unknown = [_locate(found["loc"], tree)[0] for found in errors if found["type"] == "extra_forbidden"]
    meant = {_meant(keys, tree, model) for keys in unknown}
    problems = [(found["type"], _problem(found, tree, model)) for found in errors]
    return [problem for kind, problem in problems if not (kind == "missing" and problem.key in meant)]


def unknown_key(dotted: str, model: type[BaseModel]) -> str | None:
    """What is wrong with a dotted key alone, whatever its value; None if some section of a config has it."""
    keys = dotted.split(".")
    nothing = Node({}, Place(Source("", 0, Path())))
    for depth in range(1, len(keys) + 1):
        if not any(keys[depth - 1] in m.model_fields for m in _models_at(keys[: depth - 1], model)):
            if not _models_at(keys[: depth - 1], model):
                return f"{'.'.join(keys[: depth - 1])} is a value and no section"
            return _unknown_key(keys[:depth], nothing, model)
    return None


def did_you_mean(word: str, words: Sequence[str]) -> str:
    """`; did you mean 'grid'?`, or the words to choose from."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; write one of {', '.join(words)}"


def _follows_from_elements(error: Any) -> bool:
    """Pydantic counts a list's good elements, so [0, -1] has two bad ones and is "too short" as well."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def listing(problems: Sequence[Problem]) -> str:
    """Problems in the order of files and lines, one a line, and their number if there are several."""
    texts = [str(problem) for problem in sorted(problems, key=lambda problem: problem.place.order)]
    return "\n".join(texts if len(texts) == 1 else [*texts, f"{len(texts)} problems"])


def sub_models(annotation: Any) -> Models:
    """The models that an annotation allows: one for a section, several where `kind` chooses, none for a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in sub_models(part)]


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted keys of all values with their fields; a key that several kinds share comes once for each."""
    for name, field in model.model_fields.items():
        below = sub_models(field.annotation)
        if not below:
            yield prefix + name, field
        for section in below:
            yield from leaves(section, f"{prefix}{name}.")


def _problem(error: Any, tree: Node, model: type[BaseModel]) -> Problem:
    keys, node = _locate(error["loc"], tree)
    kind = error["type"]
    if kind == "extra_forbidden":
        return Problem(node.place, ".".join(keys), _unknown_key(keys, tree, model))
    if kind == "missing":
        fields = _fields_at(keys[:-1], tree, model)
        return Problem(node.place, ".".join(keys), f"missing. {fields[keys[-1]].description}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        kinds = _kinds(keys, model)
        inner = node.value.get("kind") if isinstance(node.value, dict) else None
        place = inner.place if inner else node.place
        found = f"found {_shown(inner.value)}" if inner else "missing"
        return Problem(place, ".".join([*keys, "kind"]), f"{found}; {_one_of(inner and inner.value, kinds)}")
    return Problem(node.place, ".".join(keys), _wrong_value(error))


def _wrong_value(error: Any) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        name, text = _BOUNDS[kind]
        bound = int(context[name]) if context[name] == int(context[name]) else context[name]
        return f"{text} {bound}, found {_shown(value)}"
    if kind in _TYPES:
        return f"{_TYPES[kind]}, found {_shown(value)}{_quoted_number_hint(value, kind)}"
    if kind == "literal_error":
        return f"found {_shown(value)}; {_one_of(value, _QUOTED.findall(context['expected']))}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    return f"{error['msg']}, found {_shown(value)}"


def _locate(loc: Sequence[str | int], tree: Node) -> tuple[list[str], Node]:
    """Keys and deepest written node of an error. Pydantic's path also has the chosen kind, which is no key."""
    node, keys = tree, []
    for part in loc:
        if isinstance(node.value, dict):
            chosen = node.value.get("kind")
            if part in node.value:
                node = node.value[str(part)]
            elif chosen is not None and chosen.value == part:
                continue
            keys.append(str(part))
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            keys.append(str(part))
    return keys, node


def _models_at(keys: Sequence[str], model: type[BaseModel]) -> Models:
    models: Models = [model]
    for key in keys:
        if key.isdigit():  # of a list, whose elements are of the models found
            continue
        fields = [m.model_fields[key] for m in models if key in m.model_fields]
        models = [below for field in fields for below in sub_models(field.annotation)]
    return models


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field else None


def _kinds(keys: Sequence[str], model: type[BaseModel]) -> list[str]:
    return [kind for section in _models_at(keys, model) if (kind := _kind_of(section))]


def _fields_at(keys: Sequence[str], tree: Node, model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields of a section, of the kind that is written there."""
    section = tree.find(".".join(keys)) if keys else tree
    written = section.value.get("kind") if section and isinstance(section.value, dict) else None
    models = _models_at(keys, model)
    if written is not None:
        models = [m for m in models if _kind_of(m) in (None, written.value)]
    return {name: field for m in models for name, field in m.model_fields.items()}


def _unknown_key(keys: Sequence[str], tree: Node, model: type[BaseModel]) -> str:
    *section, key = keys
    if key == "<<":
        return "merge keys are not read; use `base` for shared settings"
    others = [m for m in _models_at(section, model) if key in m.model_fields]
    if others:
        kinds = " or ".join(str(_kind_of(m)) for m in others)
        return f"belongs to kind {kinds}; remove it or change kind"
    meant = _meant(keys, tree, model)
    if meant:
        return f"unknown key; did you mean {meant.rsplit('.', 1)[-1]!r}?"
    elsewhere = {dotted for dotted, _ in leaves(model) if dotted.rsplit(".", 1)[-1] == key}
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(sorted(elsewhere))}?"
    where = ".".join(section) or "the top level"
    return f"unknown key; {where} has {', '.join(_fields_at(section, tree, model))}"


def _meant(keys: Sequence[str], tree: Node, model: type[BaseModel]) -> str | None:
    """Dotted key of the same section whose name is nearest to an unknown one."""
    close = difflib.get_close_matches(keys[-1], list(_fields_at(keys[:-1], tree, model)), n=1)
    return ".".join([*keys[:-1], *close]) if close else None


def _one_of(value: Any, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1)
    text = f"write {choices[0]}" if len(choices) == 1 else f"write one of {', '.join(choices)}"
    return f"did you mean {close[0]!r}? {text[0].upper()}{text[1:]}" if close else text


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"text {value!r}" if isinstance(value, str) else repr(value)


def _quoted_number_hint(value: Any, kind: str) -> str:
    if not isinstance(value, str):
        return ""
    if kind == "bool_type":
        return "; YAML 1.2 has no yes, no, on, off" if value.lower() in ("yes", "no", "on", "off") else ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return "; numbers must be finite"
    return "; write it without quotes and underscores" if kind in ("int_type", "float_type") else ""
