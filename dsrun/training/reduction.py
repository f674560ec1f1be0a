"""Sums whose order is part of the definition.

Floating-point addition is not associative, so a sum over shards or over elements has as many results as it has orders. Here
the order is fixed: neighbours first, then neighbours of neighbours, a binary tree over index 0..n-1. The tree does not know
how many devices there are; that is why the device count cannot change a bit.

The role `reduce` rounds the shards' gradients before and after each addition of that tree; losses, counts and the
normalisations' moments stay float32.

Adds only: a multiplication next to an addition could be contracted to a fused multiply-add in one compiled program and not
in another.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import site_key, to_float32
from dsrun.arithmetic.random_bits import Key, fold_in
from dsrun.arithmetic.summation import sum_elements

Tree = TypeVar("Tree")


def tree_sum(parts: Sequence[Tree]) -> Tree:
    """Elementwise sum of equally shaped trees of arrays, ((0+1)+(2+3))+..., an odd one out waiting for the next round."""
    parts = list(parts)
    while len(parts) > 1:
        pairs = [jax.tree.map(jnp.add, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def rounded_sum(policy: Policy, parts: Sequence[Tree], key: Key) -> Tree:
    """`tree_sum` of gradients by parameter path, with parts and sums on the grid of the role `reduce`, in float32 arrays.

    Args:
        parts: one tree a shard, values of any carrier.
        key: of this step; each parameter, part and addition draws its own bits.
    """
    columns = [jax.tree_util.tree_leaves_with_path(part) for part in parts]
    sums = [
        _rounded_leaf(policy, [leaf for _, leaf in row], parameter_path(row[0][0]), key)
        for row in zip(*columns, strict=True)
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(parts[0]), sums)


def _rounded_leaf(policy: Policy, leaves: list[Array], path: str, key: Key) -> Array:
    rounding = policy.rounding("reduce", path)
    if rounding.is_exact:
        return tree_sum([to_float32(leaf) for leaf in leaves])
    own = site_key(key, "reduce", path) if rounding.draws else None
    # All parts of a round in one array, so that a round is one rounding to compile: with 8 shards 4 a parameter instead of 15.
    parts = jnp.stack([to_float32(leaf) for leaf in leaves])
    level = 0
    while True:
        parts = rounding(parts, None if own is None else fold_in(own, level))
        if len(parts) == 1:
            return parts[0]
        pairs = len(parts) // 2
        sums = parts[: 2 * pairs : 2] + parts[1 : 2 * pairs : 2]
        parts = jnp.concatenate([sums, parts[2 * pairs :]])  # an odd one out waits; it is on the grid and stays
        level += 1


def parameter_path(path: tuple) -> str:
    """Dotted name of a parameter from a tree's path, also inside an optimizer's state: its dict keys."""
    return ".".join(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))


def global_norm(tree: object) -> Float32[Array, ""]:
    """Euclidean norm over all arrays of a tree, in fixed order."""
    squares = [sum_elements(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(tree)]
    return jnp.sqrt(tree_sum(squares))
