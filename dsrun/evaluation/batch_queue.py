"""A queue before the recogniser: clips of many recordings, put together by length, run when a batch is full.

Clips wait in one line for each rung of the recogniser's ladder. A line is run when it is as long as a batch has rows; and so that a
clip of a rare length does not wait behind ten hours of another recording, the oldest clip's line is run, full or not, when so
many came after it as fill `PATIENCE` batches. Clips of one line leave in the order in which they came.
"""

from collections import deque
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

Tag = TypeVar("Tag")
PATIENCE = 4  # batches


@runtime_checkable
class Runs(Protocol):
    """What the queue asks of a recogniser."""

    rows: int

    def rung(self, num_frames: int) -> int:
        """Which clips can be run together: those of one rung."""
        ...

    def __call__(self, clips: Any) -> list[np.ndarray]:
        """Scores of at most `rows` clips of one rung."""
        ...


class BatchQueue(Generic[Tag]):
    """Clips in, each with a tag; tags and scores out."""

    def __init__(self, recogniser: Runs):
        self.recogniser = recogniser
        self._lines: dict[int, deque[tuple[int, Tag, np.ndarray]]] = {}
        self._came = 0

    def put(self, tag: Tag, clip: np.ndarray) -> list[tuple[Tag, np.ndarray]]:
        """One more clip; what was run because of it, often nothing."""
        line = self._lines.setdefault(self.recogniser.rung(len(clip)), deque())
        line.append((self._came, tag, clip))
        self._came += 1
        if len(line) == self.recogniser.rows:
            return self._run(line)
        oldest = min((waiting for waiting in self._lines.values() if waiting), key=lambda waiting: waiting[0][0])
        if self._came - oldest[0][0] > PATIENCE * self.recogniser.rows:
            return self._run(oldest)
        return []

    def flush(self) -> list[tuple[Tag, np.ndarray]]:
        """Everything that waits, run now."""
        return [result for line in self._lines.values() if line for result in self._run(line)]

    def _run(self, line: deque[tuple[int, Tag, np.ndarray]]) -> list[tuple[Tag, np.ndarray]]:
        scores = self.recogniser([clip for _, _, clip in line])
        results = [(tag, found) for (_, tag, _), found in zip(line, scores, strict=True)]
        line.clear()
        return results
