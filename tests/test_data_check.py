"""`dsrun data check`: manifests beside each other and under a config, as a document, as a text, as a picture."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows, write_tone

from dsrun.cli_data import data_app
from dsrun.data_check import check_data
from dsrun.errors import DataError, UsageError


def check(*arguments):
    """Exit code, output."""
    result = CliRunner().invoke(data_app, ["check", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def corpus(tmp_path):
    """Eight real clips; tests spoil them."""
    return tmp_path, shortest_prompts(8)


def test_all_problems_are_in_the_document_and_the_exit_code_is_3(corpus):
    folder, rows = corpus
    rows[1]["audio_filepath"] = "nowhere.ogg"
    rows[4]["text"] = ""
    code, output = check(write_rows(folder / "m.jsonl", rows), "--json")
    assert code == 3
    document = json.loads(output)
    (error,) = document["errors"]
    assert "no such file" in error
    assert "(line 2)" in error
    assert any("empty" in warning for warning in document["warnings"])
    assert (document["totals"]["errors"], document["totals"]["usable"]) == (1, 7)
    assert document["manifests"][0]["kinds"]["errors"] == {"recording": 1}


def test_a_good_manifest_is_a_table_and_exit_code_0(corpus):
    folder, rows = corpus
    code, output = check(write_rows(folder / "good.jsonl", rows))
    assert code == 0
    assert "encoding OGG VORBIS (8 times)" in output
    assert output.splitlines()[-1].startswith("utterances 8  usable 8  hours 0.002  errors 0")
    assert "error" not in output.replace("errors 0", "")


def test_the_same_recording_in_two_splits_is_an_error_that_names_both_lines(corpus):
    folder, rows = corpus
    samples, rate = soundfile.read(rows[3]["audio_filepath"], dtype="float32")
    soundfile.write(folder / "copy.wav", samples, rate, subtype="FLOAT")
    copy = rows[3] | {"audio_filepath": "copy.wav", "id": "copy", "text": "something else"}
    train, test = write_rows(folder / "train.jsonl", rows[:4]), write_rows(folder / "test.jsonl", [*rows[4:], copy])
    code, output = check(train, test, "--json")
    assert code == 3
    document = json.loads(output)
    there = f"the same recording as utterance {rows[3]['id']!r} (line 4) of {train}."
    assert document["errors"] == [f"{test}: utterance 'copy' (line 5): {there}"]
    assert document["leakage"][0]["recordings"] == 1


def test_a_config_adds_its_alphabet_its_lengths_and_its_manifests(corpus):
    folder, rows = corpus
    rows[0]["text"] = "hello там"
    rows[2]["text"] = "far too long for so short a clip " * 4
    train = write_rows(folder / "train.jsonl", rows)
    config = write_config(folder, train=train, dev=write_rows(folder / "dev.jsonl", rows[4:6]))
    document = check_data([], config=config, sample_rate=0).document
    assert [found["manifest"] for found in document["manifests"]] == [str(train), str(folder / "dev.jsonl")]
    unknown, infeasible, *leaked = document["errors"]
    assert "'т' (U+0442) is not in the alphabet: 1 time" in unknown
    assert rows[2]["id"] in infeasible
    assert "output frames" in infeasible
    assert len(leaked) == 2
    assert document["totals"]["errors"] == 4
    assert [row["buckets"] for row in document["manifests"][0]["padding"]] == [1, 2, 4, 8, 16]


def test_a_million_lines_need_no_audio(tmp_path):
    # A hundred here; that memory and time are bounded is measured by hand.
    lines = [{"audio_filepath": f"{n}.flac", "duration": 1 + n / 10, "text": f"a text {n}"} for n in range(100)]
    code, output = check(write_rows(tmp_path / "m.jsonl", lines), "--audio", "nothing")
    assert code == 0
    assert "utterances 100  usable 100  hours 0.165" in output


def test_nothing_to_check_and_a_manifest_twice_are_refused(corpus):
    folder, rows = corpus
    manifest = write_rows(folder / "m.jsonl", rows)
    with pytest.raises(UsageError, match="name manifests, or --config"):
        check_data([], config=None, sample_rate=16_000)
    with pytest.raises(UsageError, match="the same manifest twice"):
        check_data([manifest, manifest], config=None, sample_rate=16_000)


def test_the_picture_is_made_also_where_nothing_can_be_used(corpus):
    folder, rows = corpus
    good = write_rows(folder / "good.jsonl", rows)
    bad = write_rows(folder / "bad.jsonl", [rows[0] | {"audio_filepath": "nowhere.ogg"}])
    assert check(good, bad, "--plot", folder / "data.png")[0] == 3
    assert (folder / "data.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"ends in .png or .svg"):
        check(good, "--plot", folder / "data.gif")


def test_longest_and_shortest_are_named_once_each(corpus):
    folder, rows = corpus
    document = check_data([write_rows(folder / "m.jsonl", rows)], config=None, sample_rate=16_000).document
    durations = sorted(row["duration"] for row in rows)
    found = document["manifests"][0]
    np.testing.assert_allclose(sorted(found["longest"].values()), durations[-3:], atol=0.02)
    np.testing.assert_allclose(sorted(found["shortest"].values()), durations[:3], atol=0.02)


def with_data(config, **data):
    """The config with other settings of `data`."""
    values = json.loads(config.read_text())
    values["data"] |= data
    config.write_text(json.dumps(values))
    return config


def kinds(config, split):
    document = check_data([], config=config, sample_rate=0, depth="nothing").document
    return next(found["kinds"] for found in document["manifests"] if found["manifest"].endswith(f"{split}.jsonl"))


def test_what_is_an_error_and_what_a_warning_is_as_the_config_trains(corpus):
    folder, rows = corpus
    rows[0] |= {"text": "hello там"}
    rows[1] |= {"text": ""}
    rows[2] |= {"text": "far too long for so short a clip " * 4}
    files = {split: write_rows(folder / f"{split}.jsonl", rows) for split in ("train", "dev", "test")}
    config = write_config(folder, **files)
    found = {"unknown characters": 1, "empty transcript": 1, "infeasible": 1}
    assert found.items() <= kinds(config, "train")["errors"].items()
    assert kinds(config, "dev")["warnings"]["infeasible"] == 1  # not learnt from
    assert found.items() <= kinds(config, "test")["warnings"].items()  # only scored
    with_data(config, unknown_characters="drop", empty_transcript="drop", infeasible="drop")
    assert kinds(config, "train")["errors"] == {}
    assert found.items() <= kinds(config, "train")["warnings"].items()


def test_texts_that_the_normaliser_refuses_are_told_with_their_lines_and_the_rest_is_checked(corpus):
    folder, rows = corpus
    rows[1]["text"], rows[3]["text"] = "one + two", "5 200 times"
    rows[5]["audio_filepath"] = "nowhere.ogg"
    train = write_rows(folder / "train.jsonl", rows)
    dev = write_rows(folder / "dev.jsonl", [rows[6] | {"id": "other"}])
    config = with_data(write_config(folder, train=train, dev=dev), normalizer="english", alphabet=None)
    errors = check_data([train], config=config, sample_rate=0, depth="headers").document["errors"]
    assert len(errors) == 3
    assert {line for line in (2, 4, 6) if any(f"(line {line})" in error for error in errors)} == {2, 4, 6}
    (error,) = check_data([dev], config=config, sample_rate=0, depth="headers").document["errors"]
    assert error.startswith(f"{train}: data.normalizer english: ")


def test_a_path_with_dollars_is_drawn_as_it_is(corpus):
    folder, rows = corpus
    manifest = folder / r"$\x$.jsonl"
    write_rows(manifest, rows[:2])
    assert check(manifest, "--audio", "nothing", "--plot", folder / "data.png")[0] == 0


def test_a_rate_of_the_option_is_called_so_and_may_not_be_nonsense(corpus):
    folder, rows = corpus
    write_tone(folder / "two.wav", rate=44_100, channels=2)
    manifest = write_rows(folder / "m.jsonl", [rows[0] | {"audio_filepath": "two.wav", "duration": 1.0}])
    code, output = check(manifest, "--sample-rate", "22050")
    assert code == 3
    assert "44100 Hz, --sample-rate says 22050 (convert it, or write --sample-rate 44100)" in output
    assert "2 channels, where one is wanted" in output
    assert "config says" not in output
    for rate in (-1, 999, 192_001):
        assert check(manifest, "--sample-rate", rate)[0] == 2


def test_a_manifest_of_the_config_that_is_missing_is_named_with_config_line_and_key(corpus):
    folder, _ = corpus
    config = write_config(folder, train="away/train.jsonl", dev="away/dev.jsonl")
    with pytest.raises(DataError) as error:
        check_data([], config=config, sample_rate=0)
    train, dev = str(error.value).splitlines()
    assert train.startswith(
        f"{folder}/away/train.jsonl: no such manifest. data.train of {config} names it (tiny.yaml:1); rel"
    )
    assert "data.dev of" in dev


def test_named_manifests_are_checked_without_the_alphabet_where_the_training_manifest_is_missing(corpus):
    folder, rows = corpus
    rows[2]["audio_filepath"] = "nowhere.ogg"
    named = write_rows(folder / "named.jsonl", rows)
    config = with_data(write_config(folder, train="gone.jsonl", dev=named), alphabet=None)
    document = check_data([named], config=config, sample_rate=0, depth="headers").document
    missing, recording = document["errors"]
    assert missing.startswith(f"{folder}/gone.jsonl: no such manifest. data.train of {config} names it")
    assert missing.endswith("characters and CTC feasibility are not checked.")
    assert "(line 3)" in recording
    assert document["totals"]["errors"] == 2


def test_the_table_says_what_usable_counts_where_texts_are_wrong(corpus):
    folder, rows = corpus
    rows[0]["text"] = "hello там"
    train = write_rows(folder / "train.jsonl", rows)
    config = write_config(folder, train=train, dev=train)
    note = "usable: the recording has no error; what is wrong with texts is in"
    assert note in check(train, "--config", config, "--audio", "headers")[1]
    assert note not in check(write_rows(folder / "good.jsonl", rows[1:]), "--audio", "headers")[1]
