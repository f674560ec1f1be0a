"""What is told of a run that one watches."""

import json
import os
import socket

import pytest

from dsrun.record import EventLog, RunDir
from dsrun.study.watching import WatchedRun
from tests.study.run_folders import write_run_folder

LOG = "2026-11-26T10:00:00  runs/a: 407 utterances, 26 steps an epoch, 1950 in all, 8 batch shapes to compile\n"


def watched(folder, **config):
    run = WatchedRun(folder, {"training.epochs": 4} | config)
    run.look()
    return run


def test_a_row_has_the_newest_figures_and_the_speed_of_the_recent_steps(tmp_path):
    folder = write_run_folder(tmp_path / "a", state="running", events=[("watch", 8, {"swallowed_share": 0.25})])
    (folder / "log.txt").write_text(LOG)
    row = watched(folder).row()
    assert row["step"] == 8
    assert row["total_steps"] == 1950
    assert (row["epoch"], row["epochs"]) == (4, 4)
    assert (row["dev_cer"], row["best_dev_cer"]) == (0.3, 0.3)
    assert row["utterances_a_second"] == pytest.approx(32)
    assert row["seconds_left"] == pytest.approx((1950 - 8) * 0.5)
    assert row["swallowed_share"] == 0.25
    assert json.loads(json.dumps(row)) == row


def test_how_many_steps_there_will_be_is_said_by_costs_else_by_the_log_else_by_nobody(tmp_path):
    folder = write_run_folder(tmp_path / "a", step_fields={"epoch": 0})  # a guess from what was logged would be wrong
    assert watched(folder).total_steps is None
    (folder / "log.txt").write_text(LOG)
    assert watched(folder).total_steps == 1950
    (folder / "costs.json").write_text('{"steps_per_epoch": 5}')
    assert watched(folder).total_steps == 20


def test_steps_that_were_not_finite_are_counted_and_their_losses_are_gaps(tmp_path):
    folder = write_run_folder(tmp_path / "a", steps=3, step_fields={"loss": float("nan"), "finite": False})
    run = watched(folder)
    assert run.skipped == 3
    assert all(loss != loss for loss in run.losses)
    assert run.row()["loss"] is None


def test_a_resume_that_cuts_records_back_leaves_no_loop_in_the_curve(tmp_path):
    folder = write_run_folder(tmp_path / "a", steps=8)
    run = watched(folder)
    log = EventLog(folder / "events.jsonl")
    log.truncate_after(5)
    log.append("step", 6, loss=1.0, finite=True, epoch=2)
    log.close()
    run.look()
    assert run.steps == [1, 2, 3, 4, 5, 6]
    assert [e["step"] for e in run.evaluations] == [2, 4]


def test_running_without_its_process_is_killed_and_on_another_machine_nobody_knows(tmp_path):
    folder = write_run_folder(tmp_path / "a", state="running")
    (folder / ".lock").write_text("process 1 on host another\n")
    assert watched(folder).state == "running"
    (folder / ".lock").write_text(
        f"process {os.getpid()} on host {socket.gethostname()}\n"
    )  # an id that is another's by now
    assert watched(folder).state == "killed"
    with RunDir(folder) as run:
        run._take_lock()
        assert watched(folder).state == "running"


def test_silence_is_told_after_minutes_and_only_of_a_run_that_claims_to_be_running(tmp_path):
    folder = write_run_folder(tmp_path / "a", state="running")
    run = watched(folder)
    now = run.newest
    assert run.note(now + 200) == ""
    assert run.note(now + 660) == "no news for 11 minutes"
    assert run.note(now + 20000) == "no news for 6 hours"
    ended = watched(write_run_folder(tmp_path / "b", state="done"))
    assert ended.note(now + 20000) == ""


def test_slow_steps_take_longer_to_be_silence(tmp_path):
    folder = write_run_folder(tmp_path / "a", state="running", step_fields={"seconds": 60.0})
    run = watched(folder)
    assert run.note(run.newest + 1100) == ""
    assert run.note(run.newest + 1300) == "no news for 22 minutes"


def test_the_sample_and_the_warnings_are_the_newest_of_the_log(tmp_path):
    folder = write_run_folder(tmp_path / "a")
    time = "2026-11-26T10:00:00"
    text = f"{time}      said: one\n    read: won\n{time}  note: a thing\n{time}      said: two\n    read: too\n"
    (folder / "log.txt").write_text(text)
    said, warnings = watched(folder).log_lines()
    assert said == "said: two\nread: too"
    assert warnings == [f"{time}  note: a thing"]


def test_damaged_files_are_told_and_do_not_end_the_watching(tmp_path):
    folder = write_run_folder(tmp_path / "a", state="running")
    (folder / "status.json").write_text("{")
    run = watched(folder)
    assert "status.json" in run.row()["note"]
    (folder / "status.json").write_text('{"state": "done", "step": 8}')
    run.look()
    assert run.row()["note"] == ""


def test_records_of_other_types_than_dsruns_are_no_figures(tmp_path):
    odd = {"loss": "x", "seconds": [], "epoch": "one", "loss_scale": True, "cer": "low"}
    more = {"step": {"utterances": {}}, "unreadable": {"utterances": 2}, "environment": {"changed": 1}, "eval": {}}
    events = [*((kind, 9, odd | fields) for kind, fields in more.items()), ("watch", 9, {"swallowed_share": "all"})]
    row = watched(write_run_folder(tmp_path / "a", events=events)).row()
    assert [row[name] for name in ("loss", "epoch", "dev_cer", "loss_scale", "swallowed_share")] == [None] * 5
    assert row["best_dev_cer"] == 0.3
