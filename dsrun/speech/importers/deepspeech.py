"""Two trainers of the same network: Mozilla DeepSpeech (and Coqui STT), and deepspeech.pytorch.

Mozilla's tables are real CSV with quoting and a header, `wav_filename,wav_filesize,transcript` and perhaps more.
deepspeech.pytorch has three forms: CSV without header or quoting, `recording,text file`; JSON, `{"root_path": ..., "samples":
[{"wav_path": ..., "transcript_path": ...}]}`; and a folder, every `*.wav` below it with its text at the same path, `/wav/`
turned into `/txt/`. Paths may be absolute; relative ones start from the table's folder or from `--audio-root`. A table is a
split of its name; of a folder all tables are read.
"""

import json
import os
from pathlib import Path

from dsrun.errors import DataError, UsageError
from dsrun.speech.importers.folders import is_audio, require_some, split_of, tables_of, walk
from dsrun.speech.importers.rows import (
    MALFORMED,
    MISSING,
    NO_TEXT,
    UNREADABLE_TEXT,
    Found,
    ImportOptions,
    LeftOut,
    Row,
)
from dsrun.speech.importers.tables import read_csv, read_lines, read_text
from dsrun.speech.manifest import without_ending

LONGEST_PATH = (
    4096  # characters, and the least that PATH_MAX allows in bytes: a mebibyte of commas is no mebibyte of paths
)


def read_deepspeech_csv(source: Path, options: ImportOptions) -> Found:
    """One row a line of each table."""
    for table in tables_of(source, (".csv",), "train.csv, dev.csv, test.csv of wav_filename,wav_filesize,transcript"):
        root = options.audio_root or table.parent
        for number, row in read_csv(table, ("wav_filename", "transcript")):
            place = f"{table}:{number}"
            if row is None or not row["wav_filename"]:
                yield LeftOut(MALFORMED, f"{place}: the fields do not fit the header", table.stem)
                continue
            name = row["wav_filename"]
            yield Row(place, table.stem, without_ending(name), root / name, row["transcript"])


def read_deepspeech_pytorch(source: Path, options: ImportOptions) -> Found:
    """One row a pair of recording and text file."""
    if source.is_dir() and not any(path.suffix in (".csv", ".json") for path in source.iterdir()):
        if options.audio_root is not None:
            raise UsageError(f"--audio-root: {source} has no table whose paths could start there. Leave it out.")
        yield from _folder(source)
        return
    for table in tables_of(source, (".csv", ".json"), "CSV of `recording,text file`, JSON, or folders wav and txt"):
        root = options.audio_root or table.parent
        yield from _json(table, root) if table.suffix == ".json" else _csv(table, root)


def _csv(table: Path, root: Path) -> Found:
    for number, line in read_lines(table):
        place = f"{table}:{number}"
        # No quoting, so a path may hold a comma: the first cut that leaves two files, else the first of all.
        cuts = [k for k, character in enumerate(line[:LONGEST_PATH]) if character == ","]
        cut = next((k for k in cuts if os.path.isfile(root / line[:k].strip())), cuts[0] if cuts else len(line))
        audio, text = line[:cut].strip(), line[cut + 1 :].strip()
        if audio and text:
            yield _row(place, table.stem, audio, root / audio, root / text)
        else:
            yield LeftOut(MALFORMED, f"{place}: not `recording,text file`", table.stem)


def _json(table: Path, root: Path) -> Found:
    try:
        content = json.loads(table.read_text(encoding="utf-8-sig"))
        root, samples = root / content.get("root_path", ""), content["samples"]
        pairs = [(sample["wav_path"], sample["transcript_path"]) for sample in samples]
        assert all(isinstance(name, str) for pair in pairs for name in pair)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(
            f'{table}: not {{"root_path": ..., "samples": [{{"wav_path": ..., "transcript_path": ...}}]}} ({error!r}).'
        ) from None
    for number, (audio, text) in enumerate(pairs, start=1):
        yield _row(f"{table}: sample {number}", table.stem, audio, root / audio, root / text)


def _folder(source: Path) -> Found:
    found = False
    for folder, names in walk(source):
        for name in filter(is_audio, names):
            found = True
            audio = folder / name
            inside = audio.relative_to(source)
            split = split_of(inside.parts)
            parts = list(audio.absolute().parts)
            if "wav" not in parts[:-1]:
                yield LeftOut(NO_TEXT, f"{audio}: not in a folder `wav`", split)
                continue
            place = len(parts) - 1 - parts[::-1].index("wav")  # the last
            text = Path(*parts[:place], "txt", *parts[place + 1 :]).with_suffix(".txt")
            yield _row(str(audio), split, str(inside), audio, text)
    require_some([source] if found else [], source, "folders wav (recordings) and txt (texts)")


def _row(place: str, split: str, name: str, audio: Path, text: Path) -> Row | LeftOut:
    if not os.path.exists(text):
        return LeftOut(NO_TEXT if os.path.isfile(audio) else MISSING, f"{place}: no {text}", split)
    try:
        return Row(place, split, without_ending(name), audio, read_text(text))
    except DataError as error:
        return LeftOut(UNREADABLE_TEXT, str(error), split)
