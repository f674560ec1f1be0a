"""Edits: which word (or character) was read as which.

A shortest edit from reference to hypothesis, as a list of steps: `match`, `substitution`, `deletion` (only the reference has it),
`insertion` (only the hypothesis has it). Of several shortest edits kaldialign takes one, the same that `error_rate` counts, so the
steps of each kind sum to its substitutions, deletions and insertions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import kaldialign

Kind = Literal["match", "substitution", "deletion", "insertion"]

_NOTHING = -1  # in place of a symbol; the others are numbered from 0, so no text can be taken for it


@dataclass(frozen=True)
class Edit:
    """One step: what the reference has and what the hypothesis has, "" where it has nothing."""

    kind: Kind
    reference: str
    hypothesis: str


def word_edits(reference: str, hypothesis: str) -> list[Edit]:
    """Steps over words, which are what white space separates."""
    return _edits(reference.split(), hypothesis.split())


def character_edits(reference: str, hypothesis: str) -> list[Edit]:
    """Steps over code points, spaces included."""
    return _edits(list(reference), list(hypothesis))


def _edits(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Edit]:
    symbols = list(dict.fromkeys([*reference, *hypothesis]))
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    symbols.append("")  # symbols[_NOTHING]
    pairs = kaldialign.align([numbers[s] for s in reference], [numbers[s] for s in hypothesis], _NOTHING)
    return [Edit(_kind(said, read), symbols[said], symbols[read]) for said, read in pairs]


def _kind(said: int, read: int) -> Kind:
    if said == _NOTHING:
        return "insertion"
    if read == _NOTHING:
        return "deletion"
    return "match" if said == read else "substitution"
