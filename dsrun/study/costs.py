"""What a step costs, defined once for verdicts, `compare` and the exhibit of bytes and time.

* Bytes, by role, are those of a run's `costs.json`: as arrays carry the values, or as the formats themselves need. *Kept from step to step*
  are weights, their copies, the optimizer's state and the statistics of normalisation; the gradient is not, nor are activations.
* The time of a step is the median of a setting's steps, all seeds together: of the runs that are done, or of all of them if none is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from dsrun.record.events import LARGEST_COUNT
from dsrun.study.run_record import RunRecord

Kind = Literal["as_carried", "as_formats"]
WITHIN_A_STEP = ("gradient",)  # of the section of bytes


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


def bytes_kept(runs: Iterable[RunRecord], kind: Kind) -> int | None:
    """What a setting keeps from step to step, of the first of its runs that says it; None if none does.

    Raises:
        DataError: a file is damaged.
    """
    for run in runs:
        if sizes := bytes_by_role(run, kind, sections=["bytes"]):
            return sum(size for role, size in sizes.items() if role not in WITHIN_A_STEP)
    return None


def step_seconds(runs: Sequence[RunRecord]) -> np.ndarray:
    """Seconds of every recorded step of a setting: of its runs that are done, or of all of them if none is."""
    timed = [run for run in runs if run.state == "done"] or runs
    return np.concatenate([np.empty(0), *(run.step_seconds for run in timed)])


def seconds_a_step(runs: Sequence[RunRecord]) -> float | None:
    """The median of `step_seconds`, so the few steps that compiled a batch shape do not count."""
    known = step_seconds(runs)
    return float(np.median(known)) if len(known) else None


def count_of(value: Any) -> int | None:
    """A number that counts something; None for anything else."""
    return value if type(value) is int and 0 <= value < LARGEST_COUNT else None
