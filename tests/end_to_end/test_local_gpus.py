"""Several processes started by scripts/local_gpus.sh: real ones, on CPU devices, which talk to one another over Gloo."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from corpus import REPOSITORY, plain_environment, shortest_prompts, write_config, write_rows

from dsrun.record import read_events


@pytest.mark.slow
def test_processes_that_the_script_starts_have_the_bits_of_one_process_at_every_step(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", shortest_prompts(8))
    dev = write_rows(tmp_path / "dev.jsonl", shortest_prompts(2))
    config = write_config(tmp_path, train=train, dev=dev, epochs=2, evaluate_every_epochs=2)
    program = tmp_path / "dsrun"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dsrun "$@"\n')
    program.chmod(0o755)
    kept = plain_environment()
    hashes = {}
    for processes in (1, 2):
        run = tmp_path / f"run{processes}"
        own = ["--cpu", "--processes", processes, "--devices", 1, "--config", config, "--run-dir", run]
        result = subprocess.run(
            [REPOSITORY / "scripts/local_gpus.sh", *map(str, own)],
            env=kept | {"DSRUN": str(program), "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        events = read_events(run / "events.jsonl")
        assert {event["event"] for event in events} >= {"step", "checkpoint"}
        hashes[processes] = [
            event.get("state_hash", event.get("digest")) for event in events if event["event"] != "eval"
        ]
    assert "2 processes" in result.stderr, "both runs were of one process"
    assert hashes[1] == hashes[2]
    assert None not in hashes[1]
