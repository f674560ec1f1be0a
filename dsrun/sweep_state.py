"""How far the runs of a sweep are, from their folders alone; no JAX.

| state | what it is | the next `dsrun sweep` |
|---|---|---|
| new | no run folder | trains it |
| at step n | begun, and stopped or killed | goes on from its last checkpoint |
| done | | leaves it alone |
| diverged | numbers that were not finite (exit code 4): a result, and the same bits would come again | leaves it alone, unless --retry |
| failed | ended by another error, such as a full disk | goes on from its last checkpoint |
| differs | the folder holds a run of another config | lets `dsrun train` refuse it, with the difference |

A run is found by its folder's six digits and then its config, whatever it was called: a value added to the grid may change the
names of runs that are there already, and they are not trained again for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsrun.config import config_hash, load_config
from dsrun.errors import DataError, DivergedError, DsrunError
from dsrun.record import RunDir, read_events
from dsrun.sweep_file import Sweep, Variation

Kind = Literal["new", "begun", "done", "diverged", "failed", "differs"]


@dataclass(frozen=True)
class RunState:
    """What a run folder says."""

    kind: Kind
    step: int = 0
    dev_cer: float | None = None
    """Lowest so far."""
    test_cer: float | None = None
    seconds: float | None = None
    """Of its training steps; of done runs."""
    note: str | None = None
    is_in_use: bool = False
    """A process on this machine, or one that shares the file system, works in the folder."""

    def __str__(self) -> str:
        text = f"at step {self.step}" if self.kind == "begun" else self.kind
        return f"{text}, in use" if self.is_in_use else text

    @property
    def is_over(self) -> bool:
        """Nothing is left to train."""
        return self.kind in ("done", "diverged")


def run_folders(sweep: Sweep, folder: Path) -> list[Path]:
    """Where each variation's run is, or will be."""
    present = [path.parent for path in folder.glob("*/config.yaml")] if folder.is_dir() else []
    by_digits: dict[str, list[Path]] = {}
    for path in sorted(present):
        by_digits.setdefault(path.name.rsplit("-", 1)[-1], []).append(path)
    return [_find(variation, folder, by_digits.get(variation.digits, [])) for variation in sweep.variations]


def _find(variation: Variation, folder: Path, present: Sequence[Path]) -> Path:
    usual = folder / variation.folder
    if usual in present:
        return usual
    return next((path for path in present if _holds(path, variation)), usual)


def _holds(path: Path, variation: Variation) -> bool:
    try:
        return config_hash(load_config(path / "config.yaml").config) == config_hash(variation.resolved.config)
    except DsrunError:
        return False


def state_of(variation: Variation, path: Path) -> RunState:
    """How far the run in a folder is."""
    run = RunDir(path)
    if not run.config.is_file():
        return RunState("new")
    is_same = run.config.read_bytes() == variation.yaml.encode()
    if not is_same and not _holds(path, variation):
        return RunState("differs", note="the folder holds a run of another config")
    try:
        run.require_own_contents()
        status, events = run.read_status(), read_events(run.events)
    except DsrunError as error:
        return RunState("failed", note=str(error))
    kind: Kind = "done" if status.get("state") == "done" else "begun"
    if status.get("state") == "failed":
        kind = "diverged" if status.get("exit_code") == DivergedError.exit_code else "failed"
    steps = [event for event in events if event["event"] == "step"]
    rates = [e["cer"] for e in events if e["event"] == "eval" and isinstance(e.get("cer"), int | float)]
    result = status.get("result")
    return RunState(
        kind,
        step=max([status.get("step", 0), *(event["step"] for event in steps)]),
        dev_cer=min(rates, default=None),
        test_cer=result.get("cer") if isinstance(result, dict) else None,
        seconds=_seconds(steps) if kind == "done" else None,
        note=None if is_same else "its config.yaml has other paths, or was written by another version of dsrun",
        is_in_use=is_in_use(path),
    )


def _seconds(steps: Sequence[dict[str, Any]]) -> float | None:
    known = [event["seconds"] for event in steps if isinstance(event.get("seconds"), int | float)]
    return float(sum(known)) if known else None


def is_in_use(path: Path) -> bool:
    """Whether some process works in a run folder at this moment, as far as this machine's file system says."""
    try:
        return RunDir(path).is_in_use()
    except (OSError, DataError):
        return False
