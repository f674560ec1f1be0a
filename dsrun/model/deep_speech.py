"""Deep Speech 2: front end, bidirectional GRU layers, a linear layer to the classes (Amodei et al. 2015).

Structure and parameters are flax NNX modules; the trainer sees pure functions of a nested dict of float32 arrays. Each layer
normalises its input projection (every GRU layer here, the first included) and never the recurrent product. The logits leave the
network in float32, whatever the storage format is: CTC is a float32 island.

Formats. What a layer hands on goes through `policy.store`: features, front-end outputs, normalised projections, states,
dropped-out outputs, and the weights as they are read. Every product goes through `policy.dot` or `policy.convolve`.

Initial values are a function of (seed, parameter path) alone: adding a layer does not reshuffle the others.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32, Int32, PRNGKeyArray

from dsrun.arithmetic import Policy
from dsrun.model.frontend import FrontEndSettings, Frames, front_end_frames, make_front_end
from dsrun.model.gru import Gates, Recurrence, gru_sequence, valid_frames
from dsrun.model.norm import ForwardPass, Moments, Normalization, NormalizationKind, Statistics

Parameters = dict[str, Any]


@dataclass(frozen=True)
class ModelSettings:
    """Shape of the network; hashable, so that compiled functions can be specialised on it."""

    num_bins: int
    num_classes: int
    front_end: FrontEndSettings
    hidden: int
    layers: int
    direction: Literal["bidirectional", "forward"]
    normalization: NormalizationKind
    dropout: float
    relu_clip: float


@dataclass(frozen=True)
class ModelOutput:
    """Logits [batch, output_frame, class], valid output frames [batch], and in training the normalisations' sums by name."""

    logits: Float32[Array, "batch output_frame class"]
    num_frames: Int32[Array, " batch"]
    moments: dict[str, Moments]


class GruDirection(nnx.Module):
    """One direction of one layer: input projection, normalisation and recurrence, each gate an array of its own."""

    def __init__(self, inputs: int, hidden: int, normalization: NormalizationKind, name: str):
        for gate in "rzn":
            setattr(self, f"w_{gate}", nnx.Param(jnp.zeros((inputs, hidden))))
            setattr(self, f"normalization_{gate}", Normalization(normalization, hidden, f"{name}.{gate}"))
            setattr(self, f"u_{gate}", nnx.Param(jnp.zeros((hidden, hidden))))
        self.b_n = nnx.Param(jnp.zeros((hidden,)))

    def projections(self, x: Array, is_valid: Array, forward: ForwardPass) -> Gates:
        """Normalised input projections, time-major."""
        store = forward.policy.store
        return Gates(
            *(
                store(getattr(self, f"normalization_{gate}")(self._project(gate, x, forward), is_valid, forward))
                for gate in "rzn"
            )
        )

    def recurrence(self, forward: ForwardPass) -> Recurrence:
        """Recurrent weights as the loop reads them."""
        return Recurrence(*(forward.policy.store(p[...]) for p in (self.u_r, self.u_z, self.u_n, self.b_n)))

    def _project(self, gate: str, x: Array, forward: ForwardPass) -> Array:
        return forward.policy.dot(x, forward.policy.store(getattr(self, f"w_{gate}")[...]))


class DeepSpeech(nnx.Module):
    """The whole network."""

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        normalization = settings.normalization
        self.front_end = make_front_end(settings.front_end, settings.num_bins, normalization, settings.relu_clip)
        inputs = self.front_end.num_outputs
        for layer in range(settings.layers):
            for direction in _directions(settings):
                name = f"gru_{layer}_{direction}"
                setattr(self, name, GruDirection(inputs, settings.hidden, normalization, name))
            inputs = settings.hidden
        self.output_kernel = nnx.Param(jnp.zeros((inputs, settings.num_classes)))
        self.output_bias = nnx.Param(jnp.zeros((settings.num_classes,)))

    def __call__(
        self,
        features: Float32[Array, "batch frame bin"],
        num_frames: Int32[Array, " batch"],
        forward: ForwardPass,
        dropout_key: PRNGKeyArray | None,
    ) -> tuple[Float32[Array, "batch output_frame class"], Int32[Array, " batch"]]:
        """Logits and valid output frames."""
        policy = forward.policy
        x = self.front_end(policy.store(features), num_frames, forward)
        output_frames = front_end_frames(self.settings.front_end, num_frames)
        is_valid = valid_frames(output_frames, x.shape[1])
        x = jnp.swapaxes(x, 0, 1)  # time-major from here to the last layer
        for layer in range(self.settings.layers):
            x = self._gru_layer(layer, x, is_valid, forward)
            if dropout_key is not None and self.settings.dropout > 0.0:
                x = policy.store(_dropout(x, self.settings.dropout, jax.random.fold_in(dropout_key, layer)))
        logits = policy.dot(x, policy.store(self.output_kernel[...])) + policy.store(self.output_bias[...])[None, None]
        return jnp.swapaxes(logits, 0, 1), output_frames

    def _gru_layer(self, layer: int, x: Array, is_valid: Array, forward: ForwardPass) -> Array:
        states = []
        for direction in _directions(self.settings):
            module: GruDirection = getattr(self, f"gru_{layer}_{direction}")
            projections = module.projections(x, is_valid, forward)
            recurrence = module.recurrence(forward)
            states.append(
                gru_sequence(projections, is_valid, recurrence, policy=forward.policy, direction=direction)
            )
        return states[0] if len(states) == 1 else forward.policy.store(states[0] + states[1])


def apply(
    settings: ModelSettings,
    policy: Policy,
    parameters: Parameters,
    statistics: Statistics | None,
    features: Float32[Array, "batch frame bin"],
    num_frames: Int32[Array, " batch"],
    *,
    mode: Literal["train", "evaluate"],
    dropout_key: PRNGKeyArray | None = None,
) -> ModelOutput:
    """The network as a pure function.

    Args:
        parameters: nested dict as `init_parameters` makes it.
        statistics: running statistics for "evaluate"; not read in "train", which uses the batch's own.
        features, num_frames: normalised features and valid frames; what lies behind `num_frames` has no effect, NaN included.
        dropout_key: randomness of this batch's dropout; None drops nothing.
    """
    graph, state = _structure(settings)
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, parameters)
    model = nnx.merge(graph, state)
    forward = ForwardPass(policy, statistics if mode == "evaluate" else None)
    logits, output_frames = model(features, num_frames, forward, dropout_key if mode == "train" else None)
    return ModelOutput(logits, output_frames, forward.moments)


def init_parameters(settings: ModelSettings, seed: int) -> Parameters:
    """Initial weights: scaled uniform for input matrices, orthogonal for recurrent ones, zero biases, unit scales."""
    _, state = _structure(settings)
    key = jax.random.key(seed)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _initial(key, path, leaf.shape), nnx.to_pure_dict(state))


def initial_statistics(settings: ModelSettings) -> Statistics:
    """Running mean 0 and variance 1 of every batch normalisation, by name; empty for other normalisations."""
    if settings.normalization != "batch":
        return {}
    graph, state = _structure(settings)
    modules = [m for _, m in nnx.iter_graph(nnx.merge(graph, state)) if isinstance(m, Normalization)]
    sizes = {module.name: module.shift.shape[0] for module in modules}
    return {name: {"mean": jnp.zeros(size), "variance": jnp.ones(size)} for name, size in sorted(sizes.items())}


def output_frames(settings: ModelSettings, num_frames: Frames) -> Frames:
    """Frames after the front end for so many before it; takes ints and integer arrays."""
    return front_end_frames(settings.front_end, num_frames)


def parameter_table(settings: ModelSettings) -> list[tuple[str, tuple[int, ...], int]]:
    """Dotted path, shape and number of values of each parameter, sorted by path."""
    _, state = _structure(settings)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    return sorted((_dotted(path), tuple(leaf.shape), leaf.size) for path, leaf in leaves)


@lru_cache(maxsize=16)
def _structure(settings: ModelSettings) -> tuple[Any, Any]:
    """Graph definition and abstract state; no array is made."""
    return nnx.split(nnx.eval_shape(lambda: DeepSpeech(settings)))


def _directions(settings: ModelSettings) -> tuple[str, ...]:
    return ("forward", "backward") if settings.direction == "bidirectional" else ("forward",)


def _dotted(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _initial(key: PRNGKeyArray, path: tuple, shape: tuple[int, ...]) -> Array:
    name = _dotted(path)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("shift", "b_n", "output_bias"):
        return jnp.zeros(shape)
    if leaf == "scale":
        return jnp.ones(shape)
    # Not Python's hash(), which is salted: the same path must give the same number in every process.
    own_key = jax.random.fold_in(key, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    if leaf.startswith("u_"):
        return jax.nn.initializers.orthogonal()(own_key, shape, jnp.float32)
    return jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")(own_key, shape, jnp.float32)


def _dropout(x: Array, rate: float, key: PRNGKeyArray) -> Array:
    """Zero a share `rate` of the values and divide the others by 1 - rate."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / jnp.float32(1.0 - rate), 0.0)
