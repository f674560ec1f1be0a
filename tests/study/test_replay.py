"""A run folder retold for trackers, and the event files that TensorBoard reads."""

import math
import shutil
import socket
import struct
from unittest.mock import Mock

import numpy as np
import pytest

from dsrun.cli_tensorboard import replay
from dsrun.errors import UsageError
from dsrun.record import EventLog
from dsrun.record.magnitudes import FIELDS, Magnitudes
from dsrun.study.replay import Histogram, Replay, Scalars, Text
from dsrun.study.tensorboard import TensorBoardRun
from tests.study.run_folders import write_run_folder

TESTED = {"data.test": "/corpus/test.jsonl"}


def magnitudes(step):
    """Two tensors of weights, one with values in two binades and zeros, and one of gradients."""
    fields = np.zeros((3, FIELDS), np.int64)
    fields[0, [0, 120, 122]], fields[1, 121], fields[2, [100, 255]] = (5, 3, 1), 7, (2, 4)
    counts = {name: np.zeros(3, np.int64) for name in ("flushed", "subnormal", "overflowed", "updates", "changed")}
    floats = ("smallest_positive", "smallest_normal", "largest", "smallest_seen", "largest_seen")
    return Magnitudes(
        step=step,
        loss_scale=1.0,
        path=np.array(["gru_0.u", "gru_1.u", "gru_0.u"]),
        kind=np.array(["weight", "weight", "weight_gradient"]),
        role=np.array(["storage", "storage", "gradient"]),
        format=np.array(["float32"] * 3),
        fields=fields,
        zeros=np.array([5, 0, 0]),
        nans=np.zeros(3, np.int64),
        swallowed=np.zeros(3, np.int64),
        **counts,
        **{name: np.ones(3) for name in floats},
    )


@pytest.fixture
def folder(tmp_path):
    """A run of four steps that was watched at the second, and scored."""
    roles = {"storage": {"weight": {"underflow_share": 0.125, "values": 3}}}
    result = {"step": 4, "cer": 0.25, "wer": 0.5}
    path = write_run_folder(
        tmp_path / "a", steps=4, dev_cer=(0.5, 0.25), events=[("watch", 2, {"swallowed_share": 0.5, "roles": roles})],
        status={"result": result},
    )  # fmt: skip
    magnitudes(2).save(path / "magnitudes")
    (path / "log.txt").write_text(
        "2026-11-26T10:00:00  epoch 4/4  step 4  dev loss 1.00  CER 0.250  WER 0.5\n2026-11-26T10:00:00      said: a\n    read: b\n"
    )
    return path


def scalars(records, tag):
    return {r.step: r.values[tag] for r in records if isinstance(r, Scalars) and tag in r.values}


def test_each_figure_has_its_step_and_the_training_time_up_to_then(folder):
    records = Replay(folder, TESTED).next().records
    assert scalars(records, "train/loss") == {1: 50.0, 2: 25.0, 3: 50.0 / 3, 4: 12.5}
    assert scalars(records, "train/utterances_a_second") == dict.fromkeys((1, 2, 3, 4), 32.0)
    assert scalars(records, "dev/cer") == {2: 0.5, 4: 0.25}
    assert scalars(records, "test/cer") == {4: 0.25}
    assert scalars(records, "update/swallowed_share") == {2: 0.5}
    assert scalars(records, "weight/underflow_share") == {2: 0.125}
    assert [r.seconds for r in records if isinstance(r, Scalars) and "dev/cer" in r.values] == [1.0, 2.0]
    assert [(r.step, r.text) for r in records if isinstance(r, Text) and r.tag == "dev/sample"] == [
        (4, "    said: a\n    read: b\n")
    ]


def test_histograms_count_the_non_zero_finite_values_of_a_kind_or_a_tensor_by_binade(folder):
    found = {r.tag: r for r in Replay(folder, TESTED).next().records if isinstance(r, Histogram)}
    assert sorted(found) == ["magnitude/weight", "magnitude/weight_gradient"]
    weight = found["magnitude/weight"]
    assert dict(zip(weight.exponents.tolist(), weight.counts.tolist(), strict=True)) == {-7: 3, -6: 7, -5: 1}
    assert found["magnitude/weight_gradient"].counts.tolist() == [2]
    each = [r.tag for r in Replay(folder, TESTED, histograms="tensors").next().records if isinstance(r, Histogram)]
    assert each == ["magnitude/weight/gru_0.u", "magnitude/weight/gru_1.u", "magnitude/weight_gradient/gru_0.u"]
    assert not [r for r in Replay(folder, TESTED, histograms="none").next().records if isinstance(r, Histogram)]


def test_what_was_not_finite_is_nan_and_what_is_absent_is_not_there(tmp_path):
    folder = write_run_folder(tmp_path / "a", steps=1, step_fields={"loss": math.inf, "grad_norm": None})
    records = Replay(folder, TESTED).next().records
    assert math.isnan(scalars(records, "train/loss")[1])
    assert scalars(records, "train/grad_norm") == {}


def test_a_followed_run_gives_only_what_is_new_and_everything_after_a_resume(folder):
    source = Replay(folder, TESTED)
    source.next()
    log = EventLog(folder / "events.jsonl")
    log.append("step", 5, loss=1.0)
    assert [r.step for r in source.next().records] == [5]
    log.truncate_after(3)
    log.append("step", 4, loss=2.0, seconds=0.5)
    log.close()
    batch = source.next()
    assert batch.is_anew
    assert scalars(batch.records, "train/loss") == {1: 50.0, 2: 25.0, 3: 50.0 / 3, 4: 2.0}
    assert batch.records[-2].seconds == 2.0


def read_event_files(folder):
    """Events of a folder by the format's description: length, its CRC, data, CRC; the CRCs left alone."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            events.append(event_pb2.Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return events


def values(events, tag):
    return [(e.step, e.wall_time, v) for e in events for v in e.summary.value if v.tag == tag]


def test_event_files_have_each_step_once_however_often_they_are_written(folder, tmp_path):
    out = tmp_path / "tb"
    for _ in range(2):
        assert replay([folder], lambda name, config: TensorBoardRun(out / name, config))["a"] > 8
    events = read_event_files(out / "a")
    assert [(s, t, v.simple_value) for s, t, v in values(events, "dev/cer")] == [(2, 1.0, 0.5), (4, 2.0, 0.25)]
    ((_, _, found),) = values(events, "magnitude/weight")
    assert list(found.histo.bucket_limit) == [-7, -6, -5, -4]
    assert list(found.histo.bucket) == [0, 3, 7, 1]
    assert found.histo.num == 11
    assert values(events, "_hparams_/session_start_info")


def test_another_writing_spares_files_that_are_not_dsruns(folder, tmp_path):
    out = tmp_path / "tb" / "a"
    out.mkdir(parents=True)
    (out / "events.out.tfevents.1.host").write_bytes(b"")
    TensorBoardRun(out, {}).close()
    assert (out / "events.out.tfevents.1.host").exists()


def test_a_restart_within_a_second_leaves_one_file_that_begins_with_the_mark_to_forget(folder, tmp_path):
    sink = TensorBoardRun(tmp_path / "tb", {})
    sink.write(Scalars(1, 0.5, {"train/loss": 1.0}))
    sink.restart()
    sink.write(Scalars(1, 0.5, {"train/loss": 2.0}))
    sink.close()
    events = read_event_files(tmp_path / "tb")
    assert [v.simple_value for _, _, v in values(events, "train/loss")] == [2.0]
    assert [e.session_log.status for e in events if e.HasField("session_log")] == [1]  # START, of step 0


def test_runs_of_one_name_get_the_name_of_their_folder_too(folder, tmp_path):
    (tmp_path / "sweep").mkdir()
    shutil.copytree(folder, tmp_path / "sweep" / "a")
    names = []
    replay([folder, tmp_path / "sweep"], lambda name, config: names.append(name) or TensorBoardRun(tmp_path / name, {}))
    assert names == [f"{tmp_path.name}-a", "sweep-a"]


def test_an_unknown_detail_is_refused(folder):
    with pytest.raises(UsageError, match="write kinds, tensors or none"):
        replay([folder], TensorBoardRun, "all")


def test_a_killed_run_ends_the_following(folder):
    (folder / "status.json").write_text('{"state": "running", "step": 4}')
    (folder / ".lock").write_text(f"process 1 on host {socket.gethostname()}\n")

    assert replay([folder], Mock(), follow=True, every=1e6)["a"]  # else it would sleep for days


def test_a_link_or_a_pipe_is_refused_before_it_is_read(folder):
    (folder / "command.txt").unlink()
    (folder / "command.txt").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=r"command.txt: a symbolic link"):
        replay([folder], Mock())


@pytest.mark.parametrize("output", [".", "a", "a/tensorboard"])
def test_nothing_is_written_into_run_folders(folder, output):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UsageError, match="would write into the run folder"):
        replay([folder], Mock(), output=folder.parent / output)
    assert sorted(path.name for path in folder.iterdir()) == before
