"""Sums whose order is part of the definition.

Floating-point addition is not associative, so a sum over shards or over elements has as many results as it has orders. Here
the order is fixed: neighbours first, then neighbours of neighbours, a binary tree over index 0..n-1. The tree does not know
how many devices there are; that is why the device count cannot change a bit.

The role `reduce` rounds the shards' gradients before and after each addition of that tree; losses, counts and the
normalisations' moments stay float32.

Adds only: a multiplication next to an addition could be contracted to a fused multiply-add in one compiled program and not
in another.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import site_key, to_float32
from dsrun.arithmetic.random_bits import Key, fold_in
from dsrun.arithmetic.summation import sum_elements

Tree = TypeVar("Tree")


def tree_sum(parts: Sequence[Tree], *, add: Callable[[Array, Array, int], Array] | None = None) -> Tree:
    """Elementwise sum of equally shaped trees of arrays, ((0+1)+(2+3))+..., an odd one out waiting for the next round.

    `add(a, b, number)` replaces the plain addition, e.g. by one that rounds; the number tells additions apart.
    """
    parts, number = list(parts), 0
    while len(parts) > 1:
        pairs = []
        for a, b in zip(parts[::2], parts[1::2], strict=False):
            pairs.append(jax.tree.map(jnp.add if add is None else partial(_numbered, add, number), a, b))
            number += 1
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def _numbered(add: Callable[[Array, Array, int], Array], number: int, a: Array, b: Array) -> Array:
    return add(a, b, number)


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

    def rounded(x: Array, number: int) -> Array:
        return rounding(x, None if own is None else fold_in(own, number))

    values = [rounded(to_float32(leaf), number) for number, leaf in enumerate(leaves)]
    return tree_sum(values, add=lambda a, b, number: rounded(a + b, len(leaves) + number))


def parameter_path(path: tuple) -> str:
    """Dotted name of a parameter from a tree's path, also inside an optimizer's state: its dict keys."""
    return ".".join(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))


def global_norm(tree: object) -> Float32[Array, ""]:
    """Euclidean norm over all arrays of a tree, in fixed order."""
    squares = [sum_elements(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(tree)]
    return jnp.sqrt(tree_sum(squares))
