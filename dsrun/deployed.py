"""An exported model, ready to recognise like a run: the folder alone is enough, without run, config or training data.

On the roof, between `deploy` (the folder, the network) and `models`. What a config would say of batches is said here: it decides speed
and, for float formats, last bits, never the result of an integer network.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from dsrun import build
from dsrun.deploy.folder import MODEL, Exported, load
from dsrun.deploy.network import Network
from dsrun.deploy.quantized import Arrays
from dsrun.deploy.streams import StreamPool, refuse_what_cannot_be_streamed
from dsrun.errors import DataError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.exporting import ExportSettings, deployed_pass, make_export
from dsrun.model.streaming import InChunks
from dsrun.models import Model
from dsrun.record import RunDir
from dsrun.record.durable import require_own
from dsrun.record.runtime import start_for_inference
from dsrun.speech import Batcher, Dataset, FeatureCache, Utterance, Workers, load_dataset
from dsrun.speech.batching import AnyDataset
from dsrun.training.preflight import explaining_lack_of_memory

ROWS = 16  # of a batch
BUCKETS = 4  # shapes of batches, each a compilation
FRAME_MULTIPLE = 24
WORKERS = 2
SPLITS = ("train", "dev", "test")


@explaining_lack_of_memory(
    lambda: "loading the exported model", "What helps: a device, or a machine, with more free memory."
)
def load_deployed(path: Path) -> Model:
    """An exported model from its folder.

    Raises:
        UsageError: no exported model, or its folder of results leads out of it.
        DataError: damaged, of another version, or not what its model.json says.
    """
    determinism = start_for_inference()
    require_own(path / "evaluation")
    exported = load(path)
    return model_of(exported, path=path, evaluation=path / "evaluation", determinism=determinism)


def deploy_run(path: Path, checkpoint: str, format: str) -> Model:
    """A run as `dsrun export RUN --format` would leave it; nothing is written.

    Raises:
        UsageError: no run, no such checkpoint, no calibration data. DataError: damaged.
    """
    exported = make_export(path, ExportSettings(cast(Any, format), checkpoint=checkpoint))
    run = RunDir(path)
    return model_of(exported, path=path, evaluation=run.evaluation, determinism=start_for_inference())


def model_of(exported: Exported, *, path: Path, evaluation: Path, determinism: str) -> Model:
    """Raises DataError where model.json does not tell where the model is from."""
    source, manifests = _told(exported, path)
    network, audio = exported.network, exported.audio
    named = {"export": str(path)} if exported.path else {"run": str(path)}
    whole = deployed_pass(network)
    return Model(
        path=path,
        evaluation=evaluation,
        step=source["step"],
        origin=named | {"format": exported.format, "step": source["step"]} | _of_run(exported, source),
        exported=exported.format,
        settings=network.settings,
        alphabet=exported.alphabet,
        normalization=exported.normalization,
        features=exported.features,
        audio=replace(audio, max_seconds=exported.max_seconds),
        weights=exported.arrays,
        statistics={},  # folded into the products
        network=whole,
        evaluator=Evaluator(whole),
        stream=lambda chunk: PooledStream(network, exported.arrays, chunk=chunk),
        manifests={name: found["path"] for name, found in manifests.items()},
        digests={name: found["sha256"] for name, found in manifests.items() if found["sha256"]},
        determinism=determinism,
        cache=FeatureCache(None),
        read=lambda manifest: build.read_for_evaluation(manifest, exported.alphabet, _loader(exported)),
        batcher=_batcher,
        rows=ROWS,
    )


class PooledStream(InChunks):
    """One stream of a deployed network.

    Raises:
        ValueError: the network cannot be streamed.
    """

    def __init__(self, network: Network, arrays: Arrays, *, chunk: int):
        refuse_what_cannot_be_streamed(network)
        self._pool = StreamPool(network, arrays, chunk=chunk, most_streams=1)
        self._slot = self._pool.open()
        super().__init__(network.settings, chunk=chunk)

    def restart(self) -> None:
        """Begin another utterance."""
        super().restart()
        self._pool.close(self._slot)
        self._slot = self._pool.open()

    def _call(self, features: np.ndarray, num_frames: np.int32) -> np.ndarray:
        return self._pool.step([self._slot], features[None], np.array([num_frames], np.int32))[0]


def _loader(exported: Exported) -> Any:
    def load_utterances(utterances: list[Utterance], labels: list[list[int]]) -> Dataset:
        return load_dataset(
            utterances,
            labels,
            audio=replace(exported.audio, max_seconds=exported.max_seconds),
            features=exported.features,
            cache=FeatureCache(None),
            normalization=exported.normalization,
            workers=Workers(WORKERS),
        )

    return load_utterances


def _batcher(dataset: AnyDataset, rows: int) -> Batcher:
    return Batcher(
        dataset,
        global_batch=rows,
        buckets=BUCKETS,
        frame_multiple=FRAME_MULTIPLE,
        seed=0,
        sort_first_epoch=False,
        shuffle=False,
        workers=Workers(WORKERS),
    )


def _of_run(exported: Exported, source: Mapping[str, Any]) -> dict[str, Any]:
    """The run that a folder is from; where a run itself is named, nothing."""
    return {"exported_from": source["run"]} if exported.path else {}


def _told(exported: Exported, path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Where the model is from and what it was trained and tested on; checked, since a folder may come from a stranger."""
    source, manifests = exported.document.get("source"), exported.document.get("manifests")
    is_ours = (
        isinstance(source, dict)
        and isinstance(source.get("run"), str)
        and type(source.get("step")) is int
        and isinstance(manifests, dict)
        and all(
            name in SPLITS
            and isinstance(found, dict)
            and isinstance(found.get("path"), str)
            and isinstance(found.get("sha256"), str | None)
            for name, found in manifests.items()
        )
    )
    if not is_ours:
        found = json.dumps({"source": source, "manifests": manifests}, default=str)[:200]
        raise DataError(
            f"{path / MODEL}: does not say which run it was exported from, and that run's manifests (found {found}). Export the run "
            "again with this version of dsrun, or restore the folder from a copy."
        )
    assert isinstance(source, dict), "just checked"
    assert isinstance(manifests, dict), "just checked"
    return source, {name: {"sha256": None} | found for name, found in manifests.items()}
