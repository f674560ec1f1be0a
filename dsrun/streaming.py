"""Streamed transcription: text while the sound comes, with a delay that is stated, and in the end the text of the whole pass.

On the roof. Samples (`speech.live`) become features as their windows fill (`speech.feature_stream`), features logits in chunks of one
shape (`model.streaming`), logits labels across the chunks' borders (`ctc.GreedyStream`). A label, once printed, is never taken back.

Latency. The text of an output frame depends on sound up to its last window, its front end's context and the row convolution's, and waits
until a chunk is full: so long after the frame's first sample at the latest its label is there, plus the time of computing. Files are
read a hop at a time: in blocks as long as a chunk, a chunk whose last window ends a little behind a block would wait for all of the next.

The whole pass is the network's over the recording in one piece, which `dsrun eval` makes of recordings of any length. `dsrun transcribe`
without --stream cuts what is longer than its chunks (20 s), and a network begins each of them knowing nothing of the one before.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dsrun.ctc import GreedyStream
from dsrun.errors import DataError, UsageError
from dsrun.model import ModelSettings, time_stride
from dsrun.model.streaming import frames_needed
from dsrun.models import Model, load_model
from dsrun.speech import FeatureSettings
from dsrun.speech.alphabet import TextStream
from dsrun.speech.feature_stream import FeatureStream
from dsrun.speech.live import LiveAudio, LiveSamples, Pipe, live_file, live_pipe
from dsrun.training.preflight import explaining_lack_of_memory

LATEST_CALLS = 10_000  # half an hour of chunks of 200 ms

OnText = Callable[[str, float], None]  # text that is new, and the seconds of sound so far


@dataclass(frozen=True)
class Latency:
    """Milliseconds of sound from the beginning of an output frame until its label, at most; computing comes on top.

    chunk: what a call of the network takes in, which is waited for. window: of a spectrogram frame, in whole hops, as they are read.
    front_end, lookahead: later frames that the front end and the row convolution see.
    """

    chunk: float
    window: float
    front_end: float
    lookahead: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.chunk + self.window + self.front_end + self.lookahead

    def to_json(self) -> dict[str, float]:
        """Names with their unit."""
        parts = {name: getattr(self, name) for name in ("chunk", "window", "front_end", "lookahead", "total")}
        return {f"{name}_ms": round(value, 3) for name, value in parts.items()}


def stream_latency(settings: ModelSettings, features: FeatureSettings, *, chunk: int) -> Latency:
    """Of chunks of so many output frames."""
    hop = 1000.0 * features.hop / features.sample_rate
    window = hop * -(-features.window // features.hop)
    output = hop * time_stride(settings.front_end)
    ahead = output * settings.lookahead
    return Latency(output * chunk, window, hop * frames_needed(settings) - ahead, ahead)


class Computing:
    """Seconds of the network's calls, in a memory that does not grow: a stream may go on for days."""

    def __init__(self) -> None:
        self.calls, self.total, self.longest = 0, 0.0, 0.0
        self._latest: deque[float] = deque(maxlen=LATEST_CALLS)

    def add(self, seconds: float, calls: int) -> None:
        """So many calls, of so many seconds each."""
        self.calls, self.total = self.calls + calls, self.total + calls * seconds
        self.longest = max(self.longest, seconds)
        self._latest.extend([seconds] * calls)

    @property
    def median(self) -> float:
        """Of the latest calls."""
        return median(self._latest) if self._latest else 0.0


class StreamRecogniser:
    """A network, hearing one recording after another.

    Args:
        model: whose. chunk_ms: sound that a call of the network takes in, rounded down to whole output frames, at least one.

    Raises:
        UsageError: the network cannot be streamed; says why and what can.
    """

    def __init__(self, model: Model, *, chunk_ms: float):
        self.alphabet, settings, features = model.alphabet, model.settings, model.features
        frame_ms = 1000.0 * features.hop * time_stride(settings.front_end) / features.sample_rate
        # A ratio that is whole but for a rounding error is whole.
        chunk = max(1, int(chunk_ms / frame_ms + 1e-6))
        self.latency = stream_latency(settings, features, chunk=chunk)
        try:
            self._logits = model.stream(chunk)
        except ValueError as error:
            raise UsageError(f"{model.path}: cannot be transcribed with --stream: {error}") from None
        self._new_features = partial(FeatureStream, features, model.normalization)
        self.computing = Computing()
        self._seconds_before_call = 0.0
        # Compiled on silence before anybody speaks, so that the first chunk is no slower than the others.
        self._logits.push(np.zeros((self._logits.frames_a_chunk, settings.num_bins), np.float32))
        self.restart()

    def restart(self) -> None:
        """Begin another recording."""
        self._logits.restart()
        self._features, self._labels = self._new_features(), GreedyStream()
        self._writer, self._written = TextStream(self.alphabet), list[str]()
        self._seconds_before_call = 0.0

    @property
    def text(self) -> str:
        """What has been recognised so far."""
        return "".join(self._written)

    @property
    def logits_given(self) -> int:
        """Output frames whose label is decided."""
        return self._logits.given

    def hear(self, samples: np.ndarray) -> str:
        """Take in samples that follow; the text that is new."""
        return self._timed(lambda: self._logits.push(self._features.push(samples)))

    def finish(self) -> str:
        """The recording has ended; the text that is new. Raises DataError if it is shorter than a window."""
        self._features.finish()
        return self._timed(self._logits.finish)

    def _timed(self, logits: Callable[[], np.ndarray]) -> str:
        start, calls = time.perf_counter(), self._logits.calls
        if new := self._writer.push(self._labels.push(logits())):
            self._written.append(new)
        self._seconds_before_call += time.perf_counter() - start
        if made := self._logits.calls - calls:
            self.computing.add(self._seconds_before_call / made, made)
            self._seconds_before_call = 0.0
        return new  # a space at the end is a label, and no text yet


@explaining_lack_of_memory(
    lambda: "transcribing a stream", "What helps: a smaller --chunk-ms, or a device with more free memory."
)
def stream_file(
    path: Path,
    source: Path,
    *,
    checkpoint: str | None,
    chunk_ms: float,
    resample: bool,
    channel: int | None,
    raw_rate: int | None,
    is_paced: bool,
    pipe: Pipe,
    on_text: OnText,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Transcribe a file, or for "-" what comes through `pipe`, calling `on_text` with
    what is new of the text; returns the report, with the last of it.

    `say` takes a line for people: what is done to the samples.

    Raises:
        UsageError: the network cannot be streamed. DataError: the sound cannot be read, naming the source.
    """
    model = load_model(path, checkpoint)
    recogniser, audio = StreamRecogniser(model, chunk_ms=chunk_ms), model.audio
    settings = replace(
        audio, resample=audio.resample or resample, channel=audio.channel if channel is None else channel
    )
    block_seconds = block_of(model)
    if str(source) == "-":
        live = live_pipe(pipe, name="standard input", raw_rate=raw_rate, block_seconds=block_seconds)
    else:
        live = live_file(source, block_seconds=block_seconds)
    if is_paced:
        live = paced(live)
    samples = LiveSamples(live, settings)
    if samples.conversion:
        say(f"{live.name}: {samples.conversion}")
    heard = 0
    for block in samples:
        heard += len(block)
        if new := recogniser.hear(block):
            on_text(new, heard / settings.sample_rate)
    try:
        rest = recogniser.finish()
    except DataError as error:
        raise DataError(f"{live.name}: {error}") from None
    figures = _figures(recogniser, heard / settings.sample_rate, samples, block_seconds)
    return {"file": str(source), "new": rest, "text": recogniser.text} | figures


def block_of(model: Model) -> float:
    """Seconds of sound that are read at a time: a hop of the spectrogram."""
    return model.features.hop / model.features.sample_rate


def paced(audio: LiveAudio) -> LiveAudio:
    """The same recording at the speed of sound: each block when its last sample would have been spoken."""

    def blocks() -> Iterator[np.ndarray]:
        start, spoken = time.monotonic(), 0
        for block in audio.blocks:
            spoken += len(block)
            time.sleep(max(0.0, start + spoken / audio.sample_rate - time.monotonic()))
            yield block

    return LiveAudio(audio.name, audio.sample_rate, audio.channels, blocks())


def _figures(
    recogniser: StreamRecogniser, seconds: float, samples: LiveSamples, block_seconds: float
) -> dict[str, Any]:
    """Length of the recording, latency, and what computing took."""
    computing = recogniser.computing
    latency = recogniser.latency.to_json()
    if samples.held_back:
        # What a resampler gives out does not end where a hop does, so a hop's last sample may come with the next block.
        latency["resampler_ms"] = round(1000.0 * (samples.held_back + block_seconds), 3)
        latency["total_ms"] += latency["resampler_ms"]
    return {
        "seconds": seconds,
        "latency": latency,
        "compute": {
            "chunks": computing.calls,
            "median_ms": 1000.0 * computing.median,
            "max_ms": 1000.0 * computing.longest,
            "share_of_real_time": computing.total / seconds,
        },
    }
