"""What a dispatcher counts, in a memory that does not grow: a service may run for months.

The latency of a chunk is from its last sample to its text: waiting for the step before, for the others of its batch, and computing. What
the network waits for by design (its chunk filling, frames of the future that it looks at) is the model's and comes on top.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LATEST = 10_000  # chunks and endings whose latency is kept


@dataclass
class Figures:
    """Since the beginning, but latencies only of the latest.

    Fields:
        chunks: (when its text was out, latency in seconds) of chunks that sound filled. endings: the same from a stream's end to the last
        of its text. batches: how often a step had so many streams. busy_seconds: in steps.
    """

    steps: int = 0
    num_chunks: int = 0
    busy_seconds: float = 0.0
    opened: int = 0
    finished: int = 0
    failed: int = 0
    refused_blocks: int = 0
    batches: Counter = field(default_factory=Counter)
    chunks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LATEST))
    endings: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LATEST))

    def add_step(self, streams: int, seconds: float) -> None:
        """One step of so many streams."""
        self.steps += 1
        self.batches[streams] += 1
        self.busy_seconds += seconds

    def add_chunk(self, now: float, since: float) -> None:
        """The text of a chunk is out."""
        self.num_chunks += 1
        self.chunks.append((now, now - since))

    @property
    def mean_batch(self) -> float:
        """Streams a step."""
        total = sum(size * count for size, count in self.batches.items())
        return total / self.steps if self.steps else 0.0

    def to_json(self) -> dict[str, Any]:
        """Names with their unit; latencies are null before there is one."""
        return {
            "steps": self.steps,
            "chunks": self.num_chunks,
            "mean_batch": self.mean_batch,
            "batches": {str(size): count for size, count in sorted(self.batches.items())},
            "busy_seconds": self.busy_seconds,
            "streams_opened": self.opened,
            "streams_finished": self.finished,
            "streams_failed": self.failed,
            "blocks_refused": self.refused_blocks,
            "latency": latency_json([latency for _, latency in self.chunks]),
            "ending": latency_json([latency for _, latency in self.endings]),
        }


def latency_json(seconds: list[float]) -> dict[str, Any]:
    """Median and 98th percentile, as Deep Speech 2 has them, and the longest."""
    if not seconds:
        return {"count": 0, "median_ms": None, "percentile_98_ms": None, "longest_ms": None}
    median, high = np.percentile(seconds, [50, 98])
    found = {"median_ms": median, "percentile_98_ms": high, "longest_ms": max(seconds)}
    return {"count": len(seconds)} | {name: round(1000.0 * float(value), 3) for name, value in found.items()}
