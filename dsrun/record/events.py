"""The event log: one JSON object a line, written as training goes, cut back when it resumes.

Every line has `event` and `step`. JSON has no NaN and no infinity: such a number is written as null and its dotted name listed
under `nonfinite`, so that any JSON reader copes and nobody takes a missing number for a zero. Keys keep the order they were
given in. A process that dies while it writes leaves one cut last line; readers skip it, the next writer removes it. Damage
anywhere else is an error, with its line.

After a resume from step n the records after n happen again: `truncate_after(n)` removes the old ones, so the log of a run that
was killed is the log of one that was not, but for its times, for the records that tell of an interruption (`stop`,
`environment`), and for the places of `checkpoint` records: checkpoints are written beside training, each is recorded when it is
whole, and by then there may be records of later steps. Readers therefore go by a record's `step` and not by its line.

Several threads may append: a line is never mixed with another. A disk that is full raises an error and leaves whole lines.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dsrun.errors import DataError
from dsrun.record.durable import LineFile, write_atomically

MOST_STEPS = 2**53  # to which float64 counts
LARGEST_COUNT = 2**62  # steps, utterances, bytes; a file may say anything, and more than this is none of dsrun's


def number(value: Any) -> float | None:
    """A figure of a record or of another file of a run; None for what is no finite number. A file may hold anything.

    JSON has integers without bounds and, in Python's reading, NaN and infinities: `float(10**400)` raises, and a curve with an
    infinity has no axis.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


class EventLog:
    """Appends to one file; make one for each run, under the run folder's lock.

    Args:
        path: created if missing. A cut last line is removed.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = LineFile(self.path)

    def append(self, event: str, step: int, **fields: Any) -> None:
        """Write one line at once, so that a reader or a kill sees whole lines.

        Args:
            event: kind of record, e.g. "step", "eval", "checkpoint".
            step: updates made so far.
            fields: anything JSON has a form for; NumPy scalars and arrays too.

        Raises:
            DataError: the disk takes no more.
        """
        nonfinite: list[str] = []
        record = {"event": event, "step": int(step)} | _plain(fields, "", nonfinite)
        if nonfinite:
            record["nonfinite"] = nonfinite
        self._file.append(json.dumps(record, ensure_ascii=False, allow_nan=False))

    def truncate_after(self, step: int, *, without: Collection[str] = ()) -> None:
        """Keep the records of steps up to `step`, of `step` itself without these events; before anyone else appends."""
        self._file.close()
        lines = [
            line
            for record, line in _parse(self.path)
            if record["step"] < step or (record["step"] == step and record["event"] not in without)
        ]
        write_atomically(self.path, "".join(line + "\n" for line in lines))
        self._file = LineFile(self.path)

    def sync(self) -> None:
        """Flush to the disk, so that a checkpoint written next never outlives the records before it."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """All records, oldest first; a cut last line is left out, and a missing file has none.

    Raises:
        DataError: a line that is not a JSON object with `event` and `step`; names the line.
    """
    return [record for record, _ in _parse(Path(path))]


def _parse(path: Path) -> list[tuple[dict[str, Any], str]]:
    if not path.exists():
        return []
    try:
        *lines, _cut = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return [(parse_record(line, f"{path}:{number}"), line.decode()) for number, line in enumerate(lines, 1)]


def parse_record(line: bytes, place: str) -> dict[str, Any]:
    """One line's record. Raises DataError, with the place, if it is none."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
        raise DataError(f"{place}: not JSON ({error}). Remove the line or take the file from a copy.") from error
    if not isinstance(record, dict) or not is_step(record.get("step")) or not isinstance(record.get("event"), str):
        raise DataError(f"{place}: not a record with `event` and `step`. Remove the line or take the file from a copy.")
    return record


def is_step(value: Any) -> bool:
    """Whether a file's value can be the number of a step."""
    return type(value) is int and 0 <= value < MOST_STEPS


def _plain(value: Any, name: str, nonfinite: list[str]) -> Any:
    """The value in JSON's types; non-finite numbers become None and their names are noted."""
    if hasattr(value, "tolist"):  # NumPy and JAX, scalars and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}" if name else str(key), nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}.{index}", nonfinite) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(name)
        return None
    if isinstance(value, Path):
        return str(value)
    return value
