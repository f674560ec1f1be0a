"""Features: samples to spectrogram frames.

Deep Speech 2's features are the log of a linear power spectrogram: windows of 20 ms every 10 ms, Hann, 161 bins at 16 kHz. The
power is the one-sided spectral density, the same number that `scipy.signal.spectrogram(x, fs, window="hann", nperseg=320,
noverlap=160, detrend=False, scaling="density")` gives: |FFT|^2 / (rate * sum of squared window), doubled except in the first
and last bin. No padding: a trailing piece shorter than a window is dropped, frames = 1 + (samples - window) // hop. The
logarithm is natural, with 1e-14 added as Baidu's release does, so that silence is finite.

Log-mel is the same power through triangular filters, equally spaced on the mel scale 2595 log10(1 + f / 700). Its FFT is padded
with zeros to a power of two: the 50 Hz between the bins of a bare 20 ms window skip the lowest of 80 filters at 16 kHz (0 to 45 Hz).

Each bin is normalised with a mean and deviation estimated on training data, which travel with the checkpoint.
"""

import hashlib
import io
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Float64

from dsrun.errors import DataError, UsageError

LOG_FLOOR = 1e-14
BLOCK = 128  # frames computed at once: 330 KB at 16 kHz and 20 ms, which stay in a core's cache


@dataclass(frozen=True)
class FeatureSettings:
    """Kind of spectrogram, sample rate (Hz), window and hop (ms), and for log-mel the number of filters."""

    kind: Literal["log_spectrogram", "log_mel"]
    sample_rate: int
    window_ms: int | float = 20
    hop_ms: int | float = 10
    num_mels: int = 0

    @property
    def window(self) -> int:
        """Samples a window."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between window starts."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def num_bins(self) -> int:
        """Features a frame."""
        return self.num_mels if self.kind == "log_mel" else self.window // 2 + 1

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip; 0 if it is shorter than a window."""
        return 0 if num_samples < self.window else 1 + (num_samples - self.window) // self.hop

    def centre_seconds(self, frame: float) -> float:
        """Middle of the window of frame number `frame` (halves lie between two), seconds from the first sample."""
        return (frame * self.hop + self.window / 2) / self.sample_rate

    def compute(self, samples: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, "frame bin"]:
        """Features of a clip. Raises DataError if it is shorter than a window."""
        rate, window, hop = self.sample_rate, self.window_ms, self.hop_ms
        if self.kind == "log_mel":
            return log_mel(samples, sample_rate=rate, num_mels=self.num_mels, window_ms=window, hop_ms=hop)
        return log_spectrogram(samples, sample_rate=rate, window_ms=window, hop_ms=hop)

    def analysis(self) -> dict[str, np.ndarray]:
        """What another program needs to compute the same: features = log(|FFT(frame * window)|^2 / density [@ filters] + floor).

        `window` [sample], `hop` (samples), `fft` (its size), `density` [bin], `floor`, and of log-mel `filters` [bin, mel].
        """
        is_mel = self.kind == "log_mel"
        window, size = _hann(self.window), _fft_size(self.window) if is_mel else self.window
        density = np.full(size // 2 + 1, self.sample_rate * np.sum(window**2))
        density[1 : -1 if size % 2 == 0 else None] /= 2  # exact, so dividing by it is dividing and doubling
        found = {"window": window, "hop": np.array(self.hop), "fft": np.array(size), "density": density}
        filters = {"filters": _mel_filters(self.num_mels, len(density), self.sample_rate)} if is_mel else {}
        return found | {"floor": np.array(LOG_FLOOR)} | filters

    def key(self) -> str:
        """Text that identifies the features these settings compute."""
        mels = f" mels={self.num_mels}" if self.kind == "log_mel" else ""
        return f"features-2 {self.kind} rate={self.sample_rate} window={self.window} hop={self.hop}{mels}"


def log_spectrogram(
    samples: Float[np.ndarray, " sample"], *, sample_rate: int, window_ms: int | float = 20, hop_ms: int | float = 10
) -> Float32[np.ndarray, "frame bin"]:
    """Natural log of the one-sided power spectral density, [frame, bin].

    Args:
        samples: in [-1, 1].
        sample_rate: Hz.
        window_ms, hop_ms: window length and step, milliseconds.

    Raises:
        DataError: shorter than one window.

    Arithmetic: computed in float64, rounded to float32 once.
    """
    frames = _frames(samples, sample_rate, window_ms, hop_ms)
    features = np.empty((len(frames), frames.shape[1] // 2 + 1), np.float32)
    for rows, power in _power(frames, sample_rate, frames.shape[1]):
        power += LOG_FLOOR
        features[rows] = np.log(power, out=power)
    return features


def log_mel(
    samples: Float[np.ndarray, " sample"],
    *,
    sample_rate: int,
    num_mels: int = 80,
    window_ms: int | float = 20,
    hop_ms: int | float = 10,
) -> Float32[np.ndarray, "frame bin"]:
    """Natural log of the power in `num_mels` triangular mel filters, [frame, mel]; otherwise as `log_spectrogram`.

    Raises:
        DataError: shorter than one window.
        UsageError: a filter so narrow that it lies between two bins of the FFT.
    """
    frames = _frames(samples, sample_rate, window_ms, hop_ms)
    fft_size = _fft_size(frames.shape[1])
    whole = np.empty((len(frames), fft_size // 2 + 1))  # one product: of blocks it could have other last bits
    for rows, power in _power(frames, sample_rate, fft_size):
        whole[rows] = power
    return np.log(whole @ _mel_filters(num_mels, whole.shape[1], sample_rate) + LOG_FLOOR).astype(np.float32)


def _frames(
    samples: np.ndarray, sample_rate: int, window_ms: int | float, hop_ms: int | float
) -> Float[np.ndarray, "frame window_sample"]:
    """Each frame's samples, as a view."""
    size, hop = round(sample_rate * window_ms / 1000), round(sample_rate * hop_ms / 1000)
    if len(samples) < size:
        raise DataError(f"{len(samples)} samples are shorter than one window of {size} ({window_ms:g} ms).")
    # As sliding_window_view(samples, size)[::hop], which takes a tenth of the time that a short clip's features do.
    shape, strides = (1 + (len(samples) - size) // hop, size), (hop * samples.strides[0], samples.strides[0])
    return np.lib.stride_tricks.as_strided(samples, shape, strides, writeable=False)


def _hann(size: int) -> Float64[np.ndarray, " sample"]:
    """Periodic, scipy's default."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def _fft_size(window: int) -> int:
    """Of log-mel: the power of two that a window fits into."""
    return 1 << (window - 1).bit_length()


def _power(
    frames: np.ndarray, sample_rate: int, fft_size: int
) -> Iterator[tuple[slice, Float64[np.ndarray, "block_frame bin"]]]:
    """Power of each frame's bins, some frames at a time: an hour of audio at once would be 2 GiB of complex numbers.

    What it yields is the consumer's until the next block, which takes the same memory.
    """
    size, block = frames.shape[1], min(BLOCK, len(frames))
    window = _hann(size)
    density = sample_rate * np.sum(window**2)
    windowed, spectrum = np.empty((block, size)), np.empty((block, fft_size // 2 + 1), np.complex128)
    magnitude = np.empty(spectrum.shape)
    for start in range(0, len(frames), BLOCK):
        rows = slice(start, min(start + BLOCK, len(frames)))
        part = slice(0, rows.stop - start)
        np.multiply(frames[rows], window, out=windowed[part])
        np.fft.rfft(windowed[part], fft_size, axis=1, out=spectrum[part])
        power = np.abs(spectrum[part], out=magnitude[part])
        power *= power
        power /= density
        power[:, 1 : -1 if fft_size % 2 == 0 else None] *= 2  # the last bin of an odd size has a negative twin
        yield rows, power


@lru_cache(maxsize=8)
def _mel_filters(num_mels: int, bins: int, sample_rate: int) -> Float64[np.ndarray, "bin mel"]:
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
    frequency = np.linspace(0, sample_rate / 2, bins)[:, None]
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))
    empty = np.flatnonzero(filters.sum(axis=0) == 0)
    if empty.size:
        raise UsageError(
            f"num_mels is {num_mels}: {empty.size} filters lie between two bins of the spectrogram and would always be silent. "
            "Write fewer mels or a longer window_ms."
        )
    return filters


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of each bin over training frames, float32 [bin]."""

    mean: Float32[np.ndarray, " bin"]
    deviation: Float32[np.ndarray, " bin"]

    def apply(self, features: Float32[np.ndarray, "frame bin"]) -> Float32[np.ndarray, "frame bin"]:
        """Features with mean 0 and deviation 1 on training data."""
        return (features - self.mean) / self.deviation

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint stores."""
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "Normalization":
        """What a checkpoint stored."""
        return cls(np.asarray(arrays["mean"], np.float32), np.asarray(arrays["deviation"], np.float32))


def estimate_normalization(clips: Iterable[Float32[np.ndarray, "_ bin"]]) -> Normalization:
    """Mean and deviation of each bin over all frames of all clips, summed in float64 in the order given.

    A bin that never varies gets deviation 1.
    """
    count, total, squares = 0, np.float64(0), np.float64(0)
    for clip in clips:
        wide = clip.astype(np.float64)
        count, total, squares = count + len(wide), total + wide.sum(axis=0), squares + (wide**2).sum(axis=0)
    if count == 0:
        raise DataError("no frames to estimate the feature normalisation from.")
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    usable = np.where(deviation > 1e-6, deviation, 1.0)
    return Normalization(np.asarray(mean, np.float32), np.asarray(usable, np.float32))


class FeatureCache:
    """Features on disk, one .npy file by the hash of (audio bytes, settings); without a folder nothing is kept.

    A file ends with the sha256 of what stands before it. Files are written aside and renamed, so a killed run leaves no half of
    one, and a file that is damaged all the same is made again: flipped bits must not become another experiment.

    Access "read" adds nothing: a run folder may come from a stranger, whose config names the folder.
    """

    def __init__(self, folder: Path | None, *, access: Literal["read", "write"] = "write"):
        self.folder = folder
        self.access = access

    def get(
        self, key: str, compute: Callable[[], Float32[np.ndarray, "frame bin"]]
    ) -> Float32[np.ndarray, "frame bin"]:
        """The features called `key`, computed if they are not there.

        Raises:
            UsageError: the folder cannot be written to.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"
        stored = _stored(path)
        if stored is None:
            stored = compute()
            if self.access == "read":
                return stored
            try:
                _store(path, stored)
            except OSError as error:
                raise UsageError(
                    f"data.cache: {self.folder}: features cannot be kept there ({error.strerror}). Name another folder, or null."
                ) from None
        return stored


def _stored(path: Path) -> Float32[np.ndarray, "frame bin"] | None:
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None  # storing there says why, where it is more than "no such file"
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    try:
        found = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError):  # whole, and yet not ours
        return None
    return found if isinstance(found, np.ndarray) and found.dtype == np.float32 and found.ndim == 2 else None


def _store(path: Path, features: Float32[np.ndarray, "frame bin"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    body = buffer.getvalue()
    scratch = path.with_suffix(f".{secrets.token_hex(8)}.tmp")  # not the process id: another machine may have that too
    try:
        scratch.write_bytes(body + hashlib.sha256(body).digest())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
