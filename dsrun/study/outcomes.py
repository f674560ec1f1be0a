"""How a run ended, in one word and in a few."""

from dataclasses import dataclass
from typing import Literal

from dsrun.errors import DivergedError
from dsrun.study.run_record import RunRecord
from dsrun.study.run_state import told_state

Kind = Literal["complete", "diverged", "unfinished"]


@dataclass(frozen=True)
class Outcome:
    """`kind` for a program; `text` for a reader, as the end of a sentence that begins with the run's name."""

    kind: Kind
    text: str


def outcome(run: RunRecord) -> Outcome:
    """Complete, diverged, or unfinished: stopped, failed, killed, or still going on.

    By the status alone and not by `run.state`, which knows from a lock on this machine that a run was killed: a report has the same words
    everywhere.
    """
    state = told_state(run.status)
    if state == "done":
        return Outcome("complete", "is complete")
    if state == "diverged" or run.exit_code == DivergedError.exit_code:
        return Outcome("diverged", f"diverged at step {run.step}")
    if state == "new":
        return Outcome("unfinished", "has not begun")
    why = {"running": "was killed or is still going on", "killed": "was killed", "stopped": "was stopped"}.get(
        state, state
    )
    return Outcome("unfinished", f"{why} at step {run.step}" if run.step else f"{why}, before its first step")
