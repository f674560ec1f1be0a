"""Verifying a run: its first steps once more, from its config, and each state beside what the run recorded of it.

On the roof beside `experiment.py`. Nothing is written, neither into the run folder nor into a cache. The first steps are enough:
step n+1 is a function of step n, the config, the code and the machine, and a machine or a version that computes otherwise mostly
shows it at step 1. A difference has its reason outside of the config, which is the run's own: so what differs in provenance is
told, before and after.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun.config import Config, load_config
from dsrun.errors import UsageError
from dsrun.experiment import Experiment, circumstances, prepare
from dsrun.record import RunDir
from dsrun.record.autotune import autotune_flags
from dsrun.record.provenance import differences
from dsrun.record.tensor_hashes import combined_hash
from dsrun.speech import prefetch
from dsrun.study.diff import kind_of
from dsrun.study.run_record import RunRecord, read_run
from dsrun.training.progress import Progress
from dsrun.training.saver import host_copy
from dsrun.training.state import StepRecord, TrainState
from dsrun.training.state_digest import digest_of_tensors
from dsrun.training.state_hash import StateHasher, as_words, tensor_meanings, tensor_names
from dsrun.training.step import split_batch

TENSOR_HASHES, STATE_HASHES, STATE_DIGESTS, LOSSES = "tensor hashes", "state hashes", "state digests", "losses"


def verify_run(path: Path, *, steps: int, devices: int | None) -> dict[str, Any]:
    """Replay the first steps of a run and compare; the report that `dsrun verify` prints.

    Args:
        steps: how many, if the run has so many.
        devices: as for training.

    Raises:
        UsageError: not a run folder, or it has no record of a first step.
        DataError: a record is damaged, or the data cannot be used.
    """
    run = RunDir(path)
    if not run.config.is_file():
        raise UsageError(f"{path}: not a run folder (no config.yaml). `dsrun runs` lists those there are.")
    config = load_config(run.config).config
    recorded = Recorded(read_run(path, {}), steps)
    experiment = prepare(_without_traces(config), devices=devices, autotune=autotune_flags(run.path, writes=False))
    now = circumstances(config, experiment.step, experiment.origin)
    changed = differences(recorded.record.facts, now) if recorded.record.facts else {}
    report: dict[str, Any] = {
        "run": str(path),
        "what": recorded.what,
        "steps": recorded.last,
        "steps_compared": 0,
        "verified_up_to": 0,
        "first_different": None,
        "tensors": [],
        "tensors_hashed": len(recorded.record.hashes.names),
        "loss": None,
        "determinism": config.determinism,
        "provenance": [{"key": name, "then": old, "now": new} for name, (old, new) in changed.items()],
    }
    _tell(report, steps, experiment)
    for number, state, record, loss in _replay(experiment, recorded.last):
        wrong = recorded.differing(number, state, record)
        if wrong is None:
            continue
        report["steps_compared"] += 1
        if wrong.is_any:
            said = recorded.losses.get(number)
            return report | {
                "first_different": number,
                "tensors": wrong.tensors,
                "loss": {"then": said, "now": loss},
            }
        report["verified_up_to"] = number
    return report


@dataclass(frozen=True)
class Difference:
    """Whether a step's state is not the recorded one, and in which tensors where that is known."""

    is_any: bool
    tensors: list[dict[str, Any]]


class Recorded:
    """What a run recorded of its first steps: of the kinds there are, the one that says most.

    Args:
        record: the run's.
        steps: how many steps are asked for.

    Raises:
        UsageError: there is none of these steps.
    """

    def __init__(self, record: RunRecord, steps: int):
        self.record, self.hasher = record, StateHasher()
        series = record.series
        self.losses = series[LOSSES]
        hashed = dict.fromkeys(record.hashes.steps.tolist())
        kinds: dict[str, dict[int, Any]] = {
            TENSOR_HASHES: hashed,
            **{kind: series[kind] for kind in (STATE_HASHES, STATE_DIGESTS, LOSSES)},
        }
        for self.what, found in kinds.items():
            self.values = {step: value for step, value in found.items() if 0 < step <= steps}
            if self.values:
                return
        raise UsageError(
            f"{record.run.path}: no record of its first {steps} steps, so there is nothing to compare with. Training leaves hashes with "
            "training.hash_every_steps; raise --steps to reach what there is, or train again."
        )

    @property
    def last(self) -> int:
        """The last step that there is something to compare with."""
        return max(self.values)

    def differing(self, number: int, state: TrainState, record: StepRecord) -> Difference | None:
        """What differs after a step; None where nothing was recorded. Waits for the device."""
        if number not in self.values:
            return None
        if self.what == TENSOR_HASHES:
            return self._differing_tensors(number, state)
        if self.what == STATE_HASHES:
            found: Any = combined_hash(tensor_names(state), as_words(self.hasher(state)))
        elif self.what == STATE_DIGESTS:
            found = digest_of_tensors(host_copy(state.to_dict()))
        else:
            found = _finite(record.loss)
        return Difference(found != self.values[number], [])

    def _differing_tensors(self, number: int, state: TrainState) -> Difference:
        hashes, names = self.record.hashes, tensor_names(state)
        then = dict(zip(hashes.names, hashes.words[self.record.row(number)].tolist(), strict=True))
        now = dict(zip(names, as_words(self.hasher(state)).tolist(), strict=True))
        meanings = tensor_meanings(state)
        wrong = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
        rows = [{"name": name, "kind": kind_of(name), "meaning": meanings.get(name)} for name in wrong]
        return Difference(bool(wrong), rows)


def _without_traces(config: Config) -> Config:
    """The config of a repetition that writes nothing; what it computes is the same. Test data is of no use to it."""
    data = config.data.model_copy(update={"cache": None, "test": None})
    training = config.training.model_copy(update={"compilation_cache": False})
    return config.model_copy(update={"data": data, "training": training})


def _replay(experiment: Experiment, last: int) -> Iterator[tuple[int, TrainState, StepRecord, float | None]]:
    """The state after each of the first steps, with the step's figures and its loss."""
    step, batcher = experiment.step, experiment.batcher
    state = step.start()
    batches = prefetch(lambda: (batcher.batch(*batcher.position(number)) for number in range(last)), 2)
    with Progress(total_steps=last) as progress:
        for number, (batch, wait) in enumerate(batches, start=1):
            state, record = step(state, split_batch(batch, step.shards))
            yield number, state.first, record, _finite(record.loss)
            figures = {
                name: float(getattr(record, name)) for name in ("loss", "grad_norm", "learning_rate", "blank_share")
            }
            count = sum(map(bool, batch.ids))
            progress.step(number, figures, utterances=count, audio_seconds=batch.seconds, wait_seconds=wait)


def _finite(loss: Any) -> float | None:
    """As events have it: null where it is not finite."""
    value = float(loss)
    return value if abs(value) < float("inf") else None


def _tell(report: dict[str, Any], asked: int, experiment: Experiment) -> None:
    """Before the first step, which takes its time to compile: what will be compared, and what may be a reason to differ."""
    few = f" (of {asked} asked for: the run has no more)" if report["steps"] < asked else ""
    lines = [
        f"{report['run']}: replaying {report['steps']} steps{few} to compare their {report['what']}; nothing is written"
    ]
    if report["determinism"] == "off":
        lines.append("warning: the run was trained with determinism off, so its bits may not come again")
    for row in report["provenance"]:
        lines.append(
            f"warning: {row['key']} was {json.dumps(row['then'])}, is now {json.dumps(row['now'])}: bits may differ"
        )
    print("\n".join(lines), file=sys.stderr, flush=True)
