"""Transcription: audio files of any length to texts with times, with any model.

On the roof, between `models.py` (a model ready to recognise) and the command line. Here is the flow: a thread decodes, cuts and
computes features, file after file; chunks of all files wait in one queue and are recognised in batches; each file's are stitched,
and its transcript is handed on as soon as it and all files before it are done. A file that cannot be read becomes a failure in its
place and stops nobody. No more is in memory than a few batches, whatever the files' length.

Whole networks only: `--stream`, which gives partial results while somebody speaks, has an engine of its own.
"""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsrun import build
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.batch_queue import BatchQueue
from dsrun.evaluation.decoders import Decoder, GreedyDecoder
from dsrun.evaluation.recognise import Recogniser, ladder
from dsrun.evaluation.stitching import Stitcher, certain_blank
from dsrun.evaluation.words import Word, join_words, separator_of
from dsrun.model import output_frames, time_stride
from dsrun.models import Model
from dsrun.speech import AudioSettings, prefetch
from dsrun.speech.audio import require_rate_and_channel
from dsrun.speech.chunks import Chunk, ChunkSettings, cut_into_chunks
from dsrun.speech.recording import Channels, RawFormat, Recording, open_recording
from dsrun.training.preflight import explaining_lack_of_memory

LONGEST_CHUNK = 20.0  # seconds; less where the network was trained on less
OVERLAP = 2.0  # seconds: several words, so that a pause between two is in it
ROWS = 8  # of a batch
PREFETCH = 16  # chunks ahead of the network
TELL_EVERY = 30.0  # seconds
ADVICE = "What helps: a smaller --batch, or shorter --chunk-seconds (which may change words at the seams), or a device with more memory."


@dataclass(frozen=True)
class Source:
    """A file to transcribe, what it is called in messages and results, and the format of one without a header."""

    path: Path
    name: str
    raw: RawFormat | None = None


@dataclass(frozen=True)
class Settings:
    """How to read files and how to cut them.

    Fields:
        channel: "mix", a number, or None for what the config says, and the mix where it says mono.
        is_strict: refuse what is not as the config says, instead of converting it.
        chunk_seconds, overlap_seconds: None for 20 s, or what the config's data.max_seconds allows, and 2 s. rows: of a batch.
    """

    channel: Channels | None = None
    is_strict: bool = False
    chunk_seconds: float | None = None
    overlap_seconds: float | None = None
    rows: int = ROWS


@dataclass(frozen=True)
class Transcript:
    """What was said in a file, and what was done to its samples: the channel taken (None of one), the rate converted to (None if kept)."""

    file: str
    text: str
    words: tuple[Word, ...]
    seconds: float
    sample_rate: int
    channels: int
    channel: Channels | None
    resampled_to: int | None
    chunks: int
    separator: str  # between words, "" where every character is one

    @property
    def confidence(self) -> float | None:
        """Mean of the words', by their length in seconds; None without words."""
        lengths = [word.end - word.start for word in self.words]
        return float(np.average([w.confidence for w in self.words], weights=lengths)) if sum(lengths) else None

    def to_json(self) -> dict[str, Any]:
        """Times rounded to milliseconds, which is finer than they are."""
        fields = {name: getattr(self, name) for name in ("file", "text", "sample_rate", "channels", "channel")}
        return fields | {
            "resampled_to": self.resampled_to,
            "seconds": round(self.seconds, 3),
            "chunks": self.chunks,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "words": [_word_json(word) for word in self.words],
        }


@dataclass(frozen=True)
class Failure:
    """A file that cannot be transcribed, and why."""

    file: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """For the list of failures."""
        return {"file": self.file, "error": self.error}


@dataclass(frozen=True)
class _Piece:
    """A chunk of a file and its number there; its first output frame, how many frames, their features (None: digital silence)."""

    file: int
    number: int
    first_frame: int
    frames: int
    features: np.ndarray | None


@dataclass(frozen=True)
class _Whole:
    """A file has been read to its end."""

    file: int
    recording: Recording
    chunks: int


@dataclass(frozen=True)
class _Broken:
    """A file cannot be read, or no further."""

    file: int
    failure: Failure


class _File:
    """One file on its way: pieces are stitched in order, whichever was recognised first."""

    def __init__(self, stitcher: Stitcher):
        self.stitcher = stitcher
        self.outcome: Transcript | Failure | None = None
        self.whole: _Whole | None = None
        self._ready: dict[int, tuple[int, np.ndarray]] = {}
        self._stitched = 0

    def add(self, piece: _Piece, scores: np.ndarray) -> None:
        """Scores of a piece."""
        self._ready[piece.number] = piece.first_frame, scores
        while not self.outcome and self._stitched in self._ready:
            self.stitcher.add(*self._ready.pop(self._stitched))
            self._stitched += 1

    @property
    def is_stitched(self) -> bool:
        """Everything was read and recognised."""
        return self.whole is not None and self._stitched == self.whole.chunks


class Transcriber:
    """A network, ready for files of any length.

    Args:
        decoder: class scores to texts; greedy if None.
        say: takes a line for people, such as what was done to a file's samples.
        is_wanted: asked between two pieces of a file; the rest of a file that is not wanted any more is not read, and its result a failure.

    Raises:
        UsageError: the settings contradict each other or the run's config.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        decoder: Decoder | None = None,
        say: Callable[[str], None] = lambda line: None,
        is_wanted: Callable[[], bool] = lambda: True,
    ):
        self.alphabet, self.normalization, self.say = model.alphabet, model.normalization, say
        self._is_wanted = is_wanted
        self.decoder = decoder or GreedyDecoder(model.alphabet)
        self.clock = build.build_clock(model.features, model.settings)
        self.chunks = _chunk_settings(model, settings)
        self.audio, self.is_strict = _audio_settings(model.audio, settings), settings.is_strict
        self.model = model.settings
        self.audio_seconds = 0.0  # of the files handed on
        self._told = time.monotonic()
        self.recogniser = Recogniser(
            model.settings,
            model.network,
            model.weights,
            model.statistics,
            rows=settings.rows,
            lengths=ladder(self.chunks.frames, self.chunks.stride),
        )

    def __call__(self, sources: Sequence[Source]) -> Iterator[Transcript | Failure]:
        """One result a file, in the order of the files, each as soon as it is known.

        Raises:
            UsageError: a batch does not fit into memory.
        """
        rows, seconds = self.recogniser.rows, self.chunks.frames * self.chunks.features.hop / self.audio.sample_rate
        doing = f"recognising {rows} chunks of up to {seconds:.3g} s together"
        with explaining_lack_of_memory(lambda: doing, ADVICE):
            yield from self._results(sources)

    def _results(self, sources: Sequence[Source]) -> Iterator[Transcript | Failure]:
        queue: BatchQueue[_Piece] = BatchQueue(self.recogniser)
        files: dict[int, _File] = {}
        given_up: set[int] = set()  # files that have failed; read by the thread, which reads no further in them
        next_out = 0
        for event, _ in prefetch(lambda: self._events(sources, given_up), PREFETCH):
            if event.file in given_up:  # on its way when the file failed
                continue
            file = files.setdefault(event.file, _File(Stitcher(self.decoder, self.alphabet, self.clock)))
            if isinstance(event, _Broken):
                file.outcome = event.failure
            elif isinstance(event, _Whole):
                file.whole = event
            elif event.features is None:
                silence = certain_blank(output_frames(self.model, event.frames), self.model.num_classes)
                self._place(files, [(event, silence)], sources)
            else:
                self._place(files, queue.put(event, event.features), sources)
            self._finish(file, sources[event.file])
            given_up.update(number for number, file in files.items() if isinstance(file.outcome, Failure))
            while next_out in files and (outcome := files[next_out].outcome):
                yield self._handed_on(outcome)
                del files[next_out]
                next_out += 1
        self._place(files, queue.flush(), sources)
        for number in range(next_out, len(sources)):
            self._finish(files[number], sources[number])
            outcome = files[number].outcome
            assert outcome, "a file that was read to its end and recognised has a result"
            yield self._handed_on(outcome)

    def _handed_on(self, outcome: Transcript | Failure) -> Transcript | Failure:
        self.audio_seconds += 0.0 if isinstance(outcome, Failure) else outcome.seconds
        return outcome

    def _events(self, sources: Iterable[Source], given_up: Container[int]) -> Iterator[_Piece | _Whole | _Broken]:
        """Everything that reading the files brings, in order; runs in a thread beside the network."""
        for number, source in enumerate(sources):
            try:
                for event in self._read(number, source):
                    if number in given_up:
                        break
                    yield event
            except DataError as error:
                yield _Broken(number, Failure(source.name, str(error)))
            except OSError as error:
                yield _Broken(number, Failure(source.name, f"{source.name}: {error.strerror or error}."))

    def _read(self, number: int, source: Source) -> Iterator[_Piece | _Whole]:
        channel: Channels = "mix" if self.audio.channel == "mono" else self.audio.channel
        rate, count = self.audio.sample_rate, 0
        opened = open_recording(source.path, sample_rate=rate, channel=channel, name=source.name, raw=source.raw)
        with opened as recording:
            if self.is_strict:
                require_rate_and_channel(recording.name, recording.file.samplerate, recording.file.channels, self.audio)
            if recording.conversion:
                self.say(f"{recording.name}: {recording.conversion}")
            for chunk in cut_into_chunks(recording.samples(), self.chunks):
                if not self._is_wanted():
                    raise DataError(f"{recording.name}: given up at {recording.seconds:.0f} s.")
                yield self._piece(number, count, recording.name, chunk)
                count += 1
            yield _Whole(number, recording, count)

    def _piece(self, file: int, number: int, name: str, chunk: Chunk) -> _Piece:
        features = self.chunks.features
        if not (frames := features.num_frames(len(chunk.samples))):
            raise DataError(f"{name}: {len(chunk.samples)} samples, shorter than one window of {features.window}.")
        is_silent = chunk.is_digital_silence
        shown = None if is_silent else self.normalization.apply(features.compute(chunk.samples))
        return _Piece(file, number, chunk.first_frame, frames, shown)

    def _place(
        self, files: dict[int, _File], results: list[tuple[_Piece, np.ndarray]], sources: Sequence[Source]
    ) -> None:
        """Give recognised pieces to their files; one that failed in the meantime has no use for them."""
        for piece, scores in results:
            if (file := files.get(piece.file)) and not file.outcome:
                try:
                    file.add(piece, scores)
                except DataError as error:
                    name = sources[piece.file].name
                    file.outcome = Failure(name, f"{name}: {error}")
                self._finish(file, sources[piece.file])
                self._tell_progress(sources[piece.file].name, piece)

    def _tell_progress(self, name: str, piece: _Piece) -> None:
        """A line every half minute, for recordings that take long."""
        if time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            minutes, seconds = divmod(int(self.clock.end(piece.first_frame + piece.frames // self.chunks.stride)), 60)
            self.say(f"{name}: recognised up to {minutes}:{seconds:02d}")

    def _finish(self, file: _File, source: Source) -> None:
        """A file's result, if everything for it is there."""
        if file.outcome or not file.is_stitched:
            return
        assert file.whole
        recording = file.whole.recording
        rate, channels = recording.file.samplerate, recording.file.channels
        words = file.stitcher.finish(recording.seconds)
        file.outcome = Transcript(
            file=source.name,
            text=join_words(words, self.alphabet),
            words=words,
            seconds=recording.seconds,
            sample_rate=rate,
            channels=channels,
            channel=None if channels == 1 else recording.channel,
            resampled_to=None if rate == recording.sample_rate else recording.sample_rate,
            chunks=file.whole.chunks,
            separator=separator_of(self.alphabet),
        )


def _chunk_settings(model: Model, settings: Settings) -> ChunkSettings:
    features, stride = model.features, time_stride(model.settings.front_end)
    step = stride * features.hop / features.sample_rate
    longest = min(LONGEST_CHUNK, model.audio.max_seconds)
    seconds = longest if settings.chunk_seconds is None else settings.chunk_seconds
    overlap = min(OVERLAP, seconds / 2) if settings.overlap_seconds is None else settings.overlap_seconds
    if seconds < 2 * step:
        raise UsageError(f"--chunk-seconds {seconds:g}: a chunk is at least {2 * step:g} s.")
    if overlap > seconds / 2:
        raise UsageError(
            f"--chunk-seconds {seconds:g} with --overlap-seconds {overlap:g}: the overlap is half of a chunk at most."
        )
    length = int(seconds / step + 1e-6)
    return ChunkSettings(length, min(int(overlap / step + 1e-6), length // 2), stride, features)


def _audio_settings(audio: AudioSettings, settings: Settings) -> AudioSettings:
    """The model's, with the channel that was asked for; "mono" stands for the mix where nothing is strict."""
    channel = settings.channel
    if settings.is_strict and channel == "mix":
        raise UsageError("--strict converts nothing, so it cannot mix channels. Name one, or leave --strict out.")
    wanted = audio.channel if channel is None else "mono" if channel == "mix" else channel
    return replace(audio, channel=wanted)


def _word_json(word: Word) -> dict[str, Any]:
    times = {"start": round(word.start, 3), "end": round(word.end, 3)}
    return {"word": word.text} | times | {"confidence": round(word.confidence, 4)}
