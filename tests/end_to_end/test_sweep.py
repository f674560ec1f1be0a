"""A sweep that is killed and started again: nothing is lost, nothing is run twice, and the bits are those of runs trained alone."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import checkpoint_digests, plain_environment, shortest_prompts, write_config, write_rows

from dsrun.record import RunDir, read_events

STEPS = 12


def dsrun(folder, *words):
    command = [sys.executable, "-m", "dsrun", "sweep", "four.yaml", *words]
    return subprocess.Popen(
        command, cwd=folder, env=plain_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=2000)
    assert process.returncode == 0, err
    return out, err


def wait_until(condition):
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(3000)  # ten processes that compile, two at a time
def test_a_sweep_killed_midway_and_started_again_ends_as_its_runs_trained_alone(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", shortest_prompts(8))
    write_config(tmp_path, train=train, dev=write_rows(tmp_path / "dev.jsonl", shortest_prompts(2)), epochs=STEPS // 2)
    (tmp_path / "four.yaml").write_text(
        "base: tiny.yaml\nlist: [{name: a}, {name: b, set: {arithmetic.storage: {format: float16, rounding: ties_to_even}}}]\n"
        "grid: {seed: [1, 2]}\n"
    )
    rows = json.loads(finish(dsrun(tmp_path, "--list", "--json"))[0])
    runs = [RunDir(tmp_path / row["run"]) for row in rows]

    killed = dsrun(tmp_path, "--jobs", "2")
    wait_until(lambda: any(event["event"] == "checkpoint" for event in read_events(runs[0].events)))
    killed.kill()
    killed.communicate()
    wait_until(lambda: not any(run.is_in_use() for run in runs))
    states = [run.read_status().get("state") for run in runs]
    assert states[2:] == [None, None], "not begun"
    assert all(
        state in ("stopped", "done") or not run.events.exists() for run, state in zip(runs[:2], states, strict=False)
    ), "its runs were told and ended in order"

    out, err = finish(dsrun(tmp_path, "--jobs", "2", "--json"))
    document = json.loads(out)
    assert [(row["state"], row["step"]) for row in document["runs"]] == [("done", STEPS)] * 4
    assert "goes on from its last checkpoint" in err or "done already" in err
    for run, state in zip(runs, states, strict=True):
        steps = Counter(event["step"] for event in read_events(run.events) if event["event"] == "step")
        assert steps == dict.fromkeys(range(1, STEPS + 1), 1)
        begun = len(run.command.read_text().splitlines())
        assert begun == (2 if state == "stopped" else 1), "resumed, not run twice"

    logs = [Path(f"{run.path}.log").read_bytes() for run in runs]
    _, err = finish(dsrun(tmp_path))
    assert err.count("done already") == 4
    assert logs == [Path(f"{run.path}.log").read_bytes() for run in runs]

    alone = {index: dsrun(tmp_path, "--index", str(index), "--folder", "alone") for index in (0, 3)}
    for index, process in alone.items():
        finish(process)
        found = tmp_path / "alone" / runs[index].path.name
        assert checkpoint_digests(runs[index].path)[STEPS] == checkpoint_digests(found)[STEPS]
        assert (found / "config.yaml").read_bytes() == runs[index].config.read_bytes()
