"""From what a corpus names to what can be used: every recording's header is read, and what is wrong is left out and counted.

For every kind of corpus alike: the file must be there and its header readable, a part must lie inside its recording, the text
must say something, the id be unique in its split. Durations come from the headers, samples divided by rate, so that a float
read back is the same float. Headers are read by some threads, a few thousand rows at a time: a corpus of a million utterances
needs no more memory than its ids.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from dsrun.errors import DataError, UsageError
from dsrun.speech.audio import DURATION_TOLERANCE, Extent, read_extent
from dsrun.speech.importers.rows import (
    BAD_DURATION,
    BAD_PART,
    CHANNEL,
    DUPLICATE,
    EMPTY_TEXT,
    MALFORMED,
    MISSING,
    REFUSED_TEXT,
    UNREADABLE,
    LeftOut,
    Row,
)
from dsrun.speech.manifest import TarMember
from dsrun.speech.normalizers import Normalizer

AT_ONCE = 4_000  # rows
MOST_KEPT = 100_000  # recordings whose extent is remembered
THREADS = 16  # that wait for a disk or a network, hardly for the processor
HASH_SPLITS = ("train", "dev", "test")

Place = tuple[Path, TarMember | None]


@dataclass(frozen=True)
class Measured:
    """A usable row: `row.split` is where it goes, `seconds` its own length, `extent` its recording's."""

    row: Row
    seconds: float
    extent: Extent


def survey(
    found: Iterable[Row | LeftOut],
    *,
    normalizer: Normalizer,
    splits: tuple[str, ...] = (),
    percents: tuple[int, ...] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Measured | LeftOut]:
    """Everything that an importer found, usable or not, in its order.

    Args:
        normalizer: a text that it refuses, or of which it leaves nothing, is left out; the row keeps its text as written.
        splits: only these; empty for all.
        percents: of train, dev and test, for a corpus without splits: by a hash of the normalised text, so that a sentence that
            is said twice is in one split.
        on_progress: called with the number of rows so far.

    Raises:
        UsageError: a split that the corpus does not have, or `percents` for one that has splits.
    """
    ids: dict[str, set[str]] = {}
    names: set[str] = set()
    kept: dict[Place, Extent | LeftOut] = {}
    remaining, done = iter(found), 0
    with ThreadPoolExecutor(THREADS) as pool:
        while chunk := list(islice(remaining, AT_ONCE)):
            judged = [_judge(item, normalizer, splits, percents, names) for item in chunk]
            rows = [item for item in judged if isinstance(item, Row)]
            new = list(dict.fromkeys((row.audio, row.member) for row in rows if (row.audio, row.member) not in kept))
            fresh = dict(zip(new, pool.map(_extent, new), strict=True))
            for item in judged:
                if isinstance(item, Row):
                    place = (item.audio, item.member)
                    yield _once(_measure(item, fresh[place] if place in fresh else kept[place]), ids)
                elif item is not None:
                    yield item
            # Recordings of many parts are kept; what is one utterance is not asked for again.
            if len(kept) < MOST_KEPT:
                kept |= {
                    (row.audio, row.member): fresh[row.audio, row.member]
                    for row in rows
                    if row.offset is not None and (row.audio, row.member) in fresh
                }
            done += len(chunk)
            if on_progress:
                on_progress(done)
    if unknown := sorted(set(splits) - names):
        raise UsageError(f"--split {unknown[0]}: the corpus has {', '.join(sorted(names)) or 'no splits'}.")


def _judge(
    item: Row | LeftOut,
    normalizer: Normalizer,
    splits: tuple[str, ...],
    percents: tuple[int, ...] | None,
    names: set[str],
) -> Row | LeftOut | None:
    """The row with the split it goes to, or why not; None for one that nobody asked for."""
    if item.split is not None:
        names.add(item.split)
    if splits and item.split is not None and item.split not in splits:
        return None
    if isinstance(item, LeftOut):
        return item
    if percents is not None and len(names) > 1:
        raise UsageError(
            f"--split-by-hash: the corpus has splits of its own ({', '.join(sorted(names))}). Leave it out."
        )
    try:
        text = normalizer(item.text)
    except DataError as error:
        return LeftOut(REFUSED_TEXT, f"{item.place}: {error}")
    if not text:
        return LeftOut(EMPTY_TEXT, f"{item.place}: {item.id!r}")
    if not item.id or any(
        not _is_writable(value) for value in (item.id, str(item.audio), item.text, item.speaker or "")
    ):
        return LeftOut(MALFORMED, f"{item.place}: an id, a path or a text that is empty or no Unicode")
    return item if percents is None else replace(item, split=_hash_split(text, percents))


def _once(item: Measured | LeftOut, ids: dict[str, set[str]]) -> Measured | LeftOut:
    """A usable row, unless its split has the id already; what cannot be used takes no id."""
    if isinstance(item, LeftOut):
        return item
    known = ids.setdefault(item.row.split, set())
    if item.row.id in known:
        return LeftOut(DUPLICATE, f"{item.row.place}: {item.row.id!r} stands there already")
    known.add(item.row.id)
    return item


def _is_writable(text: str) -> bool:
    """Can JSON in UTF-8 hold it, and a file have it as its name?"""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _hash_split(text: str, percents: tuple[int, ...]) -> str:
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") * 100 >> 64
    return next(name for name, end in zip(HASH_SPLITS, _sums(percents), strict=True) if share < end)


def _sums(percents: tuple[int, ...]) -> list[int]:
    return [sum(percents[: k + 1]) for k in range(len(percents))]


def _extent(place: Place) -> Extent | LeftOut:
    path, member = place
    try:
        return read_extent(path, member)
    except DataError as error:
        return LeftOut(UNREADABLE if os.path.isfile(path) else MISSING, str(error))


def _measure(row: Row, extent: Extent | LeftOut) -> Measured | LeftOut:
    if isinstance(extent, LeftOut):
        return LeftOut(extent.reason, f"{row.place}: {extent.example}")
    whole = extent.seconds
    if row.channel is not None and extent.channels > 1:
        return LeftOut(
            CHANNEL,
            f"{row.place}: channel {row.channel} of {extent.channels} ({row.audio}); write each channel to a file of its own (sox remix)",
        )
    if row.offset is None:
        if row.duration is not None and abs(row.duration - whole) > DURATION_TOLERANCE:
            return LeftOut(
                BAD_DURATION, f"{row.place}: {row.duration:g} s, the recording has {whole:.3f} ({row.audio})"
            )
        return Measured(row, whole, extent)
    rest = whole - row.offset
    if rest <= 0 or (row.duration is not None and not 0 < row.duration <= rest + DURATION_TOLERANCE):
        end = "the end" if row.duration is None else f"{row.offset + row.duration:.3f} s"
        return LeftOut(
            BAD_PART, f"{row.place}: from {row.offset:.3f} s to {end}, the recording has {whole:.3f} ({row.audio})"
        )
    return Measured(row, rest if row.duration is None else min(row.duration, rest), extent)
