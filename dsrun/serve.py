"""Serving a model: from a run or an exported model to a service that is ready to answer.

On the roof: it loads (`deployed`), makes of it what the room `serving` is given, a dispatcher of streams and a function from a file to its
transcript, and compiles both before anybody is listened to. A run is served as `dsrun export` would leave it, in float32 unless another
format is asked for.

Files are recognised as `dsrun transcribe` does, with words, times and confidences. How long one is, it may say wrongly or not at all, so it
is decoded once to be measured, at most up to `max_seconds`, and only then recognised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.deploy.folder import Exported, is_export, load
from dsrun.deploy.streams import refuse_what_cannot_be_streamed
from dsrun.deployed import model_of
from dsrun.errors import DataError, UsageError
from dsrun.exporting import ExportSettings, make_export
from dsrun.models import Model
from dsrun.record.runtime import start_for_inference
from dsrun.serving.access import Access
from dsrun.serving.engine import dispatcher_of
from dsrun.serving.limits import Limits
from dsrun.serving.service import Service
from dsrun.serving.uploads import IsWanted, Unwanted, Uploads
from dsrun.speech.recording import open_recording
from dsrun.streaming import stream_latency
from dsrun.transcription import Failure, Settings, Source, Transcriber

MOST_CHANNELS = 64  # of a file; with the rate and max_seconds a bound to the work of decoding it

Say = Callable[[str], None]


@dataclass(frozen=True)
class ServeSettings:
    """What to serve. checkpoint, format: of a run; None is "best" and float32. chunk_ms: as `dsrun transcribe --stream`."""

    model: Path
    checkpoint: str | None = None
    format: Any = None
    chunk_ms: float = 200.0


def make_service(settings: ServeSettings, limits: Limits, access: Access, folder: Path, *, say: Say) -> Service:
    """A service that is compiled and listens to streams; `folder` takes the files that are sent.

    Raises:
        UsageError: no model, a checkpoint or format of an export, or chunks longer than what may wait. DataError: it is damaged.
    """
    exported = load_exported(settings)
    model = model_of(exported, path=settings.model, evaluation=folder, determinism=start_for_inference())
    say("compiling for files")
    uploads = Uploads(FileTranscriber(model, limits), limits, folder)
    about = about_of(exported, model)
    try:
        refuse_what_cannot_be_streamed(exported.network)
    except ValueError as error:
        return Service(about, None, str(error), uploads, limits, access)
    dispatcher = dispatcher_of(exported, chunk_ms=settings.chunk_ms, most_streams=limits.most_streams)
    say(f"compiling for up to {limits.most_streams} streams")
    dispatcher.start()
    latency = stream_latency(model.settings, model.features, chunk=dispatcher.pool.chunk)  # type: ignore[attr-defined]
    return Service(about | {"latency": latency.to_json()}, dispatcher, None, uploads, limits, access)


def load_exported(settings: ServeSettings) -> Exported:
    """An exported model from its folder, or what a run would be exported as.

    Raises:
        UsageError: neither, or a checkpoint or format of an export. DataError: damaged.
    """
    path = settings.model
    if not is_export(path):
        if not (path / "config.yaml").is_file():
            raise UsageError(
                f"{path}: not a run folder (no config.yaml), and no exported model (no model.json). `dsrun runs` lists the runs there "
                "are, `dsrun export RUN --format int8` exports one."
            )
        return make_export(path, ExportSettings(settings.format or "float32", checkpoint=settings.checkpoint or "best"))
    for option, value in (("--checkpoint", settings.checkpoint), ("--format", settings.format)):
        if value is not None:
            raise UsageError(
                f"{option} {value}: for a run, and {path} is an exported model, which has its own. Leave it out."
            )
    start_for_inference()
    return load(path)


def about_of(exported: Exported, model: Model) -> dict[str, Any]:
    """What clients are told of the model: the run's name, without the paths of this machine."""
    run = model.origin.get("exported_from") or model.path.resolve()
    return {
        "model": Path(run).name,
        "format": exported.format,
        "step": model.step,
        "sample_rate": exported.features.sample_rate,
        "direction": exported.network.settings.direction,
    }


class FileTranscriber:
    """Files to transcripts, one at a time; compiled when it is made."""

    def __init__(self, model: Model, limits: Limits):
        self.limits = limits
        self._is_wanted: IsWanted = lambda: True
        self._transcriber = Transcriber(model, Settings(), is_wanted=lambda: self._is_wanted())
        recogniser = self._transcriber.recogniser
        for length in recogniser.lengths:
            recogniser([np.zeros((length, model.settings.num_bins), np.float32)])

    def __call__(self, path: Path, name: str, is_wanted: IsWanted) -> dict[str, Any]:
        """What `dsrun transcribe --json` says of a file.

        Raises:
            DataError: no audio, or too long. Unwanted: nobody waits any more.
        """
        self._measure(path, name, is_wanted)
        self._is_wanted = is_wanted
        (found,) = self._transcriber([Source(path, name)])
        if not is_wanted():
            raise Unwanted
        if isinstance(found, Failure):
            raise DataError(found.error)
        return {key: value for key, value in found.to_json().items() if key != "file"}

    def _measure(self, path: Path, name: str, is_wanted: IsWanted) -> None:
        rate = self._transcriber.audio.sample_rate
        with open_recording(path, sample_rate=rate, channel="mix", name=name) as recording:
            if recording.file.channels > MOST_CHANNELS:
                raise DataError(
                    f"{name}: {recording.file.channels} channels; send a recording of at most {MOST_CHANNELS}."
                )
            for _ in recording.decoded():
                if recording.seconds > self.limits.max_seconds:
                    raise DataError(f"{name}: longer than {self.limits.max_seconds:g} s, the most. Cut the recording.")
                if not is_wanted():
                    raise Unwanted
