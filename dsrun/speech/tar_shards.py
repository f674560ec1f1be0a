"""Tar shards: recordings inside tar files, found by reading headers only and never unpacked.

A tar file is a row of members, each a header block of 512 bytes and its content, filled up to whole blocks; two blocks of zeros end
it (POSIX ustar and pax, GNU's long names). So a million clips are a few hundred files, and a clip is still read at random: its first
byte and its size (`TarMember` in a manifest) are all that is needed.

`list_members` finds both. A tar may come from a stranger, so nothing in it is believed: headers are checked against the file's size
before anything is read, names that lead out of a folder are refused, and so is what is no file (links, devices, sparse members). A
compressed tar has no random access: decompress it first.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dsrun.errors import DataError

BLOCK = 512  # bytes
MOST_MEMBERS = 4_000_000  # of one tar file; a shard has thousands
LARGEST_EXTENSION = 1 << 20  # bytes of a pax header or a long name, which are read whole
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
NO_FILE = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "the rest of a file of another tar",
}


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, and the first byte and the number of bytes of its content."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    kind: bytes


def list_members(path: Path) -> Iterator[Member]:
    """The files of a tar, in its order; folders are passed over. Reads headers only, one at a time.

    Raises:
        DataError: while iterating, at the first thing that is wrong: not a tar, compressed, cut off, a link, device, pipe or sparse
            file, a name that is absolute, has `..` or is no UTF-8, or more than four million members.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such tar file.")
    try:
        with path.open("rb") as tar:
            yield from _members(path, tar.fileno(), path.stat().st_size)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from None


def _members(path: Path, file: int, end: int) -> Iterator[Member]:
    place, count = 0, 0
    extension: dict[str, Any] = {}
    while (block := _block(path, file, place)) is not None:
        if count == MOST_MEMBERS:
            raise DataError(f"{path}: more than {MOST_MEMBERS} members. Cut it into several tar files.")
        count += 1
        header = _parse_header(path, block, place)
        size = extension.get("size", header.size) if header.kind not in b"xgLK" else header.size
        content, following = place + BLOCK, place + BLOCK + _whole_blocks(size)
        if content + size > end:
            raise DataError(f"{path}: cut off: the member at byte {place} has {size} bytes, the file ends at {end}.")
        if header.kind in b"xgLK":
            extension |= _extension(path, header.kind, os.pread(file, _small(path, place, size), content), place)
        else:
            name = str(extension.get("path", header.name))
            extension = {}
            if header.kind not in b"05":
                what = NO_FILE.get(header.kind, f"of the unknown kind {header.kind!r}")
                raise DataError(
                    f"{path}: {name!r} at byte {place} is {what}, not a file. Pack the files themselves (GNU tar: --dereference "
                    "--hard-dereference)."
                )
            if header.kind == b"0" and not name.endswith("/"):  # an old tar marks a folder by its name
                yield Member(_safe_name(path, name, place), content, size)
        place = following


def _block(path: Path, file: int, place: int) -> bytes | None:
    """The header block there; None at the end."""
    block = os.pread(file, 2 * BLOCK, place)
    if place == 0:
        for start, kind in COMPRESSED.items():
            if block.startswith(start):
                raise DataError(f"{path}: compressed ({kind}), so its members cannot be read at random. Decompress it.")
    if len(block) < BLOCK:
        raise DataError(f"{path}: {'cut off: it has no end mark' if place else 'not a tar file'} ({place} bytes read).")
    if any(block[:BLOCK]):
        return block[:BLOCK]
    if any(block):
        raise DataError(
            f"{path}: an empty block at byte {place}, and more behind it. Was it made by joining tar files?"
        )
    return None


def _parse_header(path: Path, block: bytes, place: int) -> _Header:
    """POSIX ustar: name 100, mode 8, owner 8, group 8, size 12, time 12, checksum 8, kind 1, link 100, magic 6, ..., prefix 155."""
    stated = _number(block[148:156])
    if stated != sum(block[:148]) + sum(block[156:]) + 8 * ord(" "):
        raise DataError(f"{path}: no header of a tar member at byte {place}. Not a tar file, or damaged.")
    size = _number(block[124:136])
    if size is None:
        raise DataError(f"{path}: the member at byte {place} states no size.")
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:  # GNU's magic ends with spaces, and its prefix is other things
        name = block[345:500].split(b"\0")[0] + b"/" + name
    kind = block[156:157]
    return _Header(_text(path, name, place), size, b"0" if kind in b"\0007" else kind)


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's binary form for what is too large for them."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else None
    digits = field.split(b"\0")[0].strip()
    return int(digits, 8) if digits and all(digit in b"01234567" for digit in digits) else None


def _extension(path: Path, kind: bytes, content: bytes, place: int) -> dict[str, Any]:
    """What a pax header or a long name says of the member behind it: its path, its size."""
    if kind == b"K":  # the long name of a link, which is refused itself
        return {}
    if kind == b"L":
        return {"path": _text(path, content.split(b"\0")[0], place)}
    found: dict[str, Any] = {}
    for key, value in _records(path, content, place):
        if key.startswith(b"GNU.sparse"):
            raise DataError(f"{path}: the member behind byte {place} is a sparse file. Pack it without --sparse.")
        if key == b"path":
            found["path"] = _text(path, value, place)
        if key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise DataError(f"{path}: the pax header at byte {place} states the size {value[:20]!r}.")
            found["size"] = int(value)
    if kind == b"g" and found:
        raise DataError(f"{path}: the pax header at byte {place} gives every member one path or size.")
    return found


def _records(path: Path, content: bytes, place: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a pax header: records of `LENGTH KEY=VALUE\\n`, the length in decimal and of the whole record."""
    start = 0
    while start < len(content):
        length, space, _ = content[start : start + 8].partition(b" ")
        first = start + len(length) + 1
        end = start + int(length) if space and length.isdigit() else 0
        key, equals, value = content[first : max(first, end - 1)].partition(b"=")
        if not equals or end > len(content) or content[end - 1] != ord("\n"):
            raise DataError(f"{path}: the pax header at byte {place} is damaged.")
        yield key, value
        start = end


def _small(path: Path, place: int, size: int) -> int:
    if size > LARGEST_EXTENSION:
        raise DataError(f"{path}: the extended header at byte {place} has {size} bytes; no name is so long.")
    return size


def _text(path: Path, name: bytes, place: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}: the name at byte {place} is not UTF-8: {name[:60]!r}.") from None


def _safe_name(path: Path, name: str, place: int) -> str:
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise DataError(
            f"{path}: the member at byte {place} is called {name!r}; write names below the tar's own folder."
        )
    return str(pure)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
