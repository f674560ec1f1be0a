"""Data that is larger than memory: what training and scoring need, without a recording held (`data.loading: streamed`).

On the roof beside `build.py`, which has the same for data in memory, and the check that such data fits.

What is promised of recordings that change behind a run's back: manifests are compared by sha256 at a resume (`provenance.json`), and so
are the recordings of dev and those that mean and deviation were estimated from (`recordings.sha256`); hashing all of thousands of hours
at every start is not. Every other recording is held to its line of the manifest whenever it is read: its duration, and its sha256
where the line has one, as lines of `dsrun data pack` do. With those, a manifest's digest stands for all the bytes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dsrun import build
from dsrun.config import Config
from dsrun.errors import DataError, UsageError
from dsrun.model import output_frames
from dsrun.record.host import available_memory
from dsrun.speech import (
    Alphabet,
    ManifestIndex,
    Normalization,
    StreamedDataset,
    TextFacts,
    Utterance,
    Workers,
    list_problems,
    open_manifest,
    place_of,
    read_header,
    read_manifest,
    scan_texts,
    stream,
    utterance_digest,
)
from dsrun.training.feasibility import Infeasible, find_infeasible
from dsrun.training.preflight import EvaluationShape

OnProgress = Callable[[int, int], None] | None


def build_streamed_data(
    config: Config, *, normalization: Normalization | None = None, on_progress: OnProgress = None
) -> build.TrainingData:
    """Manifests indexed, texts looked at, mean and deviation estimated from a sample; files of dev and test opened once.

    Args:
        normalization: in place of the sample's, which is drawn all the same: its recordings tell later whether the data have changed.

    Raises:
        DataError: as `build.build_training_data`, of what can be seen without decoding every recording.
    """
    notes: list[str] = []
    manifests = {split: open_manifest(path) for split, path in build.manifests(config).items()}
    alphabet = _alphabet(config, manifests["train"])
    train = _stream(config, manifests["train"], alphabet, notes, augmentation=build.build_augmentation(config))
    train, infeasible = _without_infeasible(config, train, notes)
    count = min(config.data.normalization_utterances, len(train.members))
    workers = Workers(config.batches.workers)
    train, problems = train.with_sample(count, workers=workers, unreadable=config.data.unreadable)
    notes += [f"left out of the sample: {problem}" for problem in problems[:5]]
    estimated = "mean and deviation from" if normalization is None else "looked at the features of"
    notes.append(
        f"streamed: {estimated} {len(train.recordings)} of {len(train.members)} utterances, "
        f"{train.nbytes / len(train.members):.0f} bytes of memory an utterance"
    )
    normalization = normalization or train.normalization
    assert normalization is not None
    train = train.normalized_by(normalization)
    dev = _stream(config, manifests["dev"], alphabet, notes, normalization=normalization)
    dev = replace(dev, recordings=_checked(config, dev, on_progress))
    references = {id: alphabet.normalize(row.fields["text"]) for id, row in zip(dev.ids, _rows(dev), strict=True)}
    shapes: tuple[EvaluationShape, ...] = ()
    if config.data.test is not None:
        test, _, _ = streamed_evaluation_data(config, Path(config.data.test), alphabet, normalization)
        _checked(config, test, on_progress)
        shapes = build.evaluation_shapes(build.build_batcher(config, test, purpose="evaluate"), "data.test")
    return build.TrainingData(alphabet, normalization, train, dev, references, infeasible, notes, shapes)


def streamed_evaluation_data(
    config: Config, manifest: Path, alphabet: Alphabet, normalization: Normalization
) -> tuple[StreamedDataset, dict[str, str], Counter]:
    """As `build.build_evaluation_data`."""
    index = open_manifest(manifest)
    texts = _scan(index, alphabet, on_unknown="drop")
    dataset = _make(config, index, texts, alphabet, normalization=normalization)
    references = {row.id: alphabet.normalize(row.fields["text"]) for row in index.rows()}
    return dataset, references, texts.dropped


def _alphabet(config: Config, index: ManifestIndex) -> Alphabet:
    if config.data.alphabet is not None:
        return Alphabet.from_file(Path(config.data.alphabet), normalizer=config.data.normalizer)
    texts = (row.fields["text"] for row in index.rows())
    try:
        return Alphabet.from_texts(texts, normalizer=config.data.normalizer)
    except DataError as error:
        raise DataError(f"{index.path}: data.normalizer {config.data.normalizer}: {error}") from None


def _scan(index: ManifestIndex, alphabet: Alphabet, *, on_unknown: str) -> TextFacts:
    try:
        return scan_texts(index, alphabet, on_unknown=on_unknown)
    except DataError as error:
        raise DataError(f"{index.path}:\n{error}") from None


def _stream(
    config: Config, index: ManifestIndex, alphabet: Alphabet, notes: list[str], **options: Any
) -> StreamedDataset:
    texts = _scan(index, alphabet, on_unknown=config.data.unknown_characters)
    if texts.dropped:
        counts = ", ".join(f"{character!r} {count} times" for character, count in texts.dropped.most_common())
        notes.append(f"left characters out that are not in the alphabet: {counts}")
    dataset = _make(config, index, texts, alphabet, **options)
    if config.data.empty_transcript == "keep" or not texts.is_empty.any():
        return dataset
    empty = np.flatnonzero(texts.is_empty)
    names = ", ".join(repr(index.ids[place]) for place in empty[:5].tolist())
    if config.data.empty_transcript == "error":
        raise DataError(build.empty_text(index.path, len(empty), names))
    build.require_some_left(index.path, len(index), len(empty))
    notes.append(f"{index.path}: dropped {len(empty)} utterances with an empty transcript: {names}")
    return dataset.keep(~texts.is_empty)


def _make(
    config: Config, index: ManifestIndex, texts: TextFacts, alphabet: Alphabet, **options: Any
) -> StreamedDataset:
    audio, features = build.build_audio(config), build.build_features(config)
    return stream(index, texts, alphabet, audio=audio, features=features, seed=config.seed, **options)


def _without_infeasible(
    config: Config, train: StreamedDataset, notes: list[str]
) -> tuple[StreamedDataset, list[Infeasible]]:
    """By the fewest frames that a recording may have; labels are looked at of those only that fail."""
    settings = build.build_model_settings(config, num_classes=train.alphabet.num_classes)
    frames, places = np.unique(train.lengths.fewest, return_inverse=True)
    available = np.array([int(output_frames(settings, count)) for count in frames.tolist()])[places]
    is_bad = train.num_labels + train.repeats > available
    bad = np.flatnonzero(is_bad).tolist()
    infeasible = find_infeasible(
        [train.ids[member] for member in bad],
        train.lengths.fewest[bad].tolist(),
        [train.labels[member] for member in bad],
        output_frames=lambda count: output_frames(settings, count),
    )
    if not infeasible:
        return train, []
    build.refuse_or_note_infeasible(config, infeasible, notes, of=len(train.members))
    return train.keep(~is_bad), infeasible


def _checked(config: Config, dataset: StreamedDataset, on_progress: OnProgress) -> tuple[tuple[str, str], ...]:
    """Place and sha256 of every recording of a split that is scored. Raises DataError with all that could not be scored."""
    recordings: list[tuple[str, str]] = []
    problems: list[str] = []

    def look(utterance: Utterance) -> tuple[str, str] | str:
        try:
            problem, digest = read_header(utterance, dataset.audio).problem, utterance_digest(utterance)
        except DataError as error:
            problem, digest = str(error), ""
        if problem:
            return f"utterance {utterance.id!r} (line {utterance.line}): {problem}"
        return place_of(utterance.audio, utterance.member), digest

    found = Workers(config.batches.workers).map(look, (dataset.index[place] for place in dataset.members.tolist()))
    for number, result in enumerate(found, start=1):
        if isinstance(result, str):
            problems.append(result)
        else:
            recordings.append(result)
        if on_progress:
            on_progress(number, len(dataset.members))
    if problems:
        raise DataError(list_problems(problems))
    return tuple(recordings)


def _rows(dataset: StreamedDataset) -> Any:
    return (dataset.index.row(place) for place in dataset.members.tolist())


def require_memory(config: Config, spoken: Mapping[str, Sequence[Utterance]]) -> None:
    """Refuse a dataset in memory that this machine cannot hold, before hours of loading.

    Raises:
        UsageError: with what is needed, what there is, and the way out.
    """
    features, augment, rate = build.build_features(config), config.augment, config.data.sample_rate
    seconds = {
        split: sum(min(u.duration or 0.0, config.data.max_seconds) for u in found) for split, found in spoken.items()
    }
    needed = 4 * rate * sum(map(_bank_seconds, _banks(config)))
    for split, length in seconds.items():
        own = augment if split == "train" else None
        if own and (own.gain_db is not None or own.noise or own.reverb):  # features anew each epoch: samples are kept
            needed += 4 * length * rate
        else:
            speeds = {1.0, *(own.speeds if own else ())}
            needed += 4 * sum(length / speed for speed in speeds) * rate / features.hop * features.num_bins
    there = available_memory()
    if there is not None and needed > there:
        hours = sum(seconds.values()) / 3600
        raise UsageError(
            f"data.loading: memory: {hours:.0f} hours of recordings need {needed / 1e9:.0f} GB of memory, {there / 1e9:.0f} are free. "
            "Write data.loading: streamed, or train on fewer."
        )


def _banks(config: Config) -> list[str]:
    """Manifests of noises and impulse responses, which are held in memory."""
    parts = (config.augment.noise, config.augment.reverb) if config.augment else ()
    return [part.manifest for part in parts if part is not None]


def _bank_seconds(manifest: str) -> float:
    """By the manifest: nothing is decoded to learn that it does not fit."""
    return sum(utterance.duration or 0.0 for utterance in read_manifest(manifest, transcripts="optional"))
