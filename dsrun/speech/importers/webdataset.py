"""webdataset: tar shards whose members with the same name up to the first dot are one utterance and stand together.

`00017.flac` and `00017.txt`, or `00017.json` with a text in it (`--text` names its key). Nothing is unpacked: a manifest's rows
say where in the tar file the recording lies. A shard's split is its name without the number that ends it (`train-000003.tar`).
Compressed tars have no random access and are refused. A shard that is damaged is used up to there and counted.
"""

import os
import re
from itertools import groupby
from pathlib import Path

from dsrun.errors import DataError
from dsrun.speech.importers.folders import find_files, is_audio, require_some
from dsrun.speech.importers.rows import (
    MALFORMED,
    MISSING,
    NO_TEXT,
    TEXT_KEYS,
    UNREADABLE_SHARD,
    UNREADABLE_TEXT,
    Found,
    ImportOptions,
    LeftOut,
    Row,
)
from dsrun.speech.importers.tables import LONGEST_LINE, parse_object
from dsrun.speech.manifest import TarMember
from dsrun.speech.tar_shards import Member, list_members

SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")


def read_webdataset(source: Path, options: ImportOptions) -> Found:
    """One row an utterance of every shard."""
    shards = [source] if source.is_file() else find_files(source, ".tar")
    if not shards and (compressed := [*find_files(source, ".tar.gz"), *find_files(source, ".tgz")]):
        raise DataError(f"{compressed[0]}: a compressed tar has no random access. Decompress it first (gunzip).")
    for shard in require_some(shards, source, "tar files"):
        split = re.sub(r"[-_.]*\d+$", "", shard.stem) or ""
        try:
            with shard.open("rb") as file:
                for key, members in groupby(list_members(shard), _key):
                    if not key.rpartition("/")[2]:  # ._name and others that systems leave behind
                        continue
                    yield _row(shard, file.fileno(), split, key, list(members), options)
        except DataError as error:  # of a thousand shards one is cut off; what stands before the damage is used
            yield LeftOut(UNREADABLE_SHARD, str(error), split)
        except OSError as error:
            yield LeftOut(UNREADABLE_SHARD, f"{shard}: {error.strerror}", split)


def _key(member: Member) -> str:
    folder, slash, name = member.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _row(shard: Path, file: int, split: str, key: str, members: list[Member], options: ImportOptions) -> Row | LeftOut:
    place = f"{shard}: {key}"
    recordings = [member for member in members if is_audio(member.name)]
    if len(recordings) != 1:
        what = ", ".join(member.name for member in recordings) or "no recording"
        return LeftOut(MALFORMED if recordings else MISSING, f"{place}: {what}", split)
    try:
        text, speaker = _said(place, file, members, options.text)
    except DataError as error:
        return LeftOut(UNREADABLE_TEXT, str(error), split)
    if text is None:
        wanted = f"no text {options.text!r} in a .json" if options.text else "no .txt and no text in a .json"
        return LeftOut(NO_TEXT, f"{place}: {wanted}", split)
    recording = recordings[0]
    return Row(
        place, split, f"{shard.stem}/{key}", shard, text, speaker, member=TarMember(recording.offset, recording.size)
    )


def _said(place: str, file: int, members: list[Member], wanted: str | None) -> tuple[str | None, str | None]:
    """Text and speaker: the text of .txt if there is one and no key is wanted, else of .json."""
    text, row = None, {}
    for member in members:
        ending = os.path.splitext(member.name)[1]
        if ending == ".txt" and not wanted:
            text = " ".join(_content(place, file, member).split())
        elif ending == ".json":
            found = parse_object(_content(place, file, member))
            if found is None:
                raise DataError(f"{place}: {member.name} is no JSON object.")
            row = found
    if text is None:
        text = next((row[key] for key in ([wanted] if wanted else TEXT_KEYS) if isinstance(row.get(key), str)), None)
    return text, next((str(row[key]) for key in SPEAKER_KEYS if row.get(key)), None)


def _content(place: str, file: int, member: Member) -> str:
    if member.size > LONGEST_LINE:
        raise DataError(f"{place}: {member.name} has {member.size} bytes, more than any text.")
    try:
        return os.pread(file, member.size, member.offset).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: {member.name}: not UTF-8 ({error.reason}).") from None
