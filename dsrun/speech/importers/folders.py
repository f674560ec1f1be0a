"""Looking through a corpus's folders, in an order that does not depend on the disk."""

import os
from collections.abc import Iterator
from pathlib import Path

from dsrun.errors import DataError
from dsrun.speech.importers.rows import SPLIT_NAMES, ImportOptions

AUDIO_SUFFIXES = (
    ".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".sph", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64",
)  # fmt: skip


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below, itself first, with its files' names; sorted, hidden ones left out, links followed but no folder twice."""

    def unreadable(error: OSError) -> None:  # os.walk would pass over it in silence
        raise error

    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        identity = os.stat(root)
        if (identity.st_dev, identity.st_ino) in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        yield Path(root), sorted(name for name in names if not name.startswith("."))


def is_audio(name: str) -> bool:
    """Does the name end like a recording's?"""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def find_files(folder: Path, suffix: str) -> list[Path]:
    """Every file below whose name ends so."""
    return [root / name for root, names in walk(folder) for name in names if name.endswith(suffix)]


def find_recording(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """The file of that name with the first of these endings that is there; with the first of all if none is."""
    paths = [folder / f"{stem}{suffix}" for suffix in suffixes]
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def require_some(found: list[Path], source: Path, expected: str) -> list[Path]:
    """The files, or a DataError that says what a corpus of this kind looks like."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder.")
    if not found:
        raise DataError(f"{source}: not such a corpus: expected {expected}.")
    return found


def tables_of(source: Path, suffixes: tuple[str, ...], expected: str) -> list[Path]:
    """The table itself, or all of a folder that end so."""
    if source.is_dir():
        found = sorted(
            p for p in source.iterdir() if p.suffix in suffixes and p.is_file() and not p.name.startswith(".")
        )
    else:
        found = [source] if source.is_file() else []
    return require_some(found, source, expected)


def leads_outside(name: str, options: ImportOptions) -> bool:
    """Would a file's name from a table lead out of the folder that it is looked for in?"""
    return not options.allow_outside and (os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir)


def split_of(parts: tuple[str, ...]) -> str:
    """The split that the first part of a path below the corpus names, or ""."""
    return parts[0] if len(parts) > 1 and parts[0] in SPLIT_NAMES else ""
