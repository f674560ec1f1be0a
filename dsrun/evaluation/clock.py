"""When output frames are, in seconds of the recording; what they stand for is told in `words.py`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputClock:
    """When output frames are: middle of frame 0, and from one to the next, in seconds."""

    first: float
    step: float

    def start(self, frame: int) -> float:
        """Where output frame number `frame` begins; it may be before the recording does."""
        return self.first + (frame - 0.5) * self.step

    def end(self, frame: int) -> float:
        """Where it ends, which is where the next begins."""
        return self.start(frame + 1)
