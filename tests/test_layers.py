"""A room imports only rooms on floors below its own; what needs no JAX does not bring it in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dsrun"
FLOORS = [
    {"arithmetic", "speech", "record", "kernels"},
    {"model", "ctc"},
    {"training", "evaluation", "deploy"},
    {"study", "serving"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def imported_parts(path: Path) -> set[str]:
    """First names below `dsrun` that a file imports, anywhere in it: rooms, or modules on the roof."""
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any(node.level for node in imports if isinstance(node, ast.ImportFrom)), f"{path}: write `from dsrun...`"
    names = {
        f"{node.module}.{alias.name}" for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    names |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("dsrun.")} - {"__version__"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_its_floor(room):
    below = {other for other, floor in FLOOR.items() if floor < FLOOR[room]}
    for path in (PACKAGE / room).rglob("*.py"):
        assert imported_parts(path) <= below | {room, "errors"}, path


def test_errors_is_a_leaf_and_config_knows_no_room_but_arithmetic():
    assert imported_parts(PACKAGE / "errors.py") == set()
    for path in PACKAGE.glob("config*.py"):
        parts = imported_parts(path)
        assert {part for part in parts if not part.startswith("config")} <= {"arithmetic", "errors"}, path


@pytest.mark.parametrize(
    "module",
    [
        "dsrun.speech",
        "dsrun.record",
        "dsrun.config",
        "dsrun.cli",
        "dsrun.watch_view",
        "dsrun.study.report, dsrun.study.compare, dsrun.run_listing",
    ],
)
def test_what_needs_no_jax_does_not_import_it(module):
    code = f"import sys, {module}; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.stdout == "False\n", found.stderr
