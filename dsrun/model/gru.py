"""Gated recurrent units, bidirectional, for utterances of unequal length.

    r = sigmoid(x_r + h U_r)              reset gate
    z = sigmoid(x_z + h U_z)              update gate
    n = tanh(x_n + r * (h U_n + b_n))     candidate; the reset gate scales the product, after the matmul
    h' = (1 - z) * n + z * h

x_r, x_z, x_n are the input projections of the frame. This is Deep Speech 2's and cuDNN's unit (and torch's, gate by
gate). Cho et al. 2014 scale h before the product: another network with the same name. Some papers swap z and 1 - z.

Where the work is. Two thirds of a training step's products do not depend on the recurrence: the input projections of
all frames come before the loop, the gradients of the weights after it, each as one large product. The loop keeps one
product a gate forward and one a gate backward. With dh the gradient of a frame's state,

    dz = dh * (h - n) z (1 - z)           dn = dh * (1 - z) (1 - n^2)
    dr = dn * q r (1 - r)                 dq = dn * r              q = h U_n + b_n
    dh of the frame before = dh * z + dr U_r^T + dz U_z^T + dq U_n^T

every gradient is dh times a factor that does not depend on dh: the factors are computed in bulk before the backward
loop, the loop carries and emits dh alone, and the gates' gradients are formed in bulk after it.

Each gate is an array of its own: slicing one [..., 3 hidden] array inside the loop costs more than the loop (on CPU).

Ragged lengths need no reversal of each utterance: the state is set to zero in padded frames, so the backward
direction, which meets the padding first, starts each utterance at its own last frame with the state it should have.
Outputs there are zero, gradients there are zero, whatever stands in the padding.

Formats (`Policy`): operands of the products, forward and backward, on the compute grid; the state, which is handed on
to the next frame and the next layer, on the storage grid; its rounding passes gradients straight through. Sums are
float32.

Inside the stack arrays are time-major, [output_frame, batch, hidden]; only the public function is batch first.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from dsrun.arithmetic import FLOAT32_POLICY, Policy

Direction = Literal["forward", "backward"]

_EXACT = jax.lax.Precision.HIGHEST  # float32 products in float32: JAX's default on recent GPUs is TensorFloat-32


class Recurrence(NamedTuple):
    """Weights of the loop of one direction: U_r, U_z, U_n [hidden, hidden] and the candidate's bias b_n [hidden]."""

    u_r: Float32[Array, "hidden hidden"]
    u_z: Float32[Array, "hidden hidden"]
    u_n: Float32[Array, "hidden hidden"]
    b_n: Float32[Array, " hidden"]


class Gates(NamedTuple):
    """One array a gate, time-major: input projections, gradients with respect to them, or factors of those."""

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
    """A GRU layer, the directions' states summed (Deep Speech 2 sums, cuDNN concatenates).

    Args:
        x: inputs, batch first; what lies behind `num_frames` has no effect, NaN included.
        num_frames: valid frames of each utterance, 0 to output_frame.
        weights: (forward,) or (forward, backward), as the master has them; `policy` rounds them where they are read.
        policy: number formats.

    Returns:
        States on the storage grid, zero in padded frames.

    Raises:
        ValueError: neither one nor two directions in `weights`.

    Arithmetic: each row is computed by the same operations whatever stands in the other rows; its bits may still differ
    between batch sizes and padded lengths, because the backend chooses the order of a product's sum by its shape.
    """
    if len(weights) not in (1, 2):
        raise ValueError(f"weights has {len(weights)} directions; give (forward,) or (forward, backward).")
    is_valid = valid_frames(num_frames, x.shape[1])
    inputs = policy.store(jnp.where(is_valid, jnp.swapaxes(x, 0, 1), 0.0))
    directions: tuple[Direction, ...] = ("forward", "backward")
    states = [
        gru_sequence(_projections(inputs, w, policy), is_valid, _stored(w, policy), policy=policy, direction=direction)
        for direction, w in zip(directions, weights, strict=False)
    ]
    return jnp.swapaxes(sum_directions(states, policy), 0, 1)


def sum_directions(
    states: list[Float32[Array, "output_frame batch hidden"]], policy: Policy
) -> Float32[Array, "output_frame batch hidden"]:
    """What a layer hands on: its only direction's states, or the sum of both on the storage grid."""
    return states[0] if len(states) == 1 else policy.store(states[0] + states[1])


def valid_frames(num_frames: Int32[Array, " batch"], frames: int) -> Bool[Array, "output_frame batch 1"]:
    """True where a frame belongs to its utterance, time-major."""
    frame = jnp.arange(frames, dtype=jnp.int32)[:, None]
    return (frame < num_frames[None, :])[:, :, None]


def gru_sequence(
    projections: Gates,
    is_valid: Bool[Array, "output_frame batch 1"],
    weights: Recurrence,
    *,
    policy: Policy,
    direction: Direction,
) -> Float32[Array, "output_frame batch hidden"]:
    """States of one direction for given input projections, time-major; zero in padded frames.

    Projections of padded frames may be anything: neither the states nor any gradient depends on them.
    """
    return _sequence(policy, direction == "backward", projections, is_valid, weights)


def _projections(x: Float32[Array, "output_frame batch input"], w: GruWeights, policy: Policy) -> Gates:
    pairs = ((w.w_r, w.b_r), (w.w_z, w.b_z), (w.w_n, w.b_x))
    products = [policy.dot(x, policy.store(matrix)) + policy.store(bias)[None, None, :] for matrix, bias in pairs]
    return Gates(*(policy.store(product) for product in products))


def _stored(w: GruWeights, policy: Policy) -> Recurrence:
    return Recurrence(*(policy.store(array) for array in w.recurrence))


class _Residuals(NamedTuple):
    """What the backward pass reads: states, gates and the candidate's recurrent product, each for all frames."""

    h: Float32[Array, "*frames hidden"]
    r: Float32[Array, "*frames hidden"]
    z: Float32[Array, "*frames hidden"]
    n: Float32[Array, "*frames hidden"]
    q: Float32[Array, "*frames hidden"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sequence(
    policy: Policy, is_backward: bool, projections: Gates, is_valid: Array, weights: Recurrence
) -> Float32[Array, "output_frame batch hidden"]:
    return _run(policy, is_backward, projections, is_valid, weights).h


def _run(policy: Policy, is_backward: bool, projections: Gates, is_valid: Array, weights: Recurrence) -> _Residuals:
    """The forward loop. Where only the states are used, XLA drops the other residuals from it."""
    u_r, u_z, u_n = (policy.round_compute(u) for u in weights[:3])
    bias = weights.b_n[None, :]

    def step(h: Array, inputs: tuple[Gates, Array]) -> tuple[Array, _Residuals]:
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
    return residuals


def _sequence_forward(
    policy: Policy, is_backward: bool, projections: Gates, is_valid: Array, weights: Recurrence
) -> tuple[Array, tuple[_Residuals, Array, Recurrence]]:
    residuals = _run(policy, is_backward, projections, is_valid, weights)
    return residuals.h, (residuals, is_valid, weights)


def _sequence_backward(
    policy: Policy, is_backward: bool, saved: tuple[_Residuals, Array, Recurrence], h_gradient: Array
) -> tuple[Gates, None, Recurrence]:
    (h, r, z, n, q), is_valid, weights = saved
    start = jnp.zeros_like(h[:1])
    previous = jnp.concatenate([h[1:], start] if is_backward else [start, h[:-1]])

    # Everything that dh is multiplied by. Selected, not multiplied, to zero in padded frames: NaN * 0 is NaN.
    factor_n = jnp.where(is_valid, (1.0 - z) * (1.0 - n * n), 0.0)
    factor_q = jnp.where(is_valid, factor_n * r, 0.0)
    factor_r = jnp.where(is_valid, factor_n * (q * r * (1.0 - r)), 0.0)
    factor_z = jnp.where(is_valid, (previous - n) * z * (1.0 - z), 0.0)
    keep = jnp.where(is_valid, z, 0.0)
    incoming = jnp.where(is_valid, h_gradient, 0.0)
    u_r, u_z, u_n = (policy.round_compute(u).T for u in weights[:3])

    def step(dh: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        gradient, f_r, f_z, f_q, kept = inputs
        dh = dh + gradient
        terms = [_product(policy.round_compute(dh * f), u) for f, u in ((f_r, u_r), (f_z, u_z), (f_q, u_n))]
        return dh * kept + (terms[0] + terms[1] + terms[2]), dh

    inputs = (incoming, factor_r, factor_z, factor_q, keep)
    _, dh = jax.lax.scan(step, jnp.zeros_like(h[0]), inputs, reverse=not is_backward)
    gates, dq = Gates(dh * factor_r, dh * factor_z, dh * factor_n), dh * factor_q
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
    return jax.lax.dot_general(a, b, (((0, 1), (0, 1)), ((), ())), precision=_EXACT)
