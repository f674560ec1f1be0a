"""Watching: how large the numbers of a step are, and which updates changed a weight.

    counts  = every tensor's values by float32's exponent field, exact; zeros; what the role's format would flush or not reach
    updates = of the finite non-zero ones (rate * direction), how many changed the weight, and how many are below half an ulp of it

Watching never changes a bit of training. It runs in two executables of its own beside a step's four, dispatched before the update
takes the state's buffers, and read when the step's figures are:

* `observe_update` proposes and makes the update again, from the step's own state and total. Fusion may contract it otherwise
  than in the step, so a count may be off by the updates that are within a last bit of a tie.
* `observe_network` takes shard 0 through the network once more, with the same dropout and random roundings. It compiles once for each
  shape of batch that is watched. Padded frames and filler rows are not counted.

What is counted where:

| kind | role | values |
|---|---|---|
| `weight` | `storage` | the master's, before they are rounded to storage |
| `activation` | `storage` | what a layer hands on, before it is rounded; GRU states, which are rounded in their loop, after it |
| `error` | `gradient` | the loss's gradient at those places, before it is rounded; of states, what comes from the layer above |
| `weight_gradient` | `gradient` | a weight's gradient of shard 0, before it is rounded |
| `gradient_sum` | `reduce` | the sum over shards, as the update reads it |
| `update` | `update` | rate * direction, the change that is proposed to the weight |
| `moment` | `state` | the optimizer's, before they are rounded |
| `master` | `master` | the copy that accumulates, before the update |

Gradients and errors carry the loss scale, as they do where the format meets them, and are sums over utterances. In the native
carrier an error that has been read from a narrow array has been rounded already. Rounding is judged to nearest whatever the mode, so that
modes can be compared: flushed is at most half of the smallest positive value. Overflow is of magnitude; fixed point's range is one spacing
longer on the negative side, and the longer one counts. What is inside a product or the CTC loss is not watched.

The histogram needs no scatter. In a block of 4096 values the high and the low half of the exponent field are one-hot rows of 16,
and their product over the block is the 16 x 16 table of counts, exact in float32: tens of times as fast as 256 comparisons a value on CPU.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Num, UInt32

from dsrun.arithmetic import FLOAT32, FLOAT32_POLICY, FixedFormat, FloatFormat, Format, Policy
from dsrun.arithmetic.policy import Rounding, to_float32, weight_block_axis
from dsrun.ctc import CtcKernel
from dsrun.model import ModelSettings, output_frames
from dsrun.record.magnitudes import BIAS, FIELDS, Magnitudes
from dsrun.training.reduction import parameter_path
from dsrun.training.state import TrainState, Tree
from dsrun.training.step import Shard, ShardSums, TrainStep, UpdateRules, pass_keys, propose, training_losses, update

BLOCK = 4096  # values counted by one product; a float32 count is exact far beyond
_ABSENT = 0x8000_0000  # in place of a magnitude's bits: padding, counted nowhere
_MAGNITUDE = 0x7FFF_FFFF
_INFINITY = 0x7F80_0000
_HALF = 16  # values of half of an exponent field


@dataclass(frozen=True)
class Row:
    """Names of one tensor, and the blocks that its values fill."""

    path: str
    kind: str
    role: str
    format: Format
    blocks: int


@partial(jax.tree_util.register_dataclass, data_fields=["fields", "marks", "flushed"], meta_fields=["rows"])
@dataclass(frozen=True)
class Counts:
    """Counts of some tensors: by block, and for formats with a scale the flushed values by row.

    `marks` are numbers of zeros, NaNs, flushed, subnormal and overflowed values, then bits of the smallest and largest magnitude.
    """

    rows: tuple[Row, ...]
    fields: Any  # UInt32 [block, 256], on the device or read from it
    marks: Any  # UInt32 [block, 7]
    flushed: Any  # UInt32 [row]


@dataclass(frozen=True)
class Tensor:
    """Values to count before they are rounded to `format`; `valid` broadcasts against them; blocks lie along `axis`."""

    path: str
    kind: str
    role: str
    format: Format
    values: Array
    valid: Array | None = None
    axis: int = -1


@dataclass(frozen=True)
class Observation:
    """What a watched step dispatched: counts of the network (or None) and of the update, and updates by block in the latter's order."""

    network: Counts | None
    update: Counts
    survival: Any


class Watcher:
    """Observes steps of a `TrainStep`.

    Args:
        step: whose state, total and rules are observed.
        frames: padded lengths of the batches whose pass through the network is observed too; None for all. Each length is a compilation,
            which takes longer than everything else that watching does.
    """

    def __init__(self, step: TrainStep, *, frames: Collection[int] | None = None):
        self.step, self.frames = step, frames
        self._update = jax.jit(partial(observe_update, step.update_rules))
        self._network = jax.jit(
            partial(observe_network, step.settings, step.policy, step.seed, ctc_kernel=step.ctc_kernel)
        )

    def __call__(self, state: TrainState, total: ShardSums, shard: Shard) -> Observation:
        """Dispatch the observation of the step that leads on from `state`, before its update; does not wait for it."""
        update, survival = self._update(state, total)
        if self.frames is not None and shard.features.shape[1] not in self.frames:
            return Observation(None, update, survival)
        network = self._network(self.step.weights(state), state.step, state.loss_scale, shard)
        return Observation(network, update, survival)

    def read(self, observation: Observation, *, step: int, loss_scale: float) -> Magnitudes:
        """Wait for an observation, and its table: the network's rows before the update's."""
        network, update, survival = jax.device_get((observation.network, observation.update, observation.survival))
        tables = [_table(counts) for counts in (network, update) if counts is not None]
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        kinds = columns["kind"]
        survived = np.zeros((len(kinds), 3), np.int64)
        blocks = [row.blocks for row in update.rows if row.kind == "update"]
        survived[kinds == "update"] = [part.sum(axis=0, dtype=np.int64) for part in _parts(survival, blocks)]
        columns |= {name: survived[:, i] for i, name in enumerate(("updates", "changed", "swallowed"))}
        return Magnitudes(step=step, loss_scale=loss_scale, **columns)


def observe_network(
    settings: ModelSettings,
    policy: Policy,
    seed: int,
    weights: Tree,
    step: Int32[Array, ""],
    loss_scale: Float32[Array, ""],
    shard: Shard,
    *,
    ctc_kernel: CtcKernel = "scan",
) -> Counts:
    """Counts of activations, errors and gradients of the weights in one pass of shard 0."""
    keys = pass_keys(policy, jnp.uint32(seed), step, jnp.uint32(0))
    order: list[str] = []

    def taps_of(weights: Tree, probes: dict[str, Array] | None) -> tuple[Float32[Array, ""], dict[str, Array]]:
        taps: dict[str, Array] = {}
        losses, _ = training_losses(
            settings, policy, weights, shard, keys, ctc_kernel=ctc_kernel, taps=taps, probes=probes
        )
        order[:] = taps  # a dict of results comes back in the alphabet's order
        return jnp.sum(losses) * loss_scale, taps

    _, shapes = jax.eval_shape(lambda w: taps_of(w, None), weights)
    probes = {path: jnp.zeros(shape.shape, jnp.float32) for path, shape in shapes.items()}
    (gradients, errors), taps = jax.grad(taps_of, argnums=(0, 1), has_aux=True)(weights, probes)
    valid = {path: valid_values(settings, path, taps[path], shard.num_frames) for path in order}
    return count(
        [
            *(
                Tensor(path, "activation", "storage", _handed_on(policy, path), taps[path], valid[path])
                for path in order
            ),
            *(
                Tensor(
                    path,
                    "error",
                    "gradient",
                    policy.activation_rounding("gradient", path).format,
                    errors[path],
                    valid[path],
                )
                for path in order
            ),
            *_parameters(policy, "weight_gradient", "gradient", gradients),
        ]
    )


def _handed_on(policy: Policy, path: str) -> Format:
    return FLOAT32 if path == "logits" else policy.activation_rounding("storage", path).format


def valid_values(
    settings: ModelSettings, path: str, x: Num[Array, "*shape"], num_frames: Int32[Array, " batch"]
) -> Bool[Array, "*ones_behind"]:
    """True where a value belongs to an utterance: up to the front end arrays are batch first, behind it time first."""
    is_batch_first = path == "features" or path.startswith("front_end.")
    lengths = num_frames if path == "features" else output_frames(settings, num_frames)
    frame = jnp.arange(x.shape[1 if is_batch_first else 0], dtype=jnp.int32)
    valid = frame[None, :] < lengths[:, None] if is_batch_first else frame[:, None] < lengths[None, :]
    return valid.reshape(valid.shape + (1,) * (x.ndim - 2))


def observe_update(rules: UpdateRules, state: TrainState, total: ShardSums) -> tuple[Counts, UInt32[Array, "block 3"]]:
    """Counts of what the update reads and proposes; and by block the updates, those that changed a weight, those swallowed.

    A step that is skipped because it is not finite changes nothing.
    """
    policy = rules.policy
    after, _ = update(rules, state, total)
    proposal = propose(replace(rules, policy=FLOAT32_POLICY), state, total)  # moments before they are rounded
    updates = jax.tree.map(lambda u: proposal.rate * u, proposal.direction)
    tensors = [
        *_parameters(policy, "weight", "storage", state.master),
        *_parameters(policy, "gradient_sum", "reduce", total.gradient),
        *_parameters(policy, "update", "update", updates),
        *_parameters(policy, "moment", "state", proposal.optimizer),
        *_parameters(policy, "master", "master", state.master),
    ]
    marks = [
        _blocks(_survival(u, w, new, policy.rounding("update", parameter_path(path)).format), 0)
        for (path, u), w, new in zip(
            jax.tree_util.tree_leaves_with_path(updates),
            jax.tree.leaves(state.master),
            jax.tree.leaves(after.master),
            strict=True,
        )
    ]
    survived = jnp.concatenate(marks)
    return count(tensors), jnp.stack(
        [jnp.sum(survived >> jnp.uint32(bit) & jnp.uint32(1), axis=1, dtype=jnp.uint32) for bit in range(3)], axis=1
    )


def _survival(
    change: Float32[Array, "*shape"], before: Num[Array, "*shape"], after: Num[Array, "*shape"], format: Format
) -> UInt32[Array, "*shape"]:
    """Bit 0: a finite update that is not zero; bit 1: it changed the weight; bit 2: it is below half an ulp of the weight."""
    size, old, new = magnitude(change), _bits(before), _bits(after)
    proposed = (size > 0) & (size < jnp.uint32(_INFINITY))
    differs = (old != new) & ((old | new) & jnp.uint32(_MAGNITUDE) != 0)  # -0 and 0 are one number
    small = size < half_ulp(magnitude(before), format)
    marks = [proposed, proposed & differs, proposed & small]
    a, b, c = (mark.astype(jnp.uint32) << jnp.uint32(bit) for bit, mark in enumerate(marks))
    return a | b | c


def half_ulp(size: UInt32[Array, "*shape"], format: Format) -> UInt32[Array, "*shape"]:
    """Bits of half of the format's spacing in the binade of magnitudes given as bits; 0 where that is below float32.

    A format whose scale follows the data has no spacing of its own: 0.
    """
    if isinstance(format, FixedFormat):
        return jnp.full_like(size, _bits_of(format.smallest_positive / 2))
    if not isinstance(format, FloatFormat):
        return jnp.zeros_like(size)
    if not format.subnormals:  # between 0 and the smallest normal there is nothing
        below = size < jnp.uint32(_bits_of(2.0**format.min_exponent))
        normal = half_ulp(size, replace(format, subnormals=True))
        return jnp.where(below, jnp.uint32(_bits_of(format.smallest_positive / 2)), normal)
    field = jnp.maximum((size >> jnp.uint32(23)).astype(jnp.int32), format.min_exponent + BIAS)
    field = field - format.precision  # of 2**(exponent - precision)
    normal = jnp.maximum(field, 0).astype(jnp.uint32) << jnp.uint32(23)
    subnormal = jnp.uint32(1) << jnp.clip(field + 22, 0, 22).astype(jnp.uint32)
    return jnp.where(field > 0, normal, jnp.where(field >= -22, subnormal, jnp.uint32(0)))


def _parameters(policy: Policy, kind: str, role: Any, tree: Tree) -> list[Tensor]:
    """Tensors by parameter path; an optimizer's moments have their name behind it, counts are left out."""
    leaves = [
        (path, x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return [
        Tensor(
            _named(path),
            kind,
            role,
            policy.rounding(role, parameter_path(path)).format,
            x,
            axis=weight_block_axis(x) if role == "storage" else -1,
        )
        for path, x in leaves
    ]


def _named(path: tuple) -> str:
    moments = [part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey)]
    return ".".join([parameter_path(path), *moments])


def count(tensors: Sequence[Tensor]) -> Counts:
    """Count the values of some tensors, all in one loop over blocks."""
    sizes = [magnitude(tensor.values) for tensor in tensors]
    blocks = [_blocks(_present(size, tensor.valid), _ABSENT) for size, tensor in zip(sizes, tensors, strict=True)]
    rows = tuple(Row(t.path, t.kind, t.role, t.format, len(own)) for t, own in zip(tensors, blocks, strict=True))
    limits = np.concatenate([np.tile(_limits(row.format), (row.blocks, 1)) for row in rows])
    fields, marks = jax.lax.map(lambda pair: _count_block(*pair), (jnp.concatenate(blocks), jnp.asarray(limits)))
    flushed = [_flushed_with_scale(tensor, size) for tensor, size in zip(tensors, sizes, strict=True)]
    return Counts(rows, fields, marks, jnp.stack(flushed))


def _count_block(
    size: UInt32[Array, " value"], limits: UInt32[Array, "3"]
) -> tuple[UInt32[Array, "256"], UInt32[Array, "7"]]:
    flushed, normal, largest = limits
    half = jnp.arange(_HALF, dtype=jnp.uint32)[:, None]
    high = (half == (size >> jnp.uint32(27))[None, :]).astype(jnp.float32)  # of an absent value none: 16 or more
    low = (half == (size >> jnp.uint32(23) & jnp.uint32(15))[None, :]).astype(jnp.float32)
    table = jax.lax.dot_general(high, low, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
    is_finite, is_zero = size < jnp.uint32(_INFINITY), size == 0
    marks = [
        is_zero,
        (size > jnp.uint32(_INFINITY)) & (size < jnp.uint32(_ABSENT)),
        ~is_zero & (size <= flushed),
        (size > flushed) & (size < normal),
        is_finite & (size > largest),
    ]
    smallest = jnp.min(jnp.where(is_finite & ~is_zero, size, jnp.uint32(_INFINITY)))
    extremes = [smallest, jnp.max(jnp.where(is_finite, size, jnp.uint32(0)))]
    sums = [jnp.sum(mark, dtype=jnp.uint32) for mark in marks]
    return table.astype(jnp.uint32).reshape(FIELDS), jnp.stack(sums + extremes)


def _limits(format: Format) -> np.ndarray:
    """Bits of the largest magnitude that is flushed, of the smallest normal one, and of the largest."""
    smallest_positive, smallest_normal, largest = ranges(format)
    if np.isnan(largest):
        return np.array([0, 0, _INFINITY], np.uint32)  # nothing, nothing, nothing
    normal = 0 if np.isnan(smallest_normal) else _bits_of(smallest_normal)
    return np.array([_bits_of(smallest_positive / 2), normal, _bits_of(largest)], np.uint32)


def ranges(format: Format) -> tuple[float, float, float]:
    """Smallest positive value, smallest normal one and largest magnitude of a format; NaN where it has none."""
    if isinstance(format, FloatFormat):
        return format.smallest_positive, format.smallest_normal, format.max_value
    if isinstance(format, FixedFormat):
        return format.smallest_positive, float("nan"), -format.min_value
    return float("nan"), float("nan"), float("nan")


def _flushed_with_scale(tensor: Tensor, size: UInt32[Array, "*shape"]) -> UInt32[Array, ""]:
    """Values that a format with a scale rounds to zero; other formats have a limit for that."""
    if isinstance(tensor.format, FloatFormat | FixedFormat):
        return jnp.uint32(0)
    rounded = Rounding(tensor.format)(to_float32(tensor.values), axis=tensor.axis)
    flushed = (size > 0) & (magnitude(rounded) == 0)
    return jnp.sum(flushed if tensor.valid is None else flushed & tensor.valid, dtype=jnp.uint32)


def magnitude(x: Num[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Bits of the absolute values in float32. Integers, since a comparison of floats takes float32's subnormals for zero on CPU."""
    return _bits(x) & jnp.uint32(_MAGNITUDE)


def _bits(x: Num[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    return jax.lax.bitcast_convert_type(to_float32(x), jnp.uint32)


def _bits_of(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def _present(size: UInt32[Array, "*shape"], valid: Array | None) -> UInt32[Array, "*shape"]:
    return size if valid is None else jnp.where(valid, size, jnp.uint32(_ABSENT))


def _blocks(x: UInt32[Array, "*shape"], filler: int) -> UInt32[Array, "block 4096"]:
    blocks = -(-x.size // BLOCK)
    padded = jnp.pad(x.reshape(-1), (0, blocks * BLOCK - x.size), constant_values=np.uint32(filler))
    return padded.reshape(blocks, BLOCK)


def _parts(counts: np.ndarray, blocks: Sequence[int]) -> list[np.ndarray]:
    return np.split(counts, np.cumsum(blocks)[:-1])


def _table(counts: Counts) -> dict[str, np.ndarray]:
    """Columns of `Magnitudes`, the blocks of each row added up; counts of int64, which no tensor fills."""
    blocks = [row.blocks for row in counts.rows]
    marks = _parts(counts.marks, blocks)
    sums = np.array([part[:, :5].sum(axis=0, dtype=np.int64) for part in marks])
    smallest = np.array([part[:, 5].min(initial=_INFINITY) for part in marks], np.uint32).view(np.float32)
    largest = np.array([part[:, 6].max(initial=0) for part in marks], np.uint32).view(np.float32)
    formats = np.array([ranges(row.format) for row in counts.rows])
    return {
        **{
            name: np.array([str(getattr(row, name)) for row in counts.rows])
            for name in ("path", "kind", "role", "format")
        },
        **dict(zip(("smallest_positive", "smallest_normal", "largest"), formats.T, strict=True)),
        "fields": np.array([part.sum(axis=0, dtype=np.int64) for part in _parts(counts.fields, blocks)]),
        "zeros": sums[:, 0],
        "nans": sums[:, 1],
        "flushed": sums[:, 2] + counts.flushed,
        "subnormal": sums[:, 3],
        "overflowed": sums[:, 4],
        "smallest_seen": np.where(np.isinf(smallest), np.float32(np.nan), smallest),
        "largest_seen": np.where(largest == 0, np.float32(np.nan), largest),
    }
