"""Manifests: which recordings there are and what was said in them.

JSON lines, one utterance a line, the most common form today (NeMo, PaddleSpeech):

    {"audio_filepath": "audio/vm-goodbye.ogg", "duration": 0.9, "text": "goodbye"}

Optional: `offset` (seconds into the file; `duration` is then the part's length), `speaker`, `id`. Relative paths are relative to
the manifest. Other keys are kept in `extra`. Without `id` an utterance is called by its path without the ending, plus `#tar_offset`
and `@offset` where there are; ids must be unique, because they key the randomness and the order.

A recording may lie inside a tar file, which is never unpacked: `audio_filepath` is then the tar, `tar_offset` and `tar_size` (both or
neither) are where in it the member's content begins and its length, bytes. An `offset` counts from the member's own beginning.

With `sha256`, of the bytes of the file or member, every reading of the recording compares them, so that a manifest stands for exact
recordings; `dsrun data pack` writes it.

A manifest is read whole and every problem is reported at once.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dsrun.errors import DataError

MOST_PROBLEMS = 20  # shown; the rest is counted
LONGEST = 1e9  # seconds, thirty years: beyond it a number is a mistake
# Bytes of a tar's member, which is read whole: hours of FLAC, and no more memory than a machine has.
LARGEST_MEMBER = 1 << 29
# UTF-16 without its mark decodes as UTF-8; no JSON holds a NUL as it is.
NUL = "holds a NUL byte: the file is UTF-16, or damaged. Convert it to UTF-8, or restore it."
SHA256 = re.compile("[0-9a-f]{64}")
Transcripts = Literal["required", "optional"]
KNOWN_KEYS = {"audio_filepath", "duration", "text", "offset", "speaker", "id", "tar_offset", "tar_size", "sha256"}
_REQUIRED = frozenset({"audio_filepath", "duration", "text"})


class TarMember(NamedTuple):
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
    sha256: str | None = None


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
        text = path.read_bytes().decode(
            "utf-8-sig"
        )  # as text a lone CR, which is white space in JSON, would end a line
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {not_utf8(error)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    utterances: list[Utterance] = []
    problems: list[str] = []
    lines_by_id: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            utterance = make_utterance(parse_row(line, transcripts), number, path.parent)
        except DataError as error:
            if "\0" in line:
                problems.append(f"{path}:{number}: {NUL}")
                break  # every other line is likely the same
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


def not_utf8(error: UnicodeDecodeError) -> str:
    """What to say of bytes that are another encoding's."""
    return f"cannot be read as UTF-8 text: {error}. Convert the file to UTF-8."


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines, UTF-8, keys in the order given."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def list_problems(problems: list[str], *, more: int = 0) -> str:
    """One text of many problems: the first twenty, and how many more (`more` of them not in the list)."""
    more += max(0, len(problems) - MOST_PROBLEMS)
    return "\n".join(problems[:MOST_PROBLEMS] + ([f"... and {more} more problems"] if more > 0 else []))


class Row(NamedTuple):
    """A line of a manifest whose fields are all valid; what costs something to make of them, a path above all, is made later."""

    fields: dict[str, Any]
    id: str
    duration: float
    offset: float
    member: TarMember | None


def parse_row(line: str, transcripts: Transcripts = "required") -> Row:
    """Read and check one line. Raises DataError, without the place."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, and integers of thousands of digits
        raise DataError(f"not a JSON object: {error}.") from None
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__}, not a JSON object.")
    if transcripts == "optional":
        row.setdefault("text", "")
    if not row.keys() >= _REQUIRED:
        missing = [key for key in ("audio_filepath", "duration", "text") if key not in row]
        raise DataError(f"lacks {', '.join(missing)}; an utterance needs audio_filepath, duration and text.")
    name = _text(row, "audio_filepath")
    _text(row, "text")
    get = row.get
    if get("speaker") is not None:
        _text(row, "speaker")
    duration, offset = _seconds(row, "duration"), 0.0 if get("offset") is None else _seconds(row, "offset")
    if not name or "\0" in name:
        raise DataError(f"audio_filepath is {name!r}; write a path.")
    is_in_tar = get("tar_offset") is not None or get("tar_size") is not None
    member = _member(row) if is_in_tar else None
    id = _default_id(name, member, offset) if get("id") is None else _text(row, "id")
    if not id:
        raise DataError("id is empty; leave it out (the path names the utterance) or write one.")
    if get("sha256") is not None and not SHA256.fullmatch(_text(row, "sha256")):
        raise DataError(f"sha256 is {row['sha256']!r}; write 64 hexadecimal digits in lower case, or leave it out.")
    return Row(row, id, duration, offset, member)


def make_utterance(row: Row, number: int, folder: Path) -> Utterance:
    """The utterance of line `number` of a manifest in `folder`."""
    fields = row.fields
    return Utterance(
        id=row.id,
        audio=(folder / fields["audio_filepath"]).resolve(),
        duration=row.duration,
        text=fields["text"],
        line=number,
        offset=row.offset,
        is_part=fields.get("offset") is not None,
        speaker=fields.get("speaker"),
        extra={key: value for key, value in fields.items() if key not in KNOWN_KEYS},
        member=row.member,
        sha256=fields.get("sha256"),
    )


# Nothing that a Path would leave out or read otherwise: no empty part, no `.` or `..`.
_IS_PLAIN = re.compile(r"/?(?!\.\.?(?:/|$))[^/]+(?:/(?!\.\.?(?:/|$))[^/]+)*", re.DOTALL).fullmatch


def _default_id(name: str, member: TarMember | None, offset: float) -> str:
    place = f"#{member.offset}" if member else ""
    return without_ending(name) + place + (f"@{offset:g}" if offset else "")


def without_ending(name: str) -> str:
    """A path without the ending of its last part; `/` and `.` have no such part."""
    if _IS_PLAIN(
        name
    ):  # what a Path would say of it, in a tenth of the time: every line of a manifest of millions asks
        dot = name.rfind(".", name.rfind("/") + 2)  # a first dot is part of the name
        return name[:dot] if 0 < dot < len(name) - 1 else name
    path = Path(name)
    return str(path.with_suffix("") if path.name else path)


def _member(row: dict) -> TarMember:
    offset, size = row.get("tar_offset"), row.get("tar_size")
    for key, value, least, most in (("tar_offset", offset, 0, 1 << 62), ("tar_size", size, 1, LARGEST_MEMBER)):
        if type(value) is not int or not least <= value <= most:  # True is an int too
            raise DataError(
                f"{key} is {value!r}; write both tar_offset and tar_size, whole bytes, {key} from {least} to {most}."
            )
    return TarMember(row["tar_offset"], row["tar_size"])


def _text(row: dict, key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{key} is {value!r}; write a text.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"{key} is {value!r}: half a surrogate pair, no character.") from None
    return value


def _seconds(row: dict, key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
        raise DataError(f"{key} is {value!r}; write seconds, a number that is not negative.")
    return float(value)
