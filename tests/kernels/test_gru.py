"""The fused GRU frame, interpreted on the CPU, against NumPy in float64; and lowered for a GPU that is not there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.kernels.gru import Gates, Recurrence, gru_states
from dsrun.model.gru import GruWeights, bidirectional_gru
from dsrun.model.gru import Recurrence as ScanRecurrence
from tests.reference.gru import random_weights

BOTH = ("forward", "backward")


def problem(seed, frames, num_frames, hidden, *, directions=2, dtype=np.float32):
    """Inputs with garbage in padded frames, and weights of the size that trained networks have."""
    rng = np.random.default_rng(seed)
    batch = len(num_frames)
    is_valid = np.arange(frames)[:, None] < np.array(num_frames)[None, :]
    x = rng.standard_normal((3, frames, directions, batch, hidden)).astype(dtype)
    x[:, ~is_valid[:, None].repeat(directions, 1)] = np.nan
    u = rng.standard_normal((3, directions, hidden, hidden)) / np.sqrt(hidden)
    bias = rng.standard_normal((directions, hidden))
    weights = Recurrence(*(jnp.asarray(m, jnp.float32) for m in u), jnp.asarray(bias, jnp.float32))
    return Gates(*(jnp.asarray(gate) for gate in x)), jnp.asarray(is_valid), weights


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def expected(x, is_valid, weights, h, direction, *, compute, storage):
    """Every frame from the kernel's own state before it, so that one rounding of a state cannot spread."""
    x_r, x_z, x_n = (np.asarray(gate, np.float64)[:, direction] for gate in x)
    u_r, u_z, u_n = (np.asarray(u.astype(compute), np.float64)[direction] for u in weights[:3])
    before = np.asarray(h)[:, direction]
    start = np.zeros_like(before[:1])
    before = np.concatenate([before[1:], start] if direction == 1 else [start, before[:-1]])
    operand = np.asarray(jnp.asarray(before).astype(compute), np.float64)
    r, z = sigmoid(x_r + operand @ u_r), sigmoid(x_z + operand @ u_z)
    q = operand @ u_n + np.asarray(weights.b_n, np.float64)[direction]
    n = np.tanh(x_n + r * q)
    after = n + z * (before.astype(np.float64) - n)
    valid = np.asarray(is_valid)[:, :, None]
    return [np.where(valid, value, 0.0) for value in (after, r, z, n)], q


@pytest.mark.parametrize(
    ("compute", "storage", "hidden", "tile"),
    [(jnp.float16, jnp.float16, 64, 16), (jnp.bfloat16, jnp.float32, 70, 32), (jnp.float16, jnp.float32, 5, 64)],
)
def test_states_and_gates_of_every_frame_are_numpys(compute, storage, hidden, tile):
    x, is_valid, weights = problem(hidden, 3, [3, 1, 0, 2], hidden)
    found = gru_states(
        x, is_valid, weights, directions=BOTH, compute=compute, storage=storage, target="interpreter", tile=tile
    )
    # One rounding of a state, which is below 1 in size; float32 elsewhere, sums of 64 products of order 1 / 8.
    spacing = float(jnp.finfo(storage).eps)
    for direction in range(2):
        values, q = expected(x, is_valid, weights, found.h, direction, compute=compute, storage=storage)
        for name, value in zip(("h", "r", "z", "n"), values, strict=True):
            tolerance = 2e-6 + (spacing / 2 if name == "h" else 0.0)
            np.testing.assert_allclose(np.asarray(getattr(found, name))[:, direction], value, atol=tolerance)
        np.testing.assert_allclose(np.asarray(found.q)[:, direction], q, atol=2e-6)
    assert np.array_equal(np.asarray(found.h), np.asarray(found.h.astype(storage).astype(jnp.float32)))
    assert np.all(np.asarray(found.h)[~np.asarray(is_valid)[:, None].repeat(2, 1)] == 0.0)


def test_a_layer_is_the_scans_but_for_the_rounding_of_its_operands():
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((2, 3, 6)).astype(np.float32)
    layer = [random_weights(rng, 6, 64) for _ in BOTH]
    as_float32 = [{name: jnp.asarray(w, jnp.float32) for name, w in direction.items()} for direction in layer]
    num_frames = jnp.asarray([3, 2], jnp.int32)
    recurrences = [ScanRecurrence(*(w[name] for name in ("u_r", "u_z", "u_n", "b_n"))) for w in as_float32]
    scan = bidirectional_gru(
        jnp.asarray(inputs),
        num_frames,
        tuple(
            GruWeights(*(w[name] for name in ("w_r", "w_z", "w_n", "b_r", "b_z", "b_x")), own)
            for w, own in zip(as_float32, recurrences, strict=True)
        ),
    )
    projections = (
        np.stack([np.swapaxes(inputs @ w[matrix] + w[bias], 0, 1) for w in layer], axis=1)
        for matrix, bias in (("w_r", "b_r"), ("w_z", "b_z"), ("w_n", "b_x"))
    )
    found = gru_states(
        Gates(*(jnp.asarray(gate, jnp.float32) for gate in projections)),
        jnp.arange(3, dtype=jnp.int32)[:, None] < num_frames[None, :],
        Recurrence(*(jnp.stack(parts) for parts in zip(*recurrences, strict=True))),
        directions=BOTH,
        compute=jnp.float16,
        target="interpreter",
    )
    # States and weights rounded to 11 bits, in products of 64 terms of order 1 / 8, over three frames.
    summed = np.swapaxes(np.asarray(found.h).sum(axis=1), 0, 1)
    np.testing.assert_allclose(summed, np.asarray(scan), atol=2e-3)


def test_padded_utterances_and_the_tile_change_nothing_but_the_order_of_the_interpreters_sums():
    x, is_valid, weights = problem(2, 2, [2] * 65, 64, directions=1)
    run = partial(gru_states, directions=("forward",), compute=jnp.float16, target="interpreter")
    all_rows = run(x, is_valid, weights, tile=64)
    one_row = run(Gates(*(gate[:, :, 64:] for gate in x)), is_valid[:, 64:], weights, tile=16)
    for a, b in zip(all_rows, one_row, strict=True):
        np.testing.assert_allclose(np.asarray(a)[:, :, 64:], np.asarray(b), atol=1e-6)


def test_other_formats_and_other_directions_than_xs_are_refused():
    x, is_valid, weights = problem(3, 1, [1], 8)
    with pytest.raises(ValueError, match="compute is float32: the kernel's products take float16 or bfloat16"):
        gru_states(x, is_valid, weights, directions=BOTH, compute=jnp.float32, target="interpreter")
    with pytest.raises(ValueError, match="x has 2 directions, but 1 are named"):
        gru_states(x, is_valid, weights, directions=("forward",), compute=jnp.float16, target="interpreter")
    with pytest.raises(ValueError, match="in this order"):
        gru_states(x, is_valid, weights, directions=BOTH[::-1], compute=jnp.float16, target="interpreter")


@pytest.mark.parametrize(
    ("hidden", "batch", "compute", "tile"),
    [(800, 64, jnp.float16, 32), (1760, 128, jnp.bfloat16, 16), (64, 16, jnp.float16, 64)],
)
def test_lowers_for_a_gpu(hidden, batch, compute, tile):
    gate = jax.ShapeDtypeStruct((800, 2, batch, hidden), compute)
    matrix = jax.ShapeDtypeStruct((2, hidden, hidden), jnp.float32)
    arguments = (
        Gates(gate, gate, gate),
        jax.ShapeDtypeStruct((800, batch), jnp.bool_),
        Recurrence(matrix, matrix, matrix, jax.ShapeDtypeStruct((2, hidden), jnp.float32)),
    )
    layer = partial(gru_states, directions=BOTH, compute=compute, storage=compute, target="cuda", tile=tile)
    text = jax.jit(layer).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 1
