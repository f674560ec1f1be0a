"""Results of an evaluation on disk: written, read again, and refused where they cannot be right."""

import json

import pytest

from dsrun.errors import DataError
from dsrun.evaluation.results import (
    Evaluation,
    own_results,
    read_results,
    results_text,
    score_utterance,
    step_of_results,
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_results_read_again_are_the_results_that_were_written(tmp_path):
    results = Evaluation(
        (score_utterance("a", "press one", "press ane", 1.5), score_utterance("b", "", "oh \u202e\u0301", float("inf")))
    ).with_facts({"a": (1.25, "alice"), "b": (None, None)})
    path = write(tmp_path / "dev.jsonl", [u.to_json() for u in results.utterances])
    assert read_results(path) == results


def test_a_file_from_before_seconds_and_speakers_is_still_read(tmp_path):
    old = score_utterance("a", "press one", "press", 1.5).to_json()
    del old["seconds"], old["speaker"]
    (found,) = read_results(write(tmp_path / "old.jsonl", [old])).utterances
    assert (found.seconds, found.speaker, found.words.deletions) == (None, None, 1)


def test_errors_are_counted_from_the_texts_whatever_the_file_says(tmp_path):
    row = score_utterance("a", "press one", "press two", 1.5).to_json()
    row["words"]["errors"] = row["words"]["substitutions"] = 0
    (found,) = read_results(write(tmp_path / "a.jsonl", [row])).utterances
    assert (found.words.errors, found.characters.errors) == (1, 3)


def test_every_bad_line_is_named_with_its_number(tmp_path):
    good = {"id": "a", "reference": "x", "hypothesis": "x"}
    rows = [good, good, {"id": "b"}, [], good | {"id": "c", "speaker": 3}, good | {"id": "d", "seconds": -1}]
    rows += [good | {"id": "e", "loss": True}, good | {"id": "f", "reference": "\ud800"}]
    rows += [good | {"id": "g", "hypothesis": "x" * 10_001}]
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(DataError) as found:
        read_results(path)
    reasons = [
        "2: id 'a' stands in an earlier line", "3: lacks reference, hypothesis", "4: a list, not", "5: speaker is '3'",
        "6: seconds is -1", "7: loss is 'True'", "8: reference is '\\ud800'", "9: hypothesis has 10,001 characters",
    ]  # fmt: skip
    for reason, line in zip(reasons, str(found.value).split("\n"), strict=True):
        assert line.startswith(f"{path}:{reason}")


def test_no_file_a_folder_no_lines_and_no_text_are_one_message_each(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, reason in [("none.jsonl", "dsrun eval RUN"), (".", "a folder"), ("empty.jsonl", "no results"),
                         ("binary.jsonl", "UTF-8")]:  # fmt: skip
        with pytest.raises(DataError, match=reason):
            read_results(tmp_path / name)


def test_two_splits_with_equal_stems_have_a_file_each_and_a_manifest_alone_has_its_own_name():
    manifests = {"train": "a/x.jsonl", "dev": "b/x.jsonl", "test": "c/y.jsonl"}
    digests = {"train": "1", "dev": "2", "test": "3"}
    assert [own_results(split, manifests, digests) for split in manifests] == ["x-train", "x-dev", "y"]
    # The same content is the same results, wherever it lies.
    assert own_results("dev", manifests, digests | {"train": "2"}) == "x"
    assert own_results("test", {"dev": "a/x.jsonl", "test": None} | {"test": "b/x.jsonl"}, {}) == "x"


def test_a_file_of_results_says_which_checkpoint_it_is_of_unless_it_is_damaged_or_older(tmp_path):
    path = tmp_path / "dev.jsonl"
    result = Evaluation((score_utterance("a", "x", "y", 1.0),))
    path.write_text(results_text(result, step=12, decoder={"kind": "greedy"}))
    assert step_of_results(path) == 12
    assert read_results(path) == result
    for text in ("", "[]", '{"id": "a"}', '{"step": true}', '{"step": 1', "[" * 5000):
        path.write_text(text)
        assert step_of_results(path) is None
    assert step_of_results(tmp_path) is step_of_results(tmp_path / "gone") is None


def test_best_median_and_worst_are_by_character_error_rate():
    texts = {"c": "aaaa", "b": "aaab", "a": "bbbb"}
    found = Evaluation(tuple(score_utterance(id, "aaaa", text, 0.0) for id, text in texts.items())).examples()
    assert {name: example.id for name, example in found.items()} == {"best": "c", "median": "b", "worst": "a"}
    assert Evaluation(()).examples() == {}
