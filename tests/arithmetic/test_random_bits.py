"""The counter-based generator: what a hash must do to pass for random bits, with fixed keys, so that no test can fail by chance.

A frequency over n independent words has the standard error 0.5 / sqrt(n). The largest of about a thousand such frequencies lies
3.3 standard errors out on average; the bounds here are 6. The functions are fixed, so what is measured is their bias.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrun.arithmetic.random_bits import draw, fold_in, hash_bits, make_key

COUNT = 1 << 16
STANDARD_ERROR = 0.5 / COUNT**0.5
PLACES = np.arange(32, dtype=np.uint32)
KEY = fold_in(make_key(0, "update", "gru_0_forward.u_r"), 1)
INDEX = np.arange(COUNT, dtype=np.uint32)
KNOWN_KEY = [2437875485, 1546139037]
KNOWN_FOLDED = [162861439, 649053375]
KNOWN_WORDS = [2645629894, 869125089, 3385795293, 142924669]
KNOWN_HASHES = [2968459747, 1052266977, 4059868752]
words_of = jax.jit(hash_bits)
words_of_each_key = jax.jit(jax.vmap(hash_bits))


def words(key, index=INDEX):
    return np.asarray(words_of(jnp.asarray(key), jnp.asarray(index)))


def shares(x):
    """For each of 32 places, how often the bit is set."""
    return np.array([np.mean((x >> place) & np.uint32(1)) for place in PLACES])


def assert_unrelated(a, b):
    """Each bit agrees with the other's bit of the same place half of the time, and the words do not correlate as numbers."""
    assert np.abs(shares(a ^ b) - 0.5).max() < 6 * STANDARD_ERROR
    assert abs(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1]) < 6 / COUNT**0.5


@pytest.mark.parametrize("spread", [1, 64, 2654435761], ids=["neighbours", "a row apart", "anywhere"])
def test_flipping_a_bit_of_the_index_flips_each_output_bit_half_of_the_time(spread):
    index = INDEX * np.uint32(spread)
    plain = words(KEY, index)
    flips = np.array([shares(plain ^ words(KEY, index ^ (np.uint32(1) << place))) for place in PLACES])
    assert np.abs(flips - 0.5).max() < 6 * STANDARD_ERROR


@pytest.mark.parametrize("word", [0, 1])
def test_flipping_a_bit_of_the_key_flips_each_output_bit_half_of_the_time(word):
    random = np.random.default_rng(word)
    keys = random.integers(0, 2**32, (COUNT, 2), dtype=np.uint32)
    plain = np.asarray(words_of_each_key(keys, INDEX))
    for place in PLACES:
        changed = keys.copy()
        changed[:, word] ^= np.uint32(1) << place
        flips = shares(plain ^ np.asarray(words_of_each_key(changed, INDEX)))
        assert np.abs(flips - 0.5).max() < 6 * STANDARD_ERROR, place


@pytest.mark.parametrize("word", [0, 1])
def test_two_keys_that_differ_in_one_bit_give_unrelated_sequences(word):
    plain = words(KEY)
    for place in (0, 1, 15, 16, 30, 31):
        changed = np.asarray(KEY).copy()
        changed[word] ^= np.uint32(1) << np.uint32(place)
        assert_unrelated(plain, words(changed))


def test_every_output_bit_is_set_half_of_the_time_by_chi_square():
    # One degree of freedom a bit; over 32 bits and 8 keys the smallest of 256 p-values is about 0.004.
    for step in range(8):
        share = shares(words(fold_in(KEY, step)))
        chi_square = (share - 0.5) ** 2 / STANDARD_ERROR**2
        assert stats.chi2.sf(chi_square, df=1).min() > 1e-5


def test_the_top_and_the_low_bytes_are_uniform_by_chi_square():
    for step in range(8):
        drawn = words(fold_in(KEY, step))
        for byte in (drawn >> np.uint32(24), drawn & np.uint32(255)):
            assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > 1e-5


@pytest.mark.parametrize("distance", [1, 2, 3, 32, 512, 1024])
def test_neighbours_are_unrelated(distance):
    assert_unrelated(words(KEY), words(KEY, INDEX + np.uint32(distance)))


def test_pairs_of_neighbours_fill_the_plane_evenly_by_chi_square():
    drawn = words(KEY) >> np.uint32(28)
    pairs = drawn[:-1] * np.uint32(16) + drawn[1:]
    assert stats.chisquare(np.bincount(pairs, minlength=256)).pvalue > 1e-5


def test_seeds_roles_paths_and_steps_give_unrelated_sequences():
    keys = [
        *(make_key(seed, "update", "w") for seed in (0, 1, 2, 2**31, 2**32 - 1)),
        *(make_key(0, role, "w") for role in ("storage", "gradient", "state")),
        *(make_key(0, "update", path) for path in ("W", "w0", "w1", "gru_0_forward.u_r", "gru_0_forward.u_z")),
        *(fold_in(make_key(0, "update", "w"), step) for step in (0, 1, 2, 1000)),
        fold_in(fold_in(make_key(0, "update", "w"), 1), 0),
    ]
    drawn = [words(key) for key in keys]
    for number, first in enumerate(drawn):
        for second in drawn[:number]:
            assert_unrelated(first, second)


def test_a_role_and_a_path_are_not_run_together():
    assert not np.array_equal(make_key(0, "ab", "c"), make_key(0, "a", "bc"))


def test_the_keys_of_a_quarter_of_a_million_steps_are_all_different():
    keys = np.asarray(jax.jit(jax.vmap(lambda step: fold_in(KEY, step)))(jnp.arange(2**18, dtype=jnp.uint32)))
    assert len(np.unique(keys.astype(np.uint64) @ np.array([1, 2**32], np.uint64))) == 2**18


def test_no_word_comes_twice_because_each_step_of_the_hash_is_a_bijection():
    index = np.concatenate([np.arange(2**19), 2**32 - 1 - np.arange(2**19)]).astype(np.uint32)
    assert len(np.unique(words(KEY, index))) == len(index)


def test_a_longer_array_and_another_shape_extend_the_shorter_one():
    whole = np.asarray(draw(KEY, (1000,)))
    np.testing.assert_array_equal(draw(KEY, (10,)), whole[:10])
    np.testing.assert_array_equal(draw(KEY, (10, 20, 5)), whole.reshape(10, 20, 5))
    np.testing.assert_array_equal(draw(KEY, (3, 5), start=985), whole[985:].reshape(3, 5))
    assert draw(KEY, ()) == whole[0]


def test_the_mean_of_uniforms_made_of_the_words_is_a_half():
    uniforms = words(KEY, np.arange(1 << 20, dtype=np.uint32)) / 2.0**32
    assert abs(uniforms.mean() - 0.5) < 4 * (1 / 12) ** 0.5 / 2**10  # standard error of a mean of 2**20 uniforms


def test_the_words_are_those_that_earlier_runs_drew():
    # Literals: a change of the function, however good, must not go unseen. It would change every stochastic run.
    assert np.asarray(make_key(0, "update", "w")).tolist() == KNOWN_KEY
    assert np.asarray(fold_in(make_key(0, "update", "w"), 1)).tolist() == KNOWN_FOLDED
    assert np.asarray(draw(make_key(0, "update", "w"), (4,))).tolist() == KNOWN_WORDS
    assert (
        np.asarray(hash_bits(jnp.zeros(2, jnp.uint32), jnp.asarray([0, 1, 2**32 - 1], jnp.uint32))).tolist()
        == KNOWN_HASHES
    )
