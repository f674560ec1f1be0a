"""Following an event log: what was appended since the last look, and nothing read twice.

A log only grows, but for two cases: a run that resumes cuts its records back to a checkpoint's step (another file under the same
name), and one that is overwritten starts anew (which may get the very inode that the old file had). Whoever went on reading at the
old place would show a curve with a loop in it, or lines from the middle of one. So each look asks whether the file is still the one
of before: same inode, not shorter, and the last bytes read still where they were. If not, everything is read again, and the look says
so (`is_anew`).

A cut last line is left for the next look. Damage is told and passed over: a live view must not end because of one line.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dsrun.errors import DataError
from dsrun.record.events import parse_record

BLOCK = 2**22  # bytes in memory at a time: a log of a million steps has 400 MB
_REMEMBERED = 256  # bytes before the place, which must still be there at the next look


@dataclass
class Look:
    """What a look found: records in the log's order, and messages about lines that are none."""

    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_anew: bool = False


class EventTail:
    """One event log, read as it grows. Opens the file at each look, so that hundreds of runs need no hundreds of descriptors.

    Args:
        path: need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._inode: int | None = None
        self._start_again()

    def look(self) -> Look:
        """What is new since the last look; everything, and `is_anew`, if the file is another one than then."""
        found = Look()
        for part in self.parts():
            found.is_anew |= part.is_anew
            found.records += part.records
            found.problems += part.problems
        return found

    def parts(self) -> Iterator[Look]:
        """The same in pieces, for whom all records at once are too many; the first says `is_anew`."""
        is_anew = False
        try:
            with open(self.path, "rb") as file:
                if not self._is_same(file):
                    is_anew = True
                    self._start_again()
                self._inode = os.fstat(file.fileno()).st_ino
                file.seek(self._offset)
                yield Look(is_anew=is_anew)
                yield from self._read(file)
        except FileNotFoundError:
            is_anew = self._offset > 0
            self._start_again()
            yield Look(is_anew=is_anew)
        except OSError as error:
            yield Look(problems=[f"{self.path}: cannot be read ({error.strerror})."])

    def _start_again(self) -> None:
        self._inode = None
        self._offset = self._lines = 0
        self._before = b""  # the bytes that end at the offset

    def _is_same(self, file: BinaryIO) -> bool:
        if self._inode is None or not self._offset:
            return True
        facts = os.fstat(file.fileno())
        if facts.st_ino != self._inode or facts.st_size < self._offset:
            return False
        file.seek(self._offset - len(self._before))
        return file.read(len(self._before)) == self._before

    def _read(self, file: BinaryIO) -> Iterator[Look]:
        rest = b""
        while block := file.read(BLOCK):
            found = Look()
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._lines += 1
                self._offset += len(line) + 1
                try:
                    found.records.append(parse_record(line, f"{self.path}:{self._lines}"))
                except DataError as error:
                    found.problems.append(str(error))
            if lines:
                self._before = (b"\n".join(lines[-2:]) + b"\n")[-_REMEMBERED:]
            yield found
