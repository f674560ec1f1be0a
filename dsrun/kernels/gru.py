"""One frame of a GRU layer as one GPU kernel: the three products, the gates and the new state, both directions at once.

The problem. A scanned GRU launches a product, a pointwise fusion and a few copies for each frame, and at a few
microseconds a launch that is most of its time. Here a frame is one launch, inside the same `lax.scan`: a thread block
computes, for 64 utterances and a tile of hidden columns, all three products of the tile on the tensor cores, and as it
then holds everything that the tile's gates need, it goes on to the new state. Formulas and names are those of
`dsrun.model.gru`:

    r = sigmoid(x_r + h U_r)    z = sigmoid(x_z + h U_z)    q = h U_n + b_n
    n = tanh(x_n + r q)         h' = n + z (h - n)

Formats. Operands of the products are float16 or bfloat16, partial sums float32 (the tensor core's own order inside one
instruction, then ascending k), everything after them float32. The new state is rounded to the storage format, then to
the compute format for the next frame's product; both ties to even. Not here: other formats, rounding modes and random
bits, float32 products (there is no float32 tensor core; TF32 could be added), the backward pass.

Shapes. Utterances are the product's rows, padded to 64; hidden columns are its columns, in tiles of 16, 32 or 64, so
that 800 hidden units in two directions keep 50 to 100 of an H100's 132 multiprocessors busy, where tiles of 64 gate
rows would keep 26. The weights are read as they lie, [from, to]. Hidden units are padded to 64: a padded unit has
x = 0, U = 0, b = 0, so its state stays 0.

Padded frames need no mask in the kernel: their inputs are replaced by x_r = x_z = -infinity, x_n = 0, before the loop.
Then r = z = n = 0 and h' = 0 + 0 (h - 0) = 0, exactly, for any finite h.

The scan hands the kernel all frames' inputs and a frame's number, so that nothing is sliced; the kernel gives back one
array with the state and the gates, so that one copy a frame keeps them.

On an H100 it is right and slow: 1.8 to 4.8 times the scan's time (docs/MEASUREMENTS.md, GPU), so nothing in dsrun calls it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Bool, Float, Float32

from dsrun.kernels.target import COMPILER, Target, interpretation, read_global

Direction = Literal["forward", "backward"]

# One wgmma instruction has 64 rows; the products advance by 64 of k; 4 such steps are on their way at a time.
ROWS = 64
DEPTH = 64
STEPS_AHEAD = 4


class Gates(NamedTuple):
    """Input projections of all frames, biases included, in any float type; padded frames may hold anything."""

    r: Float[Array, "output_frame direction batch hidden"]
    z: Float[Array, "output_frame direction batch hidden"]
    n: Float[Array, "output_frame direction batch hidden"]


class Recurrence(NamedTuple):
    """U_r, U_z, U_n, from hidden to hidden, and the candidate's bias, for each direction."""

    u_r: Float[Array, "direction hidden hidden"]
    u_z: Float[Array, "direction hidden hidden"]
    u_n: Float[Array, "direction hidden hidden"]
    b_n: Float32[Array, "direction hidden"]


class States(NamedTuple):
    """States and what the backward pass reads; in padded frames h, r, z and n are 0."""

    h: Float32[Array, "output_frame direction batch hidden"]
    r: Float32[Array, "output_frame direction batch hidden"]
    z: Float32[Array, "output_frame direction batch hidden"]
    n: Float32[Array, "output_frame direction batch hidden"]
    q: Float32[Array, "output_frame direction batch hidden"]


def gru_states(
    x: Gates,
    is_valid: Bool[Array, "output_frame batch"],
    weights: Recurrence,
    *,
    directions: tuple[Direction, ...],
    compute: Any,
    storage: Any = jnp.float32,
    target: Target,
    tile: Literal[16, 32, 64] = 32,
) -> States:
    """The forward loop of `dsrun.model.gru`, a kernel a frame.

    Args:
        x: input projections, time first, frames in their natural order for every direction.
        is_valid: True where a frame belongs to its utterance.
        weights: rounded to `compute` here, once.
        directions: what each entry of the direction axis is.
        compute: jnp.float16 or jnp.bfloat16.
        storage: the states' format: float32, or one of the same two. They are carried in float32.
        target: "cuda" (Hopper), or "interpreter", which is for tests and slow.
        tile: hidden columns of a block: how the work is spread, not what is computed.

    Returns:
        Arrays of x's shape, frames in their natural order.

    Raises:
        ValueError: `compute` is not a 16-bit float type, or `directions` does not name x's directions, forward first.
    """
    _check(x, directions, compute)
    frames, _, batch, hidden = x.r.shape
    gates, padded = _pad_gates(x, is_valid), _pad_weights(weights, compute)
    kernel = _step(gates, directions, compute, storage, target, tile)

    def step(carry: tuple[jax.Array, jax.Array], count: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        kept, operand = kernel(count[None], gates, *carry, padded)
        return (kept, operand), kept

    shape = gates.r.shape[1:]
    start = (jnp.zeros((len(States._fields), *shape), jnp.float32), jnp.zeros(shape, compute))
    _, kept = jax.lax.scan(step, start, jnp.arange(frames, dtype=jnp.int32))
    return States(*(_natural_order(kept[:, i], directions)[:, :, :batch, :hidden] for i in range(kept.shape[1])))


def _check(x: Gates, directions: tuple[Direction, ...], compute: Any) -> None:
    if jnp.dtype(compute) not in (jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16)):
        raise ValueError(
            f"compute is {jnp.dtype(compute)}: the kernel's products take float16 or bfloat16. Use the scan of"
            " dsrun.model.gru for other formats."
        )
    if len(directions) != x.r.shape[1]:
        raise ValueError(f"x has {x.r.shape[1]} directions, but {len(directions)} are named: {directions}.")
    if directions not in (("forward",), ("backward",), ("forward", "backward")):
        raise ValueError(f"directions is {directions}: give one, or ('forward', 'backward') in this order.")


def _pad_gates(x: Gates, is_valid: Bool[Array, "output_frame batch"]) -> Gates:
    """Padded frames stop the state; utterances and hidden units padded with zeros."""
    _, _, batch, hidden = x.r.shape
    extra = ((0, 0), (0, 0), (0, -batch % ROWS), (0, -hidden % DEPTH))
    valid = is_valid[:, None, :, None]
    stopped = Gates(*(jnp.asarray(value, x.r.dtype) for value in (-jnp.inf, -jnp.inf, 0.0)))
    return Gates(*(jnp.pad(jnp.where(valid, gate, stop), extra) for gate, stop in zip(x, stopped, strict=True)))


def _pad_weights(weights: Recurrence, compute: Any) -> Recurrence:
    extra = -weights.b_n.shape[1] % DEPTH
    square = ((0, 0), (0, extra), (0, extra))
    u_r, u_z, u_n = (jnp.pad(u.astype(compute), square) for u in weights[:3])
    return Recurrence(u_r, u_z, u_n, jnp.pad(weights.b_n, ((0, 0), (0, extra))))


def _natural_order(kept: jax.Array, directions: tuple[Direction, ...]) -> jax.Array:
    """The backward direction's frames come out last first."""
    if "backward" not in directions:
        return kept
    by_direction = [kept[::-1, i] if name == "backward" else kept[:, i] for i, name in enumerate(directions)]
    return jnp.stack(by_direction, axis=1)


def _step(
    gates: Gates, directions: tuple[Direction, ...], compute: Any, storage: Any, target: Target, tile: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A function of (number of the frame, gates, kept, operand, weights) that returns the next kept and operand."""
    _, num_directions, batch, hidden = gates.r.shape
    kept = jax.ShapeDtypeStruct((len(States._fields), num_directions, batch, hidden), jnp.float32)
    accumulator: Any = plgpu.ACC((ROWS, tile), jnp.float32)
    return plgpu.kernel(
        partial(_block, directions, storage, tile, read_global(target)),
        out_type=(kept, jax.ShapeDtypeStruct(kept.shape[1:], compute)),
        scratch_types=(accumulator,) * 3,
        grid=(num_directions, batch // ROWS, hidden // tile),
        grid_names=("direction", "rows", "columns"),
        compiler_params=COMPILER,
        interpret=interpretation(target),
    )


def _block(
    directions: tuple[Direction, ...],
    storage: Any,
    tile: int,
    read: Callable[[Any, Any], jax.Array],
    count: Any,
    gates: Gates,
    kept: Any,
    operand: Any,
    weights: Recurrence,
    new_kept: Any,
    new_operand: Any,
    *sums: Any,
) -> None:
    """One tile: [64 utterances, `tile` hidden columns]. All but the first four arguments are refs."""
    direction, i, j = (jax.lax.axis_index(name) for name in ("direction", "rows", "columns"))
    place = (direction, pl.ds(i * ROWS, ROWS), pl.ds(j * tile, tile))
    frame = _frame(count[0], direction, directions, gates.r.shape[0])
    # Asked for before the products, used after them.
    x_r, x_z, x_n = (read(gate, (frame, *place)).astype(jnp.float32) for gate in gates)
    h = read(kept, (0, *place))
    bias = read(weights.b_n, (direction, pl.ds(j * tile, tile)))
    _multiply(operand.at[direction], [u.at[direction] for u in weights[:3]], sums, i, j)
    for_r, for_z, for_n = (accumulator[...] for accumulator in sums)
    r, z = _sigmoid(x_r + for_r), _sigmoid(x_z + for_z)
    q = for_n + jax.lax.broadcast_in_dim(bias, for_n.shape, (1,))
    n = jnp.tanh(x_n + r * q)
    state = (n + z * (h - n)).astype(storage)
    for k, value in enumerate(States(state.astype(jnp.float32), r, z, n, q)):
        new_kept[(k, *place)] = value
    new_operand[place] = state.astype(new_operand.dtype)


def _frame(count: jax.Array, direction: jax.Array, directions: tuple[Direction, ...], frames: int) -> jax.Array:
    """The frame that a direction is at after `count` frames."""
    if len(directions) == 1:
        return count if directions[0] == "forward" else frames - 1 - count
    return count + direction * (frames - 1 - 2 * count)


def _multiply(operand: Any, matrices: list[Any], sums: Any, i: jax.Array, j: jax.Array) -> None:
    """sums = operand[rows i] @ matrix[:, columns j], for the three gates; each step of k is loaded while others work."""
    tile, hidden = sums[0].shape[1], operand.shape[1]
    # Mosaic infers one tiling for both operands of a product: it is the narrower one's, a row of `tile` elements.
    layout = (plgpu.TilingTransform((8, tile)), plgpu.SwizzleTransform(2 * tile))
    rows = plgpu.BlockSpec((ROWS, DEPTH), lambda k: (i, k), transforms=layout, delay_release=1)
    columns = plgpu.BlockSpec((DEPTH, tile), lambda k: (k, j), transforms=layout, delay_release=1)

    def step(_: Any, a: Any, *of_gates: Any) -> None:
        for accumulator, b in zip(sums, of_gates, strict=True):
            plgpu.wgmma(accumulator, a, b)
        # This step's three may still run when the step before gives back its memory.
        plgpu.wgmma_wait(len(of_gates))

    plgpu.emit_pipeline(
        step, grid=(hidden // DEPTH,), in_specs=[rows, columns, columns, columns], max_concurrent_steps=STEPS_AHEAD
    )(operand, *matrices)
    plgpu.wgmma_wait(0)


def _sigmoid(x: jax.Array) -> jax.Array:
    return 1.0 / (1.0 + jnp.exp(-x))
