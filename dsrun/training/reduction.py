"""Sums whose order is part of the definition.

Floating-point addition is not associative, so a sum over shards or over elements has as many results as it has orders. Here
the order is fixed: neighbours first, then neighbours of neighbours, a binary tree over index 0..n-1. The tree does not know
how many devices there are; that is why the device count cannot change a bit.

A node of the tree is the run of shards that it sums, `(first, last + 1)`; with five shards (0,5) is (0,4) + (4,5), and (0,4) is
(0,2) + (2,4): the left half is the largest power of two that is smaller than the whole. A device works on neighbouring shards and
adds what it can of the tree at once, as a binary counter carries, so it holds at most as many sums as the tree has levels. What is
left are nodes that other devices' nodes complete (`exchange.py` brings them together).

The role `reduce` rounds the shards' gradients before and after each addition of that tree; a random rounding draws bits of its own
at each node, parameter and element. Losses, counts and the normalisations' moments stay float32.

Adds only: a multiplication next to an addition could be contracted to a fused multiply-add in one compiled program and not
in another.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, UInt32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import site_key, to_float32
from dsrun.arithmetic.random_bits import Key, fold_in, make_key
from dsrun.arithmetic.summation import sum_elements
from dsrun.training.state import ShardSums

Tree = TypeVar("Tree")
Node = tuple[int, int]  # the shards it sums: the first, and the one behind the last


def tree_sum(parts: Sequence[Tree]) -> Tree:
    """Elementwise sum of equally shaped trees of arrays, ((0+1)+(2+3))+..., an odd one out waiting for the next round."""
    leaves = {(place, place + 1): part for place, part in enumerate(parts)}
    return completed(leaves, (0, len(parts)), lambda node, a, b: jax.tree.map(jnp.add, a, b))


def halves(node: Node) -> tuple[Node, Node]:
    """What a node of several shards is the sum of."""
    first, stop = node
    middle = first + (1 << (stop - first - 1).bit_length() - 1)
    return (first, middle), (middle, stop)


def covering(own: Node, shards: int) -> list[Node]:
    """The fewest nodes of the tree over all shards that together sum the run `own`, in order."""

    def within(node: Node) -> list[Node]:
        if own[0] <= node[0] and node[1] <= own[1]:
            return [node]
        if node[1] <= own[0] or own[1] <= node[0]:
            return []
        return [found for half in halves(node) for found in within(half)]

    return within((0, shards))


def share(place: int, places: int, shards: int) -> Node:
    """The run of neighbouring shards that a device works on; sizes differ by one at most."""
    return place * shards // places, (place + 1) * shards // places


def completed(nodes: dict[Node, Tree], node: Node, add: Callable[[Node, Tree, Tree], Tree]) -> Tree:
    """The sum of a node from nodes below it."""
    if node in nodes:
        return nodes[node]
    left, right = halves(node)
    return add(node, completed(nodes, left, add), completed(nodes, right, add))


class Counter(Generic[Tree]):
    """Adds up a run of shards, given in order, as far as the tree lets it: `nodes` are the sums so far.

    Args:
        own: the run.
        shards: of the whole tree.
        add: the sum of two neighbouring nodes.
    """

    def __init__(self, own: Node, shards: int, add: Callable[[Node, Tree, Tree], Tree]):
        self.nodes: dict[Node, Tree] = {}
        self._add = add
        self._sums = [node for top in covering(own, shards) for node in _below(top)]

    def put(self, shard: int, part: Tree) -> None:
        """The next shard's sums; those that it completes are added at once."""
        self.nodes[shard, shard + 1] = part
        for node in self._sums:  # children before parents
            left, right = halves(node)
            if left in self.nodes and right in self.nodes:
                self.nodes[node] = self._add(node, self.nodes.pop(left), self.nodes.pop(right))


def _below(node: Node) -> list[Node]:
    """Nodes of several shards at and below a node, children before parents."""
    if node[1] - node[0] == 1:
        return []
    return [*(found for half in halves(node) for found in _below(half)), node]


def reduces_exactly(policy: Policy) -> bool:
    """No rule or role rounds a sum over shards."""
    ruled = [rounding for rule in policy.rules for role, rounding in rule.roundings if role == "reduce"]
    return policy.reduce.is_exact and all(rounding.is_exact for rounding in ruled)


def node_key(seed: int, step: Int32[Array, ""], node: UInt32[Array, "2"] | Node) -> Key:
    """Random bits of one node of the tree in one step."""
    key = fold_in(make_key(seed, "reduce", ""), step.astype(jnp.uint32))
    return fold_in(fold_in(key, node[0]), node[1])


def rounded_part(
    policy: Policy, seed: int, step: Int32[Array, ""], node: UInt32[Array, "2"], part: ShardSums
) -> ShardSums:
    """A shard's sums as the tree takes them in: the gradient in float32 arrays, on the grid of `reduce`."""
    gradient = jax.tree.map(to_float32, part.gradient)
    return replace(part, gradient=_on_grid(policy, gradient, partial(node_key, seed, step, node)))


def rounded_sum(
    policy: Policy, seed: int, step: Int32[Array, ""], node: UInt32[Array, "2"], a: ShardSums, b: ShardSums
) -> ShardSums:
    """A node from its two halves, gradients rounded as `reduce` says."""
    total = jax.tree.map(jnp.add, a, b)
    return replace(total, gradient=_on_grid(policy, total.gradient, partial(node_key, seed, step, node)))


def _on_grid(policy: Policy, gradient: Tree, key: Callable[[], Key]) -> Tree:
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    rounded = [rounded_value(policy, parameter_path(path), leaf, key) for path, leaf in leaves]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(gradient), rounded)


def rounded_value(
    policy: Policy, path: str, value: Float32[Array, "*shape"], key: Callable[[], Key]
) -> Float32[Array, "*shape"]:
    """A parameter's part or sum on the grid of `reduce`; `key` is asked for only where that draws."""
    rounding = policy.rounding("reduce", path)
    return rounding(value, site_key(key(), "reduce", path) if rounding.draws else None)


def parameter_path(path: tuple) -> str:
    """Dotted name of a parameter from a tree's path, also inside an optimizer's state: its dict keys."""
    return ".".join(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))


def global_norm(tree: object) -> Float32[Array, ""]:
    """Euclidean norm over all arrays of a tree, in fixed order."""
    squares = [sum_elements(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(tree)]
    return jnp.sqrt(tree_sum(squares))
