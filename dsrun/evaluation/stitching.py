"""Stitching: the chunks of a long recording to its words, holding no more than a few chunks' scores.

Scores wait until a seam (`seams`) between two words closes a stretch. A stretch is decoded as a sentence of its own, aligned and
forgotten, so that memory does not grow with the recording. Where three chunks pass without such a seam (nobody speaks so
long without a border between words, but music may do that to a network) the stretch is closed in the middle of a word, whose parts
are then joined.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from dsrun.ctc import BLANK, best_alignment, frames_needed, log_softmax
from dsrun.ctc.lexicon import SPACE
from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.decoders import Decoder
from dsrun.evaluation.recognise import require_finite
from dsrun.evaluation.seams import find_seam
from dsrun.evaluation.words import Word, timed_words
from dsrun.speech import Alphabet

MOST_CHUNKS = 3  # held for the sake of a word's border


class Stitcher:
    """Words of one recording from the scores of its chunks, which come in order.

    Args:
        decoder: class scores to texts. clock: when output frames are.
    """

    def __init__(self, decoder: Decoder, alphabet: Alphabet, clock: OutputClock):
        self.decoder, self.alphabet, self.clock = decoder, alphabet, clock
        self.words: list[Word] = []
        self._classes = {symbol: index + 1 for index, symbol in enumerate(alphabet.symbols)}
        self._space = self._classes.get(SPACE)
        self._first_frame = 0  # of what is held
        self._held: list[np.ndarray] = []
        self._is_word_open = False  # the last word goes on

    def add(self, first_frame: int, scores: Float[np.ndarray, "output_frame class"]) -> None:
        """The next chunk, with the number of its first output frame in the recording. Raises DataError if a score is not finite."""
        require_finite(scores)
        if not self._held:
            self._held, self._first_frame = [scores], first_frame
            return
        latest = self._held[-1]
        end = self._first_frame + sum(map(len, self._held))
        # The last chunk may begin before the latest seam; what lies before that is settled.
        coming = scores[max(0, end - len(latest) - first_frame) :]
        overlap = end - (first_frame + len(scores) - len(coming))
        seam = find_seam(latest, coming, overlap=overlap, space=self._space)
        self._held[-1] = latest[: len(latest) - overlap + seam.place]
        if seam.is_between_words or len(self._held) == MOST_CHUNKS:
            self._close(is_between_words=seam.is_between_words)
        self._held.append(coming[seam.place :])

    def finish(self, seconds: float) -> tuple[Word, ...]:
        """All words of the recording, whose length is now known."""
        self._close(is_between_words=True)
        return tuple(replace(word, start=min(word.start, seconds), end=min(word.end, seconds)) for word in self.words)

    def _close(self, *, is_between_words: bool) -> None:
        scores = np.concatenate(self._held) if self._held else np.zeros((0, 1), np.float32)
        words = decode_words(
            scores, self.decoder, self.alphabet, self.clock, classes=self._classes, first_frame=self._first_frame
        )
        if words and self._is_word_open and self.words:
            words = (_joined(self.words.pop(), words[0]), *words[1:])
        self.words += words
        self._is_word_open = bool(words) and not is_between_words
        self._held, self._first_frame = [], self._first_frame + len(scores)


def decode_words(
    scores: Float[np.ndarray, "output_frame class"],
    decoder: Decoder,
    alphabet: Alphabet,
    clock: OutputClock,
    *,
    classes: dict[str, int],
    first_frame: int = 0,
) -> tuple[Word, ...]:
    """A stretch's text by the decoder, and each word's place on the best path that spells it."""
    (text,) = decoder(scores[None], np.array([len(scores)]))
    labels = _with_outer_spaces(scores, [classes[symbol] for symbol in text], classes.get(SPACE))
    alignment = best_alignment(log_softmax(scores), labels)
    return timed_words(alignment, alphabet, clock, seconds=np.inf, first_frame=first_frame)


def _with_outer_spaces(
    scores: Float[np.ndarray, "output_frame class"], labels: list[int], space: int | None
) -> list[int]:
    """Labels with the spaces at the ends that a text has lost, where the best path begins or ends with one."""
    # Otherwise the frame of such a space would go to its neighbour, whichever is less improbable there: a blank, or the word.
    best = scores.argmax(axis=1)
    said = best[best != BLANK]
    if space is None or not len(said):
        return labels
    spaced = [space] * int(said[0] == space) + labels + [space] * int(said[-1] == space)
    return spaced if frames_needed(spaced) <= len(scores) else labels


def certain_blank(frames: int, num_classes: int) -> Float[np.ndarray, "output_frame class"]:
    """Scores that say nothing is said: for chunks that are never shown to the network."""
    scores = np.full((frames, num_classes), -100.0, np.float32)
    scores[:, 0] = 0.0
    return scores


def _joined(first: Word, second: Word) -> Word:
    """A word of two parts, its confidence by their times."""
    parts = [(word.end - word.start, word.confidence) for word in (first, second)]
    confidence = sum(length * value for length, value in parts) / sum(length for length, _ in parts)
    return Word(first.text + second.text, first.start, second.end, confidence)
