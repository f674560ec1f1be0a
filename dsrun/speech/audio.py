"""Audio: files to samples, and every way in which a file can be wrong.

Samples are float32 in [-1, 1], one channel, at the rate that the config names. Nothing is mended in silence: another rate is
resampled (soxr) only where the config says so, a channel of several is taken only where one is named, and a file that
libsndfile would read as a shorter clip without complaint (a WAV, AIFF or Ogg cut off in the middle) is refused. Sun AU, W64 and
headerless MP3 cut off in the middle are noticed only by the manifest's duration.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from jaxtyping import Float32

from dsrun.errors import DataError

Channel = Literal["mono"] | int

OGG_TAIL = 1 << 17  # bytes; a page has at most 65,307
UNKNOWN_LENGTH = 1 << 50  # what libsndfile says of a FLAC without a count is above, and no real file is
DURATION_TOLERANCE = 0.1  # seconds by which manifest and file may differ: containers round, lossy codecs pad


@dataclass(frozen=True)
class AudioSettings:
    """What a file must be like, or may be made like: rate (Hz), resampling allowed, channel, and the longest clip (s)."""

    sample_rate: int
    resample: bool = False
    channel: Channel = "mono"
    max_seconds: float = 3600.0

    def key(self) -> str:
        """Text that identifies what `read_audio` makes of a file."""
        return f"rate={self.sample_rate} resample={self.resample} channel={self.channel}"


def read_audio(
    path: Path, settings: AudioSettings, *, offset: float = 0.0, duration: float | None = None, is_part: bool = False
) -> Float32[np.ndarray, " sample"]:
    """Samples of a file, or of a part of it.

    Args:
        path: WAV, FLAC, Ogg and whatever else libsndfile reads.
        settings: required rate and channel.
        offset: seconds to skip.
        duration: what the manifest says, seconds. The part's length if `is_part`, otherwise checked against the file.

    Raises:
        DataError: missing, not audio, cut off, empty, too long, wrong rate or channel, NaN or infinite samples, or a duration
            that disagrees by more than 0.1 s.
    """
    with _open(path) as file:
        rate = file.samplerate
        _require_whole(path)
        _require_rate_and_channel(path, rate, file.channels, settings)
        start, count = _range(path, file, settings.max_seconds, offset, duration, is_part)
        samples = _read(path, file, start, count)
    mono = samples[:, 0 if settings.channel == "mono" else settings.channel]
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: {int((~np.isfinite(mono)).sum())} samples are NaN or infinite.")
    if rate != settings.sample_rate:
        import soxr

        mono = soxr.resample(mono, rate, settings.sample_rate)
    return np.ascontiguousarray(mono, np.float32)


def audio_digest(path: Path) -> str:
    """sha256 of the file's bytes, hexadecimal."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device that a manifest names has no end
            raise DataError(f"{path}: a folder, a pipe or a device, not an audio file.")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(_no_file(path, error)) from None


def _open(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise DataError(_no_file(path, None))
    try:
        return soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise DataError(f"{path}: not an audio file that can be read ({reason.rstrip('.')}).") from None


def _no_file(path: Path, error: OSError | None) -> str:
    if os.path.isdir(path):
        return f"{path}: a folder, not an audio file."
    if error is None or isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path}: no such file."
    return f"{path}: {error.strerror}."


def _range(
    path: Path, file: soundfile.SoundFile, max_seconds: float, offset: float, duration: float | None, is_part: bool
) -> tuple[int, int]:
    """First sample and number of samples to read."""
    if file.frames >= UNKNOWN_LENGTH:
        raise DataError(f"{path}: does not state its length (encoded from a pipe?). Encode it again from a file.")
    seconds = file.frames / file.samplerate
    length = duration if is_part and duration is not None else seconds - offset
    if file.frames == 0 or length <= 0:
        raise DataError(f"{path}: holds no samples{f' behind {offset:g} s' if offset else ''}.")
    if offset + length > seconds + DURATION_TOLERANCE:
        raise DataError(f"{path}: the manifest's part ends at {offset + length:.2f} s, the file at {seconds:.2f}.")
    if length > max_seconds:
        raise DataError(
            f"{path}: {length:.1f} s, longer than data.max_seconds ({max_seconds:g}). Cut it or raise the limit."
        )
    if not is_part and duration is not None and abs(duration - seconds) > DURATION_TOLERANCE:
        raise DataError(
            f"{path}: lasts {seconds:.2f} s, the manifest says {duration:.2f}. Is the file cut off, or the line wrong?"
        )
    start = min(round(offset * file.samplerate), file.frames - 1)
    return start, min(max(1, round(length * file.samplerate)), file.frames - start)


def _read(path: Path, file: soundfile.SoundFile, start: int, count: int) -> Float32[np.ndarray, "sample channel"]:
    try:
        if start:
            file.seek(start)
        samples = file.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, MemoryError) as error:
        raise DataError(f"{path}: breaks off while being decoded ({error}).") from None
    # Codecs may know their length less exactly than they tell: one hop of 10 ms is forgiven, a missing tail is not.
    if count - len(samples) > file.samplerate // 100:
        raise DataError(f"{path}: breaks off: {len(samples)} samples of {count} could be read.")
    return samples


def _require_rate_and_channel(path: Path, rate: int, channels: int, settings: AudioSettings) -> None:
    problems = []
    if rate != settings.sample_rate and not settings.resample:
        problems.append(
            f"{rate} Hz, the config says {settings.sample_rate} (convert it, or allow resampling: data.resample: "
            "true, or --resample of transcribe)"
        )
    if settings.channel == "mono" and channels != 1:
        problems.append(
            f"{channels} channels, the config says mono (name one, 0 to {channels - 1}: data.channel, or --channel of "
            "transcribe; or mix it down)"
        )
    elif settings.channel != "mono" and settings.channel >= channels:
        problems.append(
            f"{channels} channels, so there is no channel {settings.channel} (data.channel; the first is 0)"
        )
    if problems:
        raise DataError(f"{path}: " + "; ".join(problems) + ".")


def _require_whole(path: Path) -> None:
    """Compare what the container says with the file; libsndfile reads a cut one as a shorter clip without an error."""
    actual = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
        file.seek(max(0, actual - OGG_TAIL))
        tail = file.read()
    if header[:4] == b"OggS":
        _require_last_ogg_page(path, tail)
        return
    order = {(b"RIFF", b"WAVE"): "little", (b"FORM", b"AIFF"): "big", (b"FORM", b"AIFC"): "big"}
    byte_order = order.get((header[:4], header[8:12]))
    if byte_order is None:
        return
    stated = int.from_bytes(header[4:8], byte_order) + 8  # type: ignore[arg-type]
    is_streamed = stated >= 0xFFFF_FF00  # writers that cannot seek back put the largest size
    if stated > actual + 1 and not is_streamed:
        raise DataError(f"{path}: cut off: the header says {stated} bytes, the file has {actual}.")


def _require_last_ogg_page(path: Path, tail: bytes) -> None:
    """RFC 3533: the last page of a stream has the flag 4 in its sixth byte; a page is 27 bytes, lengths, segments."""
    start = tail.rfind(b"OggS")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise DataError(f"{path}: cut off: the last page of the Ogg stream is missing.")
