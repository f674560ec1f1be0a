"""Orders of a million things that nobody writes down: keyed permutations with random access and no memory.

A Feistel network turns any function of half a word into a bijection of the word (Luby & Rackoff 1988): L, R -> R, L ^ f(R), a few times
over. Its domain is a power of four; an index that lands outside 0..size-1 is sent through again until it lands inside (cycle walking,
Black & Rogaway 2002), which keeps it a bijection and takes fewer than four passes on average.

Numbers only need to look shuffled here, not to keep a secret: f is the finaliser of MurmurHash3 on 32 bits, keyed anew in every round.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

ROUNDS = 8
LISTED_BELOW = 65_536  # what is smaller is a list, NumPy's own permutation, as it was before there was this page


@runtime_checkable
class Order(Protocol):
    """Places of a shuffled sequence to places of the plain one."""

    def __call__(self, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """Where those that stand there now stood."""


class Listed:
    """An order that is written down."""

    def __init__(self, order: np.ndarray):
        self._order = order

    def __call__(self, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """Where those that stand there now stood."""
        return np.asarray(self._order[places], np.int64)


class Plain:
    """No change."""

    def __call__(self, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """The same."""
        return places


class Permutation:
    """A bijection of 0..size-1, drawn by a generator; `permutation(places)` is where each of them goes."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.size = size
        self._half = max(1, ((max(size, 2) - 1).bit_length() + 1) // 2)  # bits of L and of R
        self._keys = rng.integers(0, 1 << 32, ROUNDS, dtype=np.uint64)

    def __call__(self, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """Images of these places."""
        words = self._network(places.astype(np.uint64))
        while (outside := np.flatnonzero(words >= self.size)).size:
            words[outside] = self._network(words[outside])
        return words.astype(np.int64)

    def _network(self, words: np.ndarray) -> np.ndarray:
        mask = np.uint64((1 << self._half) - 1)
        left, right = words >> np.uint64(self._half), words & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return left << np.uint64(self._half) | right


def shuffled(size: int, rng: np.random.Generator) -> Order:
    """A random order of so many."""
    return Listed(rng.permutation(size)) if size < LISTED_BELOW else Permutation(size, rng)


def _mix(words: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser of 32 bits (Appleby), in words of 64: products are cut, nothing overflows."""
    low = np.uint64(0xFFFF_FFFF)
    words = (words ^ words >> np.uint64(16)) * np.uint64(0x85EB_CA6B) & low
    words = (words ^ words >> np.uint64(13)) * np.uint64(0xC2B2_AE35) & low
    return words ^ words >> np.uint64(16)
