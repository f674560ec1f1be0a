"""Programs that take turns: each a process of its own, doing one unit of work whenever it is asked, so that a busy minute meets all.

torch and XLA in one process slow one another down many times on few cores, and two processes one after the other see two different
machines. So each contender is a worker that prints a line of JSON when it is ready (at least `version`), waits on stdin, and answers
each line with one of JSON (at least `seconds`). They are asked in rounds, A B A B, with a pause in which the threads of the last one
fall asleep. A ratio is the median of the ratios within a round.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsrun.errors import UsageError
from dsrun.record.runtime import ALLOCATOR_VARIABLE, LARGE_PAGES

PAUSE_SECONDS = 0.3


class Contender:
    """A worker process. `ready` is its first line, `results` its answers, `seconds` their times."""

    def __init__(self, name: str, command: Sequence[str], *, large_pages: bool = True):
        self.name = name
        self.results: list[dict[str, Any]] = []
        others = [t for t in os.environ.get(ALLOCATOR_VARIABLE, "").split(":") if t and LARGE_PAGES not in t]
        variables = os.environ | {ALLOCATOR_VARIABLE: ":".join([*others, f"{LARGE_PAGES}={large_pages:d}"])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self.ready = self._line()

    @property
    def seconds(self) -> list[float]:
        """Of each unit of work."""
        return [result["seconds"] for result in self.results]

    def work(self) -> None:
        """Ask for one unit and keep the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.results.append(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UsageError(f"{self.name} ended with exit code {self.process.wait()}; its message is above.")
        return json.loads(line)


def compete(commands: Mapping[str, Sequence[str]], *, rounds: int, large_pages: bool = True) -> list[Contender]:
    """Start the workers one after another, let them take turns, end them."""
    contenders = [Contender(name, command, large_pages=large_pages) for name, command in commands.items()]
    for _ in range(rounds):
        for contender in contenders:
            time.sleep(PAUSE_SECONDS)
            contender.work()
    for contender in contenders:
        contender.close()
    return contenders


def ratio(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """Time of one over time of the other, round by round."""
    ratios = sorted(a / b for a, b in zip(slower, faster, strict=True))
    return {"median": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def serve(ready: Mapping[str, Any], unit: Callable[[], Mapping[str, Any] | None]) -> None:
    """A worker's side: say that it is ready, then time `unit` for each line on stdin; what it returns is sent with the time."""
    print(json.dumps(dict(ready)), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        more = unit()
        print(json.dumps({"seconds": time.perf_counter() - start, **(more or {})}), flush=True)
