"""What to transcribe: arguments, a list in a file, standard input.

On the roof. Standard input cannot be sought in, which every decoder wants to do, so it is copied to a temporary file first: to the
end, however long it takes (`--stream` is for sound that is still being made).
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from dsrun.errors import UsageError
from dsrun.speech.recording import RawFormat
from dsrun.transcription import Source

STDIN = "-"


def list_sources(audio: Sequence[Path], files_from: Path | None) -> list[Path]:
    """Arguments, then the lines of a file; paths as written, relative to the current folder.

    Raises:
        UsageError: nothing to do, the list cannot be read, or standard input is asked for twice.
    """
    paths = [*audio, *(_lines(files_from) if files_from else [])]
    if not paths:
        raise UsageError("nothing to transcribe: name audio files, --files-from FILE, or - for standard input.")
    if [str(path) for path in [*paths, files_from]].count(STDIN) > 1:
        raise UsageError("standard input (-) can be read once only.")
    return paths


@contextmanager
def open_sources(
    paths: Sequence[Path], *, raw: RawFormat | None, stdin: BinaryIO | None = None
) -> Iterator[list[Source]]:
    """Paths as sources, standard input copied to a file that is gone afterwards.

    Args:
        raw: format of what comes on standard input, if it has no header.
    """
    if raw and Path(STDIN) not in paths:
        raise UsageError("--raw-rate says what comes on standard input; write - for that. Files need a header.")
    with TemporaryDirectory(prefix="dsrun-") as folder:
        sources = []
        for path in paths:
            if str(path) == STDIN:
                copy = Path(folder) / "stdin"
                _copy(stdin or sys.stdin.buffer, copy)
                sources.append(Source(copy, STDIN, raw))
            else:
                sources.append(Source(path, as_text(path)))
        yield sources


def as_text(path: Path) -> str:
    """A path as text that can be printed: a byte that is no UTF-8 becomes an escape."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _copy(stream: BinaryIO, to: Path) -> None:
    if stream.isatty():
        raise UsageError("standard input is a terminal: pipe audio into it, e.g. `cat a.wav | dsrun transcribe RUN -`.")
    with to.open("wb") as file:
        shutil.copyfileobj(stream, file)


def _lines(file: Path) -> list[Path]:
    try:
        text = sys.stdin.read() if str(file) == STDIN else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--files-from {file}: cannot be read as a list of paths, one a line: {reason}.") from None
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if any("\0" in line for line in lines):
        raise UsageError(f"--files-from {file}: holds a NUL character: write paths, one a line.")
    return [Path(line) for line in lines if line.strip()]
