"""`dsrun data import`: every kind of corpus, and every way in which one is wrong."""

import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpora import FIXTURES, PLAIN, RATE, Spoken, kaldi, tone, with_second, write, write_tone

from dsrun.cli import app
from dsrun.cli_data import IMPORT_KINDS
from dsrun.errors import DataError, UsageError
from dsrun.speech import AudioSettings, open_manifest, read_manifest, read_utterance
from dsrun.speech.importers import FILES_TOO, KINDS, READERS, SOURCES, ImportOptions, import_corpus
from dsrun.speech.importers.tables import read_csv, read_lines
from dsrun.speech.importers.tedlium import LINE, clean

SPLIT = {
    "librispeech": "dev-clean", "libritts": "dev-clean", "common_voice": "train", "ljspeech": "all", "hf_folder": "train",
    "folder": "all", "webdataset": "train",
}  # fmt: skip
RATES = {"libritts": 24_000, "common_voice": 32_000, "ljspeech": 22_050}
NO_OPTIONS = ImportOptions()
TABLE_ONLY = ("tedlium", "deepspeech_csv", "nemo")  # a recording that no line names belongs to nobody


def imported(kind, folder, utterances=PLAIN, *, options=NO_OPTIONS, style=None, **how):
    """Report of importing a fixture, and the utterances of its manifest."""
    source = FIXTURES[kind](folder / "corpus", utterances, **(style or {}))
    report = import_corpus(kind, source, folder / "out", options, **how)
    manifest = folder / "out" / f"{SPLIT.get(kind, 'dev')}.jsonl"
    assert report["splits"].keys() == {manifest.stem}
    return report, read_manifest(manifest)


def counts(report):
    return {reason: entry["count"] for reason, entry in report["left_out"].items()}


def facts(utterances):
    return [(u.id, u.text, u.duration, u.offset, u.speaker) for u in utterances]


def test_every_kind_has_a_fixture_and_stands_in_the_help():
    assert list(KINDS) == list(FIXTURES) == IMPORT_KINDS.split(", ")


@pytest.mark.parametrize("kind", KINDS)
def test_three_utterances_come_out_with_text_and_exact_durations_and_nothing_is_copied(kind, tmp_path):
    report, utterances = imported(kind, tmp_path)
    assert report["left_out"] == {}
    assert [u.text for u in utterances] == [spoken.text for spoken in PLAIN]
    rate = RATES.get(kind, RATE)
    for utterance, spoken in zip(utterances, PLAIN, strict=True):
        assert utterance.duration == round(spoken.seconds * rate) / rate
        samples = read_utterance(utterance, AudioSettings(rate))
        assert len(samples) == round(spoken.seconds * rate)
        assert utterance.audio.is_relative_to((tmp_path / "corpus").resolve())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"import.json", f"{SPLIT.get(kind, 'dev')}.jsonl"}
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == report
    (totals,) = report["splits"].values()
    assert (totals["utterances"], totals["sample_rates"], totals["channels"]) == (3, {str(rate): 3}, {"1": 3})
    assert totals["hours"] == round(0.9 / 3600, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_or_empty_is_left_out_and_counted(kind, tmp_path):
    spoken = (
        PLAIN[0],
        Spoken("0004", "GONE", missing=True),
        Spoken("0005", " "),
        Spoken("0006", None),
        PLAIN[2],
    )
    report, utterances = imported(kind, tmp_path, spoken)
    assert [u.text for u in utterances] == ["HELLO WORLD", "GOODBYE"]
    expected = {"missing file": "0004", "empty text": "0005", "audio without text": "0006"}
    if kind in TABLE_ONLY:
        del expected["audio without text"]
    assert counts(report) == dict.fromkeys(expected, 1)
    for reason, name in expected.items():
        (example,) = report["left_out"][reason]["examples"]
        assert str(tmp_path / "corpus") in example  # the file that says so
        assert name in example or kind == "tedlium"  # its parts have no names
    with pytest.raises(DataError, match=f"--strict, and {len(expected)} would be left out") as error:
        import_corpus(kind, tmp_path / "corpus", tmp_path / "strict", strict=True)
    assert error.value.exit_code == 3
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "libritts"])  # whose ids are names of files
def test_an_id_that_stands_twice_is_taken_once(kind, tmp_path):
    report, utterances = imported(kind, tmp_path, with_second(copies=2))
    assert [u.text for u in utterances] == [spoken.text for spoken in PLAIN]
    assert report["left_out"]["duplicate id"]["count"] == 1
    (example,) = report["left_out"]["duplicate id"]["examples"]
    assert "stands there already" in example


@pytest.mark.parametrize("kind", KINDS)
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(kind, tmp_path):
    _, plain = imported(kind, tmp_path / "plain")
    report, windows = imported(kind, tmp_path / "windows", style={"end": "\r\n", "mark": "\ufeff"})
    assert facts(windows) == facts(plain)
    assert report["left_out"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_quotation_marks_commas_and_unusual_line_separators_are_characters_of_the_text(kind, tmp_path):
    written = 'SAY "HI, A;\u2028B\x85'  # the quotation mark is never closed; U+2028 and U+0085 end no line
    report, utterances = imported(kind, tmp_path, with_second(text=written))
    assert report["left_out"] == {}
    expected = 'SAY"HI,A;B' if kind == "aishell" else " ".join(written.split())
    assert [" ".join(u.text.split()) for u in utterances] == ["HELLO WORLD", expected, "GOODBYE"]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_with_blanks_and_foreign_letters_are_found_by_absolute_and_by_relative_paths(kind, tmp_path):
    folder = tmp_path / "mes données 数据, x"
    _, absolute = imported(kind, folder)
    import_corpus(kind, folder / "corpus", folder / "near", relative=True)
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    manifest = moved / "near" / f"{SPLIT.get(kind, 'dev')}.jsonl"
    relative = read_manifest(manifest)
    assert facts(relative) == facts(absolute)
    assert str(folder) not in manifest.read_text()
    for utterance in relative:
        assert len(read_utterance(utterance, AudioSettings(RATES.get(kind, RATE)))) > 0


def test_speakers_are_kept_where_the_corpus_has_them(tmp_path):
    speakers = {
        kind: {u.speaker for u in imported(kind, tmp_path / kind)[1]}
        for kind in ("librispeech", "libritts", "mls", "common_voice", "tedlium", "aishell", "kaldi", "folder")
    }
    assert speakers == {
        "librispeech": {"84"},
        "libritts": {"84"},
        "mls": {"84"},
        "common_voice": {"abc"},
        "tedlium": {"Speaker"},
        "aishell": {"S0002"},
        "kaldi": {"spk"},
        "folder": {None},
    }


def test_a_corpus_of_another_kind_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    for kind in KINDS:
        with pytest.raises(DataError, match="not such a corpus|holds no|expected") as error:
            import_corpus(kind, tmp_path / "empty", tmp_path / "out")
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match="no such file or folder"):
            import_corpus(kind, tmp_path / "none", tmp_path / "out")
    with pytest.raises(UsageError, match="no kind 'timit'; there are librispeech"):
        import_corpus("timit", tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_import_that_leaves_nothing_is_an_error_that_says_why(tmp_path):
    source = FIXTURES["folder"](tmp_path / "corpus", [Spoken("1", " "), Spoken("2", None)])
    with pytest.raises(
        DataError, match="no utterance is left. Left out:\n  empty text: 1, such as .*\n  audio without text: 1"
    ):
        import_corpus("folder", source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


def test_headers_that_cannot_be_read_and_files_cut_off_are_left_out(tmp_path):
    source = FIXTURES["folder"](tmp_path / "corpus", [*PLAIN, *(Spoken(f"bad{k}", "X") for k in range(4))])
    sub = source / "sub"
    (sub / "bad0.wav").write_bytes(b"")
    (sub / "bad1.wav").write_bytes((sub / "bad1.wav").read_bytes()[:4000])
    (sub / "bad2.wav").write_text("not audio")
    soundfile.write(sub / "bad3.wav", np.zeros(0), RATE)
    report = import_corpus("folder", source, tmp_path / "out")
    assert counts(report) == {"unreadable audio header": 4}
    assert report["splits"]["all"]["utterances"] == 3


def test_text_that_the_normaliser_refuses_is_left_out_and_other_text_stays_as_written(tmp_path):
    report, utterances = imported("ljspeech", tmp_path, with_second(text="In 1984, maybe"), normalizer="english")
    assert counts(report) == {"text refused by the normaliser": 1}
    assert "'1984,'" in report["left_out"]["text refused by the normaliser"]["examples"][0]
    assert [u.text for u in utterances] == ["HELLO WORLD", "GOODBYE"]


# Names and numbers that a manifest cannot hold


def test_a_file_name_that_is_no_utf8_is_left_out_with_an_example_that_can_be_written(tmp_path):
    source = FIXTURES["folder"](tmp_path / "corpus", PLAIN)
    for name in (b"caf\xe9.wav", b"th\xe9.txt", b"th\xe9.wav"):  # the first without text
        Path(os.fsdecode(bytes(source / "sub" / "0001.wav").rpartition(b"/")[0] + b"/" + name)).write_bytes(b"a text")
    report = import_corpus("folder", source, tmp_path / "out")
    assert counts(report) == {"audio without text": 1, "malformed line": 1}
    assert r"caf\udce9.wav" in report["left_out"]["audio without text"]["examples"][0]
    assert json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8")) == report


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"note": "\ud800"}, "malformed line"),
        ({"more": [{"deep\udfff": 1}]}, "malformed line"),
        ({"duration": 10**400}, "malformed line"),
        ({"offset": 10**400}, "malformed line"),
        ({"shard_id": [[]]}, "malformed line"),
        ({"offset": 0.1, "duration": 0}, "part beyond its recording"),
    ],
)
def test_a_foreign_row_that_no_manifest_can_hold_is_counted_and_the_others_are_written(row, reason, tmp_path):
    source = FIXTURES["nemo"](tmp_path / "corpus", PLAIN)
    with (source / "dev.json").open("a") as file:
        file.write(json.dumps({"audio_filepath": "audio/0001.wav", "id": "odd", "text": "x"} | row) + "\n")
    report = import_corpus("nemo", source, tmp_path / "out")
    assert counts(report) == {reason: 1}
    assert len(read_manifest(tmp_path / "out" / "dev.jsonl")) == 3


def test_keys_that_mean_something_in_our_manifests_are_not_copied_from_a_stranger(tmp_path):
    source = FIXTURES["nemo"](tmp_path / "corpus", PLAIN[:1])
    row = json.loads((source / "dev.json").read_text()) | {"sha256": "ABC", "tar_size": -1, "lang": "de"}
    write(source / "dev.json", json.dumps(row))
    import_corpus("nemo", source, tmp_path / "out", strict=True)
    (utterance,) = read_manifest(tmp_path / "out" / "dev.jsonl")
    assert (utterance.sha256, utterance.member, utterance.extra) == (None, None, {"lang": "de"})


def test_two_splits_whose_names_look_alike_as_files_are_two_manifests(tmp_path):
    source = FIXTURES["nemo"](tmp_path / "corpus", PLAIN)
    for name in ("a b", "a_b", "a(b"):
        shutil.copy(source / "dev.json", source / f"{name}.json")
    report = import_corpus("nemo", source, tmp_path / "out", strict=True)
    assert {name: totals["utterances"] for name, totals in report["splits"].items()} == dict.fromkeys(
        ("a_b", "a_b_2", "a_b_3", "dev"), 3
    )
    for name in report["splits"]:
        assert len(read_manifest(tmp_path / "out" / f"{name}.jsonl")) == 3


def test_an_id_of_librispeech_that_leads_out_of_the_corpus_is_refused_unless_allowed(tmp_path):
    source = FIXTURES["librispeech"](tmp_path / "corpus", PLAIN)
    write_tone(tmp_path / "secret.flac", 0.2)
    table = source / "dev-clean" / "84" / "121" / "84-121.trans.txt"
    write(table, table.read_text() + f"../../../../secret ONE\n{tmp_path}/secret TWO\n")
    assert counts(import_corpus("librispeech", source, tmp_path / "out")) == {"path outside the corpus": 2}
    allowed = import_corpus("librispeech", source, tmp_path / "allowed", ImportOptions(allow_outside=True))
    assert allowed["splits"]["dev-clean"]["utterances"] == 5


@pytest.mark.parametrize("end", ["(" + "-" * 100_000, "<" + "," * 100_000, "{" * 100_000, "." * 100_000])
def test_a_line_of_a_hundred_thousand_marks_takes_no_longer_than_its_length(end):
    line = f"a 1 s 0 1 {end}"
    start = time.process_time()
    LINE.fullmatch(line), clean(f"x {end}")
    assert time.process_time() - start < 0.5  # two minutes where each mark reads the rest again


def test_a_line_of_commas_is_a_malformed_line_of_deepspeech_pytorch_and_not_a_million_paths(tmp_path):
    source = FIXTURES["deepspeech_pytorch"](tmp_path / "corpus", PLAIN)
    write(source / "dev.csv", (source / "dev.csv").read_text() + "," * 100_000 + "\n")
    start = time.process_time()
    assert counts(import_corpus("deepspeech_pytorch", source, tmp_path / "out")) == {"malformed line": 1}
    assert time.process_time() - start < 2


# The output folder


def test_relative_paths_are_right_where_the_output_lies_behind_a_link(tmp_path):
    source = FIXTURES["folder"](tmp_path / "corpus", PLAIN)
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
    (tmp_path / "near").symlink_to(source)
    import_corpus("folder", tmp_path / "near", tmp_path / "link" / "out", relative=True)
    import_corpus("folder", tmp_path / "link" / ".." / ".." / "corpus", tmp_path / "plain")
    for manifest in (tmp_path / "link" / "out" / "all.jsonl", tmp_path / "plain" / "all.jsonl"):
        for read in (read_manifest, open_manifest):
            assert [u.audio.is_file() for u in read(manifest)] == [True] * 3


def test_an_import_that_was_killed_between_its_two_renames_is_taken_back_by_the_next(tmp_path, monkeypatch):
    source, out = FIXTURES["folder"](tmp_path / "corpus", PLAIN), tmp_path / "out"
    import_corpus("folder", source, out)
    before = (out / "all.jsonl").read_bytes()
    (source / "sub" / "0003.txt").unlink()
    shutil.copytree(out, tmp_path / ".out.part")
    out.rename(tmp_path / ".out.old")  # here the kill
    with pytest.raises(UsageError, match="--overwrite replaces"):
        import_corpus("folder", source, out)
    assert (out / "all.jsonl").read_bytes() == before
    rename = os.rename

    def fails(old, new):
        if str(old).endswith(".part"):
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(DataError, match="Input/output error"):
        import_corpus("folder", source, out, overwrite=True)
    assert (out / "all.jsonl").read_bytes() == before
    monkeypatch.undo()
    assert import_corpus("folder", source, out, overwrite=True)["splits"]["all"]["utterances"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "out"}


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_an_import_made_it(tmp_path):
    source, out = FIXTURES["folder"](tmp_path / "corpus", PLAIN), tmp_path / "out"
    out.mkdir()  # empty: nothing to lose
    import_corpus("folder", source, out)
    with pytest.raises(UsageError, match="--overwrite replaces"):
        import_corpus("folder", source, out)
    (source / "sub" / "0003.txt").unlink()
    assert import_corpus("folder", source, out, overwrite=True)["splits"]["all"]["utterances"] == 2
    assert len(read_manifest(out / "all.jsonl")) == 2
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds what no import wrote \(thesis.txt\)"):
        import_corpus("folder", source, out, overwrite=True)
    (out / "import.json").unlink()
    with pytest.raises(UsageError, match="no import wrote it"):
        import_corpus("folder", source, out, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    with pytest.raises(UsageError, match="no folder of its own"):
        import_corpus("folder", source, tmp_path / "link", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "out", "link"}


def test_a_failed_import_leaves_the_old_one(tmp_path):
    source, out = FIXTURES["folder"](tmp_path / "corpus", PLAIN), tmp_path / "out"
    import_corpus("folder", source, out)
    before = (out / "all.jsonl").read_bytes()
    (source / "sub" / "0003.txt").unlink()
    with pytest.raises(DataError, match="--strict"):
        import_corpus("folder", source, out, overwrite=True, strict=True)
    assert (out / "all.jsonl").read_bytes() == before


# Splits


def test_a_hash_of_the_text_gives_one_split_to_a_sentence_that_is_said_twice(tmp_path):
    spoken = [Spoken(f"{k:03}{voice}", f"sentence {k}", 0.01) for k in range(60) for voice in "ab"]
    source = FIXTURES["ljspeech"](tmp_path / "corpus", spoken)
    report = import_corpus("ljspeech", source, tmp_path / "out", percents=(60, 20, 20))
    texts = {name: {u.text for u in read_manifest(tmp_path / "out" / f"{name}.jsonl")} for name in report["splits"]}
    assert texts.keys() == {"train", "dev", "test"}
    assert sum(map(len, texts.values())) == 60  # no sentence is in two
    assert 26 <= len(texts["train"]) <= 46  # 36 expected, standard error 3.8
    again = import_corpus("ljspeech", source, tmp_path / "again", percents=(60, 20, 20))
    assert again["splits"] == report["splits"]


@pytest.mark.parametrize("percents", [(80, 20), (80, 10, 20), (120, -10, -10)])
def test_shares_that_are_not_three_or_not_a_hundred_are_refused(percents, tmp_path):
    with pytest.raises(UsageError, match="three shares that add up to 100"):
        import_corpus("folder", tmp_path, tmp_path / "out", percents=percents)


def test_a_corpus_with_splits_keeps_them_and_gives_one_when_asked(tmp_path):
    for split in ("train", "dev"):
        kaldi(tmp_path / "a" / split, PLAIN)
        shutil.move(tmp_path / "a" / split / "dev", tmp_path / "corpus" / split)
    source = tmp_path / "corpus"
    (source / "train" / "0001.wav").unlink()
    report = import_corpus("kaldi", source, tmp_path / "both")
    assert {name: totals["utterances"] for name, totals in report["splits"].items()} == {"dev": 3, "train": 2}
    one = import_corpus("kaldi", source, tmp_path / "one", ImportOptions(splits=("dev",)), strict=True)
    assert list(one["splits"]) == ["dev"]  # what is wrong in train is not its business
    with pytest.raises(UsageError, match="--split test: the corpus has dev, train"):
        import_corpus("kaldi", source, tmp_path / "none", ImportOptions(splits=("test",)))
    with pytest.raises(UsageError, match=r"has splits of its own \(dev, train\)"):
        import_corpus("kaldi", source, tmp_path / "none", percents=(80, 10, 10))


# Traps of single kinds


def test_common_voice_is_read_by_column_name_in_any_order_and_release(tmp_path):
    source = FIXTURES["common_voice"](tmp_path / "corpus", PLAIN) / "en"
    header = "locale\tsentence\tsegment\tpath\tclient_id\n"
    write(source / "train.tsv", header + "en\tONE\t\tcommon_voice_en_0001\tc1\n")  # very old: no ending
    write(source / "dev.tsv", header + "en\tTWO\t\tcommon_voice_en_0002.mp3\tc2\nen\tno\tsuch\tline\tat\tall\n")
    report = import_corpus("common_voice", source, tmp_path / "out")
    rows = [u for split in ("train", "dev") for u in read_manifest(tmp_path / "out" / f"{split}.jsonl")]
    assert [(u.id, u.text, u.speaker) for u in rows] == [
        ("common_voice_en_0001", "ONE", "c1"),
        ("common_voice_en_0002", "TWO", "c2"),
    ]
    assert counts(report) == {"malformed line": 1}  # the third clip stands in validated.tsv
    validated = import_corpus("common_voice", source, tmp_path / "more", ImportOptions(splits=("validated",)))
    assert list(validated["splits"]) == ["validated"]
    with pytest.raises(UsageError, match="--split clip_durations: .* has dev, train, validated"):
        import_corpus("common_voice", source, tmp_path / "no", ImportOptions(splits=("clip_durations",)))
    write(source / "train.tsv", "client_id\tpath\tsentence\nc\ta\tnul\0byte\n")
    with pytest.raises(DataError, match=r"train.tsv:2: a NUL byte"):
        import_corpus("common_voice", source, tmp_path / "no")
    shutil.copytree(source, tmp_path / "corpus" / "fr")
    with pytest.raises(DataError, match="2 languages: en, fr; name one"):
        import_corpus("common_voice", tmp_path / "corpus", tmp_path / "no")


@pytest.mark.parametrize("name", ["../outside.wav", "/etc/outside.wav", "a/../../outside.wav"])
def test_a_name_that_leads_out_of_the_corpus_is_refused_unless_allowed(name, tmp_path):
    source = FIXTURES["hf_folder"](tmp_path / "corpus", PLAIN)
    name = name.replace("/etc", str(tmp_path))
    write_tone(tmp_path / "outside.wav", 0.2)
    write_tone(source / "outside.wav", 0.2)
    (source / "train" / "a").mkdir()
    write(source / "train" / "metadata.csv", f"file_name,text\n0001.wav,one\n{name},two\n")
    report = import_corpus("hf_folder", source, tmp_path / "out")
    assert report["left_out"]["path outside the corpus"]["count"] == 1
    allowed = import_corpus("hf_folder", source, tmp_path / "allowed", ImportOptions(allow_outside=True))
    assert sum(totals["utterances"] for totals in allowed["splits"].values()) == 2


def test_segments_marked_as_not_to_be_scored_are_no_faults_and_marks_are_no_words(tmp_path):
    source = FIXTURES["tedlium"](tmp_path / "corpus", PLAIN)
    lines = [
        "Talk 1 Speaker 0.00 0.20 <o,f0,male> it 's <sil> {NOISE} read(2) (Talk-0001)",
        "Talk 1 Speaker 0.10 0.30 no labels",  # overlaps: two may speak at once
        "Talk 1 Speaker 0.3 0.4 <F0_M> IGNORE_TIME_SEGMENT_IN_SCORING",
        "Talk 1 inter_segment_gap 0.4 0.5 <o,,unknown>",
        "Talk 1 Speaker 0.4 0.5 <o,f0,male> the <unk> of it",
        "Talk 1 Speaker 0.8 9.5 <o,f0,male> beyond the end",
        "Talk 1 Speaker 0.5 0.5 <o,f0,male> empty part",
        "Talk 1 Speaker 0.85 0.95 <o,f0,male> rounded up",
        "garbage",
    ]
    write(source / "dev" / "stm" / "Talk.stm", "\n".join(lines))
    report = import_corpus("tedlium", source, tmp_path / "out")
    first, second, last = read_manifest(tmp_path / "out" / "dev.jsonl")
    assert (first.text, first.offset, first.duration) == ("it's read", 0.0, 0.2)
    assert (second.text, second.offset, second.duration) == ("no labels", 0.1, 0.2)
    assert last.offset + last.duration == pytest.approx(0.9)  # not beyond the recording
    assert counts(report) == {
        "marked as not to be scored": 2,
        "a word of it is <unk>": 1,
        "part beyond its recording": 2,
        "malformed line": 1,
    }
    assert [entry["is_fault"] for entry in report["left_out"].values()] == [False, False, True, True]
    assert "0.900" in report["left_out"]["part beyond its recording"]["examples"][0]
    write(source / "dev" / "stm" / "Talk.stm", "\n".join(lines[:5]))
    import_corpus("tedlium", source, tmp_path / "strict", strict=True)


def test_marks_go_and_words_stay():
    assert clean("don 't {SMACK} [laughs] stop(12) ' quoted") == "don't stop ' quoted"


def test_blanks_go_between_chinese_words_and_stay_between_latin_ones(tmp_path):
    _, utterances = imported("aishell", tmp_path, with_second(text="我 爱 T V 和 kaldi tool 们"))
    assert utterances[1].text == "我爱T V和kaldi tool们"
    _, utterances = imported("aishell", tmp_path / "wide", with_second(text="hello  world \t 我  爱"))
    assert utterances[1].text == "hello world我爱"


def test_an_aishell_whose_clips_are_still_packed_says_so(tmp_path):
    source = FIXTURES["aishell"](tmp_path / "corpus", PLAIN)
    shutil.rmtree(source / "wav")
    (source / "wav").mkdir()
    (source / "wav" / "S0002.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"unpack S0002.tar.gz and the others"):
        import_corpus("aishell", source, tmp_path / "out")


def test_ljspeech_takes_the_normalised_text_where_there_is_one_and_no_line_with_a_bar_too_many(tmp_path):
    source = FIXTURES["ljspeech"](tmp_path / "corpus", PLAIN)
    write(source / "metadata.csv", 'LJ001-0001|In 7 "days|in seven "days\nLJ001-0002|only two\nLJ001-0003|a|b|c\n')
    report = import_corpus("ljspeech", source, tmp_path / "out")
    assert [u.text for u in read_manifest(tmp_path / "out" / "all.jsonl")] == ['in seven "days', "only two"]
    assert counts(report) == {"malformed line": 1}
    import_corpus("ljspeech", source, tmp_path / "original", ImportOptions(text="original"))
    assert read_manifest(tmp_path / "original" / "all.jsonl")[0].text == 'In 7 "days'


def test_libritts_has_two_texts(tmp_path):
    assert imported("libritts", tmp_path, options=ImportOptions(text="original"))[1][0].text == "HELLO WORLD, 1"
    with pytest.raises(UsageError, match="normalized and original"):
        import_corpus("libritts", tmp_path / "corpus", tmp_path / "no", ImportOptions(text="raw"))


def test_a_table_of_deepspeech_may_be_named_alone_and_hold_absolute_paths(tmp_path):
    source = FIXTURES["deepspeech_csv"](tmp_path / "corpus", PLAIN)
    line = f'{source}/clips/0001.wav,1,"QUOTED, ""TWICE""\nAND ON",more\n'
    write(source / "train.csv", "wav_filename,wav_filesize,transcript,extra\n" + line)
    report = import_corpus("deepspeech_csv", source / "train.csv", tmp_path / "out")
    assert list(report["splits"]) == ["train"]
    assert read_manifest(tmp_path / "out" / "train.jsonl")[0].text == 'QUOTED, "TWICE"\nAND ON'
    write(source / "train.csv", "filename,text\na,b\n")
    with pytest.raises(
        DataError, match=r"train.csv:1: the header lacks wav_filename, transcript; it has 'filename', 'text'"
    ):
        import_corpus("deepspeech_csv", source, tmp_path / "no")
    write(source / "train.csv", 'wav_filename,transcript\na,"never closed\nb,c\n')
    with pytest.raises(DataError, match=r"train.csv:\d: not a comma-separated table"):
        import_corpus("deepspeech_csv", source, tmp_path / "no")


def test_the_other_forms_of_deepspeech_pytorch_give_the_same_utterances(tmp_path):
    source = FIXTURES["deepspeech_pytorch"](tmp_path / "corpus", PLAIN)
    content = {
        "root_path": str(source),
        "samples": [{"wav_path": f"wav/{s.name}.wav", "transcript_path": f"txt/{s.name}.txt"} for s in PLAIN],
    }
    write(tmp_path / "dev.json", json.dumps(content))
    import_corpus("deepspeech_pytorch", source, tmp_path / "csv")
    import_corpus("deepspeech_pytorch", tmp_path / "dev.json", tmp_path / "json")
    (source / "dev.csv").unlink()
    import_corpus("deepspeech_pytorch", source, tmp_path / "folder")
    found = [facts(read_manifest(tmp_path / name)) for name in ("csv/dev.jsonl", "json/dev.jsonl", "folder/all.jsonl")]
    assert found[0] == found[1] == found[2]
    for bad in ("[]", "{}", '{"samples": [{"wav_path": 1, "transcript_path": 2}]}', "{", "[" * 10_000):
        write(tmp_path / "dev.json", bad)
        with pytest.raises(DataError, match='dev.json: not {"root_path"'):
            import_corpus("deepspeech_pytorch", tmp_path / "dev.json", tmp_path / "no")


def test_a_path_with_a_comma_is_told_from_the_comma_between_two_paths(tmp_path):
    write_tone(tmp_path / "c" / "a,b.wav", 0.2)
    write(tmp_path / "c" / "a,b.txt", "HI")
    write(tmp_path / "c" / "train.csv", "a,b.wav,a,b.txt\n")
    import_corpus("deepspeech_pytorch", tmp_path / "c", tmp_path / "out")
    assert read_manifest(tmp_path / "out" / "train.jsonl")[0].text == "HI"


def test_nemo_parts_keep_their_offset_and_other_keys_and_a_wrong_duration_is_told(tmp_path):
    source = FIXTURES["nemo"](tmp_path / "corpus", PLAIN)
    rows = [
        {
            "audio_filepath": "audio/0001.wav",
            "offset": 0.05,
            "duration": 0.1,
            "text": "part",
            "lang": "en",
            "speaker": 7,
        },
        {"audio_filepath": "audio/0001.wav", "offset": 0.15, "duration": 0.05, "text": "next", "id": "own"},
        {"audio_filepath": "audio/0002.wav", "duration": 9.0, "text": "too long"},
        {"key": "audio/0002.wav", "duration": 0.3, "text": "baidu"},
        {"utt": "u3", "feat": "audio/0003.wav", "text": "paddle", "utt2spk": "s"},
        {"audio_filepath": "audio/0003.wav", "duration": 0.36},
        {"audio_filepath": "audio/0003.wav", "duration": "0.36", "text": "x"},
        {"audio_filepath": "audio/0003.wav", "duration": 0.36, "text": "half \ud800"},
    ]
    write(source / "dev.json", "".join(json.dumps(row) + "\n" for row in rows) + "{not json\n")
    report = import_corpus("nemo", source / "dev.json", tmp_path / "out")
    part, own, baidu, paddle = read_manifest(tmp_path / "out" / "dev.jsonl")
    assert (part.id, part.offset, part.duration, part.speaker, part.extra) == (
        "audio/0001@0.05",
        0.05,
        0.1,
        "7",
        {"lang": "en"},
    )
    assert (own.id, baidu.text, paddle.id, paddle.speaker) == ("own", "baidu", "u3", "s")
    assert counts(report) == {"duration disagrees with the header": 1, "malformed line": 4}
    assert "9 s, the recording has 0.300" in report["left_out"]["duration disagrees with the header"]["examples"][0]


def test_a_tarred_nemo_corpus_is_read_inside_its_shards(tmp_path):
    source = FIXTURES["nemo"](tmp_path / "loose", PLAIN)
    tarred = tmp_path / "tarred"
    tarred.mkdir()
    rows = []
    for shard, spoken in enumerate(PLAIN):
        with tarfile.open(tarred / f"audio_{shard}.tar", "w") as tar:
            tar.add(source / "audio" / f"{spoken.name}.wav", f"some_{spoken.name}.wav")
        name = f"some/{spoken.name}.wav" if shard else f"some_{spoken.name}.wav"  # NeMo flattens names in the tar
        rows.append({"audio_filepath": name, "duration": spoken.seconds, "text": spoken.text, "shard_id": shard})
    rows += [rows[0] | {"audio_filepath": "none.wav"}, rows[0] | {"shard_id": 12, "id": "x"}]
    write(tarred / "tarred_audio_manifest.json", "".join(json.dumps(row) + "\n" for row in rows))
    report = import_corpus("nemo", tarred, tmp_path / "out")
    assert counts(report) == {"missing file": 2}
    for utterance, spoken in zip(read_manifest(tmp_path / "out" / "tarred_audio_manifest.jsonl"), PLAIN, strict=True):
        assert (utterance.text, utterance.audio.suffix) == (spoken.text, ".tar")
        assert len(read_utterance(utterance, AudioSettings(RATE))) == round(spoken.seconds * RATE)


def test_kaldi_segments_are_parts_of_recordings(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN) / "dev"
    segments = "u1 spk-0003 0.05 0.15\nu2 spk-0003 0.10 -1\nu3 spk-0003 0.2 5\nu4 none 0 1\nu5 spk-0003 0.1\nu6 spk-0003 0 0.1\n"
    write(source / "segments", segments)
    write(source / "text", "u1 one\nu2 two\nu3 beyond\nu4 lost\nu7 no segment\n")
    report = import_corpus("kaldi", source, tmp_path / "out")
    first, second = read_manifest(tmp_path / "out" / "dev.jsonl")
    assert (first.offset, first.duration, second.offset, second.duration) == (0.05, 0.1, 0.1, 0.36 - 0.1)
    assert counts(report) == {
        "malformed line": 1, "missing file": 2, "part beyond its recording": 1, "audio without text": 1,
    }  # fmt: skip


def test_of_an_id_that_stands_twice_in_a_table_of_kaldi_the_first_line_counts(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN) / "dev"
    scp = "\n".join(f"spk-{s.name} {s.name}.wav" for s in PLAIN)
    write(source / "wav.scp", f"{scp}\nspk-0001 0002.wav\n")
    write(source / "segments", "u1 spk-0001 0.05 0.15\nu1 spk-0003 0.10 0.2\nu2\tspk-0003\t0.1\t0.2\n")
    write(source / "utt2spk", "u1 x\nu1 y\nu2\tz\n")
    write(source / "text", "u1 one\nu1 again\nu2\tten and two\n")
    report = import_corpus("kaldi", source, tmp_path / "out")
    first, second = read_manifest(tmp_path / "out" / "dev.jsonl")
    assert (first.audio.name, first.offset, first.text, first.speaker) == ("0001.wav", 0.05, "one", "x")
    assert (second.id, second.text, second.speaker) == ("u2", "ten and two", "z")
    assert counts(report) == {"duplicate id": 4}
    write(source / "wav.scp", f"spk-0001 a.ark:{'9' * 5000}\nspk-0003 0003.wav\n")  # a number for no file
    write(source / "segments", "u1 spk-0001 0 1\nu2 spk-0003 0.1 0.2\n")
    assert counts(import_corpus("kaldi", source, tmp_path / "far"))["missing file"] == 2


def test_a_channel_of_several_is_left_out_and_the_only_one_is_used(tmp_path):
    source = kaldi(tmp_path / "kaldi", PLAIN) / "dev"
    both = np.stack([tone(0.3), -tone(0.3)], axis=1)
    soundfile.write(source / "0002.wav", both, RATE)
    write(source / "segments", "u1 spk-0001 0 0.2 1\nu2 spk-0002 0 0.2 2\nu3 spk-0002 0 0.2\n")
    write(source / "text", "u1 one\nu2 two\nu3 three\n")
    report = import_corpus("kaldi", source, tmp_path / "out")
    assert counts(report) == {"one channel of several": 1}
    assert "channel 2 of 2" in report["left_out"]["one channel of several"]["examples"][0]
    source = FIXTURES["tedlium"](tmp_path / "ted", PLAIN)
    (source / "dev" / "sph" / "Talk.sph").unlink()
    soundfile.write(source / "dev" / "sph" / "Talk.wav", np.repeat(tone(0.9)[:, None], 2, axis=1), RATE)
    with pytest.raises(DataError, match="one channel of several: 3"):
        import_corpus("tedlium", source, tmp_path / "out2")


def test_a_wav_inside_a_kaldi_archive_is_read_where_it_lies(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN) / "dev"
    ark, scp = b"", ""
    for spoken in PLAIN:
        ark += f"spk-{spoken.name} ".encode()
        scp += f"spk-{spoken.name} audio.ark:{len(ark)}\n"
        ark += (source / f"{spoken.name}.wav").read_bytes()
    (source / "audio.ark").write_bytes(ark)
    write(source / "wav.scp", scp.replace("0003 audio.ark:", "0003 audio.ark:1"))
    report = import_corpus("kaldi", source, tmp_path / "out")
    assert counts(report) == {"unreadable audio header": 1}
    for utterance, spoken in zip(read_manifest(tmp_path / "out" / "dev.jsonl"), PLAIN[:2], strict=True):
        samples = read_utterance(utterance, AudioSettings(RATE))
        np.testing.assert_allclose(samples, tone(spoken.seconds), atol=1e-4)


def test_a_command_of_a_wav_scp_is_refused_and_run_only_when_asked(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN) / "dev"
    wav = bytearray((source / "0002.wav").read_bytes())
    wav[40:44] = b"\xff\xff\xff\x7f"  # as sox writes into a pipe: the length is not known
    wav[4:8] = b"\x24\x00\x00\x80"
    (source / "piped").write_bytes(wav)
    lines = [
        f"spk-0001 cat {source}/0001.wav |",  # only reads
        f"spk-0002 cat {source}/piped | cat |",
        f"spk-0003 touch {tmp_path}/was-run; false |",
    ]
    write(source / "wav.scp", "\n".join(lines))
    report = import_corpus("kaldi", source, tmp_path / "out")
    assert counts(report) == {"command instead of a file": 2}
    assert "--allow-commands runs it" in report["left_out"]["command instead of a file"]["examples"][0]
    assert not (tmp_path / "was-run").exists()
    for relative in (False, True):
        out = tmp_path / f"run-{relative}"
        report = import_corpus("kaldi", source, out, allow_commands=True, relative=relative)
        assert counts(report) == {"command failed": 1}
        assert (tmp_path / "was-run").exists()
        first, second = read_manifest(out / "dev.jsonl")
        assert first.audio == source / "0001.wav"
        assert second.audio.parent == out / "audio"
        np.testing.assert_allclose(read_utterance(second, AudioSettings(RATE)), tone(0.3), atol=1e-4)
        assert {path.name for path in out.iterdir()} == {"audio", "dev.jsonl", "import.json"}
        assert len(list((out / "audio").iterdir())) == 1


@pytest.mark.parametrize(
    "command",
    [
        "cat a | sox - b",
        "cat `id`",
        "cat a b",
        "flac -c -d $(x)",
        "flac -d a",
        "cat a > b",
        "cat a;b",
        "rm a",
        "cat 'a",
    ],
)
def test_only_a_command_that_reads_one_file_is_taken_for_that_file(command, tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN[:2]) / "dev"
    write(source / "wav.scp", f"spk-0001 0001.wav\nspk-0002 {command} |\n")
    assert counts(import_corpus("kaldi", source, tmp_path / "out")) == {"command instead of a file": 1}


def test_a_command_longer_than_any_path_is_no_name_of_a_file_and_is_not_looked_at_for_long(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN[:2]) / "dev"
    write(source / "wav.scp", f"spk-0001 0001.wav\nspk-0002 cat {'a' * 1_000_000} |\n")
    start = time.process_time()
    assert counts(import_corpus("kaldi", source, tmp_path / "out")) == {"command instead of a file": 1}
    assert time.process_time() - start < 2  # 8 s in shlex


def test_audio_root_says_where_relative_paths_of_a_table_start(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN) / "dev"
    write(source / "wav.scp", "".join(f"spk-{s.name} dev/{s.name}.wav\n" for s in PLAIN))
    with pytest.raises(DataError, match="no utterance is left"):
        import_corpus("kaldi", source, tmp_path / "out")
    report = import_corpus("kaldi", source, tmp_path / "out", ImportOptions(audio_root=tmp_path / "corpus"))
    assert report["splits"]["dev"]["utterances"] == 3


def test_a_hugging_face_folder_may_list_in_json_lines_and_name_its_text(tmp_path):
    source = FIXTURES["hf_folder"](tmp_path / "corpus", PLAIN)
    (source / "train" / "metadata.csv").unlink()
    rows = [{"file_name": f"train/{s.name}.wav", "raw": s.text, "speaker_id": 5} for s in PLAIN]
    write(source / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="no column text nor transcription"):
        import_corpus("hf_folder", source, tmp_path / "out")
    import_corpus("hf_folder", source, tmp_path / "out", ImportOptions(text="raw"))
    assert [(u.text, u.speaker) for u in read_manifest(tmp_path / "out" / "train.jsonl")] == [
        (s.text, "5") for s in PLAIN
    ]
    (source / "metadata.jsonl").rename(source / "train-00000.parquet")
    with pytest.raises(DataError, match="parquet table holds the recordings inside"):
        import_corpus("hf_folder", source, tmp_path / "no")


def test_webdataset_reads_text_and_speaker_from_json_and_refuses_compressed_shards(tmp_path):
    source = FIXTURES["webdataset"](tmp_path / "corpus", ())
    write_tone(tmp_path / "a.flac", 0.2)
    with tarfile.open(source / "test-01.tar", "w") as tar:
        for key, row in {"d/1": {"text": "ONE", "speaker": "s"}, "d/2": {"raw": "TWO", "text": "2"}}.items():
            write(tmp_path / "row.json", json.dumps(row))
            tar.add(tmp_path / "a.flac", f"{key}.flac")
            tar.add(tmp_path / "row.json", f"{key}.json")
        tar.add(tmp_path / "row.json", "d/._2.json")
        tar.add(tmp_path / "a.flac", "d/3.flac")
        write(tmp_path / "row.json", "[]")
        tar.add(tmp_path / "row.json", "d/3.json")
    report = import_corpus("webdataset", source / "test-01.tar", tmp_path / "out")
    assert [(u.id, u.text, u.speaker) for u in read_manifest(tmp_path / "out" / "test.jsonl")] == [
        ("test-01/d/1", "ONE", "s"),
        ("test-01/d/2", "2", None),
    ]
    assert counts(report) == {"unreadable text": 1}
    import_corpus("webdataset", source, tmp_path / "raw", ImportOptions(text="raw"))
    assert [u.text for u in read_manifest(tmp_path / "raw" / "test.jsonl")] == ["TWO"]
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="compressed tar has no random access"):
        import_corpus("webdataset", packed, tmp_path / "no")


def test_a_damaged_tar_shard_is_counted_and_the_others_are_read(tmp_path):
    source = FIXTURES["webdataset"](tmp_path / "corpus", PLAIN)
    whole = (source / "train-000000.tar").read_bytes()
    (source / "train-000001.tar").write_bytes(whole[: len(whole) // 2])
    (source / "train-000002.tar").write_bytes(b"no tar at all")
    report = import_corpus("webdataset", source, tmp_path / "out")
    assert counts(report) == {"unreadable tar shard": 2}
    ids = [u.id for u in read_manifest(tmp_path / "out" / "train.jsonl")]
    assert [id for id in ids if id.startswith("train-000000")] == [f"train-000000/{s.name}" for s in PLAIN]
    with pytest.raises(DataError, match="--strict, and 2 would be left out"):
        import_corpus("webdataset", source, tmp_path / "strict", strict=True)
    rows = [{"audio_filepath": "0001.flac", "text": "one", "shard_id": shard} for shard in (0, 2)]
    write(source / "list.json", "".join(json.dumps(row) + "\n" for row in rows))
    assert counts(import_corpus("nemo", source, tmp_path / "tarred")) == {"unreadable tar shard": 1}


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path):
    source = FIXTURES["folder"](tmp_path / "corpus", PLAIN)
    (source / "sub" / "loop").symlink_to(source)
    assert import_corpus("folder", source, tmp_path / "out")["splits"]["all"]["utterances"] == 3


def test_names_too_long_for_a_file_are_missing_files(tmp_path):
    long = "x" * 300
    source = FIXTURES["deepspeech_csv"](tmp_path / "csv", PLAIN)
    write(source / "dev.csv", f"wav_filename,transcript\nclips/0001.wav,one\n{long}.wav,two\n")
    assert counts(import_corpus("deepspeech_csv", source, tmp_path / "out")) == {"missing file": 1}
    source = FIXTURES["librispeech"](tmp_path / "libri", PLAIN)
    write(source / "dev-clean" / "84" / "121" / "84-121.trans.txt", f"84-121-0001 ONE\n84-{long} TWO\n")
    assert counts(import_corpus("librispeech", source, tmp_path / "out2")) == {
        "missing file": 1,
        "audio without text": 2,
    }
    source = kaldi(tmp_path / "kaldi", PLAIN) / "dev"
    write(source / "wav.scp", f"spk-0001 0001.wav\nspk-0002 {long}\nspk-0003 {long}.ark:5\n")
    assert counts(import_corpus("kaldi", source, tmp_path / "out3")) == {"missing file": 2}


def test_the_file_of_a_command_that_only_decodes_it_is_read_and_the_command_is_not_run(tmp_path):
    source = kaldi(tmp_path / "corpus", PLAIN) / "dev"
    write_tone(source / "a b.flac", 0.24)
    lines = ["spk-0001 flac -c -d -s 'a b.flac' |", "spk-0002 cat 0002.wav |", "spk-0003 0003.wav"]
    write(source / "wav.scp", "\n".join(lines))
    report = import_corpus("kaldi", source, tmp_path / "out", strict=True)
    assert report["splits"]["dev"]["utterances"] == 3
    assert read_manifest(tmp_path / "out" / "dev.jsonl")[0].audio == source / "a b.flac"


# Tables


def test_lines_and_fields_beyond_all_bounds_are_refused_with_their_place(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes(b"a,b\n" + b"x" * (1 << 20) + b"\n")
    with pytest.raises(DataError, match=r"t.csv:2: a line of more than 1048576 bytes"):
        list(read_lines(table))
    table.write_bytes(b"a,b\n" + b"x" * 200_000 + b",\n")
    with pytest.raises(DataError, match=r"t.csv:2: not a comma-separated table: field larger than field limit"):
        list(read_csv(table, ("a",)))
    table.write_bytes("a,b\nü,ü".encode("latin-1"))
    with pytest.raises(DataError, match=r"t.csv:2: not UTF-8"):
        list(read_lines(table))
    with pytest.raises(DataError, match="a folder, a pipe or a device"):
        list(read_lines(tmp_path))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error_with_a_reason(content):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metadata.csv").write_bytes(content)
        with pytest.raises(DataError):  # none of its recordings is there
            import_corpus("ljspeech", folder, folder / "out")


# The command


def test_the_command_prints_a_table_and_what_was_left_out_and_ends_with_3_if_nothing_is_left(tmp_path):
    source = FIXTURES["ljspeech"](tmp_path / "corpus", with_second(text=None))
    arguments = ["data", "import", "ljspeech", str(source), str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "all.jsonl" in result.stdout
    assert "22050" in result.stdout
    assert "left out, audio without text: 1, such as" in result.stdout
    result = CliRunner().invoke(app, [*arguments, "--overwrite", "--json", "--split-by-hash", "100/0/0"])
    assert json.loads(result.stdout)["splits"]["train"]["utterances"] == 2
    for wrong, code in ((["--split-by-hash", "a/b"], 2), (["--normalizer", "klingon"], 2), (["--strict"], 3)):
        result = CliRunner().invoke(app, [*arguments, "--overwrite", *wrong])
        assert result.exception.exit_code == code
    shutil.rmtree(source / "wavs")
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exception.exit_code == 3


# Options


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_is_taken_by_the_kinds_that_read_it_and_refused_by_the_others(kind, tmp_path):
    read = set()

    class Noting(ImportOptions):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    source = FIXTURES[kind](tmp_path / "corpus", PLAIN)
    list(KINDS[kind](source, Noting()))
    assert {name for name in READERS if kind in READERS[name]} == read & READERS.keys()
    given = {
        "text": "text",
        "audio_root": tmp_path,
        "allow_outside": True,
        "run_command": lambda command, name: tmp_path,
    }
    for name in READERS.keys() - read:
        with pytest.raises(UsageError, match=f"--[a-z-]+: {kind} does not read it; .*{READERS[name][-1]} do"):
            import_corpus(kind, source, tmp_path / "out", ImportOptions(**{name: given[name]}))
    assert not (tmp_path / "out").exists()


def test_a_text_column_that_no_table_has_is_answered_with_those_that_it_has(tmp_path):
    source = FIXTURES["common_voice"](tmp_path / "cv", PLAIN)
    with pytest.raises(DataError, match="no column 'sentense'; did you mean 'sentence'. it has 'client_id', 'path'"):
        import_corpus("common_voice", source, tmp_path / "out", ImportOptions(text="sentense"))
    report = import_corpus("common_voice", source, tmp_path / "out", ImportOptions(text="sentence_id"))
    assert report["left_out"] == {}
    assert [u.text for u in read_manifest(tmp_path / "out" / "train.jsonl")] == ["id0001", "id0002", "id0003"]
    source = FIXTURES["nemo"](tmp_path / "nemo", PLAIN)
    with pytest.raises(DataError, match="and txt, both texts; it has 'audio_filepath', 'duration', 'text', 'lang'"):
        import_corpus("nemo", source, tmp_path / "no", ImportOptions(text="txt"))


def test_a_source_that_is_not_there_or_is_a_file_is_answered_with_what_the_kind_is_imported_from(tmp_path):
    assert SOURCES.keys() == KINDS.keys()
    table = FIXTURES["common_voice"](tmp_path / "cv", PLAIN) / "en" / "train.tsv"
    for kind in KINDS:
        with pytest.raises(DataError) as error:
            import_corpus(kind, tmp_path / "none", tmp_path / "out")
        assert str(error.value).endswith(f"none: no such file or folder. {kind} is imported from {SOURCES[kind]}.")
        if kind not in FILES_TOO:
            with pytest.raises(DataError, match=f"train.tsv: a file; {kind} is imported from"):
                import_corpus(kind, table, tmp_path / "out")
    for kind in FILES_TOO:
        source = FIXTURES[kind](tmp_path / kind, PLAIN)
        (file,) = (path for path in source.iterdir() if path.is_file())
        assert import_corpus(kind, file, tmp_path / f"{kind}.out", strict=True)["splits"]
