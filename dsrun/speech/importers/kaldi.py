"""Kaldi data folders: `wav.scp`, `text`, and perhaps `segments` and `utt2spk`.

A line of `text` is `UTT words`, of `segments` `UTT REC start end` (seconds; end -1 is the recording's end), of `utt2spk` `UTT
SPEAKER`. Without `segments` the utterance is the recording. A line of `wav.scp` is one of

    REC path                                as Kaldi has it, relative to where its recipe ran: --audio-root says where
    REC path.ark:OFFSET                     a WAV inside an archive, which is read where it lies
    REC flac -c -d -s path.flac |           or `cat path |`: the file is read, nothing is run
    REC any other command |                 refused; with --allow-commands run, and what it writes kept as a WAV in OUT/audio

Of an id that stands twice in a table the first line counts. A fifth field of `segments` is a channel: a row is used only if its
recording has no other.

A corpus is one such folder, or a folder of them (`data/train`, `data/dev`): the splits are called as they are.
"""

import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from dsrun.errors import DataError
from dsrun.speech.importers.folders import require_some
from dsrun.speech.importers.rows import (
    BAD_PART,
    COMMAND,
    DUPLICATE,
    FAILED_COMMAND,
    MALFORMED,
    MISSING,
    NO_TEXT,
    UNREADABLE,
    Found,
    ImportOptions,
    LeftOut,
    Row,
)
from dsrun.speech.importers.tables import read_lines
from dsrun.speech.manifest import TarMember

ARCHIVE = re.compile(r"(.+):(\d{1,18})")  # more digits are no place in a file
LONGEST_COMMAND = (
    5_000  # characters, of one that reads a file: a path has 4096 bytes, and shlex takes 4 s for half a mebibyte
)


@dataclass(frozen=True)
class _Part:
    recording: str
    start: float
    end: float
    channel: str | None = None


def read_kaldi(source: Path, options: ImportOptions) -> Found:
    """One row a line of every `text`."""
    folders = [source, *sorted(path for path in source.glob("*") if path.is_dir())] if source.is_dir() else []
    folders = [folder for folder in folders if (folder / "wav.scp").is_file()]
    for folder in require_some(folders, source, "wav.scp and text, or folders that hold them"):
        yield from _read_folder(folder, options)


def _read_folder(folder: Path, options: ImportOptions) -> Found:
    split = folder.absolute().name
    lines, doubled = _table(folder / "wav.scp", split)
    yield from doubled
    recordings = _Recordings(folder / "wav.scp", lines, options)
    speakers, doubled = _table(folder / "utt2spk", split) if (folder / "utt2spk").is_file() else ({}, [])
    yield from doubled
    parts: dict[str, _Part] | None = None
    if (folder / "segments").is_file():
        parts = {}
        for number, line in read_lines(folder / "segments"):
            place, fields = f"{folder / 'segments'}:{number}", line.split()
            part = _part(fields)
            if part is None:
                yield LeftOut(MALFORMED, f"{place}: not `UTT REC start end`", split)
            elif fields[0] in parts:
                yield LeftOut(DUPLICATE, f"{place}: {fields[0]!r} stands there already", split)
            else:
                parts[fields[0]] = part
    spoken = set()
    for number, line in read_lines(folder / "text"):
        place = f"{folder / 'text'}:{number}"
        id, words = [*line.split(maxsplit=1), ""][:2]
        spoken.add(id)
        part = _Part(id, 0.0, -1.0) if parts is None else parts.get(id)
        if part is None:
            yield LeftOut(MISSING, f"{place}: no line of segments for {id!r}", split)
            continue
        found = recordings.find(part.recording)
        if isinstance(found, LeftOut):
            yield LeftOut(found.reason, f"{place}: {found.example}", split)
            continue
        length = None if part.end == -1 else round(part.end - part.start, 9)
        if length is not None and length <= 0:
            yield LeftOut(BAD_PART, f"{place}: from {part.start:g} to {part.end:g} s", split)
            continue
        start = None if parts is None else part.start
        yield Row(
            place, split, id, found[0], words.strip(), speakers.get(id), start, length, found[1], channel=part.channel
        )
    for id in (parts if parts is not None else recordings.lines) if spoken else ():
        if id not in spoken:
            yield LeftOut(NO_TEXT, f"{folder / 'text'}: no line for {id!r}", split)


def _table(path: Path, split: str) -> tuple[dict[str, str], list[LeftOut]]:
    """What a table says of each id, and the lines whose id stood before; a line with an id alone says nothing."""
    table: dict[str, str] = {}
    doubled = []
    for number, line in read_lines(path):
        id, said = [*line.split(maxsplit=1), ""][:2]
        if id in table:
            doubled.append(LeftOut(DUPLICATE, f"{path}:{number}: {id!r} stands there already", split))
        elif said:
            table[id] = said.strip()
    return table, doubled


def _part(fields: list[str]) -> _Part | None:
    try:
        _, recording, start, end = fields[:4]
        part = _Part(recording, float(start), float(end), *fields[4:5])
    except ValueError:
        return None
    return part if part.start >= 0 and all(map(math.isfinite, (part.start, part.end))) else None


class _Recordings:
    """`wav.scp`: where each recording lies; a command is run when its recording is first asked for."""

    def __init__(self, path: Path, lines: dict[str, str], options: ImportOptions):
        self.root = options.audio_root or path.parent
        self.run, self.is_wanted = options.run_command, options.wants(path.absolute().parent.name)
        self.lines = lines
        self._found: dict[str, tuple[Path, TarMember | None] | LeftOut] = {}

    def find(self, name: str) -> tuple[Path, TarMember | None] | LeftOut:
        """The file, and the bytes of it where it is an archive."""
        if name not in self._found:
            line = self.lines.get(name)
            self._found[name] = (
                LeftOut(MISSING, f"no line of wav.scp for {name!r}") if line is None else self._look(name, line)
            )
        return self._found[name]

    def _look(self, name: str, line: str) -> tuple[Path, TarMember | None] | LeftOut:
        if not line.endswith("|"):
            archive = ARCHIVE.fullmatch(line)
            if archive is None or os.path.exists(self.root / line):
                return self.root / line, None
            return _in_archive(self.root / archive[1], int(archive[2]))
        command = line[:-1].strip()
        if (file := _only_reads(command)) is not None:
            return self.root / file, None
        if not self.is_wanted:  # the row will be passed over
            return self.root, None
        if self.run is None:
            return LeftOut(COMMAND, f"{name}: `{command[:120]}`; --allow-commands runs it")
        try:
            return self.run(command, name), None
        except DataError as error:
            return LeftOut(FAILED_COMMAND, str(error))


def _only_reads(command: str) -> str | None:
    """The file of a command that only decodes or prints it, which needs no running."""
    if len(command) > LONGEST_COMMAND or re.search(r"[|&;<>()$`\\\n*?\[~#]", command):
        return None
    try:
        program, *words = shlex.split(command)
    except ValueError:
        return None
    flags = [word for word in words if word.startswith("-")]
    files = [word for word in words if not word.startswith("-")]
    decodes = (program == "flac" and {"-c", "-d"} <= set(flags) <= {"-c", "-d", "-s", "--silent"}) or (
        program == "cat" and not flags
    )
    return files[0] if decodes and len(files) == 1 else None


def _in_archive(path: Path, offset: int) -> tuple[Path, TarMember] | LeftOut:
    """The bytes of a WAV in a Kaldi archive, by the size that its own header states."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            header = file.read(12)
    except OSError as error:
        return LeftOut(MISSING, f"{path}: {error.strerror}")
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return LeftOut(UNREADABLE, f"{path}:{offset}: no WAV begins there")
    return path, TarMember(offset, int.from_bytes(header[4:8], "little") + 8)
