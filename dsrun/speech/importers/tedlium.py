"""TED-LIUM and others with STM files: long recordings, of which each line of a table is a part.

`SPLIT/stm/TALK.stm` and `SPLIT/sph/TALK.sph` (NIST SPHERE, which libsndfile reads). A line is `file channel speaker start end
[<labels>] text`; `;;` begins a comment. Segments marked as not to be scored are left out. Marks that stand for no word go:
`<sil>`, `{NOISE}`, the `(2)` of a pronunciation, the name in brackets that ends a line of release 1. A blank before an
apostrophe goes too (`it 's`). `<unk>` stands for a word that nobody wrote down: such a segment would teach a wrong text and be
scored by one, so it is left out and counted. A line is of one channel: where the recording has several, it is left out.
"""

import re
from pathlib import Path

from dsrun.speech.importers.folders import find_files, find_recording, require_some
from dsrun.speech.importers.rows import (
    BAD_PART,
    MALFORMED,
    NOT_SCORED,
    UNKNOWN_WORD,
    Found,
    ImportOptions,
    LeftOut,
    Row,
)
from dsrun.speech.importers.tables import read_lines

SUFFIXES = (".sph", ".wav", ".flac")
# A line may have a mebibyte: each part ends where its own characters do, so that nothing is tried twice. `<[^<>]*,[^<>]*>` would
# try each of 16,000 commas as the first, and read to the end behind every one.
LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+)\s+([\d.]+)\s+([\d.]+)(?:\s+<[^<>\s,]*,[^<>]*>|\s+<F\d[^<>]*>)?(?:\s+(.*))?")
NO_WORD = re.compile(r"<sil>|\{[^{}]*\}|\[[^][]*\]|(?<=\S)\(\d+\)|\s\([^() -]*-[^() ]*\)\s*$", re.IGNORECASE)


def read_tedlium(source: Path, options: ImportOptions) -> Found:
    """One row a line of every STM file."""
    for table in require_some(find_files(source, ".stm"), source, "SPLIT/stm/TALK.stm and SPLIT/sph/TALK.sph"):
        folder = table.absolute().parent
        split, audio_folder = (folder.parent.name, folder.parent / "sph") if folder.name == "stm" else ("", folder)
        for number, line in read_lines(table):
            if not line.startswith(";;"):
                yield _parse(line, f"{table}:{number}", split, audio_folder)


def _parse(line: str, place: str, split: str, folder: Path) -> Row | LeftOut:
    found = LINE.fullmatch(line.strip())
    if found is None or "/" in found[1]:
        return LeftOut(MALFORMED, f"{place}: not `file channel speaker start end <labels> text`", split)
    talk, channel, speaker, start_text, end_text, written = found.groups()
    text = clean(written or "")
    if speaker.lower() == "inter_segment_gap" or "ignore_time_segment_in_scoring" in (written or "").lower():
        return LeftOut(NOT_SCORED, place, split)
    if "<unk>" in text.lower():
        return LeftOut(UNKNOWN_WORD, f"{place}: {text[:80]}", split)
    try:
        start, end = float(start_text), float(end_text)
    except ValueError:
        return LeftOut(MALFORMED, f"{place}: {start_text} to {end_text} are no seconds", split)
    if end <= start:
        return LeftOut(BAD_PART, f"{place}: from {start_text} to {end_text} s", split)
    id = f"{talk}-{channel}-{start_text}-{end_text}"
    return Row(
        place,
        split,
        id,
        find_recording(folder, talk, SUFFIXES),
        text,
        speaker,
        start,
        round(end - start, 9),
        channel=channel,
    )


def clean(text: str) -> str:
    """Without marks that stand for no word, apostrophes joined to the word before."""
    return re.sub(r"(?<=\w) (?='\w)", "", " ".join(NO_WORD.sub(" ", text).split()))
