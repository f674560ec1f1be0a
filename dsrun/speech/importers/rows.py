"""What an importer says of a corpus: a row for each utterance that it names, and a word on each that it leaves out.

An importer reads tables and folders only; whether a file is there, and how long it is, `survey.py` finds out afterwards, for
all kinds alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsrun.speech.manifest import TarMember

SPLIT_NAMES = ("train", "dev", "test", "val", "valid", "validation")  # as folders and files call them
TEXT_KEYS = (
    "text",
    "transcription",
    "sentence",
    "transcript",
    "normalized_text",
)  # where a table names none, the first that is there

MISSING = "missing file"
NO_TEXT = "audio without text"
EMPTY_TEXT = "empty text"
REFUSED_TEXT = "text refused by the normaliser"
UNREADABLE_TEXT = "unreadable text"
DUPLICATE = "duplicate id"
UNREADABLE = "unreadable audio header"
MALFORMED = "malformed line"
OUTSIDE = "path outside the corpus"
BAD_PART = "part beyond its recording"
BAD_DURATION = "duration disagrees with the header"
CHANNEL = "one channel of several"
UNREADABLE_SHARD = "unreadable tar shard"
COMMAND = "command instead of a file"
FAILED_COMMAND = "command failed"
NOT_SCORED = "marked as not to be scored"
UNKNOWN_WORD = "a word of it is <unk>"
LONGEST_EXAMPLE = 2_000  # characters
NOT_A_FAULT = (NOT_SCORED, UNKNOWN_WORD)  # the corpus itself says so


@dataclass(frozen=True)
class Row:
    """An utterance as the corpus names it.

    Args:
        place: file and line that names it, for messages.
        split: the corpus's own name of it, "" where it has none.
        id: unique in its split.
        offset, duration: seconds; with an offset a part of the recording, whose duration None is up to the end. A duration
            without offset is compared with the recording's.
        channel: the one of the recording that the words are in, as the corpus calls it. A manifest cannot say so: the row is
            used only if the recording has no other.
    """

    place: str
    split: str
    id: str
    audio: Path
    text: str
    speaker: str | None = None
    offset: float | None = None
    duration: float | None = None
    member: TarMember | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    channel: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """What the corpus has and an import cannot use: one of the reasons above, where, and in which split (None: nobody can tell)."""

    reason: str
    example: str
    split: str | None = None


Found = Iterator[Row | LeftOut]


def readable(text: str) -> str:
    """A text for people and reports, of bounded length: bytes of a file's name that are no UTF-8 are written as escapes."""
    # Python has such a byte as half a surrogate pair, which no file in UTF-8 can hold.
    text = text if len(text) <= LONGEST_EXAMPLE else f"{text[:LONGEST_EXAMPLE]}..."
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class ImportOptions:
    """What a user may ask of an importer.

    Args:
        splits: only these; empty for those that the corpus is usually read by.
        text: which text, or which column, where a corpus has several.
        audio_root: folder that relative paths to recordings start from, instead of the table's own.
        allow_outside: take paths that lead out of the corpus, in kinds whose paths are names of files inside.
        run_command: runs a shell command and gives the file with what it wrote; None refuses commands.
    """

    splits: tuple[str, ...] = ()
    text: str | None = None
    audio_root: Path | None = None
    allow_outside: bool = False
    run_command: Callable[[str, str], Path] | None = None

    def wants(self, split: str) -> bool:
        """Is the split asked for?"""
        return not self.splits or split in self.splits
