"""LibriSpeech, LibriTTS and Multilingual LibriSpeech: read books, one folder a subset.

LibriSpeech is `SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTT.flac` with one `SPEAKER-CHAPTER.trans.txt` a chapter, lines `ID
TEXT`. LibriTTS has a `.normalized.txt` (numbers spelled) and a `.original.txt` beside each clip. Multilingual LibriSpeech has
one `transcripts.txt` a split, lines `SPEAKER_BOOK_UTT<TAB>text`, and `audio/SPEAKER/BOOK/ID.flac` (or `.opus`). A split is
called what its folder is called: train-clean-100, dev-other.
"""

import os
from pathlib import Path

from dsrun.errors import DataError, UsageError
from dsrun.speech.importers.folders import find_files, find_recording, is_audio, leads_outside, require_some, walk
from dsrun.speech.importers.rows import (
    MALFORMED,
    MISSING,
    NO_TEXT,
    OUTSIDE,
    UNREADABLE_TEXT,
    Found,
    ImportOptions,
    LeftOut,
    Row,
)
from dsrun.speech.importers.tables import read_lines, read_text

SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")  # people convert


def read_librispeech(source: Path, options: ImportOptions) -> Found:
    """One row a line of every `*.trans.txt`."""
    tables = find_files(source, ".trans.txt")
    for table in require_some(
        tables, source, "SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt (unpack the archives first)"
    ):
        chapter = table.absolute().parent
        split, speaker = chapter.parent.parent.name, chapter.parent.name
        named = set()
        for number, line in read_lines(table):
            id, _, text = line.strip().partition(" ")
            named.add(id)
            if leads_outside(id, options):
                yield LeftOut(OUTSIDE, f"{table}:{number}: {id!r}; --allow-outside takes it", split)
                continue
            audio = find_recording(table.parent, id, SUFFIXES)
            yield Row(f"{table}:{number}", split, id, audio, text.strip(), speaker)
        for name in sorted(os.listdir(table.parent)):
            if is_audio(name) and os.path.splitext(name)[0] not in named:
                yield LeftOut(NO_TEXT, f"{table.parent / name}: no line in {table.name}", split)


def read_libritts(source: Path, options: ImportOptions) -> Found:
    """One row a clip that has its text beside it."""
    kind = options.text or "normalized"
    if kind not in ("normalized", "original"):
        raise UsageError(f"--text {kind}: LibriTTS has normalized and original.")
    ending, found = f".{kind}.txt", False
    for folder, names in walk(source):
        texts = {name.removesuffix(ending) for name in names if name.endswith(ending)}
        clips = {os.path.splitext(name)[0]: name for name in names if is_audio(name)}
        speaker_folder = folder.absolute().parent
        split = speaker_folder.parent.name
        for id in sorted(texts | clips.keys()):
            found = True
            if id not in texts:
                yield LeftOut(NO_TEXT, f"{folder / clips[id]}: no {id}{ending}", split)
            elif id not in clips:
                yield LeftOut(MISSING, f"{folder / id}{ending}: no {id}.wav beside it", split)
            else:
                path = folder / f"{id}{ending}"
                try:
                    text = read_text(path)
                except DataError as error:
                    yield LeftOut(UNREADABLE_TEXT, str(error), split)
                    continue
                yield Row(str(path), split, id, folder / clips[id], text, speaker_folder.name)
    require_some([source] if found else [], source, f"SUBSET/SPEAKER/CHAPTER/ID.wav with ID{ending}")


def read_mls(source: Path, options: ImportOptions) -> Found:
    """One row a line of every split's `transcripts.txt`."""
    tables = [path for path in find_files(source, "transcripts.txt") if path.name == "transcripts.txt"]
    for table in require_some(tables, source, "SPLIT/transcripts.txt and SPLIT/audio/SPEAKER/BOOK/ID.flac"):
        split, named = table.absolute().parent.name, set()
        for number, line in read_lines(table):
            place = f"{table}:{number}"
            id, _, text = line.partition("\t")
            parts = id.split("_")
            if len(parts) != 3 or not all(part.isalnum() for part in parts):
                yield LeftOut(MALFORMED, f"{place}: {id[:80]!r} is no SPEAKER_BOOK_UTTERANCE", split)
                continue
            named.add(id)
            audio = find_recording(table.parent / "audio" / parts[0] / parts[1], id, SUFFIXES)
            yield Row(place, split, id, audio, text.strip(), parts[0])
        for folder, names in walk(table.parent / "audio"):
            for name in names:
                if is_audio(name) and os.path.splitext(name)[0] not in named:
                    yield LeftOut(NO_TEXT, f"{folder / name}: no line in {table}", split)
