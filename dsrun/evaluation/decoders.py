"""Decoders: from class scores to texts. An evaluator takes one; results say which.

A decoder is called with one batch on the host, logits [batch, output_frame, class] and the rows' numbers of valid output frames, and
gives a text a row. A row's text depends on that row's valid frames alone. Scores only need to order the classes for greedy
decoding; beam search makes log-probabilities of them itself, in float64.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dsrun.ctc import Hypothesis, Lexicon, beam_search, greedy_search, log_softmax
from dsrun.ctc.beam import LanguageModel
from dsrun.speech import Alphabet


@runtime_checkable  # the tests check annotations by isinstance
class Decoder(Protocol):
    """What an evaluator needs of a decoder."""

    def __call__(self, logits: np.ndarray, num_frames: np.ndarray) -> list[str]:
        """Texts of a batch's rows; a row without frames is the empty text."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decided the texts, ready for JSON; `kind` is the decoder's name."""
        ...


@dataclass(frozen=True)
class GreedyDecoder:
    """The best class of each frame, repeats merged, blanks removed."""

    alphabet: Alphabet

    def __call__(self, logits: np.ndarray, num_frames: np.ndarray) -> list[str]:
        """Texts of a batch's rows."""
        return [self.alphabet.decode(labels) for labels in greedy_search(logits, num_frames)]

    def describe(self) -> dict[str, Any]:
        """Its name; greedy decoding has no settings."""
        return {"kind": "greedy"}


@runtime_checkable
class Search(Protocol):
    """Beam search over one utterance's log-probabilities [output_frame, class], ours or flashlight's; best hypothesis first."""

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]: ...

    def with_weights(self, lm_weight: float, word_bonus: float) -> "Search":
        """The same search with other weights."""
        ...


@dataclass(frozen=True)
class PrefixSearch:
    """Our search (`ctc/beam.py`), with its settings."""

    alphabet: Alphabet
    beam_width: int
    lm: LanguageModel | None = None
    lm_weight: float = 0.0
    word_bonus: float = 0.0
    lexicon: Lexicon | None = None

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The best texts of one utterance."""
        return beam_search(
            log_probs[None],
            np.array([len(log_probs)]),
            alphabet=self.alphabet,
            beam_width=self.beam_width,
            lm=self.lm,
            lm_weight=self.lm_weight,
            word_bonus=self.word_bonus,
            lexicon=self.lexicon,
        )[0]

    def with_weights(self, lm_weight: float, word_bonus: float) -> "PrefixSearch":
        """The same search with other weights."""
        return replace(self, lm_weight=lm_weight, word_bonus=word_bonus)


@dataclass(frozen=True)
class BeamDecoder:
    """The best text that a beam search finds."""

    search: Search
    settings: dict[str, Any] = field(default_factory=dict)  # of the search, for results to say

    def __call__(self, logits: np.ndarray, num_frames: np.ndarray) -> list[str]:
        """Texts of a batch's rows."""
        return [
            self.search(log_softmax(frames[:count]))[0].text for frames, count in zip(logits, num_frames, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Its name and settings."""
        return {"kind": "beam", **self.settings}
