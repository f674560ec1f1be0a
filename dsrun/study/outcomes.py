"""How a run ended, in one word and in a few."""

from dataclasses import dataclass
from typing import Literal

from dsrun.errors import DivergedError
from dsrun.study.run_record import RunRecord

Kind = Literal["complete", "diverged", "unfinished"]


@dataclass(frozen=True)
class Outcome:
    """`kind` for a program; `text` for a reader, as the end of a sentence that begins with the run's name."""

    kind: Kind
    text: str


def outcome(run: RunRecord) -> Outcome:
    """Complete, diverged, or unfinished: stopped, failed, killed, or still going on."""
    step = run.status.get("step", run.last_step)
    if run.state == "done":
        return Outcome("complete", "is complete")
    if run.exit_code == DivergedError.exit_code:
        return Outcome("diverged", f"diverged at step {step}")
    if run.state == "new" or not run.last_step:
        return Outcome("unfinished", "has not begun")
    why = {"running": "was killed or is still going on", "killed": "was killed", "stopped": "was stopped"}.get(
        run.state, run.state
    )
    return Outcome("unfinished", f"{why} at step {step}")
