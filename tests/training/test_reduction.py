"""The order of a sum is part of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsrun.arithmetic import BFLOAT16, Policy, round_to
from dsrun.arithmetic.policy import Rounding
from dsrun.arithmetic.summation import sum_elements
from dsrun.training.reduction import (
    Counter,
    completed,
    covering,
    global_norm,
    halves,
    parameter_path,
    rounded_part,
    rounded_sum,
    share,
    tree_sum,
)
from dsrun.training.state import ShardSums

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


def sums_of(gradient):
    return ShardSums({"w": jnp.asarray(gradient)}, *[jnp.float32(1)] * 4, {})


def summed(policy, parts, *, step=0):
    """The tree's root from parts, each program called as a device calls it."""
    zero = jnp.int32(step)
    leaves = {
        (i, i + 1): rounded_part(policy, 0, zero, jnp.array((i, i + 1), jnp.uint32), sums_of(part))
        for i, part in enumerate(parts)
    }
    add = lambda node, a, b: rounded_sum(policy, 0, zero, jnp.array(node, jnp.uint32), a, b)  # noqa: E731
    return completed(leaves, (0, len(parts)), add)


def test_a_rounded_sum_rounds_each_part_and_each_addition_and_nothing_but_gradients():
    parts = [wide_range(1000) for _ in range(4)]
    found = summed(Policy(reduce=Rounding(BFLOAT16)), parts)
    a, b, c, d = (round_to(jnp.asarray(part), BFLOAT16) for part in parts)
    left, right = round_to(a + b, BFLOAT16), round_to(c + d, BFLOAT16)
    np.testing.assert_array_equal(found.gradient["w"], round_to(left + right, BFLOAT16))
    assert not np.array_equal(found.gradient["w"], round_to(jnp.asarray(tree_sum(parts)), BFLOAT16))
    assert found.loss == 4


def test_a_stochastic_sum_draws_bits_of_its_own_at_each_node_and_step():
    policy, part = Policy(reduce=Rounding(BFLOAT16, "stochastic")), wide_range(1000)
    rounded = [
        rounded_part(policy, 0, jnp.int32(step), jnp.array((i, i + 1), jnp.uint32), sums_of(part)).gradient["w"]
        for step, i in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({np.asarray(x).tobytes() for x in rounded}) == 3
    again = rounded_part(policy, 0, jnp.int32(0), jnp.array((0, 1), jnp.uint32), sums_of(part)).gradient["w"]
    np.testing.assert_array_equal(again, rounded[0])


def written_out(node):
    """A node as the expression that sums it."""
    return str(node[0]) if node[1] - node[0] == 1 else "({}+{})".format(*map(written_out, halves(node)))


def test_the_tree_of_seven_adds_neighbours_first_and_lets_the_odd_one_wait():
    assert written_out((0, 7)) == "(((0+1)+(2+3))+((4+5)+6))"


@pytest.mark.parametrize("shards", range(1, 18))
def test_any_number_of_devices_adds_up_to_the_same_expression(shards):
    """Each device adds what it can of its own run; what is left completes the same tree, and nothing is added twice."""
    whole = written_out((0, shards))
    for places in range(1, shards + 1):
        nodes = {}
        for place in range(places):
            counter = Counter(share(place, places, shards), shards, lambda node, a, b: f"({a}+{b})")
            for shard in range(*share(place, places, shards)):
                counter.put(shard, str(shard))
                assert len(counter.nodes) <= 2 * shards.bit_length()
            assert sorted(counter.nodes) == covering(share(place, places, shards), shards)
            nodes |= counter.nodes
        assert completed(nodes, (0, shards), lambda node, a, b: f"({a}+{b})") == whole


def test_a_parameters_path_is_found_inside_an_optimizers_state():
    state = optax.adam(1e-3).init({"gru": {"u_r": jnp.ones(2)}})
    paths = {parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert paths == {"", "gru.u_r"}
