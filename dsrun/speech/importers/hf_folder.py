"""Hugging Face audio folders: recordings and a `metadata.csv` or `metadata.jsonl` with `file_name` and other columns.

One table for all, or one a split (`train/metadata.csv`). The text is the column named with `--text`, or the first of text,
transcription, sentence, transcript and normalized_text. An export to parquet holds the recordings inside the table, where dsrun
does not read them.
"""

from pathlib import Path
from typing import Any

from dsrun.errors import DataError
from dsrun.speech.importers.folders import find_files, is_audio, leads_outside, require_some, split_of, walk
from dsrun.speech.importers.rows import MALFORMED, NO_TEXT, OUTSIDE, TEXT_KEYS, Found, ImportOptions, LeftOut, Row
from dsrun.speech.importers.tables import read_csv, read_json_lines, text_column


def read_hf_folder(source: Path, options: ImportOptions) -> Found:
    """One row a line of every table."""
    tables = [
        path for name in ("metadata.csv", "metadata.jsonl") for path in find_files(source, name) if path.name == name
    ]
    if not tables and (parquet := find_files(source, ".parquet")):
        raise DataError(
            f"{parquet[0]}: a parquet table holds the recordings inside. Write them out as an audio folder (with `datasets`: for row in "
            "dataset: write row['audio']['bytes'] to a file and its text to metadata.jsonl), then import that."
        )
    named = set()
    for table in require_some(sorted(tables), source, "metadata.csv or metadata.jsonl with file_name and a text"):
        key = None
        for number, row in read_csv(table, ("file_name",)) if table.suffix == ".csv" else read_json_lines(table):
            place, split = f"{table}:{number}", _split(source, table.parent, "*.wav")
            key = key or (text_column(table, row, options.text, TEXT_KEYS) if row else None)
            name, text = (row or {}).get("file_name"), (row or {}).get(key or "")
            if not isinstance(name, str) or not name or not isinstance(text, str):
                yield LeftOut(MALFORMED, f"{place}: needs file_name and {key or 'a text'}", split)
            elif leads_outside(name, options):
                yield LeftOut(OUTSIDE, f"{place}: {name!r}; --allow-outside takes it", split)
            else:
                named.add(table.parent / name)
                yield _row(place, table, source, name, text, row or {})
    for folder, names in walk(source):
        for name in filter(is_audio, names):
            if folder / name not in named:
                yield LeftOut(NO_TEXT, f"{folder / name}: in no table", _split(source, folder, name))


def _row(place: str, table: Path, source: Path, name: str, text: str, row: dict[str, Any]) -> Row:
    audio = table.parent / name
    inside = audio.relative_to(source) if audio.is_relative_to(source) else Path(name)
    split = _split(source, table.parent, name)
    speaker = next((str(row[key]) for key in ("speaker", "speaker_id", "client_id") if row.get(key)), None)
    return Row(place, split, str(inside.with_suffix("")), audio, text, speaker)


def _split(source: Path, folder: Path, name: str) -> str:
    """By the first folder below the corpus, or below its folder `data`."""
    audio = folder / name
    parts = audio.relative_to(source).parts if audio.is_relative_to(source) else ()
    return split_of(parts[1:] if parts[:1] == ("data",) else parts)
