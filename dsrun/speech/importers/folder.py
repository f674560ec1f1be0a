"""A plain folder: `name.wav` (or flac, ogg, mp3 ...) and `name.txt` beside it, however deep.

Where the first folder is called train, dev, test, val, valid or validation, it is the split.
"""

import os
from pathlib import Path

from dsrun.errors import DataError
from dsrun.speech.importers.folders import is_audio, require_some, split_of, walk
from dsrun.speech.importers.rows import MISSING, NO_TEXT, UNREADABLE_TEXT, Found, ImportOptions, LeftOut, Row
from dsrun.speech.importers.tables import read_text


def read_folder(source: Path, options: ImportOptions) -> Found:
    """One row a recording that has its text beside it."""
    found = False
    for folder, names in walk(source):
        texts = {os.path.splitext(name)[0] for name in names if name.endswith(".txt")}
        recordings = [name for name in names if is_audio(name)]
        for name in recordings:
            found = True
            path, stem = folder / name, os.path.splitext(name)[0]
            inside = path.relative_to(source)
            split = split_of(inside.parts)
            if stem not in texts:
                yield LeftOut(NO_TEXT, f"{path}: no {stem}.txt", split)
                continue
            try:
                text = read_text(folder / f"{stem}.txt")
            except DataError as error:
                yield LeftOut(UNREADABLE_TEXT, str(error), split)
                continue
            yield Row(str(path), split, str(inside.with_suffix("")), path, text)
        for stem in sorted(texts - {os.path.splitext(name)[0] for name in recordings}):
            yield LeftOut(
                MISSING,
                f"{folder / stem}.txt: no recording beside it",
                split_of((folder / stem).relative_to(source).parts),
            )
    require_some([source] if found else [], source, "name.wav and name.txt")
