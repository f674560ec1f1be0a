"""Sums whose order is part of the definition.

Floating-point addition is not associative, so a sum over shards or over elements has as many results as it has orders. Here
the order is fixed: neighbours first, then neighbours of neighbours, a binary tree over index 0..n-1. The tree does not know
how many devices there are; that is why the device count cannot change a bit.

Adds only: a multiplication next to an addition could be contracted to a fused multiply-add in one compiled program and not
in another.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

Tree = TypeVar("Tree")


def tree_sum(parts: Sequence[Tree]) -> Tree:
    """Elementwise sum of equally shaped trees of arrays, ((0+1)+(2+3))+..., an odd one out waiting for the next round."""
    parts = list(parts)
    while len(parts) > 1:
        pairs = [jax.tree.map(jnp.add, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def sum_elements(x: Float32[Array, "..."]) -> Float32[Array, ""]:
    """Sum of all elements of `x`: the flat array, padded with zeros to a power of two, folded in halves.

    `jnp.sum` leaves the order to the compiler, which chooses by thread count and by what it fuses.
    """
    flat = x.reshape(-1)
    size = 1 << max(flat.size - 1, 0).bit_length()
    flat = jnp.pad(flat, (0, size - flat.size))
    while flat.size > 1:
        flat = flat[: flat.size // 2] + flat[flat.size // 2 :]
    return flat[0]


def global_norm(tree: object) -> Float32[Array, ""]:
    """Euclidean norm over all arrays of a tree, in fixed order."""
    squares = [sum_elements(jnp.square(leaf)) for leaf in jax.tree_util.tree_leaves(tree)]
    return jnp.sqrt(tree_sum(squares))
