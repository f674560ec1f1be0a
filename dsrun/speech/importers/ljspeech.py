"""LJSpeech and its like: `wavs/ID.wav` and `metadata.csv` of `id|text|normalised text`, one voice, no split.

The table has no header and no quoting, and a bar is never escaped: a line with more than three fields cannot be read. Some
lines have only two. The normalised text (numbers spelled) is taken where there is one; `--text original` takes the other.
"""

import os
from pathlib import Path

from dsrun.errors import UsageError
from dsrun.speech.importers.folders import find_recording, is_audio, leads_outside, require_some
from dsrun.speech.importers.rows import MALFORMED, NO_TEXT, OUTSIDE, Found, ImportOptions, LeftOut, Row
from dsrun.speech.importers.tables import read_lines


def read_ljspeech(source: Path, options: ImportOptions) -> Found:
    """One row a line of the table."""
    kind = options.text or "normalized"
    if kind not in ("normalized", "original"):
        raise UsageError(f"--text {kind}: LJSpeech has normalized and original.")
    table, wavs = source / "metadata.csv", source / "wavs"
    require_some([table] if table.is_file() else [], source, "metadata.csv and wavs/ID.wav")
    named = set()
    for number, line in read_lines(table):
        fields = [field.strip() for field in line.split("|")]
        place, id = f"{table}:{number}", fields[0].removesuffix(".wav")
        named.add(id)
        if not 2 <= len(fields) <= 3 or not id:
            yield LeftOut(MALFORMED, f"{place}: {len(fields)} fields instead of id|text|normalised text")
        elif leads_outside(id, options):
            yield LeftOut(OUTSIDE, f"{place}: {id!r}; --allow-outside takes it")
        else:
            text = fields[1] if kind == "original" else fields[-1] or fields[1]
            yield Row(place, "", id, find_recording(wavs, id, (".wav", ".flac")), text)
    for name in sorted(os.listdir(wavs)) if wavs.is_dir() else []:
        if is_audio(name) and os.path.splitext(name)[0] not in named:
            yield LeftOut(NO_TEXT, f"{wavs / name}: no line in {table.name}")
