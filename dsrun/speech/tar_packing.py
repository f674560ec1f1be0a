"""Packing: a manifest of loose files becomes tar shards and a manifest whose rows point into them.

Tens of thousands of hours are millions of clips, and millions of small files are slow to list, copy and open on the file systems of
clusters. Recordings are copied as they are, byte for byte, in the manifest's order; nothing is decoded or converted. A recording that
several rows are parts of is packed once. Every row gets the sha256 of its recording, which each later reading compares.

The same manifest and files give the same tar shards: members are numbered, headers hold no time, owner or host. The manifest is written
last and renamed into place, and every tar shard is on the disk before: where it is, everything is, after a loss of power too.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dsrun.errors import DataError, UsageError
from dsrun.speech.audio import no_file, place_of, read_bytes
from dsrun.speech.manifest import MOST_PROBLEMS, TarMember, Utterance, list_problems
from dsrun.speech.manifest_index import ManifestIndex, open_manifest

MIB = 1 << 20


@dataclass(frozen=True)
class Packed:
    """What was written: the manifest, and how many utterances, tar shards and bytes of recordings."""

    manifest: Path
    utterances: int
    shards: int
    bytes: int


def pack_manifest(
    manifest: Path, folder: Path, *, shard_mb: int, on_progress: Callable[[int, int], None] | None = None
) -> Packed:
    """Write `audio-000000.tar`, ... and a manifest of the same name into an empty folder.

    Args:
        manifest: of files or of members of other tar files.
        folder: made if it is not there.
        shard_mb: MiB of recordings after which the next tar shard begins; a single longer one has a shard to itself.

    Raises:
        UsageError: the folder is not empty.
        DataError: recordings that are not there, all at once and before anything is written; or a full disk.
    """
    index = open_manifest(manifest)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: there is something already. Name a new folder.")
    _require_files(index)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _Shards(folder, shard_mb * MIB) as shards:
            part = folder / f".{manifest.name}.part"
            with part.open("w", encoding="utf-8", newline="\n") as rows:
                for number, utterance in enumerate(index):
                    row = shards.take(utterance) | {"id": utterance.id}
                    rows.write(json.dumps(index.row(number).fields | row, ensure_ascii=False) + "\n")
                    if on_progress:
                        on_progress(number + 1, len(index))
                rows.flush()
                os.fsync(rows.fileno())
        _sync(folder)  # the shards' names, before the manifest's
        part.replace(folder / manifest.name)
        _sync(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). Make room there, empty it and pack again."
        ) from None
    return Packed(folder / manifest.name, len(index), shards.count, shards.bytes)


def _sync(folder: Path) -> None:
    """Flush a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_files(index: ManifestIndex) -> None:
    problems: list[str] = []
    more, seen = 0, None
    for utterance in index:
        if utterance.audio == seen or os.path.isfile(utterance.audio):
            seen = utterance.audio
        elif len(problems) < MOST_PROBLEMS:
            problems.append(f"{index.path}:{utterance.line}: {no_file(utterance.audio, None)}")
        else:
            more += 1
    if problems:
        raise DataError(list_problems(problems, more=more))


class _Shards:
    """The tar shard that is being filled, and where the recordings of parts went."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.count = self.bytes = self._members = 0
        self._tar: tarfile.TarFile | None = None
        self._file: BinaryIO | None = None
        self._filled = 0
        self._packed: dict[str, dict[str, Any]] = {}  # of parts only: of as many recordings as there are long ones

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def take(self, utterance: Utterance) -> dict[str, Any]:
        """Pack an utterance's recording unless it is there already; the fields of the new row."""
        place = place_of(utterance.audio, utterance.member)
        if place in self._packed:
            return self._packed[place]
        content = read_bytes(utterance)
        name = f"{self._members:09d}{'' if utterance.member else utterance.audio.suffix}"
        digest, member = hashlib.sha256(content).hexdigest(), self._add(name, content)
        fields = {
            "audio_filepath": f"audio-{self.count - 1:06d}.tar",
            "tar_offset": member.offset,
            "tar_size": member.size,
            "sha256": digest,
        }
        if utterance.is_part:
            self._packed[place] = fields
        return fields

    def _add(self, name: str, content: bytes) -> TarMember:
        if self._tar is None or (self._filled and self._filled + len(content) > self.limit):
            self._close()
            path = self.folder / f"audio-{self.count:06d}.tar"
            self._file = path.open("xb")
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.count, self._filled = self.count + 1, 0
        info = tarfile.TarInfo(name)
        info.size = len(content)  # mode 0644, time, owner and group 0: TarInfo's own
        self._tar.addfile(info, io.BytesIO(content))
        self._tar.members = []  # type: ignore[attr-defined]  # or a million of them stay in memory
        self._members, self._filled, self.bytes = (
            self._members + 1,
            self._filled + len(content),
            self.bytes + len(content),
        )
        padding = -len(content) % tarfile.BLOCKSIZE
        return TarMember(self._tar.offset - padding - len(content), len(content))

    def _close(self) -> None:
        if self._tar is None or self._file is None:
            return
        tar, file = self._tar, self._file
        self._tar = self._file = None  # on a full disk this is called once more, on the way out
        with file:
            tar.close()
            file.flush()
            os.fsync(file.fileno())
