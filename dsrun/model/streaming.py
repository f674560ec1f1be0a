"""The network in pieces of a fixed shape, with what it must remember carried from one piece to the next.

Only a network of forward layers can be run so: a backward direction begins at the end. Each call is given a chunk of frames and gives the
logits of as many output frames as the chunk is worth; one shape, so one compilation, whatever the recording's length.

Delay. A layer whose output t sees inputs up to t * stride + future cannot give it before those are there, so its outputs lag. With
chunks of c outputs (c * stride inputs) and inputs that lag by d, call n has inputs up to (n + 1) c * stride - d - 1, and its outputs
are the c ones before (n + 1) c - D, with

    D = ceil((d + future + 1 - stride) / stride)

Delays add up from layer to layer: front end (`time_windows`), GRU layers 0, row convolution `lookahead`. Each layer carries the last
D * stride + past - d of its inputs; a GRU layer its state.

Edges. What lies before the first frame and behind the last is zero for every layer, as in the whole pass: not the layer's answer to
zeros, which has a bias in it. So each layer clears the outputs whose number is below 0 or not below the utterance's, and after the
last frames come chunks of nothing, with the utterance's length now known, until the last logits are out. No output has been treated
as real by then that is not: one is computed only when all frames that it sees have come, and frames behind the end do not come.

The same logits. Every value comes from the same operations as in the whole pass; the recurrent products have the same shapes and the
row convolution sums in a stated order. The products over many frames have another number of rows, and the backend may order their
sums by it: equal to the bit in most shapes on CPU, else to float32's rounding. Roundings that draw random bits number the elements
of a whole batch, so a policy with such is refused.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from dsrun.arithmetic import Policy
from dsrun.model.deep_speech import (
    DeepSpeech,
    ModelSettings,
    Parameters,
    gru_paths,
    network_of,
)
from dsrun.model.frontend import TimeWindow, front_end_frames, time_stride, time_windows
from dsrun.model.gru import continue_gru
from dsrun.model.norm import ForwardPass, Statistics

UNKNOWN = np.int32(2**30)  # the length of an utterance that has not ended


class Carried(NamedTuple):
    """What one chunk leaves for the next: inputs that front-end layers and row convolution still see, and the GRU layers' states."""

    front_end: tuple[Float[Array, "1 _ ..."], ...]
    states: tuple[Float32[Array, "1 hidden"], ...]
    lookahead: Float[Array, "lookahead 1 hidden"]
    chunk_number: Int32[Array, ""]


def refuse_what_cannot_be_streamed(settings: ModelSettings, policy: Policy) -> None:
    """Raises ValueError where the same result in pieces is impossible; says why, and the way out."""
    if settings.direction != "forward":
        raise ValueError(
            "its layers are bidirectional (model.direction), and the backward ones begin at the end of a recording. Train a network with "
            "direction: forward, and lookahead: 20 if it is to see some of what follows; or transcribe whole files."
        )
    if policy.draws_in_network:
        raise ValueError(
            "its arithmetic rounds at random inside the network, and those roundings number the elements of a whole recording. Transcribe "
            "whole files, or use a run without stochastic rounding of storage, compute, accumulate, gradient or ctc."
        )


def lag(settings: ModelSettings) -> int:
    """Output frames by which the logits are behind the frames given so far: what front end and row convolution wait for."""
    return delays_of(settings)[-1] + settings.lookahead


def frames_needed(settings: ModelSettings) -> int:
    """Frames behind the first of an output frame that must be there before its logits are: the future that the network sees."""
    first = time_stride(settings.front_end) * settings.lookahead
    stride = 1
    for window in time_windows(settings.front_end):
        first += stride * window.future
        stride *= window.stride
    return first


class InChunks:
    """Logits of one utterance while its features come: frames of any number at a time, handed to a network in chunks of one size.

    `push` and `finish` return the logits that have become known, in order, each output frame once. `given` counts them, and `calls` those
    of the network.

    Args:
        chunk: output frames a call of the network; what is pushed waits until it is enough for one.
    """

    def __init__(self, settings: ModelSettings, *, chunk: int):
        self.settings, self.chunk = settings, chunk
        self.frames_a_chunk = chunk * time_stride(settings.front_end)
        self.restart()

    def restart(self) -> None:
        """Begin another utterance."""
        self._waiting = np.zeros((0, self.settings.num_bins), np.float32)
        self._num_frames = self.given = self.calls = 0

    def push(self, features: Float32[np.ndarray, "_ bin"]) -> Float32[np.ndarray, "_ class"]:
        """Frames that follow those pushed before; any number."""
        self._num_frames += len(features)
        self._waiting = np.concatenate([self._waiting, features])
        found = [np.zeros((0, self.settings.num_classes), np.float32)]
        while len(self._waiting) >= self.frames_a_chunk:
            chunk, self._waiting = np.split(self._waiting, [self.frames_a_chunk])
            found.append(self._counted(chunk, UNKNOWN))
        return np.concatenate(found)

    def finish(self) -> Float32[np.ndarray, "_ class"]:
        """The utterance has ended: all logits that are left."""
        total = front_end_frames(self.settings.front_end, self._num_frames)
        found = [np.zeros((0, self.settings.num_classes), np.float32)]
        while self.given < total:
            rest = np.zeros((self.frames_a_chunk, self.settings.num_bins), np.float32)
            rest[: len(self._waiting)], self._waiting = self._waiting, self._waiting[:0]
            found.append(self._counted(rest, np.int32(self._num_frames)))
        return np.concatenate(found)

    def _counted(
        self, features: Float32[np.ndarray, "frame bin"], num_frames: np.int32
    ) -> Float32[np.ndarray, "_ class"]:
        fresh = self._call(features, num_frames)
        self.calls += 1
        self.given += len(fresh)
        return fresh

    def _call(self, features: Float32[np.ndarray, "frame bin"], num_frames: np.int32) -> Float32[np.ndarray, "_ class"]:
        """The logits that one chunk makes known; `num_frames` of the utterance, or UNKNOWN while it has not ended."""
        raise NotImplementedError


class LogitStream(InChunks):
    """Of a network in the arithmetic that it was trained in.

    Args:
        settings, policy: shape and number formats. parameters: as the network reads them. statistics: running ones.
        chunk: output frames a call of the network.

    Raises:
        ValueError: the network cannot be streamed.
    """

    def __init__(
        self, settings: ModelSettings, policy: Policy, parameters: Parameters, statistics: Statistics, *, chunk: int
    ):
        refuse_what_cannot_be_streamed(settings, policy)
        self._step: Callable[..., Any] = jax.jit(partial(_step, settings, policy, chunk))
        self._weights = (parameters, statistics)
        shapes = jax.eval_shape(partial(_start, settings, policy, chunk), parameters, statistics)
        self._start: Carried = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
        super().__init__(settings, chunk=chunk)

    def restart(self) -> None:
        """Begin another utterance."""
        super().restart()
        self._carried = self._start

    def _call(self, features: Float32[np.ndarray, "frame bin"], num_frames: np.int32) -> Float32[np.ndarray, "_ class"]:
        self._carried, logits = self._step(*self._weights, self._carried, features[None], num_frames)
        # Output frames of this call: those with a number from 0, which come last, and up to the utterance's end.
        first = self.calls * self.chunk - lag(self.settings)
        stop = min(first + self.chunk, front_end_frames(self.settings.front_end, int(num_frames)))
        return np.asarray(logits)[max(-first, 0) : max(stop - first, 0)]


def delays_of(settings: ModelSettings) -> list[int]:
    """By which each front-end layer's input lags, in its frames, and at the end the last one's output."""
    found = [0]
    for window in time_windows(settings.front_end):
        found.append(-(-(found[-1] + window.future + 1 - window.stride) // window.stride))
    return found


def kept_inputs(window: TimeWindow, before: int, after: int) -> int:
    """Inputs that a layer carries, its input and its output lagging by so much."""
    return after * window.stride + window.past - before


def _step(
    settings: ModelSettings,
    policy: Policy,
    chunk: int,
    parameters: Parameters,
    statistics: Statistics,
    carried: Carried,
    features: Float32[Array, "1 frame bin"],
    num_frames: Int32[Array, ""],
) -> tuple[Carried, Float32[Array, "output_frame class"]]:
    """One chunk; `num_frames` is the utterance's length, where it is known."""
    model, forward = network_of(settings, parameters), ForwardPass(policy, statistics)
    number = carried.chunk_number
    x, buffers = _front_end(model, forward, chunk, carried, features, num_frames)
    output_frames = front_end_frames(settings.front_end, num_frames)
    is_valid = numbers_within(number * chunk - delays_of(settings)[-1], chunk, output_frames)
    x, states = _gru_layers(model, forward, carried.states, jnp.swapaxes(x, 0, 1), is_valid[:, None, None])
    seen = jnp.concatenate([carried.lookahead, x])
    lookahead = seen[len(seen) - settings.lookahead :]
    x = model.look_ahead(seen, forward) if settings.lookahead else x
    logits = model.classify(x, forward)[0]
    return Carried(buffers, states, lookahead, number + jnp.int32(1)), logits


def _front_end(
    model: DeepSpeech,
    forward: ForwardPass,
    chunk: int,
    carried: Carried,
    features: Float32[Array, "1 frame bin"],
    num_frames: Int32[Array, ""],
) -> tuple[Float[Array, "1 output_frame input"], tuple[Array, ...]]:
    """Output frames of a chunk, and what the layers carry."""
    front_end, settings = model.front_end, model.settings
    windows, delays = time_windows(settings.front_end), delays_of(settings)
    is_valid = numbers_within(carried.chunk_number * features.shape[1], features.shape[1], num_frames)
    stored = forward.store(features, "features")
    x = front_end.enter(jnp.where(is_valid[None, :, None], stored, jnp.zeros((), stored.dtype)))
    buffers, length = [], num_frames
    for layer, window in enumerate(windows):
        x = jnp.concatenate([carried.front_end[layer], x], axis=1)
        buffers.append(x[:, x.shape[1] - kept_inputs(window, *delays[layer : layer + 2]) :])
        length = -(-length // window.stride)
        outputs = (x.shape[1] - buffers[-1].shape[1]) // window.stride
        is_valid = numbers_within(carried.chunk_number * outputs - delays[layer + 1], outputs, length)
        x = front_end.layer(layer, x, is_valid[None, :, None], forward)
    return front_end.leave(x), tuple(buffers)


def _gru_layers(
    model: DeepSpeech,
    forward: ForwardPass,
    states: tuple[Float32[Array, "1 hidden"], ...],
    x: Float[Array, "output_frame 1 input"],
    is_valid: Bool[Array, "output_frame 1 1"],
) -> tuple[Float[Array, "output_frame 1 hidden"], tuple[Float32[Array, "1 hidden"], ...]]:
    """The layers' last output, and where each of them stands."""
    ends = []
    for layer, start in enumerate(states):
        (path,) = gru_paths(model.settings, layer)
        direction = getattr(model, path)
        projections = direction.projections(x, is_valid, forward)
        x, end = continue_gru(projections, is_valid, direction.recurrence(), start, policy=forward.policy, path=path)
        ends.append(end)
    return x, tuple(ends)


def numbers_within(
    first: Int32[Array, "*streams"], count: int, stop: Int32[Array, "*streams"]
) -> Bool[Array, "*streams count"]:
    """Of `count` numbers from `first` on: is it a frame of the utterance?"""
    numbers = first[..., None] + jnp.arange(count, dtype=jnp.int32).reshape((1,) * first.ndim + (count,))
    return (numbers >= 0) & (numbers < stop[..., None])


def _start(
    settings: ModelSettings, policy: Policy, chunk: int, parameters: Parameters, statistics: Statistics
) -> Carried:
    """What is carried before the first chunk: zeros. Traced for shapes and dtypes alone; they are those that a chunk leaves."""
    model, forward = network_of(settings, parameters), ForwardPass(policy, statistics)
    delays, buffers = delays_of(settings), []
    features = jnp.zeros((1, chunk * time_stride(settings.front_end), settings.num_bins), jnp.float32)
    x = model.front_end.enter(forward.store(features, "features"))
    for layer, window in enumerate(time_windows(settings.front_end)):
        buffers.append(jnp.zeros((1, kept_inputs(window, *delays[layer : layer + 2]), *x.shape[2:]), x.dtype))
        is_valid = jnp.ones((1, x.shape[1] // window.stride, 1), bool)
        x = model.front_end.layer(layer, jnp.concatenate([buffers[-1], x], axis=1), is_valid, forward)
    states = (jnp.zeros((1, settings.hidden), jnp.float32),) * settings.layers
    x = jnp.swapaxes(model.front_end.leave(x), 0, 1)
    x, _ = _gru_layers(model, forward, states, x, jnp.ones((chunk, 1, 1), bool))
    return Carried(tuple(buffers), states, jnp.zeros((settings.lookahead, 1, settings.hidden), x.dtype), jnp.int32(0))
