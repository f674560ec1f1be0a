"""flashlight-text, set up so that it means our score: equal to our search where both are exact."""

import re
import sys

import numpy as np
import pytest

from dsrun.ctc import Lexicon, beam_search, log_softmax, read_arpa
from dsrun.ctc.flashlight import FlashlightSearch
from dsrun.errors import UsageError
from dsrun.speech import Alphabet

pytest.importorskip("flashlight.lib.text.decoder.kenlm")

ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-1.0 <unk>
-99 <s> -0.5
-0.7 </s>
-0.4 a -0.2
-0.9 ab -0.3
-0.3 b -0.3

\\2-grams:
-0.1 <s> a
-0.25 a ab
-0.15 ab </s>

\\end\\
"""
WIDE = 5_000


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"  # KenLM wants tabs around the words
    path.write_text(re.sub(r"(?m)^(-[\d.]+) (.*?)( -[\d.]+)?$", r"\1\t\2\t\3", ARPA).replace("\t\n", "\n"))
    return path


def both(log_probs, *, alphabet, arpa, **options):
    """Our hypotheses and flashlight's, by text."""
    theirs = FlashlightSearch(alphabet=alphabet, beam_width=WIDE, lm=arpa, **options)(log_probs)
    lm, frames = read_arpa(arpa), np.array([len(log_probs)])
    ours = beam_search(log_probs[None], frames, alphabet=alphabet, beam_width=WIDE, lm=lm, **options)[0]
    return {h.text: h for h in ours}, {h.text: h for h in theirs}


def require_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for text, hypothesis in ours.items():
        for name in ("score", "log_prob", "lm_log_prob"):  # its emissions are float32
            assert getattr(theirs[text], name) == pytest.approx(getattr(hypothesis, name), abs=2e-5, rel=1e-6), text
        assert theirs[text].num_words == hypothesis.num_words
        assert theirs[text].labels == hypothesis.labels


@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
def test_with_a_lexicon_every_text_has_our_score(arpa, lm_weight):
    alphabet = Alphabet(tuple(" ab"))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        log_probs = log_softmax(rng.standard_normal((int(rng.integers(0, 7)), 4)) * 3)
        lexicon = Lexicon(("a", "ab", "bb", "ba"), alphabet)  # two of them are <unk> to the model
        require_equal(
            *both(log_probs, alphabet=alphabet, arpa=arpa, lexicon=lexicon, lm_weight=lm_weight, word_bonus=0.4)
        )


@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
def test_without_spaces_and_lexicon_a_model_of_characters_gives_every_text_our_score(arpa, lm_weight):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        log_probs = log_softmax(rng.standard_normal((int(rng.integers(1, 7)), 3)) * 3)
        require_equal(*both(log_probs, alphabet=Alphabet(("a", "b")), arpa=arpa, lm_weight=lm_weight))


def test_a_model_of_words_without_a_lexicon_is_refused_because_its_score_would_be_another(arpa):
    with pytest.raises(UsageError, match="only with a lexicon"):
        FlashlightSearch(alphabet=Alphabet((" ", "a")), beam_width=4, lm=arpa, lm_weight=0.5)
    with pytest.raises(UsageError, match="word bonus only with a lexicon"):
        FlashlightSearch(alphabet=Alphabet((" ", "a")), beam_width=4, word_bonus=0.5)


def test_without_flashlight_the_message_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder.kenlm", None)
    with pytest.raises(UsageError, match="pip install"):
        FlashlightSearch(alphabet=Alphabet(("a",)), beam_width=4)
