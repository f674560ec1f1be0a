"""Datasets: what is loaded, what is reported, what an epoch sees, and that the disk cache changes none of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dsrun.errors import DataError
from dsrun.speech import (
    AudioSettings,
    Augmentation,
    Batcher,
    FeatureCache,
    FeatureSettings,
    augment_samples,
    change_speed,
    estimate_normalization,
    load_dataset,
    read_audio,
    read_manifest,
    spec_augment,
    utterance_rng,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from corpus import shortest_prompts, write_config, write_rows

RATE = 16_000
AUDIO = AudioSettings(RATE)
FEATURES = FeatureSettings("log_spectrogram", RATE)
MEMORY = FeatureCache(None)
SPEEDS = Augmentation((0.9, 1.0, 1.1), 1, 5, 1, 5)


def write_clips(folder, seconds=(0.5, 0.8, 0.3)):
    """Clips of noise and their manifest."""
    rows = []
    for number, length in enumerate(seconds):
        name = f"clip{number}.wav"
        samples = np.random.default_rng(number).normal(0, 0.1, round(length * RATE)).clip(-1, 1)
        soundfile.write(folder / name, samples, RATE)
        rows.append({"audio_filepath": name, "duration": length, "text": "a" * number, "id": f"id{number}"})
    return write_rows(folder / "clips.jsonl", rows)


def load(manifest, *, audio=AUDIO, features=FEATURES, cache=MEMORY, **options):
    utterances = read_manifest(manifest)
    labels = [[1] * len(utterance.text) for utterance in utterances]
    return load_dataset(utterances, labels, audio=audio, features=features, cache=cache, **options)


def content(dataset):
    return [{speed: clip.tobytes() for speed, clip in clip.items()} for clip in dataset.clips]


def refusal(*arguments, **options):
    with pytest.raises(DataError) as error:
        load(*arguments, **options)
    return str(error.value)


def test_clips_are_the_features_of_the_recordings_at_every_speed(tmp_path):
    dataset = load(write_clips(tmp_path), augmentation=SPEEDS)
    assert dataset.ids == ("id0", "id1", "id2")
    assert dataset.labels == ((), (1,), (1, 1))
    assert dataset.seconds == (0.5, 0.8, 0.3)
    for number in range(3):
        samples = read_audio(tmp_path / f"clip{number}.wav", AUDIO)
        for speed in SPEEDS.speeds:
            expected = FEATURES.compute(change_speed(samples, speed, RATE))
            np.testing.assert_array_equal(dataset.clips[number][speed], expected)
            assert dataset.num_frames(number, speed) == len(expected)
        assert dataset.most_frames(number) == len(dataset.clips[number][0.9])
        assert dataset.fewest_frames(number) == len(dataset.clips[number][1.1])


def test_a_part_of_a_file_has_the_features_of_that_part(tmp_path):
    write_clips(tmp_path)
    rows = [{"audio_filepath": "clip1.wav", "duration": 0.25, "offset": start, "text": "a"} for start in (0.0, 0.5)]
    dataset = load(write_rows(tmp_path / "parts.jsonl", rows), cache=FeatureCache(tmp_path / "cache"))
    samples = read_audio(tmp_path / "clip1.wav", AUDIO)
    for clip, first in zip(dataset.clips, (0, RATE // 2), strict=True):
        np.testing.assert_array_equal(clip[1.0], FEATURES.compute(samples[first : first + RATE // 4]))


def test_progress_counts_every_utterance(tmp_path):
    seen = []
    load(write_clips(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_every_bad_file_is_reported_with_id_line_and_path(tmp_path):
    rows = [json.loads(line) for line in write_clips(tmp_path).read_text().splitlines()]
    (tmp_path / "clip0.wav").write_text("not audio")
    (tmp_path / "clip2.wav").unlink()
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    rows.append({"audio_filepath": "nan.wav", "duration": 1.0, "text": "a", "id": "holes"})
    lines = refusal(write_rows(tmp_path / "clips.jsonl", rows)).splitlines()
    assert len(lines) == 3
    for line, id, number, name in zip(
        lines, ("id0", "id2", "holes"), (1, 3, 4), ("clip0", "clip2", "nan"), strict=True
    ):
        assert line.startswith(f"utterance '{id}' (line {number}): {tmp_path / name}.wav: ")


def test_of_many_bad_files_twenty_are_shown_and_the_rest_counted(tmp_path):
    rows = [{"audio_filepath": f"{number}.wav", "duration": 1.0, "text": "a"} for number in range(25)]
    lines = refusal(write_rows(tmp_path / "missing.jsonl", rows)).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 5 more problems"


def test_a_clip_that_is_too_short_at_one_speed_only_is_named_with_the_speed(tmp_path):
    manifest = write_clips(tmp_path, seconds=(0.021,))
    assert load(manifest).num_frames(0, 1.0) == 1
    text = refusal(manifest, augmentation=SPEEDS)
    assert text == (
        f"utterance 'id0' (line 1): {tmp_path}/clip0.wav: 305 samples at speed 1.1, shorter than one window of 320."
    )


def test_no_utterances_are_an_error():
    with pytest.raises(DataError, match="no utterances are left"):
        load_dataset([], [], audio=AUDIO, features=FEATURES, cache=MEMORY)


def test_the_disk_cache_gives_the_same_bytes_and_saves_the_decoding(tmp_path, monkeypatch):
    manifest, cache = write_clips(tmp_path), FeatureCache(tmp_path / "cache")
    plain = load(manifest, augmentation=SPEEDS)
    assert content(load(manifest, augmentation=SPEEDS, cache=cache)) == content(plain)
    assert len(list((tmp_path / "cache").iterdir())) == 9

    def fail(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr("dsrun.speech.dataset.read_utterance", fail)
    assert content(load(manifest, augmentation=SPEEDS, cache=cache)) == content(plain)


@pytest.mark.parametrize(
    "other",
    [
        {"features": replace(FEATURES, hop_ms=5)},
        {"features": replace(FEATURES, kind="log_mel", num_mels=40)},
        {"audio": replace(AUDIO, channel=0), "rewrite": True},
    ],
    ids=["hop", "mel", "other audio and channel"],
)
def test_stored_features_of_other_settings_or_other_audio_are_not_used(tmp_path, other):
    manifest, cache = write_clips(tmp_path), FeatureCache(tmp_path / "cache")
    load(manifest, cache=cache)
    if other.pop("rewrite", False):
        for number, seconds in enumerate((0.5, 0.8, 0.3)):
            stereo = np.random.default_rng(9).normal(0, 0.1, (round(seconds * RATE), 2)).clip(-1, 1)
            soundfile.write(tmp_path / f"clip{number}.wav", stereo, RATE)
    assert content(load(manifest, cache=cache, **other)) == content(load(manifest, **other))


@pytest.mark.parametrize(
    ("durations", "audio", "problem"),
    [
        ((0.5, 2.0, 0.3), AUDIO, "the manifest says 2.00"),
        ((0.5, 0.8, 0.3), replace(AUDIO, max_seconds=0.7), "max_seconds"),
    ],
    ids=["wrong duration", "lower limit"],
)
def test_a_check_that_fails_without_the_cache_fails_with_it(tmp_path, durations, audio, problem):
    cache, manifest = FeatureCache(tmp_path / "cache"), write_clips(tmp_path)
    load(manifest, cache=cache)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row | {"duration": duration} for row, duration in zip(rows, durations, strict=True)]
    text = refusal(write_rows(manifest, rows), audio=audio, cache=cache)
    assert problem in text
    assert text == refusal(manifest, audio=audio)


def normalized(manifest, **options):
    dataset = load(manifest, **options)
    return replace(dataset, normalization=estimate_normalization(clip[1.0] for clip in dataset.clips))


def test_without_augmentation_every_epoch_sees_the_normalized_recording(tmp_path):
    dataset = normalized(write_clips(tmp_path))
    for member, epoch in ((0, 0), (0, 7), (2, 3)):
        expected = dataset.normalization.apply(dataset.clips[member][1.0])
        assert dataset.speed(member, epoch) == 1.0
        assert dataset.features(member, epoch).tobytes() == expected.tobytes()


MASKS = Augmentation((1.0,), 2, 5, 2, 10)


@pytest.mark.parametrize("augmentation", [Augmentation((0.9, 1.0, 1.1)), MASKS], ids=["speeds", "masks"])
def test_an_epochs_augmentation_depends_on_seed_epoch_and_id_and_on_nothing_else(tmp_path, augmentation):
    dataset = normalized(write_clips(tmp_path), augmentation=augmentation, seed=4)
    alone = dataset.keep([False, True, False])
    seen = [dataset.features(1, epoch).tobytes() for epoch in range(12)]
    assert [alone.features(0, epoch).tobytes() for epoch in reversed(range(12))] == seen[::-1]
    assert len(set(seen)) > 2
    other = replace(dataset, seed=5)
    assert [other.features(1, epoch).tobytes() for epoch in range(12)] != seen
    renamed = replace(dataset, ids=("id0", "other", "id2"))
    assert [renamed.features(1, epoch).tobytes() for epoch in range(12)] != seen


def test_masks_are_laid_on_normalized_features_so_that_hidden_cells_are_the_mean(tmp_path):
    dataset = normalized(write_clips(tmp_path), augmentation=MASKS, seed=4)
    plain = dataset.normalization.apply(dataset.clips[1][1.0])
    for epoch in range(10):
        expected = spec_augment(plain, MASKS, rng=utterance_rng(4, epoch, "id1", "masks"))
        assert (expected == 0).any()
        np.testing.assert_array_equal(dataset.features(1, epoch), expected)


def test_each_speed_is_chosen_about_equally_often(tmp_path):
    dataset = load(write_clips(tmp_path), augmentation=SPEEDS)
    epochs = 600
    chosen = np.array([dataset.speed(member, epoch) for epoch in range(epochs) for member in range(3)])
    standard_error = np.sqrt(3 * epochs * (1 / 3) * (2 / 3))
    for speed in SPEEDS.speeds:
        assert abs((chosen == speed).sum() - epochs) < 4 * standard_error


def test_a_single_speed_is_always_taken(tmp_path):
    dataset = load(write_clips(tmp_path), augmentation=Augmentation((1.25,)))
    assert {dataset.speed(member, epoch) for member in range(3) for epoch in range(5)} == {1.25}


def test_seconds_of_a_batch_leave_filler_rows_out(tmp_path):
    dataset = load(write_clips(tmp_path))
    batcher = Batcher(dataset, global_batch=4, buckets=1, frame_multiple=1, seed=1, sort_first_epoch=True)
    assert batcher.batch(0, 0).seconds == pytest.approx(0.5 + 0.8 + 0.3)


def test_keeping_drops_everything_of_the_others(tmp_path):
    kept = load(write_clips(tmp_path)).keep([True, False, True])
    assert (kept.ids, kept.labels, kept.seconds, len(kept.clips)) == (("id0", "id2"), ((), (1, 1)), (0.5, 0.3), 2)
    with pytest.raises(DataError, match="no utterances are left"):
        kept.keep([False, False])


def test_training_data_is_augmented_and_evaluation_data_never(tmp_path):
    from dsrun.build import build_evaluation_data, build_training_data, cache_of
    from dsrun.config import load_config

    rows = shortest_prompts(6)
    train, dev = write_rows(tmp_path / "train.jsonl", rows), write_rows(tmp_path / "dev.jsonl", rows[:3])
    config = load_config(write_config(tmp_path, train=train, dev=dev), []).config
    data = build_training_data(config)
    test, *_ = build_evaluation_data(config, dev, data.alphabet, data.normalization, cache=cache_of(config))
    assert data.train.augmentation is not None
    assert data.train.augmentation.speeds == config.augment.speeds == (0.9, 1.0, 1.1, 1.2)
    for dataset in (data.dev, test):
        assert dataset.augmentation is None
        for member in range(3):
            plain = data.normalization.apply(dataset.clips[member][1.0]).tobytes()
            assert {dataset.features(member, epoch).tobytes() for epoch in range(4)} == {plain}


LOUDER = replace(SPEEDS, gain_db=(-12.0, 6.0))


def test_where_samples_vary_they_are_kept_and_features_are_those_of_the_augmented_clip_in_every_epoch(tmp_path):
    dataset = load(write_clips(tmp_path), augmentation=LOUDER, seed=5)
    dataset = dataset.normalized_by(estimate_normalization(map(dataset.plain_features, range(3))))
    kept = load(write_clips(tmp_path), augmentation=SPEEDS, seed=5)
    of_features = estimate_normalization(clip[1.0] for clip in kept.clips)
    assert dataset.normalization.mean.tobytes() == of_features.mean.tobytes()
    for member in range(3):
        samples = read_audio(tmp_path / f"clip{member}.wav", AUDIO)
        for epoch in range(4):
            key = {"seed": 5, "epoch": epoch, "id": f"id{member}"}
            heard = FEATURES.compute(augment_samples(samples, augmentation=LOUDER, sample_rate=RATE, **key))
            rng = utterance_rng(5, epoch, f"id{member}", "masks")
            expected = spec_augment(dataset.normalization.apply(heard), LOUDER, rng=rng)
            np.testing.assert_array_equal(dataset.features(member, epoch), expected)
            assert len(expected) == dataset.num_frames(member, dataset.speed(member, epoch))
    lengths, same = dataset.lengths, kept.lengths
    for name in ("plain", "most", "fewest", "labels"):
        np.testing.assert_array_equal(getattr(lengths, name), getattr(same, name))
    assert dataset.keep([True, False, True]).features(1, 3).tobytes() == dataset.features(2, 3).tobytes()


def test_recordings_that_cannot_be_used_are_left_out_where_that_is_allowed_and_told(tmp_path):
    manifest = write_clips(tmp_path)
    (tmp_path / "clip1.wav").write_text("not audio")
    for augmentation in (None, SPEEDS, LOUDER):
        dataset = load(manifest, unreadable="drop", augmentation=augmentation)
        assert dataset.ids == ("id0", "id2")
        assert dataset.labels == ((), (1, 1))
        assert dataset.seconds == (0.5, 0.3)
        assert len(dataset.recordings) == 2
        assert [line.split(":")[0] for line in dataset.unreadable] == ["utterance 'id1' (line 2)"]
    for number in (0, 2):
        (tmp_path / f"clip{number}.wav").unlink()
    assert len(refusal(manifest, unreadable="drop").splitlines()) == 3
