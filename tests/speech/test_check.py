"""`dsrun data check`: every problem of a manifest in one report, and nothing invented."""

import json

import numpy as np
import pytest
import soundfile

from dsrun.speech import Alphabet, AudioSettings, Workers, check_manifest, read_manifest

RATE = 16_000
AUDIO = AudioSettings(RATE)


@pytest.fixture
def corpus(tmp_path):
    """A function that adds recordings to a manifest and one that reads it."""

    class Corpus:
        def __init__(self):
            self.rows = []

        def add(self, name, samples, text="hello there", *, rate=RATE, **fields):
            soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT" if name.endswith(".wav") else None)
            self.list(name, len(samples) / rate, text, **fields)

        def list(self, name, duration, text="hello there", **fields):
            self.rows.append({"audio_filepath": name, "duration": duration, "text": text} | fields)

        def check(self, **options):
            path = tmp_path / "list.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
            return check_manifest(read_manifest(path), audio=AUDIO, **options)

    return Corpus()


def noise(seconds=1.0, seed=0, level=0.1):
    samples = np.random.default_rng(seed).uniform(-level, level, round(seconds * RATE))
    return samples.astype(np.float32)


def test_a_good_manifest_has_no_problems_and_its_totals_add_up(corpus):
    for number in range(4):
        corpus.add(f"{number}.flac", noise(1 + number, seed=number), "ab cd" if number else "ab")
    report = corpus.check(alphabet=Alphabet(tuple(" abcd")))
    assert (report.errors, report.warnings) == ([], [])
    assert report.totals == {
        "utterances": 4,
        "usable": 4,
        "seconds": 10.0,
        "hours": 0.003,
        "characters": 17,
        "distinct_texts": 2,
        "speakers": None,
        "characters_per_second": round(5 / 3, 2),  # the median of 5/2, 5/3, 5/4: one-word clips do not count
    }
    assert report.headers == {"rate": {"16000 Hz": 4}, "channels": {"1": 4}, "encoding": {"FLAC PCM_16": 4}}
    assert (report.longest, report.shortest) == ({"3": 4.0, "2": 3.0, "1": 2.0}, {"0": 1.0, "1": 2.0, "2": 3.0})
    assert report.histograms["seconds"].percentiles == (1.15, 2.5, 3.85)
    assert json.loads(json.dumps(report.to_json()))["totals"] == report.totals


def test_every_error_is_reported_with_its_line_not_only_the_first(corpus, tmp_path):
    corpus.add("good.flac", noise())
    corpus.list("missing.flac", 1.0)
    (tmp_path / "text.wav").write_text("not audio")
    corpus.list("text.wav", 1.0)
    corpus.add("cut.flac", noise(seed=1))
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:5_000])
    corpus.add("rate.flac", noise(seed=2), rate=8_000)
    corpus.add("stereo.flac", np.stack([noise(), noise()], axis=1))
    corpus.add("nan.wav", np.full(RATE, np.nan, np.float32))
    corpus.add("short.flac", noise(seed=3))
    corpus.rows[-1]["duration"] = 9.0
    report = corpus.check()
    expected = ["no such file", "not an audio file", "breaks off", "8000 Hz", "2 channels", "NaN", "manifest says 9.00"]
    assert len(report.errors) == len(expected)
    for line, (error, text) in enumerate(zip(report.errors, expected, strict=True), start=2):
        assert f"(line {line}): " in error
        assert text in error
    assert (report.totals["utterances"], report.totals["usable"], report.totals["seconds"]) == (8, 1, 1.0)


def test_without_decoding_what_a_header_says_is_found_and_without_opening_what_the_manifest_says(corpus, tmp_path):
    corpus.add("good.flac", noise())
    corpus.list("missing.flac", 1.0)
    corpus.add("rate.flac", noise(seed=2), rate=8_000)
    corpus.add("short.flac", noise(seed=3))
    corpus.rows[-1]["duration"] = 9.0
    corpus.add("nan.wav", np.full(RATE, np.nan, np.float32))
    corpus.list("good.flac", 0.0, id="nothing")
    headers = corpus.check(depth="headers")
    for error, text in zip(headers.errors, ["no such file", "8000 Hz", "manifest says 9.00", "says 0.00"], strict=True):
        assert text in error
    assert headers.headers["rate"] == {"16000 Hz": 4, "8000 Hz": 1}
    nothing = corpus.check(depth="nothing")
    assert nothing.errors == ["utterance 'nothing' (line 6): lasts 0 s by the manifest."]
    assert nothing.headers == {}
    assert (nothing.totals["usable"], nothing.totals["seconds"]) == (5, 14.0)


@pytest.mark.parametrize("depth", ["samples", "headers", "nothing"])
def test_threads_change_nothing_and_progress_is_told_to_the_end(corpus, depth):
    for number in range(12):
        corpus.add(f"{number}.flac", noise(0.1 + 0.05 * number, seed=number))
    corpus.list("5.flac", 0.35, id="again")
    corpus.list("missing.flac", 1.0)
    told = []
    one = corpus.check(depth=depth)
    three = corpus.check(depth=depth, workers=Workers(3), on_progress=lambda done, total: told.append((done, total)))
    assert three.to_json() == one.to_json()
    assert three.warnings == ["utterance 'again' (line 13): the same recording as utterance '5' (line 6)."]
    assert told == [(number, 14) for number in range(1, 15)]


def test_of_a_kind_of_problem_a_thousand_are_kept_and_the_others_counted(corpus):
    for number in range(1002):
        corpus.list(f"{number}.flac", 1.0)
    report = corpus.check()
    assert len(report.errors) == 1001
    assert report.errors[-1] == "... and 2 more problems of kind 'recording'"
    assert report.kinds["errors"] == {"recording": 1002}


def test_an_offset_is_told_where_it_is_large_beside_the_level(corpus):
    corpus.add("offset.wav", noise() + np.float32(0.02))
    corpus.add("loud.wav", noise(level=0.9) + np.float32(0.02))  # 4% of the level
    corpus.add("good.wav", noise(seed=3))
    (warning,) = corpus.check().warnings
    assert "'offset' (line 1): DC offset: the mean is +0.020 of full scale, 3" in warning


def test_silence_and_clipping_are_warnings(corpus):
    corpus.add("zero.flac", np.zeros(RATE, np.float32))
    corpus.add("hiss.wav", noise(level=1e-4))
    corpus.add("clipped.wav", np.clip(noise(level=1.01), -1, 1))  # about 1% of the samples
    corpus.add("quiet.wav", noise(level=2e-3))
    corpus.add("loud.wav", noise(level=0.99))
    report = corpus.check()
    assert report.errors == []
    zero, hiss, clipped = report.warnings
    assert "'zero' (line 1): every sample is zero" in zero
    assert "'hiss' (line 2): silent: the highest level is -80 dBFS" in hiss
    assert "'clipped' (line 3): clipped: 1." in clipped


def test_the_same_recording_twice_is_a_warning_but_two_parts_of_it_are_not(corpus, tmp_path):
    corpus.add("a.flac", noise(4))
    corpus.add("copy.flac", noise(4))
    corpus.list("a.flac", 1.0, offset=1.0)
    corpus.list("a.flac", 1.0, offset=2.0)
    corpus.add("other_container.wav", soundfile.read(tmp_path / "a.flac", dtype="float32")[0])
    report = corpus.check()
    assert report.warnings == [
        "utterance 'copy' (line 2): the same recording as utterance 'a' (line 1).",
        "utterance 'other_container' (line 5): the same recording as utterance 'a' (line 1).",
    ]


def test_an_empty_transcript_is_a_warning_and_an_unknown_character_an_error(corpus):
    corpus.add("empty.flac", noise(seed=1), " \t")
    corpus.add("foreign.flac", noise(seed=2), "hello там")
    report = corpus.check(alphabet=Alphabet(tuple(" abcdefghijklmnopqrstuvwxyz")))
    assert report.warnings == ["utterance 'empty' (line 1): the transcript is empty."]
    (error,) = report.errors
    assert "'т' (U+0442) is not in the alphabet: 1 time, in 'foreign'" in error
    assert corpus.check().errors == []


def test_a_transcript_of_another_recording_stands_out_by_its_rate(corpus):
    rng = np.random.default_rng(0)
    for number in range(30):
        corpus.add(f"{number}.flac", noise(rng.uniform(0.9, 1.1), seed=number), "one two three")
    corpus.add("wrong.flac", noise(1.0, seed=99), "one two three " * 5)
    corpus.add("letter.flac", noise(1.0, seed=98), "w")  # one word: not judged
    (warning,) = corpus.check().warnings
    assert "'wrong' (line 31): 69.0 characters a second" in warning


def test_where_no_text_has_a_space_rates_of_speech_are_judged_all_the_same(corpus):
    for number in range(30):
        corpus.add(f"{number}.flac", noise(0.2 + 0.001 * number, seed=number), "今天天气很好")
    corpus.add("wrong.flac", noise(0.2, seed=99), "今天天气很好" * 9)
    (warning,) = corpus.check().warnings
    assert "'wrong' (line 31)" in warning


def test_a_space_in_one_text_of_many_does_not_keep_the_others_from_being_judged(corpus):
    for number in range(30):
        corpus.add(f"{number}.flac", noise(0.2 + 0.001 * number, seed=number), "今天天气很好")
    corpus.add("spaced.flac", noise(0.25, seed=98), "我 是 谁 呢")
    corpus.add("wrong.flac", noise(0.2, seed=99), "今天天气很好" * 9)
    (warning,) = corpus.check().warnings
    assert "'wrong' (line 32)" in warning
