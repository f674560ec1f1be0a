"""What is saved beside training is what it was, and what fails there is not swallowed."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.training.saver import Saver, host_copy


def test_a_copy_on_the_host_keeps_its_values_when_the_next_update_takes_the_buffers():
    update = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    state = jnp.arange(100_000, dtype=jnp.float32)
    kept = host_copy({"w": state})
    for _ in range(3):
        state = update(state)
    jax.block_until_ready(state)
    np.testing.assert_array_equal(kept["w"], np.arange(100_000, dtype=np.float32))


def test_work_goes_on_beside_the_caller_and_the_next_one_waits_for_it():
    saver, may_end, done = Saver(), threading.Event(), []
    saver.submit(lambda: (may_end.wait(10), done.append(1)))
    assert saver.is_busy
    assert done == []
    threading.Timer(0.1, may_end.set).start()
    saver.submit(lambda: done.append(2))
    assert done[0] == 1
    saver.wait()
    assert done == [1, 2]
    assert not saver.is_busy
    assert not [thread for thread in threading.enumerate() if thread.name == "dsrun-writer"]


@pytest.mark.parametrize("ask", ["check", "wait", "submit"])
def test_what_went_wrong_is_raised_once_by_whoever_asks_next(ask):
    def fail() -> None:
        raise DataError("disk full")

    saver, done = Saver(), []
    saver.submit(fail)
    assert saver._thread
    saver._thread.join()
    questions = {"check": saver.check, "wait": saver.wait, "submit": lambda: saver.submit(lambda: done.append(1))}
    with pytest.raises(DataError, match="disk full"):
        questions[ask]()
    assert done == []
    saver.wait()
