"""Alignment: how many frames a label needs.

A CTC path emits one class a frame; the label is read off by merging equal neighbours and removing blanks. Two equal
neighbours in the label must therefore be kept apart by a blank, and an utterance with fewer frames than that has no
valid path at all.
"""

import itertools
from collections.abc import Sequence

import numpy as np

BLANK = 0


def frames_needed(labels: Sequence[int] | np.ndarray) -> int:
    """Fewest output frames that can carry `labels`: their number plus the number of equal neighbours."""
    return len(labels) + sum(int(a == b) for a, b in itertools.pairwise(labels))
