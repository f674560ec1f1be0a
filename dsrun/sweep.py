"""Training the runs of a sweep: one process each, so many side by side, until all are over.

Each run is `dsrun train` of its resolved config, written beside the run folder, so that what is trained is what was checked even if the
sweep file is edited meanwhile; it is the same run, in the same folder, as `dsrun sweep FILE --index N` makes in its own process. What it
says goes to `RUN.log`, beside the run folder and not into it.

    runs/formats/float16-seed=2-0a392a/         the run folder
    runs/formats/float16-seed=2-0a392a.yaml     its config, as checked
    runs/formats/float16-seed=2-0a392a.log      what its processes said

A run that fails does not stop the others, and neither does one that cannot be started. One whose folder is locked by another process
(another sweep of the same file, on this machine or on one that shares the file system) is left to it and looked at again at the end, and
one that is over by now is not begun: that is how several machines share a list.

Signals go to the runs, which write their checkpoints; the sweep waits for them and leaves with 75, or 130 for Ctrl-C. The runs
have process groups of their own, so that Ctrl-C at a terminal reaches them once, by way of the sweep; a second one would make them
leave without a checkpoint. If the sweep itself is killed, they end too (`sweep_child.py`).
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from dsrun.errors import EXIT_INTERRUPTED, EXIT_STOPPED, DataError, DivergedError, UsageError
from dsrun.record import write_atomically
from dsrun.sweep_file import Sweep, Variation
from dsrun.sweep_state import RunState, is_in_use, state_of
from dsrun.training.stop import Stopped, StopRequest

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 30.0  # for the runs of a killed sweep, which are writing their checkpoints
LAST_LINES = 6  # of what a failed run said

_BEGINNINGS = {"begun": "goes on", "failed": "is tried again", "diverged": "is tried again"}
How = Literal["done", "diverged", "failed", "stopped", "in use", "left"]
# What a run that was told to stop leaves with; below zero: by a signal before it listened to any.
_STOPPED = (EXIT_STOPPED, EXIT_INTERRUPTED, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1)


@dataclass(frozen=True)
class Task:
    """One run of the sweep and its folder."""

    variation: Variation
    run: Path

    @property
    def config(self) -> Path:
        """Its resolved config, beside the run folder."""
        return self.run.with_name(f"{self.run.name}.yaml")

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.run.with_name(f"{self.run.name}.log")


@dataclass(frozen=True)
class Slot:
    """What a run gets of this machine.

    Attributes:
        devices: for `--devices`; None leaves it to `dsrun train`.
        gpus: for CUDA_VISIBLE_DEVICES; None leaves the environment as it is.
    """

    devices: int | None = None
    gpus: str | None = None


@dataclass(frozen=True)
class Ending:
    """How a run is when the sweep ends."""

    task: Task
    how: How
    state: RunState
    exit_code: int = 0
    seconds: float = 0.0
    """That its process ran, in this sweep."""
    was_trained: bool = False


class Process(Protocol):
    """What the sweep needs of `subprocess.Popen`."""

    def poll(self) -> int | None:
        """The exit code, or None."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal."""

    def kill(self) -> None:
        """End it now."""


Start = Callable[[Task, Slot], Process]


def start_process(task: Task, slot: Slot, *, sweep: Sweep, accept_changes: bool = False) -> subprocess.Popen[bytes]:
    """Start `dsrun train` of a run, its output appended to its log."""
    index, name = task.variation.index, task.variation.name
    task.run.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(task.config, f"# {name}: run {index} of {sweep.path}, resolved.\n{task.variation.yaml}")
    words = ["train", "--config", str(task.config), "--run-dir", str(task.run)]
    if slot.devices is not None:
        words += ["--devices", str(min(slot.devices, task.variation.resolved.config.batches.shards))]
    words += ["--accept-changes"] if accept_changes else []
    environment = dict(os.environ) | ({} if slot.gpus is None else {"CUDA_VISIBLE_DEVICES": slot.gpus})
    with task.log.open("a", encoding="utf-8") as log:
        log.write(f"# {datetime.now().isoformat(timespec='seconds')} dsrun {shlex.join(words)}\n")
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "dsrun.sweep_child", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )


@dataclass
class _Running:
    task: Task
    slot: Slot
    process: Process
    began: float
    log_size: int
    is_fresh: bool


@dataclass
class Trainer:
    """Trains tasks until all are over, or a signal comes.

    Attributes:
        slots: one for each run that may be trained at the same time.
        say: shows a line of progress.
        typical_seconds: of a run, where one is known from before.
    """

    tasks: Sequence[Task]
    slots: Sequence[Slot]
    start: Start
    stop: StopRequest
    say: Callable[[str, How | None], None]
    retries_diverged: bool = False
    typical_seconds: float | None = None
    patience_seconds: float = PATIENCE_SECONDS
    _endings: dict[int, Ending] = field(default_factory=dict)
    _running: list[_Running] = field(default_factory=list)
    _waiting: "deque[Task]" = field(default_factory=deque)
    _in_use: list[Task] = field(default_factory=list)

    def run(self) -> list[Ending]:
        """Train; endings in the order of tasks.

        Raises:
            Stopped: by a second Ctrl-C; the runs were killed.
        """
        for task in self.tasks:
            if not self._leave_alone(task, state_of(task.variation, task.run), "already"):
                self._waiting.append(task)
        self.stop.before_leaving = lambda code: self._kill()
        try:
            self._train_waiting()
            self._look_again()
        except Stopped:
            self._kill()
            raise
        for task in [*self._waiting, *self._in_use]:
            how: How = "in use" if task in self._in_use and not self.stop.exit_code else "left"
            self._endings[task.variation.index] = Ending(task, how, state_of(task.variation, task.run))
        return [self._endings[task.variation.index] for task in self.tasks]

    def _train_waiting(self) -> None:
        is_told = False
        while self._running or (self._waiting and not self.stop.exit_code):
            if self.stop.exit_code and not is_told:
                is_told = True
                self._tell()
            free = [slot for slot in self.slots if all(slot is not running.slot for running in self._running)]
            while free and self._waiting and not self.stop.exit_code:
                slot = free.pop(0)
                if not self._begin(self._waiting.popleft(), slot):
                    free.insert(0, slot)
            for running in list(self._running):
                code = running.process.poll()
                if code is not None:
                    self._running.remove(running)
                    self._ended(running, code)
            if self._running:
                time.sleep(POLL_SECONDS)

    def _look_again(self) -> None:
        """At runs that another process had, once the others are over: it may have ended, or stopped without finishing.

        What is trained here meanwhile may take hours, so there is a look after it, whatever patience says.
        """
        deadline = time.monotonic() + self.patience_seconds
        while self._in_use and not self.stop.exit_code:
            self._waiting.extend(task for task in self._in_use if not is_in_use(task.run))
            self._in_use = [task for task in self._in_use if task not in self._waiting]
            if self._waiting:
                self._train_waiting()
            elif time.monotonic() >= deadline:
                break
            else:
                time.sleep(POLL_SECONDS)

    def _begin(self, task: Task, slot: Slot) -> bool:
        """Whether the slot is taken now."""
        if is_in_use(task.run):
            self._in_use.append(task)
            self.say(f"{self._name(task)}: in use by another process, left to it", "in use")
            return False
        state = state_of(task.variation, task.run)
        if self._leave_alone(task, state, "by another process"):
            return False
        try:
            size = task.log.stat().st_size if task.log.exists() else 0
            process = self.start(task, slot)
        except (OSError, DataError) as error:
            self._end(task, "failed", state, exit_code=DataError.exit_code)
            self.say(_indented(f"could not be started: {error}"), None)
            return False
        self._running.append(_Running(task, slot, process, time.monotonic(), size, is_fresh=state.kind == "new"))
        where = f" on GPU {slot.gpus}" if slot.gpus else ""
        self.say(f"{self._name(task)}: {_beginning(task, state)} {self._position()}{where}", None)
        return True

    def _leave_alone(self, task: Task, state: RunState, note: str) -> bool:
        """Whether nothing is left to train there, and if so that is the end of it."""
        if state.kind == "done":
            self._end(task, "done", state, note=note)
        elif state.kind == "diverged" and not self.retries_diverged:
            self._end(task, "diverged", state, note=note)
        else:
            return False
        return True

    def _ended(self, running: _Running, code: int) -> None:
        task, seconds = running.task, time.monotonic() - running.began
        state = state_of(task.variation, task.run)
        if code == 0:
            how: How = "done"
        elif code == DivergedError.exit_code:
            how = "diverged"
        elif code in _STOPPED[:2] or (self.stop.exit_code and code in _STOPPED):
            how = "stopped"
        elif code == UsageError.exit_code and self._leave_alone(task, state, "by another process"):
            return  # refused: it was finished there a moment before
        elif is_in_use(task.run):
            self._in_use.append(task)
            self.say(f"{self._name(task)}: in use by another process, left to it", "in use")
            return
        else:
            how = "failed"
        self._end(task, how, state, exit_code=code if code >= 0 else 128 - code, seconds=seconds, was_trained=True)
        if how == "failed":
            self.say(_indented(_last_lines(task.log, running.log_size)), None)

    def _end(
        self,
        task: Task,
        how: How,
        state: RunState,
        *,
        exit_code: int | None = None,
        seconds: float = 0.0,
        was_trained: bool = False,
        note: str = "",
    ) -> None:
        code = {"diverged": DivergedError.exit_code}.get(how, 0) if exit_code is None else exit_code
        self._endings[task.variation.index] = Ending(task, how, state, code, seconds, was_trained)
        stopped = f"stopped {state}" if state.step else "stopped before its first step, so nothing is kept"
        parts = [f"{how} {note}".strip() if how != "stopped" else stopped]
        parts += [f"exit code {code}"] if how == "failed" else []
        parts += [f"dev CER {state.dev_cer:.4f}"] if state.dev_cer is not None else []
        parts += [f"{seconds / 60:.1f} min"] if was_trained else []
        parts += [state.note] if state.note else []
        self.say(f"{self._name(task)}: {', '.join(parts)}{self._remaining(was_trained)}", how)

    def _position(self) -> str:
        begun = len(self._endings) + len(self._running) + len(self._in_use)
        return f"({begun} of {len(self.tasks)})"

    def _remaining(self, was_trained: bool) -> str:
        """How many are left and for how long, from those that this sweep trained, else from before."""
        left = len(self._waiting) + len(self._running)
        if not was_trained or not left or self.stop.exit_code:
            return ""
        known = [ending.seconds for ending in self._endings.values() if ending.was_trained and ending.how == "done"]
        typical = sum(known) / len(known) if known else self.typical_seconds
        if typical is None:
            return f"; {left} left"
        elapsed = sum(min(typical, time.monotonic() - running.began) for running in self._running)
        minutes = max(1, round((left * typical - elapsed) / len(self.slots) / 60))
        return f"; {left} left, about {minutes} min"

    def _name(self, task: Task) -> str:
        width = len(str(max(other.variation.index for other in self.tasks)))
        return f"[{task.variation.index:>{width}}] {task.variation.name}"

    def _tell(self) -> None:
        """Hand the signal on; an orderly end is theirs."""
        number = signal.SIGINT if self.stop.exit_code == EXIT_INTERRUPTED else signal.SIGTERM
        if self._running:
            tasks = [running.task for running in self._running]
            early = sum(not state_of(task.variation, task.run).step for task in tasks)
            waits = [f"waiting for {len(tasks) - early} to write a checkpoint"] if early < len(tasks) else []
            waits += [f"{early} before the first step, with nothing to keep"] if early else []
            self.say(f"stopping: {'; '.join(waits)}", "stopped")
        for running in self._running:
            with suppress(ProcessLookupError):
                running.process.send_signal(number)

    def _kill(self) -> None:
        for running in self._running:
            with suppress(ProcessLookupError):
                running.process.kill()


def exit_code_of(endings: Sequence[Ending], stop_code: int) -> int:
    """0 all done; the highest code of those that failed or diverged; 75 where some were left or are in use."""
    if stop_code:
        return stop_code
    failed = [ending.exit_code for ending in endings if ending.how in ("failed", "diverged")]
    if failed:
        return max(failed)
    return EXIT_STOPPED if any(ending.how in ("stopped", "in use", "left") for ending in endings) else 0


def _beginning(task: Task, state: RunState) -> str:
    """How a run is begun, from what it has left."""
    if state.kind not in _BEGINNINGS:
        return "starts"
    folder = task.run / "checkpoints"
    is_kept = folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    return f"{_BEGINNINGS[state.kind]} from {'its last checkpoint' if is_kept else 'its beginning, as it has no checkpoint'}"


def typical_seconds(states: Sequence[RunState]) -> float | None:
    """Mean seconds of training steps of the runs that are done; start, compilation of other programs and scoring come on top."""
    known = [state.seconds for state in states if state.seconds is not None]
    return sum(known) / len(known) if known else None


def _last_lines(log: Path, size_before: int) -> str:
    """The end of what a process said."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(size_before, log.stat().st_size - 20_000))
        lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(line for line in lines[-LAST_LINES:] if not line.startswith("# "))
    return ""


def _indented(text: str) -> str:
    return "\n".join(f"    {line[:300]}" for line in text.splitlines())


def shared_slots(jobs: int, *, cores: int, devices: int | None, gpus: Mapping[int, str] | None = None) -> list[Slot]:
    """A slot for each of so many runs side by side: its share of the GPUs, or of the cores where there are several runs."""
    if gpus is not None:
        return [Slot(devices, gpus[index]) for index in range(jobs)]
    if jobs == 1:
        return [Slot(devices)]
    return [Slot(devices or max(1, cores // jobs)) for _ in range(jobs)]
