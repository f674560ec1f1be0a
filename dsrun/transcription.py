"""Transcription: audio files to texts, with a run's network.

On the roof, between `trained.py` (a run folder, ready to recognise) and the command line.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsrun import build
from dsrun.config import Config
from dsrun.errors import DataError
from dsrun.speech import Dataset, Utterance, load_dataset
from dsrun.trained import Trained, load_run


def transcribe_files(
    path: Path, files: Sequence[Path], *, checkpoint: str, resample: bool, channel: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Texts of audio files, and what is wrong with those that cannot be read."""
    trained = load_run(path, checkpoint)
    data = trained.config.data
    wanted = {"resample": data.resample or resample, "channel": data.channel if channel is None else channel}
    config = trained.config.model_copy(update={"data": data.model_copy(update=wanted)})
    results, failures = [], []
    for file in files:
        utterance = Utterance(id=str(file), audio=file, duration=None, text="")
        try:
            dataset = load_dataset(
                [utterance],
                [[]],
                audio=build.build_audio(config),
                features=build.build_features(config),
                cache=build.cache_of(config, access="read"),
                normalization=trained.normalization,
            )
        except DataError as error:
            failures.append({"file": str(file), "error": str(error)})
            continue
        results.append({"file": str(file), "text": _transcribe(trained, config, dataset)})
    return results, failures


def _transcribe(trained: Trained, config: Config, dataset: Dataset) -> str:
    one = config.model_copy(update={"batches": config.batches.model_copy(update={"global_batch": 1})})
    batch = build.build_batcher(one, dataset, purpose="evaluate").batch(0, 0)
    return trained.evaluator.decode(trained.weights, trained.statistics, batch, trained.alphabet)[0]
