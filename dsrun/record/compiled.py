"""Compiled programs in a run folder: read only where this user wrote them.

JAX's compilation cache is trusted code: who can write there runs code in our process. So it lies in the run folder with mode 0700, only a
resume reads it (`eval`, `transcribe` and `verify` of a run that may be a stranger's do not), and only if it was provably made in this
place by this user: a folder and no link, owned by the user, closed to all others, and sealed. The seal is a file that says which inodes
the folder and an empty second file have, and to the nanosecond when the latter last changed. No archive can bring such a seal along: inodes
and times of change are given by the file system where it is unpacked. A copy of one's own run therefore compiles anew, too.
"""

import os
import shutil
import stat
from pathlib import Path

from dsrun.errors import UsageError
from dsrun.record.durable import write_atomically

_BORN, _SEAL = ".born", ".seal"


def trusted_folder(path: Path) -> tuple[Path, str | None]:
    """The folder, made anew if what is there cannot be trusted; and then the reason, to be told.

    Raises:
        UsageError: it can be neither trusted nor replaced.
    """
    reason = _distrust(path)
    if reason is None:
        return path, None
    is_there = os.path.lexists(path)
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif is_there:
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
        (path / _BORN).touch(mode=0o600, exist_ok=False)
        write_atomically(path / _SEAL, _seal(path))
    except OSError as error:
        raise UsageError(
            f"{path}: compiled programs cannot be kept there ({error.strerror}); {reason}. Remove the folder, or set "
            "training.compilation_cache to false."
        ) from error
    return path, f"{path}: not read and begun anew: {reason}" if is_there else None


def _distrust(path: Path) -> str | None:
    """Why the programs there are not to be run; None if they are ours."""
    try:
        found = path.lstat()
    except OSError:
        return "there is none yet"
    if not stat.S_ISDIR(found.st_mode):
        return "it is no folder"
    if found.st_uid != os.geteuid():
        return f"it belongs to another user (uid {found.st_uid})"
    if found.st_mode & 0o077:
        return f"others may enter it (mode {stat.S_IMODE(found.st_mode):04o}; it must be 0700)"
    try:
        seal = (path / _SEAL).read_bytes() if stat.S_ISREG((path / _SEAL).lstat().st_mode) else b""
        is_ours = seal == _seal(path).encode()
    except OSError:
        is_ours = False
    return None if is_ours else "it was not made in this place: compiled programs are code, and a copy's are not run"


def _seal(path: Path) -> str:
    born = (path / _BORN).lstat()
    return f"{path.lstat().st_ino} {born.st_ino} {born.st_ctime_ns}\n"
