"""How fast audio becomes batches, in hours of audio a second.

On the roof, since it needs a config and its manifest. Three ways to the same features:

- *cold*: each stage by itself without a cache, by one thread: decode, change of speed, features, normalise and mask;
- *as in training, from memory*: loaded by one thread, by `batches.workers`, and from a cache on disk; then batches from the loader's
  thread with nothing else to do;
- *as in training, streamed*: from files to batches, by 0, 1 and 2 workers.

The cache is a temporary one; the config's own is not touched. The operating system may still hold the audio files in memory. All is
host work in NumPy. `python -m benchmarks.data` compares the last way with PyTorch's DataLoader.

An hour is of recordings at their own speed. Cold loading computes features at every speed of the augmentation, so it does that many
times the work; so does each stage before `normalize_and_mask`. Streaming computes the one that the epoch asks for.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsrun import build
from dsrun.config import Config
from dsrun.errors import UsageError
from dsrun.speech import (
    Batcher,
    Dataset,
    FeatureCache,
    Utterance,
    Workers,
    change_speed,
    encode_all,
    estimate_normalization,
    load_dataset,
    prefetch,
    read_manifest,
    read_utterance,
    write_manifest,
)
from dsrun.study.stopwatch import announce, summary

COLD = ("decode", "change_speed", "features", "normalize_and_mask")
STREAMED_BY = (0, 1, 2)  # workers


@dataclass(frozen=True)
class _Sample:
    """Some utterances of the training manifest, and the seconds they last."""

    utterances: list[Utterance]
    seconds: float


def bench_data(config: Config, *, utterances: int, repeats: int) -> dict[str, Any]:
    """Rows by stage: seconds for the sample, hours of audio a second."""
    sample = _sample(config, utterances)
    announce(f"data: {len(sample.utterances)} utterances, {sample.seconds:.0f} s of audio, {repeats} rounds")
    times: dict[str, list[float]] = {}
    streamed = _streamed(config, sample)
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, seconds in _one_round(config, sample, Path(folder), streamed).items():
                times.setdefault(name, []).append(seconds)
        announce(f"data: round {number + 1} of {repeats}")
    hours = sample.seconds / 3600
    return {
        "benchmark": "data",
        "utterances": len(sample.utterances),
        "audio_seconds": sample.seconds,
        "speeds": _speeds(config),
        "rows": [
            {"stage": name, "way": _way(name)}
            | summary(seconds)
            | {"audio_hours_per_second": hours / summary(seconds)["seconds_median"]}
            for name, seconds in times.items()
        ],
    }


def feature_rates(config: Config, *, utterances: int) -> dict[str, Any]:
    """Decoding and features of a few utterances at their own speed: hours of audio a second."""
    sample = _sample(config, utterances)
    features, audio = build.build_features(config), build.build_audio(config)
    start = time.perf_counter()
    for utterance in sample.utterances:
        features.compute(read_utterance(utterance, audio))
    seconds = time.perf_counter() - start
    return {
        "utterances": len(sample.utterances),
        "audio_seconds": sample.seconds,
        "decode_and_feature_seconds": seconds,
        "audio_hours_per_second": sample.seconds / 3600 / seconds,
        "when": "once, when the data is loaded; not part of a step",
    }


def _sample(config: Config, count: int) -> _Sample:
    """The first utterances; enough of them for a batch."""
    found = read_manifest(Path(config.data.train))[:count]
    seconds = sum(utterance.duration or 0.0 for utterance in found)
    if not seconds:
        raise UsageError(f"{config.data.train}: the manifest says no durations, so hours of audio cannot be counted.")
    return _Sample(found, seconds)


def _way(stage: str) -> str:
    if stage in COLD:
        return "cold, one thread"
    return "as in training, streamed" if stage.startswith("streamed") else "as in training, from memory"


def _streamed(config: Config, sample: _Sample) -> dict[str, Batcher]:
    """The sample as training streams it, by the name of its stage."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.jsonl"
        write_manifest(path, map(_row, sample.utterances))
        data = config.data.model_copy(
            update={"train": str(path), "dev": str(path), "test": None, "loading": "streamed"}
        )
        copy = config.model_copy(update={"data": data})
        dataset = build.build_training_data(copy).train  # holds the manifest open
    batchers = {}
    for workers in STREAMED_BY:
        batches = config.batches.model_copy(update={"workers": workers})
        batchers[f"streamed_{workers}_workers"] = build.build_batcher(
            copy.model_copy(update={"batches": batches}), dataset, purpose="train"
        )
    return batchers


def _row(utterance: Utterance) -> dict[str, Any]:
    """An utterance as a line of a manifest anywhere."""
    row: dict[str, Any] = {
        "audio_filepath": str(utterance.audio),
        "duration": utterance.duration,
        "text": utterance.text,
    }
    if utterance.is_part:
        row["offset"] = utterance.offset
    if utterance.member:
        row |= {"tar_offset": utterance.member.offset, "tar_size": utterance.member.size}
    return row | {"id": utterance.id}


def _one_round(config: Config, sample: _Sample, folder: Path, streamed: dict[str, Batcher]) -> dict[str, float]:
    """Seconds by stage, from files to batches."""
    features, audio, speeds = build.build_features(config), build.build_audio(config), _speeds(config)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    for utterance in sample.utterances:
        samples = timed("decode", partial(read_utterance, utterance, audio))
        for speed in speeds:
            changed = timed("change_speed", partial(change_speed, samples, speed, audio.sample_rate))
            timed("features", partial(features.compute, changed))
    cache = FeatureCache(folder)
    dataset = _dataset(config, sample, FeatureCache(None), timed, "load_cold")
    _dataset(config, sample, FeatureCache(None), timed, "load_cold_by_workers", workers=config.batches.workers)
    _dataset(config, sample, cache, lambda name, call: call(), "")
    dataset = _dataset(config, sample, cache, timed, "load_from_cache")
    batcher = build.build_batcher(config, dataset, purpose="train")
    timed("normalize_and_mask", lambda: [dataset.features(member, 1) for member in range(len(dataset.ids))])
    timed("batch", lambda: [batcher.batch(1, index) for index in range(batcher.batches_per_epoch)])
    timed("loader", lambda: _drain(batcher, config.batches.prefetch))
    for name, batcher in streamed.items():
        timed(name, partial(_drain, batcher, config.batches.prefetch))
    return seconds


def _drain(batcher: Batcher, depth: int) -> int:
    return sum(1 for _ in prefetch(lambda: batcher.epoch(1), depth))


def _dataset(
    config: Config,
    sample: _Sample,
    cache: FeatureCache,
    timed: Callable[[str, Callable[[], Any]], Any],
    name: str,
    workers: int = 0,
) -> Dataset:
    """The sample as training would hold it."""
    labels = encode_all(
        {utterance.id: utterance.text for utterance in sample.utterances},
        build.build_alphabet(config, sample.utterances),
        on_unknown="drop",
    ).labels
    dataset = timed(
        name,
        lambda: load_dataset(
            sample.utterances,
            labels,
            audio=build.build_audio(config),
            features=build.build_features(config),
            cache=cache,
            augmentation=build.build_augmentation(config),
            seed=config.seed,
            workers=Workers(workers),
        ),
    )
    return dataset.normalized_by(estimate_normalization(map(dataset.plain_features, range(len(dataset.ids)))))


def _speeds(config: Config) -> list[float]:
    """Those that features are computed at."""
    augmentation = build.build_augmentation(config)
    return sorted({1.0, *(augmentation.speeds if augmentation else ())})
