"""JSON Schema of a sweep file, for editors: every dotted key of a config with its type and meaning, wherever a sweep may write it.

On the roof beside `sweep_file.py`, whose form it mirrors. It stands on the schema of a config, of the kind in which nothing is required.
"""

from collections.abc import Iterator
from typing import Any

from dsrun.config import json_schema
from dsrun.sweep_names import LONGEST

_NAME = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_+][A-Za-z0-9_.+=-]*$",
    "maxLength": LONGEST,
    "description": "Part of the run's name.",
}
_BASE = {"type": "string", "description": "A config, relative to this file."}


def sweep_schema() -> dict[str, Any]:
    """JSON Schema of a sweep file."""
    definitions = {name: schema for name, schema in json_schema()["$defs"].items() if name.endswith("_difference")}
    values: dict[str, list[Any]] = {}
    for key, schema in _keys("", definitions.pop("Config_difference"), definitions):
        if schema not in values.setdefault(key, []):
            values[key].append(schema)
    values.pop("base")
    named = {f"value {key}": found[0] if len(found) == 1 else {"anyOf": found} for key, found in values.items()}
    settings = _object({key: _at(key) for key in values}, "Values of every run, by dotted key.")
    lists = {key: _list_of(_at(key)) for key in values}
    zipped = _object(lists | {"name": _list_of(_NAME)}, "Values that go together, of equal number.")
    alternatives = {key: {"anyOf": [_at(key), _list_of(_at(key))]} for key in values}
    left_out = _object(alternatives | {"name": {"anyOf": [_NAME, _list_of(_NAME)]}}, "Runs with all of these values.")
    entry = _object({"name": _NAME, "base": _BASE, "set": {"$ref": "#/$defs/settings"}}, "A named variation.")
    sections = {
        "base": _BASE,
        "set": {"$ref": "#/$defs/settings"},
        "list": _list_of(entry | {"required": ["name"]}) | {"description": "Named variations of several keys each."},
        "zip": {"anyOf": [{"$ref": "#/$defs/zip"}, _list_of({"$ref": "#/$defs/zip"})]},
        "grid": _object(lists, "Every value with every other; the last key changes fastest."),
        "without": {"type": "array", "items": left_out, "description": "Combinations to leave out."},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "dsrun sweep",
        **_object(sections, "Variations of a config: list x zip x grid."),
        "$defs": {"settings": settings, "zip": zipped, **named, **definitions},
    }


def _keys(prefix: str, schema: Any, definitions: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys with their schemas, of sections too."""
    for name, below in schema.get("properties", {}).items():
        yield prefix + name, below
        for part in [below, *below.get("anyOf", [])]:
            if "$ref" in part:
                yield from _keys(f"{prefix}{name}.", definitions[part["$ref"].rsplit("/", 1)[-1]], definitions)


def _at(key: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/value {key}"}


def _list_of(schema: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": schema}


def _object(properties: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, "description": description}
