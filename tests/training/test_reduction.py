"""The order of a sum is part of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsrun.arithmetic import BFLOAT16, Policy, round_to
from dsrun.arithmetic.policy import Rounding
from dsrun.arithmetic.random_bits import make_key
from dsrun.training.reduction import global_norm, parameter_path, rounded_sum, sum_elements, tree_sum

RNG = np.random.default_rng(0)


def wide_range(*shape):
    """Values over twelve decades: any two orders of summation differ in some bits."""
    return (RNG.standard_normal(shape) * 10.0 ** RNG.uniform(-6, 6, shape)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_tree_sum_adds_neighbours_first(count):
    parts = [{"a": wide_range(1000)} for _ in range(count)]
    expected = [part["a"] for part in parts]
    while len(expected) > 1:
        tail = expected[-1:] if len(expected) % 2 else []
        expected = [expected[i] + expected[i + 1] for i in range(0, len(expected) - 1, 2)] + tail
    np.testing.assert_array_equal(jax.jit(lambda p: tree_sum(p))(parts)["a"], expected[0])


def test_tree_sum_differs_from_a_left_fold_so_the_order_matters():
    parts = [wide_range(1000) for _ in range(8)]
    assert not np.array_equal(tree_sum(parts), np.sum(parts, axis=0, dtype=np.float32))


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 4096])
def test_sum_elements_folds_halves_and_is_the_same_under_jit(size):
    x = wide_range(size)
    folded = np.zeros(1 << max(size - 1, 0).bit_length(), np.float32)
    folded[:size] = x
    while folded.size > 1:
        folded = folded[: folded.size // 2] + folded[folded.size // 2 :]
    assert sum_elements(jnp.asarray(x)) == folded[0]
    assert jax.jit(sum_elements)(x) == folded[0]


def test_global_norm_is_the_euclidean_norm_over_all_leaves():
    tree = {"a": wide_range(3, 5), "b": {"c": wide_range(7)}}
    exact = np.sqrt(sum(np.sum(np.square(leaf.astype(np.float64))) for leaf in (tree["a"], tree["b"]["c"])))
    np.testing.assert_allclose(global_norm(tree), exact, rtol=1e-6)


def test_a_rounded_sum_rounds_each_part_and_each_addition():
    parts = [{"a": jnp.asarray(wide_range(1000))} for _ in range(4)]
    found = rounded_sum(Policy(reduce=Rounding(BFLOAT16)), parts, make_key(0, "reduce", ""))["a"]
    a, b, c, d = (round_to(part["a"], BFLOAT16) for part in parts)
    left, right = round_to(a + b, BFLOAT16), round_to(c + d, BFLOAT16)
    np.testing.assert_array_equal(found, round_to(left + right, BFLOAT16))
    assert not np.array_equal(found, round_to(tree_sum(parts)["a"], BFLOAT16))


def test_a_parameters_path_is_found_inside_an_optimizers_state():
    state = optax.adam(1e-3).init({"gru": {"u_r": jnp.ones(2)}})
    paths = {parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert paths == {"", "gru.u_r"}
