"""A stream as its own side has it: what it may do, and what it is told. The work is the dispatcher's (`dispatch`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DsrunError
from dsrun.serving.session import Session

if TYPE_CHECKING:
    from dsrun.serving.dispatch import Dispatcher


@dataclass(frozen=True)
class Heard:
    """What a stream is told: text that is new (nothing is ever taken back), the seconds of sound that the network has taken in, and
    whether that was all."""

    new: str
    seconds: float
    is_final: bool


OnText = Callable[[Heard], None]  # when there is new text, and at the end
OnFailure = Callable[[DsrunError], None]  # the stream was ended, and not by its own side


class Stream:
    """A stream that is open, as `Dispatcher.open` makes it. Any thread may call; `push` and `finish` one at a time."""

    def __init__(self, dispatcher: "Dispatcher", slot: int, on_text: OnText, on_failure: OnFailure):
        self.slot, self.on_text, self.on_failure = slot, on_text, on_failure
        self.session = Session(dispatcher.hearing)
        self.is_open = True
        self._dispatcher = dispatcher

    def push(self, samples: Float32[np.ndarray, " sample"], *, spoken_at: float | None = None) -> None:
        """Samples that follow, at the model's rate, in [-1, 1].

        Args:
            spoken_at: when the last of them was spoken, by `time.monotonic`; for measurements of latency. Default: now.

        Raises:
            TooFast: they do not fit yet; nothing was taken. BadSamples: they are none. StreamEnded: it takes no more.
        """
        self._dispatcher._push(self, samples, spoken_at)

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most so long until `push` takes a block again; whether it does. Raises StreamEnded."""
        return self._dispatcher._wait_for_room(self, seconds)

    def finish(self) -> None:
        """No more samples come; the rest of the text does, the last with `is_final`. Raises DataError (shorter than a window)."""
        self._dispatcher._finish(self)

    def close(self) -> None:
        """Give it up wherever it stands. Harmless when it has ended."""
        self._dispatcher._close(self)

    @property
    def text(self) -> str:
        """All of it so far."""
        return self.session.text
