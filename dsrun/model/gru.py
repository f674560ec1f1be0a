"""Gated recurrent units, bidirectional, for utterances of unequal length.

    r = sigmoid(x_r + h U_r)              reset gate
    z = sigmoid(x_z + h U_z)              update gate
    n = tanh(x_n + r * (h U_n + b_n))     candidate; the reset gate scales the product, after the matmul
    h' = (1 - z) * n + z * h

x_r, x_z, x_n are the input projections of the frame. This is Deep Speech 2's and cuDNN's unit (and torch's, gate by
gate). Cho et al. 2014 scale h before the product: another network with the same name. Some papers swap z and 1 - z.

Where the work is. Two thirds of a training step's products do not depend on the recurrence: the input projections of
all frames come before the loop, the gradients of the weights after it, each as one large product. The loop keeps one
product forward and one (or one a gate) backward. With dh the gradient of a frame's state,

    dz = dh * (h - n) z (1 - z)           dn = dh * (1 - z) (1 - n^2)
    dr = dn * q r (1 - r)                 dq = dn * r              q = h U_n + b_n
    dh of the frame before = dh * z + dr U_r^T + dz U_z^T + dq U_n^T

every gradient is dh times a factor that does not depend on dh: the factors are computed in bulk before the backward
loop, the loop carries and emits dh alone, and the gates' gradients are formed in bulk after it.

Residuals. `store` keeps r, z, n and q for the backward pass; `recompute` keeps the states alone, and there one product over all
frames restores the gates (and another the projections): a third more products, a fraction of the memory. Restored gates come from
another product's order of summation, so the last bits of a gradient differ: a choice of the config, not of the machine.

Layout. Outside the loop arrays are time-major, [output_frame, batch, hidden]; only the public function is batch first. Inside a frame
is [direction, hidden, batch], the transpose: the three gates' products are then one, [3 hidden, hidden] times [hidden, batch], whose
result is cut along its rows, so that each gate is contiguous. The backward loop multiplies dh by the stacked factors, which makes the
operand of its product without a copy. The program of a loop has no concatenation, transpose or padding.

Loops. On a CPU each direction has a loop of its own; on a GPU, where a frame costs the launch of its kernels, both share one, the
backward direction's frames turned round. `loop_choice` decides, and says so. A shared loop multiplies backward gate by gate, in one batch,
and adds the three: of one product with an inner dimension of 3 hidden XLA makes several on a GPU, and for that it pads and copies the
recurrent matrix at every frame (on an H100, 1760 wide in bfloat16, a third of the time of forward and backward together). There and in
float32 two loops were the faster ones; narrower layers, which launches bound (an empty turn takes 17 us), were not measured so, and they
would pay for twice as many: one loop stays the choice for all.

Ragged lengths need no reversal of each utterance: the state is set to zero in padded frames, so the backward
direction, which meets the padding first, starts each utterance at its own last frame with the state it should have.
Outputs there are zero, gradients there are zero, whatever stands in the padding.

Formats (`Policy`). Operands of the products, forward and backward, are on the compute grid, their partial sums as `accumulate`
says. The state, which is handed on to the next frame and the next layer, is on the storage grid; the error of a state, dh, passes
that rounding straight through and is put on the gradient grid at each frame. Everything between is float32. Random roundings
inside the loop draw by the frame's number. Roundings that do not act on each value alone (that draw, or take a scale from a row),
formats that differ between the gates, and narrow accumulators are done gate by gate on the transposed frame: slower, the same definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Float32, Int32, Shaped

from dsrun.arithmetic import FLOAT32_POLICY, Policy
from dsrun.arithmetic.policy import Rounding, site_key, to_float32
from dsrun.arithmetic.random_bits import Key, fold_in
from dsrun.arithmetic.summation import product
from dsrun.model.norm import ForwardPass

Direction = Literal["forward", "backward"]
Residuals = Literal["store", "recompute"]
Loops = Literal["separate", "together"]

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
STATE_NAME = "gru_state"  # what `recompute` keeps of a layer, for jax.checkpoint


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
    residuals: Residuals = "store",
    loops: Loops | None = None,
) -> Float32[Array, "batch output_frame hidden"]:
    """A GRU layer, the directions' states summed (Deep Speech 2 sums, cuDNN concatenates).

    Args:
        x: inputs, batch first; what lies behind `num_frames` has no effect, NaN included.
        num_frames: valid frames of each utterance, 0 to output_frame.
        weights: (forward,) or (forward, backward), as the master has them; `policy` rounds them where they are read.
        policy: number formats.
        residuals: what the backward pass finds: gates that were stored, or the states, from which it restores them.
        loops: both directions in one loop, or one each; None as `loop_choice` says.

    Returns:
        States on the storage grid, zero in padded frames.

    Raises:
        ValueError: neither one nor two directions in `weights`; `recompute` or `together` under a policy that it cannot honour.

    Arithmetic: each row is computed by the same operations whatever stands in the other rows; its bits may still differ
    between batch sizes and padded lengths, because the backend chooses the order of a product's sum by its shape.
    """
    if len(weights) not in (1, 2):
        raise ValueError(f"weights has {len(weights)} directions; give (forward,) or (forward, backward).")
    is_valid = valid_frames(num_frames, x.shape[1])
    forward = ForwardPass(policy, None)
    inputs = forward.store(jnp.where(is_valid, jnp.swapaxes(x, 0, 1), 0.0), "input")

    def states(inputs: Array, weights: tuple[GruWeights, ...]) -> tuple[Array, ...]:
        stored = [
            jax.tree_util.tree_map_with_path(
                lambda path, array: _stored(policy, array, jax.tree_util.keystr(path, simple=True)), w
            )
            for w in weights
        ]
        projections = [_projections(inputs, w, forward) for w in stored]
        return gru_sequences(
            projections, is_valid, [w.recurrence for w in stored], policy=policy, residuals=residuals, loops=loops
        )

    found = keep_states_only(states)(inputs, weights) if residuals == "recompute" else states(inputs, weights)
    return jnp.swapaxes(forward.load(sum_directions(found, forward, "output")), 0, 1)


def keep_states_only(layer: Any) -> Any:
    """A function of arrays of whose intermediate results the backward pass finds the GRU's states alone; others are computed again."""
    return jax.checkpoint(layer, policy=jax.checkpoint_policies.save_only_these_names(STATE_NAME))


def sum_directions(
    states: Sequence[Float[Array, "output_frame batch hidden"]], forward: ForwardPass, path: str
) -> Float[Array, "output_frame batch hidden"]:
    """What a layer hands on: its only direction's states, or the sum of both on the storage grid."""
    if len(states) == 1:
        return states[0]
    return forward.store(forward.load(states[0]) + forward.load(states[1]), path)


def valid_frames(num_frames: Int32[Array, " batch"], frames: int) -> Bool[Array, "output_frame batch 1"]:
    """True where a frame belongs to its utterance, time-major."""
    frame = jnp.arange(frames, dtype=jnp.int32)[:, None]
    return (frame < num_frames[None, :])[:, :, None]


def loop_choice(policy: Policy, paths: Sequence[str], *, backend: str | None = None) -> Loops:
    """Whether the directions at `paths` share a loop: on a GPU, where they round alike and value by value.

    `backend`: as jax.default_backend() names it; None asks it.
    """
    is_gpu = (backend or jax.default_backend()) == "gpu"
    return "together" if is_gpu and len(paths) == 2 and _can_share(policy, paths) else "separate"


def describe_loops(policy: Policy, paths: Sequence[str], residuals: Residuals, *, backend: str | None = None) -> str:
    """The choice in words, for whoever asks which code runs."""
    loops = loop_choice(policy, paths, backend=backend)
    count = "one scan for both directions" if loops == "together" else "a scan for each direction"
    gates = "one product a frame" if are_joint(policy, paths) else "a product a gate and frame"
    if loops == "together":
        gates += " forward and a batch of one a gate backward"
    return f"{count}, {gates}, gates {'stored' if residuals == 'store' else 'recomputed'} for the backward pass"


def are_joint(policy: Policy, paths: Sequence[str]) -> bool:
    """The three gates' products of each direction can be one: they round alike, value by value, with float32 sums and no random bits.

    Then one product over all frames also restores what the loop's products gave (`recompute`).
    """
    return all(_is_joint(policy, path) for path in paths)


def gru_sequences(
    projections: Sequence[Gates],
    is_valid: Bool[Array, "output_frame batch 1"],
    weights: Sequence[Recurrence],
    *,
    policy: Policy,
    directions: Sequence[Direction] | None = None,
    paths: Sequence[str] | None = None,
    key: Key | None = None,
    residuals: Residuals = "store",
    loops: Loops | None = None,
) -> tuple[Float[Array, "output_frame batch hidden"], ...]:
    """States of one or both directions for given input projections, time-major; zero in padded frames.

    Projections of padded frames may be anything: neither the states nor any gradient depends on them.

    Args:
        projections, weights: one a direction. directions: which they are; None is forward, or forward and backward.
        paths: the directions', for rules and random bits. key: for roundings that draw.
        residuals, loops: as in `bidirectional_gru`.
    """
    directions = tuple(directions or DIRECTIONS[: len(projections)])
    paths = tuple(paths or [""] * len(directions))
    if residuals == "recompute" and not are_joint(policy, paths):
        raise ValueError(
            "residuals: recompute restores the gates with one product over all frames, which needs compute and state formats that "
            "round each value alone, alike for the three gates, and float32 accumulation; write residuals: store."
        )
    if loops == "together" and not _can_share(policy, paths):
        raise ValueError("loops: together needs two directions that round alike, value by value; write separate.")
    if (loops or loop_choice(policy, paths)) == "together":
        loop = _Loop(policy, paths, directions, residuals)
        return _states(loop, tuple(projections), is_valid, tuple(weights), key)
    found: list[Array] = []
    for direction, path, x, w in zip(directions, paths, projections, weights, strict=True):
        found += _states(_Loop(policy, (path,), (direction,), residuals), (x,), is_valid, (w,), key)
    return tuple(found)


def continue_gru(
    projections: Gates,
    is_valid: Bool[Array, "output_frame batch 1"],
    weights: Recurrence,
    start: Float32[Array, "batch hidden"],
    *,
    policy: Policy,
    path: str = "",
) -> tuple[Float[Array, "output_frame batch hidden"], Float32[Array, "batch hidden"]]:
    """A forward direction that goes on from a state: the states, and the last one, to go on from.

    Frame by frame what `gru_sequences` does. Without a gradient, and without roundings that draw, since those are numbered by frame.
    """
    loop = _Loop(policy, (path,), ("forward",), "store")
    (states,), _, last = _run(loop, (projections,), is_valid, (weights,), None, start.T[None])
    return states, last[0].T


def _projections(x: Float[Array, "output_frame batch input"], w: GruWeights, forward: ForwardPass) -> Gates:
    products = forward.dots(x, [w.w_r, w.w_z, w.w_n], ["w_r", "w_z", "w_n"])
    biases = [forward.load(bias)[None, None, :] for bias in (w.b_r, w.b_z, w.b_x)]
    named = zip(products, biases, ("w_r", "w_z", "w_n"), strict=True)
    return Gates(*(forward.store(x + bias, f"projection_{name}") for x, bias, name in named))


def _stored(policy: Policy, x: Float32[Array, "*shape"], path: str) -> Float[Array, "*shape"]:
    """A weight on the storage grid, the gradient straight through."""
    rounded = policy.round_weight(x, path)
    if rounded is x:
        return x
    return rounded + (x - jax.lax.stop_gradient(x)).astype(rounded.dtype)


# --- what a loop is made of ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Loop:
    """What is fixed of one loop: formats, the paths of the directions that run in it, and what is kept for the backward pass."""

    policy: Policy
    paths: tuple[str, ...]
    directions: tuple[Direction, ...]
    residuals: Residuals

    @property
    def is_reversed(self) -> bool:
        """The loop runs from the last frame to the first: a backward direction on its own."""
        return self.directions == ("backward",)

    def enter(self, arrays: Sequence[Array]) -> Shaped[Array, "output_frame direction row batch"]:
        """One time-major array a direction as the loop reads them; beside a forward direction the backward one is turned round."""
        turned = [self._turned(x, number) for number, x in enumerate(arrays)]
        return jnp.stack([jnp.swapaxes(x, 1, 2) for x in turned], axis=1)

    def leave(self, x: Float[Array, "output_frame direction row batch"]) -> list[Array]:
        """The way back: one array a direction, time-major."""
        return [self._turned(jnp.swapaxes(x[:, number], 1, 2), number) for number in range(len(self.paths))]

    def _turned(self, x: Array, number: int) -> Array:
        return x[::-1] if len(self.paths) == 2 and self.directions[number] == "backward" else x

    def previous(self, states: Sequence[Array]) -> list[Float32[Array, "output_frame batch hidden"]]:
        """The state that each frame started from, time-major."""
        found = []
        for direction, state in zip(self.directions, states, strict=True):
            h = to_float32(state)
            start = jnp.zeros_like(h[:1])
            found.append(jnp.concatenate([h[1:], start] if direction == "backward" else [start, h[:-1]]))
        return found


def _gate_path(path: str, gate: str) -> str:
    return f"{path}.u_{gate}" if path else f"u_{gate}"


def _state_path(path: str) -> str:
    return f"{path}.state" if path else "state"


def _roundings(policy: Policy, path: str) -> tuple[Rounding, ...]:
    """Of one direction's loop: operands of the three gates, state, its error."""
    state = [policy.activation_rounding(role, _state_path(path)) for role in ("storage", "gradient")]  # type: ignore[arg-type]
    return (*(policy.rounding("compute", _gate_path(path, gate)) for gate in "rzn"), *state)


def _is_joint(policy: Policy, path: str) -> bool:
    """The three gates' products can be one."""
    roundings = _roundings(policy, path)
    sums = [policy.rounding("accumulate", _gate_path(path, gate)) for gate in "rzn"]
    return len(set(roundings[:3])) == 1 and all(r.is_elementwise for r in roundings) and all(r.is_exact for r in sums)


def _can_share(policy: Policy, paths: Sequence[str]) -> bool:
    is_alike = len({_roundings(policy, path) for path in paths}) == 1
    return len(paths) == 2 and is_alike and are_joint(policy, paths)


class _Products:
    """The products of one loop: operands, partial sums and the random bits of both, by gate and frame."""

    def __init__(self, loop: _Loop, key: Key | None):
        self.policy, self.key = loop.policy, key
        self.path = loop.paths[0]  # two directions share a loop only where they round alike
        *compute, self.storage, self.gradient = _roundings(loop.policy, self.path)
        self.is_joint = are_joint(loop.policy, loop.paths)
        # One grid for the three gates' operands: the state is rounded for them once.
        self.is_shared = len(set(compute)) == 1

    def at(self, frame: Array | None) -> Key | None:
        """The key of one frame."""
        return None if self.key is None or frame is None else fold_in(self.key, frame)

    def frames(self, count: int) -> Array | None:
        """Frame numbers for the loop, where something draws."""
        return None if self.key is None else jnp.arange(count, dtype=jnp.uint32)

    def matrices(self, weights: Sequence[Recurrence]) -> list[list[Array]]:
        """The recurrent matrices as operands: a list a direction of r, z, n, each [hidden, hidden]."""
        return [
            [
                self.policy.operand(u, _gate_path(self.path, gate), "weight", self.key, axis=0)
                for gate, u in zip("rzn", w[:3], strict=True)
            ]
            for w in weights
        ]

    def forward_matrix(self, matrices: list[list[Array]]) -> Any:
        """For `forward`: the transposes stacked, [direction, 3 hidden, hidden]; gate by gate, as they are."""
        if not self.is_joint:
            return matrices[0]
        return jnp.stack([jnp.concatenate([u.T for u in own]) for own in matrices])

    def backward_matrix(self, matrices: list[list[Array]]) -> Any:
        """For `backward`: the matrices side by side, [direction, hidden, 3 hidden], or for a shared loop one behind the other,
        [direction, 3, hidden, hidden]; gate by gate, their transposes."""
        if not self.is_joint:
            return [u.T for u in matrices[0]]
        if len(matrices) == 2:
            return jnp.stack([jnp.stack(own) for own in matrices])
        return jnp.stack([jnp.concatenate(own, axis=1) for own in matrices])

    def forward(self, matrix: Any, h: Float32[Array, "direction hidden batch"], key: Key | None) -> list[Array]:
        """h U_r, h U_z, h U_n of a frame, each [direction, hidden, batch]."""
        if self.is_joint:
            operand = self.policy.operand(h, _gate_path(self.path, "r"), "state", key)
            products = self.batched(matrix, operand).reshape(len(h), 3, *h.shape[1:])
            return [products[:, gate] for gate in range(3)]
        rows = h[0].T
        gates = self.by_gate(self.operands([rows, rows, rows], "state", key), matrix, "state", key)
        return [found.T[None] for found in gates]

    def backward(
        self, matrix: Any, errors: Float32[Array, "direction 3 hidden batch"], key: Key | None
    ) -> Float32[Array, "direction hidden batch"]:
        """dr U_r^T + dz U_z^T + dq U_n^T of a frame."""
        if self.is_joint:
            operand = self.policy.operand(errors, _gate_path(self.path, "r"), "gradient", key)
            if len(errors) == 2:
                by_gate = self.batched(matrix, operand)
                return (by_gate[:, 0] + by_gate[:, 1]) + by_gate[:, 2]
            return self.batched(matrix, operand.reshape(len(errors), -1, errors.shape[-1]))
        rows = [errors[0, gate].T for gate in range(3)]
        terms = self.by_gate(self.operands(rows, "gradient", key), matrix, "gradient", key)
        return (terms[0] + terms[1] + terms[2]).T[None]

    def batched(
        self, a: Float[Array, "*batches row inner"], b: Float[Array, "*batches inner batch"]
    ) -> Float32[Array, "*batches row batch"]:
        """A matrix product a direction, or a direction and gate; a single one is a plain product."""
        precision = self.policy.precision(_gate_path(self.path, "r"))
        if len(a) == 1:
            return product(a[0], b[0], precision=precision)[None]
        axes = tuple(range(a.ndim - 2))
        dimensions = (((a.ndim - 1,), (b.ndim - 2,)), (axes, axes))
        return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)

    def operands(self, values: list[Array], side: str, key: Key | None) -> list[Array]:
        """What the matrices are multiplied with, r, z, n, batch before hidden; equal values on equal grids are rounded once."""
        paths = [_gate_path(self.path, gate) for gate in "rzn"]
        if self.is_shared and all(value is values[0] for value in values):
            return [self.policy.operand(values[0], paths[0], side, key)] * 3
        return [self.policy.operand(value, path, side, key) for path, value in zip(paths, values, strict=True)]

    def by_gate(self, a: list[Array], b: list[Array], side: str, key: Key | None) -> list[Array]:
        """Products of operands, r, z, n, batch before hidden."""
        return [
            self.policy.sum_products(x, y, _gate_path(self.path, gate), side, key)
            for gate, x, y in zip("rzn", a, b, strict=True)
        ]

    def store(self, h: Float32[Array, "direction hidden batch"], key: Key | None) -> Array:
        """A state on the storage grid."""
        return _round_frame(self.storage, h, site_key(key, "storage", _state_path(self.path)))

    def pass_back(self, dh: Float32[Array, "direction hidden batch"], key: Key | None) -> Array:
        """The error of a state on the gradient grid."""
        return _round_frame(self.gradient, dh, site_key(key, "gradient", _state_path(self.path)))


def _round_frame(rounding: Rounding, x: Float32[Array, "direction hidden batch"], key: Key | None) -> Array:
    """Scales belong to rows of features and random bits to elements in batch-major order, so such a frame is turned for its rounding."""
    if rounding.is_elementwise:
        return rounding(x)
    return rounding(x[0].T, key).T[None]


# --- forward and backward ------------------------------------------------------------------------------------------------------


class _GateValues(NamedTuple):
    """r, z, n and q = h U_n + b_n of all frames as the loop has them, [output_frame, direction, hidden, batch]."""

    r: Float32[Array, "output_frame direction hidden batch"]
    z: Float32[Array, "output_frame direction hidden batch"]
    n: Float32[Array, "output_frame direction hidden batch"]
    q: Float32[Array, "output_frame direction hidden batch"]


def _gate_values(x: Sequence[Array], products: Sequence[Array], bias: Array) -> _GateValues:
    """Of a frame, or of all of them."""
    r = jax.nn.sigmoid(to_float32(x[0]) + products[0])
    z = jax.nn.sigmoid(to_float32(x[1]) + products[1])
    q = products[2] + bias
    return _GateValues(r, z, jnp.tanh(to_float32(x[2]) + r * q), q)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _states(
    loop: _Loop, projections: tuple[Gates, ...], is_valid: Array, weights: tuple[Recurrence, ...], key: Key | None
) -> tuple[Array, ...]:
    return _run(loop, projections, is_valid, weights, key)[0]


def _run(
    loop: _Loop,
    projections: tuple[Gates, ...],
    is_valid: Array,
    weights: tuple[Recurrence, ...],
    key: Key | None,
    start: Float32[Array, "direction hidden batch"] | None = None,
) -> tuple[tuple[Array, ...], _GateValues, Float32[Array, "direction hidden batch"]]:
    """The forward loop, from zeros or from `start`: states, gates, last state. What nobody uses of it XLA leaves out."""
    products = _Products(loop, key)
    matrix = products.forward_matrix(products.matrices(weights))
    bias = _biases(loop, weights)
    x = [loop.enter([own[gate] for own in projections]) for gate in range(3)]

    def step(h: Array, inputs: tuple[list[Array], Array, Array | None]) -> tuple[Array, tuple[Array, _GateValues]]:
        of_frame, valid, frame = inputs
        own = products.at(frame)
        gates = _gate_values(of_frame, products.forward(matrix, h, own), bias)
        h = jnp.where(valid, products.store(gates.n + gates.z * (h - gates.n), own), 0.0)
        return h, (loop.policy.to_carrier(h, products.storage), gates)

    start = jnp.zeros(x[0].shape[1:], jnp.float32) if start is None else start
    frames = (x, loop.enter([is_valid] * len(loop.paths)), products.frames(len(is_valid)))
    last, (states, gates) = jax.lax.scan(step, start, frames, reverse=loop.is_reversed)
    return tuple(checkpoint_name(h, STATE_NAME) for h in loop.leave(states)), gates, last


def _biases(loop: _Loop, weights: Sequence[Recurrence]) -> Float32[Array, "direction hidden 1"]:
    return jnp.stack([loop.policy.load(w.b_n) for w in weights])[:, :, None]


class _Saved(NamedTuple):
    """What the backward pass finds. `kept`: the gates' values, or the projections from which they are restored."""

    states: tuple[Array, ...]
    kept: Any
    kinds: tuple[Gates, ...]  # empty arrays of the dtypes of what the gradients belong to
    is_valid: Array
    weights: tuple[Recurrence, ...]
    key: Key | None


def _states_forward(
    loop: _Loop, projections: tuple[Gates, ...], is_valid: Array, weights: tuple[Recurrence, ...], key: Key | None
) -> tuple[tuple[Array, ...], _Saved]:
    states, gates, _ = _run(loop, projections, is_valid, weights, key)
    kinds = tuple(Gates(*(x[:0] for x in own)) for own in projections)
    kept = gates if loop.residuals == "store" else projections
    return states, _Saved(states, kept, kinds, is_valid, weights, key)


def _restored(
    loop: _Loop, products: _Products, matrices: list[list[Array]], previous: list[Array], saved: _Saved
) -> _GateValues:
    """The gates' values from the states: the loop's products again, of all frames at once."""
    found = [
        products.by_gate(products.operands([h, h, h], "state", None), own, "state", None)
        for h, own in zip(previous, matrices, strict=True)
    ]
    x = [loop.enter([to_float32(own[gate]) for own in saved.kept]) for gate in range(3)]
    recurrent = [loop.enter([own[gate] for own in found]) for gate in range(3)]
    return _gate_values(x, recurrent, _biases(loop, saved.weights)[None])


def _states_backward(
    loop: _Loop, saved: _Saved, gradients: tuple[Array, ...]
) -> tuple[tuple[Gates, ...], None, tuple[Recurrence, ...], None]:
    products, policy = _Products(loop, saved.key), loop.policy
    matrices = products.matrices(saved.weights)
    previous = loop.previous(saved.states)
    is_store = loop.residuals == "store"
    r, z, n, q = saved.kept if is_store else _restored(loop, products, matrices, previous, saved)
    valid = loop.enter([saved.is_valid] * len(loop.paths))

    # Everything that dh is multiplied by. Selected, not multiplied, to zero in padded frames: NaN * 0 is NaN.
    factor_n = jnp.where(valid, (1.0 - z) * (1.0 - n * n), 0.0)
    factor_r = jnp.where(valid, factor_n * (q * r * (1.0 - r)), 0.0)
    factor_z = jnp.where(valid, (loop.enter(previous) - n) * z * (1.0 - z), 0.0)
    factors = jnp.stack([factor_r, factor_z, jnp.where(valid, factor_n * r, 0.0)], axis=2)
    keep = jnp.where(valid, z, 0.0)
    incoming = jnp.where(valid, loop.enter([to_float32(g) for g in gradients]), 0.0)
    matrix = products.backward_matrix(matrices)

    def step(dh: Array, inputs: tuple[Any, ...]) -> tuple[Array, Array]:
        gradient, factor, kept, frame = inputs
        own = products.at(frame)
        dh = products.pass_back(dh + gradient, own)
        return dh * kept + products.backward(matrix, dh[:, None] * factor, own), dh

    frames = (incoming, factors, keep, products.frames(len(saved.is_valid)))
    _, dh = jax.lax.scan(step, jnp.zeros_like(keep[0]), frames, reverse=not loop.is_reversed)
    by_gate = [loop.leave(dh * factors[:, :, gate]) for gate in range(3)]  # r, z, q
    of_candidate = loop.leave(dh * factor_n)
    of_projections, of_weights = [], []
    for number, (kind, weights) in enumerate(zip(saved.kinds, saved.weights, strict=True)):
        errors = [gate[number] for gate in by_gate]
        inputs_errors = Gates(errors[0], errors[1], of_candidate[number])
        of_projections.append(
            Gates(*(policy.to_dtype(g, like.dtype) for g, like in zip(inputs_errors, kind, strict=True)))
        )
        found = _weight_gradients(products, previous[number], errors, saved.key)
        of_weights.append(Recurrence(*(policy.to_dtype(g, w.dtype) for g, w in zip(found, weights, strict=True))))
    return tuple(of_projections), None, tuple(of_weights), None


_states.defvjp(_states_forward, _states_backward)


def _weight_gradients(products: _Products, previous: Array, errors: list[Array], key: Key | None) -> Recurrence:
    """dU of each gate as one product over all frames, and the candidate's bias."""
    states = products.operands([previous, previous, previous], "states", key)
    operands = products.operands(errors, "errors", key)
    if products.policy.rounding("accumulate", _gate_path(products.path, "r")).is_exact:
        precisions = [products.policy.precision(_gate_path(products.path, gate)) for gate in "rzn"]
        matrices = [_outer(*pair) for pair in zip(states, operands, precisions, strict=True)]
    else:
        matrices = products.by_gate([_rows(a).T for a in states], [_rows(b) for b in operands], "weight", key)
    return Recurrence(matrices[0], matrices[1], matrices[2], jnp.sum(errors[2], axis=(0, 1)))


def _rows(x: Float[Array, "output_frame batch hidden"]) -> Float[Array, "row hidden"]:
    return x.reshape(-1, x.shape[-1])


def _outer(
    a: Float[Array, "output_frame batch hidden"], b: Float[Array, "output_frame batch hidden"], precision: Any
) -> Float32[Array, "hidden hidden"]:
    """Sum over all frames of a^T b, as one product."""
    return jax.lax.dot_general(
        a, b, (((0, 1), (0, 1)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
