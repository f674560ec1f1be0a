"""Deployment: whether this version of dsrun can export, and what its evaluations say then."""

from importlib.util import find_spec


def can_export() -> bool:
    """Whether `dsrun export` is a command of this version."""
    if find_spec("dsrun.cli") is None:
        return False
    from dsrun.cli import app

    return any(
        (command.name or getattr(command.callback, "__name__", "")) == "export" for command in app.registered_commands
    )
