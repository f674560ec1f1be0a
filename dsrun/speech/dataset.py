"""Dataset: utterances of one manifest with their features, loaded once and kept in memory.

With augmentation an utterance has features at several speeds, all computed at loading; which one an epoch uses, and what
SpecAugment hides, is decided by (seed, epoch, id). Without augmentation `features` is the same in every epoch. Where augmentation
also changes the samples (room, noise, gain), no features can be kept: the samples are, and features are computed when they are
asked for.

Everything is held in memory: 230 MB an hour of audio at each speed with 161 bins, or as samples, so this is for hours of audio, not for
hundreds. `streaming.py` has the other kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.audio import AudioSettings, place_of, read_utterance, utterance_digest
from dsrun.speech.augment import Augmentation, augment_samples, change_speed, chosen_speed, spec_augment, utterance_rng
from dsrun.speech.features import FeatureCache, FeatureSettings, Normalization
from dsrun.speech.manifest import Utterance, list_problems
from dsrun.speech.workers import Workers

PLAIN = (1.0,)
Unreadable = Literal["error", "drop"]


@dataclass(frozen=True)
class Lengths:
    """Of every utterance: frames at its own speed, at the slowest and at the fastest, and number of labels."""

    plain: np.ndarray
    most: np.ndarray
    fewest: np.ndarray
    labels: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.plain.nbytes + self.most.nbytes + self.fewest.nbytes + self.labels.nbytes


@dataclass(frozen=True)
class Dataset:
    """Use `load_dataset`; `keep` derives a smaller one. All sequences are in the manifest's order.

    `clips[k][speed]` is utterance k's features at that speed, not normalised; `recordings[k]` its file (of a tar file
    `path@offset+size`) and the sha256 of that; `unreadable` what was wrong with those that were left out.
    """

    ids: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]
    clips: tuple[dict[float, Float32[np.ndarray, "_ bin"]], ...]
    normalization: Normalization | None
    augmentation: Augmentation | None
    seed: int
    recordings: tuple[tuple[str, str], ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def num_bins(self) -> int:
        """Features a frame."""
        return self.clips[0][1.0].shape[1]

    def speed(self, member: int, epoch: int) -> float:
        """Speed of utterance `member` in `epoch`; 1.0 without augmentation."""
        if self.augmentation is None:
            return 1.0
        return chosen_speed(self.augmentation, seed=self.seed, epoch=epoch, id=self.ids[member])

    def plain_features(self, member: int) -> Float32[np.ndarray, "frame bin"]:
        """Features at the utterance's own speed, neither normalised nor augmented."""
        return self.clips[member][1.0]

    def features(self, member: int, epoch: int) -> Float32[np.ndarray, "frame bin"]:
        """Normalised and, for training, augmented features of an utterance in an epoch."""
        clip = self.clips[member][self.speed(member, epoch)]
        return finish(clip, self.normalization, self.augmentation, seed=self.seed, epoch=epoch, id=self.ids[member])

    def num_frames(self, member: int, speed: float) -> int:
        """Frames of an utterance at a speed."""
        return len(self.clips[member][speed])

    def most_frames(self, member: int) -> int:
        """Frames at the slowest speed."""
        return max(len(clip) for clip in self.clips[member].values())

    def fewest_frames(self, member: int) -> int:
        """Frames at the fastest speed: what CTC must do with in the worst case."""
        return min(len(clip) for clip in self.clips[member].values())

    @cached_property
    def lengths(self) -> Lengths:
        """Of all utterances at once."""
        members = range(len(self.ids))
        columns = (
            [self.num_frames(member, 1.0) for member in members],
            [self.most_frames(member) for member in members],
            [self.fewest_frames(member) for member in members],
            [len(labels) for labels in self.labels],
        )
        return Lengths(*(np.array(column, np.int32) for column in columns))

    def normalized_by(self, normalization: Normalization) -> "Dataset":
        """The same with this mean and deviation."""
        return replace(self, normalization=normalization)

    def keep(self, wanted: Sequence[bool]) -> "Dataset":
        """The utterances marked True.

        Raises:
            DataError: none is.
        """
        if not any(wanted):
            raise DataError("no utterances are left.")
        return replace(
            self,
            ids=tuple(compress(self.ids, wanted)),
            labels=tuple(compress(self.labels, wanted)),
            seconds=tuple(compress(self.seconds, wanted)),
            clips=tuple(compress(self.clips, wanted)),
            recordings=tuple(compress(self.recordings, wanted)),
            **self._kept_as_well(wanted),
        )

    def _kept_as_well(self, wanted: Sequence[bool]) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class SampledDataset(Dataset):
    """A dataset whose samples change from epoch to epoch: it holds those, and `frames[k][speed]`, how many features would have."""

    samples: tuple[Float32[np.ndarray, " _"], ...] = ()
    frames: tuple[dict[float, int], ...] = ()
    settings: FeatureSettings | None = None

    @property
    def num_bins(self) -> int:
        """Features a frame."""
        assert self.settings is not None
        return self.settings.num_bins

    def plain_features(self, member: int) -> Float32[np.ndarray, "frame bin"]:
        """Features at the utterance's own speed, neither normalised nor augmented."""
        assert self.settings is not None
        return self.settings.compute(self.samples[member])

    def features(self, member: int, epoch: int) -> Float32[np.ndarray, "frame bin"]:
        """Normalised and augmented features of an utterance in an epoch."""
        assert self.settings is not None
        key: dict[str, Any] = {"seed": self.seed, "epoch": epoch, "id": self.ids[member]}
        clip = augmented_features(self.samples[member], self.settings, self.augmentation, **key)
        return finish(clip, self.normalization, self.augmentation, **key)

    def num_frames(self, member: int, speed: float) -> int:
        """Frames of an utterance at a speed."""
        return self.frames[member][speed]

    def most_frames(self, member: int) -> int:
        """Frames at the slowest speed."""
        return max(self.frames[member].values())

    def fewest_frames(self, member: int) -> int:
        """Frames at the fastest speed."""
        return min(self.frames[member].values())

    def _kept_as_well(self, wanted: Sequence[bool]) -> dict[str, Any]:
        return {"samples": tuple(compress(self.samples, wanted)), "frames": tuple(compress(self.frames, wanted))}


def augmented_features(
    samples: Float32[np.ndarray, " sample"],
    settings: FeatureSettings,
    augmentation: Augmentation | None,
    *,
    seed: int,
    epoch: int,
    id: str,
) -> Float32[np.ndarray, "frame bin"]:
    """Features of a clip as an epoch hears it, not normalised."""
    if augmentation is not None:
        samples = augment_samples(
            samples, augmentation=augmentation, sample_rate=settings.sample_rate, seed=seed, epoch=epoch, id=id
        )
    return settings.compute(samples)


def finish(
    clip: Float32[np.ndarray, "frame bin"],
    normalization: Normalization | None,
    augmentation: Augmentation | None,
    *,
    seed: int,
    epoch: int,
    id: str,
) -> Float32[np.ndarray, "frame bin"]:
    """Features normalised and, for training, masked."""
    if normalization is not None:
        clip = normalization.apply(clip)
    if augmentation is not None:
        clip = spec_augment(clip, augmentation, rng=utterance_rng(seed, epoch, id, "masks"))
    return clip


def load_dataset(
    utterances: Sequence[Utterance],
    labels: Sequence[Sequence[int]],
    *,
    audio: AudioSettings,
    features: FeatureSettings,
    cache: FeatureCache,
    normalization: Normalization | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
    unreadable: Unreadable = "error",
) -> Dataset:
    """Read every recording once and compute its features, at every speed where there is augmentation; `workers` side by side.

    Raises:
        DataError: every file that cannot be used, with its id and line, unless those are left out (`unreadable`); or there are
            no utterances.
    """
    if not utterances:
        raise DataError("no utterances are left.")
    assert len(utterances) == len(labels), "one sequence of labels an utterance"
    speeds = sorted({*PLAIN, *(augmentation.speeds if augmentation else ())})
    keeps_samples = augmentation is not None and augmentation.varies_samples
    clips, readable, recordings, problems = [], [], [], []

    def load(utterance: Utterance) -> tuple[Any, str] | DataError:
        try:
            digest = utterance_digest(utterance)
            if keeps_samples:
                return _samples(utterance, speeds, audio, features), digest
            return _clips(utterance, digest, speeds, audio, features, cache), digest
        except DataError as error:  # all of them are told together
            return error

    loaded = (workers or Workers()).map(load, utterances)
    for number, (utterance, found) in enumerate(zip(utterances, loaded, strict=True)):
        if isinstance(found, DataError):
            place = f"utterance {utterance.id!r} (line {utterance.line}): " if utterance.line else ""  # no manifest
            problems.append(f"{place}{found}")
        else:
            clips.append(found[0])
            recordings.append((place_of(utterance.audio, utterance.member), found[1]))
        readable.append(not isinstance(found, DataError))
        if on_progress:
            on_progress(number + 1, len(utterances))
    if problems and (unreadable == "error" or not clips):
        raise DataError(list_problems(problems))
    fields: dict[str, Any] = {
        "ids": tuple(utterance.id for utterance in compress(utterances, readable)),
        "labels": tuple(tuple(label) for label in compress(labels, readable)),
        "seconds": tuple(utterance.duration or 0.0 for utterance in compress(utterances, readable)),
        "normalization": normalization,
        "augmentation": augmentation,
        "seed": seed,
        "recordings": tuple(recordings),
        "unreadable": tuple(problems),
    }
    if keeps_samples:
        samples, frames = zip(*clips, strict=True)
        empty: tuple[dict[float, np.ndarray], ...] = ({},) * len(clips)
        return SampledDataset(**fields, clips=empty, samples=samples, frames=frames, settings=features)
    return Dataset(**fields, clips=tuple(clips))


def _samples(
    utterance: Utterance, speeds: Sequence[float], audio: AudioSettings, features: FeatureSettings
) -> tuple[Float32[np.ndarray, " sample"], dict[float, int]]:
    """The clip, and how many frames it has at each speed."""
    samples = read_utterance(utterance, audio)
    sizes = {speed: len(change_speed(samples, speed, audio.sample_rate)) for speed in speeds}
    for speed, size in sizes.items():
        _require_a_window(utterance, size, speed, features)
    return samples, {speed: features.num_frames(size) for speed, size in sizes.items()}


def _clips(
    utterance: Utterance,
    digest: str,
    speeds: Sequence[float],
    audio: AudioSettings,
    features: FeatureSettings,
    cache: FeatureCache,
) -> dict[float, Float32[np.ndarray, "_ bin"]]:
    samples: list[np.ndarray] = []

    def compute(speed: float) -> Float32[np.ndarray, "frame bin"]:
        if not samples:
            samples.append(read_utterance(utterance, audio))
        changed = change_speed(samples[0], speed, audio.sample_rate)
        _require_a_window(utterance, len(changed), speed, features)
        return features.compute(changed)

    # Also what read_audio only compares: stored features must not make a check pass that fails without them.
    checks = f"{utterance.offset} {utterance.duration} {utterance.is_part} {audio.max_seconds}"
    name = f"{digest} {checks} {audio.key()} {features.key()}"
    return {speed: cache.get(f"{name} speed={speed}", partial(compute, speed)) for speed in speeds}


def _require_a_window(utterance: Utterance, size: int, speed: float, features: FeatureSettings) -> None:
    if features.num_frames(size) == 0:
        place = place_of(utterance.audio, utterance.member)
        raise DataError(f"{place}: {size} samples at speed {speed:g}, shorter than one window of {features.window}.")
