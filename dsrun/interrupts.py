"""Ctrl-C in every command: exit code 130 and one line, soon, whatever runs.

`train` has handlers of its own (`dsrun.training.stop`), which take the place of these while it runs. In the others Ctrl-C raises
KeyboardInterrupt, so that `with` blocks remove what they made. Python alone does not make that an end:

- One that is raised inside a callback of the garbage collector (JAX has one) is printed, dropped, and the command goes on. Here it
  is raised once more a moment later.
- None is raised while XLA compiles, which may take minutes: a signal's handler runs between two bytecodes of the main thread. A
  thread that the signal itself wakes (`signal.set_wakeup_fd`) ends the process in its place after LAST_SECONDS, or at the second Ctrl-C.
- An interpreter that shuts down while XLA's threads work crashes, so the process leaves without (`os._exit`).

Imported before anything else, so it imports little.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from dsrun.errors import EXIT_INTERRUPTED

LAST_SECONDS = 5.0  # for the main thread to leave by itself
RAISE_AGAIN_SECONDS = 0.05
MESSAGE = "stopped by Ctrl-C"

_came, _lost, _is_leaving = threading.Event(), threading.Event(), threading.Event()


def end_at_ctrl_c(program: Callable[[], None]) -> None:
    """Run a program; Ctrl-C ends the process. Within another call of itself it adds nothing.

    Where Ctrl-C is ignored (a command in the background of a script) it stays ignored.
    """
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            _watch()
        program()
    except BaseException as error:  # also what others made of it, e.g. an exit or an error in a callback of XLA
        if _came.is_set() or isinstance(error, KeyboardInterrupt):
            _leave()
        raise
    if _came.is_set():
        _leave()


def _watch() -> None:
    descriptor, woken = os.pipe()
    for end in (descriptor, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    sys.unraisablehook = _note_lost
    threading.Thread(target=_wait_for_signals, args=(descriptor,), name="dsrun-ctrl-c", daemon=True).start()
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    _came.set()
    raise KeyboardInterrupt


def _note_lost(unraisable: Any) -> None:
    """Called where an exception is dropped."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _lost.set()
    else:
        sys.__unraisablehook__(unraisable)


def _wait_for_signals(descriptor: int) -> None:
    """The thread: give the main thread its last seconds after the first Ctrl-C, none after a second."""
    while not _is_ctrl_c(descriptor, timeout=None):
        pass
    end, raised_again = time.monotonic() + LAST_SECONDS, 0
    while time.monotonic() < end:
        if _is_ctrl_c(descriptor, timeout=RAISE_AGAIN_SECONDS):
            if not raised_again:
                break
            raised_again -= 1
        elif _lost.is_set():
            _lost.clear()
            raised_again += 1
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    if not _is_leaving.is_set():
        with suppress(OSError):
            os.write(2, f"{MESSAGE}\n".encode())  # the streams may be locked by the main thread
    os._exit(EXIT_INTERRUPTED)


def _is_ctrl_c(descriptor: int, *, timeout: float | None) -> bool:
    """Whether one comes within so many seconds."""
    ready = select.select([descriptor], [], [], timeout)[0]
    return bool(ready) and os.read(descriptor, 1)[0] == signal.SIGINT


def _leave() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _is_leaving.set()
    with suppress(OSError, ValueError):  # a closed stream, or a full disk behind it
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        print(MESSAGE, file=sys.stderr, flush=True)
    os._exit(EXIT_INTERRUPTED)
