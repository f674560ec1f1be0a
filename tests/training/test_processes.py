"""Processes say the same, or nothing is started; one that fails tells the others why."""

import threading
import time

import jax
import numpy as np
import pytest

from dsrun.errors import DataError, UsageError
from dsrun.training import processes as module
from dsrun.training.processes import LostProcessError, Processes, StepAgreement, noticing_lost_processes
from dsrun.training.stop import Stopped


class Store:
    """The coordinator's key-value store, in this process."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        assert key not in self.values, "a round is spoken in once"
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        deadline = time.monotonic() + 5
        while key not in self.values:
            if time.monotonic() > deadline:
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: nothing said")
            time.sleep(0.001)
        return self.values[key]


@pytest.fixture(autouse=True)
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(module, "_store", lambda: store)
    return store


def all_at_once(*calls):
    """What each process's call returns or raises."""
    found = [None] * len(calls)

    def work(index):
        try:
            found[index] = calls[index](Processes(index, len(calls)))
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_everyone_hears_everyone_in_order_in_every_round():
    def talk(own):
        return own.say(own.index), own.say({"twice": own.index})

    one = ([0, 1, 2], [{"twice": 0}, {"twice": 1}, {"twice": 2}])
    assert all_at_once(talk, talk, talk) == [one] * 3


def test_a_difference_is_refused_by_all_and_named():
    found = all_at_once(
        lambda own: own.require_same({"config": "a", "python": "3.11"}),
        lambda own: own.require_same({"config": "b", "python": "3.11"}),
        lambda own: own.require_same({"config": "a", "python": "3.11"}),
    )
    assert all(isinstance(error, UsageError) for error in found)
    assert all('config: "a" in process 0, 2; "b" in process 1' in str(error) for error in found)
    assert not any("python" in str(error) for error in found)


def test_a_process_that_fails_tells_the_others_and_keeps_its_own_error():
    def fails(own):
        with own.telling_failures():
            raise DataError("train.jsonl:3: no such file")

    bad, good = all_at_once(fails, lambda own: own.say("ready"))
    assert isinstance(bad, DataError)
    assert (str(good), good.exit_code) == ("process 0: train.jsonl:3: no such file", 3)


def test_a_signal_to_one_process_while_it_starts_is_a_signal_to_all():
    def stopped(own):
        with own.telling_failures():
            raise Stopped(75, "stopped by a signal")

    _, other = all_at_once(stopped, lambda own: own.say("ready"))
    assert isinstance(other, Stopped)
    assert other.exit_code == 75


def test_a_process_that_says_nothing_is_lost(store):
    (found,) = [Processes(0, 2)]
    with pytest.raises(LostProcessError, match="says nothing: DEADLINE_EXCEEDED"):
        found.say("hello")


def test_alone_every_question_has_its_answer_and_no_error_is_changed():
    alone = Processes()
    assert alone.say("x") == ["x"]
    alone.require_same({"a": 1})
    alone.leave()
    with pytest.raises(DataError), alone.telling_failures():
        raise DataError("own")
    with pytest.raises(jax.errors.JaxRuntimeError), noticing_lost_processes(alone):
        raise jax.errors.JaxRuntimeError("INTERNAL: ours")


def test_of_several_processes_a_lost_connection_is_one_message_and_the_same_command_goes_on():
    with (
        pytest.raises(
            LostProcessError, match=r"process 1: another process of this run is gone.*same command"
        ) as caught,
        noticing_lost_processes(Processes(1, 2)),
    ):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo: connection closed by peer\nmore")
    assert caught.value.exit_code == 75


def test_the_strongest_wish_to_stop_is_heard_one_step_later():
    agree = StepAgreement(jax.devices()[:2])
    assert [agree(code) for code in (0, 75, 75, 130, 0)] == [0, 0, 75, 75, 130]
    assert isinstance(agree(0), int)
    assert np.array(agree(0)) == 0


def test_that_a_batch_lacks_rows_somewhere_is_known_of_its_own_step():
    agree = StepAgreement(jax.devices()[:2])
    asked = []
    for lacks in (False, True, False):
        agree(0, lacks_rows=lacks)
        asked.append(agree.has_lack())
    assert [ask() for ask in asked] == [False, True, False]
