"""`dsrun diff` and `dsrun verify` on real runs: a bit flipped on purpose, a changed setting, a repetition."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import plain_environment, shortest_prompts, write_config, write_rows
from test_cli import REPOSITORY, dsrun, require_message

from dsrun.record.tensor_hashes import read_tensor_hashes

pytestmark = pytest.mark.slow
STEP = 17
# Training as the command line has it, but for one bit of one weight after one update.
PLANTED = """
import sys
import jax, numpy as np
from dataclasses import replace
from dsrun.training import step as steps

step, sys.argv = int(sys.argv[1]), sys.argv[1:]
update, count = steps.TrainStep.update, 0

def flipped(state):
    leaves, structure = jax.tree_util.tree_flatten(state.master)
    bits = np.array(leaves[5])
    bits.view(np.uint32).reshape(-1)[3] ^= 1
    leaves[5] = jax.device_put(bits, leaves[5].device)
    return replace(state, master=jax.tree_util.tree_unflatten(structure, leaves))

def planted(self, state, total):
    global count
    state, record = update(self, state, total)
    count += 1
    if count == step:
        copies = getattr(state, "copies", None)
        state = replace(state, copies=tuple(map(flipped, copies))) if copies else flipped(state)
    return state, record

steps.TrainStep.update = planted
from dsrun.cli import app
app(prog_name="dsrun")
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = shortest_prompts(12)
    train, dev = write_rows(folder / "train.jsonl", rows[:8]), write_rows(folder / "dev.jsonl", rows[8:])
    often = {"checkpoint_every_steps": STEP, "keep_every_steps": STEP, "digest_every_steps": 10}
    return write_config(folder, train=train, dev=dev, epochs=10, evaluate_every_epochs=10, **often)


@pytest.fixture(scope="module")
def finished(config):
    run = config.parent / "finished"
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    return run


def test_a_bit_flipped_in_one_weight_after_step_17_is_found_there(config, finished):
    run = config.parent / "planted"
    arguments = ["train", "--config", str(config), "--run-dir", str(run)]
    environment = plain_environment()
    command = [sys.executable, "-c", PLANTED, str(STEP), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    found = dsrun("diff", finished, run, "--json")
    assert found.returncode == 1, found.stderr
    report = json.loads(found.stdout)
    assert (report["equal_up_to"], report["first_different"], len(report["tensors"])) == (STEP - 1, STEP, 1)
    (tensor,) = report["checkpoint"]["tensors"]
    assert report["checkpoint"]["step"] == STEP
    assert tensor["name"] == report["tensors"][0]["name"]
    assert tensor["name"].startswith("master/")
    assert (tensor["differing"], tensor["largest_ulps"]) == (1, 1)
    assert (report["config"], report["provenance"], report["flags"]) == ([], [], [])
    text = dsrun("diff", finished, run).stdout
    assert f"DIFFERENT from step {STEP} on (equal up to step {STEP - 1}), by tensor hashes" in text
    wrong = dsrun("verify", run, "--steps", 20)
    assert wrong.returncode == 1, wrong.stderr
    assert f"DIFFERENT at step {STEP} (equal up to step {STEP - 1}), by tensor hashes" in wrong.stdout
    assert "fault of the hardware or of dsrun" in wrong.stdout


def test_a_repetition_is_verified_writes_nothing_and_names_what_has_changed_since(finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    facts = json.loads((copy / "provenance.json").read_text())
    facts["packages"]["numpy"] = "1.0"
    (copy / "provenance.json").write_text(json.dumps(facts))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    result = dsrun("verify", copy, "--steps", 3, "--devices", 1)
    assert result.returncode == 0, result.stderr
    assert "verified up to step 3: tensor hashes of 3 steps" in result.stdout
    assert 'warning: packages.numpy was "1.0"' in result.stderr
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    hashes = read_tensor_hashes(copy / "tensor_hashes.bin")
    content = bytearray((copy / "tensor_hashes.bin").read_bytes())
    content[8 * (1 + len(hashes.names)) + 8] ^= 1  # of step 2
    (copy / "tensor_hashes.bin").write_bytes(content)
    require_message(dsrun("verify", copy, "--steps", 3), 3, "tensor_hashes.bin: damaged", "step 2")


def test_another_setting_is_named_beside_the_first_difference(config, finished):
    run = config.parent / "other"
    changes = ("--set", "training.clip_norm=0.5", "--set", "training.epochs=2")
    assert dsrun("train", "--config", config, "--run-dir", run, *changes).returncode == 0
    found = dsrun("diff", finished, run, "--json")
    assert found.returncode == 1, found.stderr
    report = json.loads(found.stdout)
    assert report["first_different"] == 1
    assert {"key": "training.clip_norm", "a": 100.0, "b": 0.5} in report["config"]
    same = dsrun("diff", finished, finished)
    assert same.returncode == 0
    assert "the same bits up to step 20" in same.stdout
