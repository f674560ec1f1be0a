"""Manifests: what is read, what is kept, and every problem named with its line."""

import json

import pytest

from dsrun.errors import DataError
from dsrun.speech import TarMember, read_manifest, write_manifest


def write(folder, *lines: str, encoding="utf-8", end="\n"):
    path = folder / "list.jsonl"
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


def row(**changes) -> str:
    fields = {"audio_filepath": "a.wav", "duration": 1.5, "text": "Hello there"} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...}, ensure_ascii=False)


def test_an_utterance_keeps_its_text_as_written_its_line_and_unknown_keys(tmp_path):
    path = write(
        tmp_path, "", row(speaker="s1", lang="en", text="  Hello,  World "), row(audio_filepath="b/c.flac", id="x")
    )
    first, second = read_manifest(path)
    assert (first.id, first.text, first.duration, first.line) == ("a", "  Hello,  World ", 1.5, 2)
    assert (first.speaker, first.extra, first.offset, first.is_part) == ("s1", {"lang": "en"}, 0.0, False)
    assert (second.id, second.speaker, second.extra) == ("x", None, {})


def test_paths_are_relative_to_the_manifest_and_may_be_absolute(tmp_path):
    path = write(tmp_path, row(audio_filepath="sub/á b.wav"), row(audio_filepath="/elsewhere/z.wav"))
    relative, absolute = read_manifest(path)
    assert relative.audio == (tmp_path / "sub/á b.wav").resolve()
    assert str(absolute.audio) == "/elsewhere/z.wav"


def test_two_parts_of_one_file_get_different_ids(tmp_path):
    path = write(tmp_path, row(offset=0), row(offset=2.5))
    first, second = read_manifest(path)
    assert (first.id, second.id) == ("a", "a@2.5")
    assert first.is_part
    assert (second.offset, second.is_part) == (2.5, True)


def test_a_recording_in_a_tar_file_is_a_member_and_names_itself_by_its_place(tmp_path):
    rows = [
        row(audio_filepath="t.tar", tar_offset=offset, tar_size=700, offset=part)
        for offset, part in ((512, ...), (2048, 1.5))
    ]
    first, second = read_manifest(write(tmp_path, *rows))
    assert (first.member, first.id, first.audio) == (TarMember(512, 700), "t#512", (tmp_path / "t.tar").resolve())
    assert (second.member, second.id, second.offset) == (TarMember(2048, 700), "t#2048@1.5", 1.5)
    assert first.extra == {}


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    plain = read_manifest(write(tmp_path, row(), row(audio_filepath="b.wav")))
    windows = read_manifest(write(tmp_path, row(), row(audio_filepath="b.wav"), encoding="utf-8-sig", end="\r\n"))
    assert windows == plain


def test_what_is_written_is_read_back(tmp_path):
    rows = [{"audio_filepath": "я.ogg", "duration": 2.0, "text": 'привет, "мир"\n', "id": "1"}]
    write_manifest(tmp_path / "m.jsonl", rows)
    (utterance,) = read_manifest(tmp_path / "m.jsonl")
    assert (utterance.text, utterance.id) == ('привет, "мир"\n', "1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "not a JSON object"),
        ("[1, 2]", "a list, not a JSON object"),
        ("9" * 5000, "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        (row(text=...), "lacks text"),
        (row(audio_filepath=..., duration=...), "lacks audio_filepath, duration"),
        (row(text=5), "text is 5; write a text"),
        (row(audio_filepath=""), "audio_filepath is ''"),
        (row(audio_filepath="a\0b"), "write a path"),
        (row(duration="1.5"), "duration is '1.5'; write seconds"),
        (row(duration=True), "duration is True"),
        (row(duration=-1), "duration is -1"),
        (row(duration=None), "duration is None"),
        ('{"audio_filepath": "a", "duration": NaN, "text": ""}', "duration is nan"),
        ('{"audio_filepath": "a", "duration": 1e999, "text": ""}', "duration is inf"),
        ('{"audio_filepath": "a", "duration": 1' + "0" * 400 + ', "text": ""}', "write seconds"),
        (row(offset=-0.5), "offset is -0.5"),
        (row(id=""), "id is empty"),
        (row(tar_offset=512), "tar_size is None; write both tar_offset and tar_size"),
        (row(tar_offset=512, tar_size=0), "tar_size is 0; write both"),
        (row(tar_offset=512, tar_size=2**30), "tar_size is 1073741824; write both"),
        (row(tar_offset=-1, tar_size=5), "tar_offset is -1; write both"),
        (row(tar_offset=2.0, tar_size=5), "tar_offset is 2.0; write both"),
        (row(tar_offset=True, tar_size=5), "tar_offset is True; write both"),
        (row(id=7), "id is 7; write a text"),
        ('{"audio_filepath": "a", "duration": 1, "text": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_with_its_place_and_reason(tmp_path, line, says):
    path = write(tmp_path, row(audio_filepath="good.wav"), line)
    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert says in str(error.value)
    assert error.value.exit_code == 3


def test_all_problems_are_reported_at_once_up_to_twenty_and_the_rest_counted(tmp_path):
    path = write(tmp_path, *[row(duration=-1)] * 23, row(), row())
    with pytest.raises(DataError) as error:
        read_manifest(path)
    lines = str(error.value).split("\n")
    assert len(lines) == 21
    assert lines[19].startswith(f"{path}:20: ")
    assert lines[20] == "... and 4 more problems"


def test_a_duplicate_id_names_both_lines(tmp_path):
    path = write(tmp_path, row(id="x"), row(id="y"), row(audio_filepath="b.wav", id="x"))
    with pytest.raises(DataError, match=r":3: id 'x' stands in line 1 already"):
        read_manifest(path)


def test_a_missing_an_empty_and_a_binary_manifest_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no utterances"):
        read_manifest(write(tmp_path, "", "  "))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_manifest(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path)


def test_noises_need_no_text_and_utterances_do(tmp_path):
    path = tmp_path / "noises.jsonl"
    path.write_text(
        '{"audio_filepath": "a.wav", "duration": 1}\n{"audio_filepath": "b.wav", "duration": 1, "text": "x"}\n'
    )
    assert [u.text for u in read_manifest(path, transcripts="optional")] == ["", "x"]
    with pytest.raises(DataError, match="noises.jsonl:1: lacks text"):
        read_manifest(path)
