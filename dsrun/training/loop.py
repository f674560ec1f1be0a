"""The loop: steps, evaluation at the end of an epoch, checkpoints, and an orderly stop.

What it promises: the state after step n is a function of the config alone, so a run that was killed and started again ends
with the same bits as one that was not. Therefore a checkpoint holds the training state and the best-so-far and nothing of the
loader or the random generator; what was recorded after the checkpoint is cut off on resume and happens again, identically.

Step n+1 is dispatched before step n's figures are read, so the device does not wait for the log. What is watched of a step is
dispatched before its update and read with its figures; it changes no bit (`watch.py`). The state's hash is dispatched behind the
update and read with the figures too (`state_hash.py`); a digest waits for the state and copies it. A checkpoint's state is copied to
the host, and written by a thread beside the steps that follow (`saver.py`); however the loop ends, it waits for that.

A signal ends the loop after the step it came in, or in an evaluation after a batch (`stop.py`). An evaluation that was given up is
made up for by the resumed run, before its first step, so the results are those of a run that was not stopped.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from dsrun.errors import DivergedError, DsrunError
from dsrun.record.magnitudes import Magnitudes
from dsrun.training.preflight import DEV_ADVICE, explaining_lack_of_memory
from dsrun.training.processes import Processes, StepAgreement
from dsrun.training.progress import Progress
from dsrun.training.saver import Saver, host_copy
from dsrun.training.state import Replicas, StepRecord
from dsrun.training.state_digest import digest_of_tensors
from dsrun.training.state_hash import StateHasher, as_words, require_equal_copies
from dsrun.training.step import TrainStep, split_batch
from dsrun.training.stop import Stopped, StopRequest
from dsrun.training.watch import Observation, Watcher
from dsrun.training.watchdog import Watchdog


@dataclass(frozen=True)
class Best:
    """Best dev character error rate so far, the step that had it, and how many evaluations ago that was."""

    step: int = 0
    cer: float | None = None
    evaluations_without_gain: int = 0

    def after(self, step: int, cer: float) -> "Best":
        """Best-so-far once the evaluation after `step` gave `cer`; an equal score is no gain."""
        if self.cer is None or cer < self.cer:
            return Best(step, cer, 0)
        return replace(self, evaluations_without_gain=self.evaluations_without_gain + 1)


@dataclass(frozen=True)
class LoopSettings:
    """When to do what. Epochs count passes over the training manifest; None switches a rule off."""

    epochs: int
    evaluate_every_epochs: int
    early_stop_epochs: int | None
    checkpoint_every_epochs: int
    checkpoint_every_steps: int | None
    log_every_steps: int
    max_skipped_steps: int
    watch_every_steps: int | None = None
    hash_every_steps: int | None = None
    digest_every_steps: int | None = None


@dataclass(frozen=True)
class DevResult:
    """What an evaluation hands to the loop: figures for the event, one (reference, hypothesis) to look at, and details, of which the
    recorder makes a file if it is a new best."""

    summary: dict[str, Any]
    sample: tuple[str, str] | None
    details: Any = None


@dataclass(frozen=True)
class Kept:
    """What a checkpoint is made of.

    Fields:
        step: updates made.
        arrays: the state as `TrainState.to_dict` gives it, on the host.
        best: as of this step.
        is_due: an undisturbed run keeps it too; otherwise a signal alone asked for it.
        is_evaluated: False where an evaluation was due after this step and a signal came first.
    """

    step: int
    arrays: dict[str, Any]
    best: Best
    is_due: bool
    is_evaluated: bool


@dataclass(frozen=True)
class Recorder:
    """Where the loop writes: an event line, a checkpoint with its event (called in a thread), what was watched, the hashes of a step's
    tensors (returns the one for all), and the details of an evaluation that is the best so far."""

    event: Callable[..., None]
    checkpoint: Callable[[Kept], None]
    magnitudes: Callable[[Magnitudes], None]
    hashes: Callable[[int, np.ndarray], str]
    best: Callable[[int, Any], None] = lambda *_: None


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: 0 done, 75 stopped by a signal, 130 by Ctrl-C, the last two after a checkpoint."""

    state: Replicas
    best: Best
    exit_code: int
    reason: str


@dataclass(frozen=True)
class _Pending:
    """A dispatched step whose figures have not been read yet."""

    step: int
    record: StepRecord
    batch: Any
    wait_seconds: float
    observation: Observation | None
    hashes: Any
    lacks_rows: Callable[[], bool] | None  # of several processes: in any of them


class Loop:
    """Trains from a state to the end of the last epoch.

    Args:
        step: the compiled training step.
        batches: `batches(first_step)` yields (batch, seconds waited) from that step on, to the end of the run.
        steps_per_epoch: constant over the run.
        evaluate: dev result for weights and statistics.
        recorder: where events and checkpoints go.
        audio_seconds: seconds of audio in a batch, for the speed shown.
        watcher: observes the first step and each `watch_every_steps`-th.
        stop: noted signals.
        watchdog: told what is being done.
        processes: with whom to agree on a stop, and to compare digests.
    """

    def __init__(
        self,
        step: TrainStep,
        *,
        batches: Callable[[int], Iterator[tuple[Any, float]]],
        steps_per_epoch: int,
        evaluate: Callable[[Any, Any], DevResult],
        recorder: Recorder,
        audio_seconds: Callable[[Any], float],
        settings: LoopSettings,
        progress: Progress,
        watcher: Watcher,
        stop: StopRequest,
        watchdog: Watchdog,
        processes: Processes | None = None,
    ):
        self.step, self.batches, self.steps_per_epoch = step, batches, steps_per_epoch
        self.evaluate, self.recorder, self.audio_seconds = evaluate, recorder, audio_seconds
        self.settings, self.progress, self.watcher = settings, progress, watcher
        self.stop, self.watchdog, self.saver = stop, watchdog, Saver()
        self.total_steps = settings.epochs * steps_per_epoch
        self._compiled: set[tuple[int, ...]] = set()
        self._waited = self._spent = 0.0  # seconds since the last evaluation: for data, and in all
        self._unreadable = 0  # utterances since the last epoch ended
        self._hash = StateHasher(len(step.devices))
        self.processes = processes or Processes()
        self._agreement = None if self.processes.is_alone else StepAgreement(step.reduction.devices)

    def run(self, state: Replicas, best: Best, *, is_evaluated: bool = True) -> Outcome:
        """Train on from `state`.

        Args:
            is_evaluated: False where the run was stopped before the evaluation that is due after `state`'s step.

        Raises:
            DivergedError: more steps in a row than `max_skipped_steps` were not finite at the smallest loss scale; names step,
                utterances and loss scale. The last checkpoint stays.
            DataError: a checkpoint or a record could not be written.
            UsageError: a device's memory does not suffice.
            Stopped: by a signal before the first step was made, or by a second Ctrl-C.
        """
        try:
            with explaining_lack_of_memory(lambda: self.watchdog.doing):
                outcome = self._run(state, best, is_evaluated)
        except Exception:
            try:
                self.saver.wait()
            except DsrunError as second:  # the first one ends the run, and on a full disk the log takes neither
                with suppress(DsrunError):
                    self.progress.message(str(second))
            raise
        self.watchdog.phase("writing a checkpoint")
        self.saver.wait()
        return outcome

    def _run(self, state: Replicas, best: Best, is_evaluated: bool) -> Outcome:
        number, pending = int(state.first.step), None
        self._last_finish = time.monotonic()
        if self._is_early_stop(best):
            return Outcome(state, best, 0, "stopped early")
        if not is_evaluated:
            self.stop.end_nothing_new()
            best, outcome = self._after(state, number, best, self._agreed(self.stop.exit_code))
            if outcome:
                return outcome
        for batch, wait in self.batches(number):
            number += 1
            state, record, observation = self._step(state, batch, number)
            self.stop.end_nothing_new()
            # Read once: the signal may come between two readings.
            stopping = self._agreed(self.stop.exit_code, lacks_rows=bool(batch.problems))
            self._finish(pending)
            hashes = self._hash(state.first) if _is_multiple(number, self.settings.hash_every_steps) else None
            lacks_rows = self._agreement.has_lack() if self._agreement else None
            pending = _Pending(number, record, batch, wait, observation, hashes, lacks_rows)
            self.saver.check()
            is_digested = _is_multiple(number, self.settings.digest_every_steps)
            has_more = number % self.steps_per_epoch == 0 or stopping or self._is_checkpoint_step(number)
            if is_digested or has_more:
                self._finish(pending)
                pending = None
            if is_digested:
                self._digest(state, number)
            if has_more:
                best, outcome = self._after(state, number, best, stopping)
                if outcome:
                    return outcome
                self._last_finish = time.monotonic()  # what was done there is not the next step's time
            self.watchdog.phase(f"waiting for the data of step {number + 1}")
        self._finish(pending)
        return Outcome(state, best, 0, "all epochs done")

    def _after(self, state: Replicas, number: int, best: Best, stopping: int) -> tuple[Best, Outcome | None]:
        """What is due after a step: evaluation, then checkpoint; and the outcome if it was the last one."""
        epoch, steps_into = divmod(number, self.steps_per_epoch)
        is_epoch_end = steps_into == 0
        is_evaluated = True
        if is_epoch_end and self._is_due(epoch, self.settings.evaluate_every_epochs):
            found = None if stopping else self._evaluate(state, number, epoch, best)
            best, is_evaluated = found or best, found is not None
            stopping = stopping or self.stop.exit_code * (not is_evaluated)
        is_last = is_evaluated and (number == self.total_steps or self._is_early_stop(best))
        is_due = is_evaluated and (
            is_last
            or self._is_checkpoint_step(number)
            or (is_epoch_end and self._is_due(epoch, self.settings.checkpoint_every_epochs))
            or (is_epoch_end and best.step == number)
        )
        if stopping or is_due:
            self._checkpoint(state, number, best, is_due=is_due, is_evaluated=is_evaluated)
        if is_last:
            return best, Outcome(state, best, 0, "stopped early" if number < self.total_steps else "all epochs done")
        if stopping:
            return best, Outcome(state, best, stopping, f"stopped by a signal after step {number}")
        return best, None

    def _step(self, state: Replicas, batch: Any, number: int) -> tuple[Replicas, StepRecord, Observation | None]:
        shape = (*batch.features.shape, *batch.labels.shape)
        self.watchdog.phase(f"{'training' if shape in self._compiled else 'compiling for'} step {number}")
        shards = split_batch(batch, self.step.shards)
        total = self.step.total(state, shards)
        # Before the update, which takes the state's buffers.
        observation = self.watcher(state.first, total[0], shards[0]) if self._is_watched(number) else None
        state, record = self.step.update(state, total)
        self._compiled.add(shape)
        return state, record, observation

    def _agreed(self, exit_code: int, *, lacks_rows: bool = False) -> int:
        """This process's wish to stop; of several processes all wishes, which reach them a step later."""
        return self._agreement(exit_code, lacks_rows=lacks_rows) if self._agreement else exit_code

    def _with_all_problems(self, pending: _Pending) -> Any:
        """The batch without the rows that any process could not make; each knows of its own, and tells the others if there are any.

        Raises:
            DataError: in all processes, if no row is left.
        """
        if pending.lacks_rows is None or not pending.lacks_rows():
            return pending.batch
        said = self.processes.say(sorted(pending.batch.problems.items()))
        return pending.batch.lacking({row: problem for own in said for row, problem in own})

    def _require_equal_copies(self, state: Replicas, number: int) -> None:
        """See that all devices of all processes hold the same state."""
        require_equal_copies(
            self._hash, state.copies, step=number, say=None if self.processes.is_alone else self.processes.say
        )

    def _is_watched(self, number: int) -> bool:
        every = self.settings.watch_every_steps
        return every is not None and (number == 1 or number % every == 0)

    def _is_due(self, epoch: int, every: int) -> bool:
        return epoch % every == 0 or epoch == self.settings.epochs

    def _is_checkpoint_step(self, number: int) -> bool:
        return _is_multiple(number, self.settings.checkpoint_every_steps)

    def _is_early_stop(self, best: Best) -> bool:
        patience = self.settings.early_stop_epochs
        return patience is not None and best.evaluations_without_gain * self.settings.evaluate_every_epochs >= patience

    def _finish(self, pending: _Pending | None) -> None:
        """Read a step's figures, log them, and stop the run if too many in a row are not finite."""
        if pending is None:
            return
        record = {name: value.item() for name, value in _host(pending.record).items()}
        batch = self._with_all_problems(pending)
        utterances = sum(bool(id) for id in batch.ids)
        now = time.monotonic()
        seconds, self._last_finish = now - self._last_finish, now
        self._waited, self._spent = self._waited + pending.wait_seconds, self._spent + seconds
        audio = self.audio_seconds(batch)
        is_finite = record["finite"]
        hashed = {}
        if pending.hashes is not None:
            hashed["state_hash"] = self.recorder.hashes(pending.step, as_words(pending.hashes))
        if pending.step % self.settings.log_every_steps == 0 or not is_finite:
            self.recorder.event(
                "step",
                pending.step,
                **record,
                **hashed,
                seconds=seconds,
                epoch=batch.epoch,
                utterances=utterances,
                audio_seconds=audio,
                data_wait_seconds=pending.wait_seconds,
            )
        self._tell_unreadable(batch, pending.step)
        if pending.observation is not None:
            magnitudes = self.watcher.read(pending.observation, step=pending.step, loss_scale=record["loss_scale"])
            self.recorder.magnitudes(magnitudes)
            self.progress.watched(magnitudes.figures(magnitudes.kind == "update"))
        self.progress.step(
            pending.step, record, utterances=utterances, audio_seconds=audio, wait_seconds=pending.wait_seconds
        )
        if record["skipped_steps"] > self.settings.max_skipped_steps:
            raise DivergedError(
                f"step {pending.step}: loss {record['loss']}, gradient norm {record['grad_norm']}: not finite, "
                f"{record['skipped_steps']} steps skipped in a row (training.max_skipped_steps "
                f"{self.settings.max_skipped_steps}), loss scale {record['loss_scale']:g}. "
                f"Utterances: {', '.join(id for id in batch.ids if id)}. Checkpoints from before are kept; "
                "lower optimizer.learning_rate or training.clip_norm, use a format with more range, or a dynamic loss scale."
            )

    def _tell_unreadable(self, batch: Any, step: int) -> None:
        """Of utterances that a batch lacks: an event each time, and a line at the end of the epoch."""
        if batch.problems:
            self.recorder.event("unreadable", step, utterances=list(batch.problems.values()))
            self._unreadable += len(batch.problems)
        if self._unreadable and step % self.steps_per_epoch == 0:
            self.progress.message(
                f"epoch {step // self.steps_per_epoch}: {self._unreadable} utterances left out, their recordings cannot be used "
                "(events.jsonl)"
            )
            self._unreadable = 0

    def _evaluate(self, state: Replicas, number: int, epoch: int, best: Best) -> Best | None:
        """Best so far after an evaluation; None if a signal ended it."""
        self.watchdog.phase(f"evaluating after step {number}")
        try:
            with explaining_lack_of_memory(lambda: self.watchdog.doing, DEV_ADVICE):
                result = self.evaluate(self.step.weights(state.first), state.first.statistics)
        except Stopped:
            if self.stop.at_once:
                raise
            return None
        best = best.after(number, result.summary["cer"])
        if best.step == number:
            self.recorder.best(number, result.details)
        self.recorder.event("eval", number, **result.summary, epoch=epoch)
        self.progress.evaluation(result.summary, sample=result.sample)
        waited, self._waited, self._spent = self._waited / max(self._spent, 1e-9), 0.0, 0.0
        mark = "  best so far" if best.step == number else ""
        self.progress.message(
            f"epoch {epoch}/{self.settings.epochs}  step {number}  dev loss {_figure(result.summary['loss'])}"
            f"  CER {result.summary['cer']:.3f}  WER {result.summary['wer']:.3f}  data wait {waited:.1%}{mark}"
        )
        if result.sample:
            self.progress.message(f"    said: {result.sample[0]}\n    read: {result.sample[1]}")
        return best

    def _digest(self, state: Replicas, number: int) -> None:
        """Record the SHA-256 of all bits, once all devices are seen to have the same; before the next update takes the buffers."""
        self.watchdog.phase(f"digesting the state after step {number}")
        self._require_equal_copies(state, number)
        self.recorder.event("digest", number, digest=digest_of_tensors(host_copy(state.first.to_dict())))

    def _checkpoint(self, state: Replicas, number: int, best: Best, *, is_due: bool, is_evaluated: bool) -> None:
        self.watchdog.phase("writing the checkpoint before this one")
        self.saver.wait()
        self.watchdog.phase(f"copying the state after step {number}")
        self._require_equal_copies(state, number)
        # Before the next update, which takes the state's buffers.
        kept = Kept(number, host_copy(state.first.to_dict()), best, is_due, is_evaluated)
        self.saver.submit(partial(self.recorder.checkpoint, kept))


def _is_multiple(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def _host(record: StepRecord) -> dict[str, Any]:
    values = jax.device_get(record)
    return {field.name: getattr(values, field.name) for field in fields(values)}


def _figure(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"
