"""Prefix beam search against the list of all paths, and against the loss."""

import importlib.util
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.ctc import beam, ctc_loss, read_arpa
from dsrun.ctc.beam import beam_search, log_softmax
from dsrun.ctc.lexicon import Lexicon
from dsrun.speech import Alphabet

spec = importlib.util.spec_from_file_location("reference_beam", Path(__file__).parents[1] / "reference" / "beam.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

WIDE = 5_000  # more than there are prefixes


class HashedModel:
    """A language model whose probabilities depend on the last two words and on nothing that anybody could guess."""

    start = ()

    def score(self, state, word):
        return self._log_prob(state, word), (*state[-1:], word)

    def end(self, state):
        return self._log_prob(state, "</s>")

    def begins_word(self, text):
        return True  # every text is listed

    def sentence(self, words):
        state, total = self.start, 0.0
        for word in words:
            log_prob, state = self.score(state, word)
            total += log_prob
        return total + self.end(state)

    @staticmethod
    def _log_prob(state, word):
        return -0.1 - zlib.crc32(repr((state, word)).encode()) % 97 / 13


def emissions(frames: int, classes: int, *, seed: int, sharpness: float = 2.0) -> np.ndarray:
    return log_softmax(np.random.default_rng(seed).standard_normal((frames, classes)) * sharpness)


def search(log_probs, symbols, *, width=WIDE, **options):
    found = beam_search(
        log_probs[None], np.array([len(log_probs)]), alphabet=Alphabet(tuple(symbols)), beam_width=width, **options
    )
    return found[0]


@pytest.mark.parametrize("symbols", ["abc", " ab", "a ", "ab"])
@pytest.mark.parametrize("options", [{}, {"lm_weight": 0.8, "word_bonus": 0.7}, {"word_bonus": -1.5}])
def test_a_wide_beam_finds_every_text_with_the_score_of_all_its_paths(symbols, options):
    lm = HashedModel()
    for frames in (1, 2, 4, 5):
        for seed, sharpness in ((0, 0.3), (1, 2.0), (2, 6.0)):
            log_probs = emissions(frames, len(symbols) + 1, seed=seed, sharpness=sharpness)
            expected = reference.ranked_texts(log_probs, symbols, sentence_log_prob=lm.sentence, **options)
            found = search(log_probs, symbols, lm=lm, **options)
            assert [h.text for h in found] == [text for _, text in expected]
            np.testing.assert_allclose(
                [h.score for h in found], [score for score, _ in expected], atol=1e-12, rtol=1e-12
            )


@pytest.mark.parametrize("word_bonus", [0.0, -2.0, 3.0])
def test_what_is_counted_before_a_word_ends_changes_no_score(tmp_path, word_bonus):
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-2 <unk>\n-99 <s>\n-0.5 </s>\n-0.1 ab\n\n\\end\\\n")
    lm = read_arpa(path)  # one listed word, so that most texts leave the list while they are written
    options = {"lm_weight": 0.7, "word_bonus": word_bonus}
    for seed in range(4):
        log_probs = emissions(5, 4, seed=seed)
        expected = reference.ranked_texts(
            log_probs, " ab", sentence_log_prob=lambda words: lm.score_sentence(words).log_prob, **options
        )
        found = search(log_probs, " ab", lm=lm, **options)
        assert [h.text for h in found] == [text for _, text in expected]
        np.testing.assert_allclose([h.score for h in found], [score for score, _ in expected], atol=1e-12, rtol=1e-12)


def test_every_width_from_the_number_of_texts_on_is_exact():
    log_probs = emissions(5, 3, seed=3)
    exact = search(log_probs, "ab")
    for width in range(len(exact), len(exact) + 5):
        assert search(log_probs, "ab", width=width) == exact


def test_the_log_probability_of_a_text_without_spaces_is_minus_the_loss():
    log_probs = emissions(7, 4, seed=4)
    found = search(log_probs, "abc")[:16]
    labels = [[*hypothesis.labels, *[1] * 7][:7] for hypothesis in found]
    loss = jax.jit(ctc_loss)(
        jnp.asarray(np.tile(log_probs, (16, 1, 1)), jnp.float32),
        jnp.full(16, 7),
        jnp.array(labels),
        jnp.array([len(hypothesis.labels) for hypothesis in found]),
    )
    np.testing.assert_allclose(loss, [-hypothesis.log_prob for hypothesis in found], rtol=1e-5)


def test_a_label_twice_needs_a_blank_between():
    path = np.log(np.eye(3)[[1, 0, 1]] * 0.97 + 0.01)
    assert search(path, "ab")[0].text == "aa"
    assert search(np.log(np.eye(3)[[1, 1, 1]] * 0.97 + 0.01), "ab")[0].text == "a"


def test_the_best_text_need_not_be_that_of_the_best_path():
    # Best path: blank blank, 0.36. But "a" is read from three paths: 0.24 + 0.24 + 0.16.
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    best = search(log_probs, "a")[0]
    assert best.text == "a"
    assert math.exp(best.log_prob) == pytest.approx(0.64, abs=1e-12)


def test_weight_and_bonus_zero_are_exactly_no_language_model():
    log_probs = emissions(40, 5, seed=5)
    plain = search(log_probs, " abc", width=12)
    assert search(log_probs, " abc", width=12, lm=HashedModel(), lm_weight=0.0, word_bonus=0.0) == plain


def test_equal_scores_are_ordered_by_class_ids():
    found = search(np.log(np.full((2, 3), 1 / 3)), "ba")
    ties = [h.labels for h in found if h.score == found[0].score]
    assert ties == sorted(ties)
    assert len(ties) == 2  # "b" and "a" from three paths each


@pytest.mark.parametrize("symbols", [" abc", "abc"])
@pytest.mark.parametrize("word_bonus", [0.0, 2.0, -1.0])
def test_asking_the_model_only_about_what_can_enter_the_beam_changes_no_beam(
    monkeypatch, tmp_path, symbols, word_bonus
):
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=5\n\n\\1-grams:\n-2 <unk>\n-9 <s>\n-0.5 </s>\n-0.1 a\n-0.3 ab\n\n\\end\\\n")
    options = {"width": 7, "lm": read_arpa(path), "lm_weight": 1.2, "word_bonus": word_bonus}
    batch = [emissions(25, len(symbols) + 1, seed=seed, sharpness=1.5) for seed in range(3)]
    found = [search(log_probs, symbols, **options) for log_probs in batch]

    def every_candidate(self, longer, classes, stay):
        rows, columns = np.nonzero(longer > -np.inf)
        prefixes = self._all_extended(rows, classes[columns])
        return prefixes, longer[rows, columns], np.array([self._score_added(prefix) for prefix in prefixes])

    monkeypatch.setattr(beam._Search, "_candidates", every_candidate)
    assert [search(log_probs, symbols, **options) for log_probs in batch] == found


def test_a_narrow_beam_repeats_itself_and_ignores_padding_and_neighbours():
    batch = np.stack([emissions(30, 5, seed=6), emissions(30, 5, seed=7)])
    alphabet = Alphabet(tuple(" abc"))
    options = {"alphabet": alphabet, "beam_width": 4, "lm": HashedModel(), "lm_weight": 0.5, "word_bonus": 0.2}
    both = beam_search(batch, np.array([20, 30]), **options)
    padded = batch.copy()
    padded[0, 20:] = np.nan
    assert beam_search(padded, np.array([20, 30]), **options) == both
    assert beam_search(batch[1:], np.array([30]), **options) == both[1:]
    assert beam_search(batch[:1, :20], np.array([20]), **options) == both[:1]


def test_a_wider_beam_holds_at_most_its_width_and_finds_no_worse_a_text_here():
    log_probs = emissions(30, 5, seed=8, sharpness=1.0)
    scores = []
    for width in (1, 2, 8, 64, 512):
        found = search(log_probs, " abc", width=width)
        assert 1 <= len(found) <= width
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        scores.append(found[0].log_prob)
    assert scores == sorted(scores)


def test_an_utterance_without_frames_is_the_empty_text_and_no_frame_with_a_number_has_no_probability():
    empty = search(np.zeros((0, 3)), "ab")
    assert [(h.text, h.log_prob) for h in empty] == [("", 0.0)]
    nothing = search(np.full((3, 3), np.nan), "ab")
    assert [(h.text, h.score) for h in nothing] == [("", -math.inf)]


def test_a_lexicon_leaves_only_texts_of_its_words_with_their_full_probability():
    words = ("a", "ab", "bb")
    symbols = " ab"
    for seed in range(4):
        log_probs = emissions(5, 4, seed=seed)
        lexicon = Lexicon(words, Alphabet(tuple(symbols)))
        lm = HashedModel()
        options = {"lm_weight": 0.5, "word_bonus": 0.3}
        listed = reference.ranked_texts(log_probs, symbols, sentence_log_prob=lm.sentence, **options)
        expected = [(score, text) for score, text in listed if set(text.split()) <= set(words)]
        found = search(log_probs, symbols, lm=lm, lexicon=lexicon, **options)
        assert [h.text for h in found] == [text for _, text in expected]
        np.testing.assert_allclose([h.score for h in found], [score for score, _ in expected], atol=1e-12)


def test_log_softmax_sums_to_one_whatever_the_size_of_the_logits():
    logits = np.array([[1e30, 0.0, -1e30], [700.0, 710.0, 720.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=-1), 1.0, rtol=1e-15)


def test_prefixes_that_left_the_beam_are_let_go_and_that_moves_no_bit(monkeypatch):
    log_probs = emissions(160, 5, seed=9, sharpness=1.0)
    options = {"width": 10, "lm": HashedModel(), "lm_weight": 0.4, "word_bonus": 0.3}
    sizes = []
    end = beam._Search._hypotheses

    def counted(self):
        root = self._beam[0]
        while root.parent is not None:
            root = root.parent
        count, waiting = 0, [root]
        while waiting:
            count += 1
            waiting += waiting.pop().children.values()
        sizes.append(count)
        return end(self)

    monkeypatch.setattr(beam._Search, "_hypotheses", counted)
    monkeypatch.setattr(beam, "FORGET_EVERY", 16)
    found = [search(log_probs[:frames], " abc", **options) for frames in (80, 160)]
    monkeypatch.setattr(beam, "FORGET_EVERY", 10**9)
    assert [search(log_probs[:frames], " abc", **options) for frames in (80, 160)] == found
    assert sizes[1] < sizes[3] / 4
    assert sizes[1] - sizes[0] < 80 + 10 * 10  # one way back to the root, and what was looked at since
