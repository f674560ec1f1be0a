"""The report as one HTML file: no script, no request to anywhere, the same bytes again from the same folders.

A figure is in the page twice, drawn for a wide window and for a narrow one, and the browser takes the one that fits; on paper the wide
one. Whatever text comes from a run folder is escaped, isolated from the direction of its neighbours, and what cannot be seen in it is
shown by its code point (`evaluation.page` says why). An exhibit's own `html` is markup and stands as it is.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dsrun import __version__
from dsrun.evaluation.page import visible
from dsrun.study.exhibit import Exhibit, columns_of
from dsrun.study.figure_files import Picture
from dsrun.study.run_record import RunRecord
from dsrun.study.runs_table import Cell, cell, commands, run_names, runs_table

MOST_ROWS = 100  # of an exhibit's numbers in the page; all are in its CSV
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Item:
    """An exhibit as the page shows it."""

    exhibit: Exhibit
    picture: Picture | None

    @property
    def answer(self) -> str:
        """The caption's first sentence."""
        return _SENTENCE.split(self.exhibit.caption, maxsplit=1)[0]

    @property
    def more(self) -> str:
        """The rest of the caption."""
        return "".join(_SENTENCE.split(self.exhibit.caption, maxsplit=1)[1:])

    @property
    def wide(self) -> str | None:
        """The drawing for wide windows, as the browser takes it; None if the page shows none."""
        return _data_uri(self.picture.wide) if self.picture and self.exhibit.is_pictured else None

    @property
    def narrow(self) -> str | None:
        """The drawing for narrow windows."""
        return _data_uri(self.picture.narrow) if self.picture and self.picture.narrow else None

    @property
    def columns(self) -> list[str]:
        """Keys of the rows."""
        return columns_of(self.exhibit.rows)

    @property
    def table(self) -> list[list[Cell]]:
        """The first rows."""
        columns = self.columns  # found once: rows may be thousands
        return [[cell(row.get(name), name) for name in columns] for row in self.exhibit.rows[:MOST_ROWS]]

    @property
    def files(self) -> list[str]:
        """Names of the exhibit's files."""
        suffixes = ("svg", "png", "csv") if self.exhibit.draw else ("csv",)
        return [f"{self.exhibit.name}.{suffix}" for suffix in suffixes]


def render_page(
    title: str, summary: str, items: Sequence[Item], runs: Sequence[RunRecord], notes: Sequence[str]
) -> str:
    """The page's text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    table = runs_table(runs)
    typed = [(name, commands(run)) for name, run in zip(run_names(runs), runs, strict=True)]
    return environment.from_string(_template()).render(
        title=title,
        summary=summary,
        notes=notes,
        items=[_with_markup(item) for item in items],
        shared=table.shared,
        run_columns=table.head,
        run_rows=table.rows,
        more_settings=table.more,
        commands=[(name, command) for name, command in typed if command],
        version=__version__,
    )


def is_page(path: Path) -> bool:
    """Whether a file begins as every report does, so that a new one may replace it."""
    head = _template().partition("<title>")[0].encode()
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _with_markup(item: Item) -> dict[str, Any]:
    """The item's parts for the template; `html` is markup already."""
    html = Markup(item.exhibit.html) if item.exhibit.html else None
    names = ("exhibit", "picture", "answer", "more", "wide", "narrow", "columns", "table", "files")
    return {name: getattr(item, name) for name in names} | {"html": html}


def _template() -> str:
    return (files(__package__) / "report.html").read_text(encoding="utf-8")


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
