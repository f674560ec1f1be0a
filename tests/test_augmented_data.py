"""Noises and rooms are part of a run's data: a run whose noises change is another experiment."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows, write_tone

from dsrun import build, experiment
from dsrun.config import load_config
from dsrun.errors import DataError
from dsrun.record import RunDir


@pytest.fixture
def config(tmp_path):
    """A config whose clips are in a room with a hum."""
    rows = shortest_prompts(6)
    path = write_config(
        tmp_path, train=write_rows(tmp_path / "t.jsonl", rows), dev=write_rows(tmp_path / "d.jsonl", rows[:2])
    )
    for name, seconds in (("hum", 2.0), ("room", 0.2)):
        write_tone(tmp_path / f"{name}.wav", seconds=seconds)
        write_rows(tmp_path / f"{name}.jsonl", [{"audio_filepath": f"{name}.wav", "duration": seconds}])
    values = json.loads(path.read_text())
    values["augment"] = {
        "noise": {"manifest": "hum.jsonl", "snr_db": [0, 20], "probability": 0.8},
        "reverb": {"manifest": "room.jsonl", "probability": 0.5},
        "gain_db": [-6, 6],
    }
    path.write_text(json.dumps(values))
    return path


def test_batches_have_the_same_bits_with_any_number_of_threads_and_change_with_the_epoch(config):
    def bits(sets, epoch):
        resolved = load_config(config, sets).config
        batcher = build.build_batcher(resolved, build.build_training_data(resolved).train, purpose="train")
        found = {}
        for batch in batcher.epoch(epoch):
            found |= {id: batch.features[row].tobytes() for row, id in enumerate(batch.ids) if id}
        return found

    one = bits(["batches.workers=0"], 1)
    assert bits(["batches.workers=3"], 1) == one
    streamed = bits(["data.loading=streamed"], 1)
    assert set(streamed) == set(one)
    later = bits(["batches.workers=0"], 2)
    assert all(later[id] != one[id] for id in one)


def test_dev_hears_no_noise(config):
    resolved = load_config(config).config
    dev = build.build_training_data(resolved).dev
    quiet = build.build_training_data(load_config(config, ["augment=null"]).config).dev
    for member in range(2):
        # Mean and deviation are those of the training clips as they are, so dev's features are the same with and without noise.
        np.testing.assert_array_equal(dev.features(member, 3), quiet.features(member, 3))


def test_a_noise_that_has_changed_is_seen_at_a_resume(config, tmp_path):
    resolved = load_config(config).config
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.recordings.write_text(experiment._recordings_text(build.build_training_data(resolved)))
    before = experiment._data_digests(resolved)
    assert set(before) == {"train", "dev", "noise", "reverb"}
    experiment._require_same_files(run, build.build_training_data(resolved))
    write_tone(tmp_path / "hum.wav", seconds=2.0, subtype="FLOAT")
    with pytest.raises(DataError, match="hum.wav: changed since the run"):
        experiment._require_same_files(run, build.build_training_data(resolved))
    (tmp_path / "room.jsonl").write_text((tmp_path / "room.jsonl").read_text() + "\n")
    after = experiment._data_digests(resolved)
    assert [name for name in before if before[name] != after[name]] == ["reverb"]
