"""A run as one watches it: what its folder said up to now, kept up with by reading only what was appended.

A run's state and its total of steps are decided in `run_state.py`. Where a state "running" may be what a killed process left behind
(another machine's), the age of the newest file says how long there was no news; a step, an evaluation or a compilation may take minutes,
so silence is told and not judged. Speed and time left are means over the last RECENT steps, so the minute of a compilation is in them
until then.

Everything a line of the table shows is in `row()`, in JSON's types; a figure that is not known is None. No JAX.
"""

import math
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsrun.errors import DataError
from dsrun.record.event_tail import EventTail
from dsrun.record.events import number
from dsrun.record.run_dir import RunDir
from dsrun.study.run_state import state_of, total_steps

RECENT = 50  # steps
QUIET_SECONDS = 300.0  # without news before it is worth telling
SLOW_STEPS = 20  # or so many steps, whichever is longer
_LOG_TAIL = 2**16  # bytes
_SAMPLE = re.compile(r"    said: (.*)\n    read: (.*)")


class WatchedRun:
    """A run folder that is looked at again and again.

    Args:
        path: a run folder.
        config: of its config.yaml, by dotted key; empty where it could not be read.
        name: what it is called where it is shown; the folder's name if not given.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, name: str = ""):
        self.run, self.config, self.name = RunDir(path), config, name or path.name
        self._config_facts = _facts(self.run.config)
        self._tail = EventTail(self.run.events)
        self.status: dict[str, Any] = {}
        self.state = "new"  # new, running, killed, stopped, failed, diverged or done
        self._bad_lines: list[str] = []
        self._bad_status: list[str] = []  # which the next look may not find any more
        self.total_steps: int | None = None
        self._forget()

    def is_of_this_config(self) -> bool:
        """Whether the folder still holds the config it had at first; not if it was overwritten by another run."""
        return self._config_facts == _facts(self.run.config)

    def look(self) -> None:
        """Read what is new."""
        is_anew = False
        for found in self._tail.parts():
            if found.is_anew:
                is_anew = True
                self._forget()
            for record in found.records:
                self._take(record)
            self._bad_lines += found.problems
        self._bad_status = []
        try:
            self.status = self.run.read_status()
        except (DataError, OSError) as error:
            self._bad_status = [str(error)]
        self.state = state_of(self.run, self.status)
        if self.total_steps is None or is_anew:
            self.total_steps = total_steps(self.run, self.config)

    def _forget(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []  # NaN for what was not finite
        self.evaluations: list[dict[str, Any]] = []
        self.last: dict[str, Any] = {}  # step event
        self.swallowed_share: float | None = None
        self.skipped = 0
        self._bad_lines.clear()
        self.notes: list[str] = []  # of events that are worth a warning
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)  # seconds, utterances

    def _take(self, record: dict[str, Any]) -> None:
        kind = record["event"]
        if kind == "step":
            self._take_step(record)
        elif kind == "eval":  # training scores the dev set alone
            self.evaluations.append(record)
        elif kind == "watch":
            self.swallowed_share = number(record.get("swallowed_share"))
        elif kind == "environment":
            changed = ", ".join(map(str, _items(record.get("changed"))))
            self.notes.append(f"step {record['step']}: went on under other circumstances ({changed})")
        elif kind == "unreadable":
            self.notes.append(f"step {record['step']}: {len(_items(record.get('utterances')))} utterances left out")

    def _take_step(self, record: dict[str, Any]) -> None:
        loss, seconds = number(record.get("loss")), number(record.get("seconds"))
        self.steps.append(record["step"])
        self.losses.append(math.nan if loss is None else loss)
        if record.get("finite") is False:
            self.skipped += 1
        if seconds is not None:
            self._recent.append((seconds, number(record.get("utterances")) or 0.0))
        self.last = record

    @property
    def problems(self) -> list[str]:
        """Messages about lines and files that could not be read as they should."""
        return self._bad_lines + self._bad_status

    @property
    def step(self) -> int:
        """The last step there is a record of; of a run that logs seldom, its status may know a later one."""
        said = self.status.get("step", 0)
        return max(self.steps[-1] if self.steps else 0, said if isinstance(said, int) else 0)

    @property
    def seconds_a_step(self) -> float | None:
        """Mean over the recent steps."""
        return sum(seconds for seconds, _ in self._recent) / len(self._recent) if self._recent else None

    @property
    def utterances_a_second(self) -> float | None:
        """Mean over the recent steps."""
        seconds = sum(seconds for seconds, _ in self._recent)
        return sum(utterances for _, utterances in self._recent) / seconds if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """At the recent speed, without the evaluations to come; None for what does not run."""
        if self.state != "running" or self.total_steps is None or self.seconds_a_step is None:
            return None
        return max(self.total_steps - self.step, 0) * self.seconds_a_step

    @property
    def dev_cer(self) -> tuple[list[int], list[float]]:
        """The evaluations' steps and rates; NaN for one without."""
        rates = [number(found.get("cer")) for found in self.evaluations]
        return [found["step"] for found in self.evaluations], [math.nan if r is None else r for r in rates]

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the lowest CER, the first of equals."""
        known = [found for found in self.evaluations if number(found.get("cer")) is not None]
        return min(known, key=lambda found: found["cer"], default=None)

    def quiet_seconds(self, now: float | None = None) -> float | None:
        """How long nothing was written, if that is longer than usual in a run that claims to be running."""
        if self.status.get("state") != "running":
            return None
        age = (time.time() if now is None else now) - self.newest
        return age if age > max(QUIET_SECONDS, SLOW_STEPS * (self.seconds_a_step or 0.0)) else None

    @property
    def newest(self) -> float:
        """When something was last written, in seconds since 1970."""
        times = [0.0]
        for path in (self.run.events, self.run.log, self.run.status):
            try:
                times.append(path.stat().st_mtime)
            except OSError:
                continue
        return max(times)

    def note(self, now: float | None = None) -> str:
        """The one thing to know besides the figures: silence, a reason, circumstances that changed."""
        quiet = self.quiet_seconds(now)
        if quiet is not None:
            gone = "; its process is gone, the same command goes on" if self.state == "killed" else ""
            return f"no news for {_span(quiet)}{gone}"
        if self.state == "killed":
            return "its process is gone; the same command goes on"
        reason = str(self.status.get("reason") or "")
        if self.state in ("stopped", "failed", "diverged"):
            return reason or f"exit code {self.status.get('exit_code')}"
        early = "no step yet: it loads the data and compiles" if self.state == "running" and not self.step else ""
        return (self.problems[-1:] or self.notes[-1:] or [early])[0]

    def row(self, now: float | None = None) -> dict[str, Any]:
        """Everything a line shows."""
        newest = self.evaluations[-1] if self.evaluations else {}
        epoch = self.last.get("epoch")
        return {
            "run": str(self.run.path),
            "state": self.state,
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": epoch + 1 if isinstance(epoch, int) else None,
            "epochs": self.config.get("training.epochs"),
            "loss": number(self.last.get("loss")),
            "dev_cer": number(newest.get("cer")),
            "best_dev_cer": self.best["cer"] if self.best else None,
            "utterances_a_second": self.utterances_a_second,
            "seconds_left": self.seconds_left,
            "loss_scale": number(self.last.get("loss_scale")),
            "skipped": self.skipped,
            "swallowed_share": self.swallowed_share,
            "note": self.note(now),
        }

    def log_lines(self) -> tuple[str, list[str]]:
        """The newest sample of an evaluation ("said", "read") and the log's last warnings, from the end of log.txt."""
        text = _end_of(self.run.log)
        samples = _SAMPLE.findall(text)
        said = "said: {}\nread: {}".format(*samples[-1]) if samples else ""
        return said, [line for line in text.splitlines() if "warning" in line.lower() or "  note: " in line]


def _facts(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _end_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _LOG_TAIL, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _items(value: Any) -> list[Any]:
    """Of a list or a dictionary; a file may hold anything."""
    return list(value) if isinstance(value, list | dict) else []


def _span(seconds: float) -> str:
    """Minutes, hours from two hours on, days from two days on."""
    for unit, name in ((86400, "days"), (3600, "hours")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 60:.0f} minutes"
