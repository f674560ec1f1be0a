"""The command line: options in, results on stdout, progress on stderr, an exit code that a script can act on.

Commands import what they need when they run, so that `dsrun --help`, `dsrun configs` and completion answer without JAX.
A user's mistake is one message without a traceback (`dsrun.errors`); anything else is a bug in dsrun and ends with 1.
"""

import io
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
from dsrun.cli_compare import EXAMPLE as COMPARE_EXAMPLE
from dsrun.cli_compare import compare
from dsrun.cli_data import data_app
from dsrun.cli_export import EXAMPLE as EXPORT_EXAMPLE
from dsrun.cli_export import export
from dsrun.cli_help import FIRST, GroupedCommands
from dsrun.cli_lm import lm_app
from dsrun.cli_options import ConfigOption, JsonOption, SetOption
from dsrun.cli_recognise import evaluate
from dsrun.cli_report import EXAMPLE as REPORT_EXAMPLE
from dsrun.cli_report import report
from dsrun.cli_results import EXAMPLE as RESULTS_EXAMPLE
from dsrun.cli_results import results
from dsrun.cli_runs import EXAMPLE as RUNS_EXAMPLE
from dsrun.cli_runs import runs
from dsrun.cli_scores import print_scores
from dsrun.cli_serve import EXAMPLE as SERVE_EXAMPLE
from dsrun.cli_serve import serve
from dsrun.cli_study import print_json, study_app
from dsrun.cli_sweep import EXAMPLE as SWEEP_EXAMPLE
from dsrun.cli_sweep import sweep
from dsrun.cli_tables import print_description, print_table, printable_lines
from dsrun.cli_tensorboard import EXAMPLE as TENSORBOARD_EXAMPLE
from dsrun.cli_tensorboard import tensorboard
from dsrun.cli_transcribe import EXAMPLE as TRANSCRIBE_EXAMPLE
from dsrun.cli_transcribe import transcribe
from dsrun.cli_watch import EXAMPLE as WATCH_EXAMPLE
from dsrun.cli_watch import watch
from dsrun.errors import CannotWriteError, DataError, DsrunError, UsageError
from dsrun.interrupts import end_at_ctrl_c
from dsrun.record.runtime import ask_for_large_pages
from dsrun.training.stop import Stopped, StopRequest

app = typer.Typer(
    name="dsrun",
    cls=GroupedCommands,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and evaluate speech recognisers whose numbers are stored, multiplied and updated in the format you choose.",
    epilog=FIRST,
)
configs_app = typer.Typer(help="List, show and check config files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(configs_app, name="configs")
app.add_typer(data_app, name="data")
app.add_typer(lm_app, name="lm")
app.add_typer(study_app, name="study")
app.add_typer(bench_app, name="bench")
app.command("eval")(evaluate)
app.command("sweep", epilog=SWEEP_EXAMPLE)(sweep)
app.command("runs", epilog=RUNS_EXAMPLE)(runs)
app.command("compare", epilog=COMPARE_EXAMPLE)(compare)
app.command("transcribe", epilog=TRANSCRIBE_EXAMPLE)(transcribe)
app.command("export", epilog=EXPORT_EXAMPLE)(export)
app.command("serve", epilog=SERVE_EXAMPLE)(serve)
app.command("diff", epilog=DIFF_EXAMPLE)(diff)
app.command("verify", epilog=VERIFY_EXAMPLE)(verify)
app.command("watch", epilog=WATCH_EXAMPLE)(watch)
app.command("results", epilog=RESULTS_EXAMPLE)(results)
study_app.command("tensorboard", epilog=TENSORBOARD_EXAMPLE)(tensorboard)
app.command("report", epilog=REPORT_EXAMPLE)(report)


EXIT_CODES = (
    "Exit codes: 0 done; 1 a bug in dsrun; 2 bad usage or config; 3 bad data; 4 training diverged; 75 stopped by a signal "
    "after writing a checkpoint (the same command goes on); 130 Ctrl-C, during training after writing a checkpoint."
)


def main() -> None:
    """Run the command in `sys.argv`; an error is a message and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a folder's name may be no text in this encoding, nor in any
        sys.stdout.reconfigure(errors="backslashreplace")
    if set(sys.argv[1:2]) & {"train", "sweep", "eval", "transcribe", "bench", "verify", "export", "serve"} and not {
        "--help",
        "-h",
    } & set(sys.argv):
        ask_for_large_pages()  # here and not in the commands: it replaces the process, which must be ours
    try:
        end_at_ctrl_c(lambda: app(prog_name="dsrun"))
    except DsrunError as error:
        try:
            print(printable_lines(str(error)), file=sys.stderr, flush=True)
        except OSError:  # stderr goes to the disk that is full: the exit code says what happened all the same
            os._exit(error.exit_code)
        _leave(error.exit_code)
    except Stopped as stopped:
        with suppress(OSError):
            print(stopped.reason, file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(stopped.exit_code)  # a thread may be compiling, which an exit in order would wait for
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
        try:
            outcome = train_run(resolved, **options, mode=mode, command=sys.argv, stop=stop)
        except CannotWriteError as error:
            raise DataError(f"{error} Training goes on from the last checkpoint.") from error
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
    if not outcome.report:  # of several processes the first prints
        return
    print_json(outcome.report) if json_output else print_scores(outcome.report)


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


@app.command()
def schema(
    key: Annotated[
        str | None,
        typer.Argument(help="A section or a setting, e.g. arithmetic.update: what may be written there, as text."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="All settings as a page, docs/SETTINGS.md.")] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="JSON Schema of a sweep file, configs/sweeps/schema.json.")
    ] = False,
) -> None:
    """What may be written in a config: a KEY as text, or without one the JSON Schema that editors read."""
    from dsrun.config_reference import explain, settings_page

    if (key is not None) + markdown + sweep > 1:
        raise UsageError("KEY, --markdown (the page of all settings) and --sweep (another schema): choose one.")
    if key or markdown:
        print(explain(key) if key else settings_page(), end="\n" if key else "")
        return
    from dsrun.config import json_schema
    from dsrun.sweep_schema import sweep_schema

    print(json.dumps(sweep_schema() if sweep else json_schema(), indent=2))


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
    from dsrun.sweep_file import is_sweep, load_sweep

    problems = []
    for file in files:
        try:
            load_sweep(file) if is_sweep(file) else load_config(file, [])
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    print(f"{len(files)} config{'s' if len(files) > 1 else ''} checked, no problems")
