"""Keyed permutations: bijections of every size, that look drawn at random."""

import numpy as np
import pytest

from dsrun.speech.permutation import LISTED_BELOW, Listed, Permutation, shuffled


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize(
    "size", [*range(1, 130), 255, 256, 257, 1023, 1024, 1025, 4097, 65_535, 65_536, 65_537, 300_000]
)
def test_every_place_is_taken_once(size):
    images = Permutation(size, rng(size))(np.arange(size))
    assert np.array_equal(np.sort(images), np.arange(size))


def test_places_can_be_asked_for_in_any_order_and_one_by_one():
    order = Permutation(100_000, rng(5))
    places = rng(6).permutation(100_000)[:1000]
    images = order(np.arange(100_000))
    assert np.array_equal(order(places), images[places])
    assert order(np.array([77_777]))[0] == images[77_777]


def test_a_seed_gives_the_same_order_again_and_another_seed_another():
    one, again, other = (Permutation(70_000, rng(seed))(np.arange(70_000)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    # Two random permutations agree in one place on average, as many as 12 once in 10^9.
    assert (one == other).sum() < 12


def test_each_image_is_equally_likely_and_neighbours_part():
    # 4,000 permutations of 12: counts of (place, image) are near 333, a chi-square of 121 degrees of freedom (deviation 15.6).
    size, draws = 12, 4_000
    counts = np.zeros((size, size))
    for seed in range(draws):
        counts[np.arange(size), Permutation(size, rng(seed))(np.arange(size))] += 1
    expected = draws / size
    assert abs(((counts - expected) ** 2 / expected).sum() - 121) < 5 * 15.6
    # Of a long one: the images of neighbours correlate as chance has it, deviation 1 / sqrt(n).
    images = Permutation(200_000, rng(3))(np.arange(200_000)).astype(float)
    assert abs(np.corrcoef(images[1:], images[:-1])[0, 1]) < 5 / np.sqrt(200_000)
    assert abs(np.corrcoef(images, np.arange(200_000))[0, 1]) < 5 / np.sqrt(200_000)
    # Halves mix: of the first tenth a tenth lands in each tenth, deviation 42.
    tenths = np.bincount((images[:20_000] // 20_000).astype(int), minlength=10)
    assert np.abs(tenths - 2_000).max() < 5 * 42


def test_small_orders_are_numpys_own():
    assert isinstance(shuffled(LISTED_BELOW - 1, rng()), Listed)
    assert np.array_equal(shuffled(1000, rng(4))(np.arange(1000)), rng(4).permutation(1000))
    assert isinstance(shuffled(LISTED_BELOW, rng()), Permutation)
