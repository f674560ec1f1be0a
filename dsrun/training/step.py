"""One training step: gradient of each shard, fixed-order sum, update.

    weights  = store(master)                          storage format; the master itself when that changes nothing
    parts[j] = gradient(weights, shard j)             one compiled function, the same for every shard and device
    total    = parts summed in a fixed binary tree    adds only, rounded as `reduce` says (`reduction.py`, `exchange.py`)
    state    = update(state, total)                   unscale, clip, momentum, learning rate, add to the master, round

Programs of their own and not one: XLA fuses across what it can see, fusion decides where a multiply-add is contracted, and so a
single program gives other bits when its surroundings change. Separate programs cannot. For the same reason each device runs a
single-device program and not a partition of one: shard_map over one device and over two gave different bits on CPU.

Every device has a copy of the state and updates it from the same total with the same program, so the copies stay equal without being sent.

The update. In float32, as one expression: master - rate * direction; then one rounding to the master's format, as `update`
says. With Kahan's compensation c, the part of the last update that rounding took:

    y = update - c      t = master + y      c = (t - master) - y      each of the four results rounded

The moments are rounded as they are kept; the direction comes from those before that rounding. A step whose loss, gradient, or
narrow weights or moments are not finite changes nothing but the step number, the loss scale and the count of skipped steps.

The loss of a step is the mean over the utterances of the global batch; a shard computes sums, the update divides by
the count, so a batch with filler rows is weighted by what it holds.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy as shallow_copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, PRNGKeyArray, UInt32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import Rounding, pass_key, site_key, to_float32
from dsrun.arithmetic.random_bits import Key, fold_in, make_key
from dsrun.ctc import BLANK, CtcKernel, policy_ctc_loss
from dsrun.model import (
    ModelOutput,
    ModelSettings,
    apply,
    init_parameters,
    initial_statistics,
    store_weights,
    update_running,
)
from dsrun.training.exchange import PartialSums, Reduction, ReductionKind
from dsrun.training.loss_scale import NO_LOSS_SCALE, LossScale
from dsrun.training.optimizer import Optimizer
from dsrun.training.program import Program
from dsrun.training.reduction import global_norm, parameter_path
from dsrun.training.state import Beginning, Replicas, Scalar, ShardSums, StepRecord, TrainState, Tree


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
        seed: of initial weights, dropout and random roundings.
        loss_scale: none, fixed or dynamic.
        ctc_kernel: what walks CTC's lattice (`dsrun.ctc.ctc_loss`).
        reduction: how devices' sums are added up: the fixed tree, or the library's all-reduce for comparison.
        devices: of all processes, in order; shards go to them in runs of neighbours. With the tree they change no bit of the result.
        beginning: weights and running statistics of the initial state, in place of random ones.
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
        loss_scale: LossScale = NO_LOSS_SCALE,
        ctc_kernel: CtcKernel = "scan",
        reduction: ReductionKind = "tree",
        devices: Sequence[jax.Device] | None = None,
        beginning: Beginning | None = None,
    ):
        self.beginning = beginning
        self.settings, self.policy, self.optimizer = settings, policy, optimizer
        self.shards, self.seed, self.loss_scale = shards, seed, loss_scale
        self.ctc_kernel: CtcKernel = ctc_kernel
        everyone = list(devices) if devices else jax.local_devices()[:1]
        self.reduction = Reduction(policy, seed=seed, shards=shards, devices=everyone, kind=reduction)
        self.devices = [everyone[place] for place in self.reduction.places]
        self._threads = ThreadPoolExecutor(len(self.devices), thread_name_prefix="dsrun-device")
        rules = UpdateRules(policy, optimizer, loss_scale, clip_norm, statistics_momentum, seed)
        count = len(self.devices)
        self._store = Program(partial(weights_as_read, policy, seed), devices=count)
        self._gradient = Program(partial(_shard_sums, settings, policy, ctc_kernel), devices=count)
        self.update_rules = rules
        self._update = Program(partial(update, rules), donate_argnums=0, devices=count)

    def with_reduction(self, kind: ReductionKind) -> "TrainStep":
        """The same compiled gradient and update with another sum over devices, so that two kinds differ in nothing else."""
        other = shallow_copy(self)
        other.reduction = Reduction(
            self.policy, seed=self.seed, shards=self.shards, devices=self.reduction.devices, kind=kind
        )
        return other

    def initial_state(self) -> TrainState:
        """State before the first update, a function of the model's settings and the seed, or of what another run has learnt."""
        given = self.beginning
        initial = init_parameters(self.settings, self.seed) if given is None else _arrays(given.parameters)
        master = jax.tree_util.tree_map_with_path(partial(_to_master, self.policy), initial)
        moments = self.optimizer.direction.init(initial)
        return TrainState(
            step=jnp.int32(0),
            master=master,
            optimizer=jax.tree_util.tree_map_with_path(partial(_keep_moment, self.policy, None), moments),
            statistics=initial_statistics(self.settings) if given is None else _arrays(given.statistics),
            loss_scale=jnp.float32(self.loss_scale.initial),
            finite_steps=jnp.int32(0),
            skipped_steps=jnp.int32(0),
            compensation=jax.tree.map(jnp.zeros_like, master) if self.policy.compensation == "kahan" else {},
        )

    def replicate(self, state: TrainState) -> Replicas:
        """The state on each of this process's devices, in buffers of their own: an update takes them."""
        return Replicas(tuple(jax.tree.map(partial(_copy_to, device), state) for device in self.devices))

    def start(self) -> Replicas:
        """The initial state on each of this process's devices."""
        return self.replicate(self.initial_state())

    @property
    def own_shards(self) -> range:
        """Shards that this process works on; of the others it needs no data."""
        places = self.reduction.places
        return range(self.reduction.share(places[0]).start, self.reduction.share(places[-1]).stop)

    def weights(self, state: TrainState) -> Tree:
        """The weights as the network reads them: the master on the storage grid."""
        if self.policy.stores_exactly:
            return state.master
        return self._store(state.step.device, state.master, state.step)

    def shard_gradient(self, state: TrainState, number: int, shard: Shard, *, weights: Tree | None = None) -> ShardSums:
        """Gradient and sums of one shard, on the state's device; `weights` where they are at hand already."""
        weights = self.weights(state) if weights is None else weights
        return self._gradient(*self._gradient_call(state, number, shard, weights), shape=_shape_of(shard))

    def planned_bytes(self, state: TrainState, shard: Shard) -> int | None:
        """Bytes that a shard's gradient takes beside its arguments, as XLA plans it; None where it does not say. Compiles it."""
        arguments = self._gradient_call(state, self.own_shards.start, shard, self.weights(state))
        return self._gradient.planned_bytes(*arguments, shape=_shape_of(shard))

    def _gradient_call(self, state: TrainState, number: int, shard: Shard, weights: Tree) -> tuple[Any, ...]:
        """Device and arguments of the gradient's program."""
        device = state.step.device
        inputs = jax.device_put((np.array([self.seed, number], np.uint32), shard), device)
        return device, weights, state.step, state.loss_scale, *inputs

    def shapes_of_sums(self, shard: Shard) -> ShardSums:
        """Shapes and dtypes of a shard's sums; nothing is computed."""
        state = jax.eval_shape(self.initial_state)
        key = jax.ShapeDtypeStruct((2,), np.uint32)
        weights = jax.eval_shape(partial(weights_as_read, self.policy, self.seed), state.master, state.step)
        return jax.eval_shape(self._gradient.jit, weights, state.step, state.loss_scale, key, shard)

    def partial_sums(self, state: Replicas, shards: Sequence[Shard]) -> list[PartialSums]:
        """What each of this process's devices adds up of its own shards."""

        def work(place: int, copy: TrainState) -> PartialSums:
            weights, sums = self.weights(copy), self.reduction.counter(place, copy.step)
            for number in self.reduction.share(place):
                sums.put(number, self.shard_gradient(copy, number, shards[number], weights=weights))
            return sums

        # A thread a device: compilation for the devices, and the work of CPU devices, go on side by side.
        return list(self._threads.map(work, self.reduction.places, state.copies))

    def __call__(self, state: Replicas, shards: Sequence[Shard]) -> tuple[Replicas, StepRecord]:
        """One update. Dispatches and returns, nothing waits for the device; `state`'s buffers are reused."""
        return self.update(state, self.total(state, shards))

    def update(self, state: Replicas, total: Sequence[ShardSums]) -> tuple[Replicas, StepRecord]:
        """The second half of a step; `state`'s buffers are reused."""
        updated = list(self._threads.map(self._update, self.devices, state.copies, total))
        return Replicas(tuple(copy for copy, _ in updated)), updated[0][1]

    def total(self, state: Replicas, shards: Sequence[Shard]) -> tuple[ShardSums, ...]:
        """The sums over all shards of all processes, on each of this process's devices."""
        return self.reduced(self.partial_sums(state, shards))

    def reduced(self, sums: Sequence[PartialSums]) -> tuple[ShardSums, ...]:
        """The fixed tree's sum of all devices' partial sums."""
        return self.reduction(sums, self._threads)


def _arrays(tree: Tree) -> Tree:
    """In float32, exactly: no format of a master or a statistic is wider."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _copy_to(device: jax.Device, x: Array) -> Array:
    return jnp.copy(jax.device_put(x, device))  # device_put alone gives the same buffer where x lies there already


def _shape_of(shard: Shard) -> tuple[tuple[int, ...], ...]:
    return shard.features.shape, shard.labels.shape


def split_batch(batch: Any, shards: int) -> list[Shard]:
    """Shard j is rows j*b to (j+1)*b - 1 of the global batch, b = rows / shards."""
    rows, left_over = divmod(len(batch.num_frames), shards)
    assert not left_over, f"{len(batch.num_frames)} rows do not make {shards} shards"
    pieces = [slice(j * rows, (j + 1) * rows) for j in range(shards)]
    return [
        Shard(batch.features[rows], batch.num_frames[rows], batch.labels[rows], batch.num_labels[rows])
        for rows in pieces
    ]


@dataclass(frozen=True)
class UpdateRules:
    """What decides an update beside the state and the gradient."""

    policy: Policy
    optimizer: Optimizer
    loss_scale: LossScale
    clip_norm: float | None
    statistics_momentum: float
    seed: int

    def key(self, role: str, path: str, step: Int32[Array, ""]) -> Key:
        """Random bits of a role at a parameter in one step."""
        return fold_in(make_key(self.seed, role, path), step.astype(jnp.uint32))


def weights_as_read(policy: Policy, seed: int, master: Tree, step: Int32[Array, ""]) -> Tree:
    """The weights as the network reads them at a step: the master on the storage grid."""
    return store_weights(policy, master, fold_in(make_key(seed, "storage", ""), step.astype(jnp.uint32)))


def _to_master(policy: Policy, path: tuple, value: Float32[Array, "*shape"]) -> Array:
    """An initial weight as a value of the master's format, to nearest."""
    rounding = Rounding(policy.rounding("master", parameter_path(path)).format)
    return policy.to_carrier(rounding(value), rounding)


def _keep_moment(policy: Policy, key: Key | None, path: tuple, value: Array) -> Array:
    """An optimizer's array as it is kept; counts are not numbers of the experiment."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    rounding = policy.rounding("state", parameter_path(path))
    own = site_key(key, "state", jax.tree_util.keystr(path)) if rounding.draws else None
    return policy.to_carrier(rounding(value, own) if key is not None else value, rounding)


@dataclass(frozen=True)
class PassKeys:
    """Randomness of one shard's pass through the network: of dropout, and of roundings that draw."""

    dropout: PRNGKeyArray
    rounding: Key | None


def pass_keys(policy: Policy, seed: UInt32[Array, ""], step: Int32[Array, ""], shard: UInt32[Array, ""]) -> PassKeys:
    """The keys of a shard's pass at a step."""
    dropout, number = jax.random.key(seed), step.astype(jnp.uint32)
    for part in (number, shard):
        dropout = jax.random.fold_in(dropout, part)
    return PassKeys(dropout, pass_key(seed, number, shard) if policy.draws_in_network else None)


def training_losses(
    settings: ModelSettings,
    policy: Policy,
    weights: Tree,
    shard: Shard,
    keys: PassKeys,
    *,
    ctc_kernel: CtcKernel = "scan",
    taps: dict[str, Array] | None = None,
    probes: dict[str, Array] | None = None,
) -> tuple[Float32[Array, " batch"], ModelOutput]:
    """Loss of each utterance of a shard in training mode, and the network's output; taps and probes as in `model.apply`."""
    output = apply(
        settings,
        policy,
        weights,
        None,
        shard.features,
        shard.num_frames,
        mode="train",
        dropout_key=keys.dropout,
        key=keys.rounding,
        taps=taps,
        probes=probes,
    )
    losses = policy_ctc_loss(
        policy,
        output.logits,
        output.num_frames,
        shard.labels,
        shard.num_labels,
        key=keys.rounding,
        kernel=ctc_kernel,
    )
    return losses, output


def _shard_sums(
    settings: ModelSettings,
    policy: Policy,
    ctc_kernel: CtcKernel,
    weights: Tree,
    step: Int32[Array, ""],
    loss_scale: Float32[Array, ""],
    seed_and_shard: UInt32[Array, "2"],
    shard: Shard,
) -> ShardSums:
    """Gradient of the shard's summed loss, scaled by `loss_scale`, and the other sums."""
    seed, number = seed_and_shard
    keys = pass_keys(policy, seed, step, number)

    def scaled_loss(weights: Tree) -> tuple[Float32[Array, ""], ShardSums]:
        losses, output = training_losses(settings, policy, weights, shard, keys, ctc_kernel=ctc_kernel)
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
    return replace(
        sums, gradient=jax.tree_util.tree_map_with_path(partial(_rounded_gradient, policy, keys.rounding), gradient)
    )


def _rounded_gradient(policy: Policy, key: Key | None, path: tuple, gradient: Array) -> Array:
    """A weight's gradient on the gradient grid, in the array it came in."""
    name = parameter_path(path)
    rounding = policy.rounding("gradient", name)
    if rounding.is_exact:
        return gradient
    own = site_key(key, "weight gradient", name) if rounding.draws else None
    return rounding(to_float32(gradient), own).astype(gradient.dtype)


def update(rules: UpdateRules, state: TrainState, total: ShardSums) -> tuple[TrainState, StepRecord]:
    """The state after one update, or, where loss or gradient are not finite, the state as it was with the step skipped."""
    proposal = propose(rules, state, total)
    rounded = {
        name: _updated(rules, name, w, u, c, proposal.rate, state.step)
        for name, w, u, c in _by_name(state.master, proposal.direction, state.compensation)
    }
    structure = jax.tree_util.tree_structure(state.master)
    master = jax.tree_util.tree_unflatten(structure, [w for w, _ in rounded.values()])
    compensation = jax.tree_util.tree_unflatten(structure, [c for _, c in rounded.values()])
    proposed = replace(
        state,
        master=master,
        optimizer=proposal.optimizer,
        statistics=update_running(state.statistics, total.moments, momentum=rules.statistics_momentum),
        compensation=compensation if state.compensation else {},
    )
    loss = total.loss / total.utterances
    finite = jnp.isfinite(loss) & jnp.isfinite(proposal.norm)
    if rules.policy.can_overflow:  # a narrow weight or moment may, from a gradient that is finite
        finite = finite & _is_finite((proposed.master, proposed.optimizer, proposed.compensation))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
    scale, finite_steps = rules.loss_scale.after(state.loss_scale, state.finite_steps, finite)
    counts_as_skipped = jnp.where(rules.loss_scale.can_fall(state.loss_scale), 0, 1)
    skipped = jnp.where(finite, 0, state.skipped_steps + counts_as_skipped)
    record = StepRecord(
        loss=loss,
        grad_norm=proposal.norm,
        learning_rate=proposal.rate,
        loss_scale=state.loss_scale,
        finite=finite,
        skipped_steps=skipped,
        blank_share=total.blank_frames / jnp.maximum(total.frames, 1.0),
    )
    counts = {"step": state.step + 1, "loss_scale": scale, "finite_steps": finite_steps, "skipped_steps": skipped}
    return replace(kept, **counts), record


def _is_finite(tree: Tree) -> Array:
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


@dataclass(frozen=True)
class Proposal:
    """What an update would subtract: rate * direction; the new moments as they would be kept; the gradient and its norm."""

    gradient: Tree
    norm: Scalar
    rate: Scalar
    direction: Tree
    optimizer: Tree


def propose(rules: UpdateRules, state: TrainState, total: ShardSums) -> Proposal:
    """Unscale, clip, ask the optimizer."""
    policy = rules.policy
    gradient = jax.tree.map(lambda g: g / state.loss_scale / total.utterances, total.gradient)
    norm = global_norm(gradient)
    clipped = gradient
    if rules.clip_norm is not None:
        factor = jnp.minimum(jnp.float32(1.0), jnp.float32(rules.clip_norm) / norm)
        clipped = jax.tree.map(lambda g: g * factor, gradient)
    rate = rules.optimizer.learning_rate(state.step)
    moments = jax.tree.map(lambda m: to_float32(m) if jnp.issubdtype(m.dtype, jnp.floating) else m, state.optimizer)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to an int32 step count
        direction, moments = rules.optimizer.direction.update(clipped, moments, jax.tree.map(to_float32, state.master))
    key = rules.key("state", "", state.step)
    kept = jax.tree_util.tree_map_with_path(partial(_keep_moment, policy, key), moments)
    return Proposal(gradient, norm, rate, direction, kept)


def _by_name(master: Tree, direction: Tree, compensation: Tree) -> list[tuple[str, Array, Array, Array | None]]:
    weights = jax.tree_util.tree_leaves_with_path(master)
    lost = jax.tree_util.tree_leaves(compensation) or [None] * len(weights)
    leaves = zip(weights, jax.tree_util.tree_leaves(direction), lost, strict=True)
    return [(parameter_path(path), w, u, c) for (path, w), u, c in leaves]


def _updated(
    rules: UpdateRules, path: str, w: Array, u: Array, c: Array | None, rate: Float32[Array, ""], step: Int32[Array, ""]
) -> tuple[Array, Array | None]:
    """An updated weight on the master's grid, and what rounding took from the update where that is kept."""
    policy = rules.policy
    rounding = policy.rounding("update", path)
    key = rules.key("update", path, step) if rounding.draws else None
    before = to_float32(w)
    if c is None:
        return policy.to_carrier(rounding(before - rate * u, key), rounding), None

    def rounded(x: Array, number: int) -> Array:
        # Between the operations of Kahan's sum, or a compiler would find that it adds up to nothing.
        return rounding(x, None if key is None else fold_in(key, number))

    change = rounded(-rate * u - to_float32(c), 0)
    after = rounded(before + change, 1)
    lost = rounded(rounded(after - before, 2) - change, 3)
    return policy.to_carrier(after, rounding), policy.to_carrier(lost, rounding)
