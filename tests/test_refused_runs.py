"""A `dsrun train` that is refused before its first step leaves no run folder; one that trained, or found a run there, keeps all."""

from pathlib import Path

import pytest

from dsrun import experiment
from dsrun.config import load_config
from dsrun.errors import DataError, DivergedError, UsageError
from dsrun.record import RunDir
from dsrun.training.stop import StopRequest

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "prompts_float32.yaml"


def train_that_ends_in(error, run_dir, monkeypatch, *, mode="automatic", leaves=()):
    """`train_run` with a preparation that writes files into the run folder and then fails."""

    def prepare(*_args, **_options):
        for name in leaves:
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (run_dir / name).write_text("something\n")
        raise error

    monkeypatch.setattr(experiment, "prepare", prepare)
    with StopRequest() as stop, pytest.raises(type(error)):
        experiment.train_run(
            load_config(CONFIG), run_dir=run_dir, devices=None, mode=mode, command=["dsrun", "train"], stop=stop
        )


@pytest.mark.parametrize("error", [UsageError("--devices 99: this machine has 2."), DataError("no such file")])
def test_a_refused_start_leaves_nothing_in_a_folder_that_it_made_or_found_empty(tmp_path, monkeypatch, error):
    made, found = tmp_path / "runs" / "made", tmp_path / "found"
    found.mkdir()
    for run_dir in (made, found):
        train_that_ends_in(error, run_dir, monkeypatch, leaves=["log.txt", "autotune.textproto"])
    assert not made.exists()
    assert list(found.iterdir()) == []


def test_a_refusal_of_a_run_that_was_there_removes_nothing_of_it(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    with RunDir(run_dir) as run:
        run.open(experiment.to_yaml(load_config(CONFIG).config), command=["dsrun"])
    before = {path.name for path in run_dir.iterdir()}
    train_that_ends_in(UsageError("--devices 99"), run_dir, monkeypatch)
    assert before <= {path.name for path in run_dir.iterdir()}


@pytest.mark.parametrize(
    ("error", "leaves"),
    [
        (DivergedError("not finite"), []),
        (RuntimeError("a bug"), []),
        (DataError("no such file"), ["checkpoints/step_000006/manifest.json"]),
        (DataError("no such file"), ["events.jsonl"]),
    ],
)
def test_what_has_trained_or_is_no_mistake_of_the_users_is_kept_as_failed(tmp_path, monkeypatch, error, leaves):
    run_dir = tmp_path / "run"
    train_that_ends_in(error, run_dir, monkeypatch, leaves=leaves)
    assert RunDir(run_dir).read_status()["state"] == "failed"
    assert all((run_dir / name).is_file() for name in leaves)
