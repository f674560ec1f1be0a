"""The command line: options in, results on stdout, progress on stderr, an exit code that a script can act on.

Commands import what they need when they run, so that `dsrun --help`, `dsrun configs` and completion answer without JAX.
A user's mistake is one message without a traceback (`dsrun.errors`); anything else is a bug in dsrun and ends with 1.
"""

import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dsrun import __version__
from dsrun.cli_bench import bench_app
from dsrun.cli_bits import DIFF_EXAMPLE, VERIFY_EXAMPLE, diff, verify
from dsrun.cli_study import study_app
from dsrun.errors import DsrunError, UsageError
from dsrun.record.runtime import ask_for_large_pages
from dsrun.training.stop import Stopped, StopRequest

app = typer.Typer(
    name="dsrun",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and evaluate speech recognisers whose numbers are stored, multiplied and updated in the format you choose.",
)
configs_app = typer.Typer(help="List, show and check config files.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Check and look at manifests.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(configs_app, name="configs")
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")
app.add_typer(bench_app, name="bench")
app.command("diff", epilog=DIFF_EXAMPLE)(diff)
app.command("verify", epilog=VERIFY_EXAMPLE)(verify)

ConfigOption = Annotated[Path, typer.Option("--config", help="YAML config; see `dsrun configs list`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. --set model.hidden=512. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/prompts_float32-1a2b3c.")]

EXIT_CODES = (
    "Exit codes: 0 done; 1 a bug in dsrun; 2 bad usage or config; 3 bad data; 4 training diverged; 75 stopped by a signal "
    "after writing a checkpoint (the same command goes on); 130 Ctrl-C, during training after writing a checkpoint."
)


def main() -> None:
    """Entry point of `dsrun` and `python -m dsrun`."""
    if set(sys.argv[1:2]) & {"train", "eval", "transcribe", "bench", "verify"} and not {"--help", "-h"} & set(sys.argv):
        ask_for_large_pages()  # here and not in the commands: it replaces the process, which must be ours
    try:
        app(prog_name="dsrun")
    except DsrunError as error:
        try:
            print(error, file=sys.stderr, flush=True)
        except OSError:  # stderr goes to the disk that is full: the exit code says what happened all the same
            os._exit(error.exit_code)
        _leave(error.exit_code)
    except Stopped as stopped:
        with suppress(OSError):
            print(stopped.reason, file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(stopped.exit_code)  # a thread may be compiling, which an exit in order would wait for
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except (BrokenPipeError, SystemExit) as end:
        # The reader of stdout left, e.g. `| head`, which the command-line library may have made an exit of its own.
        if not isinstance(end, BrokenPipeError) and not isinstance(end.__context__, BrokenPipeError):
            raise
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        print(f"{error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        print("This is a bug in dsrun, not a mistake of yours; the text above says where.", file=sys.stderr)
        _leave(1)


def _leave(exit_code: int) -> NoReturn:
    """End after an error; one of several processes at once, where an exit in order would wait minutes for the others and end otherwise."""
    processes = sys.modules.get("dsrun.training.processes")
    if processes and processes.is_joined():
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Print help for a bare `dsrun`."""
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        print("\nTry first:  dsrun train --config configs/prompts_float32.yaml")


@app.command(epilog=EXIT_CODES)
def train(
    config: ConfigOption,
    set: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<config name>-<6 hex of the resolved config>.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1, help="Devices of this process to use; default all. Changes the speed, never a bit of the result."
        ),
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option("--distributed", help="One of several processes that SLURM, Open MPI or Kubernetes started."),
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=2, help="One of so many processes, started by hand (scripts/local_gpus.sh).")
    ] = None,
    process: Annotated[
        int | None, typer.Option(min=0, help="Which of them, from 0; process 0 writes the run folder.")
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where process 0 can be reached by the others.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Insist on going on from a checkpoint.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what the run folder holds and start anew.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Resume although code, versions, machine or flags are not those that the run began with; recorded, bits may differ.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained; write nothing.")] = False,
    where: Annotated[bool, typer.Option("--where", help="Print the run folder of this command and leave.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Train a config to the end and print test error rates.

    The run folder is named by the resolved config, so the same command finds it again: an incomplete one is resumed from
    its last checkpoint, a complete one is refused unless --overwrite.
    """
    with StopRequest() as stop:  # before the imports, which take seconds: a signal is an orderly end then too
        stop.begin_nothing_new()
        from dsrun.config import default_run_dir, load_config

        resolved = load_config(config, set or [])
        if where:  # scripts ask at every start, so it answers without JAX
            print(run_dir or default_run_dir(resolved))
            return
        group = _group(distributed, coordinator, processes, process)
        from dsrun.experiment import describe, train_run

        if resume and overwrite:
            raise UsageError("--resume goes on and --overwrite starts anew: choose one.")
        if dry_run:
            report = describe(resolved, run_dir=run_dir, devices=devices)
            print(json.dumps(report, indent=2)) if json_output else print_description(report)
            return
        mode: Any = "resume" if resume else "overwrite" if overwrite else "automatic"
        options: dict[str, Any] = {
            "run_dir": run_dir,
            "devices": devices,
            "accept_changes": accept_changes,
            "group": group,
        }
        outcome = train_run(resolved, **options, mode=mode, command=sys.argv, stop=stop)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
    if not outcome.report:  # of several processes the first prints
        return
    print(json.dumps(outcome.report, indent=2)) if json_output else print_scores(outcome.report)


def _group(is_detected: bool, coordinator: str | None, processes: int | None, process: int | None) -> Any:
    """How this process finds others, or None if it is alone."""
    by_hand = (coordinator, processes, process)
    if not is_detected and by_hand == (None, None, None):
        return None
    if is_detected and by_hand != (None, None, None):
        raise UsageError(
            "--distributed finds the other processes itself: leave --coordinator, --processes and --process out."
        )
    if coordinator is None or processes is None or process is None:
        if not is_detected:
            raise UsageError("--coordinator, --processes and --process go together: write all three, or --distributed.")
    elif process >= processes:
        raise UsageError(f"--process {process}: of {processes} processes the last is {processes - 1}.")
    elif not coordinator.rpartition(":")[2].isdecimal():
        raise UsageError(f"--coordinator {coordinator}: write HOST:PORT, e.g. 127.0.0.1:9911.")
    from dsrun.training.processes import Group

    return Group(coordinator, processes, process)


@app.command("eval")
def evaluate(
    run: RunArgument,
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest to score. Default: the config's data.test, else data.dev.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step number.")] = "best",
    decoder: Annotated[str, typer.Option(help="greedy (the only one so far).")] = "greedy",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Utterances a batch. Default: the config's global batch.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Word and character error rates of a run on a manifest, with 95% bootstrap intervals over utterances.

    Rates are of the corpus: errors divided by reference words (characters), never clamped. An utterance whose reference is
    empty adds its hypothesis as insertions and nothing to the length; if all references are empty the rate is infinite with
    any insertion and 0 without. Each utterance's reference, hypothesis and errors go to RUN/evaluation/<manifest>.jsonl.
    """
    from dsrun.experiment import evaluate_run

    report = evaluate_run(run, manifest=manifest, checkpoint=checkpoint, decoder=decoder, batch=batch)
    print(json.dumps(report, indent=2)) if json_output else print_scores(report)


@app.command()
def transcribe(
    run: RunArgument,
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Audio files at the config's sample rate.")],
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step number.")] = "best",
    resample: Annotated[bool, typer.Option("--resample", help="Convert other sample rates.")] = False,
    channel: Annotated[int | None, typer.Option(min=0, help="Which channel of a file with several.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Print what was said in each file, one line a file."""
    from dsrun.experiment import transcribe_files

    results, failures = transcribe_files(run, audio, checkpoint=checkpoint, resample=resample, channel=channel)
    if json_output:
        print(json.dumps({"results": results, "failures": failures}, indent=2, ensure_ascii=False))
    else:
        for result in results:
            print(f"{result['file']}: {result['text']}" if len(audio) > 1 else result["text"])
    for failure in failures:
        print(failure["error"], file=sys.stderr)
    if failures:
        raise typer.Exit(3)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """List run folders: state, step, best dev CER, formats, determinism."""
    from dsrun.inspection import list_runs

    rows = list_runs(folder)
    if json_output:
        print(json.dumps(rows, indent=2))
    elif rows:
        print_table(rows)
    else:
        print(f"no run folders in {folder}", file=sys.stderr)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config: every key, type and meaning. Editors read it."""
    from dsrun.config import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def doctor(json_output: JsonOption = False) -> None:
    """Versions, devices, flags in force, and a self-check of the arithmetic on this machine."""
    from dsrun.inspection import doctor_report

    report = doctor_report()
    if json_output:
        print(json.dumps(report, indent=2))
    else:
        for name, value in report["facts"].items():
            print(f"{name:<22} {value}")
        for check in report["checks"]:
            print(f"{check['status']}  {check['name']}: {check['found']}")
    if not all(check["passed"] for check in report["checks"]):
        raise typer.Exit(1)


@configs_app.command("list")
def configs_list(
    folder: Annotated[Path, typer.Argument(help="Folder of configs.")] = Path("configs"),
    json_output: JsonOption = False,
) -> None:
    """Configs in a folder, each with the first line of its claim."""
    from dsrun.config import list_configs

    rows = [{"config": str(file.path), "about": file.claim} for file in list_configs(folder)]
    print(json.dumps(rows, indent=2)) if json_output else print_table(rows)


@configs_app.command("show")
def configs_show(
    file: Annotated[Path, typer.Argument(help="Config file.")], set: SetOption = None, json_output: JsonOption = False
) -> None:
    """The resolved config, each value with where it came from: default, file:line, or --set."""
    from dsrun.config import load_config, render_origins

    rows = render_origins(load_config(file, set or []))
    print(json.dumps(rows, indent=2)) if json_output else print_table(rows)


@configs_app.command("check")
def configs_check(files: Annotated[list[Path], typer.Argument(help="Config files.")]) -> None:
    """Check files; print every problem with its line and what to write instead.

    Instant, so without the network: whether the paths of arithmetic.rules exist is checked by `dsrun train --dry-run`.
    """
    from dsrun.config import load_config
    from dsrun.errors import ConfigError

    problems = []
    for file in files:
        try:
            load_config(file, [])
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    print(f"{len(files)} config{'s' if len(files) > 1 else ''} checked, no problems")


@data_app.command("check")
def data_check(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Also check characters and CTC feasibility under this config.")
    ] = None,
    sample_rate: Annotated[int, typer.Option(help="Rate that every file must have (Hz), without --config.")] = 16_000,
    json_output: JsonOption = False,
) -> None:
    """Decode every file of a manifest and report all problems at once. Exit code 3 if there are errors."""
    from dsrun.inspection import check_data

    report = check_data(manifest, config=config, sample_rate=sample_rate)
    if json_output:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for problem in report["errors"]:
            print(f"error: {problem}")
        for problem in report["warnings"]:
            print(f"warning: {problem}")
        print("  ".join(f"{name} {value}" for name, value in report["totals"].items()))
    if report["errors"]:
        raise typer.Exit(3)


@data_app.command("show")
def data_show(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    utterance: Annotated[str | None, typer.Argument(help="Id of the utterance; default the first.")] = None,
    config: ConfigOption = Path("configs/prompts_float32.yaml"),
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose augmentation is shown beside the plain features.")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture, .png or .svg.")] = Path("utterance.png"),
) -> None:
    """Draw an utterance's features, plain and as training sees them after augmentation."""
    from dsrun.inspection import draw_utterance

    print(draw_utterance(manifest, utterance, config=config, epoch=epoch, output=output))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows with equal keys as an aligned text table on stdout, full width whatever the terminal."""
    if not rows:
        return
    texts = [[str(name) for name in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_scores(report: dict[str, Any]) -> None:
    """An evaluation's rates, intervals and examples for people."""
    print(f"run       {report['run']}  checkpoint step {report['step']}")
    print(f"manifest  {report['manifest']}  {report['utterances']} utterances")
    if report["determinism"] != "strict":
        print(f"          determinism {report['determinism']}")
    for name, counts in (("cer", "characters"), ("wer", "words")):
        count, (low, high) = report[counts], report[f"{name}_interval"]
        print(
            f"{name.upper()}       {report[name]:.4f}  [{low:.4f}, {high:.4f}]  {count['errors']} errors in "
            f"{count['reference_length']} {counts}: {count['substitutions']} substitutions, {count['deletions']} deletions, "
            f"{count['insertions']} insertions"
        )
    if not report["manifest_is_as_trained"]:
        print("          not one of the manifests that the run was trained with, as they were then")
    if unknown := report["unknown_characters"]:
        found = ", ".join(f"{character!r} {count} times" for character, count in unknown.items())
        print(f"characters outside the alphabet, which the network cannot write: {found}")
    for name, example in report["examples"].items():
        print(f"{name:<7} {example['id']}\n   said   {example['reference']}\n   read   {example['hypothesis']}")
    if report["details"]:
        print(f"each utterance: {report['details']}")


def print_description(report: dict[str, Any]) -> None:
    """A dry run's report for people."""
    print(f"{report['config']} -> {report['run_dir']}")
    print_table(report["parameters"])
    print(f"parameters: {report['parameter_count']:,}")
    for name, size in report["bytes"].items():
        print(f"  {name}: {size / 1e6:.2f} MB")
    print(f"GRU: {report['gru']}")
    print(f"CTC: {report['ctc']}")
    print(f"determinism: {report['determinism']}")
    print(
        f"batches: {report['steps_per_epoch']} an epoch, {report['total_steps']} steps in all; "
        f"{len(report['batch_shapes'])} shapes (one compilation each), padding {report['padding']:.1%} of frames"
    )
    print_table(report["batch_shapes"])
    print(
        f"utterances: {report['utterances']}; seconds of audio: {report['audio_seconds']:.0f}; classes: {report['classes']}"
    )
    print(f"infeasible for CTC: {len(report['infeasible'])}")
    for text in report["infeasible"]:
        print(f"  {text}")
    print("nothing was written")
