"""What takes turns, and what is made of the times."""

import jax
import jax.numpy as jnp
import pytest

from dsrun.study import stopwatch
from dsrun.study.stopwatch import compile_program, peak_memory, quartiles, ratios, summary, take_turns


def test_contenders_are_called_in_turn_and_warm_up_does_not_count():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_a_short_call_is_repeated_within_its_turn_and_its_figure_stays_that_of_one_call(monkeypatch):
    clock, calls = [0.0], []

    def call():
        calls.append(clock[0])
        clock[0] += 0.02

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    times = take_turns({"a": call}, 2, warm_up=1, turn_seconds=0.05)
    assert len(calls) == 1 + 2 * 3
    assert times["a"] == pytest.approx([0.02, 0.02])


def test_a_ratio_is_of_one_round_each_so_a_busy_round_meets_both():
    quiet, busy = 1.0, 10.0
    assert ratios([2 * quiet, 2 * busy, 2 * quiet], [quiet, busy, quiet]) == [2.0, 2.0, 2.0]


def test_one_sample_is_its_own_spread():
    assert quartiles([3.0]) == [3.0, 3.0, 3.0]
    found = summary([1.0, 5.0, 3.0], "seconds_a_step")
    assert found["seconds_a_step_median"] == 3.0
    assert (found["seconds_a_step_lowest"], found["seconds_a_step_highest"], found["repeats"]) == (1.0, 5.0, 3)


def test_a_program_is_compiled_once_and_says_what_it_plans():
    x = jnp.ones((64, 64), jnp.float32)
    program = compile_program(lambda x: x * 2.0, x)
    assert float(program(x)[0, 0]) == 2.0
    assert program.compile_seconds > 0.0
    assert program.planned_bytes >= 2 * x.nbytes


def test_peak_memory_says_what_was_counted():
    found = peak_memory(jax.devices("cpu")[0])
    assert found["peak_memory_bytes"] > 2**20
    assert "process" in found["peak_memory_is"]
