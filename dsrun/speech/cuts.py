"""Cuts: which neighbours in length share a bucket, so that a given number of shapes costs the least padding.

Batches stand in the order of their length; a run of them costs its size times its last length. The cheapest cuts into k runs are those
into k - 1 runs of a beginning, with one run more: one pass over the pairs of places for each k, so the answer for k has those for
1 to k - 1 on its way. Of cuts that cost the same the ones with the smaller edges, compared one after the other, are taken: the order
of batches, and with it a run's bits, hangs on that choice.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import numpy as np
from jaxtyping import Int64

UNREACHED = 1 << 62  # more than any padded length


def cheapest_cuts(lengths: Sequence[int], pieces: int) -> list[int]:
    """Edges 0..len that cut non-decreasing lengths into at most `pieces` runs, each costing its size times its last length."""
    return cheapest_cuts_up_to(lengths, pieces)[-1]


def cheapest_cuts_up_to(lengths: Sequence[int], pieces: int) -> list[list[int]]:
    """The cheapest cuts into at most 1, 2, ... runs; `pieces` of them, or as many as there are different lengths."""
    # Between equals a cut saves nothing, so few places are left to try, however many the batches are.
    places = [0, *(end for end, (a, b) in enumerate(pairwise(lengths), 1) if b > a), len(lengths)]
    ends, last = np.array(places, np.int64), np.array([0, *(lengths[end - 1] for end in places[1:])], np.int64)
    cost = np.where(ends == 0, 0, UNREACHED)
    edges: list[tuple[int, ...]] = [(0,), *(() for _ in places[1:])]
    found = []
    for _ in range(min(pieces, len(places) - 1)):
        cost, edges = _with_one_run_more(ends, last, cost, edges)
        found.append(list(edges[-1]))
    return found


def _with_one_run_more(
    ends: Int64[np.ndarray, " place"],
    last: Int64[np.ndarray, " place"],
    cost: Int64[np.ndarray, " place"],
    edges: list[tuple[int, ...]],
) -> tuple[Int64[np.ndarray, " place"], list[tuple[int, ...]]]:
    """Least cost of all before each place, and its edges, with the runs so far or one more."""
    # Every candidate goes on with the same further end, above all that it has: (0, 3) behind (0, 3, 5), which (0,) is behind too.
    rank = np.empty(len(edges), np.int64)
    rank[sorted(range(len(edges)), key=lambda place: (*edges[place], inf))] = np.arange(len(edges))
    new_cost, new_edges = cost.copy(), list(edges)
    for place in range(1, len(edges)):
        candidates = cost[:place] + (ends[place] - ends[:place]) * last[place]
        cheapest = np.flatnonzero(candidates == candidates.min())
        start = int(cheapest[np.argmin(rank[cheapest])])
        candidate = int(candidates[start]), (*edges[start], int(ends[place]))
        if candidate < (int(cost[place]), edges[place]):
            new_cost[place], new_edges[place] = candidate
    return new_cost, new_edges


def round_up(value, multiple: int):
    """The next multiple, of a number or of each of an array's."""
    return -(-value // multiple) * multiple
