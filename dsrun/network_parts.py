"""The gradient program in pieces, each compiled and timed by itself: front end, GRU layers, output layer, CTC, and back.

Each forward piece is the network's own module under `jax.vjp`, so it computes what training computes and keeps what its backward piece
reads; the pieces hand their arrays over in memory, where one program would fuse across their borders. Dropout between layers, counts of
frames and the sums of the normalisations' moments are left out.

All devices work on a piece at the same time, one shard each, as they do in training; a piece's seconds are those until the last is done.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dsrun.ctc import policy_ctc_loss
from dsrun.model.deep_speech import DeepSpeech
from dsrun.model.frontend import front_end_frames
from dsrun.model.gru import valid_frames
from dsrun.model.norm import ForwardPass
from dsrun.training.step import Shard, TrainStep, pass_keys

PARTS = (
    *("front_end_forward", "gru_forward", "output_forward", "ctc"),
    *("output_backward", "gru_backward", "front_end_backward"),
)
Timings = dict[str, float]


class Clock:
    """Adds the seconds of what it waits for to a dict."""

    def __init__(self, found: Timings):
        self.found = found

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(call())
        self.found[name] += time.perf_counter() - start
        return result


class NetworkParts:
    """The gradient program in pieces: the network's own modules, each with its forward and its backward program."""

    def __init__(self, step: TrainStep):
        self.step, self.settings, self.policy = step, step.settings, step.policy
        self._graph, self._state = nnx.split(nnx.eval_shape(lambda: DeepSpeech(step.settings)))
        self._threads = ThreadPoolExecutor(len(step.devices))
        self._front_end = jax.jit(self._forward_of("front_end", self._run_front_end))
        self._gru = jax.jit(self._forward_of("gru_", self._run_gru))
        self._output = jax.jit(self._forward_of(("lookahead_", "output_"), self._run_output))
        self._ctc = jax.jit(self._run_ctc)
        self._back = jax.jit(lambda pull, gradient: pull(gradient))

    def one_pass(self, state: Any, shards: Sequence[Sequence[Shard]]) -> Timings:
        """Seconds of each part over all batches; the shards that devices work on at the same time count once."""
        found = dict.fromkeys(PARTS, 0.0)
        for pieces in shards:
            self.gradients(state, pieces, Clock(found))
        return found

    def gradients(self, state: Any, pieces: Sequence[Shard], clock: Clock) -> list[dict[str, Any]]:
        """Gradient of each shard's summed loss by parameter, without loss scale and dropout, each part on the clock."""
        places = len(self.step.devices)
        common = (self.step.weights(state), state.step)
        by_device = [jax.device_put(common, device) for device in self.step.devices]
        found = []
        for first in range(0, len(pieces), places):
            group = pieces[first : first + places]
            found += self._one_group(clock, by_device[: len(group)], group, first)
        return found

    def _one_group(self, clock: Clock, common: Sequence[Any], group: Sequence[Shard], first: int) -> list[dict]:
        shards, ids = [], []
        for place, (shard, device) in enumerate(zip(group, self.step.devices, strict=False)):
            shards.append(jax.device_put(shard, device))
            ids.append(jax.device_put(np.array([self.step.seed, first + place], np.uint32), device))
        weights, keys = [w for w, _ in common], [(number, id) for (_, number), id in zip(common, ids, strict=True)]
        run = partial(self._across, clock)
        x, back_front = _columns(run("front_end_forward", self._front_end, weights, shards, keys))
        h, back_gru = _columns(run("gru_forward", self._gru, weights, shards, keys, x))
        logits, back_output = _columns(run("output_forward", self._output, weights, shards, keys, h))
        dlogits = run("ctc", self._ctc, logits, shards, keys)
        of_output, dh = _columns(run("output_backward", self._back, back_output, dlogits))
        of_gru, dx = _columns(run("gru_backward", self._back, back_gru, dh))
        of_front = [own for (own,) in run("front_end_backward", self._back, back_front, dx)]
        return [a | b | c for a, b, c in zip(of_front, of_gru, of_output, strict=True)]

    def _across(self, clock: Clock, name: str, program: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        """One call a device, at the same time."""
        return clock(name, lambda: list(self._threads.map(program, *columns)))

    def _forward_of(self, prefix: str | tuple[str, ...], run: Callable[..., Any]) -> Callable[..., Any]:
        """(weights, shard, keys[, x]) -> output and its pull-back to the weights under `prefix`, and to x where there is one."""

        def forward(weights: Any, shard: Shard, keys: Any, *x: Any) -> Any:
            own = {name: value for name, value in weights.items() if name.startswith(prefix)}

            def network(own: Any, *x: Any) -> Any:
                state = jax.tree.map(lambda leaf: leaf, self._state)
                nnx.replace_by_pure_dict(state, {**weights, **own})
                key = pass_keys(self.policy, keys[1][0], keys[0], keys[1][1]).rounding
                return run(nnx.merge(self._graph, state), shard, ForwardPass(self.policy, None, key), *x)

            return jax.vjp(network, own, *x)

        return forward

    def _run_front_end(self, model: Any, shard: Shard, forward: ForwardPass) -> Any:
        features = forward.store(jnp.asarray(shard.features), "features")
        return jnp.swapaxes(model.front_end(features, shard.num_frames, forward), 0, 1)

    def _run_gru(self, model: Any, shard: Shard, forward: ForwardPass, x: Any) -> Any:
        is_valid = valid_frames(self._output_frames(shard), x.shape[0])
        for layer in range(self.settings.layers):
            x = model.gru_layer(layer, x, is_valid, forward)
        return x

    def _run_output(self, model: Any, shard: Shard, forward: ForwardPass, x: Any) -> Any:
        return model.output_layers(x, forward)

    def _run_ctc(self, logits: Any, shard: Shard, keys: Any) -> Any:
        key = pass_keys(self.policy, keys[1][0], keys[0], keys[1][1]).rounding
        frames = self._output_frames(shard)

        def loss(logits: Any) -> Any:
            lengths = (frames, shard.labels, shard.num_labels)
            return jnp.sum(policy_ctc_loss(self.policy, logits, *lengths, key=key, kernel=self.step.ctc_kernel))

        return jax.grad(loss)(logits)

    def _output_frames(self, shard: Shard) -> Any:
        return front_end_frames(self.settings.front_end, jnp.asarray(shard.num_frames))


def _columns(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [a for a, _ in pairs], [b for _, b in pairs]
