"""Audio: files to samples, and every way in which a file can be wrong.

Samples are float32 in [-1, 1], one channel, at the rate that the config names. Nothing is mended in silence: another rate is
resampled (soxr) only where the config says so, a channel of several is taken only where one is named, and a file that
libsndfile would read as a shorter clip without complaint (a WAV cut off in the middle) is refused.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from jaxtyping import Float32

from dsrun.errors import DataError

Channel = Literal["mono"] | int

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
        rate, channels, frames = file.samplerate, file.channels, file.frames
        _require_rate_and_channel(path, rate, channels, settings)
        length = duration if is_part and duration is not None else frames / rate - offset
        if frames == 0 or length <= 0:
            raise DataError(f"{path}: holds no samples{f' behind {offset:g} s' if offset else ''}.")
        if length > settings.max_seconds:
            raise DataError(
                f"{path}: {length:.1f} s, longer than data.max_seconds ({settings.max_seconds:g}). Cut it or raise the limit."
            )
        if not is_part and duration is not None and abs(duration - frames / rate) > DURATION_TOLERANCE:
            raise DataError(
                f"{path}: lasts {frames / rate:.2f} s, the manifest says {duration:.2f}. Is the file cut off, or the line wrong?"
            )
        samples = _read(path, file, round(offset * rate), round(length * rate))
    _require_whole_wav(path)
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
    if path.is_dir():
        return f"{path}: a folder, not an audio file."
    return f"{path}: no such file." if error is None or not path.exists() else f"{path}: {error.strerror}."


def _read(path: Path, file: soundfile.SoundFile, start: int, count: int) -> Float32[np.ndarray, "sample channel"]:
    try:
        if start:
            file.seek(min(start, file.frames))
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
            f"{rate} Hz, the config says {settings.sample_rate} (convert it, or allow resampling: data.resample: true)"
        )
    if settings.channel == "mono" and channels != 1:
        problems.append(
            f"{channels} channels, the config says mono (name one: data.channel: 0 to {channels - 1}, or mix it down)"
        )
    elif settings.channel != "mono" and settings.channel >= channels:
        problems.append(f"{channels} channels, so there is no channel {settings.channel} (data.channel; the first is 0)")
    if problems:
        raise DataError(f"{path}: " + "; ".join(problems) + ".")


def _require_whole_wav(path: Path) -> None:
    """A RIFF file says how long it is; libsndfile reads a cut one as a shorter clip without an error."""
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return
    stated, actual = int.from_bytes(header[4:8], "little") + 8, path.stat().st_size
    is_streamed = stated >= 0xFFFF_FF00  # writers that cannot seek back put the largest size
    if stated > actual + 1 and not is_streamed:
        raise DataError(f"{path}: cut off: the header says {stated} bytes, the file has {actual}.")
