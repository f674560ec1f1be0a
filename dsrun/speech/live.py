"""Recordings as they come: blocks of samples from a file, or from a pipe whose end is not there yet.

A pipe brings WAV (integers of 8 to 32 bits or floats, any rate and number of channels), or, where the caller names a rate, bare samples:
signed 16-bit little-endian, one channel. It is read as it comes and never in whole, so it may go on for days; a WAV header's length is
believed only as a bound, because a writer to a pipe does not know it (0 or the largest number means until the end). Everything else
that can be wrong with a file is as in `audio`, except that no recording is too long.

Samples have the bits of `read_audio`: integers divided by a power of two, and soxr's stream resampler, which gives the samples of the
whole clip's.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import soundfile
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.audio import (
    UNKNOWN_LENGTH,
    AudioSettings,
    no_file,
    open_decoder,
    require_rate_and_channel,
    require_whole,
)
from dsrun.speech.recording import describe_conversion

Block = Float32[np.ndarray, "sample channel"]

LONGEST_CHUNK = 1 << 20  # bytes of a WAV chunk before the samples; a header needs some dozens
IS_UNKNOWN = (0, 0x7FFF_0000)  # a length of 0, or from this on, is what writers put that cannot seek back

# (format tag, bits) of a WAV: dtype of the bytes, and by how much an integer is divided
ENCODINGS = {
    (1, 8): ("u1", 128.0),
    (1, 16): ("<i2", 2.0**15),
    (1, 24): ("<i4", 2.0**31),  # put into the upper three bytes
    (1, 32): ("<i4", 2.0**31),
    (3, 32): ("<f4", 1.0),
    (3, 64): ("<f8", 1.0),
}
RAW = (1, 16)


@runtime_checkable
class Pipe(Protocol):
    """What is read of a binary stream: as much as is there, at most so many bytes; nothing at its end."""

    def read1(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes."""
        ...


@dataclass(frozen=True)
class LiveAudio:
    """A recording that comes in blocks; `blocks` can be walked once."""

    name: str
    sample_rate: int
    channels: int
    blocks: Iterator[Block]


def live_file(path: Path, *, block_seconds: float) -> LiveAudio:
    """A file in blocks. Raises DataError as `read_audio` does, damage in the middle when it is met."""
    if not path.is_file():
        raise DataError(no_file(path, None))
    require_whole(str(path), path)
    file = open_decoder(str(path), path)
    return LiveAudio(str(path), file.samplerate, file.channels, _file_blocks(str(path), file, block_seconds))


def _file_blocks(name: str, file: soundfile.SoundFile, block_seconds: float) -> Iterator[Block]:
    rate, file_frames, count = file.samplerate, file.frames, 0
    size = max(1, round(block_seconds * rate))
    with file:
        while True:
            try:
                block = file.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise DataError(f"{name}: breaks off while being decoded ({error}).") from None
            count += len(block)
            if not len(block):
                break
            yield block
    # As in `audio`: a codec may know its length less exactly than it tells, and one that does not know it tells more than any.
    if file_frames < UNKNOWN_LENGTH and file_frames - count > rate // 100:
        raise DataError(f"{name}: breaks off: {count} samples of {file_frames} could be read.")


def live_pipe(pipe: Pipe, *, name: str, raw_rate: int | None, block_seconds: float) -> LiveAudio:
    """A pipe: a WAV, or with `raw_rate` (Hz) bare samples of 16 bits, one channel.

    Raises:
        DataError: neither; a pipe that ends within a sample or before its header's length.
    """
    if raw_rate is not None:
        return LiveAudio(name, raw_rate, 1, _pipe_blocks(name, pipe, RAW, 1, raw_rate, None, block_seconds))
    encoding, channels, rate, length = _wav_header(name, pipe)
    return LiveAudio(name, rate, channels, _pipe_blocks(name, pipe, encoding, channels, rate, length, block_seconds))


def _pipe_blocks(
    name: str,
    pipe: Pipe,
    encoding: tuple[int, int],
    channels: int,
    rate: int,
    length: int | None,
    block_seconds: float,
) -> Iterator[Block]:
    width = encoding[1] // 8 * channels
    size = max(1, round(block_seconds * rate)) * width
    rest, left = b"", length
    while left is None or left > 0:
        content = pipe.read1(size if left is None else min(size, left))
        if not content:
            break
        left = None if left is None else left - len(content)
        rest += content
        whole = len(rest) - len(rest) % width
        if whole:
            yield _decoded(rest[:whole], encoding, channels)
            rest = rest[whole:]
    if left:
        raise DataError(f"{name}: breaks off: its header promises {left} bytes more.")
    if rest:
        raise DataError(f"{name}: ends within a sample: {len(rest)} bytes of {width}. Cut off, or another encoding?")


def _decoded(content: bytes, encoding: tuple[int, int], channels: int) -> Block:
    dtype, divisor = ENCODINGS[encoding]
    if encoding == (1, 24):
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content = wide.tobytes()
    values = np.frombuffer(content, dtype)
    centred = values.astype(np.float32) - np.float32(128.0) if dtype == "u1" else values.astype(np.float32)
    return (centred / np.float32(divisor)).reshape(-1, channels)


def _wav_header(name: str, pipe: Pipe) -> tuple[tuple[int, int], int, int, int | None]:
    """Encoding, channels, rate, and bytes of samples or None; the pipe is then at the first sample."""
    start = _exactly(name, pipe, 12, optional=True)
    if not start:
        raise DataError(f"{name}: is empty (0 bytes).")
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        raise DataError(
            f"{name}: not a WAV. Standard input takes WAV, or with --raw-rate HZ bare 16-bit samples (little-endian, one "
            "channel); decode others on the way: ffmpeg -i FILE -f wav - | dsrun transcribe RUN - --stream"
        )
    found = None
    while True:
        kind, size = struct.unpack("<4sI", _exactly(name, pipe, 8))
        if kind == b"data":
            break
        if size > LONGEST_CHUNK:
            raise DataError(f"{name}: {size} bytes of {kind!r} before the samples. Is it a WAV?")
        content = _exactly(name, pipe, size + size % 2)
        if kind == b"fmt " and size >= 16:
            found = content
    if found is None:
        raise DataError(f"{name}: a WAV without a format before its samples.")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", found[:16])
    if tag == 0xFFFE and len(found) >= 26:  # extensible: the format's number begins its identifier
        tag = int.from_bytes(found[24:26], "little")
    if (tag, bits) not in ENCODINGS or not channels or not rate:
        raise DataError(
            f"{name}: WAV format {tag} of {bits} bits, {channels} channels, {rate} Hz: only integers of 8, 16, 24 or 32 bits and "
            "floats of 32 or 64 are read from a pipe. Convert it: ffmpeg -i FILE -f wav -c:a pcm_s16le -"
        )
    return (tag, bits), channels, rate, None if size == IS_UNKNOWN[0] or size >= IS_UNKNOWN[1] else size


def _exactly(name: str, pipe: Pipe, size: int, *, optional: bool = False) -> bytes:
    content = b""
    while len(content) < size:
        more = pipe.read1(size - len(content))
        if not more:
            if optional:
                return content
            raise DataError(f"{name}: ends within the WAV's header.")
        content += more
    return content


class LiveSamples:
    """One channel at the config's rate, in blocks.

    Raises DataError at once for another rate or several channels where the settings allow neither, and on the way for samples
    that are NaN or infinite. `held_back` is how many seconds of sound a resampler kept for itself, at most.
    """

    def __init__(self, audio: LiveAudio, settings: AudioSettings):
        require_rate_and_channel(audio.name, audio.sample_rate, audio.channels, settings)
        self.audio, self.settings, self.held_back = audio, settings, 0.0

    @property
    def channel(self) -> int:
        """The one that is taken."""
        return 0 if self.settings.channel == "mono" else self.settings.channel

    @property
    def conversion(self) -> str:
        """What is done to the samples, in words; "" for nothing."""
        return describe_conversion(
            self.audio.sample_rate, self.audio.channels, sample_rate=self.settings.sample_rate, channel=self.channel
        )

    def __iter__(self) -> Iterator[Float32[np.ndarray, " sample"]]:
        mono = (self._finite(block[:, self.channel]) for block in self.audio.blocks)
        return mono if self.audio.sample_rate == self.settings.sample_rate else self._resampled(mono)

    def _finite(self, samples: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, " sample"]:
        if not np.isfinite(samples).all():
            count = int((~np.isfinite(samples)).sum())
            raise DataError(f"{self.audio.name}: {count} samples of a block are NaN or infinite.")
        return np.ascontiguousarray(samples)

    def _resampled(self, blocks: Iterator[Float32[np.ndarray, " _"]]) -> Iterator[Float32[np.ndarray, " _"]]:
        import soxr

        resampler = soxr.ResampleStream(self.audio.sample_rate, self.settings.sample_rate, 1, dtype="float32")
        for block in blocks:
            yield resampler.resample_chunk(block)
            self.held_back = max(self.held_back, resampler.delay() / self.settings.sample_rate)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
