"""Saving beside training: one thread writes a checkpoint while the next steps are computed.

A checkpoint is hashed, written, flushed, read back and renamed, which takes longer than a step; none of it needs the device. So the
loop only copies the state to the host (the device's buffers are given to the next update), and a thread does the rest. There is never
more than one: the next save waits for the one before. A save counts when its rename is done; what fails in the thread is
raised in the loop at its next step and not swallowed, so no run goes on for hours in the belief that it is saved.
"""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Saver:
    """Runs one piece of work at a time in a thread. Close it before the run ends, in whatever way it ends."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Start `work` once the work before it is done.

        Raises:
            Whatever the work before raised.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="dsrun-writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong so far, once; waits for nothing."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            Whatever the work raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error


def host_copy(tree: Any) -> Any:
    """The arrays of a tree as NumPy arrays of their own.

    On a CPU `device_get` gives views of the device's buffers, and the next update would write into what is being saved.
    """
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), jax.device_get(tree))
