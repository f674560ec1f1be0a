"""`dsrun sweep`: the runs of a sweep file, listed, checked, trained one by one or several side by side."""

import difflib
import fnmatch
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dsrun.cli_options import JsonOption, SetOption
from dsrun.cli_scores import print_scores
from dsrun.cli_tables import print_table, printable_lines
from dsrun.errors import CannotWriteError, DataError, DivergedError, UsageError
from dsrun.record.runtime import processors
from dsrun.training.stop import StopRequest

EXAMPLE = (
    "Exit codes: 0 all are done; 4 all are over and some diverged; 1, 2, 3 or above 128 the highest code of those that failed; 75 stopped "
    "by a signal, or some are in use by another process (the same command goes on); 130 Ctrl-C. "
    "Example: dsrun sweep configs/sweeps/rounding.yaml --jobs 2"
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file, e.g. configs/sweeps/formats.yaml.")]


def sweep(
    file: FileArgument,
    list_only: Annotated[
        bool, typer.Option("--list", help="Show the runs and how far they are; train nothing.")
    ] = False,
    index: Annotated[
        int | None, typer.Option(min=0, help="Train this one, in this process, as `dsrun train` would: for job arrays.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only runs of this name or pattern, e.g. 'float16-*'. Repeatable."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; default 1, or with --gpus one a GPU.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1,...|all", help="GPUs of this machine to share out among the runs.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices of each run; default its share of the cores. Changes the speed, never a bit of the result.",
        ),
    ] = None,
    set: SetOption = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the run folders. Default: runs/<name of the sweep file>.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try diverged runs again; they are results otherwise.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="As of `dsrun train`, for every run that is resumed.")
    ] = False,
    where: Annotated[bool, typer.Option("--where", help="With --index: print its run folder and leave.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all configs and the data of the first run; write nothing.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Train the runs of a sweep file: variations of a config, each in its own run folder.

    The same command again goes on where the last one ended: complete runs are left alone, incomplete ones resumed, failed ones tried
    again. `--list` shows the runs without training; `dsrun runs`, `compare` and `report` read the folder.
    """
    with StopRequest() as stop:  # before the imports, as in `train`
        stop.begin_nothing_new()
        from dsrun.sweep import Task
        from dsrun.sweep_file import load_sweep
        from dsrun.sweep_gpus import gpus_of_jobs
        from dsrun.sweep_state import run_folders

        _refuse_contradictions(index, only, jobs, gpus, where, list_only, dry_run)
        found = load_sweep(file, set or [])
        folder = folder or found.folder
        tasks = [Task(v, run) for v, run in zip(found.variations, run_folders(found, folder), strict=True)]
        if index is not None:
            task = _at_index(tasks, index, file)
            if where:
                print(task.run)
                return
            _train_one(task, stop, devices, retry, accept_changes, json_output)
            return
        chosen = _chosen(tasks, only)
        if list_only:
            _print_list(chosen, found.labels, json_output)
            _tell_of_other_runs(tasks, folder)
            return
        side_by_side, shares = gpus_of_jobs(gpus, jobs)
        if dry_run:
            _print_dry_run(chosen, side_by_side, json_output)
            _tell_of_other_runs(tasks, folder)
            return
        _require_room_for_runs(folder, chosen)
        again = _command_again(file, set, folder if folder != found.folder else None)
        stop.end_nothing_new()
        code = _train_all(
            found, chosen, side_by_side, shares, stop, again, only=only or [], devices=devices, retry=retry,
            accept_changes=accept_changes, json_output=json_output,
        )  # fmt: skip
        _tell_of_other_runs(tasks, folder)
    if code:
        raise typer.Exit(code)


def _refuse_contradictions(
    index: int | None,
    only: list[str] | None,
    jobs: int | None,
    gpus: str | None,
    where: bool,
    list_only: bool,
    dry_run: bool,
) -> None:
    others = {"--only": only, "--jobs": jobs, "--gpus": gpus, "--list": list_only, "--dry-run": dry_run}
    written = [name for name, value in others.items() if value]
    if index is not None and written:
        raise UsageError(f"--index trains one run in this process: leave {' and '.join(written)} out.")
    if where and index is None:
        raise UsageError("--where belongs to --index; --list shows all run folders.")
    if list_only and dry_run:
        raise UsageError("--list shows the runs, --dry-run checks more: choose one.")


def _at_index(tasks: Sequence[Any], index: int, file: Path) -> Any:
    if index >= len(tasks):
        raise UsageError(f"--index {index}: {file} has runs 0 to {len(tasks) - 1}.")
    return tasks[index]


def _chosen(tasks: Sequence[Any], only: Sequence[str] | None) -> list[Any]:
    """The tasks whose name, or name of the run folder, is one of these or matches one."""
    if not only:
        return list(tasks)
    names = [task.variation.name for task in tasks]
    kept = set()
    for pattern in only:
        found = [
            task.variation.index
            for task in tasks
            if any(fnmatch.fnmatchcase(name, pattern) for name in (task.variation.name, task.variation.folder))
        ]
        if not found:
            close = difflib.get_close_matches(pattern, names, n=3) or names[:3]
            raise UsageError(f"--only {pattern}: no run is called so; --list shows them, such as {', '.join(close)}.")
        kept |= {*found}
    return [task for task in tasks if task.variation.index in kept]


def _print_list(tasks: Sequence[Any], labels: dict[str, str], json_output: bool) -> None:
    from dsrun.sweep_state import state_of

    states = [state_of(task.variation, task.run) for task in tasks]
    if json_output:
        print(json.dumps([_document(task, state) for task, state in zip(tasks, states, strict=True)], indent=2))
        return
    print_table(
        [
            {
                "index": task.variation.index,
                "name": task.variation.name,
                "differs": task.variation.describe(labels),
                "state": str(state),
                "run": str(task.run),
            }
            for task, state in zip(tasks, states, strict=True)
        ]
    )


def _document(task: Any, state: Any) -> dict[str, Any]:
    """A run, for --json."""
    return {
        "index": task.variation.index,
        "name": task.variation.name,
        "differs": task.variation.differs,
        "state": state.kind,
        "step": state.step,
        "in_use": state.is_in_use,
        "dev_cer": state.dev_cer,
        "test_cer": state.test_cer,
        "note": state.note,
        "run": str(task.run),
    }


def _train_one(
    task: Any, stop: StopRequest, devices: int | None, retry: bool, accept_changes: bool, json_output: bool
) -> None:
    """What `dsrun train` does, but a run that is over is no mistake: a job array may be submitted again."""
    from dsrun.sweep_state import state_of

    state = state_of(task.variation, task.run)
    if state.kind == "done" or (state.kind == "diverged" and not retry):
        again = "" if state.kind == "done" else "; --retry tries it again"
        print(f"{task.run}: {state.kind} at step {state.step}, nothing to train{again}", file=sys.stderr)
        if state.kind == "diverged":
            raise typer.Exit(DivergedError.exit_code)
        return
    from dsrun.experiment import train_run

    try:
        outcome = train_run(
            task.variation.resolved,
            run_dir=task.run,
            devices=devices and min(devices, task.variation.resolved.config.batches.shards),
            mode="automatic",
            command=sys.argv,
            stop=stop,
            accept_changes=accept_changes,
        )
    except CannotWriteError as error:
        raise DataError(f"{error} Training goes on from the last checkpoint.") from error
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
    print(json.dumps(outcome.report, indent=2)) if json_output else print_scores(outcome.report)


def _print_dry_run(tasks: Sequence[Any], jobs: int, json_output: bool) -> None:
    """Count, cost, and what the first run would train."""
    from dsrun.experiment import describe
    from dsrun.sweep import typical_seconds
    from dsrun.sweep_state import state_of

    states = [state_of(task.variation, task.run) for task in tasks]
    counts = {kind: sum(state.kind == kind for state in states) for kind in dict.fromkeys(s.kind for s in states)}
    left = sum(not state.is_over for state in states)
    typical = typical_seconds(states)
    first = tasks[0]
    described = describe(first.variation.resolved, run_dir=first.run, devices=None)
    described["config"] = f"{described['config']} ({first.variation.name})"
    cost = None if typical is None else left * typical / jobs
    if json_output:
        document = {"runs": len(tasks), "states": counts, "left": left, "jobs": jobs, "seconds_a_run": typical}
        print(json.dumps(document | {"seconds_left": cost, "first": described}, indent=2))
        return
    print(f"{len(tasks)} runs checked: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if typical is None or cost is None:
        print("cost: not known before a run is done; each has its own number of steps, here those of the first")
    else:
        print(
            f"cost: {typical / 60:.1f} min of steps a run so far; {left} left, about {cost / 60:.0f} min with {jobs} at a time"
        )
    steps, shapes = described["total_steps"], len(described["batch_shapes"])
    print(
        f"first: {described['config']}: {described['parameter_count']:,} parameters, {described['utterances']} utterances, "
        f"{steps} steps, {shapes} shapes to compile, {len(described['infeasible'])} utterances infeasible for CTC"
    )
    print("nothing was written")


def _command_again(file: Path, sets: Sequence[str] | None, folder: Path | None) -> str:
    words = ["dsrun", "sweep", str(file)]
    words += [word for text in sets or [] for word in ("--set", text)]
    return shlex.join(words + (["--folder", str(folder)] if folder else []))


def _train_all(
    found: Any,
    tasks: Sequence[Any],
    jobs: int,
    shares: dict[int, str] | None,
    stop: StopRequest,
    again: str,
    *,
    only: Sequence[str],
    devices: int | None,
    retry: bool,
    accept_changes: bool,
    json_output: bool,
) -> int:
    """Train, then the table and what to do about failures; the exit code."""
    from dsrun.sweep import Trainer, exit_code_of, shared_slots, start_process, typical_seconds
    from dsrun.sweep_state import state_of

    trainer = Trainer(
        tasks,
        shared_slots(jobs, cores=processors(), devices=devices, gpus=shares),
        partial(start_process, sweep=found, accept_changes=accept_changes),
        stop,
        _progress_line(),
        retries_diverged=retry,
        typical_seconds=typical_seconds([state_of(task.variation, task.run) for task in tasks]),
    )
    endings = trainer.run()
    code = exit_code_of(endings, stop.exit_code)
    rows = [
        _document(ending.task, ending.state)
        | {
            "state": str(ending.state) if ending.how == "left" else ending.how,
            "exit_code": ending.exit_code,
            "log": str(ending.task.log),
        }
        for ending in endings
    ]
    if json_output:
        print(json.dumps({"sweep": str(found.path), "exit_code": code, "runs": rows}, indent=2))
    else:
        names = ("index", "name", "state", "step", "dev_cer", "test_cer", "run")
        print_table([{name: row[name] for name in names} for row in rows])
    _tell_what_to_do(endings, again, only, stop.exit_code)
    return code


def _require_room_for_runs(folder: Path, tasks: Sequence[Any]) -> None:
    """Raises UsageError where run folders are to be made or filled and cannot be."""
    from dsrun.record.durable import why_not_writable
    from dsrun.sweep_state import state_of

    cannot = why_not_writable(folder)
    if not cannot and not folder.exists():
        try:
            folder.mkdir(parents=True)
        except OSError as error:  # as of /proc, where rights say nothing
            cannot = f"{folder}: the folder cannot be made ({error.strerror})."
    if cannot and not all(state_of(task.variation, task.run).is_over for task in tasks):
        raise UsageError(f"{cannot} Say where the run folders go with --folder.")


def _tell_of_other_runs(tasks: Sequence[Any], folder: Path) -> None:
    """Of runs in the folder that are none of the sweep's, as of before another `--set`: whoever reads the folder has them too."""
    own = {task.run.name for task in tasks}
    others = sorted(file.parent.name for file in folder.glob("*/config.yaml") if file.parent.name not in own)
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        runs = f"{len(others)} other run{'s' * (len(others) != 1)}"
        print(
            printable_lines(
                f"{folder} has {runs} than these, of another --set or of the file as it was: {some}. compare and report of the folder "
                "take them in"
            ),
            file=sys.stderr,
        )


def _tell_what_to_do(endings: Sequence[Any], again: str, only: Sequence[str], stop_code: int) -> None:
    for ending in endings:
        if ending.how in ("failed", "diverged"):
            index, name = ending.task.variation.index, ending.task.variation.name
            retry = " --retry" if ending.how == "diverged" else ""
            said = f"what it said: {ending.task.log}; alone: {again} --index {index}{retry}"
            print(f"{name}: {ending.how}, exit code {ending.exit_code}; {said}", file=sys.stderr)
    if busy := [ending.task.variation.name for ending in endings if ending.how == "in use"]:
        print(f"in use by another process: {', '.join(busy)}; the same command looks again", file=sys.stderr)
    if stop_code:
        same = shlex.join([*shlex.split(again), *(word for name in only for word in ("--only", name))])
        caution = " (without its --set they would be other runs)" if "--set" in shlex.split(again) else ""
        print(f"stopped by a signal; the same command goes on: {same}{caution}", file=sys.stderr)


def _progress_line() -> Callable[[str, Any], None]:
    """Shows a line on stderr, coloured by how a run ended if that is a terminal; whoever stops reading does not stop the sweep."""
    from rich.console import Console
    from rich.text import Text

    is_plain = not sys.stderr.isatty() or bool(os.environ.get("NO_COLOR"))
    console = Console(stderr=True, highlight=False)
    colours = {"done": "green", "diverged": "yellow", "failed": "red", "stopped": "yellow", "in use": "yellow"}

    def show(text: str, how: Any) -> None:
        with suppress(OSError):
            if is_plain:
                print(text, file=sys.stderr, flush=True)
            else:
                console.print(Text(text, style=colours.get(how or "", "")), soft_wrap=True)

    return show
