"""Writing so that a kill or a power cut leaves the old file or the new one, never half of one.

The recipe is POSIX's: write aside on the same file system, flush the file to the disk, rename over the name, flush the folder
that holds the name. A rename is atomic; without the flushes it may reach the disk before the bytes do.
"""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's whole content (UTF-8, newlines as given)."""
    aside = path.with_name(f".{path.name}.part")
    with open(aside, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(path.parent)


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
