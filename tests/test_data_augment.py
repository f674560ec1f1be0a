"""`dsrun data augment`: a noisy copy that is in files what an epoch's augmentation is in memory."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows, write_tone

from dsrun import build
from dsrun.config import load_config
from dsrun.data_augment import augment_manifest
from dsrun.errors import DataError, UsageError
from dsrun.speech import AudioSettings, augment_samples, read_manifest, read_utterance


@pytest.fixture
def data(tmp_path):
    """A manifest of real clips and a config with noise at 5 dB and louder clips."""
    rows = shortest_prompts(4)
    rows[1] |= {"speaker": "ann", "id": "a/b: c"}
    manifest = write_rows(tmp_path / "m.jsonl", rows)
    write_tone(tmp_path / "hum.wav", seconds=2.0)
    write_rows(tmp_path / "hum.jsonl", [{"audio_filepath": "hum.wav", "duration": 2.0}])
    config = write_config(tmp_path, train=manifest, dev=manifest)
    values = json.loads(config.read_text())
    values["augment"] = {"noise": {"manifest": "hum.jsonl", "snr_db": [5, 5]}, "gain_db": [20, 20]}
    config.write_text(json.dumps(values))
    return manifest, config


def test_the_copy_sounds_as_the_epoch_and_keeps_ids_texts_and_speakers(data, tmp_path):
    manifest, config = data
    report = augment_manifest(manifest, tmp_path / "copy", config=config, epoch=3)
    resolved = load_config(config).config
    clean, noisy = read_manifest(manifest), read_manifest(report["manifest"])
    assert [(u.id, u.text, u.speaker) for u in noisy] == [(u.id, u.text, u.speaker) for u in clean]
    for before, after in zip(clean, noisy, strict=True):
        heard = augment_samples(
            read_utterance(before, AudioSettings(16_000)),
            augmentation=build.build_augmentation(resolved),
            sample_rate=16_000,
            seed=resolved.seed,
            epoch=3,
            id=before.id,
        )
        np.testing.assert_allclose(read_utterance(after, AudioSettings(16_000)), heard, atol=1 / 32768)
        assert "noise: hum from " in after.extra["augmented"]
        assert "5.0 dB below the clip; gain: +20.0 dB" in after.extra["augmented"]
    assert (report["utterances"], report["turned_down"]) == (4, 4)
    assert report["seconds"] == pytest.approx(sum(u.duration for u in noisy), abs=1e-3)


def test_the_same_command_writes_the_same_bytes_with_any_number_of_threads(data, tmp_path):
    manifest, config = data
    reports = [augment_manifest(manifest, tmp_path / f"{n}", config=config, workers=n) for n in (0, 3)]
    assert reports[0]["sha256"] == reports[1]["sha256"]
    assert augment_manifest(manifest, tmp_path / "e", config=config, epoch=1)["sha256"] != reports[0]["sha256"]


def test_a_folder_that_is_there_and_a_config_that_changes_no_samples_are_refused(data, tmp_path):
    manifest, config = data
    with pytest.raises(UsageError, match="is there already"):
        augment_manifest(manifest, tmp_path, config=config)
    sets = ["augment.noise=null", "augment.gain_db=null", "augment.speeds=[1.0]"]
    with pytest.raises(UsageError, match="augments no samples"):
        augment_manifest(manifest, tmp_path / "copy", config=config, sets=sets)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("workers", [0, 3])
def test_what_fails_midway_leaves_nothing_and_the_corrected_command_is_the_same(data, tmp_path, workers):
    manifest, config = data
    good = manifest.read_text()
    spoilt = good.splitlines()
    spoilt[1] = json.dumps(json.loads(spoilt[1]) | {"audio_filepath": "nowhere.ogg"})
    manifest.write_text("\n".join(spoilt))
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match="nowhere.ogg: no such file"):
        augment_manifest(manifest, tmp_path / "copy", config=config, workers=workers)
    assert set(tmp_path.iterdir()) == before
    manifest.write_text(good)
    report = augment_manifest(manifest, tmp_path / "copy", config=config, workers=workers)
    assert (report["utterances"], len(read_manifest(report["manifest"]))) == (4, 4)
    assert set(tmp_path.iterdir()) == before | {tmp_path / "copy"}


def test_a_ctrl_c_leaves_nothing_and_what_a_kill_left_is_replaced(data, tmp_path, monkeypatch):
    manifest, config = data
    before = set(tmp_path.iterdir())
    written = []

    def interrupted(*arguments):
        assert list((tmp_path / ".copy.part" / "audio").iterdir())
        written.append(True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dsrun.data_augment.write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            augment_manifest(manifest, tmp_path / "copy", config=config)
    assert written
    assert set(tmp_path.iterdir()) == before
    (tmp_path / ".copy.part" / "audio").mkdir(parents=True)
    (tmp_path / ".copy.part" / "audio" / "stale.flac").write_bytes(b"")
    (tmp_path / "copy").mkdir()  # empty: may be there
    augment_manifest(manifest, tmp_path / "copy", config=config)
    assert len(list((tmp_path / "copy" / "audio").iterdir())) == 4
    assert set(tmp_path.iterdir()) == before | {tmp_path / "copy"}
