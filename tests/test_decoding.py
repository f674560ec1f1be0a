"""Which decoder the options mean, what a run's tuning remembers, and the tuning itself."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from dsrun import lm_tuning
from dsrun.cli import app
from dsrun.ctc import log_softmax
from dsrun.ctc.flashlight import is_flashlight_installed
from dsrun.decoding import make_decoder
from dsrun.decoding_options import DecodingOptions
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.decoders import BeamDecoder, GreedyDecoder, PrefixSearch
from dsrun.evaluation.results import notes_on_tuning
from dsrun.record import RunDir
from dsrun.scoring import _tuning
from dsrun.speech import Alphabet, file_digest, read_manifest
from dsrun.tuned import TUNED, read_tuned

ALPHABET = Alphabet(tuple(" abc"))
ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-3\t<unk>\n-99\t<s>\n-0.5\t</s>\n-0.1\tab\n\n\\end\\\n"  # knows one word


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    return RunDir(tmp_path / "run")


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return path


def logits_of(text: str, *, instead: str = "", sureness: float = 3.0) -> np.ndarray:
    """A frame a letter and a blank after it; letters of `instead` a little more probable than those of `text`."""
    frames = np.zeros((2 * len(text), ALPHABET.num_classes), np.float32)
    for position, (letter, other) in enumerate(zip(text, instead or text, strict=True)):
        frames[2 * position, ALPHABET.symbols.index(letter) + 1] = sureness
        frames[2 * position, ALPHABET.symbols.index(other) + 1] = sureness + (0.3 if other != letter else 0.0)
        frames[2 * position + 1, 0] = sureness
    return frames


def test_greedy_is_the_default_and_beam_options_without_beam_are_refused(run):
    assert make_decoder(DecodingOptions(), alphabet=ALPHABET, run=run) == GreedyDecoder(ALPHABET)
    with pytest.raises(UsageError, match="--lm-weight, --beam-backend: greedy decoding has no such setting"):
        make_decoder(DecodingOptions(lm_weight=1.0, beam_backend="own"), alphabet=ALPHABET, run=run)
    for wrong in ({"decoder": "viterbi"}, {"decoder": "beam", "beam_backend": "torch"}):
        with pytest.raises(UsageError, match="there are"):
            make_decoder(DecodingOptions(**wrong), alphabet=ALPHABET, run=run)
    with pytest.raises(UsageError, match="add --lm"):
        make_decoder(DecodingOptions("beam", lm_weight=1.0), alphabet=ALPHABET, run=run)


def test_a_language_model_turns_a_misheard_word_into_the_one_it_knows(run, arpa):
    logits = logits_of("ab", instead="cb")[None]
    plain = make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run)
    with_lm = make_decoder(DecodingOptions("beam", lm=arpa, lm_weight=0.5, word_bonus=0.0), alphabet=ALPHABET, run=run)
    assert GreedyDecoder(ALPHABET)(logits, np.array([4])) == ["cb"]
    assert plain(logits, np.array([4])) == ["cb"]
    assert with_lm(logits, np.array([4])) == ["ab"]
    assert with_lm(logits, np.array([0])) == [""]
    described = with_lm.describe()
    assert (described["kind"], described["lm"], described["lm_weight"]) == ("beam", str(arpa), 0.5)
    assert len(described["lm_sha256"]) == 64


def test_a_language_model_without_weights_is_used_with_the_default_ones_and_that_is_said(run, arpa, capsys):
    described = make_decoder(DecodingOptions("beam", lm=arpa), alphabet=ALPHABET, run=run).describe()
    assert (described["lm_weight"], described["word_bonus"], described["beam_width"]) == (1.0, 1.0, 64)
    assert "not tuned" in capsys.readouterr().err


def test_a_model_none_of_whose_words_can_be_written_is_refused_and_some_are_counted(run, arpa, capsys):
    arpa.write_text(ARPA.replace("ab", "AB"))
    with pytest.raises(DataError, match="can write none of its 1 words, e.g. 'AB'"):
        make_decoder(DecodingOptions("beam", lm=arpa), alphabet=ALPHABET, run=run)
    arpa.write_text(ARPA.replace("ngram 1=4", "ngram 1=5").replace("-0.1\tab", "-0.1\tab\n-0.2\tABBA"))
    make_decoder(DecodingOptions("beam", lm=arpa), alphabet=ALPHABET, run=run)
    assert "cannot write 1 of its 2 words, e.g. 'ABBA'" in capsys.readouterr().err


def write_tuned(run, arpa, **changes):
    best = {
        "lm": str(arpa),
        "lm_sha256": file_digest(arpa),
        "lexicon": None,
        "beam_width": 8,
        "beam_backend": "own",
        "lm_weight": 0.25,
        "word_bonus": 2.5,
    }
    of_report = {"manifest": "dev.jsonl", "manifest_sha256": "d" * 64, "step": 7}
    (run.evaluation / TUNED).write_text(json.dumps(of_report | {"best": best | changes}))


def test_beam_takes_from_the_tuning_what_is_not_said_and_says_so(run, arpa, capsys):
    write_tuned(run, arpa)
    described = make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run).describe()
    assert (described["lm_weight"], described["word_bonus"], described["beam_width"]) == (0.25, 2.5, 8)
    assert "--lm-weight 0.25 --word-bonus 2.5" in capsys.readouterr().err
    wider = make_decoder(DecodingOptions("beam", beam_width=99, word_bonus=0.0), alphabet=ALPHABET, run=run).describe()
    assert (wider["lm_weight"], wider["word_bonus"], wider["beam_width"]) == (0.25, 0.0, 99)
    alone = make_decoder(DecodingOptions("beam", lm_weight=0.0), alphabet=ALPHABET, run=run).describe()
    assert (alone["lm"], alone["word_bonus"]) == (None, 0.0)
    named = make_decoder(DecodingOptions("beam", lm=arpa), alphabet=ALPHABET, run=run).describe()
    assert (named["lm_weight"], named["word_bonus"]) == (0.25, 2.5)
    half = make_decoder(DecodingOptions("beam", lm=arpa, lm_weight=0.25), alphabet=ALPHABET, run=run).describe()
    assert (half["lm_weight"], half["word_bonus"], half["beam_width"]) == (0.25, 2.5, 8)


def test_a_language_model_of_weight_0_is_none_and_brings_no_word_bonus(run, arpa):
    described = make_decoder(DecodingOptions("beam", lm=arpa, lm_weight=0.0), alphabet=ALPHABET, run=run).describe()
    assert (described["lm_weight"], described["word_bonus"]) == (0.0, 0.0)
    said = DecodingOptions("beam", lm=arpa, lm_weight=0.0, word_bonus=2.0)
    assert make_decoder(said, alphabet=ALPHABET, run=run).describe()["word_bonus"] == 2.0


def test_weights_are_called_tuned_only_with_the_model_and_the_lexicon_that_they_were_tuned_with(
    run, arpa, tmp_path, capsys
):
    words, others = tmp_path / "words.txt", tmp_path / "others.txt"
    words.write_text("ab\n")
    others.write_text("ab\nac\n")
    write_tuned(run, arpa, lexicon=str(words), lexicon_sha256=file_digest(words))

    def resolved(**options):
        described = make_decoder(DecodingOptions("beam", **options), alphabet=ALPHABET, run=run).describe()
        return described, capsys.readouterr().err

    for options in ({}, {"lm": arpa}, {"lexicon": words}):
        described, said = resolved(**options)
        assert (described["lm"], described["lexicon"], described["word_bonus"]) == (str(arpa), str(words), 2.5)
        assert (described["tuned_on_sha256"], described["tuned_at_step"]) == ("d" * 64, 7)
        assert "tuned with this language model and lexicon" in said
    described, said = resolved(lexicon=others)
    assert (described["lm"], described["lm_weight"]) == (str(arpa), 0.25)
    assert "but with another lexicon" in said
    described, said = resolved(lexicon=Path("none"))
    assert described["lexicon"] is described["lexicon_sha256"] is None
    assert "but with a lexicon" in said
    assert "the other is not" in resolved(word_bonus=1.0)[1]
    other = tmp_path / "other.arpa"
    other.write_text(ARPA.replace("-0.1", "-0.2"))
    described, said = resolved(lm=other)
    assert (described["lm_weight"], described["lexicon"], described["tuned_on_sha256"]) == (1.0, None, None)
    assert "--lm-weight 1 --word-bonus 1" in said
    assert "not tuned" in said


def test_a_lexicon_that_is_not_what_the_tuning_used_is_refused(run, arpa, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("ab\n")
    write_tuned(run, arpa, lexicon=str(words), lexicon_sha256=file_digest(words))
    words.write_text("ac\n")
    with pytest.raises(DataError, match=r"words\.txt, which is not what it was"):
        make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run)


def test_a_tuning_for_other_bytes_or_a_damaged_one_is_refused(run, arpa):
    write_tuned(run, arpa)
    arpa.write_text(ARPA.replace("-0.1", "-0.2"))
    with pytest.raises(DataError, match="not what it was"):
        make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run)
    arpa.unlink()
    with pytest.raises(DataError, match="not there any more"):
        make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run)
    arpa.write_text(ARPA)
    for damage in ({"lm_weight": "1"}, {"beam_width": 0}, {"lm_weight": -1}, {"lm": 3}, {"word_bonus": True}):
        write_tuned(run, arpa, **damage)
        with pytest.raises(DataError, match="Delete it, or tune again"):
            read_tuned(run)
    for text in ("", "[]", '{"best": {}}', "[" * 100_000):
        (run.evaluation / TUNED).write_text(text)
        with pytest.raises(DataError, match="Delete it, or tune again"):
            read_tuned(run)


def test_the_backend_is_ours_unless_asked_for(run, tmp_path):
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("ab\ncab\nxyz\n")
    options = {"alphabet": ALPHABET, "run": run}
    assert make_decoder(DecodingOptions("beam", lexicon=lexicon), **options).describe()["backend"] == "own"
    assert make_decoder(DecodingOptions("beam", beam_backend="auto"), **options).describe()["backend"] == "own"
    found = make_decoder(DecodingOptions("beam", lexicon=lexicon, beam_backend="auto"), **options)
    assert found.describe()["backend"] == ("flashlight" if is_flashlight_installed() else "own")
    assert found(logits_of("ab c ab", instead="ab b ab")[None], np.array([14]))[0] != ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ab a c\n", "words.txt:1: 'a c' is not the spelling of 'ab'"), ("xyz\n", "no word that the alphabet can write")],
)
def test_a_lexicon_that_cannot_be_meant_is_refused(run, tmp_path, text, reason):
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(DataError, match=reason):
        make_decoder(DecodingOptions("beam", lexicon=tmp_path / "words.txt"), alphabet=ALPHABET, run=run)


class Recorder(PrefixSearch):
    """A search that reads "ab" if the weight is near 0.7 and the bonus near 1.6, and otherwise a worse text the farther off it is."""

    def __call__(self, log_probs):
        distance = abs(self.lm_weight - 0.7) + abs(self.word_bonus - 1.6)
        return [SimpleNamespace(text="ab" + " c" * round(100 * distance))]


def test_tuning_finds_the_point_nearest_to_the_best_and_repeats_none():
    scores = [lm_tuning.Scores("ab", np.zeros((3, 5), np.float32))]
    points = lm_tuning.search_points(Recorder(ALPHABET, 4), scores, by_words=True)
    assert (points[0].lm_weight, points[0].word_bonus) == (0.75, 1.5)  # on the grid refined to 0.125 and 0.25
    tried = [(point.lm_weight, point.word_bonus) for point in points]
    assert len(set(tried)) == len(tried)
    assert [point.words.errors for point in points] == sorted(point.words.errors for point in points)


@pytest.mark.parametrize(
    ("lm_weight", "word_bonus", "best", "is_on_edge"),
    [
        (0.7, 1.6, (0.75, 1.5), False),
        (3.2, -2.9, (3.25, -3.0), False),
        (0.0, 6.1, (0.0, 6.0), False),
        (50.0, 1.0, (6.375, 1.0), True),
    ],
)
def test_tuning_goes_on_beyond_its_grid_while_errors_fall_and_says_when_it_ends_on_an_edge(
    lm_weight, word_bonus, best, is_on_edge
):
    class Elsewhere(PrefixSearch):
        def __call__(self, log_probs):
            distance = abs(self.lm_weight - lm_weight) + abs(self.word_bonus - word_bonus)
            return [SimpleNamespace(text="ab" + " c" * round(20 * distance))]

    scores = [lm_tuning.Scores("ab", np.zeros((3, 5), np.float32))]
    points = lm_tuning.search_points(Elsewhere(ALPHABET, 4), scores, by_words=True)
    assert (points[0].lm_weight, points[0].word_bonus) == best
    assert lm_tuning.is_on_edge(points) == is_on_edge
    assert len(points) < 80


def test_of_equal_points_the_smaller_weights_win():
    scores = [lm_tuning.Scores("ab", logits_of("ab"))]
    best = lm_tuning.search_points(PrefixSearch(ALPHABET, 4), scores, by_words=True)[0]
    assert (best.lm_weight, best.word_bonus) == (0.0, -0.75)  # bonuses that the refinements reach


@pytest.fixture
def trained(run, tmp_path, monkeypatch):
    for name in ("dev", "test"):
        row = {"audio_filepath": f"{name}.wav", "duration": 1, "text": f"ab {name}"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    manifests = {name: str(tmp_path / f"{name}.jsonl") for name in ("dev", "test")}
    found = SimpleNamespace(
        path=run.path,
        evaluation=run.evaluation,
        origin={"run": str(run.path), "step": 7},
        alphabet=ALPHABET,
        step=7,
        manifests=manifests,
        manifest_of=lambda split: Path(manifests[split]),
    )
    monkeypatch.setattr(lm_tuning, "load_model", lambda path, checkpoint: found)
    scores = [lm_tuning.Scores("ab ab", logits_of("ab ab", instead="ab cb"))]
    monkeypatch.setattr(lm_tuning, "class_scores", lambda *arguments, **options: scores)
    return found


def test_tuning_writes_what_beam_search_then_uses_and_prints_a_table(trained, run, arpa):
    found = CliRunner().invoke(app, ["eval", str(run.path), "--tune-lm", "--lm", str(arpa), "--beam-width", "16"])
    assert found.exit_code == 0, found.output
    assert "by weight of the language model" in found.stdout
    tuned = read_tuned(run)
    assert tuned.beam_width == 16
    assert tuned.lm_weight > 0  # without the model the misheard word stays
    decoder = make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run)
    assert isinstance(decoder, BeamDecoder)
    assert decoder(logits_of("ab ab", instead="ab cb")[None], np.array([10])) == ["ab ab"]


def test_tuning_refuses_the_test_set_by_name_and_by_content_unless_told(trained, run, arpa, tmp_path):
    test, copy, both = Path(trained.manifests["test"]), tmp_path / "copy.jsonl", tmp_path / "both.jsonl"
    copy.write_text(test.read_text().replace("ab test", "ba  test") + "\n")
    both.write_text(Path(trained.manifests["dev"]).read_text() + test.read_text())
    options = {"checkpoint": "best", "batch": None}
    part = tmp_path / "part.jsonl"
    part.write_text('{"audio_filepath": "test.wav", "offset": 0.2, "duration": 0.5, "text": "a"}\n')
    for manifest in (test, copy, both, part):
        with pytest.raises(UsageError, match="test set"):
            lm_tuning.tune_lm(
                run.path, DecodingOptions("beam", lm=arpa), manifest=manifest, allow_test=False, **options
            )
    lm_tuning.tune_lm(run.path, DecodingOptions("beam", lm=arpa), manifest=copy, allow_test=True, **options)
    assert read_tuned(run) is not None


def test_rates_on_what_the_weights_were_chosen_on_are_called_so(trained, run, arpa, tmp_path):
    dev = Path(trained.manifests["dev"])
    options = {"checkpoint": "best", "batch": None, "allow_test": False}
    lm_tuning.tune_lm(run.path, DecodingOptions("beam", lm=arpa), manifest=None, **options)
    described = make_decoder(DecodingOptions("beam"), alphabet=ALPHABET, run=run).describe()
    more = tmp_path / "more.jsonl"
    more.write_text(dev.read_text() + dev.read_text().replace("dev", "other"))

    def notes(manifest, *, step=7, decoder=described):
        utterances = read_manifest(manifest)
        tuning = _tuning(decoder, trained, utterances, file_digest(manifest))
        return notes_on_tuning({"utterances": len(utterances), "step": step, "tuning": tuning})

    assert "chosen on this manifest" in notes(dev)[0]
    assert "chosen on 1 of these utterances" in notes(more)[0]
    assert notes(Path(trained.manifests["test"])) == []
    assert "chosen at step 7" in notes(Path(trained.manifests["test"]), step=9)[0]
    said = DecodingOptions("beam", lm=arpa, lm_weight=9.0, word_bonus=9.0)
    assert notes(dev, decoder=make_decoder(said, alphabet=ALPHABET, run=run).describe()) == []
    assert notes(dev, decoder={"kind": "greedy"}) == []


def test_mistaken_options_of_tuning_are_told_before_anything_is_loaded(run, arpa):
    def message(*arguments):
        found = CliRunner().invoke(app, ["eval", str(run.path), *map(str, arguments)])
        return str(found.exception)

    assert "add --lm FILE.arpa" in message("--tune-lm")
    assert "leave them out" in message("--tune-lm", "--lm", arpa, "--lm-weight", 1)
    assert "--html" in message("--tune-lm", "--lm", arpa, "--html", "page.html")
    assert "--allow-test is for --tune-lm" in message("--allow-test")
    assert "add --decoder beam" in message("--lm", arpa)


def test_log_probabilities_of_a_row_come_from_its_valid_frames_alone():
    seen = []

    class Seen(PrefixSearch):
        def __call__(self, log_probs):
            seen.append(log_probs)
            return super().__call__(log_probs)

    logits = np.stack([logits_of("ab"), logits_of("cb")])
    padded = logits.copy()
    padded[0, 2:] = np.nan
    assert BeamDecoder(Seen(ALPHABET, 4))(padded, np.array([2, 4])) == ["a", "cb"]
    np.testing.assert_array_equal(seen[0], log_softmax(logits[0, :2]))


def test_only_the_usual_batches_greedily_decoded_have_the_plain_name():
    from dsrun.scoring import name_of_results

    greedy, beam = {"kind": "greedy"}, {"kind": "beam", "lm": "a.arpa", "lm_sha256": "1", "beam_width": 8}
    assert name_of_results("dev", other_batch=None, decoder=greedy) == "dev.jsonl"
    assert name_of_results("dev", other_batch=3, decoder=greedy) == "dev-batch_3.jsonl"
    named = [
        name_of_results("dev", other_batch=batch, decoder=beam | changes)
        for batch in (None, 3)
        for changes in ({}, {"lm_sha256": "2"})
    ]
    assert len(set(named)) == 4
    assert name_of_results("dev", other_batch=None, decoder=beam | {"lm": "moved.arpa"}) == named[0]
