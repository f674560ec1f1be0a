"""Dataset: utterances of one manifest with their features, loaded once and kept in memory.

With augmentation an utterance has features at several speeds, all computed at loading; which one an epoch uses, and what
SpecAugment hides, is decided by (seed, epoch, id). Without augmentation `features` is the same in every epoch.

Everything is held in memory: 230 MB an hour of audio at each speed with 161 bins, so this is for hours of audio, not for hundreds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.audio import AudioSettings, place_of, read_utterance, utterance_digest
from dsrun.speech.augment import Augmentation, change_speed, spec_augment, utterance_rng
from dsrun.speech.features import FeatureCache, FeatureSettings, Normalization
from dsrun.speech.manifest import Utterance, list_problems
from dsrun.speech.workers import Workers

PLAIN = (1.0,)


@dataclass(frozen=True)
class Dataset:
    """Use `load_dataset`; `keep` derives a smaller one. All sequences are in the manifest's order.

    `clips[k][speed]` is utterance k's features at that speed, not normalised; `recordings[k]` its file (of a tar file
    `path@offset+size`) and the sha256 of that.
    """

    ids: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]
    clips: tuple[dict[float, Float32[np.ndarray, "_ bin"]], ...]
    normalization: Normalization | None
    augmentation: Augmentation | None
    seed: int
    recordings: tuple[tuple[str, str], ...] = ()

    @property
    def num_bins(self) -> int:
        """Features a frame."""
        return self.clips[0][1.0].shape[1]

    def speed(self, member: int, epoch: int) -> float:
        """Speed of utterance `member` in `epoch`; 1.0 without augmentation."""
        if self.augmentation is None or len(self.augmentation.speeds) == 1:
            return 1.0 if self.augmentation is None else self.augmentation.speeds[0]
        rng = utterance_rng(self.seed, epoch, self.ids[member], "speed")
        return self.augmentation.speeds[int(rng.integers(len(self.augmentation.speeds)))]

    def features(self, member: int, epoch: int) -> Float32[np.ndarray, "frame bin"]:
        """Normalised and, for training, augmented features of an utterance in an epoch."""
        clip = self.clips[member][self.speed(member, epoch)]
        if self.normalization is not None:
            clip = self.normalization.apply(clip)
        if self.augmentation is not None:
            rng = utterance_rng(self.seed, epoch, self.ids[member], "masks")
            clip = spec_augment(clip, self.augmentation, rng=rng)
        return clip

    def num_frames(self, member: int, speed: float) -> int:
        """Frames of an utterance at a speed."""
        return len(self.clips[member][speed])

    def most_frames(self, member: int) -> int:
        """Frames at the slowest speed."""
        return max(len(clip) for clip in self.clips[member].values())

    def fewest_frames(self, member: int) -> int:
        """Frames at the fastest speed: what CTC must do with in the worst case."""
        return min(len(clip) for clip in self.clips[member].values())

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
        )

    def audio_seconds(self, ids: Sequence[str]) -> float:
        """Seconds of recordings behind these ids; "" counts nothing."""
        return sum(self._seconds_by_id[id] for id in ids if id)

    @cached_property
    def _seconds_by_id(self) -> dict[str, float]:
        return dict(zip(self.ids, self.seconds, strict=True))


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
) -> Dataset:
    """Read every recording once and compute its features, at every speed where there is augmentation; `workers` side by side.

    Raises:
        DataError: every file that cannot be used, with its id and line; or there are no utterances.
    """
    if not utterances:
        raise DataError("no utterances are left.")
    assert len(utterances) == len(labels), "one sequence of labels an utterance"
    speeds = sorted({*PLAIN, *(augmentation.speeds if augmentation else ())})
    clips, seconds, recordings, problems = [], [], [], []

    def load(utterance: Utterance) -> tuple[dict[float, np.ndarray], str] | DataError:
        try:
            digest = utterance_digest(utterance)
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
            seconds.append(utterance.duration or 0.0)
        if on_progress:
            on_progress(number + 1, len(utterances))
    if problems:
        raise DataError(list_problems(problems))
    return Dataset(
        ids=tuple(utterance.id for utterance in utterances),
        labels=tuple(tuple(label) for label in labels),
        seconds=tuple(seconds),
        clips=tuple(clips),
        normalization=normalization,
        augmentation=augmentation,
        seed=seed,
        recordings=tuple(recordings),
    )


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
        if features.num_frames(len(changed)) == 0:
            place, window = place_of(utterance.audio, utterance.member), features.window
            raise DataError(f"{place}: {len(changed)} samples at speed {speed:g}, shorter than one window of {window}.")
        return features.compute(changed)

    # Also what read_audio only compares: stored features must not make a check pass that fails without them.
    checks = f"{utterance.offset} {utterance.duration} {utterance.is_part} {audio.max_seconds}"
    name = f"{digest} {checks} {audio.key()} {features.key()}"
    return {speed: cache.get(f"{name} speed={speed}", partial(compute, speed)) for speed in speeds}
