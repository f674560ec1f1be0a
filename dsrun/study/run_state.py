"""What is decided of a run from its folder, once for all who tell of it: its state, its total of steps, its result on test. No JAX.

A state is what `status.json` says, with two additions:

* "running" stays behind a process that was killed, and no status at all behind one that was killed before the first. Where the process
  that took the lock was of this machine and nobody holds it now, the run is "killed": the command that started it goes on. Of another
  machine's run that cannot be known from here, unless it shares the file system and its locks.
* "failed" with the exit code of numbers that were not finite is "diverged": a result, and the same bits would come again.

How many steps a run will have is said by `costs.json`, and of a run of before there was such a file by its log. Nobody guesses it from
the steps of the first epoch: with `training.log_every_steps` those that are known are not all there were.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsrun.errors import DataError, DivergedError
from dsrun.record.events import LARGEST_COUNT
from dsrun.record.provenance import read_provenance
from dsrun.record.run_dir import RunDir

ENDED = ("done", "stopped", "failed", "diverged", "killed")
_LOG_HEAD = 2**16  # bytes
_TOTAL = re.compile(r" (\d+) steps an epoch, (\d+) in all")


def state_of(run: RunDir, status: Mapping[str, Any]) -> str:
    """new, running, done, stopped, failed; killed or diverged where the status does not say it in so many words.

    Args:
        status: what the folder's status.json said.
    """
    state = told_state(status)
    if state not in ("new", "running") or not run.is_abandoned():
        return state
    try:
        # It may have ended in order between the reading of its status and the look at its lock.
        now = told_state(run.read_status())
    except (DataError, OSError):
        return state
    return "killed" if now in ("new", "running") else now


def told_state(status: Mapping[str, Any]) -> str:
    """The same of a status alone, without a look at the folder: what was killed says "running" or, of a record, "killed"."""
    state = str(status.get("state", "new"))
    return "diverged" if state == "failed" and status.get("exit_code") == DivergedError.exit_code else state


def total_steps(run: RunDir, config: Mapping[str, Any]) -> int | None:
    """Of all epochs; None where neither costs.json nor the log says it.

    Args:
        config: by dotted key.
    """
    try:
        an_epoch = read_provenance(run.costs).get("steps_per_epoch") if run.costs.is_file() else None
    except DataError:
        an_epoch = None
    epochs = config.get("training.epochs")
    if isinstance(an_epoch, int) and isinstance(epochs, int) and _is_count(an_epoch) and _is_count(epochs):
        return an_epoch * epochs
    return _total_in_log(run.log)


def result_on_test(test: Any, status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result of the best checkpoint on the test set, {} if there is none: without a test set status.json has one of dev.

    Args:
        test: the config's `data.test`.
    """
    result = status.get("result")
    return result if test and isinstance(result, Mapping) else {}


def _is_count(value: int) -> bool:
    return type(value) is int and 0 < value <= LARGEST_COUNT


def _total_in_log(log: Path) -> int | None:
    try:
        with open(log, "rb") as file:  # the line stands at the beginning, and again after each resume
            match = _TOTAL.search(file.read(_LOG_HEAD).decode(errors="replace"))
    except OSError:
        return None
    return int(match[2]) if match and len(match[2]) < 20 else None
