"""One training step: gradient of each shard, fixed-order sum, update.

    weights  = store(master)                          storage format; the master itself when storage is float32
    parts[j] = gradient(weights, shard j)             one compiled function, the same for every shard and device
    total    = parts summed in a fixed binary tree    adds only
    state    = update(state, total)                   clip, momentum, learning rate, add to the master

Four executables and not one: XLA fuses across what it can see, fusion decides where a multiply-add is contracted, and so a
single program gives other bits when its surroundings change. Separate programs cannot. For the same reason each device runs a
single-device program and not a partition of one: shard_map over one device and over two gave different bits on CPU.

The loss of a step is the mean over the utterances of the global batch; a shard computes sums, the update divides by
the count, so a batch with filler rows is weighted by what it holds.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

from dsrun.arithmetic import FLOAT32, Policy
from dsrun.ctc import BLANK, ctc_loss
from dsrun.model import ModelSettings, apply, init_parameters, initial_statistics, update_running
from dsrun.training.optimizer import Optimizer
from dsrun.training.reduction import global_norm, tree_sum
from dsrun.training.state import Scalar, StepRecord, TrainState, Tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ShardSums:
    """What one shard adds to the step: all fields are sums, so shards combine by addition."""

    gradient: Tree
    loss: Scalar
    utterances: Scalar
    blank_frames: Scalar
    frames: Scalar
    moments: Tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shard:
    """A fixed-shape slice of a global batch: features [batch, frame, bin], labels [batch, label], lengths [batch]."""

    features: Any
    num_frames: Any
    labels: Any
    num_labels: Any


class TrainStep:
    """Compiled training step for one model, policy and optimizer.

    Args:
        settings: shape of the network.
        policy: number formats by role.
        optimizer: direction and learning rate.
        clip_norm: the gradient's Euclidean norm is scaled down to this where it is larger; None never.
        shards: pieces that a global batch is cut into.
        seed: of initial weights and dropout.
        devices: shard j is worked on by device j modulo their number; does not change a bit of the result.
    """

    def __init__(
        self,
        settings: ModelSettings,
        policy: Policy,
        optimizer: Optimizer,
        *,
        clip_norm: float | None,
        shards: int,
        seed: int,
        statistics_momentum: float,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.settings, self.policy, self.optimizer = settings, policy, optimizer
        self.shards, self.seed = shards, seed
        self.devices = list(devices) if devices else jax.devices()[:1]
        self._threads = ThreadPoolExecutor(len(self.devices), thread_name_prefix="dsrun-device")
        self._store = jax.jit(partial(jax.tree.map, policy.round_storage))
        self._gradient = jax.jit(partial(_shard_sums, settings, policy))
        self._reduce = jax.jit(lambda parts: tree_sum(parts))
        self._update = jax.jit(partial(_update, optimizer, clip_norm, statistics_momentum), donate_argnums=0)

    def initial_state(self) -> TrainState:
        """State before the first update, a function of the model's settings and the seed."""
        master = init_parameters(self.settings, self.seed)
        return TrainState(
            step=jnp.int32(0),
            master=master,
            optimizer=self.optimizer.direction.init(master),
            statistics=initial_statistics(self.settings),
            loss_scale=jnp.float32(1.0),
        )

    def weights(self, state: TrainState) -> Tree:
        """The weights as the network reads them: the master, rounded to the storage format."""
        return state.master if self.policy.storage == FLOAT32 else self._store(state.master)

    def shard_sums(self, state: TrainState, shards: Sequence[Shard]) -> list[ShardSums]:
        """Gradient and sums of each shard, on the first device."""
        common = (self.weights(state), state.step, state.loss_scale)

        def work(place: int) -> list[ShardSums]:
            device = self.devices[place]
            shared = jax.device_put(common, device)
            mine = range(place, self.shards, len(self.devices))
            inputs = [jax.device_put((np.array([self.seed, j], np.uint32), shards[j]), device) for j in mine]
            return jax.device_put([self._gradient(*shared, *own) for own in inputs], self.devices[0])

        # A thread a device: compilation for the devices, and the work of CPU devices, go on side by side.
        by_device = list(self._threads.map(work, range(len(self.devices))))
        return [by_device[j % len(self.devices)][j // len(self.devices)] for j in range(self.shards)]

    def __call__(self, state: TrainState, shards: Sequence[Shard]) -> tuple[TrainState, StepRecord]:
        """One update. Dispatches and returns, nothing waits for the device; `state`'s buffers are reused."""
        total = self._reduce(self.shard_sums(state, shards))
        return self._update(state, total)


def split_batch(batch: Any, shards: int) -> list[Shard]:
    """Shard j is rows j*b to (j+1)*b - 1 of the global batch, b = rows / shards."""
    rows, left_over = divmod(len(batch.num_frames), shards)
    assert not left_over, f"{len(batch.num_frames)} rows do not make {shards} shards"
    pieces = [slice(j * rows, (j + 1) * rows) for j in range(shards)]
    return [
        Shard(batch.features[rows], batch.num_frames[rows], batch.labels[rows], batch.num_labels[rows])
        for rows in pieces
    ]


def _shard_sums(
    settings: ModelSettings,
    policy: Policy,
    weights: Tree,
    step: Int32[Array, ""],
    loss_scale: Float32[Array, ""],
    seed_and_shard: UInt32[Array, "2"],
    shard: Shard,
) -> ShardSums:
    """Gradient of the shard's summed loss, scaled by `loss_scale`, and the other sums."""
    dropout_key = jax.random.key(seed_and_shard[0])
    for number in (step.astype(jnp.uint32), seed_and_shard[1]):
        dropout_key = jax.random.fold_in(dropout_key, number)

    def scaled_loss(weights: Tree) -> tuple[Float32[Array, ""], ShardSums]:
        output = apply(
            settings, policy, weights, None, shard.features, shard.num_frames, mode="train", dropout_key=dropout_key
        )
        losses = ctc_loss(output.logits, output.num_frames, shard.labels, shard.num_labels)
        loss = jnp.sum(losses)
        frame = jnp.arange(output.logits.shape[1], dtype=jnp.int32)
        is_valid = frame[None, :] < output.num_frames[:, None]
        is_blank = (jnp.argmax(output.logits, axis=-1) == BLANK) & is_valid
        sums = ShardSums(
            gradient=None,
            loss=loss,
            utterances=jnp.sum((shard.num_frames > 0).astype(jnp.float32)),
            blank_frames=jnp.sum(is_blank.astype(jnp.float32)),
            frames=jnp.sum(is_valid.astype(jnp.float32)),
            moments=output.moments,
        )
        return loss * loss_scale, sums

    gradient, sums = jax.grad(scaled_loss, has_aux=True)(weights)
    return replace(sums, gradient=gradient)


def _update(
    optimizer: Optimizer, clip_norm: float | None, statistics_momentum: float, state: TrainState, total: ShardSums
) -> tuple[TrainState, StepRecord]:
    """The state after one update, or, where loss or gradient are not finite, the state as it was with `step` advanced."""
    gradient = jax.tree.map(lambda g: g / state.loss_scale / total.utterances, total.gradient)
    norm = global_norm(gradient)
    if clip_norm is not None:
        factor = jnp.minimum(jnp.float32(1.0), jnp.float32(clip_norm) / norm)
        gradient = jax.tree.map(lambda g: g * factor, gradient)
    rate = optimizer.learning_rate(state.step)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to an int32 step count
        direction, optimizer_state = optimizer.direction.update(gradient, state.optimizer, state.master)
    proposed = TrainState(
        step=state.step,
        master=jax.tree.map(lambda w, u: w - rate * u, state.master, direction),
        optimizer=optimizer_state,
        statistics=update_running(state.statistics, total.moments, momentum=statistics_momentum),
        loss_scale=state.loss_scale,
    )
    loss = total.loss / total.utterances
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
    record = StepRecord(
        loss=loss,
        grad_norm=norm,
        learning_rate=rate,
        loss_scale=state.loss_scale,
        finite=finite,
        blank_share=total.blank_frames / jnp.maximum(total.frames, 1.0),
    )
    return replace(kept, step=state.step + 1), record
