"""Recordings of any length, rate and channel layout, read forwards piece by piece.

`audio` reads a clip whole and refuses what is not as the config says, because training must not mend in silence. A recording to be
transcribed may last ten hours and come from anywhere: here it is decoded a few seconds at a time, its channels mixed (their mean) or
one of them taken, another rate converted by the same converter (soxr, whose pieces are bit for bit those of the whole), and
`conversion` says in words what was done. What makes a file wrong is wrong here too, except that its length need not be known:
encoders that write to a pipe cannot state it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.audio import BLOCK, UNKNOWN_LENGTH, Forwards, no_file, open_decoder, require_whole

CANCELLED = 0.1  # of the channels' own level; a mix below it has lost what they have in opposite phase

Channels = Literal["mix"] | int


@dataclass(frozen=True)
class RawFormat:
    """Samples without a header: signed 16-bit little-endian, channels interleaved."""

    sample_rate: int
    channels: int = 1


class Recording:
    """An open recording; `samples` reads it once, from beginning to end."""

    def __init__(self, name: str, file: soundfile.SoundFile, *, sample_rate: int, channel: Channels):
        self.name, self.file, self.sample_rate, self.channel = name, file, sample_rate, channel
        self.num_read = 0
        if channel != "mix" and channel >= file.channels:
            raise DataError(f"{name}: {file.channels} channels, so there is no channel {channel} (the first is 0).")

    @property
    def seconds(self) -> float:
        """Length of what has been read so far."""
        return self.num_read / self.file.samplerate

    @property
    def conversion(self) -> str:
        """What is done to the samples, in words; "" for nothing."""
        return describe_conversion(
            self.file.samplerate, self.file.channels, sample_rate=self.sample_rate, channel=self.channel
        )

    def samples(self) -> Iterator[Float32[np.ndarray, " sample"]]:
        """Pieces of one channel at the rate that was asked for.

        Raises:
            DataError: breaks off, holds no samples, NaN or infinite ones, or channels that cancel each other in the mix.
        """
        import soxr

        rate = self.file.samplerate
        converter = soxr.ResampleStream(rate, self.sample_rate, 1, dtype="float32")
        levels = np.zeros(2)
        for piece in self.decoded():
            mono = self._one_channel(piece, levels)
            yield mono if rate == self.sample_rate else converter.resample_chunk(mono)
        if rate != self.sample_rate:
            yield converter.resample_chunk(np.zeros(0, np.float32), last=True)
        if self.num_read == 0:
            raise DataError(f"{self.name}: holds no samples.")
        if levels[0] < CANCELLED**2 * levels[1]:
            raise DataError(
                f"{self.name}: its {self.file.channels} channels cancel each other when mixed (opposite phase). Take one: --channel 0."
            )

    def _one_channel(
        self, piece: Float32[np.ndarray, "sample channel"], levels: np.ndarray
    ) -> Float32[np.ndarray, " sample"]:
        mixed = self.channel == "mix" and piece.shape[1] > 1
        mono = piece.mean(axis=1) if mixed else piece[:, 0 if self.channel == "mix" else self.channel]
        if not np.isfinite(mono).all():
            first = self.seconds - (len(mono) - int(np.argmin(np.isfinite(mono)))) / self.file.samplerate
            raise DataError(f"{self.name}: a sample at {first:.2f} s is NaN or infinite.")
        if mixed:
            levels += np.square(mono, dtype=np.float64).mean(), np.square(piece, dtype=np.float64).mean()
        return np.ascontiguousarray(mono)

    def decoded(self) -> Iterator[Float32[np.ndarray, "sample channel"]]:
        """Pieces of all channels at the recording's own rate; as `samples`, once. Raises DataError where it breaks off."""
        block, rate = max(1, BLOCK // self.file.channels), self.file.samplerate
        while True:
            try:
                piece = self.file.read(block, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise DataError(f"{self.name}: breaks off at {self.seconds:.2f} s ({error}).") from None
            self.num_read += len(piece)
            if not len(piece):
                break
            yield piece
        is_stated = self.file.frames < UNKNOWN_LENGTH
        if is_stated and self.file.frames - self.num_read > rate // 100:  # as `audio`: one hop is forgiven
            raise DataError(f"{self.name}: breaks off at {self.seconds:.2f} s of {self.file.frames / rate:.2f}.")


def describe_conversion(rate: int, channels: int, *, sample_rate: int, channel: Channels) -> str:
    """What becomes of a recording of this rate (Hz) and so many channels, in words; "" for nothing."""
    parts = []
    if channels > 1:
        parts.append(f"{channels} channels mixed" if channel == "mix" else f"channel {channel} of {channels}")
    if rate != sample_rate:
        missing = f" (nothing above {rate / 2000:g} kHz is in it: expect errors)" if rate < sample_rate else ""
        parts.append(f"{rate} Hz resampled to {sample_rate}{missing}")
    return ", ".join(parts)


@contextmanager
def open_recording(
    path: Path, *, sample_rate: int, channel: Channels, name: str | None = None, raw: RawFormat | None = None
) -> Iterator[Recording]:
    """A recording whose samples come at `sample_rate` (Hz).

    Args:
        path: whatever libsndfile reads: WAV, FLAC, Ogg, MP3 and others. A regular file.
        channel: "mix" or which one, from 0.
        name: what messages call it; the path unless told.
        raw: the file has no header.

    Raises:
        DataError: no such file, no audio, cut off, or no such channel.
    """
    name = name or str(path)
    if not os.path.isfile(path):
        raise DataError(no_file(path, None))
    if raw is None:
        decoder = open_decoder(name, path, Forwards)
        require_whole(name, path)
    else:
        decoder = Forwards(
            str(path),
            samplerate=raw.sample_rate,
            channels=raw.channels,
            format="RAW",
            subtype="PCM_16",
            endian="LITTLE",
        )
    with decoder as file:
        yield Recording(name, file, sample_rate=sample_rate, channel=channel)
