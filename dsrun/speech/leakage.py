"""Leakage: what splits of a corpus share that they should not.

A recording that is in train and in test makes the test's error rate worthless: an error, and so is a part of a file that overlaps a part
of it in another split. Other parts of the same file, mostly one speaker in one room, and the same id, speaker or text are a warning: it
may be meant (a command has few texts, a corpus may have one speaker), but then the error rate is about known speakers or known
sentences, and a reader wants to be told.
"""

import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

import numpy as np
from jaxtyping import Int64, UInt64

from dsrun.speech.audio import DURATION_TOLERANCE
from dsrun.speech.check import Columns, Problems, place
from dsrun.speech.manifest import Utterance

MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Split:
    """A checked manifest: what messages call it, its utterances, and what the check kept of them."""

    name: str
    utterances: Sequence[Utterance]
    columns: Columns


def find_leakage(splits: Sequence[Split]) -> tuple[Problems, Problems, list[dict[str, str | int]]]:
    """Errors, warnings, and a row for each pair of splits: how many utterances of the second have something that the first has too."""
    errors, warnings = Problems(), Problems()
    rows: list[dict[str, str | int]] = []
    for first, second in combinations(splits, 2):
        row: dict[str, str | int] = {"split": second.name, "has what is in": first.name}
        recordings, theirs = _shared(first.columns.recording, second.columns.recording)
        for number, other in zip(recordings, theirs, strict=True):
            here, there = place(second.utterances[int(number)]), place(first.utterances[int(other)])
            errors.add("leaked recording", f"{second.name}: {here}: the same recording as {there} of {first.name}.")
        row["recordings"] = len(recordings)
        _note_shared_files(first, second, set(recordings.tolist()), errors, warnings)
        for name in ("id", "speaker", "text"):
            numbers, _ = _shared(getattr(first.columns, name), getattr(second.columns, name))
            row[f"{name}s"] = len(numbers)
            if len(numbers):
                warnings.add(f"shared {name}", _shared_text(first, second, name, numbers))
        rows.append(row)
    return errors, warnings, rows


def count_recordings_in(utterances: Sequence[Utterance], others: Sequence[Utterance]) -> int:
    """How many utterances have sound of `others`: of the same file or tar member at the same time, whatever the manifests' lines."""
    parts: dict[tuple[str, int | None], tuple[list[float], list[float]]] = {}
    for other in sorted(others, key=lambda other: other.offset):
        starts, latest = parts.setdefault(_file_of(other), ([], []))
        starts.append(other.offset)
        latest.append(max([*latest[-1:], _end_of(other)]))
    count = 0
    for utterance in utterances:
        starts, latest = parts.get(_file_of(utterance), ([], []))
        before = bisect_left(starts, _end_of(utterance) - DURATION_TOLERANCE)
        count += bool(before) and latest[before - 1] > utterance.offset + DURATION_TOLERANCE
    return count


def _file_of(utterance: Utterance) -> tuple[str, int | None]:
    return os.path.realpath(utterance.audio), None if utterance.member is None else utterance.member.offset


def _end_of(utterance: Utterance) -> float:
    return utterance.offset + (utterance.duration or inf) if utterance.is_part else inf


def _shared(
    first: UInt64[np.ndarray, " utterance"], second: UInt64[np.ndarray, " other"]
) -> tuple[Int64[np.ndarray, " shared"], Int64[np.ndarray, " shared"]]:
    """Which of the second's keys the first has too, and where the first has them first; key 0 is none."""
    keys, where = np.unique(first, return_index=True)
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = np.minimum(np.searchsorted(keys, second), len(keys) - 1)
    found = np.flatnonzero((keys[near] == second) & (second > 0))
    return found, where[near[found]]


def _note_shared_files(first: Split, second: Split, known: set[int], errors: Problems, warnings: Problems) -> None:
    """Parts of the second split's files that are also files of the first; `known` are told as the same recording already."""
    shared, _ = _shared(first.columns.file, second.columns.file)
    numbers = [number for number in shared.tolist() if number not in known]
    parts = _parts_by_file(first.columns, np.unique(second.columns.file[numbers]))
    elsewhere = []
    for number in numbers:
        start = float(second.columns.start[number])
        end = start + float(second.columns.seconds[number])
        starts, latest = parts[int(second.columns.file[number])]
        before = bisect_left(starts, end - DURATION_TOLERANCE)
        if before and latest[before - 1][0] > start + DURATION_TOLERANCE:
            here, there = place(second.utterances[number]), place(first.utterances[latest[before - 1][1]])
            errors.add("leaked part", f"{second.name}: {here}: overlaps {there} of {first.name} in the same file.")
        else:
            elsewhere.append(number)
    if elsewhere:
        examples = ", ".join(place(second.utterances[number]) for number in elsewhere[:MOST_EXAMPLES])
        more = ", ..." if len(elsewhere) > MOST_EXAMPLES else ""
        share = len(elsewhere) / len(second.utterances)
        warnings.add(
            "shared file",
            f"{second.name}: {len(elsewhere)} utterances ({share:.0%}) are in a file that {first.name} has other parts of: "
            f"{examples}{more}.",
        )


def _parts_by_file(
    columns: Columns, files: UInt64[np.ndarray, " file"]
) -> dict[int, tuple[list[float], list[tuple[float, int]]]]:
    """Of each of these files: where its parts start, in order, and the latest end of those so far with whose it is."""
    numbers = np.flatnonzero(np.isin(columns.file, files))
    found: dict[int, tuple[list[float], list[tuple[float, int]]]] = {}
    for number in numbers[np.argsort(columns.start[numbers], kind="stable")].tolist():
        starts, latest = found.setdefault(int(columns.file[number]), ([], []))
        end = float(columns.start[number] + columns.seconds[number]), number
        starts.append(float(columns.start[number]))
        latest.append(max(latest[-1], end) if latest else end)
    return found


def _shared_text(first: Split, second: Split, name: str, numbers: Int64[np.ndarray, " shared"]) -> str:
    keys = getattr(second.columns, name)[numbers]
    distinct, places = np.unique(keys, return_index=True)
    shown = [second.utterances[int(numbers[n])] for n in sorted(places)[:MOST_EXAMPLES]]
    examples = ", ".join(repr(getattr(utterance, name)) for utterance in shown)
    more = ", ..." if len(distinct) > MOST_EXAMPLES else ""
    share = len(numbers) / len(second.utterances)
    kind = {"id": "an id", "speaker": "a speaker", "text": "a text"}[name]
    return (
        f"{second.name}: {len(numbers)} utterances ({share:.0%}) have {kind} that {first.name} has too; {len(distinct)} "
        f"different: {examples}{more}."
    )
