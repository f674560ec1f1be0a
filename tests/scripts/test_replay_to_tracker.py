"""The script that feeds trackers: what a file for another program holds, and what is said where a tracker is missing."""

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

from dsrun.errors import UsageError
from tests.study.run_folders import write_run_folder

PATH = Path(__file__).parents[2] / "scripts" / "replay_to_tracker.py"
spec = importlib.util.spec_from_file_location("replay_to_tracker", PATH)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["replay_to_tracker.py", *map(str, arguments)])
    script.main()


def test_jsonl_has_each_figure_at_its_step_and_null_for_what_was_not_finite(tmp_path, monkeypatch, capsys):
    folder = write_run_folder(tmp_path / "a", steps=2, dev_cer=(0.5,), step_fields={"grad_norm": math.inf})
    for _ in range(2):  # written again, not appended to
        run(monkeypatch, "--to", "jsonl", folder, "--out", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    assert [(x["step"], x["seconds"], x["train/loss"]) for x in lines if "train/loss" in x] == [
        (1, 0.5, 50.0),
        (2, 1.0, 25.0),
    ]
    assert [x["dev/cer"] for x in lines if "dev/cer" in x] == [0.5]
    assert all(x["train/grad_norm"] is None for x in lines if "train/loss" in x)
    assert capsys.readouterr().out.startswith("a  ")


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_with_its_package(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    options = argparse.Namespace(out=tmp_path, project="dsrun")
    with pytest.raises(UsageError, match=f"pip install {name}"):
        script.ADAPTERS[name]("a", {}, options)
