"""A run folder retold as the records that an experiment tracker takes: scalars, histograms and texts, each with a step and a time.

`events.jsonl` is the tracker; others are fed from it afterwards, or beside a run that goes on. Who is fed, and how, is not known here.

| record | from | tags |
|---|---|---|
| scalars | `step` events | `train/loss`, `train/grad_norm`, ...; utterances and seconds of audio a second |
| scalars | `eval` events; status.json | `dev/cer`, `dev/wer`, `dev/loss`; `test/cer`, `test/wer` at the step that was scored |
| scalars | `watch` events | `update/swallowed_share`, ...; `<kind>/underflow_share` and the other figures of each kind |
| histograms | `magnitudes/` | `magnitude/<kind>` or `magnitude/<kind>/<tensor>`: non-zero finite values by binade |
| texts | config, command, provenance, log | `run/config`, ...; `dev/sample`, what was said and read at an evaluation |

Time is training time: the sum of the steps' `seconds` up to then, from 0, without evaluations and interruptions. Events have no clock, so
that equal runs have equal files.

A number that was not finite is null in the log, and NaN here. A run that resumes cuts records away: `Batch.is_anew` then says that
everything given before is void and comes again, so that no step is told twice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dsrun.errors import DataError
from dsrun.record.event_tail import EventTail
from dsrun.record.events import number
from dsrun.record.magnitudes import BIAS, Magnitudes, file_of, load_magnitudes
from dsrun.record.run_dir import RunDir
from dsrun.study.run_state import ENDED, result_on_test, state_of

Detail = Literal["none", "kinds", "tensors"]

STEP_FIGURES = ("loss", "grad_norm", "learning_rate", "loss_scale", "blank_share", "skipped_steps", "epoch")
EVAL_FIGURES = ("loss", "cer", "wer")
WATCH_FIGURES = (
    "zero_share",
    "underflow_share",
    "subnormal_share",
    "overflow_share",
    "nonfinite",
    "log2_smallest",
    "log2_largest",
)
UPDATE_FIGURES = ("changed_share", "swallowed_share")
_EVALUATED = re.compile(r"  epoch \d+/\d+  step (\d+)  dev loss .*\n.*    said: (.*)\n    read: (.*)")


@dataclass(frozen=True)
class Scalars:
    """Figures of one step by tag."""

    step: int
    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class Histogram:
    """Numbers of values by binade: `counts[i]` magnitudes from 2**exponents[i] to below the double."""

    step: int
    seconds: float
    tag: str
    exponents: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Text:
    """A text of a step."""

    step: int
    seconds: float
    tag: str
    text: str


Record = Scalars | Histogram | Text


@dataclass
class Batch:
    """What came since the last time, in order of the log; `is_anew`: what was given before is void."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_anew: bool = False


class Replay:
    """Gives a run's records once each, the new ones at every call of `next`.

    Args:
        path: a run folder.
        config: of its config.yaml, by dotted key.
        histograms: of which detail; "none" leaves them out.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, histograms: Detail = "kinds"):
        self.run, self.config, self.histograms = RunDir(path), config, histograms
        self._tail = EventTail(self.run.events)
        self._has_begun = self._has_result = False
        self._forget()

    def next(self) -> Batch:
        """Records that were not given yet."""
        found = self._tail.look()
        if found.is_anew:
            self._forget()
        batch = Batch(problems=found.problems, is_anew=found.is_anew)
        if not self._has_begun and (found.records or self.run.config.is_file()):
            self._has_begun = True
            batch.records += self._facts()
        for record in found.records:
            self._take(record, batch)
        self._take_samples(batch)
        self._take_result(batch)
        return batch

    def is_ended(self) -> bool:
        """Whether the run's last command ended, whatever its end; a killed one's too."""
        return state_of(self.run, self._status()) in ENDED

    def _forget(self) -> None:
        self._seconds = 0.0
        self._has_begun = self._has_result = False
        self._without_sample: dict[int, float] = {}  # evaluations by step, and their times

    def _status(self) -> dict[str, Any]:
        try:
            return self.run.read_status()
        except (DataError, OSError):
            return {}

    def _facts(self) -> list[Record]:
        texts = []
        for name, path in (
            ("config", self.run.config),
            ("command", self.run.command),
            ("provenance", self.run.provenance),
        ):
            if path.is_file():
                texts.append(Text(0, 0.0, f"run/{name}", _preformatted(path.read_text(errors="replace"))))
        return list(texts)

    def _take(self, record: Mapping[str, Any], batch: Batch) -> None:
        kind = record["event"]
        if kind == "step":
            self._seconds += number(record.get("seconds")) or 0.0
            self._scalars(batch, record["step"], _step_values(record))
        elif kind == "eval":
            self._scalars(batch, record["step"], _values(record, EVAL_FIGURES, "dev"))
            self._without_sample[record["step"]] = self._seconds
        elif kind == "watch":
            self._scalars(batch, record["step"], _watch_values(record))
            self._histograms(batch, record["step"])

    def _scalars(self, batch: Batch, step: int, values: dict[str, float]) -> None:
        if values:
            batch.records.append(Scalars(step, self._seconds, values))

    def _take_result(self, batch: Batch) -> None:
        result = result_on_test(self.config.get("data.test"), self._status())
        if self._has_result or not isinstance(result.get("step"), int):
            return
        self._has_result = True
        self._scalars(batch, result["step"], _values(result, ("cer", "wer"), "test"))

    def _histograms(self, batch: Batch, step: int) -> None:
        path = file_of(self.run.magnitudes, step)
        if self.histograms == "none" or not path.is_file():
            return
        try:
            found = load_magnitudes(path)
        except DataError as error:
            batch.problems.append(str(error))
            return
        for tag, places in _groups(found, self.histograms):
            counts = found.fields[places, 1:-1].sum(
                axis=0
            )  # field 0: zeros and float32's subnormals; the last: not finite
            seen = np.flatnonzero(counts)
            if len(seen):
                kept = slice(seen[0], seen[-1] + 1)
                exponents = np.arange(1, len(counts) + 1)[kept] - BIAS
                batch.records.append(Histogram(step, self._seconds, tag, exponents, counts[kept]))

    def _take_samples(self, batch: Batch) -> None:
        """What was said and read, from the log, which has it a moment after the event; of a step that came twice, the later."""
        if not self._without_sample or not self.run.log.is_file():
            return
        found: dict[int, Record] = {}
        for step, said, read in _EVALUATED.findall(self.run.log.read_text(errors="replace")):
            if (seconds := self._without_sample.get(int(step))) is not None:
                found[int(step)] = Text(int(step), seconds, "dev/sample", _preformatted(f"said: {said}\nread: {read}"))
        for step, text in found.items():
            del self._without_sample[step]
            batch.records.append(text)


def _step_values(record: Mapping[str, Any]) -> dict[str, float]:
    values = _values(record, STEP_FIGURES, "train")
    if isinstance(record.get("finite"), bool):
        values["train/finite"] = float(record["finite"])
    seconds = number(record.get("seconds"))
    for name in ("utterances", "audio_seconds"):
        amount = number(record.get(name))
        if seconds and amount is not None:
            values[f"train/{name}_a_second"] = amount / seconds
    wait = number(record.get("data_wait_seconds"))
    if seconds and wait is not None:
        values["train/data_wait_share"] = wait / seconds
    return values


def _watch_values(record: Mapping[str, Any]) -> dict[str, float]:
    values = _values(record, UPDATE_FIGURES, "update")
    roles = record.get("roles")
    for kinds in roles.values() if isinstance(roles, Mapping) else ():
        for kind, figures in kinds.items() if isinstance(kinds, Mapping) else ():
            if isinstance(figures, Mapping):
                values |= _values(figures, WATCH_FIGURES, kind)
    return values


def _values(record: Mapping[str, Any], names: tuple[str, ...], prefix: str) -> dict[str, float]:
    """Figures by tag; NaN for those that the record says were not finite."""
    nonfinite = record.get("nonfinite")
    lost = nonfinite if isinstance(nonfinite, list) else []
    found = {}
    for name in names:
        value = number(record.get(name))
        if value is not None or name in lost:
            found[f"{prefix}/{name}"] = float("nan") if value is None else value
    return found


def _groups(found: Magnitudes, detail: Detail) -> list[tuple[str, np.ndarray]]:
    if detail == "tensors":
        names = zip(found.kind, found.path, strict=True)
        return [(f"magnitude/{kind}/{path}", np.array([place])) for place, (kind, path) in enumerate(names)]
    return [(f"magnitude/{kind}", np.flatnonzero(found.kind == kind)) for kind in dict.fromkeys(map(str, found.kind))]


def _preformatted(text: str) -> str:
    """As Markdown that shows the text as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
