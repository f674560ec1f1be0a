"""The corpus script: what is said when a text is read, which side of the split it falls on, and the bytes that come out."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dsrun.speech import Alphabet, AudioSettings, check_manifest, make_normalizer, read_manifest

REPOSITORY = Path(__file__).parents[2]
CORPUS = REPOSITORY / "data" / "prompts_en"
SPLITS = ("train", "dev", "test")


def _load_script():
    spec = importlib.util.spec_from_file_location(
        "build_prompts_corpus", REPOSITORY / "scripts/build_prompts_corpus.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = _load_script()
EN, RU, FR = (script.LANGUAGES[name] for name in ("en", "ru", "fr"))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Thank you.", "thank you"),
        ("press 1", "press one"),
        ("Use the 7 key for Q, and the 9 key for Z.", "use the seven key for q and the nine key for z"),
        ("press * to toggle pause, press # to go on", "press star to toggle pause press pound to go on"),
        ("A.M.", "a m"),
        ("at 5 P.M.", "at five p m"),
        ("Call-Forward on No Answer...", "call forward on no answer"),
        ('a polite "don’t call" menu', "a polite don't call menu"),
        ("the agents' `quote'", "the agents quote"),
        ("  spaces\tand — dashes ", "spaces and dashes"),
        ("options: Dial 1", "options dial one"),
    ],
)
def test_an_english_text_becomes_what_is_said(written, said):
    assert script.normalize_text(written, EN) == said


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("[ascending tones]", "brackets"),
        ("IAX (note: does not say 2)", "brackets"),
        ("<beep>", "brackets"),
        ("H.323", "dot inside a word"),
        ("visit www.asterisk.org", "dot inside a word"),
        ("at least 28.8 kilobit", "dot inside a word"),
        ("dial 500", "digits"),
        ("3D audio", "digits"),
        ("call 1-800", "digits"),
        ("MP3", "digits"),
        ("50% off", "digits"),
        ("this & that", "other signs"),
        ("and/or", "other signs"),
        ("...", "no words"),
        ("'", "no words"),
        ("it was removed vm-then-pound: press pound", "another prompt's name"),
        ("первый", "another script"),
    ],
)
def test_a_text_that_cannot_be_read_with_certainty_is_rejected_with_its_reason(written, reason):
    with pytest.raises(script.Rejected, match=reason):
        script.normalize_text(written, EN)


def test_russian_stays_cyrillic_and_writes_yo_as_ye():
    assert script.normalize_text("Нажмите «решётку» — и всё…", RU) == "нажмите решетку и все"
    with pytest.raises(script.Rejected, match="another script"):
        script.normalize_text("Первoe", RU)  # Latin o and e
    with pytest.raises(script.Rejected, match="digits"):
        script.normalize_text("Нажмите 1", RU)
    with pytest.raises(script.Rejected, match="other signs"):
        script.normalize_text("Нажмите #", RU)


def test_french_keeps_accents_and_apostrophes():
    assert script.normalize_text("L’agent vérouille : çà et là.", FR) == "l'agent vérouille çà et là"


def test_what_the_script_writes_is_normal_to_the_program_too():
    for written in ("Ｆｕｌｌ ＷＩＤＴＨ", "e\u0301te\u0301", "No\u00a0break"):
        said = script.normalize_text(written, FR)
        assert make_normalizer("nfkc_lower")(said) == said


def test_the_split_is_a_function_of_the_text_about_80_10_10():
    counts = dict.fromkeys(SPLITS, 0)
    for number in range(10_000):
        counts[script.split_of(f"sentence {number}")] += 1
    # Binomial with n = 10,000: one standard error is 40 for 0.8 and 30 for 0.1; five of them.
    assert abs(counts["train"] - 8_000) < 200
    assert abs(counts["dev"] - 1_000) < 150
    assert abs(counts["test"] - 1_000) < 150


@pytest.mark.parametrize(
    ("text", "split"), [("calling", "train"), ("agent logged in", "dev"), ("invalid choice", "test")]
)
def test_the_split_of_a_text_never_changes(text, split):
    assert script.split_of(text) == split


@pytest.mark.parametrize("packed", [False, True])
def test_texts_are_split_at_the_first_colon_and_comments_left_out(tmp_path, packed):
    content = "\ufeff; comment: no prompt\n\na: One: two.\n  b/c :  Three\na: Later\nno colon\n".encode()
    path = tmp_path / ("texts.txt.gz" if packed else "texts.txt")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert script.read_texts(path) == {"a": "Later", "b/c": "Three"}


def test_vorbis_files_keep_the_sample_count_and_repeat_their_bytes(tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 40_001).astype(np.float32)
    for folder in ("one", "two"):
        script.write_vorbis(tmp_path / folder / "clip.ogg", samples)
    first, second = (tmp_path / folder / "clip.ogg" for folder in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    read, rate = soundfile.read(first, dtype="float32")
    assert (rate, read.shape) == (16_000, samples.shape)


def test_a_new_stream_number_leaves_checksums_that_decoders_accept(tmp_path):
    script.write_vorbis(tmp_path / "a.ogg", np.zeros(16_000, np.float32))
    data = (tmp_path / "a.ogg").read_bytes()
    assert script.renumber_ogg(data, int.from_bytes(data[14:18], "little")) == data
    other = script.renumber_ogg(data, 7)
    assert other != data
    assert len(other) == len(data)
    (tmp_path / "b.ogg").write_bytes(other)
    assert soundfile.info(tmp_path / "b.ogg").frames == 16_000
    # libogg skips a page whose checksum is wrong: proof that it looks.
    broken = bytearray(other)
    broken[22] ^= 1
    (tmp_path / "c.ogg").write_bytes(broken)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(tmp_path / "c.ogg")


def test_a_small_package_becomes_a_corpus_that_the_program_reads(tmp_path):
    g722 = pytest.importorskip("G722", reason="needs the extra 'corpus'")
    tone = (8_000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.int16)
    sounds = tmp_path / "sounds"
    (sounds / "vm").mkdir(parents=True)
    for name, length in (("a", 1), ("vm/b", 2), ("c", 1), ("long", 17), ("tone", 1)):
        data = g722.G722(16_000, 64_000).encode(np.tile(tone, length))
        (sounds / f"{name}.g722").write_bytes(bytes(data))
    texts = tmp_path / "texts.txt"
    texts.write_text("a: Press 1.\nvm/b: Press one\nc: Calling\nlong: Long\ntone: [tone]\nsilence/1: x\ngone: Gone\n")
    report = script.build(EN, texts, sounds, tmp_path / "out")
    assert sum(report.utterances.values()) == 3
    assert sum(report.seconds.values()) == pytest.approx(4.0)
    assert set(report.dropped) == {
        "longer than 16 s",
        "brackets: a tone, a note or a sign",
        "silence",
        "no recording",
    }
    assert "Allison Smith" in (tmp_path / "out/CREDITS.txt").read_text()
    split = script.split_of("press one")
    utterances = {u.id: u for u in read_manifest(tmp_path / f"out/{split}.jsonl")}
    assert utterances["a"].text == utterances["vm/b"].text == "press one"
    assert check_manifest(list(utterances.values()), audio=AudioSettings(16_000)).errors == []
    read, _ = soundfile.read(tmp_path / "out/audio/vm/b.ogg")
    spectrum = np.abs(np.fft.rfft(read[:16_000]))
    assert spectrum.argmax() == 440


# --- the shipped corpus --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return {split: read_manifest(CORPUS / f"{split}.jsonl") for split in SPLITS}


def test_no_shipped_sentence_is_on_two_sides_of_the_split(shipped):
    for split, utterances in shipped.items():
        assert {script.split_of(utterance.text) for utterance in utterances} == {split}


def test_every_shipped_file_is_listed_once_decodes_and_has_known_characters(shipped):
    listed = [utterance.audio for utterances in shipped.values() for utterance in utterances]
    assert sorted(listed) == sorted((CORPUS / "audio").rglob("*.ogg"))
    alphabet = Alphabet.from_texts(utterance.text for utterance in shipped["train"])
    for utterances in shipped.values():
        assert check_manifest(utterances, audio=AudioSettings(16_000), alphabet=alphabet).errors == []


def test_the_readme_states_the_counts_of_the_shipped_corpus(shipped):
    readme = (CORPUS.parent / "README.md").read_text()
    for split, utterances in shipped.items():
        words = sum(len(utterance.text.split()) for utterance in utterances)
        characters = sum(len(utterance.text) for utterance in utterances)
        minutes = sum(utterance.duration for utterance in utterances) / 60
        assert f"| {split} | {len(utterances)} | {minutes:.2f} | {words} | {characters} |" in readme


def test_the_shipped_corpus_is_under_8_mb_with_its_licence_and_credits():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 8_000_000
    assert "ShareAlike" in (CORPUS / "LICENSE.txt").read_text()
    for name in ("Allison Smith", "Digium", "decoded from G.722"):
        assert name in (CORPUS / "CREDITS.txt").read_text()
    first = json.loads((CORPUS / "train.jsonl").read_text().split("\n", 1)[0])
    assert list(first) == ["audio_filepath", "duration", "text", "id"]
