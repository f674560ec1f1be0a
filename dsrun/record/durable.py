"""Writing so that a kill or a power cut leaves the old file or the new one, never half of one, and nothing outside its folder.

Replacing is POSIX's recipe: write aside on the same file system, flush the file to the disk, rename over the name, flush the folder
that holds the name. A rename is atomic; without the flushes it may reach the disk before the bytes do.

Appending is by whole lines: a lock keeps threads apart, and a line that the disk takes only in part is taken back, so the file
ends with a whole line and has room to go on from. A kill in between leaves one cut last line, which `LineFile` removes when it
opens the file again.

A run folder may come from a stranger, with symbolic links in it that lead anywhere. A rename replaces a link and does not follow it;
what is opened for writing here is never reached through one.

A disk that is full is a user's trouble and not a bug: what cannot be written raises a CannotWriteError that names the file.
"""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dsrun.errors import CannotWriteError, UsageError

# No space; over the quota; over the shell's limit on a file's size.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path, error: OSError) -> CannotWriteError:
    """The error for a file that could not be written: which, why, and what to do."""
    way_out = "Make room there" if error.errno in FULL else "Make it writable"
    return CannotWriteError(
        f"{path}: could not be written ({error.strerror or error}). {way_out}, or choose another place, and run the same command again."
    )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's whole content (text as UTF-8, newlines as given).

    Raises:
        CannotWriteError: it could not be written; the old file is still there.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with open_to_replace(aside) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise cannot_write(path, error) from error


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be made in a folder, or in the first that is there above it; None if something can, as far as rights say."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder}: a file, and no folder."
    # False on a file system that is read-only too, whoever asks.
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: dsrun cannot write there."


def open_to_replace(path: Path) -> BinaryIO:
    """A new file for writing; what had its name is gone, be it a link."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb")


def require_own(path: Path) -> None:
    """Raises UsageError if something is there that would lead a writer out of its folder, or never answer: link, pipe, device."""
    if path.is_symlink():
        what = f"a symbolic link to {os.readlink(path)}"
    elif not path.exists() or path.is_dir():
        return
    elif not path.is_file():
        what = "a pipe, a socket or a device"
    elif path.stat().st_nlink > 1:
        what = "a file with a second name (hard link), which may lie elsewhere"
    else:
        return
    raise UsageError(
        f"{path}: {what}. dsrun writes only inside a run folder, so it touched nothing. Remove it or put a copy in its place; to keep "
        "runs on another disk, link the whole run folder."
    )


class LineFile:
    """A text file (UTF-8) that only grows, by whole lines, from any thread.

    Args:
        path: created if missing. A cut last line is removed.

    Raises:
        UsageError: the name is a link, a pipe or a device.
        CannotWriteError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        require_own(self.path)
        try:
            remove_cut_line(self.path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._descriptor: int | None = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def append(self, line: str) -> None:
        """Write one line at once, so that a reader or a kill sees whole lines.

        Raises:
            CannotWriteError: it could not be written; the lines before it are whole.
        """
        content = line.encode() + b"\n"
        with self._lock:
            assert self._descriptor is not None, f"{self.path} is closed"
            before = os.fstat(self._descriptor).st_size
            try:
                while content:  # a disk with a little room takes a part and says so
                    content = content[os.write(self._descriptor, content) :]
            except OSError as error:
                os.ftruncate(self._descriptor, before)
                raise cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Flush to the disk."""
        sync(self.path)

    def close(self) -> None:
        """Close the file; closing it again is nothing."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def remove_cut_line(path: Path) -> None:
    """Remove what stands after the last newline: a line that a killed process did not finish."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with open(path, "r+b") as file:
            file.truncate(whole)


def sync(path: Path) -> None:
    """Flush one file's bytes, or one folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below, then the folder itself."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(root) / name)
        sync(Path(root))
