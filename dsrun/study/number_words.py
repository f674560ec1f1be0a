"""Numbers in sentences: shares as percent, magnitudes as powers of two, lists with an `and`."""

import math
from collections.abc import Sequence
from typing import Any

WHY_SKIPPED = "since the loss, a gradient or a new weight was not finite"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float) -> str:
    """With as many digits as say something; never 0% or 100% for a share that is neither, and "none known" for NaN."""
    if math.isnan(share):
        return "none known"
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    if share < 0.001:
        return "less than 0.1%"
    if share > 0.999:
        return "more than 99.9%"
    return f"{share:.1%}"


def power_of_two(exponent: float) -> str:
    """2⁻⁵ for -5; a broken exponent is rounded."""
    return f"2{str(round(exponent)).translate(_SUPERSCRIPTS)}"


def at_most(share: float) -> str:
    """`up to 12.3%`, and for what is less than 0.1% just that."""
    words = percent(share)
    return words if words.startswith("less") else f"up to {words}"


def listed(names: Sequence[str], most: int | None = None) -> str:
    """`a`, `a and b`, `a, b and c`; with semicolons where a name has commas of its own; of more than `most` the others are counted."""
    if most is not None and len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} others"]
    if len(names) < 2:
        return "".join(names)
    comma = "; " if any("," in name for name in names) else ", "
    return f"{comma.join(names[:-1])} and {names[-1]}"


def first_of(names: Sequence[str], most: int, what: str = "") -> str:
    """`a, b`; of more than `most` the first and how many more: `a, b and 3 more`, or with `what` `a, b and 3 more runs`."""
    more = len(names) - most
    rest = counted(more, f"more {what}") if what else f"{more} more"
    return ", ".join(names[:most]) + (f" and {rest}" if more > 0 else "")


def of_seeds(seeds: Sequence[Any], most: int) -> str:
    """`seed 1`, `seeds 1, 2 and 3 more`."""
    return f"seed{'s' * (len(seeds) != 1)} {first_of([str(seed) for seed in seeds], most)}"


def on_seeds(counts: Sequence[int], *, several: str, one: str) -> list[str]:
    """What a caption says of the seeds.

    Args:
        counts: seeds of each setting. several: the sentence if any setting has more than one. one: the sentence if others have one.
    """
    if set(counts) == {1}:
        return [f"One seed{' each' if len(counts) > 1 else ''}: other seeds may differ."]
    return [text for text in (several, one if 1 in counts else "") if text]


def counted(number: int, word: str) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Bytes with three digits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"
