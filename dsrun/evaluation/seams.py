"""Seams: where the output frames of one chunk end and those of the next begin.

Two chunks that overlap have both heard the overlap, each with less context towards its own end. Cutting in the middle would cut
through words, and a label that one chunk says a frame later than the other would come twice or not at all. So the cut goes where
it cannot matter: between two frames around which both chunks say the same (best class for best class), where neither is in the
middle of a label, if there is one between two words, and of such places the one nearest to the middle. What is then joined
are class scores on one grid of frames, not texts: no word is compared with another, the times stay exact, and any
decoder can follow. Only where the chunks agree nowhere is it the middle, for want of better.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from dsrun.ctc import BLANK

AGREED = 5  # output frames of agreement on either side that are enough


@dataclass(frozen=True)
class Seam:
    """How many frames of the overlap the earlier chunk gives, and whether the cut lies between words."""

    place: int
    is_between_words: bool


def find_seam(
    before: Float[np.ndarray, "_ class"], after: Float[np.ndarray, "_ class"], *, overlap: int, space: int | None
) -> Seam:
    """Where to leave the earlier chunk for the later one.

    Args:
        before, after: scores of the two chunks. overlap: the last frames of `before` are the same moments as the first of
            `after`. space: class of the space, None if the alphabet has none.
    """
    earlier, later = before.argmax(axis=1), after.argmax(axis=1)
    is_same = earlier[len(earlier) - overlap :] == later[:overlap]
    agreement = np.minimum(_agreement(is_same), AGREED)
    # Behind the cut or before it a blank: the label that ends there cannot go on behind it.
    is_clean = np.ones(overlap + 1, bool)
    is_clean[1:overlap] = (earlier[len(earlier) - overlap : -1] == BLANK) | (later[1:overlap] == BLANK)
    is_between = _between_words(earlier, later, overlap, space)
    nearness = -np.abs(np.arange(overlap + 1) - overlap / 2)
    place = int(np.lexsort((nearness, is_between, agreement, is_clean))[-1])  # the last key counts first
    if not (is_clean[place] and agreement[place]):
        place = overlap // 2
    return Seam(place, bool(is_between[place]))


def _agreement(is_same: Bool[np.ndarray, " output_frame"]) -> Int[np.ndarray, " place"]:
    """For each place between frames, on how many frames to its left and to its right the chunks agree without a break."""
    runs = []
    for direction in (is_same, is_same[::-1]):
        index = np.arange(1, len(direction) + 1)
        last_break = np.maximum.accumulate(np.where(direction, 0, index))
        runs.append(np.concatenate([[0], index - last_break]))
    return np.minimum(runs[0], runs[1][::-1])


def _between_words(
    earlier: Int[np.ndarray, " _"], later: Int[np.ndarray, " _"], overlap: int, space: int | None
) -> Bool[np.ndarray, " place"]:
    """Places where the last label before or the first one behind is a space, or there is none. Without spaces every place is."""
    if space is None:
        return np.ones(overlap + 1, bool)
    last = _latest_label(earlier)[len(earlier) - overlap :]
    first = _latest_label(later[::-1])[::-1][: overlap + 1]
    return (last == space) | (first == space) | (last == BLANK) | (first == BLANK)


def _latest_label(path: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    """For each place between frames, and both ends, the last label before it; blank if there is none."""
    latest = np.maximum.accumulate(np.where(path != BLANK, np.arange(1, len(path) + 1), 0))
    return np.concatenate([[BLANK], path])[np.concatenate([[0], latest])]
