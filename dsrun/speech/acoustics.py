"""Acoustics: a clip in a room, among noise, at another level.

Each function is one of these for one clip, with everything random chosen by the caller (`augment.py`). The number of samples never
changes, nor do the moments when words are said, so labels and frame counts stay true.

Energy is the sum of squares over the whole clip, pauses included. The signal-to-noise ratio is the clip's energy to that of the noise
which is added, in decibels, as in Kaldi's and most other tools; over the speech alone it is higher by 10 log10(1 / share of speech),
so 3 dB where half of a clip is pause. A clip of zeros has no such ratio and is left as it is, as is one whose piece of noise is all zeros.

Noises and impulse responses are read once and kept in memory, as float32: 1.5 GiB at most, 7 hours at 16 kHz.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.audio import AudioSettings, place_of, read_utterance, utterance_digest
from dsrun.speech.manifest import Utterance, list_problems

BANK_BYTES = 3 << 29  # of noises, or of impulse responses


@dataclass(frozen=True)
class Bank:
    """Recordings in memory, in their manifest's order: ids, samples, and each file (of a tar file `path@offset+size`) with its sha256."""

    ids: tuple[str, ...]
    samples: tuple[Float32[np.ndarray, "_"], ...]
    recordings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Noise:
    """Noises, the ratios to add them at (dB, uniform from lowest to highest), and the share of clips that get any."""

    bank: Bank
    snr_db: tuple[float, float]
    probability: float = 1.0


@dataclass(frozen=True)
class Reverb:
    """Impulse responses of rooms, and the share of clips that are put into one."""

    bank: Bank
    probability: float = 1.0


def load_bank(utterances: Sequence[Utterance], audio: AudioSettings) -> Bank:
    """Read noises or impulse responses. Resampled where `audio` allows it; its longest clip does not count here.

    Raises:
        DataError: every file that cannot be used, or that holds nothing but zeros; more than memory is kept for.
    """
    seconds, most = math.fsum(u.duration or 0.0 for u in utterances), BANK_BYTES / 4 / audio.sample_rate
    if seconds > most:
        raise DataError(
            f"{seconds / 3600:.1f} hours of noises or impulse responses at {audio.sample_rate} Hz; {most / 3600:.1f} fit into the "
            f"{BANK_BYTES / 2**30:g} GiB that are kept for them. Leave some out of the manifest."
        )
    samples, recordings, problems = [], [], []
    for utterance in utterances:
        try:
            found = read_utterance(utterance, replace(audio, max_seconds=most))
            if not found.any():
                raise DataError(f"{place_of(utterance.audio, utterance.member)}: every sample is zero.")
            samples.append(found)
            recordings.append((place_of(utterance.audio, utterance.member), utterance_digest(utterance)))
        except DataError as error:
            problems.append(f"recording {utterance.id!r} (line {utterance.line}): {error}")
    if problems:
        raise DataError(list_problems(problems))
    return Bank(tuple(utterance.id for utterance in utterances), tuple(samples), tuple(recordings))


def energy(samples: Float32[np.ndarray, "_"]) -> float:
    """Sum of squares, in float64.

    Arithmetic: NumPy's pairwise sum. `samples @ samples` would be the BLAS library's, whose order of adding depends on its threads.
    """
    return float(np.sum(np.square(samples, dtype=np.float64)))


def add_noise(
    samples: Float32[np.ndarray, " sample"], noise: Float32[np.ndarray, "_"], *, start: int, snr_db: float
) -> Float32[np.ndarray, " sample"]:
    """The clip with noise `snr_db` below it, from sample `start` of the noise on, and round again from its beginning.

    Arithmetic: mixed in float64, rounded to float32 once.
    """
    piece = noise.take(np.arange(start, start + len(samples)), mode="wrap")
    speech, disturbance = energy(samples), energy(piece)
    if speech == 0 or disturbance == 0:
        return samples
    scale = math.sqrt(speech / disturbance) * 10 ** (-snr_db / 20)
    return (samples.astype(np.float64) + scale * piece.astype(np.float64)).astype(np.float32)


def reverberate(
    samples: Float32[np.ndarray, " sample"], response: Float32[np.ndarray, "_"]
) -> Float32[np.ndarray, " sample"]:
    """The clip as it sounds in a room, as long and with as much energy as before.

    The response's strongest sample is the direct sound and is taken to arrive at once; what follows the clip's end is cut off.

    Arithmetic: convolved by FFT in float64, rounded to float32 once.
    """
    before = energy(samples)
    if before == 0:
        return samples
    direct, reach = int(np.abs(response).argmax()), len(samples)
    first = max(0, direct - reach + 1)
    near = response[first : direct + reach].astype(np.float64) / np.abs(response[direct]).astype(np.float64)
    size = _fast_size(reach + len(near) - 1)
    product = np.fft.rfft(samples.astype(np.float64), size) * np.fft.rfft(near, size)
    heard = np.fft.irfft(product, size)[direct - first :][:reach]
    after = float(np.sum(np.square(heard)))
    return (heard * math.sqrt(before / after)).astype(np.float32) if after else samples


def _fast_size(least: int) -> int:
    """The smallest 2^a, 3 * 2^a or 5 * 2^a that is not below `least`: lengths that an FFT is fast for."""
    return min(odd << max(0, math.ceil(math.log2(least / odd))) for odd in (1, 3, 5))


def change_gain(samples: Float32[np.ndarray, " sample"], gain_db: float) -> Float32[np.ndarray, " sample"]:
    """The clip louder by so many decibels. Arithmetic: multiplied in float64, rounded to float32 once."""
    return (samples.astype(np.float64) * 10 ** (gain_db / 20)).astype(np.float32)


def fit_full_scale(samples: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, " sample"]:
    """The clip turned down as a whole so that its peak is 1, if it is above; no sample is cut off."""
    peak = np.abs(samples).max(initial=np.float32(0))
    return samples / peak if peak > 1 else samples
