"""Language models from text, and the commands that make them."""

import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.ctc import read_arpa
from dsrun.errors import DataError, DsrunError, UsageError
from dsrun.language_models import score_text, train_language_model

pytest.importorskip("kaldingram")

GOLDEN = Path(__file__).parent / "golden"
TEXT = "The cat sat.\nthe cat ran\n\n  the dog  sat \n"
OPTIONS = {"order": 3, "normalizer": "english", "characters": False, "dev": None}


def written(path, text=TEXT):
    path.write_text(text, encoding="utf-8")
    return path


def test_probabilities_after_any_words_add_up_to_one_with_as_many_unseen_words_as_seen_ones(tmp_path):
    for order in (1, 2, 3):
        train_language_model(written(tmp_path / "text.txt"), tmp_path / "lm.arpa", **OPTIONS | {"order": order})
        model = read_arpa(tmp_path / "lm.arpa")
        for history in ((), ("the",), ("the", "cat"), ("sat", "the"), ("unheard",)):
            state = model.start
            for word in history:
                state = model.score(state, word)[1]
            seen = math.fsum(math.exp(model.score(state, word)[0]) for word in model.vocabulary)
            total = seen + len(model.vocabulary) * math.exp(model.score(state, "unheard")[0])
            assert total + math.exp(model.end(state)) == pytest.approx(1.0, abs=1e-5), (order, history)


def test_sentences_are_normalised_empty_ones_counted_and_order_1_has_only_words(tmp_path):
    report = train_language_model(written(tmp_path / "text.txt"), tmp_path / "lm.arpa", **OPTIONS | {"order": 1})
    assert (report["sentences"], report["empty_lines"], report["words"]) == (3, 1, 9)
    assert read_arpa(tmp_path / "lm.arpa").vocabulary == ["the", "cat", "sat", "ran", "dog"]
    assert report["fit"]["words_outside"] == 0


def test_what_a_tiny_text_has_is_probable(tmp_path):
    # No n-gram occurs twice, so Kneser-Ney's own discount would be 1 and all of it gone.
    report = train_language_model(written(tmp_path / "text.txt", "hello world"), tmp_path / "lm.arpa", **OPTIONS)
    assert report["fit"]["perplexity"] < 3


def test_perplexity_is_that_of_the_model_with_and_without_unlisted_words(tmp_path):
    train_language_model(written(tmp_path / "text.txt"), tmp_path / "lm.arpa", **OPTIONS)
    dev = written(tmp_path / "dev.txt", "the cat flew\n")
    report = score_text(tmp_path / "lm.arpa", dev, normalizer="english", characters=False)
    score = read_arpa(tmp_path / "lm.arpa").score_sentence(["the", "cat", "flew"])
    assert report["words_outside"] == 1
    assert report["perplexity"] == pytest.approx(math.exp(-score.log_prob / 4))
    assert report["perplexity_of_listed"] == pytest.approx(math.exp(-score.log_prob_listed / 3))


def test_a_manifest_is_a_text_of_its_transcripts_and_characters_are_words_if_asked(tmp_path):
    manifest = written(tmp_path / "m.jsonl", '{"audio_filepath": "a.wav", "duration": 1, "text": "ab b"}\n')
    report = train_language_model(manifest, tmp_path / "lm.arpa", **OPTIONS | {"characters": True, "order": 2})
    assert report["words"] == 3
    assert read_arpa(tmp_path / "lm.arpa").vocabulary == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n \n", "holds no sentence"),
        ("hello <s> world", "text.txt:1: <s> is the mark"),
        ("fine\ncall 1984\n", "text.txt:2: "),
        ("x" * 1_000_001, "longer than"),
    ],
)
def test_a_text_that_cannot_be_meant_is_refused_with_its_line(tmp_path, text, reason):
    options = OPTIONS | {"normalizer": "nfkc_lower" if "<" in text else "english"}
    written(tmp_path / "text.txt", text)
    with pytest.raises(DataError, match=reason):
        train_language_model(tmp_path / "text.txt", tmp_path / "lm.arpa", **options)
    assert not (tmp_path / "lm.arpa").exists()


@pytest.mark.parametrize("name", ["text.txt", "dev.txt", "link.arpa", "sub/../text.txt", "README.md", "sub"])
def test_what_is_no_model_is_never_replaced_by_one(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for file in ("text.txt", "dev.txt", "README.md"):
        written(tmp_path / file)
    (tmp_path / "link.arpa").symlink_to(tmp_path / "text.txt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match="another name"):
        train_language_model(tmp_path / "text.txt", tmp_path / name, **OPTIONS | {"dev": tmp_path / "dev.txt"})
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert (tmp_path / "link.arpa").is_symlink()


@pytest.mark.parametrize("old", ["", "\n\\data\\\nngram 1=0\n"])
def test_an_old_model_or_an_empty_file_is_replaced(tmp_path, old):
    written(tmp_path / "lm.arpa", old)
    train_language_model(written(tmp_path / "text.txt"), tmp_path / "lm.arpa", **OPTIONS)
    assert "the" in read_arpa(tmp_path / "lm.arpa").vocabulary


@pytest.mark.parametrize(
    ("output", "dev", "reason"),
    [
        ("nope/lm.arpa", None, "there is no folder .*nope"),
        ("lm.arpa", "nope.jsonl", r"nope\.jsonl"),
        ("lm.arpa", "README.md/nope.txt", r"nope\.txt"),
    ],
)
def test_a_place_or_dev_text_that_is_not_there_is_noticed_before_the_training(
    tmp_path, monkeypatch, output, dev, reason
):
    monkeypatch.setattr("dsrun.language_models.estimate_arpa", lambda *_, **__: pytest.fail("it trained"))
    written(tmp_path / "README.md")
    options = OPTIONS | {"dev": None if dev is None else tmp_path / dev}
    with pytest.raises(DsrunError, match=reason):
        train_language_model(written(tmp_path / "text.txt"), tmp_path / output, **options)


def test_the_committed_model_is_what_the_committed_text_gives(tmp_path):
    train_language_model(GOLDEN / "sentences.txt", tmp_path / "lm.arpa", **OPTIONS)
    assert (tmp_path / "lm.arpa").read_text() == (GOLDEN / "sentences.arpa").read_text()


def test_the_commands_train_score_and_list_words(tmp_path):
    runner = CliRunner()
    text = written(tmp_path / "text.txt")
    trained = runner.invoke(app, ["lm", "train", str(text), str(tmp_path / "lm.arpa"), "--dev", str(text)])
    assert trained.exit_code == 0, trained.output
    assert "from 3 sentences" in trained.stdout
    assert trained.stdout.count("perplexity") == 4
    assert "words_outside" in runner.invoke(app, ["lm", "score", str(tmp_path / "lm.arpa"), str(text), "--json"]).stdout
    assert runner.invoke(app, ["lm", "words", str(tmp_path / "lm.arpa")]).stdout.split()[:3] == ["the", "cat", "sat."]


def test_without_kaldingram_the_message_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldingram.train", None)
    with pytest.raises(UsageError, match="pip install"):
        train_language_model(written(tmp_path / "text.txt"), tmp_path / "lm.arpa", **OPTIONS)
