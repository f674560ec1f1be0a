"""Run folders with figures that no training writes: they count as absent, or are one message, and a report is made of the rest."""

import json
import os

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.inspection import open_run, open_runs
from dsrun.record.magnitudes import watched_steps
from dsrun.study.bytes_and_time import bytes_and_time
from dsrun.study.compare import costs_of
from dsrun.study.learning_curves import learning_curves
from dsrun.study.loss_scale import loss_scale
from dsrun.study.statistics import known_rate
from dsrun.study.verdict_strip import verdict_strip
from tests.study.run_folders import write_run_folder

FLOAT16 = {"arithmetic.storage.format": "float16"}
HUGE = 10**400
NO_FIGURES = [None, "x", [], {}, -1, HUGE, -HUGE, float("inf"), float("nan")]


@pytest.mark.parametrize("value", [*NO_FIGURES, 1e308], ids=lambda value: str(value)[:8])
def test_seconds_that_no_step_takes_are_not_known(tmp_path, value):
    folder = write_run_folder(tmp_path / "a")
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(e | ({"seconds": value} if e["event"] == "step" else {})) + "\n" for e in lines)
    (folder / "events.jsonl").write_text(text)
    run = open_run(folder)
    assert np.isnan(run.steps.seconds).all()
    assert (run.seconds_a_step, run.training_seconds) == (None, None)
    assert learning_curves([run]) is not None


def test_a_step_that_took_no_time_has_no_other_relative_to_it(tmp_path):
    write_run_folder(tmp_path / "a", step_fields={"seconds": 0})
    write_run_folder(tmp_path / "b", config=FLOAT16)
    exhibit = bytes_and_time(open_runs([tmp_path]))
    assert exhibit.caption.startswith("Times and bytes of these settings cannot be compared.")
    assert not [row for row in exhibit.rows if "relative" in row["what"]]
    assert verdict_strip(open_runs([tmp_path])).rows[1]["time to baseline's"] is None


@pytest.mark.parametrize("value", [0, -8.0, HUGE, float("inf"), "x"])
def test_a_loss_scale_that_is_no_scale_is_not_drawn(tmp_path, value):
    folder = write_run_folder(tmp_path / "a", step_fields={"loss_scale": 4.0})
    text = (folder / "events.jsonl").read_text().replace('"loss_scale": 4.0', f'"loss_scale": {json.dumps(value)}', 3)
    (folder / "events.jsonl").write_text(text)
    exhibit = loss_scale(open_runs([folder]))
    assert {row["value"] for row in exhibit.rows} == {4.0}


@pytest.mark.parametrize("size", [True, -1, HUGE, 1.5, "4", None])
def test_bytes_that_are_none_are_absent(tmp_path, size):
    folder = write_run_folder(tmp_path / "a")
    role = {"as_carried": size, "as_formats": size}
    (folder / "costs.json").write_text(json.dumps({"bytes": {"master": role}, "parameters": size}))
    runs = open_runs([folder])
    assert verdict_strip(runs).rows[0]["bytes"] is None
    assert [costs_of(runs)[name] for name in ("parameters", "bytes_as_formats", "bytes_as_carried")] == [None] * 3


@pytest.mark.parametrize("rate", NO_FIGURES, ids=lambda rate: str(rate)[:8])
def test_an_error_rate_that_is_none_is_no_evaluation(tmp_path, rate):
    folder = write_run_folder(tmp_path / "a", steps=4, dev_cer=[0.5])
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "eval", "step": 4, "cer": rate, "wer": rate}) + "\n")
    run = open_run(folder)
    assert [event["cer"] for event in run.evaluations] == [0.5]
    assert known_rate(run, "dev", "characters") == 0.5


@pytest.mark.parametrize("step", [-1, 2**53, HUGE, True, 1.0])
def test_a_step_that_no_run_reaches_is_one_message(tmp_path, step):
    folder = write_run_folder(tmp_path / "a")
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "step", "step": step}) + "\n")
    with pytest.raises(DataError, match=r"events\.jsonl:13: not a record"):
        open_run(folder)


def test_events_that_are_a_folder_are_one_message(tmp_path):
    folder = write_run_folder(tmp_path / "a")
    (folder / "events.jsonl").unlink()
    (folder / "events.jsonl").mkdir()
    with pytest.raises(DataError, match=r"events\.jsonl: cannot be read"):
        open_run(folder)


def test_a_pipe_and_a_link_to_itself_are_no_watched_steps(tmp_path):
    os.mkfifo(tmp_path / "step_000001.npz")
    (tmp_path / "step_000002.npz").symlink_to("step_000002.npz")
    (tmp_path / "step_000003.npz").touch()
    assert watched_steps(tmp_path) == [3]


def test_costs_that_are_nested_without_end_are_read_as_deep_as_dsrun_writes(tmp_path):
    folder = write_run_folder(tmp_path / "a")
    (folder / "costs.json").write_text('{"bytes": ' + '{"a": ' * 500 + "1" + "}" * 501)
    assert verdict_strip(open_runs([folder])).rows[0]["bytes"] is None
