"""Deep Speech 2: front end, GRU layers, a linear layer to the classes (Amodei et al. 2015).

The GRU layers are bidirectional, or, in the model that is deployed and can be streamed, forward ones with a row convolution behind the
last, by which an output frame sees a stated number of those that follow it: the paper's equation, r[t, i] = sum over j of W[i, j]
h[t + j - 1, i], without bias, normalisation or rectifier (deepspeech.pytorch puts a clipped rectifier behind it). Behind an utterance's
last frame it sees zeros.

Structure and parameters are flax NNX modules; the trainer sees pure functions of a nested dict of float32 arrays.
Each GRU layer normalises its input projection, the first layer's too, gate by gate and before the gate's bias (the
normalisation's shift is that bias), and never the recurrent product. The logits leave the network in float32,
whatever the storage format is: CTC is a float32 island.

Formats. What a layer hands on goes through `ForwardPass.store`: features, front-end outputs, normalised projections, states,
dropped-out states; what reads it, through `load`. Every product goes through `dot` or `convolve`. The weights come as the network
reads them: whoever calls has put them on the storage grid, once a step and not once a shard (`store_weights`).

Padding. An utterance's logits do not depend on what else is in its batch or on how far it is padded, as mathematics,
except that batch normalisation in training is by definition over the shard. At equal shape that holds to the bit. At
another batch size or padded length a product may be summed in another order: on CPU the front ends came out
bit-equal, the recurrent products too except for a batch of one row, the output layer not.

Initial values are a function of (seed, parameter path) alone, drawn by NumPy from a counter-based generator: the same
bits on every backend, and adding a layer does not reshuffle the others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int32, PRNGKeyArray

from dsrun.arithmetic import FLOAT32_POLICY, Policy
from dsrun.arithmetic.policy import site_key
from dsrun.arithmetic.random_bits import Key
from dsrun.model.frontend import Frames, FrontEndSettings, front_end_frames, make_front_end, time_stride
from dsrun.model.gru import (
    Direction,
    Gates,
    Recurrence,
    Residuals,
    are_joint,
    describe_loops,
    gru_sequences,
    keep_states_only,
    sum_directions,
    valid_frames,
)
from dsrun.model.norm import ForwardPass, Moments, Normalization, NormalizationKind, Statistics

Parameters = dict[str, Any]


@dataclass(frozen=True)
class ModelSettings:
    """Shape of the network; hashable, so that compiled functions can be specialised on it.

    Fields:
        num_bins: of the features. num_classes: blank included. front_end: which, and its sizes.
        hidden, layers: of the GRU stack. direction: "bidirectional" sums a forward and a backward layer.
        normalization: of every layer but the last: "batch", "layer" or "none".
        dropout: share of each GRU layer's output that training sets to zero, 0 to below 1.
        relu_clip: upper bound of the front end's rectifier.
        residuals: what a GRU layer keeps for its backward pass: its gates, or its states alone (`gru`).
        lookahead: following output frames that the row convolution behind the last GRU layer sees; 0 is a network without.
    """

    num_bins: int
    num_classes: int
    front_end: FrontEndSettings
    hidden: int
    layers: int
    direction: Literal["bidirectional", "forward"]
    normalization: NormalizationKind
    dropout: float
    relu_clip: float
    residuals: Residuals = "store"
    lookahead: int = 0


class ModelOutput(NamedTuple):
    """Logits, valid output frames, and in training the batch normalisations' sums by name (to `update_running`)."""

    logits: Float32[Array, "batch output_frame class"]
    num_frames: Int32[Array, " batch"]
    moments: dict[str, Moments]


class GruDirection(nnx.Module):
    """One direction of one layer: input projection, normalisation and recurrence, each gate an array of its own."""

    def __init__(self, inputs: int, hidden: int, normalization: NormalizationKind, name: str):
        self.w_r, self.w_z, self.w_n = (_zeros(inputs, hidden) for _ in range(3))
        self.u_r, self.u_z, self.u_n = (_zeros(hidden, hidden) for _ in range(3))
        self.b_n = _zeros(hidden)
        self.name = name
        self.normalization_r, self.normalization_z, self.normalization_n = (
            Normalization(normalization, hidden, f"{name}.{gate}") for gate in "rzn"
        )

    def projections(
        self,
        x: Float[Array, "output_frame batch input"],
        is_valid: Bool[Array, "output_frame batch 1"],
        forward: ForwardPass,
    ) -> Gates:
        """Normalised input projections of all frames."""
        weights = [w[...] for w in (self.w_r, self.w_z, self.w_n)]
        norms = (self.normalization_r, self.normalization_z, self.normalization_n)
        products = forward.dots(x, weights, [f"{self.name}.w_{gate}" for gate in "rzn"])
        normalized = [norm(y, is_valid, forward) for norm, y in zip(norms, products, strict=True)]
        return Gates(
            *(forward.store(y, f"{self.name}.projection_{gate}") for y, gate in zip(normalized, "rzn", strict=True))
        )

    def recurrence(self) -> Recurrence:
        """Recurrent weights as the loop reads them."""
        return Recurrence(self.u_r[...], self.u_z[...], self.u_n[...], self.b_n[...])


class DeepSpeech(nnx.Module):
    """The whole network. Parameters are zeros until a dict of values is put in their place (`apply`)."""

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        normalization = settings.normalization
        self.front_end = make_front_end(settings.front_end, settings.num_bins, normalization, settings.relu_clip)
        inputs = self.front_end.num_outputs
        for layer in range(settings.layers):
            for name in gru_paths(settings, layer):
                setattr(self, name, GruDirection(inputs, settings.hidden, normalization, name))
            inputs = settings.hidden
        if settings.lookahead:
            self.lookahead_kernel = _zeros(settings.lookahead + 1, inputs)
        self.output_kernel = _zeros(inputs, settings.num_classes)
        self.output_bias = _zeros(settings.num_classes)

    def __call__(
        self,
        features: Float32[Array, "batch frame bin"],
        num_frames: Int32[Array, " batch"],
        forward: ForwardPass,
        dropout_key: PRNGKeyArray | None,
    ) -> tuple[Float32[Array, "batch output_frame class"], Int32[Array, " batch"]]:
        """Logits and valid output frames."""
        rate = self.settings.dropout
        x = self.front_end(forward.store(features, "features"), num_frames, forward)
        output_frames = front_end_frames(self.settings.front_end, num_frames)
        is_valid = valid_frames(output_frames, x.shape[1])
        x = jnp.swapaxes(x, 0, 1)  # time-major from here to the last layer
        for layer in range(self.settings.layers):
            x = self.gru_layer(layer, x, is_valid, forward)
            if dropout_key is not None and rate > 0.0:
                dropped = _dropout(forward.load(x), rate, jax.random.fold_in(dropout_key, layer))
                x = forward.store(dropped, f"gru_{layer}.dropout")
        return self.output_layers(x, forward), output_frames

    def output_layers(
        self, x: Float[Array, "output_frame batch hidden"], forward: ForwardPass
    ) -> Float32[Array, "batch output_frame class"]:
        """What follows the last GRU layer: row convolution where there is one, and the linear layer. `x` is zero in padded frames."""
        if self.settings.lookahead:
            x = self.look_ahead(jnp.pad(x, ((0, self.settings.lookahead), (0, 0), (0, 0))), forward)
        return self.classify(x, forward)

    def classify(
        self, x: Float[Array, "output_frame batch hidden"], forward: ForwardPass
    ) -> Float32[Array, "batch output_frame class"]:
        """The linear layer."""
        product = forward.dot(x, self.output_kernel[...], "output_kernel")
        logits = product + forward.load(self.output_bias[...])[None, None]
        return jnp.swapaxes(forward.receive(logits, "logits"), 0, 1)

    def look_ahead(
        self, x: Float[Array, "frame batch hidden"], forward: ForwardPass
    ) -> Float[Array, "output_frame batch hidden"]:
        """The row convolution of all frames but the last `lookahead`, which only others see."""
        seen = forward.row_convolve(x, self.lookahead_kernel[...], "lookahead_kernel")
        return forward.store(seen, "lookahead.output")

    def gru_layer(
        self,
        layer: int,
        x: Float[Array, "output_frame batch input"],
        is_valid: Bool[Array, "output_frame batch 1"],
        forward: ForwardPass,
    ) -> Float[Array, "output_frame batch hidden"]:
        """One layer, its directions summed; without dropout."""
        paths = gru_paths(self.settings, layer)
        states = self._gru_states(paths, x, is_valid, forward)
        for path, state in zip(paths, states, strict=True):
            forward.tap(state, f"{path}.state")
        states = [forward.probed(state, f"{path}.state") for path, state in zip(paths, states, strict=True)]
        return sum_directions(states, forward, f"gru_{layer}.output")

    def _gru_states(self, paths: list[str], x: Array, is_valid: Array, forward: ForwardPass) -> Sequence[Array]:
        if self.settings.residuals == "store" or forward.is_watched:
            return self._gru_directions([getattr(self, path) for path in paths], paths, x, is_valid, forward)
        split = [nnx.split(getattr(self, path)) for path in paths]

        def states(x: Array, values: list[Any], statistics: Any) -> tuple[Sequence[Array], dict[str, Moments]]:
            # Another pass object: what is computed twice must not leave anything behind in the first one.
            own = replace(forward, statistics=statistics, moments={})
            modules = [nnx.merge(graph, value) for (graph, _), value in zip(split, values, strict=True)]
            return self._gru_directions(modules, paths, x, is_valid, own), own.moments

        found, moments = keep_states_only(states)(x, [value for _, value in split], forward.statistics)
        forward.moments.update(moments)
        return found

    def _gru_directions(
        self, modules: Sequence[Any], paths: list[str], x: Array, is_valid: Array, forward: ForwardPass
    ) -> Sequence[Array]:
        return gru_sequences(
            [module.projections(x, is_valid, forward) for module in modules],
            is_valid,
            [module.recurrence() for module in modules],
            policy=forward.policy,
            directions=_directions(self.settings),
            paths=paths,
            key=forward.key,
            residuals=self.settings.residuals,
        )


def gru_paths(settings: ModelSettings, layer: int) -> list[str]:
    """Of the directions of a layer: prefix of their parameters and of the places where they store values."""
    return [f"gru_{layer}_{direction}" for direction in _directions(settings)]


def describe_gru(settings: ModelSettings, policy: Policy, *, backend: str | None = None) -> str:
    """Which code runs the GRU layers on this backend, and the paths of those that a rule makes differ, in words."""
    found: dict[str, list[str]] = {}
    for layer in range(settings.layers):
        paths = gru_paths(settings, layer)
        found.setdefault(describe_loops(policy, paths, settings.residuals, backend=backend), []).append(str(layer))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"layers {', '.join(layers)}: {words}" for words, layers in found.items())


def refuse_what_cannot_be_recomputed(settings: ModelSettings, policy: Policy) -> None:
    """Raises ValueError where `residuals: recompute` cannot be honoured under the policy; names the layer."""
    for layer in range(settings.layers):
        if settings.residuals == "recompute" and not are_joint(policy, gru_paths(settings, layer)):
            raise ValueError(
                f"model.residuals is recompute, which restores the gates of gru_{layer} with one product over all frames. That needs "
                "compute, storage and gradient formats that round each value alone (no scale, no stochastic rounding), compute alike for "
                "its three gates, and float32 accumulation. Write model.residuals: store."
            )


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
    key: Key | None = None,
    taps: dict[str, Array] | None = None,
    probes: dict[str, Array] | None = None,
) -> ModelOutput:
    """The network as a pure function.

    Args:
        settings, policy: shape and number formats; static under jit.
        parameters: nested dict as `init_parameters` makes it, its values as the network reads them (`store_weights`).
        statistics: running statistics for "evaluate"; not read in "train", which uses the shard's own.
        features: normalised features; what lies behind `num_frames` has no effect, NaN included.
        num_frames: valid frames of each utterance; a row with none is filler, harmless and without gradient.
        dropout_key: randomness of this shard's dropout; None drops nothing. Not read in "evaluate".
        key: of `arithmetic.random_bits`, for policies that draw inside the network; None where none does.
        taps, probes: of `ForwardPass`, for watching; a dict to fill, and zeros by path.

    Returns:
        Logits float32. Those of padded output frames are finite and without meaning.

    Raises:
        ValueError: "evaluate" of a network with batch normalisation, without statistics.
    """
    if mode == "evaluate" and statistics is None:
        raise ValueError("mode 'evaluate' normalises with running statistics; give statistics, or use mode 'train'.")
    model = network_of(settings, parameters)
    forward = ForwardPass(
        policy,
        statistics if mode == "evaluate" else None,
        key if policy.draws_in_network else None,
        taps=taps,
        probes=probes,
    )
    logits, output_frames = model(features, num_frames, forward, dropout_key if mode == "train" else None)
    return ModelOutput(logits, output_frames, forward.moments)


def network_of(settings: ModelSettings, parameters: Parameters) -> DeepSpeech:
    """The network with these values as its parameters."""
    graph, state = _structure(settings)
    state = jax.tree.map(lambda leaf: leaf, state)  # the cached one must not be written to
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(graph, state)


def store_weights(policy: Policy, master: Parameters, key: Key | None = None) -> Parameters:
    """The weights as the network reads them: each master value on the storage grid of its path.

    Args:
        master: nested dict as `init_parameters` makes it. key: for a storage rounding that draws; another one each step.
    """

    def read(path: tuple, w: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        name = _dotted(path)
        own = site_key(key, "storage", name) if policy.rounding("storage", name).draws else None
        return policy.round_weight(w, name, own)

    return jax.tree_util.tree_map_with_path(read, master)


def init_parameters(settings: ModelSettings, seed: int) -> Parameters:
    """Initial weights, float32: a function of (seed, path) and the shape, and of nothing else.

    Biases and shifts 0, scales 1. Convolutions, frame stacking and the output layer uniform with variance
    2 / (fan_in + fan_out) (Glorot & Bengio 2010). A GRU's matrices, input and recurrent, uniform within 1 / sqrt(hidden),
    as torch's nn.GRU; orthogonal recurrent ones trained no better, and a QR decomposition's bits
    depend on the linear-algebra library and its threads.

    A row convolution starts by handing each frame on: 1 for the frame itself, 0 for those that follow. Uniform values, as torch's
    convolutions have, mix 21 states at random: after 10 epochs of prompts_streaming dev CER was 0.93 with them, 0.50 so.
    """
    shapes = nnx.to_pure_dict(_structure(settings)[1])
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _initial(seed, _dotted(path), leaf.shape), shapes)


def initial_statistics(settings: ModelSettings) -> Statistics:
    """Running mean 0 and variance 1 of every batch normalisation, by name; empty for other normalisations."""
    if settings.normalization != "batch":
        return {}
    modules = [m for _, m in nnx.iter_graph(nnx.merge(*_structure(settings))) if isinstance(m, Normalization)]
    sizes = sorted((module.name, module.shift.shape[0]) for module in modules)
    return {name: {"mean": jnp.zeros(n, jnp.float32), "variance": jnp.ones(n, jnp.float32)} for name, n in sizes}


def output_frames(settings: ModelSettings, num_frames: Frames) -> Frames:
    """Frames after the front end for so many before it; takes ints and integer arrays."""
    return front_end_frames(settings.front_end, num_frames)


def parameter_table(settings: ModelSettings) -> list[tuple[str, tuple[int, ...], int]]:
    """Dotted path, shape and number of values of each parameter, sorted by path."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(_structure(settings)[1]))
    return sorted((_dotted(path), tuple(leaf.shape), leaf.size) for path, leaf in leaves)


def stored_places(settings: ModelSettings) -> list[str]:
    """Paths of the places where the network stores a value, or receives an error: what rules can name beside parameters."""
    taps: dict[str, Array] = {}
    frames = 4 * time_stride(settings.front_end)

    def run() -> Array:
        parameters = nnx.to_pure_dict(_structure(settings)[1])
        parameters = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), parameters)
        features = jnp.zeros((1, frames, settings.num_bins), jnp.float32)
        key = jax.random.key(0)
        lengths = jnp.full((1,), frames, jnp.int32)
        return apply(
            settings, FLOAT32_POLICY, parameters, None, features, lengths, mode="train", dropout_key=key, taps=taps
        ).logits

    jax.eval_shape(run)
    return sorted(taps)


@lru_cache(maxsize=16)
def _structure(settings: ModelSettings) -> tuple[Any, Any]:
    """Graph definition and abstract state; no array is made."""
    return nnx.split(nnx.eval_shape(lambda: DeepSpeech(settings)))


def _directions(settings: ModelSettings) -> tuple[Direction, ...]:
    return ("forward", "backward") if settings.direction == "bidirectional" else ("forward",)


def _zeros(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32))


def _dotted(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _initial(seed: int, path: str, shape: tuple[int, ...]) -> Array:
    leaf = path.rsplit(".", 1)[-1]
    if leaf in ("shift", "b_n", "output_bias"):
        return jnp.zeros(shape, jnp.float32)
    if leaf == "scale":
        return jnp.ones(shape, jnp.float32)
    if leaf == "lookahead_kernel":
        return jnp.pad(jnp.ones((1, shape[1]), jnp.float32), ((0, shape[0] - 1), (0, 0)))
    # Not Python's hash(), which is salted: the same path must give the same key in every process.
    key = int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:16], "little")
    random = np.random.Generator(np.random.Philox(key=key))
    *field, inputs, outputs = shape
    is_gru = leaf[:2] in ("w_", "u_")
    bound = 1.0 / np.sqrt(outputs) if is_gru else np.sqrt(6.0 / (np.prod(field) * (inputs + outputs)))
    return jnp.asarray(random.uniform(-bound, bound, shape), jnp.float32)


def _dropout(x: Float32[Array, "*shape"], rate: float, key: PRNGKeyArray) -> Float32[Array, "*shape"]:
    """Zero a share `rate` of the values and divide the others by 1 - rate."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / jnp.float32(1.0 - rate), 0.0)
