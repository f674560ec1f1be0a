"""Common Voice: sentences read by volunteers, `LOCALE/clips/*.mp3` and tab-separated tables.

Tables are read by column name, since columns come and go from release to release. A quotation mark in a sentence is a plain
character: no CSV quoting. Very old releases name clips without `.mp3`. train, dev and test are read unless other tables are
asked for (`--split validated`): validated.tsv holds them and more, so it must not be trained on beside their test set.
`client_id` is the speaker. The text is the column `sentence`, or the one named with `--text`.
"""

import os
from pathlib import Path

from dsrun.errors import DataError, UsageError
from dsrun.speech.importers.folders import is_audio, leads_outside
from dsrun.speech.importers.rows import MALFORMED, NO_TEXT, OUTSIDE, Found, ImportOptions, LeftOut, Row
from dsrun.speech.importers.tables import read_tsv, text_column

USUAL = ("train", "dev", "test")


def read_common_voice(source: Path, options: ImportOptions) -> Found:
    """One row a line of the tables asked for."""
    locale = _locale(source)
    clips = locale / "clips"
    tables = {path.stem: path for path in sorted(locale.glob("*.tsv")) if path.is_file()}
    headers = {name: _header(path) for name, path in tables.items()}
    # clip_durations.tsv, reported.tsv and others are no lists of clips with their text.
    usual = {"sentence", options.text or "sentence"}
    sentences = {name: path for name, path in tables.items() if "path" in headers[name] and usual & {*headers[name]}}
    for split in options.splits or [split for split in USUAL if split in sentences]:
        if split not in sentences:
            raise UsageError(
                f"--split {split}: {locale} has {', '.join(sentences) or 'no table with path and sentence'}."
            )
        column = text_column(sentences[split], headers[split], options.text, ("sentence",))
        for number, row in read_tsv(sentences[split], ("path", column)):
            place = f"{sentences[split]}:{number}"
            if row is None or not row["path"]:
                yield LeftOut(MALFORMED, f"{place}: the fields do not fit the header", split)
            elif leads_outside(row["path"], options):
                yield LeftOut(OUTSIDE, f"{place}: {row['path']!r}; --allow-outside takes it", split)
            else:
                name = _clip(row["path"])
                yield Row(
                    place, split, name.removesuffix(".mp3"), clips / name, row[column], row.get("client_id") or None
                )
    named = {_clip(row["path"]) for path in sentences.values() for _, row in read_tsv(path, ("path",)) if row}
    for name in sorted(os.listdir(clips)) if clips.is_dir() else []:
        if is_audio(name) and name not in named:
            yield LeftOut(NO_TEXT, f"{clips / name}: in no table")


def _clip(path: str) -> str:
    return path if is_audio(path) else f"{path}.mp3"


def _header(table: Path) -> list[str]:
    """The names of a table's columns."""
    with table.open("rb") as file:
        return file.readline(1 << 16).decode("utf-8-sig", "backslashreplace").strip("\r\n").split("\t")


def _locale(source: Path) -> Path:
    if any(source.glob("*.tsv")):
        return source
    below = sorted(path.parent for path in source.glob("*/clips")) if source.is_dir() else []
    if len(below) != 1:
        there = (
            f"{len(below)} languages: {', '.join(p.name for p in below)}; name one"
            if below
            else "no clips and train.tsv, nor LOCALE/clips and LOCALE/train.tsv"
        )
        raise DataError(f"{source}: not such a corpus: {there}.")
    return below[0]
