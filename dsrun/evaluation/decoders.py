"""Decoders: from class scores to texts. An evaluator takes one; results say which.

A decoder is called with one batch on the host, logits [batch, output_frame, class] and the rows' numbers of valid output frames, and
gives a text a row. A row's text depends on that row's valid frames alone. Scores only need to order the classes for greedy
decoding; beam search makes log-probabilities of them itself.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dsrun.ctc import greedy_search
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
