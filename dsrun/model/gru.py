"""Gated recurrent units, bidirectional, for utterances of unequal length.

    r = sigmoid(x_r + h U_r)              reset gate
    z = sigmoid(x_z + h U_z)              update gate
    n = tanh(x_n + r * (h U_n + b_n))     candidate; the reset gate scales the product, after the matmul
    h' = (1 - z) * n + z * h

x_r, x_z, x_n are the input projections of the frame. This is Deep Speech 2's and cuDNN's unit (and torch's, gate by gate).
Cho et al. 2014 scale h before the product: another network with the same name. Some papers swap z and 1 - z.

Where the work is. Two thirds of a training step's products do not depend on the recurrence: the input projections of all
frames come before the loop, and the gradients of the weights after it, as single large products. The loop keeps one product
a gate forward and one a gate backward. Each gate is an array of its own: slicing one [..., 3 hidden] array inside the loop costs
more than the loop.

Ragged lengths need no reversal of each utterance: the state is set to zero in padded frames, so the backward direction, which
meets the padding first, starts each utterance at its own last frame with the state it should have. Outputs there are zero.

Formats (`Policy`): operands of the products, forward and backward, on the compute grid; the state, which is handed on to
the next frame and the next layer, on the storage grid; its rounding passes gradients straight through.

Inside the stack arrays are time-major, [output_frame, batch, hidden]; only the public function is batch first.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from dsrun.arithmetic import FLOAT32_POLICY, Policy

_EXACT = jax.lax.Precision.HIGHEST  # float32 products in float32: JAX's default on recent GPUs is TensorFloat-32


class Recurrence(NamedTuple):
    """Weights of the loop of one direction: U_r, U_z, U_n [hidden, hidden] and the candidate's bias b_n [hidden]."""

    u_r: Float32[Array, "hidden hidden"]
    u_z: Float32[Array, "hidden hidden"]
    u_n: Float32[Array, "hidden hidden"]
    b_n: Float32[Array, " hidden"]


class Gates(NamedTuple):
    """One array a gate, time-major: input projections, or gradients with respect to them."""

    r: Float32[Array, "output_frame batch hidden"]
    z: Float32[Array, "output_frame batch hidden"]
    n: Float32[Array, "output_frame batch hidden"]


class GruWeights(NamedTuple):
    """One direction without normalisation: input weights [input, hidden], input biases [hidden], and the recurrence."""

    w_r: Float32[Array, "input hidden"]
    w_z: Float32[Array, "input hidden"]
    w_n: Float32[Array, "input hidden"]
    b_r: Float32[Array, " hidden"]
    b_z: Float32[Array, " hidden"]
    b_x: Float32[Array, " hidden"]
    recurrence: Recurrence


def bidirectional_gru(
    x: Float32[Array, "batch output_frame input"],
    num_frames: Int32[Array, " batch"],
    weights: tuple[GruWeights, ...],
    *,
    policy: Policy = FLOAT32_POLICY,
) -> Float32[Array, "batch output_frame hidden"]:
    """A GRU layer, the directions' outputs summed (Deep Speech 2 sums, cuDNN concatenates).

    Args:
        x: inputs, batch first; what lies behind `num_frames` is never read.
        num_frames: valid frames of each utterance.
        weights: (forward,) or (forward, backward).
        policy: number formats.

    Returns:
        Hidden states, zero in padded frames.
    """
    is_valid = valid_frames(num_frames, x.shape[1])
    inputs = jnp.where(is_valid, jnp.swapaxes(x, 0, 1), 0.0)
    outputs = []
    for direction, w in zip(("forward", "backward"), weights, strict=False):
        projections = Gates(
            *(
                policy.dot(inputs, matrix) + bias[None, None, :]
                for matrix, bias in ((w.w_r, w.b_r), (w.w_z, w.b_z), (w.w_n, w.b_x))
            )
        )
        outputs.append(gru_sequence(projections, is_valid, w.recurrence, policy=policy, direction=direction))
    return jnp.swapaxes(policy.store(sum(outputs[1:], start=outputs[0])), 0, 1)


def valid_frames(num_frames: Int32[Array, " batch"], frames: int) -> Bool[Array, "output_frame batch 1"]:
    """True where a frame belongs to its utterance, time-major."""
    frame = jnp.arange(frames, dtype=jnp.int32)[:, None]
    return (frame < num_frames.astype(jnp.int32)[None, :])[:, :, None]


def gru_sequence(
    projections: Gates,
    is_valid: Bool[Array, "output_frame batch 1"],
    weights: Recurrence,
    *,
    policy: Policy,
    direction: str,
) -> Float32[Array, "output_frame batch hidden"]:
    """States of one direction ("forward" or "backward") for given input projections; zero in padded frames."""
    return _sequence(policy, direction == "backward", projections, is_valid, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sequence(policy: Policy, is_backward: bool, projections: Gates, is_valid, weights: Recurrence):
    return _run(policy, is_backward, projections, is_valid, weights)[0]


class _Residuals(NamedTuple):
    """What the backward pass needs: states, gates and the candidate's recurrent product, all [output_frame, batch, hidden]."""

    h: Float32[Array, "output_frame batch hidden"]
    r: Float32[Array, "output_frame batch hidden"]
    z: Float32[Array, "output_frame batch hidden"]
    n: Float32[Array, "output_frame batch hidden"]
    q: Float32[Array, "output_frame batch hidden"]


def _run(policy, is_backward, projections, is_valid, weights):
    u_r, u_z, u_n = (policy.round_compute(u) for u in weights[:3])
    bias = weights.b_n[None, :]

    def step(h, inputs):
        x, valid = inputs
        operand = policy.round_compute(h)
        r = jax.nn.sigmoid(x.r + _product(operand, u_r))
        z = jax.nn.sigmoid(x.z + _product(operand, u_z))
        q = _product(operand, u_n) + bias
        n = jnp.tanh(x.n + r * q)
        h = jnp.where(valid, policy.round_storage(n + z * (h - n)), 0.0)
        return h, _Residuals(h, r, z, n, q)

    start = jnp.zeros_like(projections.r[0])
    _, residuals = jax.lax.scan(step, start, (projections, is_valid), reverse=is_backward)
    return residuals.h, residuals


def _sequence_forward(policy, is_backward, projections, is_valid, weights):
    h, residuals = _run(policy, is_backward, projections, is_valid, weights)
    return h, (residuals, is_valid, weights)


def _sequence_backward(policy, is_backward, saved, h_gradient):
    residuals, is_valid, weights = saved
    h, r, z, n, q = residuals
    before = jnp.zeros_like(h[:1])
    previous = jnp.concatenate([h[1:], before] if is_backward else [before, h[:-1]])
    # All that does not depend on the incoming gradient, in bulk: d pre-activation = dh * factor. Zero in padded frames.
    factor_z = jnp.where(is_valid, (previous - n) * z * (1.0 - z), 0.0)
    factor_n = jnp.where(is_valid, (1.0 - z) * (1.0 - n * n), 0.0)
    factor_r = q * r * (1.0 - r)
    keep = jnp.where(is_valid, z, 0.0)
    incoming = jnp.where(is_valid, h_gradient, 0.0)
    u_r, u_z, u_n = (policy.round_compute(u).T for u in weights[:3])

    def step(dh, inputs):
        g, f_z, f_n, f_r, reset, kept = inputs
        dh = dh + g
        dz, dn = dh * f_z, dh * f_n
        dr, dq = dn * f_r, dn * reset
        products = [_product(policy.round_compute(d), u) for d, u in ((dr, u_r), (dz, u_z), (dq, u_n))]
        return dh * kept + (products[0] + products[1] + products[2]), (Gates(dr, dz, dn), dq)

    inputs = (incoming, factor_z, factor_n, factor_r, r, keep)
    _, (gates, dq) = jax.lax.scan(step, jnp.zeros_like(h[0]), inputs, reverse=not is_backward)
    operand = policy.round_compute(previous)
    du_r, du_z, du_n = (_outer(operand, policy.round_compute(d)) for d in (gates.r, gates.z, dq))
    return gates, None, Recurrence(du_r, du_z, du_n, jnp.sum(dq, axis=(0, 1)))


_sequence.defvjp(_sequence_forward, _sequence_backward)


def _product(a: Float32[Array, "batch inner"], b: Float32[Array, "inner outer"]) -> Float32[Array, "batch outer"]:
    return jnp.matmul(a, b, precision=_EXACT)


def _outer(
    a: Float32[Array, "output_frame batch hidden"], b: Float32[Array, "output_frame batch hidden"]
) -> Float32[Array, "hidden hidden"]:
    """Sum over all frames of a^T b, as one product."""
    rows = a.shape[0] * a.shape[1]
    return jnp.matmul(a.reshape(rows, -1).T, b.reshape(rows, -1), precision=_EXACT)
