"""Padding: what a number of buckets costs, before a config has one.

Every bucket is a shape and every shape a compilation, in each run; every frame of padding is computed in every epoch. The same cuts
as the batcher's, from lengths alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from dsrun.speech.cuts import cheapest_cuts_up_to, round_up

COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Padding:
    """With so many buckets allowed: shapes that are used, frames that a step has in the mean, and the share of them that is padding."""

    buckets: int
    shapes: int
    frames_a_step: float
    share: float


def padding_by_buckets(
    frames: Int64[np.ndarray, " utterance"],
    longest: Int64[np.ndarray, " utterance"],
    *,
    global_batch: int,
    frame_multiple: int,
    counts: Sequence[int] = COUNTS,
) -> list[Padding]:
    """One row for each number of buckets.

    Args:
        frames: of each utterance at its own speed.
        longest: at the slowest speed, which is what a bucket must hold.
    """
    ordered = np.sort(longest)
    padded = [round_up(int(ordered[end - 1]), frame_multiple) for end in range(len(ordered), 0, -global_batch)][::-1]
    rows, cuts = [], cheapest_cuts_up_to(padded, max(counts))
    for count in counts:
        edges = cuts[min(count, len(cuts)) - 1]
        computed = sum((end - start) * padded[end - 1] for start, end in pairwise(edges)) * global_batch
        share = 1.0 - int(frames.sum()) / computed
        rows.append(Padding(count, len(edges) - 1, computed / len(padded), share))
    return rows
