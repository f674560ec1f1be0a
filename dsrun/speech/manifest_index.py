"""A manifest of millions: every line checked once, none of them kept.

`read_manifest` makes an object of every line, about a kilobyte each, which is right for thousands of utterances. `open_manifest` makes the
same checks, says the same of every bad line, and keeps of each good one where it stands in the file, its duration and its id: 24 bytes
and the id's own (`ManifestIndex.nbytes`). The rest is read from the file when an utterance is asked for.

The file is held open, so replacing it (as editors do) changes nothing for who has it open; writing into it does, and is noticed where a
line has another id than it had.
"""

import codecs
import os
import threading
import weakref
from array import array
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import overload

import numpy as np

from dsrun.errors import DataError
from dsrun.speech.manifest import (
    MOST_PROBLEMS,
    NUL,
    Row,
    Utterance,
    list_problems,
    make_utterance,
    not_utf8,
    parse_row,
)

PIECE = 1 << 16  # bytes of the file that are read at once, or a line if that is longer
LONGEST_LINE = 1 << 24  # bytes; an utterance's line has hundreds


class Names(Sequence[str]):
    """Strings in one piece of memory: their UTF-8 bytes end to end, and where each ends."""

    def __init__(self, text: bytes | bytearray, ends: np.ndarray):
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._text[self._ends[index - 1] if index else 0 : self._ends[index]].decode()

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return len(self._text) + self._ends.nbytes


class ManifestIndex(Sequence[Utterance]):
    """The utterances of a manifest, in its order, each read when it is asked for. Use `open_manifest`."""

    def __init__(
        self, path: Path, file: int, ids: Names, starts: np.ndarray, lines: np.ndarray | None, seconds: np.ndarray
    ):
        self.path, self.ids, self.seconds = path, ids, seconds
        self._file, self._starts, self._lines = file, starts, lines
        self._latest = threading.local()  # by thread, its index and row
        weakref.finalize(self, os.close, file)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this holds."""
        lines = 0 if self._lines is None else self._lines.nbytes
        return self.ids.nbytes + self._starts.nbytes + lines + self.seconds.nbytes

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return make_utterance(self.row(index), self.line(index), self.path.parent)

    def line(self, index: int) -> int:
        """Number of the utterance's line."""
        return index + 1 if self._lines is None else int(self._lines[index])

    def row(self, index: int) -> Row:
        """The utterance's fields, without making a path of them.

        Raises:
            DataError: the file has been written into since it was opened.
        """
        start = int(self._starts[index])
        row = self._row(index, os.pread(self._file, int(self._starts[index + 1]) - start, start))
        self._latest.index, self._latest.row = index, row
        return row

    def row_again(self, index: int) -> Row:
        """As `row`; not read anew if it is the one that this thread read last: a batch asks for a recording and then for its text."""
        return self._latest.row if getattr(self._latest, "index", None) == index else self.row(index)

    def rows(self) -> Iterator[Row]:
        """All of them in order, for who goes through the whole manifest."""
        first = 0
        while first < len(self):  # pread: two that go through it at once share no position
            start = int(self._starts[first])
            after = int(np.searchsorted(self._starts, start + PIECE, side="right")) - 1
            after = min(max(after, first + 1), len(self))
            content = os.pread(self._file, int(self._starts[after]) - start, start)
            for index in range(first, after):
                yield self._row(index, content[int(self._starts[index]) - start : int(self._starts[index + 1]) - start])
            first = after

    def _row(self, index: int, content: bytes) -> Row:
        try:
            row = parse_row(content.split(b"\n", 1)[0].decode())
        except (DataError, UnicodeDecodeError):
            row = None
        if row is None or row.id != self.ids[index] or row.duration != self.seconds[index]:
            raise DataError(f"{self.path}:{self.line(index)}: changed since the manifest was opened. Start again.")
        return row


def open_manifest(path: Path | str) -> ManifestIndex:
    """Check every line of a manifest and remember where it is.

    Raises:
        DataError: as `read_manifest`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe or a device has no end
        raise DataError(f"{path}: a folder, a pipe or a device cannot be read as a manifest.")
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None
    try:
        scan = _Scan()
        scan.read(file)
        scan.find_repeated_ids()
        scan.require_no_problems(path)
        return ManifestIndex(path, file, *scan.columns())
    except BaseException:
        os.close(file)
        raise


class _Scan:
    """One pass over a manifest: columns that grow by eight bytes a row, and the first problems."""

    def __init__(self) -> None:
        self.names = bytearray()
        self.ends, self.starts, self.lines, self.hashes = (array("q") for _ in range(4))
        self.seconds = array("d")
        self.problems: list[tuple[int, str]] = []  # line, text
        self.more = 0
        self.is_no_utf8 = False

    def read(self, file: int) -> None:
        start = 0
        with open(file, "rb", closefd=False) as stream:
            for number in count(1):
                line = stream.readline(LONGEST_LINE)
                if not line:
                    break
                content = line[len(codecs.BOM_UTF8) :] if number == 1 and line.startswith(codecs.BOM_UTF8) else line
                if content.strip():
                    self._take(content, number, start + len(line) - len(content))
                # The rest of a long line would be read as lines of their own, and of another encoding no line can be read.
                if len(line) == LONGEST_LINE or self.is_no_utf8:
                    break
                start += len(line)
        self.starts.append(start)

    def _take(self, line: bytes, number: int, start: int) -> None:
        try:
            if len(line) == LONGEST_LINE:
                raise DataError(f"longer than {LONGEST_LINE} bytes; is it JSON lines, one utterance a line?")
            row = parse_row(line.removesuffix(b"\n").decode())
        except UnicodeDecodeError as error:
            self.is_no_utf8 = True
            self._problem(number, not_utf8(error))
        except DataError as error:
            self.is_no_utf8 = b"\0" in line
            self._problem(number, NUL if self.is_no_utf8 else str(error))
        else:
            self.names += row.id.encode()
            self.ends.append(len(self.names))
            self.starts.append(start)
            self.lines.append(number)
            self.seconds.append(row.duration)
            self.hashes.append(hash(row.id))

    def _problem(self, number: int, text: str) -> None:
        if len(self.problems) < 2 * MOST_PROBLEMS:
            self.problems.append((number, text))
        else:
            self.more += 1

    def find_repeated_ids(self) -> None:
        """By 64-bit hashes, and by the ids themselves where those are equal."""
        hashes = np.frombuffer(self.hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        later = np.sort(order[1:][np.diff(hashes[order]) == 0])
        self.more += max(0, len(later) - MOST_PROBLEMS)
        ids = Names(self.names, np.frombuffer(self.ends, np.int64))
        for index in later[:MOST_PROBLEMS].tolist():
            same = (place for place in np.flatnonzero(hashes == hashes[index]).tolist() if ids[place] == ids[index])
            if (first := next(same)) != index:
                self.problems.append(
                    (
                        self.lines[index],
                        f"id {ids[index]!r} stands in line {self.lines[first]} already; ids must be unique.",
                    )
                )

    def require_no_problems(self, path: Path) -> None:
        """Raises DataError with the first problems and how many more there are."""
        texts = [f"{path}:{number}: {text}" for number, text in sorted(self.problems)]
        if texts:
            raise DataError(list_problems(texts, more=self.more))
        if not self.lines:
            raise DataError(f"{path}: holds no utterances.")

    def columns(self) -> tuple[Names, np.ndarray, np.ndarray | None, np.ndarray]:
        """Ids, starts, lines unless they are 1, 2, ..., seconds."""
        lines = None if self.lines[-1] == len(self.lines) else np.array(self.lines, np.int64)
        ids = Names(bytes(self.names), np.array(self.ends, np.int64))
        return ids, np.array(self.starts, np.int64), lines, np.array(self.seconds, np.float64)
