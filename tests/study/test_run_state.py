"""One decision on a run's state, its steps and its test result, whoever tells of it."""

import json
import socket

import pytest

from dsrun.inspection import open_run
from dsrun.record import RunDir
from dsrun.record.events import number
from dsrun.run_listing import describe_run
from dsrun.study import run_state
from dsrun.study.outcomes import outcome
from dsrun.study.replay import Replay
from dsrun.study.watching import WatchedRun
from tests.study.run_folders import write_run_folder

HERE = f"process 1 on host {socket.gethostname()}\n"


def told_by_all(folder):
    """The state by `runs`, `watch` and `compare`."""
    watched = WatchedRun(folder, {})
    watched.look()
    return describe_run(folder)["state"], watched.state, open_run(folder).state


@pytest.mark.parametrize(
    ("said", "exit_code", "lock", "state"),
    [
        ("running", None, HERE, "killed"),
        ("new", None, HERE, "killed"),
        ("running", None, "process 1 on host another\n", "running"),
        ("running", None, None, "running"),
        ("failed", 4, HERE, "diverged"),
        ("failed", 3, HERE, "failed"),
        ("stopped", 75, HERE, "stopped"),
        ("done", 0, HERE, "done"),
    ],
)
def test_runs_watch_and_compare_say_the_same_state(tmp_path, said, exit_code, lock, state):
    folder = write_run_folder(tmp_path / "a", state=said, status={"exit_code": exit_code})
    if lock:
        (folder / ".lock").write_text(lock)
    assert told_by_all(folder) == (state, state, state)
    assert Replay(folder, {}).is_ended() == (state != "running")


def test_a_report_tells_how_a_run_ended_in_the_same_words_on_every_machine(tmp_path):
    killed = write_run_folder(tmp_path / "a", state="running")
    (killed / ".lock").write_text(HERE)
    assert open_run(killed).state == "killed"  # of this machine's lock alone, which no copy of the folder has
    assert outcome(open_run(killed)).text == "was killed or is still going on at step 8"
    diverged = write_run_folder(tmp_path / "b", state="failed", status={"exit_code": 4})
    assert outcome(open_run(diverged)).kind == "diverged"


def test_a_run_that_ended_between_the_two_looks_was_not_killed(tmp_path):
    folder = write_run_folder(tmp_path / "a", state="done")
    (folder / ".lock").write_text(HERE)
    assert run_state.state_of(RunDir(folder), {"state": "running"}) == "done"


def test_without_locks_the_process_is_asked_for(tmp_path, monkeypatch):
    folder = write_run_folder(tmp_path / "a", state="running")
    (folder / ".lock").write_text(HERE)
    monkeypatch.setattr(RunDir, "_look_at_lock", lambda self: "no locks here")
    assert open_run(folder).state == "running"  # there is a process 1
    (folder / ".lock").write_text(f"process {2**40} on host {socket.gethostname()}\n")
    assert open_run(folder).state == "running"  # a number that no process can have says nothing


def test_the_result_without_a_test_set_is_none_of_test(tmp_path):
    status = {"result": {"step": 8, "cer": 0.25, "wer": 0.5}}
    with_test, without = (
        write_run_folder(tmp_path / name, config={"data.test": manifest}, status=status)
        for name, manifest in (("a", "/corpus/test.jsonl"), ("b", None))
    )
    assert describe_run(with_test)["test_cer"] == 0.25
    assert describe_run(without)["test_cer"] is None


@pytest.mark.parametrize("value", [True, 10**400, "0.5", None, [], float("nan"), float("inf")])
def test_what_is_no_finite_number_is_no_figure(value):
    assert number(value) is None


def test_steps_beyond_all_bounds_are_damage_and_no_total(tmp_path):
    folder = write_run_folder(tmp_path / "a")
    (folder / "costs.json").write_text(json.dumps({"steps_per_epoch": 10**30}))
    assert describe_run(folder)["total_steps"] is None
