"""How watched runs look on a terminal: a row a run, a panel for a single one, plain lines where there is no terminal.

Colours of formats are those of every figure (`study/styles.py`), but that black, which a dark terminal would not show, is the
terminal's own colour. Names and texts come from files and may hold anything: they are shown as text, without markup and control characters.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dsrun.cli_tables import printable
from dsrun.study.run_state import ENDED
from dsrun.study.sparkline import dot_plot, sparkline
from dsrun.study.styles import BLACK, label_of, style_of
from dsrun.study.watching import WatchedRun

BAR_WIDTH, SPARK_WIDTH = 10, 12
PLOT_WIDTH, PLOT_HEIGHT = 60, 8
MOST_WARNINGS = 4
_STATE_STYLES = {
    "running": "green",
    "done": "bold",
    "failed": "red",
    "diverged": "red",
    "killed": "red",
    "stopped": "yellow",
}


def overview(runs: Sequence[WatchedRun], *, width: int, most: int, now: float | None = None) -> RenderableType:
    """A table with a row a run, at most so many, what runs or needs a look first where there is no room for all; and a line of totals.

    Columns that the width has no room for are left out, those that matter least first.
    """
    rows = [(run, run.row(now)) for run in shown(runs, most)]
    cells = [_cells(run, row) for run, row in rows]
    kept = _columns_that_fit(cells, width)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in kept:
        table.add_column(column.title, justify=column.justify, no_wrap=True)
    for row_cells in cells:
        table.add_row(*(row_cells[column.name] for column in kept))
    notes = [f"{run.name}: {row['note']}" for run, row in rows if row["note"]]
    lines: list[RenderableType] = [table, *(Text(printable(note), style="yellow") for note in notes[:MOST_WARNINGS])]
    return Group(*lines, Text(printable(totals(runs, most)), style="dim"))


@dataclass(frozen=True)
class Column:
    """A column of the table; those of high rank go first when there is no room."""

    name: str
    title: str
    rank: int
    justify: Literal["left", "right"] = "right"


COLUMNS = (
    Column("run", "run", 0, "left"),
    Column("state", "state", 1, "left"),
    Column("step", "step", 2),
    Column("bar", "", 8, "left"),
    Column("epoch", "epoch", 10),
    Column("loss", "loss", 4),
    Column("curve", "", 7, "left"),
    Column("dev_cer", "dev CER", 5),
    Column("best", "best", 3),
    Column("speed", "utt/s", 11),
    Column("left", "left", 4),
    Column("scale", "scale", 13),
    Column("skipped", "skipped", 12),
    Column("swallowed", "swallowed", 9),
    Column("arithmetic", "arithmetic", 6, "left"),
)


def _columns_that_fit(cells: Sequence[dict[str, Any]], width: int) -> list[Column]:
    kept = list(COLUMNS)

    def needed() -> int:
        return sum(max(len(c.title), *(_width(row[c.name]) for row in cells), 0) + 2 for c in kept)

    while len(kept) > 1 and cells and needed() > width:
        kept.remove(max(kept, key=lambda column: column.rank))
    return kept


def _width(cell: Any) -> int:
    return cell.cell_len if isinstance(cell, Text) else BAR_WIDTH


def shown(runs: Sequence[WatchedRun], most: int) -> list[WatchedRun]:
    """As they come; where they are too many, those that have not ended first."""
    if len(runs) <= most:
        return list(runs)
    return sorted(runs, key=lambda run: (run.state in ENDED, run.state == "done"))[:most]


def totals(runs: Sequence[WatchedRun], most: int) -> str:
    """How many runs are in which state."""
    counts = Counter(run.state for run in runs)
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    hidden = f"; {len(runs) - most} not shown" if len(runs) > most else ""
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {words}{hidden}" if runs else "no run folders yet"


def _cells(run: WatchedRun, row: dict[str, Any]) -> dict[str, Any]:
    total, scale = row["total_steps"], row["loss_scale"]
    bar: RenderableType = ProgressBar(total=total, completed=row["step"], width=BAR_WIDTH) if total else Text("")
    return {
        "run": Text(printable(run.name)),
        "state": Text(printable(row["state"]), style=_STATE_STYLES.get(row["state"], "")),
        "step": Text(_of(row["step"], total)),
        "bar": bar,
        "epoch": Text(printable(_of(row["epoch"], row["epochs"])) if row["epoch"] is not None else "-"),
        "loss": Text(_figure(row["loss"], ".2f")),
        "curve": Text(sparkline(run.losses, width=SPARK_WIDTH, is_log=True), style="cyan"),
        "dev_cer": Text(_figure(row["dev_cer"], ".3f")),
        "best": Text(_figure(row["best_dev_cer"], ".3f"), style="bold"),
        "speed": Text(_figure(row["utterances_a_second"], ".1f")),
        "left": Text(duration(row["seconds_left"])),
        "scale": Text("-" if scale in (None, 1.0) else f"{scale:g}"),
        "skipped": Text(str(row["skipped"]) if row["skipped"] else "-", style="red" if row["skipped"] else ""),
        "swallowed": Text(_figure(row["swallowed_share"], ".2%")),
        "arithmetic": Text(printable(label_of(run.config)), style=terminal_style(run)),
    }


def texts(run: WatchedRun, row: dict[str, Any]) -> dict[str, str]:
    """A row as the table has it, in words alone."""
    cells = _cells(run, row)
    found = {column.title or column.name: cells[column.name] for column in COLUMNS if column.name != "bar"}
    return {name: str(cell).strip() for name, cell in found.items()} | {"note": printable(row["note"])}


def terminal_style(run: WatchedRun) -> str:
    """The colour of a run's format."""
    colour = style_of(run.config).colour
    return "" if colour == BLACK else colour


def detail(run: WatchedRun, *, width: int, height: int = 48, now: float | None = None) -> RenderableType:
    """A panel of one run: figures, curves, the newest sample, warnings; the curves as high as there is room for."""
    row = run.row(now)
    said, warnings = run.log_lines()
    parts: list[RenderableType] = [_figures(run, row)]
    size = (max(min(width - 16, PLOT_WIDTH), 20), max(min((height - 22) // 2, PLOT_HEIGHT), 3))
    parts += _plot("loss", run.steps, run.losses, size, "cyan")
    parts += _plot("dev CER", *run.dev_cer, size, terminal_style(run))
    if said:
        parts.append(Text("\n" + "\n".join(printable(line) for line in said.split("\n"))))
    notes = [*warnings, *run.problems, *run.notes]
    if row["note"] and row["note"] not in notes:
        notes.append(row["note"])
    parts += [Text(printable(text), style="yellow") for text in notes[-MOST_WARNINGS:]]
    return Panel(Group(*parts), title=Text(printable(run.name)), title_align="left", expand=False)


def _figures(run: WatchedRun, row: dict[str, Any]) -> Table:
    cells = _cells(run, row)
    shown = [(column.title, cells[column.name]) for column in COLUMNS if column.title and column.name != "run"]
    grid = Table.grid(padding=(0, 2))
    half = (len(shown) + 1) // 2
    for left, right in zip_longest(shown[:half], shown[half:], fillvalue=("", Text(""))):
        grid.add_row(Text(left[0], style="dim"), left[1], Text(right[0], style="dim"), right[1])
    return grid


def _plot(
    name: str, steps: Sequence[int], values: Sequence[float], size: tuple[int, int], style: str
) -> list[RenderableType]:
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return []
    lines = dot_plot(steps, values, width=size[0], height=size[1], is_log=min(known) > 0)
    labels = {0: f"{max(known):.3g}", len(lines) - 1: f"{min(known):.3g}"}
    text = Text(f"\n{name}, steps {steps[0]} to {steps[-1]}" + (" (log)\n" if min(known) > 0 else "\n"))
    for number, line in enumerate(lines):
        text.append(f"{labels.get(number, ''):>8} ", style="dim")
        text.append(line, style=style)
        text.append("\n" if number < len(lines) - 1 else "")
    return [text]


def plain_line(run: WatchedRun, now: float | None = None) -> str:
    """One run in a line, for a log."""
    row = run.row(now)
    figures = {
        "": f"{run.name}  {row['state']}",
        "step": _of(row["step"], row["total_steps"]),
        "epoch": _of(row["epoch"], row["epochs"]) if row["epoch"] is not None else None,
        "loss": _known(row["loss"], ".2f"),
        "dev CER": _known(row["dev_cer"], ".3f"),
        "best": _known(row["best_dev_cer"], ".3f"),
        "utt/s": _known(row["utterances_a_second"], ".1f"),
        "left": duration(row["seconds_left"]) if row["seconds_left"] is not None else None,
        "loss scale": None if row["loss_scale"] in (None, 1.0) else f"{row['loss_scale']:g}",
        "skipped": str(row["skipped"]) if row["skipped"] else None,
        "swallowed": _known(row["swallowed_share"], ".2%"),
    }
    words = [f"{name} {value}".strip() for name, value in figures.items() if value is not None]
    return printable("  ".join([*words, *([row["note"]] if row["note"] else [])]))


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever is short."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _of(part: Any, whole: Any) -> str:
    return str(part) if whole is None else f"{part}/{whole}"


def _known(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def _figure(value: float | None, form: str) -> str:
    return _known(value, form) or "-"
