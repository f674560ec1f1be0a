"""Tensor hashes: a 64-bit word of each tensor of the state, for each step, in a file of fixed records that NumPy maps.

    tensor_hashes.json   format, names of the tensors in their order, and what some of them are (an optimizer's are numbered)
    tensor_hashes.bin    records of 1 + tensors little-endian 64-bit integers: step, then a word a tensor; steps ascend

so `numpy.fromfile(path, "<u8").reshape(-1, 1 + tensors)` has them all. Records are appended whole; a process that dies while it writes
leaves one cut record, which readers skip and the next writer removes. On resume the records after the checkpoint's step are removed, and
happen again. The `step` event of the same step carries one word for all (`combined_hash`). What a word is made of is
`training/state_hash.py`'s; nothing here imports JAX.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsrun.errors import DataError
from dsrun.record.durable import cannot_write, sync, write_atomically

FORMAT = 1  # of the words and the file; words of different formats are not compared
_WORD = np.dtype("<u8")


def combined_hash(names: Sequence[str], words: np.ndarray) -> str:
    """16 hex digits for a whole state: of the names and words in the order of the names."""
    digest = hashlib.blake2b(digest_size=8)
    for name, word in zip(names, words.tolist(), strict=True):
        digest.update(f"{name}\0".encode() + word.to_bytes(8, "little"))
    return digest.hexdigest()


@dataclass(frozen=True)
class TensorHashes:
    """A run's tensor hashes: `words[i, j]` is tensor `names[j]` after step `steps[i]`; steps ascend. `meanings` says of some names what
    they are."""

    names: tuple[str, ...]
    steps: np.ndarray
    words: np.ndarray
    meanings: Mapping[str, str] = field(default_factory=dict)

    def combined(self, row: int) -> str:
        """The whole state's hash, as the step's event has it."""
        return combined_hash(self.names, self.words[row])


class TensorHashLog:
    """Appends to one pair of files; make one for each run, under the run folder's lock.

    Args:
        path: the .bin; created if missing, the header beside it. A cut record at the end is removed.
        names: of the tensors.
        meanings: what some of them are, for people.

    Raises:
        DataError: there are records under other names.
    """

    def __init__(self, path: Path, names: Sequence[str], meanings: Mapping[str, str] | None = None):
        self.path, self.names = Path(path), tuple(names)
        header = header_of(self.path)
        has_records = self.path.is_file() and self.path.stat().st_size >= self._record_bytes
        if has_records and _read_header(header)[0] != self.names:
            raise DataError(f"{header}: other tensors than this run has. Remove {self.path} and it to begin them anew.")
        content = {"format": FORMAT, "names": list(self.names), "meanings": dict(meanings or {})}
        write_atomically(header, json.dumps(content, indent=0) + "\n")
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        os.truncate(self.path, self.path.stat().st_size // self._record_bytes * self._record_bytes)

    @property
    def _record_bytes(self) -> int:
        return (1 + len(self.names)) * _WORD.itemsize

    def append(self, step: int, words: np.ndarray) -> str:
        """Write one record at once; returns the combined hash.

        Raises:
            DataError: the disk takes no more; a cut record is left, which the next log removes.
        """
        assert len(words) == len(self.names)
        content = np.array([step, *words.tolist()], _WORD).tobytes()
        try:
            while content:  # a disk with a little room takes a part and says so
                content = content[self._file.write(content) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return combined_hash(self.names, words)

    def truncate_after(self, step: int) -> None:
        """Keep the records of steps up to `step`."""
        steps = read_tensor_hashes(self.path).steps
        os.truncate(self.path, int(np.searchsorted(steps, step, side="right")) * self._record_bytes)

    def sync(self) -> None:
        """Flush to the disk, so that a checkpoint written next never outlives the records before it."""
        sync(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def header_of(path: Path) -> Path:
    """The header beside a file of records."""
    return path.with_suffix(".json")


def read_tensor_hashes(path: Path) -> TensorHashes:
    """All records, mapped and not read; a cut one at the end is left out, and missing files have none.

    Raises:
        DataError: the header is damaged or of another format, or steps do not ascend.
    """
    path = Path(path)
    if not path.is_file() or not header_of(path).is_file():
        return TensorHashes((), np.empty(0, _WORD), np.empty((0, 0), _WORD))
    names, meanings = _read_header(header_of(path))
    columns = 1 + len(names)
    rows = path.stat().st_size // (columns * _WORD.itemsize)
    # NumPy maps no empty file.
    records = np.memmap(path, _WORD, "r", shape=(rows, columns)) if rows else np.empty((0, columns), _WORD)
    steps = np.array(records[:, 0])
    if (steps[1:] <= steps[:-1]).any():
        place = int(np.flatnonzero(steps[1:] <= steps[:-1])[0]) + 1
        raise DataError(
            f"{path}: damaged: record {place + 1} is of step {steps[place]}, the one before of step {steps[place - 1]}. Take the file from "
            "a copy; without it, runs are compared by their events."
        )
    return TensorHashes(names, steps, records[:, 1:], meanings)


def _read_header(header: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    try:
        content = json.loads(header.read_bytes())
        names, meanings, found = content["names"], content.get("meanings", {}), content["format"]
        is_good = (
            isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(meanings, dict)
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{header}: damaged ({type(error).__name__}: {error}). Take the file from a copy.") from error
    if not is_good:
        raise DataError(
            f"{header}: damaged (names are no list of texts, or meanings no object). Take the file from a copy."
        )
    if found != FORMAT:
        raise DataError(
            f"{header}: tensor hashes of format {found}, this dsrun reads {FORMAT}. Use the run's version of dsrun."
        )
    return tuple(names), meanings
