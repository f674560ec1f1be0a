"""The index of a manifest gives what reading all of it gives, line for line and error for error, in a bounded number of bytes."""

import gc
import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.errors import DataError
from dsrun.speech import manifest_index, open_manifest, read_manifest


def row(**changes) -> str:
    fields = {"audio_filepath": "a.wav", "duration": 1.5, "text": "Hello there"} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...}, ensure_ascii=False)


def write(folder, *lines: str, end="\n", start=""):
    path = folder / "list.jsonl"
    path.write_bytes((start + end.join([*lines, ""])).encode())
    return path


def refusal(read, path) -> str:
    with pytest.raises(DataError) as error:
        read(path)
    return str(error.value)


GOOD = [
    row(id="one", speaker="s", lang="en"),
    "",
    "   ",
    row(audio_filepath="ä b.flac", text="größe\u2028 \u4f60"),
    row(audio_filepath="t.tar", tar_offset=512, tar_size=99, duration=7, sha256="0" * 64),
    row(audio_filepath="/abs/long.wav", offset=2.5, duration=0.123456789),
]


@pytest.mark.parametrize(("end", "start"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff"), ("\n", "\ufeff\n")])
def test_every_utterance_is_the_one_that_reading_the_whole_gives(tmp_path, end, start):
    path = write(tmp_path, *GOOD, end=end, start=start)
    index, whole = open_manifest(path), read_manifest(path)
    assert list(index) == whole == [index[number] for number in range(4)]
    assert [index[-1], index[1:3]] == [whole[-1], whole[1:3]]
    assert list(index.ids) == [utterance.id for utterance in whole]
    assert index.seconds.tolist() == [utterance.duration for utterance in whole]
    assert [row.fields["text"] for row in index.rows()] == [utterance.text for utterance in whole]
    with pytest.raises(IndexError):
        index[4]


def test_a_last_line_without_an_end_is_read_too(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(row(id="a") + "\n" + row(id="b"), encoding="utf-8")
    assert list(open_manifest(path)) == read_manifest(path)


@pytest.mark.parametrize(
    "lines",
    [
        [row(), "{not json", row(), "[1]", row(id="x"), row(id="x"), row(id="x", text=5)],
        [row(id="same")] * 30,
        ["{"] * 25 + [row()] * 5,
        ["", ""],
        [],
        [row(tar_offset=3), row(sha256="ABC"), row(sha256="f" * 64, speaker=3), row(duration=-1), row(id="")],
        [
            row(text="\ud800").encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
            '{"audio_filepath": "\\ud800"}',
        ],
    ],
)
def test_every_problem_is_told_in_the_same_words(tmp_path, lines):
    path = write(tmp_path, *lines)
    assert refusal(open_manifest, path) == refusal(read_manifest, path)


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_bytes(row(id="a").encode() + b"\n\xff\xfe\n" + row(id="b").encode())
    assert f"{path}:2: cannot be read as UTF-8 text" in refusal(open_manifest, path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_manifest_of_another_encoding_is_told_once_with_the_way_out(tmp_path, encoding):
    path = tmp_path / "list.jsonl"
    path.write_bytes(
        "\n".join(f'{{"audio_filepath": "{n}.wav", "duration": 1, "text": "né"}}' for n in range(9)).encode(encoding)
    )
    for reader in (open_manifest, read_manifest):
        said = refusal(reader, path)
        assert said.count("\n") == 0
        assert str(path) in said
        assert re.search("Convert (it|the file) to UTF-8", said)


def test_a_missing_file_a_folder_and_a_pipe_are_refused_in_the_same_words(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        assert refusal(open_manifest, path) == refusal(read_manifest, path)


def test_a_line_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_index, "LONGEST_LINE", 200)
    assert "1: longer than 200 bytes" in refusal(open_manifest, write(tmp_path, row(text="x" * 500), row()))


def test_two_ids_of_one_hash_are_two_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_index, "hash", lambda _: 7, raising=False)
    path = write(tmp_path, *(row(id=str(number % 9)) for number in range(12)))
    assert refusal(open_manifest, path) == refusal(read_manifest, path)


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=8))
def test_ids_of_any_characters_come_back(tmp_path_factory, ids):
    path = write(tmp_path_factory.mktemp("ids"), *(row(id=id) for id in ids))
    if len(set(ids)) == len(ids):
        assert list(open_manifest(path).ids) == ids
    else:
        assert refusal(open_manifest, path) == refusal(read_manifest, path)


def test_an_utterance_costs_24_bytes_and_its_id(tmp_path):
    ids = [f"{number:05}" for number in range(2000)]
    assert open_manifest(write(tmp_path, *(row(id=id) for id in ids))).nbytes <= 2000 * (24 + 5) + 8


def test_replacing_the_file_changes_nothing_and_writing_into_it_is_noticed(tmp_path):
    path = write(tmp_path, row(id="a"), row(id="b"))
    index, before = open_manifest(path), read_manifest(path)
    (tmp_path / "new").write_text(row(id="other") + "\n")
    (tmp_path / "new").replace(path)
    assert list(index) == before
    index = open_manifest(path)
    path.write_text(row(id="rehto") + "\n")
    assert "list.jsonl:1: changed since the manifest was opened" in refusal(lambda _: index[0], path)


def test_the_file_is_closed_with_the_last_reference(tmp_path):
    path = write(tmp_path, row())

    def times_open() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{name}") == str(path) for name in os.listdir("/proc/self/fd"))

    index = open_manifest(path)
    assert times_open() == 1
    del index
    gc.collect()
    assert times_open() == 0


def test_two_passes_over_one_index_at_once_do_not_disturb_each_other(tmp_path):
    path = write(
        tmp_path, *(row(id=f"clip-{number}", text="x" * 300) for number in range(400))
    )  # more than is read at once
    index = open_manifest(path)
    pairs = list(zip(index.rows(), index.rows(), strict=True))
    assert all(a == b for a, b in pairs)
    assert [a.id for a, _ in pairs] == list(index.ids)
