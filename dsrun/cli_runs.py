"""`dsrun runs`: what run folders there are, a line each with its curve. On the roof beside `cli.py`; no JAX."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dsrun.cli_options import JsonOption
from dsrun.cli_rows import CsvOption, MarkdownOption, form_of, print_rows
from dsrun.errors import UsageError

EXAMPLE = "Example: dsrun runs runs/formats --state done --sort cer"
CURVE = 12  # characters
Key = Literal["name", "cer", "test", "minutes", "state", "arithmetic"]
STATES = ("new", "running", "killed", "stopped", "failed", "diverged", "done")
SORTED_BY = {"cer": "dev_cer", "test": "test_cer"}


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders of run folders, or of sweeps' folders. Default: runs."),
    ] = None,
    sort: Annotated[Key, typer.Option(help="Order; cer and test are error rates, the lowest first.")] = "name",
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(STATES), help="Only runs in this state. Repeatable."),
    ] = None,
    json_output: JsonOption = False,
    csv_output: CsvOption = False,
    markdown: MarkdownOption = False,
) -> None:
    """List run folders: state, step, error rates with their curve, arithmetic, seed, minutes of training, determinism.

    The curve is of the CER on dev, on a logarithmic scale; (of the training loss, in brackets, before the first evaluation). A run whose
    status says running while no process holds its lock is called killed: the command that started it goes on. Wait is the share of
    training spent waiting for data.
    """
    form = form_of(json_output=json_output, csv_output=csv_output, markdown=markdown)
    from dsrun.inspection import without_files_of_sweeps
    from dsrun.run_listing import list_runs

    if unknown := [name for name in state or () if name not in STATES]:
        raise UsageError(f"--state {unknown[0]}: write one of {', '.join(STATES)}.")
    places = without_files_of_sweeps(folders or [Path("runs")])
    for folder in places:
        if not folder.is_dir() and folders:  # before the first run there is no `runs`
            what = "a file, not a folder" if folder.exists() else "no such folder"
            raise UsageError(f"{folder}: {what}. Give the folder that holds run folders.")
    rows = list_runs(places)
    chosen = in_order([row for row in rows if not state or row["state"] in state], sort)
    if not chosen:
        where = ", ".join(map(str, places))
        print(
            f"no run folders in {where}" if not rows else f"none of {len(rows)} runs is {' or '.join(state or ())}",
            file=sys.stderr,
        )
    if chosen or form in ("json", "csv"):
        print_rows(form, chosen, [shown(row, places) for row in chosen])


def in_order(rows: Sequence[dict[str, Any]], sort: Key) -> list[dict[str, Any]]:
    """By a column, what is not known last; by folder and name within equal ones."""
    if sort == "name":
        return list(rows)
    column = SORTED_BY.get(sort, sort)
    return sorted(rows, key=lambda row: (row[column] is None, row[column] if row[column] is not None else 0))


def shown(row: Mapping[str, Any], places: Sequence[Path]) -> dict[str, Any]:
    """A row for people, columns in order of what one looks for."""
    total, wait = row["total_steps"], row["data_wait"]
    return {
        "run": _name(Path(row["run"]), places),
        "state": row["state"],
        "step": f"{row['step']}/{total}" if total and total != row["step"] else str(row["step"]),
        "dev CER": _rate(row["dev_cer"]),
        "curve": curve(row),
        "test CER": _rate(row["test_cer"]),
        "arithmetic": row["arithmetic"],
        "seed": row["seed"],
        "minutes": None if row["minutes"] is None else f"{row['minutes']:.1f}",
        "wait": None if wait is None else f"{wait:.1%}",
        "determinism": row["determinism"],
    }


def curve(row: Mapping[str, Any]) -> str:
    """A sparkline."""
    from dsrun.study.sparkline import sparkline

    series = row["dev_cers"] or row["losses"]
    drawn = sparkline([math.nan if value is None else value for value in series], width=CURVE, is_log=True)
    return drawn if row["dev_cers"] or not drawn else f"({drawn})"


def _name(path: Path, places: Sequence[Path]) -> str:
    """Without the folder that was asked for, if there was one only."""
    if len(places) == 1 and path != places[0] and path.is_relative_to(places[0]):
        return str(path.relative_to(places[0]))
    return str(path)


def _rate(value: Any) -> str | None:
    return f"{value:.4f}" if isinstance(value, int | float) else None
