"""Stopping: SIGTERM, SIGUSR1 and Ctrl-C at any moment of a run end it in order, and soon.

A scheduler that wants the machine back sends SIGTERM (or SIGUSR1) and kills a minute or two later. What an orderly end is depends on
the moment:

| moment | what happens |
|---|---|
| steps | the step is finished, its state saved, exit 75 |
| a dev evaluation | it is given up after a batch, the state before it saved; the resumed run evaluates again |
| nothing is new: loading data, compiling the first step, scoring the best checkpoint at the end | `Stopped` is raised at once |

Ctrl-C does the same with 130; a second one leaves at once, whatever is unsaved.

Python runs a signal's handler between two of the main thread's bytecodes, hence not while XLA compiles, which may take minutes. So
a thread, woken by the signal itself (`signal.set_wakeup_fd`), waits a little where nothing is new, and then ends the process in
place of the main thread. `Stopped` is no Exception: nothing on its way out may take it for an error that it can mend.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from dsrun.errors import EXIT_INTERRUPTED, EXIT_STOPPED

GRACE_SECONDS = 3.0  # for the main thread to leave by itself
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

Item = TypeVar("Item")


class Stopped(BaseException):
    """A signal came; `exit_code` is what the process ends with."""

    def __init__(self, exit_code: int, reason: str):
        super().__init__(reason)
        self.exit_code, self.reason = exit_code, reason


class StopRequest(AbstractContextManager):
    """Notes the signals while it is entered, in the main thread.

    Attributes:
        exit_code: 0 until a signal came, then 75 or 130.
        at_once: a second Ctrl-C came.
        before_leaving: called with the exit code before the process is ended from the thread, e.g. to write down why.
    """

    def __init__(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self.exit_code, self.at_once = 0, False
        self.before_leaving: Callable[[int], None] = lambda exit_code: None
        self._grace_seconds = grace_seconds
        self._nothing_new = False
        self._previous: dict[int, Any] = {}
        self._has_left = threading.Event()

    def __enter__(self) -> "StopRequest":
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs, self._previous_descriptor = (
            theirs,
            signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False),
        )
        self._thread = threading.Thread(target=self._wait_for_signals, name="dsrun-signals", daemon=True)
        self._thread.start()
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._has_left.set()
        self._theirs.close()  # the thread reads the end
        self._thread.join()
        self._ours.close()

    def begin_nothing_new(self) -> None:
        """From now on nothing would be lost: a signal raises `Stopped` wherever the main thread is.

        Raises:
            Stopped: one came before.
        """
        self._nothing_new = True
        self._raise_if_requested()

    def end_nothing_new(self) -> None:
        """From now on a signal is only noted, and whoever trains looks at `exit_code`."""
        self._nothing_new = False

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until a signal comes.

        Raises:
            Stopped: instead of the next item.
        """
        for item in items:
            self._raise_if_requested()
            yield item

    def _raise_if_requested(self) -> None:
        if self.exit_code:
            raise Stopped(self.exit_code, "stopped by a signal")

    def _note(self, number: int, frame: object) -> None:
        self.at_once = number == signal.SIGINT and self.exit_code == EXIT_INTERRUPTED
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
        if self.at_once:
            raise Stopped(self.exit_code, "stopped by a second Ctrl-C, nothing saved")
        if self._nothing_new:
            self._raise_if_requested()

    def _wait_for_signals(self) -> None:
        interrupts, code = 0, 0
        while received := self._ours.recv(1):
            number = received[0]
            if number not in SIGNALS:
                continue
            interrupts += number == signal.SIGINT
            code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
            threading.Thread(target=self._leave_later, args=(code, interrupts > 1), daemon=True).start()

    def _leave_later(self, code: int, is_second: bool) -> None:
        # Whoever presses Ctrl-C twice has waited; otherwise, as long as something is new, the main thread will see to it.
        while not self._has_left.wait(self._grace_seconds / 6 if is_second else self._grace_seconds):
            if is_second or self._nothing_new:
                break
        else:
            return
        self.before_leaving(code)
        os._exit(code)
