"""One stream: samples in, chunks of features out to the network, its logits in, text out. Bookkeeping alone: no threads, no device.

Two sides use a session, each its own methods: who speaks (`features_of`, `last_features`, `add`, `end`), and who steps the network
(`next_chunk`, `hear`). `features_of` and `last_features` do the work (a Fourier transform a frame) and touch nothing that the other side
reads; the rest are a few assignments, which `dispatch` makes under its lock.

Samples are kept until they fill a chunk, and its features computed at once: a frame alone, of a block of 10 ms, costs three times as much,
and nobody wants it before its chunk is full.

A chunk waits from the moment when its last sample was there. Chunk n, from 0, of c frames needs the first
((n + 1) c - 1) * hop + window samples. After the end come chunks of nothing until all logits are out (`deploy.streams`).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from dsrun.ctc import GreedyStream
from dsrun.deploy.streams import UNKNOWN
from dsrun.serving.errors import BadSamples, StreamEnded
from dsrun.speech import Alphabet, FeatureSettings, Normalization
from dsrun.speech.alphabet import TextStream
from dsrun.speech.feature_stream import FeatureStream


@dataclass(frozen=True)
class Hearing:
    """What all streams of a model have in common.

    Fields:
        frames_a_chunk: of features, in a step. output_frames: logits of an utterance of so many frames.
    """

    features: FeatureSettings
    normalization: Normalization
    alphabet: Alphabet
    frames_a_chunk: int
    output_frames: Callable[[int], int]

    @property
    def chunk_seconds(self) -> float:
        """Sound that a step takes in of each stream."""
        return self.frames_a_chunk * self.features.hop / self.features.sample_rate

    def samples_needed(self, chunk: int) -> int:
        """Samples from the beginning until chunk number `chunk`, from 0, is full."""
        return ((chunk + 1) * self.frames_a_chunk - 1) * self.features.hop + self.features.window


@dataclass(frozen=True)
class Chunk:
    """What a step needs of a stream.

    Fields:
        num_frames: of the whole utterance, or UNKNOWN while it goes on. since: when the last sample it needs was there, in the
        pusher's clock. is_full: it was filled by sound; the others come after the end.
    """

    features: Float32[np.ndarray, "frame bin"]
    num_frames: int
    since: float
    is_full: bool


class Session:
    """One utterance, from its first sample to the end of its text."""

    def __init__(self, hearing: Hearing):
        self.hearing = hearing
        self._features = FeatureStream(hearing.features, hearing.normalization)
        self._labels, self._writer = GreedyStream(), TextStream(hearing.alphabet)
        self._full: deque[Chunk] = deque()
        self._filling, self._filled = self._empty(), 0
        self._kept: list[np.ndarray] = []  # samples that fill no chunk yet
        self._computed = 0  # frames
        self._filled_chunks = self._taken_chunks = self._given = 0
        self._num_samples = self._num_frames = 0
        self._ended_at: float | None = None
        self._texts: list[str] = []

    # Who speaks.

    def features_of(self, samples: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, "frame bin"]:
        """Frames of chunks that are full with these samples, which follow those before; give them to `add`, in order.

        Raises:
            BadSamples: not float32 samples in one row, or one is NaN or infinite. Nothing is taken.
        """
        if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != np.float32:
            found = f"{samples.dtype} {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
            raise BadSamples(f"samples are {found}: give float32 in one row, in [-1, 1].")
        if not np.isfinite(samples).all():
            place = self._num_samples + int(np.argmin(np.isfinite(samples)))
            raise BadSamples(f"sample {place} is NaN or infinite: the network has no answer to it.")
        self._num_samples += len(samples)
        self._kept.append(samples.copy())
        if self._num_samples < self.hearing.samples_needed(self._computed // self.hearing.frames_a_chunk):
            return np.zeros((0, self.hearing.features.num_bins), np.float32)
        return self._compute()

    def last_features(self) -> Float32[np.ndarray, "frame bin"]:
        """Frames of the samples that are left at the end. Raises DataError if there were fewer than a window."""
        frames = self._compute()
        self._features.finish()
        return frames

    def add(self, frames: Float32[np.ndarray, "frame bin"], *, at: float, spoken_at: float | None = None) -> None:
        """Let frames of `features_of` wait for the network.

        Args:
            at: now. spoken_at: when the last sample was spoken, if that is known and what counts: a chunk that a sample in
            the middle of the block has filled then waits since that one.
        """
        if self._ended_at is not None:
            raise StreamEnded("the stream was finished and takes no more samples.")
        self._num_frames += len(frames)
        while len(frames):
            fits = frames[: self.hearing.frames_a_chunk - self._filled]
            self._filling[self._filled : self._filled + len(fits)] = fits
            self._filled, frames = self._filled + len(fits), frames[len(fits) :]
            if self._filled == self.hearing.frames_a_chunk:
                since = at if spoken_at is None else spoken_at - self._seconds_behind()
                self._full.append(Chunk(self._filling, int(UNKNOWN), since, is_full=True))
                self._filling, self._filled = self._empty(), 0
                self._filled_chunks += 1

    def end(self, *, at: float) -> None:
        """No more samples come, and `last_features` were added."""
        if self._ended_at is not None:
            raise StreamEnded("the stream was finished already.")
        self._ended_at = at

    # Who steps the network.

    @property
    def waiting_since(self) -> float | None:
        """Since when the chunk that is next has been there; None if there is none."""
        if self._full:
            return self._full[0].since
        return self._ended_at if self._ended_at is not None and not self.is_finished else None

    def next_chunk(self) -> Chunk:
        """The oldest chunk; once the stream has ended, what is left and then nothing."""
        self._taken_chunks += 1
        if self._full:
            return self._full.popleft()
        assert self._ended_at is not None, "asked while nothing waits"
        rest, self._filling, self._filled = self._filling, self._empty(), 0
        return Chunk(rest, self._num_frames, self._ended_at, is_full=False)

    def hear(self, logits: Float32[np.ndarray, "_ class"]) -> str:
        """Logits that a step gave; the text that is new with them."""
        self._given += len(logits)
        if new := self._writer.push(self._labels.push(logits)):
            self._texts.append(new)
        return new

    # Both.

    @property
    def is_finished(self) -> bool:
        """Ended, and all of its text is out."""
        return self._ended_at is not None and self._given >= self.hearing.output_frames(self._num_frames)

    @property
    def ended_at(self) -> float | None:
        """When `end` was called."""
        return self._ended_at

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._texts)

    @property
    def seconds(self) -> float:
        """Sound that has come."""
        return self._num_samples / self.hearing.features.sample_rate

    @property
    def heard_seconds(self) -> float:
        """Of it, what steps have taken in."""
        features = self.hearing.features
        frames = min(self._taken_chunks * self.hearing.frames_a_chunk, self._num_frames)
        return frames * features.hop / features.sample_rate

    @property
    def waiting_seconds(self) -> float:
        """Sound whose chunks are full and wait."""
        return len(self._full) * self.hearing.chunk_seconds

    def _compute(self) -> np.ndarray:
        samples, self._kept = np.concatenate([np.zeros(0, np.float32), *self._kept]), []
        frames = self._features.push(samples)
        self._computed += len(frames)
        return frames

    def _empty(self) -> np.ndarray:
        return np.zeros((self.hearing.frames_a_chunk, self.hearing.features.num_bins), np.float32)

    def _seconds_behind(self) -> float:
        """From the last sample that the chunk now full needs to the last one that came."""
        behind = self._num_samples - self.hearing.samples_needed(self._filled_chunks)
        return behind / self.hearing.features.sample_rate
