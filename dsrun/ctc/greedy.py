"""Greedy search: the best class of each frame, equal neighbours merged, blanks removed.

That is the label of the most probable path, which is not always the most probable label: many paths share a label, and
their sum decides (Graves et al. 2006 call this best path decoding).
"""

import numpy as np
from numpy.typing import ArrayLike

from dsrun.ctc.alignment import BLANK


def greedy_search(logits: ArrayLike, num_frames: ArrayLike) -> list[list[int]]:
    """Label ids of the best path.

    Args:
        logits: [batch, output_frame, class]; anything that orders the classes alike (log-probabilities) gives the
        same answer. num_frames: [batch], valid output frames; what lies behind them has no effect, NaN included.

    Returns:
        One list of class ids an utterance, without blanks. Of equal logits the smaller class id wins.
    """
    best = np.argmax(np.asarray(logits), axis=-1)
    return [_collapse(path[:count]) for path, count in zip(best, np.asarray(num_frames), strict=True)]


class GreedyStream:
    """`greedy_search` of one utterance whose logits come in pieces: a run of one class over a border between pieces is one label."""

    def __init__(self) -> None:
        self._last = BLANK

    def push(self, logits: ArrayLike) -> list[int]:
        """Labels that are new with these logits [output_frame, class], which follow those given before; none is ever taken back."""
        path = np.argmax(np.asarray(logits), axis=-1)
        is_new = np.diff(path, prepend=self._last) != 0
        if len(path):
            self._last = int(path[-1])
        return [int(label) for label in path[is_new] if label != BLANK]


def _collapse(path: np.ndarray) -> list[int]:
    is_new = np.diff(path, prepend=BLANK - 1) != 0
    return [int(label) for label in path[is_new] if label != BLANK]
