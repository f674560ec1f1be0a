"""Chunks: a recording of any length as overlapping pieces that a network can take, all on one grid of output frames.

A bidirectional network has to see a clip's end before it can say its beginning, and it was trained on clips of seconds. So a long
recording is cut into chunks of `length` output frames; each begins `length - overlap` after the one before, and what an output frame
of one chunk sees is sample for sample what the next chunk's frame for the same moment sees (until the chunk's own ends are in
sight): chunks begin at whole output frames. The last one ends with the recording and has the full length too, so that it
has as much before it as the others: it overlaps more.

Where one chunk's frames end and the next one's begin is decided when both have been recognised (`evaluation.seams`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from dsrun.speech.features import FeatureSettings


@dataclass(frozen=True)
class ChunkSettings:
    """Output frames of a chunk and of the overlap with the next, frames an output frame, and the features' windows."""

    length: int
    overlap: int
    stride: int
    features: FeatureSettings

    @property
    def frames(self) -> int:
        """Spectrogram frames of a whole chunk."""
        return self.length * self.stride

    @property
    def num_samples(self) -> int:
        """Samples of a whole chunk: every window of its frames is inside."""
        return (self.frames - 1) * self.features.hop + self.features.window

    @property
    def step(self) -> int:
        """Samples an output frame."""
        return self.stride * self.features.hop


@dataclass(frozen=True)
class Chunk:
    """Samples, the number in the recording of their first output frame, and whether the recording ends with them."""

    first_frame: int
    samples: Float32[np.ndarray, " sample"]
    is_last: bool

    @property
    def is_digital_silence(self) -> bool:
        """All samples equal: no microphone gives that, and no network was trained on it."""
        return bool((self.samples == self.samples[0]).all())


def cut_into_chunks(pieces: Iterable[Float32[np.ndarray, " sample"]], settings: ChunkSettings) -> Iterator[Chunk]:
    """Chunks of a recording that comes in pieces of any size; a short one is one chunk. Holds two chunks' samples at most."""
    step, whole = settings.step, settings.num_samples
    advance = (settings.length - settings.overlap) * step
    first_frame, held = 0, np.zeros(0, np.float32)
    for piece in pieces:
        held = np.concatenate([held, piece])
        while (
            len(held) > whole + advance
        ):  # more than two chunks need: the first is not the last, nor is the second too long
            yield Chunk(first_frame, held[:whole], is_last=False)
            held, first_frame = held[advance:], first_frame + advance // step
    if len(held) > whole:
        yield Chunk(first_frame, held[:whole], is_last=False)
        moved = -(-(len(held) - whole) // step)
        held, first_frame = held[moved * step :], first_frame + moved
    yield Chunk(first_frame, held, is_last=True)
