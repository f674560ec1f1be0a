"""Every field of the config is read by the code that builds and runs: a setting that nothing obeys would be a lie.

The roof's source is followed, not run: `config`, names assigned from it, loop variables over its sections, and
parameters annotated with a class of `config.py` stand for dotted keys, and each attribute read from one is recorded.
"""

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import dsrun
from dsrun.config import Config
from dsrun.config_messages import leaves, sub_models

ROOF = sorted(Path(dsrun.__file__).parent.glob("*.py"))


def sections(model: type[BaseModel] = Config, key: str = "") -> dict[str, set[str]]:
    """Dotted keys by class name, for annotated parameters."""
    found = {model.__name__: {key}}
    for name, field in model.model_fields.items():
        for below in sub_models(field.annotation):
            for cls, keys in sections(below, f"{key}.{name}".lstrip(".")).items():
                found.setdefault(cls, set()).update(keys)
    return found


class Reader(ast.NodeVisitor):
    """Records the dotted keys that a module reads."""

    def __init__(self):
        self.names: dict[str, set[str]] = {}
        self.read: set[str] = set()
        self.classes = sections()

    def keys(self, node: ast.expr) -> set[str]:
        """Dotted keys that an expression may stand for."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, {""} if node.id == "config" else set())
        if isinstance(node, ast.Attribute):
            if node.attr == "config":
                return {""}
            return {f"{key}.{node.attr}".lstrip(".") for key in self.keys(node.value)}
        if isinstance(node, ast.Tuple | ast.List):
            return set().union(*map(self.keys, node.elts))
        return set()

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        """A name stands for what is assigned to it."""
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            if len(target.elts) == len(value.elts):  # not the rows of a table, nor a starred name
                for name, part in zip(target.elts, value.elts, strict=True):
                    self.bind(name, part)
        elif isinstance(target, ast.Name):
            self.names[target.id] = self.keys(value)

    def annotated(self, annotation: ast.expr | None) -> set[str]:
        """Dotted keys of the classes that an annotation names, alternatives too."""
        if isinstance(annotation, ast.BinOp):
            return self.annotated(annotation.left) | self.annotated(annotation.right)
        return self.classes.get(annotation.id, set()) if isinstance(annotation, ast.Name) else set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.names = {}
        for parameter in (*node.args.args, *node.args.kwonlyargs):
            named = self.annotated(parameter.annotation)
            if named:
                self.names[parameter.arg] = named
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.read |= self.keys(node)
        self.generic_visit(node)


def unread(sources: list[str]) -> list[str]:
    """Dotted keys of values that no source reads."""
    return sorted({key for key, _ in leaves(Config)} - keys_read(sources))


def keys_read(sources: list[str]) -> set[str]:
    """Dotted keys that some sources read."""
    reader = Reader()
    for source in sources:
        reader.visit(ast.parse(source))
    return reader.read


def test_every_field_is_read_by_the_roof():
    assert unread([path.read_text() for path in ROOF]) == [], (
        "read these in build.py (as config.section.field), or remove them from config.py"
    )


@pytest.mark.parametrize("field", ["frame_multiple", "clip_norm", "dropout", "test", "early_stop_epochs"])
def test_a_field_that_is_no_longer_read_is_found(field: str):
    sources = [re.sub(rf"\.{field}\b", ".seed", path.read_text()) for path in ROOF]
    assert [key.rsplit(".", 1)[-1] for key in unread(sources)] == [field]


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("def f(config):\n return config.model.hidden", {"model", "model.hidden"}),
        ("def f(a):\n return a.config.seed", {"", "seed"}),
        ("def f(config):\n m, d = config.model, config.data\n return m.layers", {"model", "data", "model.layers"}),
        ("def f(o: Sgd):\n return o.momentum", {"optimizer.momentum"}),
        ("def f(o: Sgd | AdamW | None):\n return o.beta1", {"optimizer.beta1"}),
        ("def f(x):\n return x.model.hidden", set()),
    ],
)
def test_the_reader_follows_names_and_nothing_else(source: str, read: set[str]):
    assert keys_read([source]) == read
