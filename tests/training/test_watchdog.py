"""A hang is said with its phase and its stack, once, and training is left alone."""

import os
import threading
import time

import pytest

from dsrun.training.watchdog import Watchdog


def hang_here(seconds: float) -> None:
    time.sleep(seconds)


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def said(descriptor: int) -> str:
    try:
        return os.read(descriptor, 1 << 20).decode()
    except BlockingIOError:
        return ""


def test_a_stall_is_said_once_with_its_phase_and_the_stack_of_every_thread(tmp_path, pipe):
    log = tmp_path / "log.txt"
    other = threading.Event()
    thread = threading.Thread(target=other.wait, name="another")
    thread.start()
    with Watchdog(0.2, log=log, descriptor=pipe[1]) as watchdog:
        watchdog.phase("training step 17")
        hang_here(0.8)
        text = said(pipe[0])
        assert text.count("watchdog: nothing has moved for 0.2 s, since 20") == 1
        assert "while training step 17." in text
        assert "hang_here" in text
        assert text.count("most recent call first") >= 3  # this thread, the other one, the watchdog's
        assert log.read_text() == text
        watchdog.phase("evaluating after step 17")
        hang_here(0.5)
        assert said(pipe[0]).count("while evaluating after step 17.") == 1
    other.set()
    thread.join()


def test_what_moves_is_not_reported_however_long_it_takes(pipe):
    with Watchdog(0.4, descriptor=pipe[1]) as watchdog:
        watchdog.phase("loading data")
        for _ in range(8):
            time.sleep(0.1)
            watchdog.moved()
    assert said(pipe[0]) == ""


def is_watching() -> bool:
    return any(thread.name == "dsrun-watchdog" for thread in threading.enumerate())


def test_switched_off_it_has_no_thread_and_on_it_ends_with_the_run(pipe):
    with Watchdog(None, descriptor=pipe[1]):
        assert not is_watching()

    def train() -> None:
        with Watchdog(60.0, descriptor=pipe[1]):
            assert is_watching()
            raise RuntimeError("of training")

    with pytest.raises(RuntimeError, match="of training"):
        train()
    assert not is_watching()


def test_a_log_that_cannot_be_written_does_not_keep_it_from_stderr(tmp_path, pipe):
    with Watchdog(0.1, log=tmp_path / "none" / "log.txt", descriptor=pipe[1]):
        hang_here(0.4)
    assert "hang_here" in said(pipe[0])
