"""Augmentation of training data: speed, room, noise and level of the clip, then masks over time and frequency of its features.

Everything random here is a function of (seed, epoch, utterance id, purpose): the same after a resume, on any device count and with
any number of worker threads. Development and test data never pass through this page.

Speed perturbation (Ko et al. 2015) resamples the clip, so pitch and tempo change together. It comes first, since a room and its
noises do not speak faster; then the room, then noise, at a ratio to the clip as the room made it, then the gain. A clip whose peak
comes out above full scale is turned down until it is there, so a gain may raise less than was drawn, and the ratio to the noise stays.

SpecAugment (Park et al. 2019) replaces random bands of time and frequency by the mean, which is 0 after normalisation; time warping
is left out.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from jaxtyping import Float32

from dsrun.speech.acoustics import Noise, Reverb, add_noise, change_gain, fit_full_scale, reverberate


@dataclass(frozen=True)
class Augmentation:
    """Speeds to choose from with equal chance; numbers and largest widths of the masks (frames, bins); what happens to the samples
    (gain in dB, uniform from lowest to highest)."""

    speeds: tuple[float, ...] = (1.0,)
    time_masks: int = 0
    max_time_frames: int = 0
    frequency_masks: int = 0
    max_frequency_bins: int = 0
    gain_db: tuple[float, float] | None = None
    noise: Noise | None = None
    reverb: Reverb | None = None

    @property
    def varies_samples(self) -> bool:
        """Whether a clip at one speed sounds different from epoch to epoch, so that its features cannot be kept."""
        return self.gain_db is not None or self.noise is not None or self.reverb is not None

    @property
    def recordings(self) -> tuple[tuple[str, str], ...]:
        """Files of noises and impulse responses, each with its sha256."""
        return tuple(file for part in (self.noise, self.reverb) if part for file in part.bank.recordings)


@dataclass(frozen=True)
class Stage:
    """What one augmentation made of a clip: its name, what was drawn, and the clip after it."""

    name: str
    drawn: str
    samples: Float32[np.ndarray, " sample"]


def utterance_rng(seed: int, epoch: int, id: str, purpose: str) -> np.random.Generator:
    """Randomness of one utterance in one epoch for one purpose (Philox, keyed by a sha256 of all four)."""
    digest = hashlib.sha256(f"{seed}\0{epoch}\0{id}\0{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def chosen_speed(augmentation: Augmentation, *, seed: int, epoch: int, id: str) -> float:
    """Speed of an utterance in an epoch."""
    speeds = augmentation.speeds
    if len(speeds) == 1:
        return speeds[0]
    return speeds[int(utterance_rng(seed, epoch, id, "speed").integers(len(speeds)))]


def augment_samples(
    samples: Float32[np.ndarray, " sample"],
    *,
    augmentation: Augmentation,
    sample_rate: int,
    seed: int,
    epoch: int,
    id: str,
) -> Float32[np.ndarray, " changed_sample"]:
    """A clip as an epoch hears it: at its speed, in a room, among noise, louder or softer, as the augmentation says."""
    for stage in augment_stages(
        samples, augmentation=augmentation, sample_rate=sample_rate, seed=seed, epoch=epoch, id=id
    ):
        samples = stage.samples
    return samples


def augment_stages(
    samples: Float32[np.ndarray, " sample"],
    *,
    augmentation: Augmentation,
    sample_rate: int,
    seed: int,
    epoch: int,
    id: str,
) -> Iterator[Stage]:
    """The same one by one; what this epoch leaves alone is left out, and a last stage `level` is there where the peak was too high."""
    speed = chosen_speed(augmentation, seed=seed, epoch=epoch, id=id)
    if speed != 1.0:
        samples = change_speed(samples, speed, sample_rate)
        yield Stage("speed", f"{speed:g} times as fast", samples)
    if reverb := augmentation.reverb:
        rng = utterance_rng(seed, epoch, id, "reverb")
        if rng.random() < reverb.probability:
            number = int(rng.integers(len(reverb.bank.samples)))
            samples = reverberate(samples, reverb.bank.samples[number])
            yield Stage("reverb", f"room {reverb.bank.ids[number]}", samples)
    if noise := augmentation.noise:
        rng = utterance_rng(seed, epoch, id, "noise")
        if rng.random() < noise.probability:
            snr_db, number = float(rng.uniform(*noise.snr_db)), int(rng.integers(len(noise.bank.samples)))
            piece = noise.bank.samples[number]
            start = int(rng.integers(len(piece)))
            samples = add_noise(samples, piece, start=start, snr_db=snr_db)
            at = f"{noise.bank.ids[number]} from {start / sample_rate:.2f} s"
            yield Stage("noise", f"{at}, {snr_db:.1f} dB below the clip", samples)
    if augmentation.gain_db is not None:
        gain_db = float(utterance_rng(seed, epoch, id, "gain").uniform(*augmentation.gain_db))
        samples = change_gain(samples, gain_db)
        yield Stage("gain", f"{gain_db:+.1f} dB", samples)
    if augmentation.varies_samples and (peak := float(np.abs(samples).max(initial=np.float32(0)))) > 1:
        yield Stage("level", f"{-20 * math.log10(peak):+.1f} dB, to full scale", fit_full_scale(samples))


def change_speed(
    samples: Float32[np.ndarray, " sample"], factor: float, sample_rate: int
) -> Float32[np.ndarray, " changed_sample"]:
    """The clip played `factor` times as fast: 1.1 is shorter and higher."""
    if factor == 1.0:
        return samples
    return soxr.resample(samples, sample_rate * factor, sample_rate).astype(np.float32)


def spec_augment(
    features: Float32[np.ndarray, "frame bin"], augmentation: Augmentation, *, rng: np.random.Generator
) -> Float32[np.ndarray, "frame bin"]:
    """A copy with random bands set to 0, the mean of normalised features.

    A mask's width is uniform from 0 to its largest; a time mask is never wider than a fifth of the clip, so that short prompts
    keep words to learn from.
    """
    masked = features.copy()
    frames, bins = features.shape
    for _ in range(augmentation.time_masks):
        start, width = _band(rng, frames, min(augmentation.max_time_frames, frames // 5))
        masked[start : start + width] = 0.0
    for _ in range(augmentation.frequency_masks):
        start, width = _band(rng, bins, min(augmentation.max_frequency_bins, bins))
        masked[:, start : start + width] = 0.0
    return masked


def _band(rng: np.random.Generator, size: int, widest: int) -> tuple[int, int]:
    width = int(rng.integers(0, widest + 1))
    return int(rng.integers(0, size - width + 1)), width
