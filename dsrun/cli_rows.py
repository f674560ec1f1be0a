"""Rows of results for whoever reads them: a table on a terminal, JSON and CSV for programs, Markdown for a page.

A command makes each row twice: `rows` with every figure as it is, which JSON and CSV get, and `shown` with what a person reads, for table
and Markdown. One option at most says which of them is printed; results go to stdout, always whole, and only a table on a terminal
is cut to its width: columns are left out from the right, and a line says which.

CSV is Python's, with one line feed a row: nothing where a value is not known, lists and dictionaries as JSON. In Markdown what would
end a cell or begin a code, an emphasis or a tag is escaped, since names of folders are foreign text. Characters that a terminal would
obey are escaped in all four, for any of them may be looked at there.
"""

import csv
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from dsrun.cli_tables import cell_text, print_table, printable_lines
from dsrun.errors import UsageError
from dsrun.study.foreign_text import in_markdown

Form = Literal["table", "json", "csv", "md"]
Row = Mapping[str, Any]

CsvOption = Annotated[bool, typer.Option("--csv", help="Comma-separated values on stdout.")]
MarkdownOption = Annotated[bool, typer.Option("--md", help="A Markdown table on stdout.")]

_NUMBER = re.compile(r"[+-]?[\d.,]+%?([eE][+-]?\d+)?( [\[(].*)?")  # also one with its interval behind it
GAP = 2  # spaces between columns


def form_of(*, json_output: bool, csv_output: bool, markdown: bool) -> Form:
    """What the options ask for.

    Raises:
        UsageError: more than one.
    """
    forms: dict[Form, bool] = {"json": json_output, "csv": csv_output, "md": markdown}
    asked = [form for form, is_asked in forms.items() if is_asked]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(f'--{form}' for form in asked)}: choose one.")
    return asked[0] if asked else "table"


def print_rows(form: Form, rows: Sequence[Row], shown: Sequence[Row], *, document: Any = None) -> None:
    """One table on stdout.

    Args:
        rows: values as they are, JSON's types, equal keys in all.
        shown: texts for people.
        document: what JSON gets instead of `rows`.
    """
    if form == "json":
        print(json_text(rows if document is None else document))
    elif form == "csv":
        sys.stdout.write(csv_text(rows))
    elif form == "md":
        sys.stdout.write(markdown_text(shown))
    else:
        print_fitting(shown)


def print_fitting(rows: Sequence[Row]) -> None:
    """A table no wider than the terminal, its last columns left out if need be; where stdout is none, all of it.

    A column in which nothing is known is not shown at all.
    """
    left_out: list[str] = []
    rows = without_empty(rows)
    if sys.stdout.isatty():
        rows, left_out = fitting(rows, shutil.get_terminal_size().columns)
    print_table([dict(row) for row in rows])
    if left_out:
        print(f"not shown, the terminal is too narrow: {', '.join(left_out)} (--csv and --json have all)")


def without_empty(rows: Sequence[Row]) -> list[Row]:
    """Rows without the columns that have no value in any of them; the first column stays."""
    names = list(rows[0]) if rows else []
    kept = [name for name in names if name == names[0] or any(row[name] not in (None, "", "-") for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def fitting(rows: Sequence[Row], width: int) -> tuple[list[Row], list[str]]:
    """The first columns of rows that fit side by side, one at least, and the names of the others."""
    names = list(rows[0]) if rows else []
    used, kept = -GAP, 0
    for name in names:
        used += GAP + max(len(str(name)), *(len(cell_text(row[name])) for row in rows))
        if used > width and kept:
            break
        kept += 1
    return [{name: row[name] for name in names[:kept]} for row in rows], names[kept:]


def csv_text(rows: Sequence[Row]) -> str:
    """The rows with a line of names before them; empty for no rows."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(map(printable_lines, rows[0])))
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def markdown_text(rows: Sequence[Row]) -> str:
    """A table in GitHub's Markdown, columns of numbers to the right; empty for no rows."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [["" if row[name] is None else _one_line(row[name]) for name in names] for row in rows]
    is_number = [all(_NUMBER.fullmatch(line[column]) for line in cells if line[column]) for column in range(len(names))]
    lines = [[in_markdown(str(name)) for name in names], ["---:" if right else "---" for right in is_number]]
    lines += [[in_markdown(cell) for cell in line] for line in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _one_line(value: Any) -> str:
    """A value whose line breaks are spaces: a table's cell may not end at them."""
    return " ".join(value.split()) if isinstance(value, str) else cell_text(value)


def json_text(value: Any) -> str:
    """JSON, with null for what it has no number for, and escapes for what a terminal would obey: the same strings when it is read."""
    return _safe(json.dumps(without_nonfinite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _csv_cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping | list | tuple):
        return json_line(value)
    return printable_lines(value) if isinstance(value, str) else value


def json_line(value: Any) -> str:
    """JSON on one line."""
    return _safe(json.dumps(without_nonfinite(value), ensure_ascii=False, allow_nan=False))


def _safe(text: str) -> str:
    # Outside its strings JSON is printable but for line feeds, and in them it has none. U+009B begins a terminal's command like ESC [.
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    )


def without_nonfinite(value: Any) -> Any:
    """Numbers that JSON does not have, infinities and NaN, as null."""
    if isinstance(value, Mapping):
        return {str(key): without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
