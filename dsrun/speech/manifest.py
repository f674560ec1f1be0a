"""Manifests: which recordings there are and what was said in them.

JSON lines, one utterance a line, the most common form today (NeMo, PaddleSpeech):

    {"audio_filepath": "audio/vm-goodbye.ogg", "duration": 0.9, "text": "goodbye"}

Optional: `offset` (seconds into the file; `duration` is then the part's length), `speaker`, `id`. Relative paths are relative to
the manifest. Other keys are kept in `extra`. Without `id` an utterance is called by its path without the ending, plus `#tar_offset`
and `@offset` where there are; ids must be unique, because they key the randomness and the order.

A recording may lie inside a tar file, which is never unpacked: `audio_filepath` is then the tar, `tar_offset` and `tar_size` (both or
neither) are where in it the member's content begins and its length, bytes. An `offset` counts from the member's own beginning.

A manifest is read whole and every problem is reported at once.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsrun.errors import DataError

MOST_PROBLEMS = 20  # shown; the rest is counted
LONGEST = 1e9  # seconds, thirty years: beyond it a number is a mistake
LARGEST_MEMBER = (
    1 << 29
)  # bytes of a tar's member, which is read whole: hours of FLAC, and no more memory than a machine has
Transcripts = Literal["required", "optional"]
KNOWN_KEYS = {"audio_filepath", "duration", "text", "offset", "speaker", "id", "tar_offset", "tar_size"}


@dataclass(frozen=True)
class TarMember:
    """Where in a tar file a member's content lies: its first byte, and how many there are."""

    offset: int
    size: int


@dataclass(frozen=True)
class Utterance:
    """One recording and its transcript: absolute path, seconds (None: not known), text as written, line of the manifest.

    With `member` the recording is those bytes of the tar file `audio`.
    """

    id: str
    audio: Path
    duration: float | None
    text: str
    line: int = 0
    offset: float = 0.0
    is_part: bool = False
    speaker: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    member: TarMember | None = None


def read_manifest(path: Path | str, *, transcripts: Transcripts = "required") -> list[Utterance]:
    """All utterances of a manifest, in its order.

    Args:
        transcripts: "optional" where recordings need say nothing, as noises: `text` may then be left out.

    Raises:
        DataError: the file is missing or unreadable, or any line is: every problem with its line number.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise DataError(f"{path}: a folder, a pipe or a device cannot be read as a manifest.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}.") from None
    utterances: list[Utterance] = []
    problems: list[str] = []
    lines_by_id: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            utterance = _parse(line, number, path.parent, transcripts)
        except DataError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if utterance.id in lines_by_id:
            first = lines_by_id[utterance.id]
            problems.append(f"{path}:{number}: id {utterance.id!r} stands in line {first} already; ids must be unique.")
        lines_by_id.setdefault(utterance.id, number)
        utterances.append(utterance)
    if problems:
        raise DataError(list_problems(problems))
    if not utterances:
        raise DataError(f"{path}: holds no utterances.")
    return utterances


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines, UTF-8, keys in the order given."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def list_problems(problems: list[str]) -> str:
    """One text of many problems: the first twenty, and how many more."""
    more = len(problems) - MOST_PROBLEMS
    return "\n".join(problems[:MOST_PROBLEMS] + ([f"... and {more} more problems"] if more > 0 else []))


def _parse(line: str, number: int, folder: Path, transcripts: Transcripts) -> Utterance:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, and integers of thousands of digits
        raise DataError(f"not a JSON object: {error}.") from None
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__}, not a JSON object.")
    if transcripts == "optional":
        row.setdefault("text", "")
    missing = [key for key in ("audio_filepath", "duration", "text") if key not in row]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}; an utterance needs audio_filepath, duration and text.")
    name, text = _text(row, "audio_filepath"), _text(row, "text")
    is_part = row.get("offset") is not None
    duration, offset = _seconds(row, "duration"), _seconds(row, "offset") if is_part else 0.0
    if not name or "\0" in name:
        raise DataError(f"audio_filepath is {name!r}; write a path.")
    member = _member(row)
    place = f"#{member.offset}" if member else ""
    default_id = str(Path(name).with_suffix("")) + place + (f"@{offset:g}" if offset else "")
    id = default_id if row.get("id") is None else _text(row, "id")
    if not id:
        raise DataError("id is empty; leave it out (the path names the utterance) or write one.")
    return Utterance(
        id=id,
        audio=(folder / name).resolve(),
        duration=duration,
        text=text,
        line=number,
        offset=offset,
        is_part=is_part,
        speaker=None if row.get("speaker") is None else _text(row, "speaker"),
        extra={key: value for key, value in row.items() if key not in KNOWN_KEYS},
        member=member,
    )


def _member(row: dict) -> TarMember | None:
    if row.get("tar_offset") is None and row.get("tar_size") is None:
        return None
    for key, least, most in (("tar_offset", 0, 1 << 62), ("tar_size", 1, LARGEST_MEMBER)):
        value = row.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise DataError(
                f"{key} is {value!r}; write both tar_offset and tar_size, whole bytes, {key} from {least} to {most}."
            )
    return TarMember(row["tar_offset"], row["tar_size"])


def _text(row: dict, key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{key} is {value!r}; write a text.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{key} is {value!r}: half a surrogate pair, no character.")
    return value


def _seconds(row: dict, key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
        raise DataError(f"{key} is {value!r}; write seconds, a number that is not negative.")
    return float(value)
