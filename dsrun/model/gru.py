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

Formats (`Policy`). Operands of the products, forward and backward, are on the compute grid, their partial sums as `accumulate`
says. The state, which is handed on to the next frame and the next layer, is on the storage grid; the error of a state, dh, passes
that rounding straight through and is put on the gradient grid at each frame. Everything between is float32. Random roundings
inside the loop draw by the frame's number.

Inside the stack arrays are time-major, [output_frame, batch, hidden]; only the public function is batch first.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from dsrun.arithmetic import FLOAT32_POLICY, Policy
from dsrun.arithmetic.policy import site_key, to_float32
from dsrun.arithmetic.random_bits import Key, fold_in
from dsrun.model.norm import ForwardPass

Direction = Literal["forward", "backward"]


class Recurrence(NamedTuple):
    """Weights of the loop of one direction: U_r, U_z, U_n [hidden, hidden] and the candidate's bias b_n [hidden]."""

    u_r: Float[Array, "hidden hidden"]
    u_z: Float[Array, "hidden hidden"]
    u_n: Float[Array, "hidden hidden"]
    b_n: Float[Array, " hidden"]


class Gates(NamedTuple):
    """One array a gate, time-major: input projections, gradients with respect to them, or factors of those."""

    r: Float[Array, "output_frame batch hidden"]
    z: Float[Array, "output_frame batch hidden"]
    n: Float[Array, "output_frame batch hidden"]


class GruWeights(NamedTuple):
    """One direction without normalisation: input weights [input, hidden], input biases [hidden], and the recurrence."""

    w_r: Float[Array, "input hidden"]
    w_z: Float[Array, "input hidden"]
    w_n: Float[Array, "input hidden"]
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
    forward = ForwardPass(policy, None)
    inputs = forward.store(jnp.where(is_valid, jnp.swapaxes(x, 0, 1), 0.0), "input")
    states = []
    directions: tuple[Direction, ...] = ("forward", "backward")
    for direction, w in zip(directions, weights, strict=False):
        stored = jax.tree_util.tree_map_with_path(
            lambda path, array: _stored(policy, array, jax.tree_util.keystr(path, simple=True)), w
        )
        projections = _projections(inputs, stored, forward)
        states.append(gru_sequence(projections, is_valid, stored.recurrence, policy=policy, direction=direction))
    return jnp.swapaxes(forward.load(sum_directions(states, forward, "output")), 0, 1)


def sum_directions(
    states: list[Float[Array, "output_frame batch hidden"]], forward: ForwardPass, path: str
) -> Float[Array, "output_frame batch hidden"]:
    """What a layer hands on: its only direction's states, or the sum of both on the storage grid."""
    if len(states) == 1:
        return states[0]
    return forward.store(forward.load(states[0]) + forward.load(states[1]), path)


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
    path: str = "",
    key: Key | None = None,
) -> Float[Array, "output_frame batch hidden"]:
    """States of one direction for given input projections, time-major; zero in padded frames.

    Projections of padded frames may be anything: neither the states nor any gradient depends on them. `path` is the layer's, for
    rules and random bits.
    """
    return _sequence(policy, direction == "backward", path, projections, is_valid, weights, key)


def _projections(x: Float[Array, "output_frame batch input"], w: GruWeights, forward: ForwardPass) -> Gates:
    named = (("w_r", w.w_r, w.b_r), ("w_z", w.w_z, w.b_z), ("w_n", w.w_n, w.b_x))
    products = [forward.dot(x, matrix, name) + forward.load(bias)[None, None, :] for name, matrix, bias in named]
    return Gates(
        *(forward.store(product, f"projection_{name}") for product, (name, _, _) in zip(products, named, strict=True))
    )


def _stored(policy: Policy, x: Float32[Array, "*shape"], path: str) -> Float[Array, "*shape"]:
    """A weight on the storage grid, the gradient straight through."""
    rounded = policy.round_weight(x, path)
    if rounded is x:
        return x
    return rounded + (x - jax.lax.stop_gradient(x)).astype(rounded.dtype)


class _Residuals(NamedTuple):
    """What the backward pass reads: states, gates and the candidate's recurrent product, each for all frames."""

    h: Float[Array, "*frames hidden"]
    r: Float32[Array, "*frames hidden"]
    z: Float32[Array, "*frames hidden"]
    n: Float32[Array, "*frames hidden"]
    q: Float32[Array, "*frames hidden"]


class _Products:
    """The products of one direction's loop: operands, partial sums and the random bits of both, by gate and frame."""

    def __init__(self, policy: Policy, path: str, key: Key | None):
        self.policy, self.path, self.key = policy, f"{path}." if path else "", key
        self.storage = policy.activation_rounding("storage", f"{self.path}state")
        self.gradient = policy.activation_rounding("gradient", f"{self.path}state")
        paths = [self._path(gate) for gate in "rzn"]
        # One grid for the three gates' operands: the state is rounded for them once.
        self.is_shared = len({policy.rounding("compute", path) for path in paths}) == 1

    def _path(self, gate: str) -> str:
        return f"{self.path}u_{gate}"

    def at(self, frame: Array | None) -> Key | None:
        """The key of one frame."""
        return None if self.key is None or frame is None else fold_in(self.key, frame)

    def weights(self, weights: Recurrence) -> list[Array]:
        """The recurrent matrices as operands, r, z, n."""
        return [
            self.policy.operand(u, self._path(gate), "weight", self.key, axis=0)
            for gate, u in zip("rzn", weights[:3], strict=True)
        ]

    def operands(self, values: list[Array], side: str, key: Key | None) -> list[Array]:
        """What the matrices are multiplied with, r, z, n; equal values on equal grids are rounded once."""
        if self.is_shared and all(value is values[0] for value in values):
            return [self.policy.operand(values[0], self._path("r"), side, key)] * 3
        return [
            self.policy.operand(value, self._path(gate), side, key) for gate, value in zip("rzn", values, strict=True)
        ]

    def __call__(self, a: list[Array], b: list[Array], side: str, key: Key | None) -> list[Array]:
        """Products of operands, r, z, n."""
        return [
            self.policy.sum_products(x, y, self._path(gate), side, key) for gate, x, y in zip("rzn", a, b, strict=True)
        ]

    def store(self, h: Float32[Array, "batch hidden"], key: Key | None) -> Float32[Array, "batch hidden"]:
        """A state on the storage grid."""
        return self.storage(h, site_key(key, "storage", f"{self.path}state"))

    def pass_back(self, dh: Float32[Array, "batch hidden"], key: Key | None) -> Float32[Array, "batch hidden"]:
        """The error of a state on the gradient grid."""
        return self.gradient(dh, site_key(key, "gradient", f"{self.path}state"))

    def frames(self, count: int) -> Array | None:
        """Frame numbers for the loop, where something draws."""
        return None if self.key is None else jnp.arange(count, dtype=jnp.uint32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sequence(
    policy: Policy,
    is_backward: bool,
    path: str,
    projections: Gates,
    is_valid: Array,
    weights: Recurrence,
    key: Key | None,
) -> Float[Array, "output_frame batch hidden"]:
    return _run(policy, is_backward, path, projections, is_valid, weights, key).h


def _run(
    policy: Policy,
    is_backward: bool,
    path: str,
    projections: Gates,
    is_valid: Array,
    weights: Recurrence,
    key: Key | None,
) -> _Residuals:
    """The forward loop. Where only the states are used, XLA drops the other residuals from it."""
    products = _Products(policy, path, key)
    matrices = products.weights(weights)
    bias = policy.load(weights.b_n)[None, :]

    def step(h: Array, inputs: tuple[Gates, Array, Array | None]) -> tuple[Array, _Residuals]:
        x, valid, frame = inputs
        own = products.at(frame)
        operands = products.operands([h, h, h], "state", own)
        for_r, for_z, for_n = products(operands, matrices, "state", own)
        r = jax.nn.sigmoid(to_float32(x.r) + for_r)
        z = jax.nn.sigmoid(to_float32(x.z) + for_z)
        q = for_n + bias
        n = jnp.tanh(to_float32(x.n) + r * q)
        h = jnp.where(valid, products.store(n + z * (h - n), own), 0.0)
        return h, _Residuals(policy.to_carrier(h, products.storage), r, z, n, q)

    start = jnp.zeros(projections.r[0].shape, jnp.float32)
    inputs = (projections, is_valid, products.frames(len(is_valid)))
    _, residuals = jax.lax.scan(step, start, inputs, reverse=is_backward)
    return residuals


def _sequence_forward(
    policy: Policy,
    is_backward: bool,
    path: str,
    projections: Gates,
    is_valid: Array,
    weights: Recurrence,
    key: Key | None,
) -> tuple[Array, tuple[_Residuals, Gates, Array, Recurrence, Key | None]]:
    residuals = _run(policy, is_backward, path, projections, is_valid, weights, key)
    kinds = Gates(*(x[:0] for x in projections))  # dtypes of what the gradients belong to
    return residuals.h, (residuals, kinds, is_valid, weights, key)


def _sequence_backward(
    policy: Policy,
    is_backward: bool,
    path: str,
    saved: tuple[_Residuals, Gates, Array, Recurrence, Key | None],
    h_gradient: Array,
) -> tuple[Gates, None, Recurrence, None]:
    (h, r, z, n, q), kinds, is_valid, weights, key = saved
    products = _Products(policy, path, key)
    h = to_float32(h)
    start = jnp.zeros_like(h[:1])
    previous = jnp.concatenate([h[1:], start] if is_backward else [start, h[:-1]])

    # Everything that dh is multiplied by. Selected, not multiplied, to zero in padded frames: NaN * 0 is NaN.
    factor_n = jnp.where(is_valid, (1.0 - z) * (1.0 - n * n), 0.0)
    factor_q = jnp.where(is_valid, factor_n * r, 0.0)
    factor_r = jnp.where(is_valid, factor_n * (q * r * (1.0 - r)), 0.0)
    factor_z = jnp.where(is_valid, (previous - n) * z * (1.0 - z), 0.0)
    keep = jnp.where(is_valid, z, 0.0)
    incoming = jnp.where(is_valid, to_float32(h_gradient), 0.0)
    transposed = [u.T for u in products.weights(weights)]

    def step(dh: Array, inputs: tuple[Any, ...]) -> tuple[Array, Array]:
        gradient, f_r, f_z, f_q, kept, frame = inputs
        own = products.at(frame)
        dh = products.pass_back(dh + gradient, own)
        operands = products.operands([dh * f_r, dh * f_z, dh * f_q], "gradient", own)
        terms = products(operands, transposed, "gradient", own)
        return dh * kept + (terms[0] + terms[1] + terms[2]), dh

    inputs = (incoming, factor_r, factor_z, factor_q, keep, products.frames(len(is_valid)))
    _, dh = jax.lax.scan(step, jnp.zeros_like(h[0]), inputs, reverse=not is_backward)
    gates, dq = Gates(dh * factor_r, dh * factor_z, dh * factor_n), dh * factor_q
    states = products.operands([previous, previous, previous], "states", key)
    errors = products.operands([gates.r, gates.z, dq], "errors", key)
    if policy.rounding("accumulate", products._path("r")).is_exact:
        matrices = [_outer(a, b) for a, b in zip(states, errors, strict=True)]
    else:
        matrices = products([_rows(a).T for a in states], [_rows(b) for b in errors], "weight", key)
    gradients = Recurrence(matrices[0], matrices[1], matrices[2], jnp.sum(dq, axis=(0, 1)))
    return (
        Gates(*(policy.to_dtype(g, kind.dtype) for g, kind in zip(gates, kinds, strict=True))),
        None,
        Recurrence(*(policy.to_dtype(g, w.dtype) for g, w in zip(gradients, weights, strict=True))),
        None,
    )


_sequence.defvjp(_sequence_forward, _sequence_backward)


def _rows(x: Float[Array, "output_frame batch hidden"]) -> Float[Array, "row hidden"]:
    return x.reshape(-1, x.shape[-1])


def _outer(
    a: Float[Array, "output_frame batch hidden"], b: Float[Array, "output_frame batch hidden"]
) -> Float32[Array, "hidden hidden"]:
    """Sum over all frames of a^T b, as one product."""
    return jax.lax.dot_general(
        a, b, (((0, 1), (0, 1)), ((), ())), precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
