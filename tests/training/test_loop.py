"""The loop around the step: what is saved, when it is waited for, and what a signal leaves for the next run."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_step import make_batch, make_step

from dsrun.errors import DataError, DivergedError
from dsrun.training.loop import Best, DevResult, Kept, Loop, LoopSettings, Recorder
from dsrun.training.processes import Processes
from dsrun.training.progress import Progress
from dsrun.training.state import Replicas
from dsrun.training.state_digest import describe_state, empty_dicts, flatten
from dsrun.training.stop import Stopped, StopRequest
from dsrun.training.watch import Watcher
from dsrun.training.watchdog import Watchdog

STEPS_PER_EPOCH, EPOCHS = 3, 2
SETTINGS = LoopSettings(
    epochs=EPOCHS,
    evaluate_every_epochs=1,
    early_stop_epochs=None,
    checkpoint_every_epochs=1,
    checkpoint_every_steps=2,
    log_every_steps=1,
    max_skipped_steps=0,
)
STEP = make_step()  # of the shapes that test_step.py compiles


@dataclass(frozen=True)
class Batch:
    features: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    num_labels: np.ndarray
    ids: tuple[str, ...] = tuple("abcdefgh")
    epoch: int = 0
    problems: Mapping[int, str] = field(default_factory=dict)

    def lacking(self, problems: Mapping[int, str]) -> "Batch":
        return replace(
            self, ids=tuple("" if row in problems else id for row, id in enumerate(self.ids)), problems=problems
        )


def a_batch(**changes: Any) -> Batch:
    batch = make_batch()
    return Batch(**vars(batch) | changes)


def digest(arrays: dict) -> str:
    return describe_state(0, None, {}, flatten(arrays), empty=empty_dicts(arrays))["digest"]


@dataclass
class Run:
    """A loop on eight utterances; what it recorded, and what a test does in between."""

    save: Any = lambda kept: None
    evaluation: Any = lambda: None
    batch: Batch = field(default_factory=a_batch)
    events: list[tuple[str, int]] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    stop: StopRequest = field(default_factory=StopRequest)
    signal_in_step: int = 0
    processes: Processes = field(default_factory=Processes)
    figures: list[tuple[str, dict]] = field(default_factory=list)
    bests: list[tuple[int, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=lambda: [0.5] * EPOCHS)

    def loop(self) -> Loop:
        def checkpoint(kept: Kept) -> None:
            self.save(kept)
            self.kept.append(kept)

        return Loop(
            STEP,
            batches=self.batches,
            steps_per_epoch=STEPS_PER_EPOCH,
            evaluate=self.evaluate,
            recorder=Recorder(
                self.record,
                checkpoint,
                lambda table: None,
                lambda step, words: "",
                lambda step, details: self.bests.append((step, details)),
            ),
            audio_seconds=lambda batch: 1.0,
            settings=SETTINGS,
            progress=Progress(total_steps=EPOCHS * STEPS_PER_EPOCH),
            watcher=Watcher(STEP, frames=set()),
            stop=self.stop,
            watchdog=Watchdog(None),
            processes=self.processes,
        )

    def record(self, kind: str, step: int, **figures: Any) -> None:
        self.events.append((kind, step))
        self.figures.append((kind, figures))

    def batches(self, first: int) -> Iterator[tuple[Any, float]]:
        for number in range(first + 1, EPOCHS * STEPS_PER_EPOCH + 1):
            if number == self.signal_in_step:
                self.stop.exit_code = 75
            yield self.batch, 0.0

    def evaluate(self, weights: Any, statistics: Any) -> DevResult:
        self.evaluation()
        return DevResult(
            {"cer": self.rates.pop(0), "wer": 0.5, "loss": 1.0}, None, details=f"rates left: {len(self.rates)}"
        )


def resumed(kept: Kept) -> Replicas:
    return STEP.replicate(STEP.initial_state().from_dict(kept.arrays))


@pytest.fixture(scope="module")
def undisturbed():
    run = Run()
    assert run.loop().run(STEP.start(), Best()).exit_code == 0
    return run


def test_what_is_saved_is_the_state_of_its_step_whatever_training_does_meanwhile(undisturbed):
    run = Run(save=lambda kept: time.sleep(0.2))
    run.loop().run(STEP.start(), Best())
    expected = {kept.step: digest(kept.arrays) for kept in undisturbed.kept}
    assert {kept.step: digest(kept.arrays) for kept in run.kept} == expected
    assert {kept.step: int(kept.arrays["step"]) for kept in run.kept} == {step: step for step in (2, 3, 4, 6)}
    assert len(set(expected.values())) == 4


@pytest.mark.parametrize(
    ("rates", "steps"), [([0.5, 0.4], [3, 6]), ([0.4, 0.5], [3]), ([0.5, 0.5], [3])], ids=["falls", "rises", "is equal"]
)
def test_details_are_left_of_each_evaluation_that_is_better_than_all_before_it(rates, steps):
    run = Run(rates=rates)
    run.loop().run(STEP.start(), Best())
    assert [step for step, _ in run.bests] == steps
    assert [details for _, details in run.bests] == ["rates left: 1", "rates left: 0"][: len(steps)]


def test_a_step_does_not_wait_for_the_checkpoint_before_it():
    order = []

    def save(kept: Kept) -> None:
        time.sleep(0.5)
        order.append(("saved", kept.step))

    run = Run(save=save)
    run.events = order
    run.loop().run(STEP.start(), Best())
    assert order.index(("saved", 2)) > order.index(("step", 3))
    assert order.index(("saved", 2)) < order.index(("saved", 3))


def test_a_checkpoint_that_failed_ends_the_loop_with_its_error_and_nothing_is_saved_after_it():
    def fail(kept: Kept) -> None:
        raise DataError("step_000002: the checkpoint could not be written")

    run = Run(save=fail)
    with pytest.raises(DataError, match="step_000002"):
        run.loop().run(STEP.start(), Best())
    assert run.kept == []
    assert ("step", 5) not in run.events  # at the latest, the next checkpoint asks


def test_the_loop_waits_for_the_writer_however_it_ends():
    def slow(kept: Kept) -> None:
        time.sleep(0.3)

    done = Run(save=slow)
    done.loop().run(STEP.start(), Best())
    assert done.kept[-1].step == 6
    stopped = Run(save=slow, signal_in_step=1)
    assert stopped.loop().run(STEP.start(), Best()).exit_code == 75
    assert [kept.step for kept in stopped.kept] == [1]
    diverged = Run(save=slow)

    def spoil(kept: Kept) -> None:
        diverged.batch.features[:] = np.nan
        slow(kept)

    diverged.save = spoil
    with pytest.raises(DivergedError, match="not finite"):
        diverged.loop().run(STEP.start(), Best())
    assert [kept.step for kept in diverged.kept] == [2]


@pytest.mark.parametrize(("step", "is_due"), [(1, False), (2, True)])
def test_a_checkpoint_that_a_signal_alone_asked_for_says_so(step, is_due):
    run = Run(signal_in_step=step)
    outcome = run.loop().run(STEP.start(), Best())
    assert (outcome.exit_code, outcome.reason) == (75, f"stopped by a signal after step {step}")
    assert [(kept.step, kept.is_due, kept.is_evaluated) for kept in run.kept] == [(step, is_due, True)]


def test_an_evaluation_given_up_for_a_signal_is_made_up_for_and_the_records_are_those_of_an_undisturbed_run(
    undisturbed,
):
    run = Run()

    def stopped_on_the_way() -> None:
        run.stop.exit_code = 75
        raise Stopped(75, "a signal")  # as StopRequest.watched does

    run.evaluation = stopped_on_the_way
    outcome = run.loop().run(STEP.start(), Best())
    assert (outcome.exit_code, outcome.reason) == (75, "stopped by a signal after step 3")
    last = run.kept[-1]
    assert (last.step, last.is_due, last.is_evaluated, last.best) == (3, False, False, Best())
    again = Run(events=run.events, kept=run.kept)
    again.loop().run(resumed(last), last.best, is_evaluated=last.is_evaluated)
    assert run.events == undisturbed.events
    kept = [(kept.step, kept.best, digest(kept.arrays)) for kept in run.kept if kept.is_due]
    assert kept == [(kept.step, kept.best, digest(kept.arrays)) for kept in undisturbed.kept]


@pytest.mark.parametrize("step", [3, 6])
def test_a_signal_in_a_step_leaves_the_evaluation_after_it_to_the_next_run(undisturbed, step):
    run = Run(signal_in_step=step)
    assert run.loop().run(STEP.start(), Best()).exit_code == 75
    last = run.kept[-1]
    assert (last.step, last.is_due, last.is_evaluated) == (step, False, False)
    again = Run(events=run.events, kept=run.kept)
    end = again.loop().run(resumed(last), last.best, is_evaluated=last.is_evaluated)
    assert (end.exit_code, end.reason) == (0, "all epochs done")
    assert run.events == undisturbed.events


def test_rows_that_another_process_could_not_make_are_told_and_counted_as_a_process_alone_does():
    said = []

    class Two(Processes):
        def say(self, value: Any) -> list[Any]:
            if value and not isinstance(value[0], tuple):  # hashes, which the other has too
                return [value] * 2
            said.append(value)
            return [value, [[6, "utterance 'g': cut off"]]]

    run = Run(batch=a_batch(problems={1: "utterance 'b': no such file"}), processes=Two(0, 2))
    run.loop().run(STEP.start(), Best())
    steps = EPOCHS * STEPS_PER_EPOCH
    assert said == [[(1, "utterance 'b': no such file")]] * steps
    told = [figures["utterances"] for kind, figures in run.figures if kind == "unreadable"]
    assert told == [["utterance 'b': no such file", "utterance 'g': cut off"]] * steps
    assert [figures["utterances"] for kind, figures in run.figures if kind == "step"] == [6] * steps
