"""Whole runs that meet trouble: signals at every moment, a full disk, recordings that vanish. Each ends as if nothing had happened."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import REPOSITORY, plain_environment, shortest_prompts, write_config, write_rows
from test_cli import dsrun, require_message

from dsrun.record import read_events

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = shortest_prompts(12)
    for row in rows:  # copies: tests take them away
        row["audio_filepath"] = shutil.copy(row["audio_filepath"], folder)
    train, dev = write_rows(folder / "train.jsonl", rows[:8]), write_rows(folder / "dev.jsonl", rows[8:])
    return write_config(folder, train=train, dev=dev, test=dev, checkpoint_every_steps=1)


@pytest.fixture(scope="module")
def finished(config):
    run = config.parent / "finished"
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    return run


def comparable(run):
    """Records by step, without times and without those of interruptions."""
    records = [record for record in read_events(run / "events.jsonl") if record["event"] not in ("stop", "environment")]
    records = [{key: value for key, value in record.items() if "seconds" not in key} for record in records]
    return sorted(records, key=lambda record: (record["step"], record["event"]))


def status(run):
    return json.loads((run / "status.json").read_text())


# `dsrun train`, to which something happens at a moment.
AT_A_MOMENT = """
import hashlib, os, signal, sys, threading, time
from pathlib import Path
from dsrun import build, cli, experiment
from dsrun.evaluation.evaluate import Evaluator

moment, number, victim = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.argv = ["dsrun", *sys.argv[4:]]

def signalled(*arguments, **options):
    os.kill(os.getpid(), number)
    time.sleep(100)

def deaf(*arguments, **options):
    threading.Timer(0.5, lambda: os.kill(os.getpid(), number)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

evaluate, score = Evaluator.__call__, experiment.evaluate_run

def evaluate_signalled(self, weights, statistics, batches, **options):
    os.kill(os.getpid(), number)
    return evaluate(self, weights, statistics, batches, **options)

def score_without(*arguments, **options):
    os.rename(victim, victim + ".gone")
    return score(*arguments, **options)

if moment == "loading":
    build.build_training_data = signalled
elif moment == "compiling":
    experiment.Loop.run = deaf
elif moment == "evaluating":
    Evaluator.__call__ = evaluate_signalled
elif moment == "scoring":
    experiment.evaluate_run = signalled
elif moment == "vanishing":
    experiment.evaluate_run = score_without
cli.main()
"""


def train_with(moment, config, run, *, number=15, victim="none"):
    environment = plain_environment()
    command = [sys.executable, "-c", AT_A_MOMENT, moment, str(number), str(victim)]
    command += ["train", "--config", str(config), "--run-dir", str(run)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=300)


def test_a_run_signalled_while_loading_compiling_evaluating_and_scoring_ends_as_an_undisturbed_one(config, finished):
    run = config.parent / "signalled"
    for moment, number, code, step in (
        ("loading", 15, 75, 0),
        ("compiling", 10, 75, 0),
        ("evaluating", 15, 75, 2),
        ("evaluating", 2, 130, 2),  # the evaluation that was given up comes first, and is given up again
        ("scoring", 10, 75, 6),
    ):
        result = train_with(moment, config, run, number=number)
        require_message(result, code)
        assert (status(run)["state"], status(run)["exit_code"], status(run)["step"]) == ("stopped", code, step), moment
    # Once for each time that it was stopped with a state.
    assert [record["step"] for record in read_events(run / "events.jsonl") if record["event"] == "stop"] == [2, 2]
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    assert comparable(run) == comparable(finished)
    assert (run / "evaluation" / "dev.jsonl").read_bytes() == (finished / "evaluation" / "dev.jsonl").read_bytes()


def test_a_recording_that_vanishes_is_named_and_when_it_is_back_the_run_ends_as_undisturbed(config, finished):
    run = config.parent / "vanished"
    row = json.loads((config.parent / "dev.jsonl").read_text().splitlines()[0])
    victim = Path(row["audio_filepath"])
    # A running process has its recordings in memory; only scoring reads them again.
    require_message(train_with("vanishing", config, run, victim=victim), 3, f"{victim}: no such file", row["id"])
    assert (status(run)["state"], status(run)["exit_code"], status(run)["step"]) == ("failed", 3, 6)
    require_message(dsrun("train", "--config", config, "--run-dir", run), 3, f"{victim}: no such file", row["id"])
    shutil.move(f"{victim}.gone", victim)
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    assert comparable(run) == comparable(finished)


def test_a_recording_that_changed_is_named_on_a_resume_and_nothing_is_lost(config, finished):
    run = config.parent / "changed"
    assert train_with("evaluating", config, run).returncode == 75
    files = (run / "recordings.sha256").read_text()
    assert len(files.splitlines()) == 12
    for split in ("dev", "train"):
        rows = [json.loads(line) for line in (config.parent / f"{split}.jsonl").read_text().splitlines()]
        victim = Path(rows[0]["audio_filepath"])
        content = victim.read_bytes()
        # Nearly as long, or the manifest's duration would tell.
        victim.write_bytes(Path(rows[1]["audio_filepath"]).read_bytes())
        before = (run / "events.jsonl").read_bytes(), status(run)
        result = dsrun("train", "--config", config, "--run-dir", run)
        require_message(result, 3, f"{victim}: changed since the run")
        assert ((run / "events.jsonl").read_bytes(), status(run)) == before
        victim.write_bytes(content)
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    assert comparable(run) == comparable(finished)


def test_a_full_disk_ends_the_run_with_one_message_and_with_room_the_same_command_goes_on(config, finished, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    checkpoint = next((finished / "checkpoints").iterdir())
    size = sum(path.stat().st_blocks * 512 for path in checkpoint.rglob("*"))
    small = ["mount", "-t", "tmpfs", "-o", f"size={3 * size // 2 + 100_000}", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(small, capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs needs root and the right to mount")
    options = ("--config", config, "--run-dir", mount / "run", "--set", "training.compilation_cache=false")
    try:
        result = dsrun("train", *options)
        require_message(result, 3, "could not be written", "No space left on device", str(mount))
        assert (mount / "run" / "checkpoints" / "step_000001").is_dir()
        assert not list((mount / "run" / "checkpoints").glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=200m", str(mount)], check=True)
        result = dsrun("train", *options)
        assert result.returncode == 0, result.stderr
        assert "resuming from step" in result.stderr
        assert comparable(mount / "run") == comparable(finished)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_small_kill_drill_finds_nothing(tmp_path):
    command = [sys.executable, "scripts/kill_drill.py", "--lives", "3", "--seed", "2", "--steps", "20"]
    command += ["--most-devices", "2", "--ways", "kill", "point", "term", "--folder", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "records as undisturbed" in result.stdout
