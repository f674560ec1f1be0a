"""NeMo's and PaddleSpeech's manifests: JSON lines, which are nearly dsrun's own.

`{"audio_filepath": ..., "duration": ..., "text": ...}`, perhaps `offset` (a part), `speaker`, `lang` and more; other keys are
kept, but none that a dsrun manifest has with a meaning of its own (`sha256`). Relative paths start from the manifest's folder or
from `--audio-root`. Baidu's own release and old PaddleSpeech say `key` for the path, newer PaddleSpeech `feat` and `utt`.

Tarred: a row with `shard_id` N names a member of the tar that ends in N (`audio_N.tar`) beside the manifest. The member is read
where it lies.
"""

import os
import re
from pathlib import Path
from typing import Any

from dsrun.errors import DataError
from dsrun.speech.importers.folders import tables_of
from dsrun.speech.importers.rows import (
    MALFORMED,
    MISSING,
    TEXT_KEYS,
    UNREADABLE_SHARD,
    Found,
    ImportOptions,
    LeftOut,
    Row,
)
from dsrun.speech.importers.tables import read_json_lines
from dsrun.speech.manifest import KNOWN_KEYS, LONGEST, TarMember, without_ending
from dsrun.speech.tar_shards import list_members

PATH_KEYS = ("audio_filepath", "feat", "key")
# Read here, or read by a dsrun manifest as its own: a stranger's `sha256` may be of anything.
OUR_KEYS = KNOWN_KEYS | {*PATH_KEYS, "utt2spk", "utt", "shard_id", "feat_shape"}


def read_nemo(source: Path, options: ImportOptions) -> Found:
    """One row a line of each manifest."""
    for table in tables_of(source, (".json", ".jsonl"), "a JSON-lines manifest, or a folder of them"):
        root = options.audio_root or table.parent
        shards = Shards(root)
        for number, row in read_json_lines(table):
            place = f"{table}:{number}"
            yield _row(place, row, table, root, shards, options.text) if row is not None else _malformed(place, table)


def _malformed(place: str, table: Path, what: str = "not a JSON object") -> LeftOut:
    return LeftOut(MALFORMED, f"{place}: {what}", table.stem)


def _row(place: str, row: dict[str, Any], table: Path, root: Path, shards: "Shards", key: str | None) -> Row | LeftOut:
    name = next((row[key] for key in PATH_KEYS if isinstance(row.get(key), str) and row[key]), None)
    text_key = next((k for k in ([key] if key else TEXT_KEYS) if k in row), None)
    if name is None or text_key is None or not isinstance(row[text_key], str):
        return _malformed(
            place,
            table,
            f"needs {' or '.join(PATH_KEYS)} and {key or 'text'}, both texts; it has {', '.join(map(repr, row))}",
        )
    seconds = {k: row[k] for k in ("offset", "duration") if row.get(k) is not None}
    if not all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST
        for value in seconds.values()
    ):
        return _malformed(place, table, f"{seconds} are no seconds")
    times = {k: float(value) for k, value in seconds.items()}
    id = row.get("id") or row.get("utt") or _default_id(name, times)
    speaker = row.get("speaker") or row.get("utt2spk")
    member, audio = None, root / name
    if any(isinstance(value, dict | list) for value in (id, speaker, row.get("shard_id"))):
        return _malformed(place, table, "an id, a speaker or a shard_id that is no text and no number")
    if row.get("shard_id") is not None:
        found = shards.find(row["shard_id"], name)
        if isinstance(found, str):
            return LeftOut(UNREADABLE_SHARD, f"{place}: {found}", table.stem)
        if found is None:
            return LeftOut(
                MISSING, f"{place}: no tar of shard_id {row['shard_id']!r} below {root} has {name!r}", table.stem
            )
        audio, member = found
    extra = {k: value for k, value in row.items() if k not in OUR_KEYS | {text_key}}
    return Row(
        place,
        table.stem,
        str(id),
        audio,
        row[text_key],
        str(speaker) if speaker else None,
        member=member,
        extra=extra,
        offset=times.get("offset"),
        duration=times.get("duration"),
    )


def _default_id(name: str, times: dict[str, float]) -> str:
    """As a manifest without ids has it, and told apart from the next part of the same recording."""
    return without_ending(name) + (f"@{times['offset']:g}" if times.get("offset") else "")


class Shards:
    """The tar shards beside a manifest, by the number that ends their names; each is listed once, when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._members: dict[str, tuple[Path, dict[str, TarMember]] | str] = {}

    def find(self, shard: Any, name: str) -> tuple[Path, TarMember] | str | None:
        """Tar and place of a recording; what is wrong with the tar; or None."""
        if str(shard) not in self._members:
            self._members[str(shard)] = self._list(str(shard))
        listed = self._members[str(shard)]
        if isinstance(listed, str):
            return listed
        path, members = listed
        found = members.get(name) or members.get(_flat(name))
        return None if found is None else (path, found)

    def _list(self, shard: str) -> tuple[Path, dict[str, TarMember]] | str:
        tars = sorted(p for p in self.folder.glob("*.tar") if _number(p) == shard)
        if len(tars) > 1:
            raise DataError(
                f"{self.folder}: {tars[0].name} and {tars[1].name} both could be the shard {shard}. Import them apart."
            )
        if not tars:
            return self.folder, {}
        try:
            return tars[0], {member.name: TarMember(member.offset, member.size) for member in list_members(tars[0])}
        except DataError as error:
            return str(error)


def _number(tar: Path) -> str:
    """`3` of audio_3.tar and of audio_000003.tar."""
    found = re.search(r"(\d+)$", tar.stem)
    return str(int(found[1])) if found else ""


def _flat(name: str) -> str:
    """NeMo names members without folders: "a/b.c.wav" is "a_b_c.wav" in a tar."""
    stem, ending = os.path.splitext(name)
    return stem.replace("/", "_").replace(".", "_") + ending
