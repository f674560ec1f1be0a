"""Running parts: one process at a time, its stdout kept whole or not at all, time left told, and a failure noted and passed by.

FOLDER/settings.json     what the folder was begun with; another size or other data are refused
FOLDER/<part>/<step>.json    what a step said; its log beside it
FOLDER/parts.json        state of each part that has begun: done or failed, minutes, the commit of each step, and of a failure the reason

A signal is passed on to the step's process group, which may write a checkpoint; the same command goes on.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from dsrun.record.provenance import git_state
from scripts.talk.claims import MissingError
from scripts.talk.foreign import printable
from scripts.talk.parts import REPOSITORY, Part, Settings, Step, write_tiny_data

TELL_EVERY = 30.0  # seconds
GRACE = 300.0  # for a stopped step to write its checkpoint
MOST_WORDS = 300  # of a reason
PLAN = 0.03  # of a part: what the plan weighs beside what is seen
OVERDUE = 0.25  # of the time that a part took so far
# What these say changes bits, and dsrun refuses what it does not know.
OWN_VARIABLES = ("XLA_FLAGS", "NPROC", "PJRT_NPROC")


class UsageError(Exception):
    """A mistake in how the script was called; one message, exit code 2."""


class StoppedError(Exception):
    """A signal; carries the exit code."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def begin(settings: Settings) -> None:
    """Make the folder, or see that it was begun with the same settings.

    Raises:
        UsageError: it was not, or it cannot be written.
    """
    path = settings.folder / "settings.json"
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            there = json.loads(path.read_text(encoding="utf-8"))
            if there != settings.to_json():
                raise UsageError(
                    f"{settings.folder} was begun with {there}, and this is {settings.to_json()}: give another --folder, or the same "
                    "options."
                )
        elif any(settings.folder.iterdir()):
            raise UsageError(f"{settings.folder}: not empty, and not begun by this script. Give another --folder.")
        else:
            write_json(path, settings.to_json())
        if settings.is_tiny:
            write_tiny_data(settings.folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"{settings.folder}: {error}. Give another --folder.") from None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While it lasts no other process runs parts in the folder; a report can be made meanwhile.

    Raises:
        UsageError: another one does.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process is running parts there. Wait for it, or look meanwhile with --only report."
            ) from None
        yield


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all; a lone surrogate, which no encoding has, as its escape."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(aside, path)


def read_state(folder: Path) -> dict[str, Any]:
    """FOLDER/parts.json, {} if there is none yet or it is damaged: it decides nothing that cannot be done again."""
    try:
        found = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    parts = (
        {str(name): facts for name, facts in found.items() if isinstance(facts, dict)}
        if isinstance(found, dict)
        else {}
    )
    return {name: facts | {"minutes": _minutes(facts.get("minutes"))} for name, facts in parts.items()}


def _minutes(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else 0.0


class Running:
    """Parts of a folder, one after the other."""

    def __init__(self, settings: Settings, parts: Mapping[str, Part], chosen: Sequence[str]):
        self.settings, self.parts, self.chosen = settings, parts, chosen
        self.state = read_state(settings.folder)
        self.stopped: int | None = None
        self.before: dict[str, float] = {}  # share of a part that was done when this process came to it

    @cached_property
    def commit(self) -> str:
        """Of dsrun as it is now, `+` behind it where its files differ from that commit."""
        found = git_state(REPOSITORY / "dsrun")
        return str(found["commit"])[:7] + ("+" if found["changes_sha256"] else "") if found else "not under git"

    def run(self) -> list[str]:
        """Every chosen part; returns the names of those that failed.

        Raises:
            StoppedError: a signal came; everything that was done is kept.
        """
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            for number, name in enumerate(self.chosen, start=1):
                self._run_part(number, self.parts[name])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return [name for name in self.chosen if self.state.get(name, {}).get("state") == "failed"]

    def _stop(self, number: int, frame: Any) -> None:
        self.stopped = 130 if number == signal.SIGINT else 75

    def _run_part(self, number: int, part: Part) -> None:
        left = [step for step in part.steps if not self.output(part, step).is_file()]
        if not left:
            if part.steps:
                self._note(part, state="done")
            say(f"{part.name}: {f'done before{self._elsewhen(part)}' if part.steps else part.shows}")
            return
        self.before[part.name] = part.progress() if part.progress else 0.0
        say(
            f"{part.name} ({number} of {len(self.chosen)}): {part.shows}; {in_minutes(self._left(part, 0.0))} left in all"
        )
        begun = time.monotonic()
        failed = False
        for step in left:
            reason = self._try(part, step, begun)
            if reason:
                failed = True
                self._fail(part, step, reason, begun)
                if not part.goes_on:
                    return
        if not failed:
            self._note(part, state="done", minutes=(time.monotonic() - begun) / 60)

    def _try(self, part: Part, step: Step, begun: float) -> str | None:
        """Why a step failed; None if it did not."""
        try:
            words = step.words()
        except MissingError as error:
            return str(error)
        code = self._run_step(part, step, words, begun)
        return None if code in step.codes else f"exit code {code}: {last_words(self.log(part, step))}"

    def _fail(self, part: Part, step: Step, reason: str, begun: float) -> None:
        say(f"{part.name}: FAILED at {step.name}: {reason}")
        self._note(part, state="failed", step=step.name, reason=reason, minutes=(time.monotonic() - begun) / 60)

    def _note(self, part: Part, **facts: Any) -> None:
        minutes = facts.pop("minutes", 0.0) + self.state.get(part.name, {}).get("minutes", 0.0)
        commits = self._commits(part)
        self.state[part.name] = facts | {"minutes": round(minutes, 2)} | ({"commits": commits} if commits else {})
        write_json(self.settings.folder / "parts.json", self.state)

    def _commits(self, part: Part) -> dict[str, str]:
        """At which commit each step of a part said what is kept."""
        noted = self.state.get(part.name, {}).get("commits")
        return dict(noted) if isinstance(noted, dict) else {}

    def _elsewhen(self, part: Part) -> str:
        """Of a part that is done: that it was with another dsrun, and how to have it again."""
        others = [commit for commit in dict.fromkeys(self._commits(part).values()) if commit != self.commit]
        if not others:
            return ""
        return f" at commit {', '.join(others)}, and this is {self.commit}: remove {self.settings.folder / part.name} to run it again"

    def _run_step(self, part: Part, step: Step, words: Sequence[str], begun: float) -> int:
        output, log = self.output(part, step), self.log(part, step)
        output.parent.mkdir(parents=True, exist_ok=True)
        aside = output.with_name(f".{output.name}.part")
        with aside.open("wb") as out, log.open("ab") as complaints:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdout=out,
                stderr=complaints,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
                env={name: value for name, value in os.environ.items() if name not in OWN_VARIABLES},
                start_new_session=True,  # a signal reaches the step through us, once
            )
            code = self._wait(process, lambda: self._tell(part, step, begun))
        if self.stopped is not None:
            self._note(part, state="stopped", minutes=(time.monotonic() - begun) / 60)
            raise StoppedError(self.stopped)
        if code in step.codes:
            os.replace(aside, output)
            commits = self._commits(part) | {step.name: self.commit}
            self.state[part.name] = self.state.get(part.name, {}) | {"commits": commits}
        return code

    def _wait(self, process: subprocess.Popen, tell: Callable[[], None]) -> int:
        told = time.monotonic()
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.5)
            if self.stopped is not None:
                return _end(process, signal.SIGINT if self.stopped == 130 else signal.SIGTERM)
            if time.monotonic() - told >= TELL_EVERY:
                told = time.monotonic()
                tell()

    def _tell(self, part: Part, step: Step, begun: float) -> None:
        took = (time.monotonic() - begun) / 60
        share = f"{part.progress():.0%} done, " if part.progress else ""
        say(
            f"{part.name}: {step.name}; {share}{in_minutes(took)} so far; {in_minutes(self._left(part, took))} left in all at this pace"
        )

    def _left(self, now: Part, took: float) -> float:
        """Minutes: of this part by what it has done since this process came to it, of later ones by the plan at this machine's pace."""
        planned = now.minutes * self._pace()
        share = now.progress() if now.progress else 0.0
        begun = min(self.before.get(now.name, 0.0), share)
        # A part whose progress nobody sees and that is over its plan takes a while yet, and not none.
        own = minutes_left(planned, took, begun, share) if now.progress else max(planned - took, OVERDUE * took)
        # One that is slower than planned says the same of later ones, which run on the same cores.
        whole = now.minutes * (1 - begun)
        pace = max(self._pace(), (took + own) / whole if whole else 1.0)
        later = self.chosen[self.chosen.index(now.name) + 1 :]
        return own + pace * sum(self.parts[name].minutes for name in later if not self._is_done(self.parts[name]))

    def _pace(self) -> float:
        """Minutes over planned minutes of the parts that are done, at least 1."""
        known = [name for name, facts in self.state.items() if facts.get("state") == "done" and name in self.parts]
        planned, spent = (
            sum(self.parts[name].minutes for name in known),
            sum(self.state[name]["minutes"] for name in known),
        )
        return max(spent / planned, 1.0) if planned > 2 else 1.0

    def _is_done(self, part: Part) -> bool:
        return all(self.output(part, step).is_file() for step in part.steps)

    def output(self, part: Part, step: Step) -> Path:
        """What a step said, once it is done."""
        return self.settings.folder / part.name / f"{step.name}.json"

    def log(self, part: Part, step: Step) -> Path:
        """What a step told on stderr, of every try."""
        return self.settings.folder / part.name / f"{step.name}.log"


def minutes_left(planned: float, took: float, begun: float, share: float) -> float:
    """Of a part, from the share of it that was done when it was come to and that is done now.

    The plan counts like `PLAN` of the part done as planned, so an estimate begins with the plan, and follows what is seen without a leap:
    a machine that is busy with other things shows it before anything is done.
    """
    minutes_a_share = (took + PLAN * planned) / (share - begun + PLAN)
    return minutes_a_share * (1 - share)


def _end(process: subprocess.Popen, number: signal.Signals) -> int:
    """Ask a step's processes to stop, and end them if they do not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    try:
        return process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def last_words(log: Path) -> str:
    """The end of a log in one line."""
    text = " ".join(log.read_text(encoding="utf-8", errors="replace").split())
    return text if len(text) <= MOST_WORDS else "... " + text[-MOST_WORDS:]


def in_minutes(minutes: float) -> str:
    """A time as people say it."""
    return f"{minutes:.0f} min" if minutes >= 1 else "less than a minute"


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {printable(text)}", file=sys.stderr, flush=True)
