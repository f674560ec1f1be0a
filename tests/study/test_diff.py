"""`dsrun diff` on run folders made by hand: each kind of record, each difference, and damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsrun.cli_bits import print_diff
from dsrun.errors import DataError, UsageError
from dsrun.inspection import open_run
from dsrun.record import EventLog
from dsrun.record.tensor_hashes import TensorHashLog
from dsrun.study.diff import diff_runs
from dsrun.training import checkpoint
from dsrun.training.state_digest import digest_of_tensors

NAMES = ("loss_scale", "master/gru/u", "master/gru/w", "optimizer/00_of_1", "step")
FACTS = {
    "dsrun": "1",
    "packages": {"jax": "0.10"},
    "in_force": {"NPROC": "2", "XLA_FLAGS": "--a=0 --b=2"},
    "data": {"train": "abc"},
}


def state_at(step: int, flip: int | None) -> dict:
    """A state of which, from step `flip` on, one bit of a weight and then its moment differ."""
    w = np.arange(12, dtype=np.float32).reshape(3, 4) + step
    moment = np.zeros(3, np.float16)
    if flip is not None and step >= flip:
        w.view(np.uint32)[1, 2] ^= 1
        moment[:] = 1 if step > flip else 0
    return {
        "step": np.int32(step),
        "loss_scale": np.float32(1),
        "master": {"gru": {"u": np.ones(3, np.float32), "w": w}},
        "optimizer": {"00_of_1": moment},
    }


def words_of(state: dict) -> np.ndarray:
    """A stand-in for the device's hashes."""
    tensors = [state["loss_scale"], *state["master"]["gru"].values(), state["optimizer"]["00_of_1"], state["step"]]
    return np.array([hash(np.asarray(x).tobytes()) % 2**64 for x in tensors], np.uint64)


def write_run(
    folder: Path,
    *,
    steps: int = 20,
    flip: int | None = None,
    hash_every: int | None = 1,
    digest_every: int | None = 5,
    checkpoints: tuple[int, ...] = (),
    config: str = "seed: 1\nmodel: {hidden: 16, speeds: [1, 2]}\n",
    facts: dict = FACTS,
) -> Path:
    """A run folder with the records of so many steps."""
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    (folder / "provenance.json").write_text(json.dumps(facts))
    events = EventLog(folder / "events.jsonl")
    hashes = TensorHashLog(folder / "tensor_hashes.bin", NAMES, {"optimizer/00_of_1": "trace gru.w"})
    for step in range(1, steps + 1):
        state = state_at(step, flip)
        is_hashed = hash_every is not None and step % hash_every == 0
        hashed = {"state_hash": hashes.append(step, words_of(state))} if is_hashed else {}
        is_off = flip is not None and step > flip  # the loss of step n is of the state before it
        events.append("step", step, loss=1 / step + (0.125 if is_off else 0), **hashed)
        if digest_every is not None and step % digest_every == 0:
            events.append("digest", step, digest=digest_of_tensors(state))
        if step in checkpoints:
            digest = checkpoint.save(folder / "checkpoints", step, {"state": state}, {}, keep=99)
            events.append("checkpoint", step, digest=digest)
    events.close()
    hashes.close()
    return folder


def report_of(a: Path, b: Path) -> dict:
    report = diff_runs(open_run(a), open_run(b))
    json.dumps(report)
    return report


def test_equal_runs_are_the_same_up_to_the_end_of_the_shorter_one(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", steps=13)
    report = report_of(a, b)
    assert report["same"]
    assert (report["equal_up_to"], report["first_different"]) == (13, None)
    assert {row["what"]: row["steps"] for row in report["compared"]} == {
        "tensor hashes": 13, "state hashes": 13, "state digests": 2, "losses": 13,
    }  # fmt: skip
    assert (report["config"], report["provenance"], report["flags"], report["tensors"]) == ([], [], [], [])
    print_diff(report)
    assert "the same bits up to step 13, by tensor hashes; A goes on to step 20" in capsys.readouterr().out


def test_a_flipped_bit_is_found_at_its_step_in_its_tensor_with_its_distance(tmp_path, capsys):
    a = write_run(tmp_path / "a", checkpoints=(16, 17, 20))
    b = write_run(tmp_path / "b", checkpoints=(16, 17, 20), flip=17)
    report = report_of(a, b)
    assert not report["same"]
    assert (report["equal_up_to"], report["first_different"]) == (16, 17)
    assert [(row["name"], row["kind"]) for row in report["tensors"]] == [("master/gru/w", "master")]
    assert {row["what"]: row["first_different"] for row in report["compared"]} == {
        "tensor hashes": 17, "state hashes": 17, "state digests": 20, "losses": 18,
    }  # fmt: skip
    assert report["first_different_loss"] == {"step": 18, "a": 1 / 18, "b": 1 / 18 + 0.125}
    (tensor,) = report["checkpoint"]["tensors"]
    assert report["checkpoint"]["step"] == 17
    assert (tensor["elements"], tensor["differing"], tensor["largest_ulps"], tensor["first"]) == (12, 1, 1, (1, 2))
    assert tensor["bits"] == ("0x41b80000", "0x41b80001")
    print_diff(report)
    text = capsys.readouterr().out
    assert "DIFFERENT from step 17 on (equal up to step 16), by tensor hashes" in text
    assert "tensors that differ at step 17: 1 of 5 (master 1)\n  master/gru/w\n" in text


def test_without_a_common_checkpoint_of_that_step_a_later_one_is_read_or_the_setting_named(tmp_path, capsys):
    a = write_run(tmp_path / "a", checkpoints=(16, 17, 18))
    b = write_run(tmp_path / "b", checkpoints=(16, 18), flip=17)
    report = report_of(a, b)
    assert report["checkpoint"]["step"] == 18
    assert [row["name"] for row in report["checkpoint"]["tensors"]] == ["master/gru/w", "optimizer/00_of_1"]
    print_diff(report)
    assert "optimizer/00_of_1  (trace gru.w)" in capsys.readouterr().out
    c = write_run(tmp_path / "c", flip=17)
    report = report_of(a, c)
    assert report["checkpoint"] is None
    assert "--set training.checkpoint_every_steps=17" in report["checkpoint_notes"][-1]


def test_steps_that_one_run_did_not_hash_leave_a_gap_that_is_told(tmp_path):
    report = report_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", hash_every=4, flip=17))
    assert (report["equal_up_to"], report["first_different"]) == (16, 18)  # by its loss; hashes meet again at step 20
    assert report["compared"][0] == {
        "what": "tensor hashes", "steps": 5, "equal_up_to": 16, "first_different": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "what", "first_different"),
    [
        ({}, "tensor hashes", 17),
        ({"hash_every": None}, "state digests", 20),
        ({"hash_every": None, "digest_every": None, "checkpoints": (8, 18)}, "checkpoint digests", 18),
        ({"hash_every": None, "digest_every": None}, "losses", 18),
    ],
)
def test_the_strongest_record_that_both_have_is_compared_and_named(tmp_path, capsys, options, what, first_different):
    a = write_run(tmp_path / "a")
    if "checkpoints" in options:
        a = write_run(tmp_path / "older", **options)
    b = write_run(tmp_path / "b", flip=17, **options)
    report = report_of(a, b)
    assert report["compared"][0]["what"] == what
    assert report["compared"][0]["first_different"] == first_different
    print_diff(report)
    assert f", by {what}" in capsys.readouterr().out
    same = report_of(a, write_run(tmp_path / "c", **options))
    assert same["same"]
    print_diff(same)
    assert ("do not show that the states are" in capsys.readouterr().out) == (what == "losses")


def test_tensors_that_only_one_run_has_are_named(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", steps=0)
    log = TensorHashLog(b / "tensor_hashes.bin", (*NAMES[:-1], "statistics/x"))
    log.append(1, words_of(state_at(1, None)))
    log.close()
    report = report_of(a, b)
    assert (report["same"], report["first_different"]) == (False, 1)
    assert report["tensors_in_one_only"] == ["statistics/x", "step"]


def test_config_provenance_and_flags_are_told_whether_the_bits_are_equal_or_not(tmp_path, capsys):
    facts = FACTS | {"packages": {"jax": "0.11"}, "in_force": {"NPROC": "2", "XLA_FLAGS": "--b=1 --c --a=0"}}
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", config="seed: 2\nmodel: {hidden: 16, speeds: [1]}\nnew: off\n", facts=facts)
    events = EventLog(b / "events.jsonl")
    events.append("environment", 7, changed={"packages.jax": ["0.10", "0.11"]})
    events.close()
    report = report_of(a, b)
    assert report["same"]
    assert report["config"] == [
        {"key": "seed", "a": 1, "b": 2},
        {"key": "model.speeds", "a": [1, 2], "b": [1]},
        {"key": "new", "a": None, "b": "off"},
    ]
    assert report["provenance"] == [{"key": "packages.jax", "a": "0.10", "b": "0.11"}]
    assert report["flags"] == [
        {"key": "in_force.XLA_FLAGS --b", "a": "2", "b": "1"},
        {"key": "in_force.XLA_FLAGS --c", "a": None, "b": "true"},
    ]
    assert report["changed_on_the_way"] == [{"run": "b", "step": 7, "changed": {"packages.jax": ["0.10", "0.11"]}}]
    print_diff(report)
    assert "B went on from step 7 under other circumstances" in capsys.readouterr().out


def test_runs_without_a_step_in_common_cannot_be_compared(tmp_path):
    with pytest.raises(UsageError, match="no step in common"):
        report_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", steps=0))
    (tmp_path / "c").mkdir()
    with pytest.raises(UsageError, match="not a run folder"):
        report_of(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("events.jsonl", b"not JSON\n"),
        ("provenance.json", b"{"),
        ("provenance.json", b"[" * 100_000),
        ("provenance.json", b"[]"),
        ("tensor_hashes.json", b"{}"),
        ("tensor_hashes.bin", b"\0" * 8 * 6 * 3),
    ],
)
def test_a_damaged_file_is_named_and_no_traceback(tmp_path, name, content):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (b / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        report_of(a, b)


def test_a_bit_that_flipped_in_the_file_of_hashes_does_not_pass_for_a_difference_of_the_runs(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    content = bytearray((b / "tensor_hashes.bin").read_bytes())
    content[8 * 6 * 4 + 16] ^= 1  # a word of step 5
    (b / "tensor_hashes.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"tensor_hashes\.bin: damaged: the hashes of step 5"):
        report_of(a, b)


def test_a_config_that_is_no_yaml_is_one_message(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", config="seed: !!python/object:os.system {}\n")
    with pytest.raises(UsageError, match=r"config\.yaml"):
        report_of(a, b)


def test_a_damaged_checkpoint_is_told_and_the_next_one_read(tmp_path):
    a = write_run(tmp_path / "a", checkpoints=(17, 19))
    b = write_run(tmp_path / "b", checkpoints=(17, 19), flip=17)
    (b / "checkpoints" / "step_000017" / "manifest.json").write_text("{}")
    report = report_of(a, b)
    assert report["checkpoint"]["step"] == 19
    assert "step_000017" in report["checkpoint_notes"][0]
