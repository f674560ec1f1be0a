"""What `dsrun train` does: a config becomes a run folder.

On the roof beside `cli.py`, which only reads options and prints. What a finished run is used for is `trained.py`'s and its neighbours',
inspecting data and machine `inspection.py`'s.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dsrun import build
from dsrun.beginning import KEY, Origin, find_origin, refuse_itself
from dsrun.config import Config, Resolved, config_hash, default_run_dir, to_yaml
from dsrun.costs import describe_bytes, training_costs
from dsrun.dev_results import DevResults, all_manifests, own_manifests
from dsrun.errors import DataError, DsrunError, UsageError
from dsrun.evaluation.decoders import GreedyDecoder
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.results import own_results, step_of_results
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import ModelSettings, describe_gru, parameter_table
from dsrun.record import (
    EventLog,
    LineFile,
    RunDir,
    autotune_digest,
    autotune_flags,
    differences,
    keep_autotune_results,
    provenance,
    read_events,
    read_provenance,
    trusted_folder,
    write_atomically,
)
from dsrun.record.magnitudes import Magnitudes, remove_magnitudes_after
from dsrun.record.provenance import decisive
from dsrun.record.run_dir import Mode
from dsrun.record.runtime import processors
from dsrun.record.tensor_hashes import TensorHashLog
from dsrun.scoring import evaluate_run
from dsrun.speech import (
    Alphabet,
    Batcher,
    Normalization,
    file_digest,
    prefetch,
)
from dsrun.trained import STOP, digests_at_the_start, require_complete
from dsrun.training import checkpoint as checkpoints
from dsrun.training.loop import Best, DevResult, Kept, Loop, LoopSettings, Outcome, Recorder
from dsrun.training.preflight import Need, preflight, preflight_evaluation
from dsrun.training.processes import Group, LostProcessError, Processes, join, noticing_lost_processes
from dsrun.training.progress import Progress
from dsrun.training.state import Replicas, TrainState
from dsrun.training.state_digest import digest_of_tensors
from dsrun.training.state_hash import tensor_meanings, tensor_names
from dsrun.training.step import TrainStep
from dsrun.training.stop import Stopped, StopRequest
from dsrun.training.watch import Watcher
from dsrun.training.watchdog import Watchdog


@dataclass(frozen=True)
class TrainOutcome:
    """How `train_run` ended, and after the last step the evaluation of the best checkpoint on test (else dev)."""

    exit_code: int
    report: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """Everything that a config describes, ready to train."""

    data: build.TrainingData
    settings: ModelSettings
    batcher: Batcher
    dev_batcher: Batcher
    step: TrainStep
    evaluator: Evaluator
    ctc: str  # which code computes the loss, in words
    origin: Origin | None = None  # the run that it begins, or began, with


def prepare(
    config: Config,
    *,
    devices: int | None,
    autotune: Mapping[str, Path] | None = None,
    watchdog: Watchdog | None = None,
    processes: Processes | None = None,
    resumed: RunDir | None = None,
) -> Experiment:
    """Load the data and make the step; compiles nothing yet.

    Args:
        devices: how many of this process to use; None takes all GPUs, or on a CPU as many as there are cores, at most one a shard.
        autotune: where measured choices of kernels are kept (`autotune_flags`), if the config has them measured.
        watchdog: told of each utterance that is loaded.
        processes: that share the work; each needs the data of its own shards only.
        resumed: the run folder, from whose checkpoint training goes on if it has one.

    Raises:
        UsageError: more devices than there are, or than shards; `init_from` cannot be.
        DataError: what `build_training_data` finds; a damaged checkpoint to begin with.
    """
    shards = config.batches.shards
    if devices is not None and devices > shards:
        raise UsageError(
            f"--devices {devices}: a step has {shards} shards (batches.shards), so {shards} devices at most."
        )
    build.start_runtime(config, devices=min(devices or processors(), shards), autotune=autotune)
    chosen = _chosen_devices(devices, shards)
    origin = find_origin(config, resumed=resumed)
    normalization = origin.normalization if origin else None
    data = build.build_training_data(config, normalization=normalization, on_progress=_loading_line(watchdog))
    if origin and origin.beginning:
        origin.require_alphabet(data.alphabet)
    settings = build.build_model_settings(config, num_classes=data.alphabet.num_classes)
    policy = build.build_policy(config)
    build.check_rules(policy, settings)
    build.check_residuals(policy, settings)
    batcher = build.build_batcher(config, data.train, purpose="train")
    step = build.build_step(
        config,
        settings,
        policy,
        steps_per_epoch=batcher.batches_per_epoch,
        labels=batcher.most_labels,
        devices=chosen,
        beginning=origin.beginning if origin else None,
    )
    ctc = build.describe_ctc_kernel(config, step, labels=batcher.most_labels)
    if processes and not processes.is_alone:
        rows = config.batches.global_batch // shards
        batcher.rows = range(step.own_shards.start * rows, step.own_shards.stop * rows)
    dev_batcher = build.build_batcher(config, data.dev, purpose="evaluate")
    return Experiment(
        data, settings, batcher, dev_batcher, step, Evaluator(trained_pass(settings, step.policy)), ctc, origin
    )


def _chosen_devices(count: int | None, shards: int) -> list[jax.Device]:
    """The first devices of every process, in order of processes; of one process at most one a shard."""
    own = jax.local_devices()
    if count is not None and count > len(own):
        raise UsageError(f"--devices {count}: this machine has {len(own)} ({own[0].device_kind}).")
    count = count or min(len(own), shards)
    by_process: dict[int, list[jax.Device]] = {}
    for device in sorted(jax.devices(), key=lambda device: (device.process_index, device.id)):
        by_process.setdefault(device.process_index, []).append(device)
    chosen = [device for devices in by_process.values() for device in devices[:count]]
    if len(chosen) > shards:
        raise UsageError(
            f"{len(by_process)} processes with {count} devices each: a step has {shards} shards (batches.shards), so {shards} devices "
            "at most. Start fewer processes, or choose --devices for each."
        )
    return chosen


def describe_determinism(config: Config) -> str | None:
    """What a run that is not strict must say at its start."""
    if config.determinism == "off":
        return "warning: determinism is off: the same command may give other bits each time, and no resume repeats what was lost"
    if config.determinism == "autotuned":
        on_cpu = jax.default_backend() == "cpu"
        return "determinism: autotuned; " + (
            "on a CPU nothing is autotuned, so this is strict"
            if on_cpu
            else "kernels are chosen by measured time and kept in autotune.textproto: another run folder may get other bits"
        )
    return None


def keep_compiled_programs(config: Config, run: RunDir) -> None:
    """Every program that this run compiles from now on is read from its folder, or left there, however short its compilation was.

    A folder of its own for each size of XLA's thread pool: that size decides bits on a CPU, and JAX's name for a program lacks it.
    """
    if not config.training.compilation_cache:
        return
    from jax.experimental.compilation_cache import compilation_cache

    pool = "any" if config.determinism == "off" else config.batches.shards
    folder, note = trusted_folder(run.compiled)
    if note:
        print(note, file=sys.stderr)
    (folder / f"pool_{pool}").mkdir(mode=0o700, exist_ok=True)
    compilation_cache.reset_cache()  # JAX looks at the folder once, and may have compiled something by now
    jax.config.update("jax_compilation_cache_dir", str((folder / f"pool_{pool}").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def train_run(
    resolved: Resolved,
    *,
    run_dir: Path | None,
    devices: int | None,
    mode: Mode,
    command: Sequence[str],
    stop: StopRequest,
    accept_changes: bool = False,
    group: Group | None = None,
) -> TrainOutcome:
    """Train a config in its run folder, from the last checkpoint if there is one, and score the best checkpoint.

    Of several processes the first does that; the others train with it and end without a report.

    Args:
        group: where this process meets others; None where it is alone.
        accept_changes: resume although code, versions, machine or flags are not those that the run began with.
        stop: entered, so that a signal at any moment is an orderly end.

    Raises:
        UsageError: the folder is complete, in use, or of another config.
        DataError: data or checkpoints cannot be used, or the disk is full.
        DivergedError: a step was not finite.
        Stopped: by a signal, with nothing new to save.
    """
    config, run = resolved.config, RunDir(run_dir or default_run_dir(resolved))
    run.lasting = {"determinism": config.determinism}
    refuse_itself(config, run)
    stop.begin_nothing_new()
    with _watchdog(config) as watchdog, run:
        watchdog.phase("meeting the other processes")
        processes = join(group, devices=devices)
        ready = partial(prepare, config, devices=devices, watchdog=watchdog, processes=processes)
        if not processes.is_leader:
            with processes.telling_failures(), noticing_lost_processes(processes):
                return _follow(config, run, ready, stop, watchdog, processes)
        watchdog.phase("loading data")
        # Before anything in the folder changes: --overwrite must not remove a run for one that cannot start.
        with processes.telling_failures():
            experiment = ready(autotune=autotune_flags(run.path, is_new=True)) if mode == "overwrite" else None
            run.open(to_yaml(config), command=command, mode=mode)
            if mode == "resume" and not checkpoints.available_steps(run.checkpoints):
                raise UsageError(f"{run.path}: holds no checkpoint to resume from. Leave --resume out to start.")
            processes.say("the run folder is ours")  # before the others load their data for nothing
        watchdog.log, before = run.log, run.read_status()
        stop.before_leaving = lambda exit_code: _note_end(run, before, Stopped(exit_code, "stopped by a signal"))
        try:
            with processes.telling_failures(), noticing_lost_processes(processes):
                experiment = experiment or ready(autotune=autotune_flags(run.path), resumed=run)
                keep_compiled_programs(config, run)
                outcome = _train(config, run, experiment, stop, watchdog, processes, accept_changes=accept_changes)
            if outcome.exit_code:
                return TrainOutcome(outcome.exit_code, {})
            stop.begin_nothing_new()
            watchdog.phase("scoring the best checkpoint")
            _complete_dev_results(run, config, outcome.best)
            report = evaluate_run(run.path, manifest=None, checkpoint="best")
            summary = {
                name: report[name] for name in ("manifest", "step", "cer", "wer", "cer_interval", "wer_interval")
            }
            stop.end_nothing_new()
            run.write_status(
                "done", step=int(outcome.state.first.step), exit_code=0, reason=outcome.reason, result=summary
            )
        except BaseException as error:
            if processes.is_alone and _is_refusal(run, error):  # others may be at work in the folder's cache
                run.forget()
            else:
                _note_end(run, before, error)
            raise
    return TrainOutcome(0, report)


def _watchdog(config: Config) -> Watchdog:
    minutes = config.training.watchdog_minutes
    return Watchdog(None if minutes is None else 60 * minutes)


def _is_refusal(run: RunDir, error: BaseException) -> bool:
    """Whether a mistake ended the command before anything was trained: a new folder then holds nothing worth keeping."""
    if not isinstance(error, UsageError | DataError):
        return False
    events = run.events.stat().st_size if run.events.is_file() else 0
    return not events and not checkpoints.available_steps(run.checkpoints)


def _note_end(run: RunDir, before: dict[str, Any], error: BaseException) -> None:
    """Write into status.json how a run ended that did not end well; `before` is what stood there when it began."""
    with suppress(OSError, DataError):  # a full disk must not hide the error that it caused
        now = run.read_status()
        step = now.get("step", 0)
        if isinstance(error, Stopped):
            run.write_status("stopped", step=step, exit_code=error.exit_code, reason=error.reason)
        elif isinstance(error, LostProcessError):
            run.write_status("stopped", step=step, exit_code=error.exit_code, reason="another process was lost")
        elif not (isinstance(error, DsrunError) and before and now == before):  # a refusal changes no record
            run.write_status("failed", step=step, exit_code=getattr(error, "exit_code", 1))


def _train(
    config: Config,
    run: RunDir,
    experiment: Experiment,
    stop: StopRequest,
    watchdog: Watchdog,
    processes: Processes,
    *,
    accept_changes: bool,
) -> Outcome:
    watchdog.phase("looking for a checkpoint")
    data, step = experiment.data, experiment.step
    facts = circumstances(config, step, experiment.origin)
    processes.require_same(_shared_facts(config, run, experiment, facts))
    is_resumed = bool(checkpoints.available_steps(run.checkpoints))
    changed = _changed_since_the_start(run, facts) if is_resumed else {}
    if changed and config.determinism != "off" and not accept_changes:
        raise UsageError(_changed_text(run, changed))
    if is_resumed:
        _require_same_files(run, data)
    else:
        write_atomically(run.recordings, _recordings_text(data))
    if not (is_resumed and run.provenance.is_file()):
        write_atomically(run.provenance, _json(facts))
    write_atomically(run.parameters, parameters_text(experiment.settings, config))
    write_atomically(run.costs, _json(training_costs(config, step, experiment.batcher)))
    loop_settings = build.build_loop_settings(config)
    total_steps = loop_settings.epochs * experiment.batcher.batches_per_epoch
    events = EventLog(run.events)
    dev_results = DevResults.of(run, config, facts["data"], GreedyDecoder(data.alphabet).describe())
    tensors = jax.eval_shape(step.initial_state)
    hashes = TensorHashLog(run.tensor_hashes, tensor_names(tensors), tensor_meanings(tensors))
    with (
        closing(events),
        closing(hashes),
        closing(LineFile(run.log)) as log,
        Progress(total_steps=total_steps, log=log) as progress,
    ):
        run.lasting |= {"devices": _lasting_devices(step, processes)}
        state, best, is_evaluated = _start_or_resume(run, experiment, events, hashes, progress)
        dev_results.settle(None if best.cer is None else best.step)
        number = int(state.step)
        processes.say({"step": number, "best": asdict(best), "is_evaluated": is_evaluated})
        processes.say("ready")  # the others have read that checkpoint
        processes.begin_training(step.reduction.devices)
        replicas = step.replicate(state)
        del state  # or the first device would hold it beside its replica for the whole run
        if changed:
            events.append("environment", number, changed=changed)
            progress.message(
                f"warning: {', '.join(changed)} differ from the start of the run (see events.jsonl), so bits may differ too"
            )
        if text := describe_determinism(config):
            progress.message(text)
        shapes = experiment.batcher.shapes()
        progress.message(
            f"{run.path}: {len(data.train.ids)} utterances, {experiment.batcher.batches_per_epoch} steps an epoch, {total_steps} in "
            f"all, {len(shapes)} batch shapes to compile, padding {experiment.batcher.padding_waste():.0%} of frames"
        )
        progress.message(f"GRU: {describe_gru(experiment.settings, step.policy)}")
        progress.message(f"CTC: {experiment.ctc}")
        progress.message(_describe_devices(step, processes))
        for note in data.notes:
            progress.message(f"note: {note}")
        run.write_status("running", step=number)
        recorder = Recorder(
            event=events.append,
            checkpoint=partial(_save, run, config, data, events, hashes),
            magnitudes=partial(_record_magnitudes, run, events),
            hashes=hashes.append,
            best=dev_results.keep,
        )
        loop = _loop(config, experiment, loop_settings, recorder, progress, stop, watchdog, processes)
        progress.message(_preflight(config, experiment, replicas, watchdog))
        if experiment.origin and not is_resumed:
            watchdog.phase("evaluating what training begins with")
            before = loop.evaluate(step.weights(replicas.first), replicas.first.statistics).summary
            events.append(KEY, 0, **experiment.origin.event(before))
            progress.message(experiment.origin.describe(before))
        outcome = loop.run(replicas, best, is_evaluated=is_evaluated)
        saved = "; the checkpoint is written, and the same command goes on from it" if outcome.exit_code else ""
        progress.message(f"{run.path}: {outcome.reason}{saved}")
        if outcome.exit_code:
            run.write_status(
                "stopped", step=int(outcome.state.first.step), exit_code=outcome.exit_code, reason=outcome.reason
            )
    processes.leave()
    return outcome


def _complete_dev_results(run: RunDir, config: Config, best: Best) -> None:
    """Evaluate the best checkpoint on dev where training left no results of it."""
    stem = own_results("dev", own_manifests(config), digests_at_the_start(run))
    if step_of_results(run.evaluation / f"{stem}.jsonl") != best.step:
        evaluate_run(run.path, manifest=Path(config.data.dev), checkpoint="best")


def _follow(
    config: Config,
    run: RunDir,
    ready: Callable[..., Experiment],
    stop: StopRequest,
    watchdog: Watchdog,
    processes: Processes,
) -> TrainOutcome:
    """What a process does that is not the leader: the same steps, from the leader's checkpoint; it writes nothing."""
    processes.say("waiting for the run folder")
    watchdog.phase("loading data")
    experiment = ready(autotune=autotune_flags(run.path, writes=False), resumed=run)
    step, batcher = experiment.step, experiment.batcher
    processes.require_same(_shared_facts(config, run, experiment, circumstances(config, step, experiment.origin)))
    start = processes.say(None)[0]
    state = step.initial_state()
    if start["step"]:
        try:
            found = checkpoints.restore(run.checkpoints, start["step"])
        except DataError as error:
            raise DataError(f"{error}\nThe run folder must lie where every process can read it.") from error
        state = state.from_dict(found.arrays["state"])
    processes.say("ready")
    processes.begin_training(step.reduction.devices)
    replicas = step.replicate(state)
    del state
    loop_settings = replace(build.build_loop_settings(config), watch_every_steps=None, hash_every_steps=None)
    total_steps = loop_settings.epochs * batcher.batches_per_epoch
    with open(os.devnull, "w") as nowhere, Progress(total_steps=total_steps, stream=nowhere) as progress:
        loop = _loop(config, experiment, loop_settings, SILENT, progress, stop, watchdog, processes)
        _preflight(config, experiment, replicas, watchdog)
        outcome = loop.run(replicas, Best(**start["best"]), is_evaluated=start["is_evaluated"])
        processes.leave()
    return TrainOutcome(outcome.exit_code, {})


def _preflight(config: Config, experiment: Experiment, replicas: Replicas, watchdog: Watchdog) -> str:
    """Run the largest batch shapes of training, and of dev and test, for their memory; the lines that say what they were."""
    step, rows = experiment.step, config.batches.global_batch
    watchdog.phase("compiling and trying the largest batch shapes")
    needs = preflight(step, replicas, experiment.batcher.shapes(), rows=rows)
    watchdog.phase("compiling and trying the largest evaluation shapes")
    shapes = [*build.evaluation_shapes(experiment.dev_batcher, "data.dev"), *experiment.data.test_shapes]
    evaluations = preflight_evaluation(experiment.evaluator, step, replicas, shapes, rows=rows)
    return "\n".join(
        [
            _memory_line(needs, "its gradient takes {} a device at most"),
            _memory_line(evaluations, "its evaluation takes {} on one device"),
        ]
    )


def _memory_line(needs: Sequence[Need], takes: str) -> str:
    largest = max(needs, key=lambda need: need.bytes_planned or 0)
    planned = largest.bytes_planned
    size = "" if planned is None else "; " + takes.format(f"{planned / 2**20:,.0f} MiB")
    of = f" of {largest.source}" if largest.source else ""
    return f"memory: {largest}{of} fits, the largest{size}"


def _loop(
    config: Config,
    experiment: Experiment,
    settings: LoopSettings,
    recorder: Recorder,
    progress: Progress,
    stop: StopRequest,
    watchdog: Watchdog,
    processes: Processes,
) -> Loop:
    """The loop of one process; what it writes is the recorder's and the progress's."""
    batcher = experiment.batcher
    total_steps = settings.epochs * batcher.batches_per_epoch
    return Loop(
        experiment.step,
        batches=lambda first: _batches(batcher, first, total_steps, config.batches.prefetch),
        steps_per_epoch=batcher.batches_per_epoch,
        evaluate=_dev_evaluation(experiment, partial(_noticed, stop if processes.is_alone else None, watchdog)),
        recorder=recorder,
        audio_seconds=lambda batch: batch.seconds,
        settings=settings,
        progress=progress,
        watcher=Watcher(experiment.step, frames=_watched_lengths(batcher)),
        stop=stop,
        watchdog=watchdog,
        processes=processes,
    )


SILENT = Recorder(
    event=lambda *_, **__: None, checkpoint=lambda _: None, magnitudes=lambda _: None, hashes=lambda *_: ""
)


def _shared_facts(config: Config, run: RunDir, experiment: Experiment, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in all processes of a run.

    Raises:
        UsageError: each process would measure kernels for itself.
    """
    data, choices = experiment.data, autotune_digest(run.path)
    if config.determinism == "autotuned" and jax.default_backend() == "gpu" and jax.process_count() > 1 and not choices:
        raise UsageError(
            f"{run.path}: determinism is autotuned and no choice of kernels is there yet; each process would make its own. Start with one "
            "process, and with several once there is a checkpoint; or write determinism: strict."
        )
    # In the manifests' order, and those are the same by their digests; dev's decide which checkpoint is best, so when to stop.
    recordings = "".join(
        f"{digest}\n"
        for files in (data.train.recordings, data.dev.recordings, _augmentation_recordings(data))
        for _, digest in files
    )
    arrays = data.normalization.to_arrays()
    content = [name.encode() + arrays[name].tobytes() for name in sorted(arrays)]
    return decisive(facts) | {
        "config": config_hash(config),
        "devices of a process": len(experiment.step.devices),
        "alphabet": "".join(data.alphabet.symbols),
        "recordings": hashlib.sha256(recordings.encode()).hexdigest(),
        "mean and deviation of the features": hashlib.sha256(b"".join(content)).hexdigest(),
        "choices of kernels": choices,
    }


def _lasting_devices(step: TrainStep, processes: Processes) -> dict[str, Any]:
    """What the training that was last at work here ran on: its speed, and no bit, follows from it."""
    devices = step.reduction.devices
    return {"kind": devices[0].device_kind, "count": len(devices), "processes": processes.count}


def _describe_devices(step: TrainStep, processes: Processes) -> str:
    """How many devices, and how their sums come together."""
    devices = step.reduction.devices
    where = f" in {processes.count} processes" if processes.count > 1 else ""
    is_tree = step.reduction.kind == "tree"
    how = "added in one tree" if is_tree else "added by the library's all-reduce, whose bits depend on their number"
    return f"devices: {len(devices)} ({devices[0].device_kind}){where}, {step.shards} shards {how}"


WATCHED_SHAPES = 2


def _watched_lengths(batcher: Batcher) -> set[int]:
    """Padded lengths of the buckets that most utterances are in; a function of the data, so a resumed run watches the same steps."""
    fullest = sorted(batcher.buckets, key=lambda bucket: (-len(bucket.members), bucket.frames))
    return {bucket.frames for bucket in fullest[:WATCHED_SHAPES]}


def _start_or_resume(
    run: RunDir, experiment: Experiment, events: EventLog, hashes: TensorHashLog, progress: Progress
) -> tuple[TrainState, Best, bool]:
    """State, best so far, and whether the evaluation after that step was made."""
    state = experiment.step.initial_state()
    found = checkpoints.restore(run.checkpoints, "last") if checkpoints.available_steps(run.checkpoints) else None
    if found is None:
        events.truncate_after(-1)
        hashes.truncate_after(-1)
        remove_magnitudes_after(run.magnitudes, -1)
        return state, Best(), True
    require_complete(found, run)
    _require_same_alphabet(found.meta, experiment.data.alphabet, run)
    _require_same_recordings(found.arrays["features"], experiment.data.normalization, run)
    is_evaluated = STOP not in found.meta or bool(found.meta[STOP].get("is_evaluated", True))
    # An evaluation that the checkpoint does not know of was recorded after it, and is made again.
    events.truncate_after(found.step, without=() if is_evaluated else ("eval",))
    hashes.truncate_after(found.step)
    remove_magnitudes_after(run.magnitudes, found.step)
    _restore_checkpoint_event(run, events, found)
    progress.message(f"{run.path}: resuming from step {found.step}")
    return state.from_dict(found.arrays["state"]), Best(**found.meta["best"]), is_evaluated


def _restore_checkpoint_event(run: RunDir, events: EventLog, found: checkpoints.Checkpoint) -> None:
    """A process killed between a checkpoint and its event leaves the one without the other."""
    kind = STOP if STOP in found.meta else "checkpoint"
    if not any(event["step"] == found.step and event["event"] == kind for event in read_events(run.events)):
        events.append(
            kind,
            found.step,
            digest=found.digest,
            state_digest=digest_of_tensors(found.arrays["state"]),
            best=asdict(Best(**found.meta["best"])),  # keys in the usual order
        )


def circumstances(config: Config, step: TrainStep, origin: Origin | None) -> dict[str, Any]:
    """Provenance of a run that trains here and now, as `provenance.json` holds it; `origin` is what it begins, or began, with."""
    products = step.policy.describe_products()
    facts = provenance(data=_data_digests(config), determinism=config.determinism, products=products)
    if step.reduction.kind == "all_reduce":  # the one case where devices change bits
        facts["devices"] = len(step.reduction.devices)
    if origin:
        facts[KEY] = origin.facts
    return json.loads(_json(facts))


def _changed_since_the_start(run: RunDir, facts: dict[str, Any]) -> dict[str, Any]:
    """What provenance says differently now, {name: [then, now]}; what changes no bit does not count.

    Raises:
        DataError: a manifest has changed: the rest of the run would be of another experiment.
    """
    if not run.provenance.is_file():
        return {}
    changed = differences(read_provenance(run.provenance), facts)
    for name in changed:
        if name.startswith("data."):
            raise DataError(
                f"{run.path}: {name} has changed since the run began. Restore it to go on, or train in another --run-dir."
            )
    return changed


def _changed_text(run: RunDir, changed: dict[str, Any]) -> str:
    lines = [f"  {name}: {then!r} then, {now!r} now" for name, (then, now) in changed.items()]
    return (
        f"{run.path}: the run began under other circumstances, so that bits may differ from here on:\n"
        + "\n".join(lines)
        + "\nRestore them, train in another --run-dir, or go on with --accept-changes (recorded in events.jsonl)."
    )


def _require_same_alphabet(meta: dict[str, Any], alphabet: Alphabet, run: RunDir) -> None:
    if tuple(meta["alphabet"]) != alphabet.symbols:
        raise DataError(
            f"{run.path}: the checkpoint's alphabet is {''.join(meta['alphabet'])!r}, the training text now gives "
            f"{''.join(alphabet.symbols)!r}. The data has changed since; train in another --run-dir."
        )


def _recordings_text(data: build.TrainingData) -> str:
    """What `recordings.sha256` holds: the files of train, its augmentation and dev, as `sha256sum --check` reads it (members of tar files
    apart)."""
    files = dict(sorted([*data.train.recordings, *_augmentation_recordings(data), *data.dev.recordings]))
    return "".join(f"{digest}  {path}\n" for path, digest in files.items())


def _augmentation_recordings(data: build.TrainingData) -> tuple[tuple[str, str], ...]:
    return data.train.augmentation.recordings if data.train.augmentation else ()


def _require_same_files(run: RunDir, data: build.TrainingData) -> None:
    """Raises DataError if a recording is not what it was when the run began."""
    if not run.recordings.is_file():  # a run from before this file was written
        return
    then = set(run.recordings.read_text(encoding="utf-8", errors="replace").splitlines())
    changed = [line.split("  ", 1)[-1] for line in _recordings_text(data).splitlines() if line not in then]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise DataError(
            f"{', '.join(changed[:5])}{more}: changed since the run in {run.path} began (sha256 in recordings.sha256). Restore "
            f"{'it' if len(changed) == 1 else 'them'} to go on, or train in another --run-dir."
        )


def _require_same_recordings(arrays: dict[str, Any], normalization: Normalization, run: RunDir) -> None:
    found = Normalization.from_arrays(arrays).to_arrays()
    if any(found[name].tobytes() != value.tobytes() for name, value in normalization.to_arrays().items()):
        raise DataError(
            f"{run.path}: the training recordings have another mean or deviation than at the checkpoint, so they (or the library "
            "that decodes them) have changed since the run began. Restore them to go on, or train in another --run-dir."
        )


def _record_magnitudes(run: RunDir, events: EventLog, magnitudes: Magnitudes) -> None:
    magnitudes.save(run.magnitudes)
    events.append("watch", magnitudes.step, **magnitudes.summary())


def _save(
    run: RunDir, config: Config, data: build.TrainingData, events: EventLog, hashes: TensorHashLog, kept: Kept
) -> None:
    """Write a checkpoint, then its event: in a thread, while training goes on."""
    events.sync()  # it must not outlive the records before it
    keep_autotune_results(run.path)
    hashes.sync()
    arrays = {"state": kept.arrays, "features": data.normalization.to_arrays()}
    meta = {"best": asdict(kept.best), "alphabet": list(data.alphabet.symbols)}
    if not kept.is_due:
        meta[STOP] = {"is_evaluated": kept.is_evaluated}
    digest = checkpoints.save(
        run.checkpoints,
        kept.step,
        arrays,
        meta,
        best=None if kept.best.cer is None else kept.best.step,
        keep=config.training.keep_last,
        keep_every=config.training.keep_every_steps,
    )
    events.append(
        "checkpoint" if kept.is_due else STOP,
        kept.step,
        digest=digest,
        state_digest=digest_of_tensors(kept.arrays),
        best=asdict(kept.best),
    )
    run.write_status("running", step=kept.step)


def _noticed(stop: StopRequest | None, watchdog: Watchdog, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches of an evaluation, which the watchdog counts, and a signal ends if `stop` is given: of several processes none may."""
    for batch in stop.watched(batches) if stop else batches:
        yield batch
        watchdog.moved()


def _batches(batcher: Batcher, first: int, total: int, depth: int) -> Iterator[tuple[Any, float]]:
    return prefetch(lambda: (batcher.batch(*batcher.position(step)) for step in range(first, total)), depth)


def _dev_evaluation(
    experiment: Experiment, noticed: Callable[[Iterator[Any]], Iterator[Any]]
) -> Callable[[Any, Any], DevResult]:
    data = experiment.data

    def evaluate(weights: Any, statistics: Any) -> DevResult:
        batches = noticed(experiment.dev_batcher.epoch(0))
        result = experiment.evaluator(
            weights, statistics, batches, references=data.dev_references, alphabet=data.alphabet
        )
        # The same utterance each time, a long one: progress is easier to see there.
        shown = max(result.utterances, key=lambda u: (len(u.reference), u.id))
        summary = result.summary(intervals=False) | {"manifest": "dev"}
        return DevResult(summary, (shown.reference, shown.hypothesis), details=result)

    return evaluate


def parameters_text(settings: ModelSettings, config: Config) -> str:
    """Table of parameters: path, shape, values, storage and master format with their rounding; and the sums."""
    policy = build.build_policy(config)
    rows = parameter_table(settings)
    lines = [
        f"{path:<44} {'x'.join(map(str, shape)):>16} {count:>12,}  {policy.rounding('storage', path)}, updated in "
        f"{policy.rounding('update', path)}"
        for path, shape, count in rows
    ]
    return "\n".join([*lines, f"{'all':<44} {'':>16} {sum(count for *_, count in rows):>12,}"]) + "\n"


def describe(resolved: Resolved, *, run_dir: Path | None, devices: int | None) -> dict[str, Any]:
    """What a dry run prints. Writes nothing, not even the feature cache."""
    config = resolved.config
    without_cache = config.model_copy(
        update={
            "data": config.data.model_copy(update={"cache": None, "infeasible": "drop"}),
        }
    )
    run = RunDir(run_dir or default_run_dir(resolved))
    is_begun = run.config.is_file() and run.config.read_bytes() == to_yaml(config).encode()
    experiment = prepare(without_cache, devices=devices, resumed=run if is_begun else None)
    rows = parameter_table(experiment.settings)
    count = sum(count for *_, count in rows)
    return {
        "config": str(resolved.path),
        "run_dir": str(run.path),
        "init_from": experiment.origin and experiment.origin.facts,
        "parameters": [{"path": path, "shape": "x".join(map(str, shape)), "count": n} for path, shape, n in rows],
        "parameter_count": count,
        "bytes": describe_bytes(config, experiment.step),
        "carrier": config.arithmetic.carrier,
        "determinism": config.determinism,
        "gru": describe_gru(experiment.settings, experiment.step.policy),
        "ctc": experiment.ctc,
        "batch_shapes": [
            {"rows": config.batches.global_batch, "frames": frames, "labels": labels, "utterances": len(bucket.members)}
            for bucket, (frames, labels) in zip(experiment.batcher.buckets, experiment.batcher.shapes(), strict=True)
        ],
        "padding": experiment.batcher.padding_waste(),
        "steps_per_epoch": experiment.batcher.batches_per_epoch,
        "total_steps": config.training.epochs * experiment.batcher.batches_per_epoch,
        "utterances": len(experiment.data.train.ids),
        "audio_seconds": float(sum(experiment.data.train.seconds)),
        "classes": experiment.settings.num_classes,
        "infeasible": [str(found) for found in experiment.data.infeasible],
        "notes": experiment.data.notes,
    }


def _data_digests(config: Config) -> dict[str, str]:
    return {name: file_digest(Path(path)) for name, path in all_manifests(config).items()}


def _loading_line(watchdog: Watchdog | None) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if watchdog:
            watchdog.moved()
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rloading audio {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def _json(value: Any, *, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
