"""`dsrun watch`: run folders as they fill, on a terminal a live table, elsewhere a line a run every 30 seconds.

On the roof beside `cli.py`. What a run says is `study/watching.py`'s, how it looks `watch_view.py`'s; here are the options, the list of
folders, which may grow and shrink, and the clock. Nothing is written. No JAX.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dsrun.cli_options import JsonOption
from dsrun.cli_rows import CsvOption, Form, MarkdownOption, form_of, print_rows
from dsrun.cli_tables import printable_lines
from dsrun.errors import UsageError
from dsrun.record.run_dir import RunDir
from dsrun.study.run_state import ENDED
from dsrun.study.watching import WatchedRun

EXAMPLE = "Example: dsrun watch runs/formats --every 5. Ctrl-C leaves; the runs go on."
LINE_SECONDS = 30.0
LINGER_SECONDS = 60.0  # after the last run of a folder ended: a sweep takes its time between two runs
DEFAULT = Path("runs")


def watch(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN|FOLDER]...", help="Run folders, or folders of them or of sweeps. Default: runs."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often to look.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and leave.")] = False,
    forever: Annotated[
        bool, typer.Option("--forever", help="Stay when all runs have ended, and wait for folders that are not there.")
    ] = False,
    json_output: JsonOption = False,
    csv_output: CsvOption = False,
    markdown: MarkdownOption = False,
) -> None:
    """Watch runs as they train: state, step, loss, dev CER, speed, time left, loss scale, skipped steps, swallowed updates.

    On a terminal a live table, of a single run a panel with curves and the newest sample; elsewhere a line a run every 30 seconds.
    Runs that appear are taken in, those that vanish left out. Leaves when all runs have ended (those of a folder: a minute later, since a
    sweep may start the next one). "left" is at the speed of the last 50 steps. "swallowed": of the updates that were not zero, the
    share below half an ulp of its weight, at the last watched step. "killed": the process of a run that says running is gone. "no
    news": nothing was written for five minutes, or for the time of twenty steps if that is longer.
    """
    from rich.console import Console

    form = form_of(json_output=json_output, csv_output=csv_output, markdown=markdown)
    if form != "table" and not once:
        raise UsageError(f"--{form} is one document, and watching has no end: write --once --{form}.")
    watched = Watched(paths or [DEFAULT], waits=forever or not paths)
    watched.look()
    if once:
        print_once(watched.runs, form)
        if not watched.runs:
            print(f"no run folders in {', '.join(map(str, watched.paths))}", file=sys.stderr)
        return
    console = Console()
    loop = Loop(watched, is_forever=forever)
    if console.is_terminal:
        watch_live(loop, console, every)
    else:
        watch_in_lines(loop, every)


class Watched:
    """The runs in some folders, looked at together.

    Args:
        paths: run folders, folders of them, or folders of such, as `runs` is one with sweeps in it.
        waits: a path that is not there may come.

    Raises:
        UsageError: a path is not there, or is no folder.
    """

    def __init__(self, paths: Sequence[Path], *, waits: bool):
        from dsrun.inspection import without_files_of_sweeps

        self.paths = without_files_of_sweeps(paths)
        self._by_path: dict[Path, WatchedRun] = {}
        self._refused: set[Path] = set()
        for path in self.paths:
            if path.exists() and not path.is_dir():
                raise UsageError(f"{path}: a file, not a folder. Give a run folder, or a folder of run folders.")
            if not path.exists() and not waits:
                raise UsageError(f"{path}: no such folder. `dsrun runs` lists those there are; --forever waits for it.")

    @property
    def runs(self) -> list[WatchedRun]:
        """In the order given, those of a folder by name."""
        return list(self._by_path.values())

    @property
    def are_given(self) -> bool:
        """Whether each path is a run folder, so that no further run can appear."""
        return all((path / "config.yaml").is_file() for path in self.paths)

    def look(self) -> None:
        """Take in what appeared, leave out what vanished, and read what is new."""
        known, self._by_path = self._by_path, {}
        for path in self.paths:
            for folder in _run_folders(path):
                run = known.get(folder)
                if run is None or not run.is_of_this_config():
                    if not self._may_be_read(folder):
                        continue
                    run = WatchedRun(folder, _config(folder), name=_name(folder, path))
                self._by_path[folder] = run
                run.look()

    def _may_be_read(self, folder: Path) -> bool:
        """Whether no name in it leads elsewhere or is a pipe, which would never answer; told once where it does."""
        try:
            RunDir(folder).require_own_contents()
        except (UsageError, OSError) as error:
            if folder not in self._refused:
                self._refused.add(folder)
                print(printable_lines(str(error)), file=sys.stderr, flush=True)
            return False
        return True


def _run_folders(path: Path) -> list[Path]:
    from dsrun.run_listing import folders_of_runs

    try:
        return folders_of_runs(path)
    except OSError:  # it vanished while it was listed
        return []


def _name(folder: Path, path: Path) -> str:
    """Below the folder that was given, with the sweep's folder where it is in one."""
    return str(folder.relative_to(path)) if folder != path else folder.name


def _config(folder: Path) -> dict[str, object]:
    from dsrun.errors import DsrunError
    from dsrun.inspection import read_values

    try:
        return dict(read_values(folder))
    except (DsrunError, OSError):  # half copied, or of another version: the events are worth watching all the same
        return {}


class Loop:
    """When to look and when to leave; the clock can be a test's."""

    def __init__(
        self,
        watched: Watched,
        *,
        is_forever: bool,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ):
        self.watched, self.is_forever, self.sleep, self.clock = watched, is_forever, sleep, clock

    def is_over(self) -> bool:
        """Whether all runs have ended, and long enough ago that none will follow."""
        runs = self.watched.runs
        if self.is_forever or not runs or any(run.state not in ENDED for run in runs):
            return False
        return self.watched.are_given or self.clock() - max(run.newest for run in runs) >= LINGER_SECONDS

    def wait(self, seconds: float) -> None:
        """Wait, then look."""
        self.sleep(seconds)
        self.watched.look()


def watch_live(loop: Loop, console: object, every: float) -> None:
    """The live table or panel, until all runs have ended."""
    from rich.console import Console
    from rich.live import Live

    from dsrun.watch_view import detail, overview

    assert isinstance(console, Console)

    def draw() -> object:
        runs = loop.watched.runs
        if len(runs) == 1:
            return detail(runs[0], width=console.width, height=console.height)
        return overview(runs, width=console.width, most=max(console.height - 8, 1))

    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(draw(), refresh=True)  # type: ignore[arg-type]
            if loop.is_over():
                return
            loop.wait(every)


def watch_in_lines(loop: Loop, every: float) -> None:
    """A line a run: at once, then every 30 seconds those that have news, and each when its state changes."""
    from dsrun.watch_view import plain_line

    said: dict[Path, str] = {}
    states: dict[Path, str] = {}
    due = loop.clock()
    if not loop.watched.runs:
        print(
            f"no run folders in {', '.join(map(str, loop.watched.paths))} yet; waiting for one (Ctrl-C leaves, --once does not wait)",
            file=sys.stderr,
            flush=True,
        )
    while True:
        is_due = loop.clock() >= due
        for run in loop.watched.runs:
            path, line = run.run.path, plain_line(run)
            if line != said.get(path) and (is_due or run.state != states.get(path)):
                print(line, flush=True)
                said[path], states[path] = line, run.state
        if is_due:
            due = loop.clock() + LINE_SECONDS
        if loop.is_over():
            return
        loop.wait(every)


def print_once(runs: Sequence[WatchedRun], form: Form) -> None:
    """One table, or one document; as the live table has it, with the columns for people that it would show."""
    from dsrun.study.styles import label_of
    from dsrun.watch_view import texts

    rows = [run.row() for run in runs]
    figures = [row | {"arithmetic": label_of(run.config)} for run, row in zip(runs, rows, strict=True)]
    print_rows(
        form, figures, [texts(run, row) for run, row in zip(runs, rows, strict=True)], document={"runs": figures}
    )
