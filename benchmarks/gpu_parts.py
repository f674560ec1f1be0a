"""What the parts of the GPU report share: a deadline, rows, and workers that are asked for one thing at a time.

A part is a process of its own, `python -m benchmarks.gpu_NAME --seconds N`. It prints a line of JSON a row as soon as it knows it, so that
what was measured before its time ran out is kept, and names the cases that it had no time for. torch and XLA are never in one process:
a part starts workers, each of which prints a line when it is ready and then answers each line of JSON on stdin, `{"do": ...}`, with one,
`{"error": ...}` where it could not. Workers start side by side, since compiling takes the host's time and not the device's, and are
timed one after another, in rounds: a ratio is the median of the ratios within a round.

A figure of a GPU is honest only if the device was waited for. Every worker times enough passes for `UNIT_SECONDS`, all of them queued,
and waits once at the end: the host's share of a pass shows where the device is starved, and only there.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PEER = Path(__file__).parent / "peers" / "torch_cuda.py"
UNIT_SECONDS = 0.1
# XLA takes three quarters of a GPU's memory when it starts; several processes share it here.
SHARED_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
NO_TORCH = "not run: no torch here (--torch-python PATH names a Python that has it)"


class Failed(Exception):
    """A case could not be measured; the text says why."""


@dataclass(frozen=True)
class Settings:
    """What every part is told."""

    tiny: bool
    torch_python: str | None
    deadline: float

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.deadline - time.monotonic()

    @property
    def unit_seconds(self) -> float:
        """Least time of a unit of work."""
        return 0.005 if self.tiny else UNIT_SECONDS

    def rounds(self, count: int) -> int:
        """How often contenders take turns."""
        return 2 if self.tiny else count

    def covers(self, case: str, seconds: float) -> bool:
        """Whether there is time for a case; a row names it where there is not."""
        if self.left >= seconds:
            return True
        row(case, f"not run: {max(self.left, 0):.0f} s left of this part's time")
        return False


def part_settings(description: str | None, arguments: Sequence[str] | None = None) -> Settings:
    """From a part's command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the part on a CPU")
    parser.add_argument("--seconds", type=float, default=480.0, help="time that the part may take")
    parser.add_argument("--torch-python", help="interpreter that has torch; default: this one, if it has")
    options = parser.parse_args(arguments)
    own = sys.executable if importlib.util.find_spec("torch") else None
    return Settings(options.tiny, options.torch_python or own, time.monotonic() + options.seconds)


def row(case: str, result: str, **figures: Any) -> None:
    """A line of the report."""
    print(json.dumps({"case": case, "result": result, **figures}), flush=True)


def in_words(stderr: str) -> str:
    """The line of a program's complaints that says most: the last that names an error, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if re.search(r"Unknown flag|Illegal value|\w(Error|Exception)\b|RESOURCE_EXHAUSTED", line)
    ]
    return (telling or lines or ["it said nothing"])[-1][:300]


# --- a worker, seen from the part -------------------------------------------------------------------------------------------------


class Worker:
    """A process that does what it is asked; it starts at once and is waited for when it is first asked."""

    def __init__(self, name: str, command: Sequence[str], variables: Mapping[str, str] | None = None):
        self.name = name
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            cwd=ROOT,
            env=os.environ | SHARED_MEMORY | dict(variables or {}),
        )
        self._ready: dict[str, Any] | None = None

    @property
    def ready(self) -> dict[str, Any]:
        """Its first line. Raises Failed if the process ended before it."""
        if self._ready is None:
            self._ready = self._line()
        return self._ready

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request and its answer. Raises Failed with the worker's reason, or what it said when it died."""
        self.send(do, **request)
        return self.answer()

    def send(self, do: str, **request: Any) -> None:
        """A request alone: several workers compile side by side."""
        assert self.process.stdin is not None
        # A worker that is dead has no reader; its last words come where its answer is waited for.
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """To the request before. Raises Failed as `ask` does."""
        assert self.ready is not None
        answer = self._line()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def seconds(self, case: str) -> float:
        """Of one pass of a prepared case."""
        return self.ask("time", case=case)["seconds"]

    def close(self) -> None:
        """End the process, with what it holds of the device's memory."""
        with suppress(BrokenPipeError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self._complaints):
            assert stream is not None
            stream.close()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries greet on stdout too
                return json.loads(line)
        raise Failed(self._last_words())

    def _last_words(self) -> str:
        code = self.process.wait()
        self._complaints.seek(0)
        return f"{self.name} ended with exit code {code}: {in_words(self._complaints.read())}"


def jax_worker(name: str, flags: Sequence[str] = (), *, any_order: bool = False) -> Worker:
    """`benchmarks.gpu_worker` with these flags of XLA; `any_order`: and those of `determinism: off`, not of strict."""
    command = [sys.executable, "-m", "benchmarks.gpu_worker", *(["--any-order"] if any_order else [])]
    variables = {"XLA_FLAGS": " ".join([*os.environ.get("XLA_FLAGS", "").split(), *flags])} if flags else {}
    return Worker(name, command, variables)


def torch_worker(settings: Settings) -> Worker | None:
    """`peers/torch_cuda.py`, where there is a Python for it."""
    if settings.torch_python is None:
        return None
    return Worker("torch", [settings.torch_python, str(PEER), "--device", "cpu" if settings.tiny else "cuda"])


# --- turns ------------------------------------------------------------------------------------------------------------------------


def take_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each contender, one figure a round, and the reasons of those that failed and were left out from then on."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    reasons: dict[str, str] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            if name in reasons:
                continue
            try:
                times[name].append(call())
            except Failed as reason:
                reasons[name] = str(reason)
    return {name: found for name, found in times.items() if name not in reasons}, reasons


def spread(seconds: Sequence[float], scale: float, unit: str) -> str:
    """Median with the lowest and the highest."""
    low, middle, high = (f"{scale * value:.3g}" for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle} {unit} ({low} to {high})"


def beside(found: Mapping[str, float], name: str) -> str:
    """A ratio in words."""
    return f"{found['median']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f}) of {name}'s time"


# --- a worker, seen from inside ---------------------------------------------------------------------------------------------------


def serve(ready: Mapping[str, Any], handlers: Mapping[str, Callable[..., Mapping[str, Any] | None]]) -> None:
    """Say that it is ready, then answer each request with what its handler returns, or with the reason why it could not."""
    print(json.dumps(dict(ready)), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request) or {}
        except Exception as error:  # the reason is the answer: one case that does not fit must not end the others
            answer = {"error": reason(error)}
        print(json.dumps(answer), flush=True)


def reason(error: Exception) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"[:300]


def passes_for(one_pass: Callable[[], Any], unit_seconds: float) -> int:
    """How many passes make a unit; `one_pass` waits."""
    one_pass()
    start = time.perf_counter()
    one_pass()
    return max(1, math.ceil(unit_seconds / (time.perf_counter() - start)))
