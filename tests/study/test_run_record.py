"""What a run folder says, and what an old, cut or strange one does not."""

import json
import math

import numpy as np
import pytest

from dsrun.errors import DataError, UsageError
from dsrun.inspection import open_run, open_runs
from dsrun.run_listing import list_runs
from dsrun.study.exhibit import MOST_POINTS, thinned
from tests.study.run_folders import write_run_folder

TEXTS = {"dev": [("a", "hello there", "hello here"), ("b", "yes", "yes")]}


def test_a_record_has_the_series_the_best_evaluation_and_the_results(tmp_path):
    run = open_run(write_run_folder(tmp_path / "run", dev_cer=(0.9, 0.3, 0.3, 0.5), texts=TEXTS))
    assert run.steps.loss.tolist() == [50.0 / step for step in range(1, 9)]
    assert run.best["step"] == 4  # of two equal ones the first
    assert run.results("dev").characters.errors == 1
    assert run.results("test") is None
    assert (run.commit, run.device, run.seconds_a_step, run.state) == ("0123456", "A processor", 0.5, "done")


def test_a_figure_that_is_null_or_absent_is_nan_and_not_zero(tmp_path):
    run = open_run(write_run_folder(tmp_path / "run", step_fields={"loss": float("nan")}))
    assert np.isnan(run.steps.loss).all()
    assert np.isnan(run.steps.blank_share).all()


def test_a_folder_of_before_the_first_step_has_nothing_and_no_guess(tmp_path):
    folder = write_run_folder(tmp_path / "run")
    for name in ("events.jsonl", "status.json", "provenance.json"):
        (folder / name).unlink()
    run = open_run(folder)
    found = (run.state, run.best, run.seconds_a_step, run.commit, run.device, run.costs, run.exit_code)
    assert found == ("new", None, None, None, None, {}, None)
    assert len(run.steps) == 0


def test_a_folder_of_runs_stands_for_its_runs_each_taken_once(tmp_path):
    for name in ("b", "a"):
        write_run_folder(tmp_path / "sweep" / name)
    found = open_runs([tmp_path / "sweep" / "b", tmp_path / "sweep", tmp_path / "sweep" / "a" / ".." / "a"])
    assert [run.name for run in found] == ["b", "a"]


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        open_runs([tmp_path / "none"])
    with pytest.raises(UsageError, match="neither a run folder"):
        open_runs([tmp_path])


def test_damaged_costs_are_told_with_the_file(tmp_path):
    folder = write_run_folder(tmp_path / "run")
    (folder / "costs.json").write_text("[")
    with pytest.raises(DataError, match=r"costs\.json"):
        _ = open_run(folder).costs
    (folder / "costs.json").write_text(json.dumps({"parameters": 7}))
    assert open_run(folder).costs == {"parameters": 7}


def test_a_thinned_curve_keeps_its_ends_its_spike_and_its_gap():
    x = np.arange(10_000.0)
    y = np.sin(x / 1000)
    y[7777], y[3333] = 50.0, math.nan
    kept_x, kept_y = thinned(x, y)
    assert len(kept_x) <= 2 * MOST_POINTS
    assert kept_x[0] == 0
    assert kept_x[-1] == 9999
    assert 7777 in kept_x
    assert 3333 in kept_x
    assert np.isnan(kept_y[kept_x == 3333]).all()
    assert (np.diff(kept_x) > 0).all()


def test_the_rate_on_test_of_a_run_without_a_test_set_is_not_devs(tmp_path):
    """Whoever says "test": `runs`, `sweep --list`, `compare`."""
    result = {"result": {"step": 8, "cer": 0.5, "wer": 0.75}}
    for name, config in (("a", {}), ("b", {"data.test": None})):
        write_run_folder(tmp_path / name, config=config, status=result)
    write_run_folder(tmp_path / "c", status={"result": {"step": 8, "cer": "x", "wer": True}})
    assert [row["test_cer"] for row in list_runs([tmp_path])] == [0.5, None, None]
    assert [run.test_rate("wer") for run in open_runs([tmp_path])] == [0.75, None, None]
