"""Augmentation of training data: speed, and masks over time and frequency.

Everything random here is a function of (seed, epoch, utterance id, purpose): the same after a resume, on any device count and with
any number of worker threads. Development and test data never pass through this page.

Speed perturbation (Ko et al. 2015) resamples the clip, so pitch and tempo change together. SpecAugment (Park et al. 2019)
replaces random bands of time and frequency by the mean, which is 0 after normalisation; time warping is left out.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import soxr
from jaxtyping import Float32


@dataclass(frozen=True)
class Augmentation:
    """Speeds to choose from with equal chance, and numbers and largest widths of the masks (frames, bins)."""

    speeds: tuple[float, ...] = (1.0,)
    time_masks: int = 0
    max_time_frames: int = 0
    frequency_masks: int = 0
    max_frequency_bins: int = 0


def utterance_rng(seed: int, epoch: int, id: str, purpose: str) -> np.random.Generator:
    """Randomness of one utterance in one epoch for one purpose (Philox, keyed by a sha256 of all four)."""
    digest = hashlib.sha256(f"{seed}\0{epoch}\0{id}\0{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


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
