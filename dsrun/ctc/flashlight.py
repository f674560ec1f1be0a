"""The same search by flashlight-text, a C++ decoder with KenLM inside (extra `lm`): faster, float32 emissions, and the same score.

    score(text) = ln p_ctc(text) + lm_weight * ln p_lm(text) + word_bonus * number of words

What it takes to make it mean that, each a trap of its own:

- its language model speaks log10, so its weight is ours times ln 10;
- a word must end with a separator, also the last one of an utterance: a frame that can only be a space is put behind the last;
- it reads emissions through a raw pointer: C-contiguous float32, and impossible is a large negative number, since minus infinity less
  itself is NaN;
- sums over paths need `log_add`, and its pruning by a score threshold or by the best tokens of a frame is switched off;
- a separator at the start counts as already there. That is our rule too: spaces at the ends of a text are no text.

Without a lexicon its language model is one of tokens, not of words. So words are scored here only with a lexicon, where `<unk>` is for
words of the lexicon that the model does not list; without one there is no language model, or, for an alphabet without a space, one of
characters and no word bonus. Without a lexicon, runs of spaces are one only among the hypotheses that are left at the end.

KenLM is C++ that trusts its file: give it what `read_arpa` has accepted.
"""

from collections.abc import Sequence
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dsrun.ctc.alignment import BLANK
from dsrun.ctc.beam import Hypothesis, best_first
from dsrun.ctc.lexicon import SPACE, Lexicon
from dsrun.ctc.ngram import LN10, UNKNOWN
from dsrun.errors import DataError, UsageError
from dsrun.speech import Alphabet

INSTALL = 'flashlight-text is not installed: pip install "dsrun[lm]" (Python 3.11 or 3.12), or --beam-backend own.'
IMPOSSIBLE = -1e9  # ln p; a path through it is left out
NO_THRESHOLD = 1e30


def is_flashlight_installed() -> bool:
    """Whether flashlight-text can be imported, without importing it."""
    try:
        return find_spec("flashlight.lib.text.decoder.kenlm") is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: its import has failed in this process before
        return False


class FlashlightSearch:
    """A search over one utterance, with dictionaries, tree of words and language model made once."""

    def __init__(
        self,
        *,
        alphabet: Alphabet,
        beam_width: int,
        lm: Path | None = None,
        lm_weight: float = 0.0,
        word_bonus: float = 0.0,
        lexicon: Lexicon | None = None,
    ):
        """Arguments as of `beam_search`; `lm` is the ARPA file, which KenLM reads itself.

        Raises:
            UsageError: not installed, or what it has no score for.
            DataError: KenLM refuses the file.
        """
        if not is_flashlight_installed():
            raise UsageError(INSTALL)
        self._alphabet, self._lexicon = alphabet, lexicon
        self._weight, self._bonus = lm_weight, word_bonus
        self._space = alphabet.symbols.index(SPACE) + 1 if SPACE in alphabet.symbols else None
        if lexicon is None:
            self._refuse_words(lm)
            self._words: tuple[str, ...] = ("", *alphabet.symbols)  # by token
        else:
            self._words = (*lexicon.words, UNKNOWN)
        self._lm = _language_model(lm, self._words)
        self._trie = None if lexicon is None else self._tree(lexicon)
        self._beam_width = beam_width
        self._decoder = self._free() if lexicon is None else self._with_lexicon(lexicon)

    def with_weights(self, lm_weight: float, word_bonus: float) -> "FlashlightSearch":
        """The same search with other weights; dictionaries, tree and language model are shared."""
        other = copy(self)
        other._weight, other._bonus = lm_weight, word_bonus
        if self._lexicon is None:
            other._refuse_words(None)
        other._decoder = other._free() if self._lexicon is None else other._with_lexicon(self._lexicon)
        return other

    def __call__(self, log_probs: Float[np.ndarray, "output_frame class"]) -> list[Hypothesis]:
        """The best texts of an utterance, best first; of several with one text the probabilities are added."""
        frames = np.maximum(np.where(np.isnan(log_probs), -np.inf, log_probs), IMPOSSIBLE)
        if self._lexicon is not None:
            last = np.full((1, frames.shape[1]), IMPOSSIBLE)
            last[0, self._space] = 0.0
            frames = np.concatenate([frames, last])
        frames = np.ascontiguousarray(frames, np.float32)
        if not len(frames):  # it has no hypothesis for that
            frames = np.full((1, self._alphabet.num_classes), IMPOSSIBLE, np.float32)
            frames[0, BLANK] = 0.0
        results = self._decoder.decode(frames.ctypes.data, *frames.shape)
        return best_first([self._hypothesis(result) for result in results if result.score > IMPOSSIBLE / 2])

    def _hypothesis(self, result: Any) -> Hypothesis:
        lm_log_prob = result.lmScore * LN10 if self._weight else 0.0
        if self._lexicon is None:
            tokens, before = [], -1
            for token in result.tokens[1:-1]:  # of the start and of the end
                tokens += [token] if token not in (before, BLANK) else []
                before = token
            text = self._alphabet.decode(tokens)
            num_words = len(text.split()) if self._space else len(text)
        else:
            words = [self._words[word] for word in result.words if word >= 0]
            text, num_words = " ".join(words), len(words)
        bonus = self._bonus * num_words
        score = result.score + (bonus if self._lexicon is None else 0.0)
        classes = {symbol: index for index, symbol in enumerate(self._alphabet.symbols, start=1)}
        return Hypothesis(
            text=text,
            labels=tuple(classes[symbol] for symbol in text),
            score=score,
            log_prob=score - self._weight * lm_log_prob - bonus,
            lm_log_prob=lm_log_prob,
            num_words=num_words,
        )

    def _refuse_words(self, lm: Path | None) -> None:
        if self._space is not None and lm is not None:
            raise UsageError(
                "flashlight scores a language model of words only with a lexicon: add --lexicon FILE (`dsrun lm words FILE.arpa` prints "
                "the model's own), or --beam-backend own."
            )
        if self._bonus:
            raise UsageError("flashlight adds a word bonus only with a lexicon: add --lexicon, or --beam-backend own.")

    def _free(self) -> Any:
        from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions

        options = LexiconFreeDecoderOptions(
            beam_size=self._beam_width,
            beam_size_token=self._alphabet.num_classes,
            beam_threshold=NO_THRESHOLD,
            lm_weight=self._weight * LN10,
            sil_score=0.0,
            log_add=True,
            criterion_type=CriterionType.CTC,
        )
        # The token before the first is the separator; without one the blank, so that no label counts as already there.
        separator = BLANK if self._space is None else self._space
        return LexiconFreeDecoder(options, self._lm, separator, BLANK, [])

    def _with_lexicon(self, lexicon: Lexicon) -> Any:
        from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions

        options = LexiconDecoderOptions(
            beam_size=self._beam_width,
            beam_size_token=self._alphabet.num_classes,
            beam_threshold=NO_THRESHOLD,
            lm_weight=self._weight * LN10,
            word_score=self._bonus,
            unk_score=-np.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=CriterionType.CTC,
        )
        unknown = len(lexicon.words)
        return LexiconDecoder(options, self._trie, self._lm, self._space, BLANK, unknown, [], False)

    def _tree(self, lexicon: Lexicon) -> Any:
        """Words by their letters and a separator, each with what the model gives it at the start of a sentence."""
        from flashlight.lib.text.decoder import SmearingMode, Trie

        classes = {symbol: index for index, symbol in enumerate(self._alphabet.symbols, start=1)}
        trie = Trie(self._alphabet.num_classes, self._space)
        start = self._lm.start(False)
        for index, word in enumerate(lexicon.words):
            spelling = [*(classes[symbol] for symbol in word), self._space]
            trie.insert(spelling, index, self._lm.score(start, index)[1])
        trie.smear(SmearingMode.MAX)  # while a word is begun, the best that it can become is hoped for
        return trie


def _language_model(lm: Path | None, words: Sequence[str]) -> Any:
    from flashlight.lib.text.decoder import ZeroLM
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    if lm is None:
        return ZeroLM()
    try:
        return KenLM(str(lm), Dictionary([word or "<blank>" for word in words]))
    except RuntimeError as error:
        reason = str(error).split(" threw ")[-1].strip()
        raise DataError(f"{lm}: KenLM, in flashlight-text, cannot read it: {reason} --beam-backend own can.") from None
