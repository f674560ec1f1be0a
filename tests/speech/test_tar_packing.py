"""Packing: the same recordings, byte for byte, in tar shards that anybody can read, and the same shards again from the same files."""

import hashlib
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
from corpus import write_rows, write_tone

from dsrun.cli_data import data_app
from dsrun.errors import DataError, UsageError
from dsrun.speech import AudioSettings, list_members, read_manifest, read_utterance
from dsrun.speech.tar_packing import pack_manifest

AUDIO = AudioSettings(16_000)


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for number, name in enumerate(("a.wav", "ä b.flac", "sub/c.ogg")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tone(path, seconds=0.5 + number / 4)
        rows.append(
            {
                "audio_filepath": name,
                "duration": 0.5 + number / 4,
                "text": f"text {number}",
                "speaker": "s",
                "lang": "x",
            }
        )
    parts = [{"audio_filepath": "a.wav", "offset": start, "duration": 0.2, "text": "part"} for start in (0.1, 0.25)]
    return write_rows(tmp_path / "in" / "train.jsonl", [*rows[:2], parts[0], rows[2], parts[1]])


def test_every_utterance_comes_back_with_its_id_text_and_samples(manifest, tmp_path):
    packed = pack_manifest(manifest, tmp_path / "out", shard_mb=1)
    before, after = read_manifest(manifest), read_manifest(packed.manifest)
    for old, new in zip(before, after, strict=True):
        for name in ("id", "text", "duration", "offset", "is_part", "speaker", "extra"):
            assert getattr(old, name) == getattr(new, name)
        np.testing.assert_array_equal(read_utterance(new, AUDIO), read_utterance(old, AUDIO))
        assert new.sha256 == hashlib.sha256(old.audio.read_bytes()).hexdigest()
    assert (packed.utterances, packed.shards) == (5, 1)
    assert after[2].member == after[4].member  # two parts of one file, packed once
    members = list(list_members(tmp_path / "out" / "audio-000000.tar"))
    assert [member.name for member in members] == ["000000000.wav", "000000001.flac", "000000002.wav", "000000003.ogg"]
    assert packed.bytes == sum(member.size for member in members)
    with tarfile.open(tmp_path / "out" / "audio-000000.tar") as tar:
        assert tar.extractfile("000000001.flac").read() == before[1].audio.read_bytes()


def test_the_same_files_give_the_same_bytes_whenever_and_wherever(manifest, tmp_path):
    pack_manifest(manifest, tmp_path / "one", shard_mb=1)
    for path in manifest.parent.rglob("*.wav"):
        os.utime(path, (1, 1))
    pack_manifest(manifest, tmp_path / "two", shard_mb=1)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["audio-000000.tar", "train.jsonl"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_packing_what_is_packed_gives_the_same_recordings(manifest, tmp_path):
    once = pack_manifest(manifest, tmp_path / "one", shard_mb=1)
    twice = pack_manifest(once.manifest, tmp_path / "two", shard_mb=1)
    for old, new in zip(read_manifest(once.manifest), read_manifest(twice.manifest), strict=True):
        assert (old.id, old.sha256) == (new.id, new.sha256)
        np.testing.assert_array_equal(read_utterance(new, AUDIO), read_utterance(old, AUDIO))


def test_a_shard_ends_before_it_would_be_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("dsrun.speech.tar_packing.MIB", 40_000)
    rows = []
    for number, seconds in enumerate((0.5, 0.5, 0.5, 2.0, 0.5)):  # 16, 16, 16, 64 and 16 kB
        write_tone(tmp_path / f"{number}.wav", seconds=seconds)
        rows.append({"audio_filepath": f"{number}.wav", "duration": seconds, "text": ""})
    packed = pack_manifest(write_rows(tmp_path / "m.jsonl", rows), tmp_path / "out", shard_mb=1)
    shards = [utterance.audio.name for utterance in read_manifest(packed.manifest)]
    assert shards == [f"audio-{number:06d}.tar" for number in (0, 0, 1, 2, 3)]


def test_every_tar_shard_is_on_the_disk_before_there_is_a_manifest(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("dsrun.speech.tar_packing.MIB", 20_000)
    out, synced = tmp_path / "out", set()
    monkeypatch.setattr(os, "fsync", lambda file: synced.add((os.fstat(file).st_ino, (out / "train.jsonl").exists())))
    packed = pack_manifest(manifest, out, shard_mb=1)
    assert packed.shards > 1
    shards = {(path.stat().st_ino, False) for path in out.glob("*.tar")}
    folder = out.stat().st_ino
    assert synced == shards | {(packed.manifest.stat().st_ino, False), (folder, False), (folder, True)}


def test_a_disk_that_is_full_when_a_tar_shard_ends_is_told(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("dsrun.speech.tar_packing.MIB", 20_000)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        pack_manifest(manifest, tmp_path / "out", shard_mb=1)


def test_missing_recordings_are_all_named_before_anything_is_written(manifest, tmp_path):
    (manifest.parent / "a.wav").unlink()
    with pytest.raises(DataError, match="train.jsonl:1: .*no such file(.|\n)*train.jsonl:3: (.|\n)*train.jsonl:5: "):
        pack_manifest(manifest, tmp_path / "out", shard_mb=1)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(manifest, tmp_path):
    with pytest.raises(UsageError, match="something already"):
        pack_manifest(manifest, manifest.parent, shard_mb=1)


def test_the_command_says_what_it_wrote(manifest, tmp_path):
    result = CliRunner().invoke(data_app, ["pack", str(manifest), str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["utterances"], report["shards"], report["manifest"]) == (5, 1, str(tmp_path / "out" / "train.jsonl"))
