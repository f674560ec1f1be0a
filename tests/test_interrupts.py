"""Ctrl-C ends a command that has no handler of its own, wherever it arrives."""

import subprocess
import sys
import time

import pytest

# A command that is interrupted at a moment, in a process without JAX.
PROGRAM = """
import gc, hashlib, os, signal, sys, threading, time
from dsrun import interrupts

def press():
    os.kill(os.getpid(), signal.SIGINT)

def collected(phase, info):
    if phase == "start" and gc.callbacks:
        gc.callbacks.clear()
        press()

def command():
    print("begun")
    try:
        MOMENT
    finally:
        print("removed")

interrupts.LAST_SECONDS = 0.3
interrupts.end_at_ctrl_c(lambda: interrupts.end_at_ctrl_c(command))
print("went on")
"""
MOMENTS = {
    "at once": ("press(); time.sleep(60)", True),
    "dropped by the garbage collector": ("gc.callbacks.append(collected); gc.collect(); time.sleep(60)", True),
    "made an exit": ("try: press()\n        except BaseException: sys.exit(1)", True),
    "made an error": ("try: press()\n        except BaseException: raise RuntimeError('in a callback')", True),
    "swallowed": ("try: press()\n        except BaseException: pass", True),
    # No bytecode in which a handler could run, as while XLA compiles.
    "deaf": ("threading.Timer(0.1, press).start(); hashlib.pbkdf2_hmac('md5', b'', b'', 2**31 - 1)", False),
}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_line_and_130_at_any_moment(moment):
    code, is_orderly = MOMENTS[moment]
    result = run(PROGRAM.replace("MOMENT", code))
    assert (result.returncode, result.stderr) == (130, "stopped by Ctrl-C\n")
    assert ("removed" in result.stdout, "went on" in result.stdout) == (is_orderly, False)


def test_a_second_ctrl_c_does_not_wait():
    deaf = "threading.Timer(0.3, press).start()\n        try: press()\n"
    deaf += "        finally: hashlib.pbkdf2_hmac('md5', b'', b'', 2**31 - 1)"
    code = PROGRAM.replace("MOMENT", deaf).replace("LAST_SECONDS = 0.3", "LAST_SECONDS = 50")
    start = time.monotonic()
    result = run(code)
    assert (result.returncode, result.stderr) == (130, "stopped by Ctrl-C\n")
    assert time.monotonic() - start < 20


def test_ctrl_c_stays_ignored_where_it_was():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + PROGRAM.replace("MOMENT", "press()")
    assert run(code).stdout == "begun\nremoved\nwent on\n"


def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback():
    code = "import sys, os, signal\nclass Presses:\n    def find_spec(self, name, *rest):\n"
    code += "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
    code += (
        "sys.meta_path.insert(0, Presses()); sys.argv = ['dsrun', '--help']\nfrom dsrun.__main__ import main\nmain()"
    )
    result = run(code)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "stopped by Ctrl-C\n")
