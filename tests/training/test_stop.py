"""A signal is an orderly end at any moment, also while the main thread is in code that no handler interrupts."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from dsrun.training.stop import SIGNALS, Stopped, StopRequest


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)], ids=str
)
def test_a_signal_leaves_at_once_where_nothing_is_new_and_is_noted_where_something_is(number, code):
    with StopRequest() as stop:
        stop.begin_nothing_new()
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.exit_code == code
    with StopRequest() as stop:
        stop.begin_nothing_new()
        stop.end_nothing_new()
        os.kill(os.getpid(), number)
        assert stop.exit_code == code
        with pytest.raises(Stopped):  # it came before
            stop.begin_nothing_new()


def test_an_evaluation_ends_before_the_batch_that_follows_a_signal():
    seen = []

    def evaluate(batches) -> None:
        for batch in batches:
            seen.append(batch)
            if batch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with StopRequest() as stop, pytest.raises(Stopped):
        evaluate(stop.watched(range(5)))
    assert seen == [0, 1]


def test_a_second_ctrl_c_leaves_whatever_is_unsaved():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.at_once
        with pytest.raises(Stopped, match="second Ctrl-C"):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.at_once


def test_afterwards_the_handlers_threads_and_descriptor_are_as_before():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    previous = signal.set_wakeup_fd(theirs.fileno())
    try:
        before = [signal.getsignal(number) for number in SIGNALS], threading.active_count()
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.exit_code == 75
        # The thread that would have ended the process later hears that it is not needed, a moment later.
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.name.startswith("dsrun-signals"):
                thread.join(5)
        assert ([signal.getsignal(number) for number in SIGNALS], threading.active_count()) == before
        assert signal.set_wakeup_fd(-1) == theirs.fileno()
    finally:
        signal.set_wakeup_fd(previous)
        ours.close()
        theirs.close()


# A key derivation of hours stands for XLA's compiler: no bytecode of the main thread runs meanwhile, so no handler does.
DEAF = """
import hashlib, sys
from dsrun.training.stop import StopRequest

with StopRequest(grace_seconds=0.2) as stop:
    stop.begin_nothing_new()
    if sys.argv[1] == "busy":
        stop.end_nothing_new()
    stop.before_leaving = lambda code: print("left with", code, flush=True)
    print("deaf", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""


@pytest.mark.parametrize(
    ("moment", "signals", "code"),
    [("compiling", [signal.SIGTERM], 75), ("busy", [signal.SIGINT, signal.SIGINT], 130)],
    ids=["SIGTERM while compiling", "Ctrl-C twice"],
)
def test_a_process_whose_main_thread_is_deaf_is_ended_all_the_same(moment, signals, code):
    process = subprocess.Popen([sys.executable, "-c", DEAF, moment], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "deaf\n"
    for number in signals:
        time.sleep(0.5)  # until it is deaf; and two of a kind at once are one
        process.send_signal(number)
    assert process.wait(30) == code
    assert process.stdout.read() == f"left with {code}\n"
    process.stdout.close()
