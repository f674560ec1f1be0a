"""Sums whose order is part of the definition, and sums whose accumulator is narrow.

Floating-point addition is not associative, so a sum has as many results as it has orders. `sum_elements` fixes the order;
`jnp.sum` leaves it to the compiler, which chooses by thread count and by what it fuses.

`product` is the matrix product of every layer. Its partial sums are float32, or, to study a narrow accumulator, kept in a
smaller format by chunks: the inner axis is cut into chunks of a stated length, each chunk is summed in float32, its sum is
rounded, and the running sum is rounded after each addition (Wang et al. 2018, chunk-based accumulation). Chunk 1 rounds
after every product, as a narrow multiply-add unit would; the time grows with the number of chunks.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

_PARTS = 16
Rounder = Callable[[Array, Array], Array]  # (values, number of the rounding within this sum) -> values on the grid


def sum_elements(x: Float32[Array, "..."]) -> Float32[Array, ""]:
    """Sum of all elements of `x`: the flat array, padded with zeros to a power of two, folded in halves.

    One halving a pass, not the sixteen parts of `sum_rows`: of a sum of squares a compiler contracts other products with the
    additions there, and the gradient's norm moved in its last bit.
    """
    flat = x.reshape(-1)
    size = 1 << max(flat.size - 1, 0).bit_length()
    flat = jnp.pad(flat, (0, size - flat.size))
    while flat.size > 1:
        flat = flat[: flat.size // 2] + flat[flat.size // 2 :]
    return flat[0]


def sum_rows(x: Float32[Array, "row *rest"]) -> Float32[Array, "*rest"]:
    """Sum over the first axis in the same order: padded with zeros to a power of two, folded in halves.

    Four halvings at a time are one expression over sixteen parts: the same tree, in a quarter of the passes. Parts of padding
    alone are left out and at most one is padded, so that `x` is read once and never copied.
    """
    count, *rest = x.shape
    if not count:
        return jnp.zeros(rest, jnp.float32)
    size = 1 << (count - 1).bit_length()
    while size > 1:
        number = min(_PARTS, size)
        size //= number
        parts = [x[start : start + size] for start in range(0, len(x), size)]
        parts[-1] = jnp.pad(parts[-1], [(0, size - len(parts[-1]))] + [(0, 0)] * len(rest))
        while number > 1:
            number //= 2
            first, second = parts[:number], parts[number:]
            parts = [a + b for a, b in zip(first, second, strict=False)] + first[len(second) :]
        x = parts[0]
    return x[0]


def product(
    a: Float[Array, "... inner"],
    b: Float[Array, "inner outer"],
    *,
    chunk: int | None = None,
    round: Rounder | None = None,
) -> Float32[Array, "... outer"]:
    """`a @ b` with float32 partial sums, or with the running sum rounded after each chunk of the inner axis.

    Both of one dtype, float32 or, without rounding, float16 or bfloat16, whose products are exact in float32.

    Asked for by name: JAX's default for a float32 product on recent GPUs is TensorFloat-32.
    """
    if round is None or chunk is None:
        wide = {} if a.dtype == jnp.float32 else {"preferred_element_type": jnp.float32}
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST, **wide)
    inner = b.shape[0]
    chunks = -(-inner // chunk)
    padding = chunks * chunk - inner
    a = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, padding)]).reshape(*a.shape[:-1], chunks, chunk)
    b = jnp.pad(b, [(0, padding), (0, 0)]).reshape(chunks, chunk, b.shape[1])

    def step(total: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        part_a, part_b, number = inputs
        part = round(jnp.matmul(part_a, part_b, precision=jax.lax.Precision.HIGHEST), jnp.uint32(2) * number)
        return round(total + part, jnp.uint32(2) * number + jnp.uint32(1)), None

    start = jnp.zeros((*a.shape[:-2], b.shape[2]), jnp.float32)
    numbers = jnp.arange(chunks, dtype=jnp.uint32)
    total, _ = jax.lax.scan(step, start, (jnp.moveaxis(a, -2, 0), b, numbers))
    return total
