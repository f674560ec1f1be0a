"""Sums in a stated order, and sums whose accumulator is narrow, against loops written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic.formats import FLOAT16
from dsrun.arithmetic.rounding import round_to
from dsrun.arithmetic.summation import product, sum_elements, sum_magnitudes


def in_halves(values):
    """The definition: padded with zeros to a power of two, second half added to the first until one is left."""
    values = [np.float32(v) for v in values]
    size = 1
    while size < len(values):
        size *= 2
    values += [np.float32(0)] * (size - len(values))
    while len(values) > 1:
        half = len(values) // 2
        values = [values[k] + values[half + k] for k in range(half)]
    return values[0]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 100])
def test_a_sum_is_the_fold_in_halves_in_float32(count):
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32) * np.float32(1e3)
    assert np.float32(sum_elements(jnp.asarray(x))) == in_halves(x)
    assert np.float32(jax.jit(sum_elements)(x)) == in_halves(x)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 37, 256, 300])
def test_a_sum_of_magnitudes_is_the_fold_in_halves_of_each_column(count):
    x = np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)
    np.testing.assert_array_equal(sum_magnitudes(jnp.asarray(x)), [in_halves(column) for column in np.abs(x).T])


@pytest.mark.parametrize("count", [65536, 65537, 131072, 200_000])
def test_a_long_sum_of_magnitudes_first_adds_up_the_rows_of_a_lane_in_ascending_order(count):
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    lanes = np.zeros(65536, np.float32)
    for start in range(0, count, 65536):
        part = np.abs(x[start : start + 65536])
        lanes[: len(part)] += part
    assert np.float32(sum_magnitudes(jnp.asarray(x))) == in_halves(lanes)
    beside = jnp.asarray(np.stack([x, x + 1, np.zeros_like(x)], axis=1))
    assert np.asarray(sum_magnitudes(beside))[[0, 2]].tolist() == [in_halves(lanes), 0.0]
    assert np.float32(jax.jit(sum_magnitudes)(x)) == in_halves(lanes)


def test_the_sum_of_nothing_is_zero():
    assert float(sum_elements(jnp.zeros((0, 3)))) == 0.0
    np.testing.assert_array_equal(sum_magnitudes(jnp.zeros((0, 3))), np.zeros(3))


def narrow_product(a, b, chunk):
    """Row times column, the running sum in float16; NumPy's own float16 rounds."""
    total = np.float16(0)
    for start in range(0, len(a), chunk):
        part = np.float16(np.sum(a[start : start + chunk] * b[start : start + chunk], dtype=np.float64))
        total = np.float16(np.float32(total) + np.float32(part))
    return total


@pytest.mark.parametrize("options", [{"chunk": 4}, {"round": lambda x, _: round_to(x, FLOAT16)}])
def test_half_of_what_a_narrow_accumulator_needs_is_refused(options):
    with pytest.raises(ValueError, match="needs both"):
        product(jnp.ones((2, 3)), jnp.ones((3, 2)), **options)


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_a_narrow_accumulator_rounds_each_chunk_and_each_running_sum(chunk):
    random = np.random.default_rng(1)
    # Few bits, so that a sum of a chunk is exact in float32 in any order.
    a, b = ((random.integers(-64, 64, shape) / 16).astype(np.float32) for shape in ((3, 50), (50, 2)))
    got = product(jnp.asarray(a), jnp.asarray(b), chunk=chunk, round=lambda x, _: round_to(x, FLOAT16))
    expected = [[narrow_product(row, column, chunk) for column in b.T] for row in a]
    np.testing.assert_array_equal(got, np.array(expected, np.float32))


def test_a_float16_accumulator_stops_at_2048_where_a_chunked_one_goes_on():
    ones = jnp.ones((1, 4096)), jnp.ones((4096, 1))
    assert float(product(*ones).item()) == 4096
    for chunk, total in ((1, 2048), (2, 4096), (64, 4096)):
        assert product(*ones, chunk=chunk, round=lambda x, _: round_to(x, FLOAT16)).item() == total


def test_each_rounding_of_a_sum_has_a_number_of_its_own():
    seen = []

    def noting(x, number):
        jax.debug.callback(lambda n: seen.append(int(n)), number)
        return x

    product(jnp.ones((1, 6)), jnp.ones((6, 1)), chunk=2, round=noting).block_until_ready()
    jax.effects_barrier()
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]
