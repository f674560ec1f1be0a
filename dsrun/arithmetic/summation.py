"""Sums whose order is part of the definition, and sums whose accumulator is narrow.

Floating-point addition is not associative, so a sum has as many results as it has orders. `sum_elements` and
`sum_magnitudes` fix the order; `jnp.sum` leaves it to the compiler, which chooses by thread count and by what it fuses.

`product` is the matrix product of every layer. Its partial sums are float32, or, to study a narrow accumulator, kept in a
smaller format by chunks: the inner axis is cut into chunks of a stated length, each chunk is summed in float32, its sum is
rounded, and the running sum is rounded after each addition. After Wang et al. 2018 (chunk-based accumulation), whose sums within a
chunk are narrow as well. Chunk 1 rounds each product and each sum, as a narrow multiplier and a narrow adder behind it would; the time
grows with the number of chunks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

_LANES = 1 << 16
Rounder = Callable[[Array, Array], Array]  # (values, number of the rounding within this sum) -> values on the grid


def sum_elements(x: Float32[Array, "..."]) -> Float32[Array, ""]:
    """Sum of all elements of `x`: the flat array, padded with zeros to a power of two, folded in halves.

    One halving a pass: with several in one expression a compiler contracts other products of a sum of squares with the additions,
    and the gradient's norm moved in its last bit.
    """
    flat = x.reshape(-1)
    return _folded_in_halves(_with_zeros(flat, _power_of_two(flat.size)))


def sum_magnitudes(x: Float32[Array, "row *rest"]) -> Float32[Array, "*rest"]:
    """Sum of the magnitudes over the first axis, in the same order up to 65,536 rows.

    Of more, row i is first added to row i modulo 65,536, in ascending order: a loop that reads the rows once and whose sums, of one
    column, stay in the cache. The order depends on the number of rows alone, so a column has the same sum whatever stands beside it.
    """
    count = len(x)
    size = min(_power_of_two(count), _LANES)
    lanes = _with_zeros(jnp.abs(x[:size]), size)
    full = count // _LANES
    if full > 1:

        def add(number: Array, lanes: Array) -> Array:
            return lanes + jnp.abs(jax.lax.dynamic_slice_in_dim(x, number * _LANES, _LANES))

        lanes = jax.lax.fori_loop(1, full, add, lanes)
    if full and count > full * _LANES:
        lanes = lanes + _with_zeros(jnp.abs(x[full * _LANES :]), _LANES)
    return _folded_in_halves(lanes)


def _folded_in_halves(x: Float32[Array, "row *rest"]) -> Float32[Array, "*rest"]:
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


def _power_of_two(count: int) -> int:
    """The smallest that is not below `count`."""
    return 1 << max(count - 1, 0).bit_length()


def _with_zeros(x: Float32[Array, "row *rest"], count: int) -> Float32[Array, "count *rest"]:
    """Rows of zeros behind `x`, `count` rows in all."""
    return jnp.pad(x, [(0, count - len(x))] + [(0, 0)] * (x.ndim - 1))


def product(
    a: Float[Array, "... inner"],
    b: Float[Array, "inner outer"],
    *,
    chunk: int | None = None,
    round: Rounder | None = None,
    precision: Any = jax.lax.Precision.HIGHEST,
) -> Float32[Array, "... outer"]:
    """`a @ b` with float32 partial sums, or with the running sum rounded after each chunk of the inner axis.

    Both of one dtype, float32 or, without rounding, float16 or bfloat16, whose products are exact in float32.

    `precision` is asked for by name: JAX's default for a float32 product on recent GPUs is TensorFloat-32.
    """
    if (round is None) != (chunk is None):
        raise ValueError("a narrow accumulator needs both: round, and the chunk after which it rounds.")
    if round is None or chunk is None:
        wide = {} if a.dtype == jnp.float32 else {"preferred_element_type": jnp.float32}
        return jnp.matmul(a, b, precision=precision, **wide)
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


def elementwise_product(
    a: Float32[Array, "term *left"], b: Float32[Array, "term *right"], *, chunk: int | None, round: Rounder
) -> Float32[Array, "*shape"]:
    """`sum(a * b)` over the first axis with the running sum rounded after each chunk of it, as `product` does; the rest broadcasts."""
    if chunk is None:
        raise ValueError("a narrow accumulator needs the chunk after which it rounds.")
    chunks = -(-len(a) // chunk)
    a, b = (_with_zeros(x, chunks * chunk).reshape(chunks, chunk, *x.shape[1:]) for x in (a, b))

    def step(total: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        part_a, part_b, number = inputs
        part = round(jnp.sum(part_a * part_b, axis=0), jnp.uint32(2) * number)
        return round(total + part, jnp.uint32(2) * number + jnp.uint32(1)), None

    start = jnp.zeros(jnp.broadcast_shapes(a.shape[2:], b.shape[2:]), jnp.float32)
    total, _ = jax.lax.scan(step, start, (a, b, jnp.arange(chunks, dtype=jnp.uint32)))
    return total
