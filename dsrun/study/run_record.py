"""What a run folder says of a run, read once: its config, how it went, its results. No JAX; nothing else is read.

A folder may be of a run that is still going on, was killed, diverged, or was made by an older version: what is not there is None,
empty or NaN, and never a guess. Whatever compares, draws or lists runs starts here, so that a report can be remade for any old run,
anywhere.

A file may be damaged, or a stranger's, so figures are bounded here, once: what no training writes (a time below zero, a loss scale of 0, a
number that no float32 holds) is NaN or None like what is absent. Steps are bounded where events are read.

With `training.log_every_steps` above 1 most steps leave no record. Those that were skipped all do, so they are counted among all steps;
the time of the others is taken to be that of the median one.

Two runs are of the same experiment if their configs are equal; paths of data are compared by the digests of the manifests in
`provenance.json` and not by name, since a folder may have been copied from another machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dsrun.errors import DataError
from dsrun.evaluation.results import Evaluation, own_results, read_results
from dsrun.record.events import LARGEST_COUNT, number, read_events
from dsrun.record.magnitudes import Magnitudes, file_of, load_magnitudes, watched_steps
from dsrun.record.provenance import read_provenance
from dsrun.record.run_dir import RunDir
from dsrun.record.tensor_hashes import TensorHashes, read_tensor_hashes
from dsrun.study.run_state import result_on_test, state_of

CHECKPOINT_DIGESTS = "checkpoint digests"

Split = Literal["dev", "test"]
SPLITS: tuple[Split, ...] = ("dev", "test")
LARGEST_FLOAT = 2.0**128  # beyond every float32
LARGEST_OPERATIONS = 2**80
_COUNTED = (0.0, LARGEST_COUNT)
# Smallest and largest figure of a column that a training may write; others as float32 has them.
_BOUNDS: dict[str, tuple[float, float]] = {
    "loss_scale": (2.0**-149, LARGEST_FLOAT),
    **dict.fromkeys(
        ("epoch", "skipped_steps", "seconds", "data_wait_seconds", "utterances", "audio_seconds"), _COUNTED
    ),
}
_DEEPEST = 8  # of costs.json


@dataclass(frozen=True)
class StepSeries:
    """Figures of the training steps that were recorded, float64 columns by step; NaN where a figure is null (not finite) or absent."""

    step: np.ndarray
    epoch: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    learning_rate: np.ndarray
    loss_scale: np.ndarray
    finite: np.ndarray
    skipped_steps: np.ndarray
    blank_share: np.ndarray
    seconds: np.ndarray
    data_wait_seconds: np.ndarray
    utterances: np.ndarray
    audio_seconds: np.ndarray

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]]) -> "StepSeries":
        """The `step` events as columns."""
        steps = [event for event in events if event["event"] == "step"]
        columns = [(field.name, _BOUNDS.get(field.name, (-LARGEST_FLOAT, LARGEST_FLOAT))) for field in fields(cls)]
        return cls(*(np.array([bounded(event.get(name), *ends) for event in steps], float) for name, ends in columns))

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of a run.

    Fields:
        config: values of config.yaml by dotted key. facts: provenance.json, {} if there is none.
        status: status.json. events: in the order of the file; go by their `step`.
    """

    run: RunDir
    config: Mapping[str, Any]
    facts: dict[str, Any]
    status: dict[str, Any]
    events: list[dict[str, Any]]
    hashes: TensorHashes

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.run.path

    @property
    def name(self) -> str:
        """The folder's name, which says what was run and not where."""
        return self.path.resolve().name

    @cached_property
    def state(self) -> str:
        """new, running, killed, stopped, failed, diverged or done."""
        return state_of(self.run, self.status)

    @property
    def exit_code(self) -> int | None:
        """Of the last command; 4: training diverged. None while none ended."""
        code = self.status.get("exit_code")
        return code if type(code) is int else None

    @property
    def seed(self) -> Any:
        """The config's."""
        return self.config.get("seed")

    @property
    def last_step(self) -> int:
        """The last step that there is any record of."""
        steps = [event["step"] for event in self.events]
        return max([*steps, *self.hashes.steps[-1:].tolist()], default=0)

    @property
    def step(self) -> int:
        """How far it came, as its status says, which may know a later step than there is a record of."""
        said = self.status.get("step")
        return said if type(said) is int and 0 <= said < LARGEST_COUNT else self.last_step

    @cached_property
    def steps(self) -> StepSeries:
        """Figures of the training steps."""
        return StepSeries.of(self.events)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations on dev during training, in order of steps."""
        found = [e for e in self.events if e["event"] == "eval" and not np.isnan(bounded(e.get("cer"), 0.0))]
        return sorted(found, key=lambda event: event["step"])

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation on dev with the lowest character error rate, of equals the first: the checkpoint that is scored."""
        return min(self.evaluations, key=lambda event: event["cer"], default=None)

    @cached_property
    def watches(self) -> list[dict[str, Any]]:
        """The `watch` events, in order of steps."""
        return sorted((e for e in self.events if e["event"] == "watch"), key=lambda event: event["step"])

    @property
    def watched_steps(self) -> list[int]:
        """Steps that left a file of magnitudes."""
        return watched_steps(self.run.magnitudes)

    def magnitudes(self, step: int) -> Magnitudes:
        """Of a watched step.

        Raises:
            DataError: the file is damaged.
        """
        return load_magnitudes(file_of(self.run.magnitudes, step))

    def test_rate(self, metric: str) -> float | None:
        """`cer` or `wer` on the test set, as the run's own scoring said at its end."""
        return test_rate(self.config.get("data.test"), self.status, metric)

    def results_path(self, split: Split) -> Path | None:
        """Where results of the best checkpoint on a split are, if it was scored there."""
        manifests = {name: self.config.get(f"data.{name}") for name in ("train", "dev", "test")}
        texts = {name: path for name, path in manifests.items() if isinstance(path, str)}
        if not texts.get(split):
            return None
        digests = {name: digest for name in texts if (digest := self.data_digest(name))}
        path = self.run.evaluation / f"{own_results(split, texts, digests)}.jsonl"
        return path if path.is_file() else None

    def results(self, split: Split) -> Evaluation | None:
        """Each utterance's result of the best checkpoint on dev or test; None where it was not scored.

        Raises:
            DataError: the file is damaged.
        """
        if split not in self._results:
            path = self.results_path(split)
            self._results[split] = read_results(path) if path else None
        return self._results[split]

    @cached_property
    def _results(self) -> dict[str, Evaluation | None]:
        return {}

    @cached_property
    def costs(self) -> dict[str, Any]:
        """What a step costs in bytes and operations (costs.json); {} for a run of before there was such a file.

        A number that is no count of anything is None.

        Raises:
            DataError: the file is damaged.
        """
        path = self.path / "costs.json"
        found = read_provenance(path) if path.is_file() else {}
        return {key: _counts(value) for key, value in found.items()}

    @property
    def step_seconds(self) -> np.ndarray:
        """Seconds of each step that has them on record."""
        return self.steps.seconds[np.isfinite(self.steps.seconds)]

    @property
    def seconds_a_step(self) -> float | None:
        """Median over the steps, so the few that compiled a batch shape do not count."""
        known = self.step_seconds
        return float(np.median(known)) if len(known) else None

    @property
    def training_seconds(self) -> float | None:
        """All steps together, compilation included, evaluations not; one that was not recorded counts as the median one."""
        if self.seconds_a_step is None:
            return None
        return float(self.step_seconds.sum()) + self.steps_without_record * self.seconds_a_step

    @property
    def steps_without_record(self) -> int:
        """Up to the last recorded step, as `training.log_every_steps` leaves them."""
        recorded = self.steps.step
        return max(int(recorded[-1]) - len(recorded), 0) if len(recorded) else 0

    @cached_property
    def elapsed(self) -> np.ndarray:
        """Seconds of training up to each recorded step, counted as in `training_seconds`."""
        missing = np.maximum(np.diff(self.steps.step, prepend=0.0) - 1, 0)
        return np.cumsum(np.nan_to_num(self.steps.seconds) + missing * (self.seconds_a_step or 0.0))

    @property
    def commit(self) -> str | None:
        """Of dsrun, `+` behind it where its files differed from that commit."""
        git = self.facts.get("git")
        if not isinstance(git, Mapping) or not git.get("commit"):
            return None
        return str(git["commit"])[:7] + ("+" if git.get("changes_sha256") else "")

    @property
    def device(self) -> str | None:
        """The kind of device that it ran on; of a CPU the processor's name."""
        jax, platform = self.facts.get("jax"), self.facts.get("platform")
        kinds = jax.get("device_kinds") if isinstance(jax, Mapping) else None
        if not isinstance(kinds, list) or not kinds:
            return None
        cpu = platform.get("cpu") if isinstance(platform, Mapping) else None
        return str(cpu) if kinds == ["cpu"] and cpu else ", ".join(map(str, kinds))

    def data_digest(self, split: str) -> str | None:
        """SHA-256 of a manifest as it was at the start of the run."""
        data = self.facts.get("data")
        digest = data.get(split) if isinstance(data, Mapping) else None
        return str(digest) if digest else None

    @property
    def origin_digest(self) -> str | None:
        """Digest of the checkpoint that the run began with (`init_from`); None of random weights."""
        origin = self.facts.get("init_from")
        digest = origin.get("digest") if isinstance(origin, Mapping) else None
        return str(digest) if digest else None

    @cached_property
    def series(self) -> dict[str, dict[int, Any]]:
        """What can be compared bit by bit at each step, of each kind but tensor hashes."""
        found: dict[str, dict[int, Any]] = {
            "state hashes": {},
            "state digests": {},
            CHECKPOINT_DIGESTS: {},
            "losses": {},
        }
        for event in self.events:
            kind, step = event["event"], event["step"]
            if kind == "step":
                if "state_hash" in event:
                    found["state hashes"][step] = event["state_hash"]
                if "loss" in event:
                    found["losses"][step] = event["loss"]
            elif kind == "digest":
                found["state digests"][step] = event.get("digest")
            elif kind in ("checkpoint", "stop"):
                if "state_digest" in event:
                    found["state digests"][step] = event["state_digest"]
                if kind == "checkpoint" and "digest" in event:
                    found[CHECKPOINT_DIGESTS][step] = event["digest"]
        return found

    def row(self, step: int) -> int:
        """The row of a step that has tensor hashes.

        Raises:
            DataError: they are not those that the step's event was made of.
        """
        row = int(np.searchsorted(self.hashes.steps, step))
        said = self.series["state hashes"].get(step)
        found = self.hashes.combined(row)
        if said not in (None, found):
            raise DataError(
                f"{self.run.tensor_hashes}: damaged: the hashes of step {step} make {found}, {self.run.events.name} says {said}. Take "
                "the file from a copy; without it, runs are compared by their events."
            )
        return row


def read_run(path: Path, config: Mapping[str, Any]) -> RunRecord:
    """What a run folder says; `config` has the values of its config.yaml by dotted key.

    Raises:
        DataError: a file is damaged.
    """
    run = RunDir(path)
    facts = read_provenance(run.provenance) if run.provenance.is_file() else {}
    return RunRecord(
        run, config, facts, run.read_status(), read_events(run.events), read_tensor_hashes(run.tensor_hashes)
    )


def test_rate(test: Any, status: Mapping[str, Any], metric: str) -> float | None:
    """`cer` or `wer` on the test set by status.json; None without a test set, where the result that it has is of dev.

    Args:
        test: the config's `data.test`.
    """
    return number(result_on_test(test, status).get(metric))


def bounded(value: Any, low: float = -LARGEST_FLOAT, high: float = LARGEST_FLOAT) -> float:
    """A figure of a file; NaN for what is none, or lies outside."""
    return float(value) if isinstance(value, int | float) and low <= value <= high else float("nan")


def _counts(value: Any, depth: int = 1) -> Any:
    """Of what JSON holds the numbers that count something; None instead of others, and of what is nested deeper than dsrun writes."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {key: _counts(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_counts(item, depth + 1) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if 0 <= value < LARGEST_OPERATIONS else None
    return value
