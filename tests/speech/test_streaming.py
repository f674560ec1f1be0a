"""Streamed data is the data in memory: the same features and labels, lengths that always fit, and what a file's change does."""

import io
import json
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dsrun.errors import DataError
from dsrun.speech import (
    Alphabet,
    AudioSettings,
    Augmentation,
    Batcher,
    FeatureCache,
    FeatureSettings,
    Workers,
    encode_all,
    estimate_normalization,
    load_dataset,
    open_manifest,
    read_manifest,
    scan_texts,
    stream,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from corpus import write_rows

RATE = 16_000
AUDIO, FEATURES = AudioSettings(RATE, resample=True), FeatureSettings("log_spectrogram", RATE)
SPEEDS = Augmentation((0.9, 1.0, 1.1), 1, 5, 1, 5)
LOUDER = replace(SPEEDS, gain_db=(-12.0, 6.0))
ALPHABET = Alphabet.from_texts(["hello moon"])
TEXTS = ("Hello", "moon  moon", "ölm", "", "hello hello moon", "o", "on", "MOON")


def write_clips(folder, *, wrong=(0.0,) * 8, rates=(RATE,) * 8):
    """Eight clips of noise; durations in the manifest may be off."""
    rows = []
    for number, (text, off, rate) in enumerate(zip(TEXTS, wrong, rates, strict=True)):
        seconds = 0.4 + 0.137 * ((number * 5) % 8)
        samples = np.random.default_rng(number).normal(0, 0.1, round(seconds * rate)).clip(-1, 1)
        soundfile.write(folder / f"{number}.wav", samples, rate)
        rows.append(
            {"audio_filepath": f"{number}.wav", "duration": len(samples) / rate + off, "text": text, "id": f"u{number}"}
        )
    return write_rows(folder / "clips.jsonl", rows)


def in_a_tar(manifest):
    """The manifest of the same clips inside a tar file."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    with tarfile.open(manifest.parent / "clips.tar", "w") as tar:
        for row in rows:
            content = (manifest.parent / row["audio_filepath"]).read_bytes()
            info = tarfile.TarInfo(row["audio_filepath"])
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            row |= {
                "audio_filepath": "clips.tar",
                "tar_offset": tar.offset - (-len(content) // 512 * -512),
                "tar_size": len(content),
            }
    return write_rows(manifest.parent / "packed.jsonl", rows)


def streamed(manifest, *, augmentation=None, seed=3):
    index = open_manifest(manifest)
    texts = scan_texts(index, ALPHABET, on_unknown="drop")
    return stream(index, texts, ALPHABET, audio=AUDIO, features=FEATURES, augmentation=augmentation, seed=seed)


def loaded(manifest, *, augmentation=None, seed=3):
    utterances = read_manifest(manifest)
    labels = encode_all({u.id: u.text for u in utterances}, ALPHABET, on_unknown="drop").labels
    return load_dataset(
        utterances,
        labels,
        audio=AUDIO,
        features=FEATURES,
        cache=FeatureCache(None),
        augmentation=augmentation,
        seed=seed,
    )


@pytest.mark.parametrize("augmentation", [None, SPEEDS, LOUDER])
def test_features_and_labels_are_those_of_the_dataset_in_memory_bit_for_bit(tmp_path, augmentation):
    manifest = write_clips(tmp_path, rates=(RATE, 8000, RATE, 44_100, RATE, RATE, 22_050, RATE))
    ours, theirs = streamed(manifest, augmentation=augmentation), loaded(manifest, augmentation=augmentation)
    normalization = estimate_normalization(map(theirs.plain_features, range(8)))
    ours, problems = ours.with_sample(8, workers=Workers(2), unreadable="error")
    assert problems == []
    assert ours.normalization.mean.tobytes() == normalization.mean.tobytes()
    assert ours.recordings == theirs.recordings
    theirs = theirs.normalized_by(normalization)
    assert tuple(ours.ids) == theirs.ids
    assert tuple(map(tuple, ours.labels)) == theirs.labels
    assert tuple(ours.seconds) == theirs.seconds
    assert ours.num_bins == theirs.num_bins
    for epoch in range(3):
        for member in range(8):
            assert ours.features(member, epoch).tobytes() == theirs.features(member, epoch).tobytes()


def test_a_tar_gives_the_same_batches_as_loose_files(tmp_path):
    loose = write_clips(tmp_path)
    packed = in_a_tar(loose)
    batches = []
    for manifest in (loose, packed):
        dataset, _ = streamed(manifest, augmentation=SPEEDS).with_sample(5, workers=Workers(), unreadable="error")
        batcher = Batcher(dataset, global_batch=3, buckets=2, frame_multiple=4, seed=1, sort_first_epoch=True)
        batches.append([(b.ids, b.features.tobytes(), b.labels.tobytes()) for e in range(2) for b in batcher.epoch(e)])
    assert batches[0] == batches[1]


def test_lengths_hold_for_every_file_whose_duration_is_within_the_tolerance(tmp_path):
    off = (0.0, 0.099, -0.099, 0.05, -0.05, 0.099, -0.099, 0.0)
    manifest = write_clips(tmp_path, wrong=off, rates=(RATE, 8000, 11_025, 44_100, 48_000, RATE, 22_050, 8000))
    dataset, exact = streamed(manifest, augmentation=SPEEDS), loaded(manifest, augmentation=SPEEDS)
    assert (dataset.lengths.most >= exact.lengths.most).all()
    assert (dataset.lengths.fewest <= exact.lengths.fewest).all()
    # Twice the tolerance and the rounding, no more: 0.2 s at the slowest speed.
    assert (dataset.lengths.most - exact.lengths.most <= 24).all()
    batcher = Batcher(dataset, global_batch=3, buckets=2, frame_multiple=1, seed=1, sort_first_epoch=False)
    assert all(batch.num_frames.max() <= batch.features.shape[1] for e in range(3) for batch in batcher.epoch(e))


def test_texts_are_counted_as_they_are_when_encoded_one_by_one(tmp_path, monkeypatch):
    manifest = write_clips(tmp_path)
    whole = scan_texts(open_manifest(manifest), ALPHABET, on_unknown="drop")
    monkeypatch.setattr("dsrun.speech.streaming.TEXTS_AT_ONCE", 3)
    facts = scan_texts(open_manifest(manifest), ALPHABET, on_unknown="drop")
    encoded = encode_all({u.id: u.text for u in read_manifest(manifest)}, ALPHABET, on_unknown="drop")
    assert facts.num_labels.tolist() == [len(labels) for labels in encoded.labels] == whole.num_labels.tolist()
    repeats = [sum(a == b for a, b in pairwise(labels)) for labels in encoded.labels]
    assert facts.repeats.tolist() == repeats == whole.repeats.tolist()
    assert facts.is_empty.tolist() == [not text for text in TEXTS]
    assert facts.dropped == encoded.dropped == {"ö": 1}


def test_unknown_characters_and_refused_texts_are_told_in_the_words_of_data_in_memory(tmp_path):
    manifest = write_clips(tmp_path)
    texts = {u.id: u.text for u in read_manifest(manifest)}
    with pytest.raises(DataError) as ours:
        scan_texts(open_manifest(manifest), ALPHABET, on_unknown="error")
    with pytest.raises(DataError) as theirs:
        encode_all(texts, ALPHABET, on_unknown="error")
    assert str(ours.value) == str(theirs.value)
    manifest.write_text(manifest.read_text().replace("MOON", "1,5 moons"))
    english = replace(ALPHABET, normalizer="english")
    with pytest.raises(DataError, match="utterance 'u7': '1,5': a number that may be read"):
        scan_texts(open_manifest(manifest), english, on_unknown="drop")


def test_a_file_that_is_not_as_the_manifest_says_is_an_error_where_it_is_read_with_id_and_line(tmp_path):
    manifest = write_clips(tmp_path, wrong=(0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0))
    dataset = streamed(manifest)
    (tmp_path / "5.wav").unlink()
    assert dataset.features(0, 0).shape[1] == 161
    for member, says in ((2, r"'u2' \(line 3\): .*the manifest says"), (5, r"'u5' \(line 6\): .*no such file")):
        with pytest.raises(DataError, match=says):
            dataset.features(member, 0)
    with pytest.raises(DataError, match="'u2'(.|\n)*'u5'"):
        dataset.with_sample(8, workers=Workers(), unreadable="error")
    sampled, problems = dataset.with_sample(8, workers=Workers(), unreadable="drop")
    assert (len(sampled.recordings), len(problems)) == (6, 2)


def test_a_recording_that_the_manifest_says_is_too_long_is_refused_before_it_is_opened(tmp_path):
    manifest = write_clips(tmp_path, wrong=(30.0, *(0.0,) * 7))
    index = open_manifest(manifest)
    texts = scan_texts(index, ALPHABET, on_unknown="drop")
    with pytest.raises(DataError, match=r"clips.jsonl:1: 30.4 s, longer than data.max_seconds \(20\)"):
        stream(index, texts, ALPHABET, audio=replace(AUDIO, max_seconds=20.0), features=FEATURES)


def test_keeping_some_keeps_their_texts_and_lengths(tmp_path):
    dataset = streamed(write_clips(tmp_path))
    kept = dataset.keep([number in (1, 4) for number in range(8)])
    assert list(kept.ids) == ["u1", "u4"]
    assert list(kept.labels) == [dataset.labels[1], dataset.labels[4]]
    assert kept.lengths.most.tolist() == dataset.lengths.most[[1, 4]].tolist()
    assert kept.plain_features(1).tobytes() == dataset.plain_features(4).tobytes()
    with pytest.raises(DataError, match="no utterances are left"):
        dataset.keep([False] * 8)


def test_an_utterance_costs_48_bytes_and_its_id(tmp_path):
    dataset = streamed(write_clips(tmp_path))
    ids = sum(len(id) for id in dataset.ids)
    assert dataset.nbytes - ids - 8 <= 8 * 48
