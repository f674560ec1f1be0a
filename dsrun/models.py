"""A model to recognise with: a run's checkpoint, an exported folder, or a run as it would be exported.

On the roof. Every command that recognises asks `load_model` and is given a `Model`, which says what to hand the network and where results
go, and not where it comes from: its weights may be those of training (`trained`) or codes with scales (`deployed`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun import build
from dsrun.errors import UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import WholePass
from dsrun.model import ModelSettings
from dsrun.model.streaming import InChunks
from dsrun.score_reports import is_exported
from dsrun.speech import Alphabet, AudioSettings, Batcher, FeatureCache, FeatureSettings, Normalization
from dsrun.speech.batching import AnyDataset
from dsrun.training.preflight import explaining_lack_of_memory

Labelled = tuple[AnyDataset, dict[str, str], Counter]  # data, references by id, characters outside the alphabet


@dataclass(frozen=True)
class Model:
    """A network ready to recognise, and what must be known to use it.

    Fields:
        path: the folder, as it was named. evaluation: the folder of results in it. step: of the checkpoint.
        origin: what a report says of where it comes from, by name. exported: None of a run as it was trained.
        weights, statistics: for `network` and `evaluator`. stream: a number of output frames a call to a stream of logits; raises
            ValueError where the network cannot be streamed.
        manifests, digests: of the run's splits, by name; sha256 as training had them, where that is known.
        read: a manifest to labelled data. batcher: data and rows to batches. rows: of a batch, unless others are asked for.
    """

    path: Path
    evaluation: Path
    step: int
    origin: dict[str, Any]
    exported: str | None
    settings: ModelSettings
    alphabet: Alphabet
    normalization: Normalization
    features: FeatureSettings
    audio: AudioSettings
    weights: Any
    statistics: Any
    network: WholePass
    evaluator: Evaluator
    stream: Callable[[int], InChunks]
    manifests: Mapping[str, str | None]
    digests: Mapping[str, str]
    determinism: str
    cache: FeatureCache
    read: Callable[[Path], Labelled]
    batcher: Callable[[AnyDataset, int], Batcher]
    rows: int

    def manifest_of(self, *splits: str) -> Path:
        """The first of these splits that there is.

        Raises:
            UsageError: an export's, which is not there (a run's is refused where it is read).
        """
        found = next((path for split in splits if (path := self.manifests.get(split))), None)
        if found is None:
            raise UsageError(f"{self.path}: names no manifest of {' or '.join(splits)}. Name one with --manifest.")
        if self.exported is not None and not Path(found).is_file():
            raise UsageError(
                f"{self.path}: the run that it was exported from had {found} as its {splits[0]} manifest, which is not there (seen from "
                "this folder). Name one with --manifest."
            )
        return Path(found)


def load_model(path: Path, checkpoint: str | None = None, *, format: str | None = None) -> Model:
    """A run folder's checkpoint ("best" unless another is named: "last" or a step), or an exported model.

    Args:
        format: of a run, what `dsrun export RUN --format` would make of it, without leaving a folder.

    Raises:
        UsageError: neither of both, no such checkpoint, or a checkpoint or format asked of an export, which has its own.
        DataError: the checkpoint or the export is damaged.
    """
    if is_exported(path):
        from dsrun.deployed import load_deployed

        for option, value in (("--checkpoint", checkpoint), ("--format", format)):
            if value is not None:
                raise UsageError(
                    f"{option} {value}: for a run, and {path} is an exported model, which has one checkpoint in one format. Leave it out, "
                    "or name the run."
                )
        return load_deployed(path)
    if not (path / "config.yaml").is_file():
        raise UsageError(
            f"{path}: not a run folder (no config.yaml), and no exported model (no model.json). `dsrun runs` lists the runs there are, "
            "`dsrun export RUN --format int8` exports one."
        )
    if format is not None:
        from dsrun.deployed import deploy_run

        return deploy_run(path, checkpoint or "best", format)
    from dsrun.trained import load_run

    return load_run(path, checkpoint or "best").model


def start_runtime_of_runs(paths: Sequence[Path]) -> None:
    """Before an export is loaded that is compared with a run: what its determinism asks of XLA is decided once a process, and an exported
    model takes what there is."""
    from dsrun.config import load_config
    from dsrun.record import RunDir, autotune_flags

    for path in paths:
        if RunDir(path).config.is_file() and not is_exported(path):
            build.start_runtime(load_config(RunDir(path).config).config, autotune=autotune_flags(path, writes=False))


def explaining_scoring(model: Model, batcher: Batcher, what: str) -> AbstractContextManager[None]:
    """Turn a lack of memory while these batches of `what` are scored into a message that says how it can be done with less."""
    rows = batcher.global_batch
    shape = build.evaluation_shapes(batcher, what)[-1]
    doing = f"scoring {shape} ({rows} rows x {shape.frames} frames in a batch)"
    fewer = f"fewer utterances at a time (dsrun eval {model.path} --batch {max(1, rows // 4)}), or " if rows > 1 else ""
    kept = "" if model.exported else f" No training is lost: the checkpoints are in {model.path}."
    advice = f"What helps: {fewer}the longest utterances cut or left out, or a device with more free memory.{kept}"
    return explaining_lack_of_memory(lambda: doing, advice)
