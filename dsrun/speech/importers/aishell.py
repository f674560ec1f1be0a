"""AISHELL-1: Mandarin, `wav/{train,dev,test}/SPEAKER/ID.wav` and one table `transcript/aishell_transcript_v0.8.txt` of `ID words`.

The words are set apart by blanks, which are no characters of the language: they go, except between two of Latin letters or
digits. Some clips have no line. The split is the folder.
"""

import os
import re
from pathlib import Path

from dsrun.speech.importers.folders import find_files, is_audio, require_some, walk
from dsrun.speech.importers.rows import MISSING, NO_TEXT, Found, ImportOptions, LeftOut, Row
from dsrun.speech.importers.tables import read_lines

BLANK = re.compile(r"(?<![A-Za-z0-9']) | (?![A-Za-z0-9'])")  # of single ones: of two each is beside a blank


def read_aishell(source: Path, options: ImportOptions) -> Found:
    """One row a line of the table that has a clip."""
    tables = sorted((source / "transcript").glob("*.txt"))
    require_some(tables, source, "transcript/aishell_transcript_v0.8.txt and wav/SPLIT/SPEAKER/ID.wav")
    clips: dict[str, list[Path]] = {}
    for folder, names in walk(source / "wav"):
        for name in filter(is_audio, names):
            clips.setdefault(os.path.splitext(name)[0], []).append(folder / name)
    if not clips:
        archives = find_files(source / "wav", ".tar.gz")
        require_some(
            [], source, "wav/SPLIT/SPEAKER/ID.wav" + (f"; unpack {archives[0].name} and the others" if archives else "")
        )
    named = set()
    for table in tables:
        for number, line in read_lines(table):
            id, *words = line.split()
            place, text = f"{table}:{number}", BLANK.sub("", " ".join(words))
            named.add(id)
            if id not in clips:
                yield LeftOut(MISSING, f"{place}: no {id}.wav below {source / 'wav'}")
                continue
            for path in clips[id]:
                yield _row(place, source, id, path, text)
    for id, paths in clips.items():
        if id not in named:
            yield LeftOut(NO_TEXT, f"{paths[0]}: no line in the transcript", _split(source, paths[0]))


def _row(place: str, source: Path, id: str, audio: Path, text: str) -> Row:
    return Row(place, _split(source, audio), id, audio, text, audio.parent.name)


def _split(source: Path, audio: Path) -> str:
    first, *rest = audio.relative_to(source / "wav").parts
    return first if rest else ""
