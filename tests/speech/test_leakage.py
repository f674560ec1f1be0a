"""What splits share: found across files and formats, and told as what it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dsrun.speech import AudioSettings, Split, check_manifest, count_recordings_in, find_leakage, read_manifest
from dsrun.speech.manifest import TarMember, Utterance

RATE = 16_000


@pytest.fixture
def split(tmp_path):
    """A function that makes a checked split of rows (id, seed of the recording, text, speaker)."""

    def make(name, *rows, ending="flac"):
        lines = []
        for id, seed, text, speaker in rows:
            samples = np.random.default_rng(seed).uniform(-0.1, 0.1, 4000).astype(np.float32)
            path = tmp_path / f"{name}-{id}.{ending}"
            soundfile.write(path, np.round(samples * 32768) / 32768, RATE, subtype="PCM_16")
            lines.append({"audio_filepath": path.name, "duration": 0.25, "text": text, "id": id, "speaker": speaker})
        manifest = tmp_path / f"{name}.jsonl"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        utterances = read_manifest(manifest)
        return Split(name, utterances, check_manifest(utterances, audio=AudioSettings(RATE)).columns)

    return make


def test_splits_with_nothing_in_common_are_told_nothing(split):
    train = split("train", ("a", 1, "one two", "ann"), ("b", 2, "three four", None))
    test = split("test", ("c", 3, "five six", "bob"), ("d", 4, "", None), ("e", 5, "", None))
    errors, warnings, rows = find_leakage([train, test])
    assert (errors.listed(), warnings.listed()) == ([], [])
    assert rows == [{"split": "test", "has what is in": "train", "recordings": 0, "ids": 0, "speakers": 0, "texts": 0}]


def test_a_recording_of_train_in_test_is_an_error_even_under_another_name_and_in_another_format(split):
    train = split("train", ("a", 1, "one", None), ("b", 2, "two", None))
    test = split("test", ("x", 3, "three", None), ("y", 2, "four", None), ending="wav")
    errors, warnings, _ = find_leakage([train, test])
    assert errors.listed() == ["test: utterance 'y' (line 2): the same recording as utterance 'b' (line 2) of train."]
    assert warnings.listed() == []


def test_shared_ids_speakers_and_normalised_texts_are_warnings_with_their_share(split):
    train = split("train", ("a", 1, "one two", "ann"), ("b", 2, "three", "bob"))
    test = split("test", ("a", 3, "ONE  two", "ann"), ("c", 4, "new", "ann"), ("d", 5, "", None), ("e", 6, "", None))
    errors, warnings, rows = find_leakage([train, test])
    assert errors.listed() == []
    assert warnings.listed() == [
        "test: 1 utterances (25%) have an id that train has too; 1 different: 'a'.",
        "test: 2 utterances (50%) have a speaker that train has too; 1 different: 'ann'.",
        "test: 1 utterances (25%) have a text that train has too; 1 different: 'ONE  two'.",
    ]
    assert rows[0] == {"split": "test", "has what is in": "train", "recordings": 0, "ids": 1, "speakers": 2, "texts": 1}


def test_every_pair_of_splits_is_compared(split):
    parts = [split(name, (name, seed, name, None)) for name, seed in (("train", 1), ("dev", 2), ("test", 1))]
    errors, _, rows = find_leakage(parts)
    assert [(row["split"], row["has what is in"]) for row in rows] == [
        ("dev", "train"), ("test", "train"), ("test", "dev"),
    ]  # fmt: skip
    assert len(errors.listed()) == 1


def test_overlapping_parts_of_one_file_are_an_error_and_other_parts_of_it_a_warning(tmp_path):
    (tmp_path / "sub").mkdir()

    def parts(name, path, *intervals):
        lines = [
            {
                "audio_filepath": path,
                "offset": start,
                "duration": seconds,
                "text": f"{name} {start}",
                "id": f"{name}-{start}",
            }
            for start, seconds in intervals
        ]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        utterances = read_manifest(tmp_path / name)
        report = check_manifest(utterances, audio=AudioSettings(RATE), depth="nothing")
        return Split(name, utterances, report.columns)

    # The first of train is long: what overlaps it starts behind others that are over by then.
    train = parts("train", "long.wav", (10.0, 30.0), (0.0, 2.0), (12.0, 1.0))
    test = parts("test", "sub/../long.wav", (2.0, 3.0), (20.0, 2.0), (0.5, 1.0), (39.95, 3.0))
    other = parts("other", "another.wav", (0.0, 2.0))
    errors, warnings, _ = find_leakage([train, test, other])
    assert errors.listed() == [
        "test: utterance 'test-20.0' (line 2): overlaps utterance 'train-10.0' (line 1) of train in the same file.",
        "test: utterance 'test-0.5' (line 3): overlaps utterance 'train-0.0' (line 2) of train in the same file.",
    ]
    assert warnings.listed() == [
        "test: 2 utterances (50%) are in a file that train has other parts of: utterance 'test-2.0' (line 1), "
        "utterance 'test-39.95' (line 4)."
    ]


@pytest.mark.parametrize(
    ("mine", "theirs", "count"),
    [
        ([(0, 1)], [(1, 1)], 0),  # neighbours
        ([(0, 1.5)], [(1, 1)], 1),
        ([(3, 1)], [None], 1),  # a part of a whole file
        ([None], [(3, 1)], 1),
        ([(5, 1)], [(0, 10), (1, 1)], 1),  # the part before it ended long ago, the one before that did not
        ([(2, 1), (3, 0.5)], [(0, 1), (3, 1)], 1),
    ],
)
def test_sound_that_two_manifests_share_is_counted_by_time_in_the_file(mine, theirs, count):
    def made(spans):
        parts = [span or (0.0, 9.0) for span in spans]
        return [
            Utterance("id", Path("a.wav"), float(seconds), "text", offset=float(start), is_part=span is not None)
            for span, (start, seconds) in zip(spans, parts, strict=True)
        ]

    assert count_recordings_in(made(mine), made(theirs)) == count
    inside = [replace(one, member=TarMember(512, 5)) for one in made(mine)]
    assert count_recordings_in(inside, made(theirs)) == 0
