"""The event log survives kills, and after a resume is the log of an undisturbed run."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.record import EventLog, read_events


def test_records_come_back_in_order_with_their_fields(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("step", 1, loss=0.1, finite=True, manifest=Path("dev.jsonl"), rows=(1, 2))
    log.append("eval", np.int32(1), cer=np.float32(0.5), counts=np.arange(2), text="жук")
    log.close()
    assert read_events(log.path) == [
        {"event": "step", "step": 1, "loss": 0.1, "finite": True, "manifest": "dev.jsonl", "rows": [1, 2]},
        {"event": "eval", "step": 1, "cer": 0.5, "counts": [0, 1], "text": "жук"},
    ]


def test_numbers_that_are_not_finite_are_null_and_named_and_every_line_is_strict_json(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("step", 1, loss=float("nan"), grad_norm=np.float32(np.inf), best={"cer": [0.5, -np.inf]}, finite=False)
    log.close()

    def refuse(constant: str):
        raise AssertionError(constant)

    record = json.loads(log.path.read_text(), parse_constant=refuse)
    assert record["nonfinite"] == ["loss", "grad_norm", "best.cer.1"]
    assert (record["loss"], record["grad_norm"], record["best"]) == (None, None, {"cer": [0.5, None]})


def test_a_line_is_on_disk_as_soon_as_it_is_appended(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for step in (1, 2):
        log.append("step", step)
        assert len(read_events(log.path)) == step
    log.close()


def test_a_file_cut_anywhere_in_its_last_line_loses_that_line_and_no_other(tmp_path):
    whole = tmp_path / "whole.jsonl"
    log = EventLog(whole)
    for step in (1, 2, 3):
        log.append("step", step, text="ж")
    log.close()
    content = whole.read_bytes()
    start_of_last = content[:-1].rfind(b"\n") + 1
    for length in range(start_of_last, len(content)):
        path = tmp_path / "events.jsonl"
        path.write_bytes(content[:length])
        assert [record["step"] for record in read_events(path)] == [1, 2]
        log = EventLog(path)
        log.append("step", 3, text="ж")
        log.close()
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"event": "step"}', '{"step": 1}', '{"event": "step", "step": "1"}', "", "\udcff"]
)
def test_damage_before_the_last_line_is_an_error_with_its_line(tmp_path, line):
    path = tmp_path / "events.jsonl"
    good = b'{"event": "step", "step": 1}\n'
    path.write_bytes(good + line.encode(errors="surrogateescape") + b"\n" + good)
    with pytest.raises(DataError, match=r"events\.jsonl:2: not"):
        read_events(path)


def test_a_log_that_is_cut_back_and_goes_on_is_the_log_of_an_undisturbed_run(tmp_path):
    undisturbed, killed = EventLog(tmp_path / "undisturbed.jsonl"), EventLog(tmp_path / "killed.jsonl")
    for step in range(1, 8):
        undisturbed.append("step", step, loss=1 / step)
    for step in range(1, 6):
        killed.append("step", step, loss=1 / step)
    killed.truncate_after(3)
    for step in range(4, 8):
        killed.append("step", step, loss=1 / step)
    undisturbed.close()
    killed.close()
    assert killed.path.read_bytes() == undisturbed.path.read_bytes()


def test_a_checkpoint_recorded_after_later_steps_stays_when_these_are_cut_off(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for kind, step in (("step", 1), ("step", 2), ("checkpoint", 1), ("step", 3), ("checkpoint", 2)):
        log.append(kind, step)
    log.truncate_after(1)
    log.close()
    assert [(record["event"], record["step"]) for record in read_events(log.path)] == [("step", 1), ("checkpoint", 1)]


def test_a_log_that_was_never_written_is_empty(tmp_path):
    assert read_events(tmp_path / "events.jsonl") == []
    log = EventLog(tmp_path / "events.jsonl")
    log.truncate_after(-1)
    log.sync()
    log.close()
    assert read_events(tmp_path / "events.jsonl") == []


def test_an_evaluation_that_is_made_again_is_not_in_the_log_twice(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for event, step in (("step", 1), ("eval", 1), ("step", 2), ("eval", 2), ("stop", 2), ("step", 3)):
        log.append(event, step)
    log.truncate_after(2, without=("eval",))
    log.append("eval", 2)
    log.close()
    found = [(record["event"], record["step"]) for record in read_events(tmp_path / "events.jsonl")]
    assert found == [("step", 1), ("eval", 1), ("step", 2), ("stop", 2), ("eval", 2)]
