"""`python -m dsrun.sweep_child PARENT train ...`: `dsrun train` that does not outlive the sweep which started it.

A sweep that is killed without a chance to tell its runs (SIGKILL, out of memory) must not leave them training unnoticed: they would
hold their folders, cores and GPUs while the next sweep starts. On Linux the kernel sends the signal (`prctl`); elsewhere a thread looks
once a second whose child this is. The signal is SIGTERM, so the run writes a checkpoint and leaves with 75, as after any other.

A process of its own rather than `preexec_fn`, which runs Python between fork and exec, in a parent that has threads.
"""

import ctypes
import os
import signal
import sys
import threading
import time

from dsrun.errors import EXIT_STOPPED

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_SECONDS = 1.0


def main() -> None:
    """End with the parent; else be `dsrun`."""
    parent = int(sys.argv.pop(1))
    end_with(parent)
    from dsrun.__main__ import main as run

    sys.argv[0] = "dsrun"
    run()


def end_with(parent: int) -> None:
    """From now on the death of this process id, which started ours, is a SIGTERM."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    else:
        threading.Thread(target=_look, args=(parent,), name="dsrun-parent", daemon=True).start()
    if os.getppid() != parent:  # it died before the line above
        os._exit(EXIT_STOPPED)


def _look(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
