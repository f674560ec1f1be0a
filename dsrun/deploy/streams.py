"""Streams: many recordings that come at the same time, one step of the network for all that have a chunk ready.

What a stream must remember (`model.streaming` says what and why) is kept on the device, in a pool with a slot for each stream; a step is
given the numbers of the slots, takes their rows out, computes, and puts them back. Steps are compiled for 1, 2, 4, ... streams, and fewer
are filled up with an empty slot, so there are few programs and their memory is known before anybody speaks.

A stream's logits do not depend on who else is in a step: to the bit for int8 and int4 networks (`Network.is_exact`), where they are also
those of the whole pass; with float formats a product of another number of rows may sum in another order.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from dsrun.deploy.network import Network, Pass
from dsrun.deploy.quantized import Arrays
from dsrun.model import time_stride
from dsrun.model.deep_speech import gru_paths
from dsrun.model.frontend import front_end_frames, time_windows
from dsrun.model.streaming import UNKNOWN, delays_of, kept_inputs, lag, numbers_within

__all__ = ["UNKNOWN", "PoolFull", "StreamPool", "refuse_what_cannot_be_streamed"]


class PoolFull(Exception):
    """As many streams are open as there are slots."""


class Remembered(NamedTuple):
    """Of every slot: inputs that front-end layers and row convolution still see, and the GRU layers' states."""

    front_end: tuple[Float32[Array, "slot _ ..."], ...]
    states: tuple[Float32[Array, "slot hidden"], ...]
    lookahead: Float32[Array, "slot lookahead hidden"]


def refuse_what_cannot_be_streamed(network: Network) -> None:
    """Raises ValueError for a network whose backward layers begin at the end of a recording."""
    if network.settings.direction != "forward":
        raise ValueError(
            "its layers are bidirectional (model.direction), and the backward ones begin at the end of a recording. Export a run with "
            "direction: forward, such as configs/prompts_streaming.yaml, or transcribe whole files."
        )


class StreamPool:
    """The streams of one network.

    Args:
        chunk: output frames that a step gives each stream. most_streams: slots.

    Raises:
        ValueError: the network cannot be streamed.
    """

    def __init__(self, network: Network, arrays: Arrays, *, chunk: int, most_streams: int):
        refuse_what_cannot_be_streamed(network)
        settings = network.settings
        self.network, self.chunk, self.most_streams = network, chunk, most_streams
        self.frames_a_chunk = chunk * time_stride(settings.front_end)
        self.num_bins, self.num_classes = settings.num_bins, settings.num_classes
        self.sizes = (*(2**power for power in range((most_streams - 1).bit_length())), most_streams)
        self._arrays, self._free = arrays, list(range(most_streams))[::-1]
        self._steps, self._given = np.zeros(most_streams, np.int32), np.zeros(most_streams, np.int64)
        self._step: Any = jax.jit(partial(_step, network, chunk), donate_argnums=1)
        self._remembered = _empty(network, chunk, most_streams + 1)

    def compile(self) -> None:
        """Compile every size, on silence in the empty slot."""
        for size in self.sizes:
            self._run(
                np.full(size, self.most_streams), np.zeros((size, self.frames_a_chunk, self.num_bins), np.float32)
            )

    @property
    def open_streams(self) -> int:
        """Slots in use."""
        return self.most_streams - len(self._free)

    def open(self) -> int:
        """A slot for a stream that begins. Raises PoolFull."""
        if not self._free:
            raise PoolFull(f"{self.most_streams} streams are open, and there is no room for more.")
        slot = self._free.pop()
        self._steps[slot] = self._given[slot] = 0
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back, wherever its stream stands."""
        assert slot not in self._free, "a slot is closed once"
        self._free.append(slot)

    def restart(self) -> None:
        """Forget all streams: after a step that failed, what the slots hold is lost. What was compiled stays."""
        self._free = list(range(self.most_streams))[::-1]
        self._remembered = _empty(self.network, self.chunk, self.most_streams + 1)

    def given(self, slot: int) -> int:
        """Output frames whose logits a stream has been given."""
        return int(self._given[slot])

    def output_frames(self, num_frames: int) -> int:
        """Of an utterance of so many frames: it is finished when so many are given."""
        return front_end_frames(self.network.settings.front_end, num_frames)

    def step(
        self,
        slots: Sequence[int],
        features: Float32[np.ndarray, "stream frame bin"],
        num_frames: Int32[np.ndarray, " stream"],
    ) -> list[Float32[np.ndarray, "_ class"]]:
        """One chunk of each of these streams, at most one a stream.

        Args:
            features: normalised, `frames_a_chunk` of each; behind a stream's end anything.
            num_frames: of the whole utterance, or UNKNOWN while it has not ended.

        Returns:
            Logits that have become known, for each stream in turn, every output frame once.
        """
        count = len(slots)
        size = next(size for size in self.sizes if size >= count)
        rows = np.full(size, self.most_streams)
        rows[:count] = slots
        padded = np.zeros((size, self.frames_a_chunk, self.num_bins), np.float32)
        padded[:count] = features
        lengths = np.full(size, UNKNOWN, np.int32)
        lengths[:count] = num_frames
        found = self._run(rows, padded, lengths)
        return [self._fresh(slot, found[row], int(lengths[row])) for row, slot in enumerate(slots)]

    def _run(self, rows: np.ndarray, features: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        lengths = np.full(len(rows), UNKNOWN, np.int32) if lengths is None else lengths
        numbers = np.append(self._steps, np.int32(0))[rows]
        self._remembered, found = self._step(
            self._arrays, self._remembered, rows.astype(np.int32), numbers, features, lengths
        )
        return np.asarray(found)

    def _fresh(self, slot: int, found: np.ndarray, num_frames: int) -> np.ndarray:
        """Those with a number from 0, which come last, up to the utterance's end."""
        first = int(self._steps[slot]) * self.chunk - lag(self.network.settings)
        stop = min(first + self.chunk, self.output_frames(num_frames))
        fresh = found[max(-first, 0) : max(stop - first, 0)]
        self._steps[slot] += 1
        self._given[slot] += len(fresh)
        return fresh


def _step(
    network: Network,
    chunk: int,
    arrays: Arrays,
    pool: Remembered,
    slots: Int32[Array, " stream"],
    numbers: Int32[Array, " stream"],
    features: Float32[Array, "stream frame bin"],
    num_frames: Int32[Array, " stream"],
) -> tuple[Remembered, Float32[Array, "stream output_frame class"]]:
    """One chunk of some streams; `numbers` counts a stream's chunks from 0."""
    run, settings = Pass(network, arrays), network.settings
    own: Remembered = jax.tree.map(lambda array: _rows_of(array, slots, numbers > 0), pool)
    x, buffers = _front_end(run, chunk, own, numbers, features, num_frames)
    output_frames = front_end_frames(settings.front_end, num_frames)
    is_valid = numbers_within(numbers * chunk - delays_of(settings)[-1], chunk, output_frames)
    h, valid, states = run.leave(x), jnp.swapaxes(is_valid[:, :, None], 0, 1), []
    for layer, start in enumerate(own.states):
        (path,) = gru_paths(settings, layer)
        h, last = run.direction(path, h, valid, start)
        states.append(last)
    seen = jnp.concatenate([jnp.swapaxes(own.lookahead, 0, 1), h])
    lookahead = jnp.swapaxes(seen[seen.shape[0] - settings.lookahead :], 0, 1)
    logits = run.classify(run.look_ahead(seen) if settings.lookahead else h)
    kept = Remembered(tuple(buffers), tuple(states), lookahead)
    return jax.tree.map(lambda array, new: array.at[slots].set(new), pool, kept), logits


def _rows_of(array: Array, slots: Array, has_begun: Bool[Array, " stream"]) -> Array:
    """The rows of some slots; zeros of a stream that begins, whatever its slot held."""
    rows = array[slots]
    return jnp.where(has_begun.reshape((-1,) + (1,) * (rows.ndim - 1)), rows, 0.0)


def _front_end(
    run: Pass, chunk: int, own: Remembered, numbers: Array, features: Array, num_frames: Array
) -> tuple[Array, list[Array]]:
    """Output frames of a chunk, and what the layers keep."""
    settings = run.settings
    delays, windows = delays_of(settings), time_windows(settings.front_end)
    is_valid = numbers_within(numbers * features.shape[1], features.shape[1], num_frames)
    x, buffers, lengths = run.enter(jnp.where(is_valid[:, :, None], features, 0.0)), [], num_frames
    for layer, window in enumerate(windows):
        x = jnp.concatenate([own.front_end[layer], x], axis=1)
        buffers.append(x[:, x.shape[1] - kept_inputs(window, *delays[layer : layer + 2]) :])
        lengths = -(-lengths // window.stride)
        outputs = (x.shape[1] - buffers[-1].shape[1]) // window.stride
        is_valid = numbers_within(numbers * outputs - delays[layer + 1], outputs, lengths)
        x = run.front_end_layer(layer, x, is_valid[:, :, None])
    return x, buffers


def _empty(network: Network, chunk: int, slots: int) -> Remembered:
    """A pool of zeros."""
    settings = network.settings
    delays, buffers = delays_of(settings), []
    shape: tuple[int, ...] = (settings.num_bins,)
    windows = time_windows(settings.front_end)
    if len(windows) > 1:
        shape = (settings.num_bins, 1)
    for layer, window in enumerate(windows):
        buffers.append(jnp.zeros((slots, kept_inputs(window, *delays[layer : layer + 2]), *shape), jnp.float32))
        if len(windows) > 1:
            shape = (-(-shape[0] // 2), settings.front_end.channels)  # type: ignore[union-attr]  # both halve the bins
    states = tuple(jnp.zeros((slots, settings.hidden), jnp.float32) for _ in range(settings.layers))
    return Remembered(tuple(buffers), states, jnp.zeros((slots, settings.lookahead, settings.hidden), jnp.float32))
