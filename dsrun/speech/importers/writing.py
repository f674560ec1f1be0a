"""What an import leaves: a manifest a split, and `import.json`, which says what was taken, what was left out and why.

Everything is written into a folder aside, .OUT.part, that takes OUT's name when it is complete; an old OUT is called .OUT.old
meanwhile. A kill leaves the old OUT or the new one, or, just between the two renames, .OUT.old, which the next import puts back
first. An existing OUT is replaced only when asked, and only if an import made it and nothing else lies in it.

Every line is read as a manifest's reader will read it before it is written: one row that it would refuse would refuse all.
"""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import soundfile

from dsrun.errors import DataError, UsageError
from dsrun.speech.importers.rows import MALFORMED, NOT_A_FAULT, LeftOut, readable
from dsrun.speech.importers.survey import Measured
from dsrun.speech.manifest import parse_row

REPORT = "import.json"
MOST_EXAMPLES = 3
NO_SPLIT = "all"  # the manifest of a corpus without splits
# How samples of a WAV are carried from one header to another without a change.
CARRIERS = {"PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32", "FLOAT": "float32", "DOUBLE": "float64"}


@dataclass
class SplitTotals:
    """Of one manifest; seconds are its utterances' own."""

    utterances: int = 0
    seconds: float = 0.0
    shortest: float = float("inf")
    longest: float = 0.0
    speakers: set[str] = field(default_factory=set)
    sample_rates: Counter = field(default_factory=Counter)
    channels: Counter = field(default_factory=Counter)

    def add(self, item: Measured) -> None:
        """Count one utterance."""
        self.utterances += 1
        self.seconds += item.seconds
        self.shortest, self.longest = min(self.shortest, item.seconds), max(self.longest, item.seconds)
        if item.row.speaker is not None:
            self.speakers.add(item.row.speaker)
        self.sample_rates[item.extent.sample_rate] += 1
        self.channels[item.extent.channels] += 1

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return {
            "utterances": self.utterances,
            "hours": round(self.seconds / 3600, 4),
            "shortest_seconds": round(self.shortest, 3),
            "longest_seconds": round(self.longest, 3),
            "speakers": len(self.speakers),
            "sample_rates": {str(rate): count for rate, count in sorted(self.sample_rates.items())},
            "channels": {str(channels): count for channels, count in sorted(self.channels.items())},
        }


class Output:
    """The folder that an import writes: use it in `with`, `write` everything, then `commit`.

    Raises:
        UsageError: OUT exists and may not be replaced.
    """

    def __init__(self, out: Path, *, overwrite: bool, relative: bool):
        self.out, self.relative = out.absolute(), relative
        self.aside = self.out.with_name(f".{self.out.name}.part")
        self.old = self.out.with_name(f".{self.out.name}.old")
        self._put_back()
        if self.out.exists() or self.out.is_symlink():
            _require_replaceable(self.out, overwrite)

    def __enter__(self) -> "Output":
        self.files: dict[str, TextIO] = {}
        self.names: dict[str, str] = {}  # of the manifests, by split
        self.stack = ExitStack()
        try:
            shutil.rmtree(self.aside, ignore_errors=True)
            self.aside.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"{self.aside}: {error.strerror}. Choose another OUT.") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        shutil.rmtree(self.aside, ignore_errors=True)

    def write(self, items: Iterable[Measured | LeftOut]) -> tuple[dict[str, SplitTotals], dict[str, dict[str, Any]]]:
        """Every usable row to its split's manifest; totals by split, and what was left out by reason."""
        totals: dict[str, SplitTotals] = {}
        left_out: dict[str, dict[str, Any]] = {}
        for found in items:
            item = found if isinstance(found, LeftOut) else self._line(found)
            if isinstance(item, LeftOut):
                is_fault = item.reason not in NOT_A_FAULT
                entry = left_out.setdefault(item.reason, {"count": 0, "is_fault": is_fault, "examples": []})
                entry["count"] += 1
                if len(entry["examples"]) < MOST_EXAMPLES:
                    entry["examples"].append(readable(item.example))
                continue
            assert isinstance(found, Measured)
            name = self._name(found.row.split)
            try:
                self._file(name).write(item + "\n")
            except OSError as error:
                raise DataError(f"{self.aside}: {error.strerror}. Choose another OUT.") from None
            totals.setdefault(name, SplitTotals()).add(found)
        return totals, left_out

    def commit(self, report: dict[str, Any]) -> None:
        """Write the report and let the folder appear."""
        try:
            self.stack.close()
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (self.aside / REPORT).write_text(text, encoding="utf-8")
            if self.out.exists():
                shutil.rmtree(self.old, ignore_errors=True)
                os.rename(self.out, self.old)
                try:
                    os.rename(self.aside, self.out)
                finally:
                    self._put_back()
                shutil.rmtree(self.old)
            else:
                os.rename(self.aside, self.out)
        except OSError as error:
            raise DataError(f"{self.out}: {error.strerror}. Choose another OUT.") from None

    def run_command(self, command: str, name: str) -> Path:
        """Run a shell command and keep the audio that it writes as a WAV with a true header.

        Raises:
            DataError: it fails, or what it writes is no audio.
        """
        folder = self.aside / "audio"
        folder.mkdir(exist_ok=True)
        number = sum(1 for _ in folder.iterdir())
        path = folder / f"{number:06d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:80]}.wav"
        raw = path.with_suffix(".part")
        try:
            with raw.open("wb") as file:
                done = subprocess.run(
                    ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE
                )
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
                raise DataError(f"`{command[:120]}` ended with {done.returncode}: {said[:200]}")
            # A pipe cannot go back to write the length: sox and others leave a huge one, as in a file that is cut off.
            with soundfile.SoundFile(str(raw)) as audio:
                subtype = audio.subtype if audio.subtype in CARRIERS else "FLOAT"
                samples = audio.read(dtype=CARRIERS[subtype])
                soundfile.write(path, samples, audio.samplerate, subtype=subtype)
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"`{command[:120]}`: {error}") from None
        finally:
            raw.unlink(missing_ok=True)
        return path

    def _put_back(self) -> None:
        """The old OUT gets its name again where a kill, or an error, came between the two renames."""
        if os.path.lexists(self.out) or not (self.old / REPORT).is_file():
            return
        try:
            os.rename(self.old, self.out)
        except OSError as error:
            raise DataError(f"{self.old}: cannot be called {self.out} again: {error.strerror}.") from None

    def _name(self, split: str) -> str:
        """A split's manifest: `a b` and `a_b` are two."""
        if split not in self.names:
            wanted = name = manifest_name(split)
            taken = set(self.names.values())
            for number in count(2):
                if name not in taken:
                    break
                name = f"{wanted}_{number}"
            self.names[split] = name
        return self.names[split]

    def _file(self, name: str) -> TextIO:
        if name not in self.files:
            file = (self.aside / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n")
            self.files[name] = self.stack.enter_context(file)
        return self.files[name]

    def _line(self, item: Measured) -> str | LeftOut:
        """The row as a line of a manifest, or what its reader would not take of it."""
        try:
            line = json.dumps(self._to_json(item), ensure_ascii=False)
            line.encode()
            parse_row(line)
        except (DataError, ValueError, RecursionError) as error:  # ValueError: half a surrogate pair, in whatever key
            return LeftOut(MALFORMED, f"{item.row.place}: {error}", item.row.split)
        return line

    def _to_json(self, item: Measured) -> dict[str, Any]:
        row = item.row
        line: dict[str, Any] = {
            "audio_filepath": self._path(row.audio),
            "duration": item.seconds,
            "text": row.text,
            "id": row.id,
        }
        if row.offset is not None:
            line["offset"] = row.offset
        if row.speaker is not None:
            line["speaker"] = row.speaker
        if row.member is not None:
            line |= {"tar_offset": row.member.offset, "tar_size": row.member.size}
        return row.extra | line if row.extra else line

    def _path(self, audio: Path) -> str:
        if audio.is_relative_to(self.aside):  # of a command
            inside = audio.relative_to(self.aside)
            return str(inside) if self.relative else str(self.out / inside)
        if self.relative:
            # From where OUT's folder truly lies: of /link/out, a link to /disk/a/b, `..` is /disk/a, not /link. A recording's own
            # name stays, since of a link to a store of blobs only that has an ending.
            folder, name = os.path.split(audio)
            return os.path.relpath(os.path.join(os.path.realpath(folder), name), os.path.realpath(self.out))
        if ".." in audio.parts:  # behind a link they mean the folder above its target
            return os.path.join(os.path.realpath(audio.parent), audio.name)
        return os.path.abspath(audio)  # links as they are


def manifest_name(split: str) -> str:
    """A split's name as a file's."""
    return re.sub(r"[^\w.-]+", "_", split).lstrip(".") or NO_SPLIT


def _require_replaceable(out: Path, overwrite: bool) -> None:
    if not out.is_symlink() and out.is_dir() and not any(out.iterdir()):
        return
    if out.is_symlink() or not out.is_dir():
        raise UsageError(f"{out}: exists and is no folder of its own. Choose another OUT.")
    if not overwrite:
        raise UsageError(f"{out}: exists. --overwrite replaces what an import left there; or choose another OUT.")
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        ours = {REPORT, "audio", *(f"{name}.jsonl" for name in report["splits"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{out}: no import wrote it (no {REPORT}), so it is not replaced. Choose another OUT."
        ) from None
    if strangers := sorted(path.name for path in out.iterdir() if path.name not in ours):
        raise UsageError(
            f"{out}: holds what no import wrote ({', '.join(strangers[:5])}), so it is not replaced. Move it away."
        )
