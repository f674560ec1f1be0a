"""Words with times: labels' output frames to seconds.

An output frame stands for the moment in the middle of what the front end shows it: its stacked (or convolved) spectrogram frames
are centred on one frame, and that frame on the middle of its window. Output frames are one step (time stride x hop) apart, so
each owns half a step on either side, and frames tile time without gaps. A word lasts from the beginning of its first label's
first frame to the end of its last label's last frame, inside the recording. What the recurrent layers do is not in this: a
network may say a label later than it heard it (`ctc.forced`).

A space is the border between words and belongs to neither. In an alphabet without a space (Chinese) every character is a word.

Confidence is the mean probability that the network gives the labels in the frames where the alignment has them, 0 to 1. It ranks:
a low one is worth listening to. It is not calibrated: CTC networks are surer than they are right.
"""

from dataclasses import dataclass
from itertools import groupby

from dsrun.ctc import Alignment, Span
from dsrun.ctc.lexicon import SPACE
from dsrun.evaluation.clock import OutputClock
from dsrun.speech import Alphabet


@dataclass(frozen=True)
class Word:
    """A word, its times in seconds from the beginning of the recording, and its mean probability."""

    text: str
    start: float
    end: float
    confidence: float


def timed_words(
    alignment: Alignment, alphabet: Alphabet, clock: OutputClock, *, seconds: float, first_frame: int = 0
) -> tuple[Word, ...]:
    """The words of an alignment.

    Args:
        seconds: length of the recording; no time lies outside it.
        first_frame: number in the recording of the alignment's first output frame.
    """

    def inside(time: float) -> float:
        return min(max(time, 0.0), seconds)

    words = []
    for spans in _group(alignment.spans, alphabet):
        start, end = (
            inside(clock.start(first_frame + spans[0].first)),
            inside(clock.end(first_frame + spans[-1].last)),
        )
        words.append(Word("".join(alphabet.symbols[span.label - 1] for span in spans), start, end, _confidence(spans)))
    return tuple(words)


def join_words(words: tuple[Word, ...], alphabet: Alphabet) -> str:
    """The text: what `Alphabet.decode` makes of the same labels."""
    return separator_of(alphabet).join(word.text for word in words)


def separator_of(alphabet: Alphabet) -> str:
    """What stands between words: a space, or nothing where every character is one."""
    return SPACE if SPACE in alphabet.symbols else ""


def _group(spans: tuple[Span, ...], alphabet: Alphabet) -> list[list[Span]]:
    if SPACE not in alphabet.symbols:
        return [[span] for span in spans]
    space = alphabet.symbols.index(SPACE) + 1
    return [list(group) for is_space, group in groupby(spans, lambda span: span.label == space) if not is_space]


def _confidence(spans: list[Span]) -> float:
    """Every frame counts once, so a label that is held counts more than a short one."""
    frames = [span.last - span.first + 1 for span in spans]
    return sum(span.score * count for span, count in zip(spans, frames, strict=True)) / sum(frames)
