"""Reading a corpus's tables: by column name, one line at a time, and never in silence.

UTF-8, with or without a byte-order mark; line ends of Unix or Windows. Only a newline ends a line: U+2028 and U+0085 do occur
in sentences. A NUL byte, bytes that are no UTF-8 and a line beyond a mebibyte mean that the file is no such table: a DataError
with its place. Of a line that does not fit its table the row is None, and the caller counts it.
"""

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dsrun.errors import DataError

LONGEST_LINE = 1 << 20  # bytes; csv's own limit on a field is 131,072 characters


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, counted from 1, and text of each line that is not blank, without its end."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def read_text(path: Path) -> str:
    """All text of a small file, its lines joined by spaces."""
    return " ".join(line.strip() for _, line in read_lines(path))


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Rows of a tab-separated table with a header, quotation marks being plain characters; missing last fields are empty."""
    lines = read_lines(path)
    names = next(lines, (1, ""))[1].split("\t")
    _require_columns(path, names, columns)
    for number, line in lines:
        fields = line.split("\t")
        fits = len(fields) <= len(names)
        yield number, dict(zip(names, fields + [""] * len(names), strict=False)) if fits else None


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Rows of a comma-separated table with a header and quoting (RFC 4180)."""
    # strict: otherwise a quotation mark that nobody closes takes the rest of the file into one field.
    consumed = 0

    def counted() -> Iterator[str]:  # the reader's own count lacks the line that it fails at
        nonlocal consumed
        for line in _lines(path):
            consumed += 1
            yield line

    reader = csv.DictReader(counted(), strict=True, restval="")
    try:
        _require_columns(path, reader.fieldnames or [], columns)
        for row in reader:
            yield reader.line_num, None if None in row else row
    except csv.Error as error:
        raise DataError(f"{path}:{consumed}: not a comma-separated table: {error}.") from None


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Objects, one a line."""
    for number, line in read_lines(path):
        yield number, parse_object(line)


def parse_object(text: str | bytes) -> dict[str, Any] | None:
    """A JSON object, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def text_column(path: Path, names: Iterable[str], wanted: str | None, known: Sequence[str]) -> str:
    """The column that holds the text: the wanted one, or the first of the known ones that is there.

    Raises:
        DataError: there is none.
    """
    names = list(names)
    found = [name for name in ([wanted] if wanted else known) if name in names]
    if not found:
        missing = repr(wanted) if wanted else " nor ".join(known)
        raise DataError(
            f"{path}: no column {missing}; {_columns_there(wanted or '', names)}. Name the text's with --text."
        )
    return found[0]


def _columns_there(wanted: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=1)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}it has {', '.join(map(repr, names))}"


def _require_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(
            f"{path}:1: the header lacks {', '.join(missing)}; it has {', '.join(map(repr, names))}. Is it another kind of table?"
        )


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends."""
    if not path.is_file():  # a pipe or a device has no end
        raise DataError(f"{path}: {'a folder, a pipe or a device' if path.exists() else 'no such file'}.")
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE or b"\0" in line:
                    what = "a NUL byte" if b"\0" in line else f"a line of more than {LONGEST_LINE} bytes"
                    raise DataError(f"{path}:{number}: {what}: not a table of text.")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}). Convert the file.") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from None
