"""Watchdog: says where a run hangs.

A hung run looks like a slow one: a file system that does not answer, a device that waits for another, a compilation without end. So a
thread looks at the time since anything last moved (a step or a batch of an evaluation finished, an utterance was loaded, another
phase began). If that is too long it says, on stderr and in `log.txt`, since when and in which phase, with the stack of every thread,
once for each time that it hangs. Training is not stopped: it may only be slow, and whoever reads the log can tell.

What is said goes straight to the files' descriptors: the thread that hangs may hold any lock, also that of a stream.
"""

import faulthandler
import os
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

LOOKS_A_LIMIT = 20  # how often a limit's time is divided: a hang is seen at most this share late


class Watchdog(AbstractContextManager):
    """Watches while it is entered.

    Args:
        seconds: without movement, until it speaks; None switches it off.
        log: file that gets the text too; one that is not there yet is made.
        descriptor: where else it goes; stderr unless a test passes its own.
    """

    def __init__(self, seconds: float | None, *, log: Path | None = None, descriptor: int | None = None):
        self.seconds, self.log = seconds, log
        self._descriptor = descriptor
        self._phase, self._since = "starting", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dsrun-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.seconds is not None:
            self.moved()
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def phase(self, name: str) -> None:
        """From now on this is being done."""
        self._phase = name
        self.moved()

    @property
    def doing(self) -> str:
        """The phase that this is."""
        return self._phase

    def moved(self) -> None:
        """Something was finished."""
        self._since = time.monotonic()

    def _watch(self) -> None:
        assert self.seconds is not None
        spoken_of = None
        while not self._ended.wait(self.seconds / LOOKS_A_LIMIT):
            since = self._since
            if time.monotonic() - since >= self.seconds and since != spoken_of:
                spoken_of = since
                self._speak(time.monotonic() - since)

    def _speak(self, waited: float) -> None:
        began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - waited))
        text = (
            f"{time.strftime('%Y-%m-%dT%H:%M:%S')}  watchdog: nothing has moved for {_duration(waited)}, since {began}, while "
            f"{self._phase}. Training goes on if it can (training.watchdog_minutes). Stacks of all threads:\n"
        )
        for descriptor in self._descriptors():
            with suppress(OSError):  # a full disk or a closed stream must not end the thread
                os.write(descriptor, text.encode())
                faulthandler.dump_traceback(file=descriptor, all_threads=True)
            if descriptor != self._stderr():
                os.close(descriptor)

    def _descriptors(self) -> list[int]:
        """The log's first: nobody may be reading stderr, and then writing there hangs too."""
        found = []
        if self.log is not None:
            with suppress(OSError):
                found.append(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        return [*found, self._stderr()]

    def _stderr(self) -> int:
        return sys.__stderr__.fileno() if self._descriptor is None and sys.__stderr__ else self._descriptor or 2


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} s"
