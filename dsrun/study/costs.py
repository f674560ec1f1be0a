"""Bytes of a training step by role, as a run's `costs.json` has them."""

from collections.abc import Sequence
from typing import Any, Literal

from dsrun.record.events import LARGEST_COUNT
from dsrun.study.run_record import RunRecord

Kind = Literal["as_carried", "as_formats"]


def bytes_by_role(run: RunRecord, kind: Kind, *, sections: Sequence[str]) -> dict[str, int]:
    """What arrays carry, or what formats need; a role that has no number of bytes is absent, for a folder may be of another version.

    Args:
        sections: of costs.json: "bytes" is kept from step to step, "activations" within one.

    Raises:
        DataError: the file is damaged.
    """
    found = {}
    for section in sections:
        roles = run.costs.get(section)
        for name, role in roles.items() if isinstance(roles, dict) else ():
            size = count_of(role.get(kind)) if isinstance(role, dict) else None
            if size is not None:
                found[str(name)] = size
    return found


def count_of(value: Any) -> int | None:
    """A number that counts something; None for anything else."""
    return value if type(value) is int and 0 <= value < LARGEST_COUNT else None
