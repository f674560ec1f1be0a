"""The run folder: one experiment's files, found again by what it computes.

A folder is named by its config's stem and six hex digits of the resolved config's hash, not by the clock, so the same command
finds it again after a requeue. What the folder is decides what the command may do:

| state | what is there | a plain `train` |
|---|---|---|
| new | nothing | starts |
| incomplete | the same config; not finished | resumes |
| complete | the same config; finished | is refused, and told the choices |
| differs | another config | is refused, and shown the difference |

A folder may come from a stranger. Whatever would lead a writer out of it, a symbolic link above all, is refused before anything is
written, and its compiled programs (code) are not run (`compiled.py`). Against somebody who changes the folder meanwhile nothing is
promised.

What a report reads is here too, so that it can be made where there is neither the data nor a network (`study`):

| file | what it holds |
|---|---|
| `config.yaml`, `provenance.json`, `status.json` | what was asked, under which circumstances, and how it went |
| `events.jsonl`, `tensor_hashes.bin`, `magnitudes/` | each step's figures, the bits of the state, what watched steps had |
| `costs.json` | bytes by role, operations of an epoch, batch shapes: counted, the same on any machine |
| `evaluation/<manifest>.jsonl` | each utterance's result of the best checkpoint: of dev as soon as a best is found, of test at the end |
| `evaluation/posteriors.npz` | features and class probabilities of the final scoring's best, median and worst utterance |

One process at a time works in a folder: it holds a lock (`flock` on `.lock`) that the kernel drops when the process ends, however
it ends. The time and host of a run are in `status.json`, `.lock` and the logs only; the other files are the same bytes for the same run.
"""

import difflib
import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dsrun.errors import DataError, UsageError
from dsrun.record.durable import FULL, LineFile, cannot_write, require_own, write_atomically
from dsrun.record.events import is_step

State = Literal["new", "incomplete", "complete", "differs"]
Mode = Literal["automatic", "resume", "overwrite"]

# What dsrun writes, in the order in which --overwrite removes it. Killed on the way, the folder is no longer complete (status),
# and to the last still a run folder of the old config.
CONTENTS = (
    "status.json",
    "checkpoints",
    "events.jsonl",
    "tensor_hashes.bin",
    "tensor_hashes.json",
    "log.txt",
    "magnitudes",
    "evaluation",
    "report",
    "export",
    "compiled",
    "autotune.textproto",
    ".autotune.textproto",
    "parameters.txt",
    "costs.json",
    "recordings.sha256",
    "provenance.json",
    "command.txt",
    "config.yaml",
)


_TO_LOOK = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
)  # a folder may come from a stranger, with a link or a pipe under the name
LOCK_ATTEMPTS, LOCK_PAUSE_SECONDS = 3, 0.02
_HOLDER = re.compile(r"process (\d{1,18}) on host (\S+)")  # as `_take_lock` writes it


class RunDir:
    """Paths in a run folder, its state, its lock and its status. Making one touches nothing on disk."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.command = self.path / "command.txt"
        self.provenance = self.path / "provenance.json"
        self.recordings = self.path / "recordings.sha256"
        self.parameters = self.path / "parameters.txt"
        self.costs = self.path / "costs.json"
        self.status = self.path / "status.json"
        self.log = self.path / "log.txt"
        self.events = self.path / "events.jsonl"
        self.tensor_hashes = self.path / "tensor_hashes.bin"  # beside it tensor_hashes.json
        self.checkpoints = self.path / "checkpoints"
        self.magnitudes = self.path / "magnitudes"
        self.evaluation = self.path / "evaluation"
        self.report = self.path / "report"
        self.export = self.path / "export"
        self.compiled = self.path / "compiled"
        self.lasting: dict[str, Any] = {}  # facts that every status gets
        self._lock = self.path / ".lock"
        self._lock_descriptor: int | None = None
        self._was_there = self._was_new = False  # when `open` came: the folder; no run in it

    def state(self, config_text: str) -> State:
        """What the folder is to a run with this config.

        Raises:
            UsageError: there is something else at this path; dsrun neither adds to it nor removes it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: a file, not a run folder. Choose another --run-dir.")
        if not self.config.exists():
            self._require_no_strangers()
            return "new"
        if self.config.read_bytes() != config_text.encode():
            return "differs"
        return "complete" if self.read_status().get("state") == "done" else "incomplete"

    def require_own_contents(self) -> None:
        """Raises UsageError if a name that dsrun writes to leads out of the folder."""
        for name in (*CONTENTS, ".lock"):
            require_own(self.path / name)

    def open(self, config_text: str, *, command: Sequence[str], mode: Mode = "automatic") -> State:
        """Take the lock and make the folder ready to train in.

        Args:
            config_text: what `config.yaml` shall hold.
            command: as typed; a line of `command.txt`.
            mode: "automatic" starts or resumes, "resume" only resumes, "overwrite" removes what is there and starts.

        Returns:
            "new" or "incomplete": start, or go on from the last checkpoint if there is one.

        Raises:
            UsageError: the folder is in use, complete, of another config, not a run folder, not to be written in, has links that lead
                out of it, or there is nothing to resume.
        """
        if self.path.is_dir():
            self.require_own_contents()
        state = self.state(config_text)
        if state == "new" and mode == "resume":
            raise UsageError(f"{self.path}: nothing to resume. Leave --resume out to start.")
        self._was_there = self.path.is_dir()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            self.close()
            if error.errno in FULL:
                raise cannot_write(self.path, error) from error
            raise UsageError(
                f"{self.path}: dsrun cannot write there ({error.strerror}). Choose another --run-dir, or have the rights changed."
            ) from error
        try:
            state = self._settle(config_text, mode)
            self._note_command(command)
        except BaseException:
            self.close()
            raise
        return state

    def is_in_use(self) -> bool:
        """Whether another process holds the lock."""
        return self._look_at_lock() == "held"

    def is_abandoned(self) -> bool:
        """Whether the last process that worked in the folder was of this machine and is gone; False where that cannot be known.

        The lock tells it, which the kernel drops with the process. A process id is asked for only where the file system has no
        locks: in a container everybody is process 1, and after a restart process 1 is there again.
        """
        holder = _HOLDER.match(self._said_in_lock())
        if not holder or holder[2] != socket.gethostname():
            return False
        found = self._look_at_lock()
        return found == "free" or (found == "no locks here" and not _is_alive(int(holder[1])))

    def _said_in_lock(self) -> str:
        try:
            descriptor = os.open(self._lock, _TO_LOOK)
        except OSError:
            return ""
        try:
            return os.read(descriptor, 1000).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(descriptor)

    def _look_at_lock(self) -> Literal["held", "free", "no locks here"]:
        try:
            descriptor = os.open(self._lock, _TO_LOOK)
        except OSError:
            return "free"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return "held" if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else "no locks here"
        finally:
            os.close(descriptor)
        return "free"

    def forget(self) -> None:
        """Undo `open`, while the lock is held: what dsrun wrote into a folder that held no run before, and the folder if it was not there.

        A folder in which a run was found, or was removed by "overwrite", is left as it is.
        """
        if not self._was_new or self._lock_descriptor is None:
            return
        with suppress(OSError):  # what cannot be removed stays, and the error that led here is the one to tell
            self._remove_contents()
            self._lock.unlink()
            if not self._was_there:
                self.path.rmdir()  # only if it is empty

    def close(self) -> None:
        """Give the lock back."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write_status(self, state: Literal["running", "done", "stopped", "failed"], *, step: int, **facts: Any) -> None:
        """Replace `status.json` atomically.

        Args:
            state: "running" stays behind a killed process; "stopped" is an orderly stop by a signal.
            step: updates made.
            facts: more of JSON's values, e.g. exit_code.
        """
        status = (
            {"state": state, "step": step}
            | self.lasting
            | facts
            | {"updated": datetime.now(UTC).isoformat(timespec="seconds")}
        )
        write_atomically(self.status, json.dumps(status, indent=2) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The last status; empty if there is none.

        Raises:
            DataError: the file was damaged.
        """
        try:
            status = json.loads(self.status.read_bytes())
            if not isinstance(status, dict) or not is_step(status.get("step", 0)):
                raise ValueError("no object with a step")
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.status}: not JSON as dsrun writes it ({error}). Remove the file: the run then counts as incomplete."
            ) from error
        return status

    def _settle(self, config_text: str, mode: Mode) -> State:
        state = self.state(config_text)  # again, now that nobody else changes it
        if state == "complete" and mode != "overwrite":
            raise UsageError(self._complete_text())
        if state == "differs" and mode != "overwrite":
            raise UsageError(self._differs_text(config_text))
        self._was_new = state == "new"
        if mode == "overwrite":
            self._remove_contents()
            state = "new"
        if state == "new":
            write_atomically(self.config, config_text)
        return state

    def _note_command(self, command: Sequence[str]) -> None:
        commands = LineFile(self.command)
        try:
            commands.append(shlex.join(command))
        finally:
            commands.close()

    def _take_lock(self) -> None:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _lock_now(descriptor)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "a process that just started"
                os.close(descriptor)
                raise UsageError(
                    f"{self.path}: in use by {holder}. Wait for it, stop it, or choose another --run-dir."
                ) from error
            warnings.warn(
                f"{self._lock}: this file system has no locks ({error.strerror}): see to it that only one process trains here.",
                stacklevel=3,
            )
        if os.fstat(descriptor).st_nlink == 0:  # its holder was refused just now, and removed it with the folder
            os.close(descriptor)
            raise UsageError(f"{self.path}: in use by another command a moment ago. Run this one again.")
        self._lock_descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on host {socket.gethostname()}\n".encode())

    def _require_no_strangers(self) -> None:
        if not self.path.exists():
            return
        # A start that was killed before it wrote the config leaves these two. Checkpoints without a config are no new folder:
        # someone may want them.
        remains = {".lock", ".config.yaml.part"}
        strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in remains)
        if strangers:
            raise UsageError(
                f"{self.path}: holds {strangers[0]!r} and no config.yaml, so it is not a run folder; nothing there was touched. "
                "Choose another --run-dir."
            )

    def _remove_contents(self) -> None:
        for name in CONTENTS:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _complete_text(self) -> str:
        return (
            f"{self.path}: complete (step {self.read_status().get('step')}). Choose one:\n"
            f"  dsrun eval {shlex.quote(str(self.path))}   score it\n"
            "  --overwrite   remove it and train anew\n"
            "  --run-dir DIR   train beside it"
        )

    def _differs_text(self, config_text: str) -> str:
        there = self.config.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = difflib.unified_diff(
            there, config_text.splitlines(), str(self.config), "this command", lineterm="", n=0
        )
        return (
            f"{self.path}: holds a run of another config:\n"
            + "\n".join(lines)
            + "\nChoose another --run-dir, or --overwrite to remove the run that is there."
        )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 asks whether there is such a process
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is somebody else's, or the number is none
        return True
    return True


def _lock_now(descriptor: int) -> None:
    """Take a lock without waiting for a holder; one who only looks (`is_in_use`) holds it for microseconds."""
    for _ in range(LOCK_ATTEMPTS - 1):
        with suppress(OSError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(LOCK_PAUSE_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
