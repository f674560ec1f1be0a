"""What a config's training step costs: bytes by role, operations, batch shapes; counted, not measured, and left as `costs.json`.

On the roof, since it needs policy, network and data at once. Nothing is run: the same config and data give the same file on any machine,
however many devices work. A report draws from it (`study`).

| key | what it holds |
|---|---|
| `parameters`, `carrier`, `shards`, `rows` | values of the network; native or emulated; shards of a step; rows of a global batch |
| `bytes` | by role: `values`, their number by format (`formats`), `as_carried`: bytes of the arrays, `as_formats`: what the formats need |
| `activations` | the same of one shard of the longest batch shape: places where the network stores a value, and GRU gates |
| `flops` | of an epoch's training steps: forward by part, forward and backward of valid frames, and of all frames that are computed |
| `steps_per_epoch`, `batch_shapes` | steps; rows, frames, labels, utterances and steps an epoch of each shape |

Emulated formats are carried in float32 arrays: float16 takes 4 bytes a value there and needs 2, binary needs one bit and a scale. Where
the network reads the copy that accumulates updates, there are no other weights and `storage` is 0.

Activations are a lower bound of what the backward pass reads: the values that layers hand on, and with `residuals: store` the four gates
of each GRU state, float32. What XLA keeps beside them, or computes twice instead, is not in it; a device holds one shard at a time.
Operations are products' (`study/flops.py`), backward twice the forward ones, of utterances at their own speed.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import Format, Policy
from dsrun.arithmetic.formats import FLOAT32, NATIVE_NAMES, ScaledFormat
from dsrun.config import Config
from dsrun.model import ModelSettings, apply, output_frames, parameter_table
from dsrun.speech import Batcher
from dsrun.study.flops import NetworkFlops, network_flops
from dsrun.training.state import TrainState
from dsrun.training.state_hash import parameter_path
from dsrun.training.step import TrainStep, weights_as_read

SCHEMA_VERSION = 1
SCALE_BYTES = 4  # of a format with a scale, one a tensor, channel or frame
GATES = 4  # r, z, n and q


def training_costs(config: Config, step: TrainStep, batcher: Batcher) -> dict[str, Any]:
    """What `costs.json` holds; see the module."""
    state = jax.eval_shape(step.initial_state)
    sizes = [len(bucket.members) for bucket in batcher.buckets]
    rows = config.batches.global_batch
    shapes = [
        {"rows": rows, "frames": frames, "labels": labels, "utterances": size, "steps": -(-size // rows)}
        for size, (frames, labels) in zip(sizes, batcher.shapes(), strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "parameters": sum(count for *_, count in parameter_table(step.settings)),
        "carrier": step.policy.carrier,
        "shards": step.shards,
        "rows": rows,
        "bytes": bytes_by_role(step, state),
        "activations": _activations(
            step, state.master, rows // step.shards, max(frames for frames, _ in batcher.shapes())
        ),
        "flops": _epoch_flops(step.settings, batcher.dataset.lengths.plain, shapes),
        "steps_per_epoch": batcher.batches_per_epoch,
        "batch_shapes": shapes,
    }


def bytes_by_role(step: TrainStep, state: TrainState) -> dict[str, dict[str, Any]]:
    """Bytes that a training step keeps from step to step, and its gradient: as the arrays have them and as the formats need."""
    policy = step.policy
    weights = jax.eval_shape(partial(weights_as_read, policy, step.seed), state.master, state.step)
    table = [(path, shape) for path, shape, _ in parameter_table(step.settings)]
    master = [(policy.rounding("master", path).format, shape) for path, shape in table]
    storage = [(policy.rounding("storage", path).format, shape) for path, shape in table]
    has_copy = not policy.stores_exactly
    # A rule may give single tensors a copy of their own: the others have one array, and need one.
    copies = [own for own, kept in zip(storage, master, strict=True) if own != kept] if has_copy else []
    found = {
        "master": _role(master, _bytes(state.master)),
        "storage": _role(copies, _bytes(weights) if has_copy else 0),
        "gradient": _role([(policy.rounding("gradient", p).format, s) for p, s in table], _bytes(weights)),
        "state": _role(_moments(policy, state.optimizer), _bytes(state.optimizer)),
        "statistics": _role([(FLOAT32, x.shape) for x in jax.tree.leaves(state.statistics)], _bytes(state.statistics)),
    }
    if state.compensation:
        found["compensation"] = _role(master, _bytes(state.compensation))
    return found


def describe_bytes(config: Config, step: TrainStep) -> dict[str, int]:
    """Bytes of the arrays by role, in words, for a dry run."""
    roles, found = config.arithmetic, bytes_by_role(step, jax.eval_shape(step.initial_state))
    size = {name: role["as_carried"] for name, role in found.items()}
    accumulates = roles.storage.format + ", no master" if roles.master.format == "none" else roles.master.format
    same = ": the same" if step.policy.stores_exactly else ""
    return {
        f"weights that accumulate updates ({accumulates})": size["master"],
        f"weights as read ({roles.storage.format}){same}": size["storage"],
        f"gradient ({roles.gradient.format}), a shard": size["gradient"],
        f"optimizer's state ({roles.state.format})": size["state"],
        **({"Kahan's compensation": size["compensation"]} if "compensation" in size else {}),
    }


def _role(tensors: Iterable[tuple[Format, tuple[int, ...]]], carried: int) -> dict[str, Any]:
    tensors = list(tensors)
    formats: dict[str, int] = {}
    for format, shape in tensors:
        formats[format.name] = formats.get(format.name, 0) + int(np.prod(shape))
    needed = sum(_needed(format, shape) for format, shape in tensors)
    return {"values": sum(formats.values()), "formats": formats, "as_carried": carried, "as_formats": needed}


def _needed(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in its format, packed, with its scales."""
    values = int(np.prod(shape))
    scales = 0
    if isinstance(format, ScaledFormat):
        scales = {"tensor": 1, "channel": shape[-1] if shape else 1, "frame": values // (shape[-1] if shape else 1)}[
            format.granularity
        ]
    return int(-(-format.bits * values // 8)) + SCALE_BYTES * scales


def _moments(policy: Policy, optimizer: Any) -> list[tuple[Format, tuple[int, ...]]]:
    """Of each moment its format; a counter is as wide as float32."""
    leaves = jax.tree_util.tree_leaves_with_path(optimizer)
    return [
        (policy.rounding("state", parameter_path(path)).format if leaf.shape else FLOAT32, leaf.shape)
        for path, leaf in leaves
    ]


def _activations(step: TrainStep, master: Any, rows: int, frames: int) -> dict[str, Any]:
    """Of one shard of `rows` x `frames`: the places where a value is stored, and the gates that are kept."""
    settings, policy = step.settings, step.policy
    taps: dict[str, Any] = {}
    parameters = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, jnp.float32), master)

    def run(parameters: Any) -> Any:
        features = jnp.zeros((rows, frames, settings.num_bins), jnp.float32)
        lengths = jnp.full((rows,), frames, jnp.int32)
        apply(settings, Policy(), parameters, None, features, lengths, mode="train", dropout_key=None, taps=taps)
        return dict(taps)

    keeps_gates = settings.residuals == "store"
    found = jax.eval_shape(run, parameters)
    places = {path: x.shape for path, x in found.items() if keeps_gates or ".projection_" not in path}
    formats = {path: policy.activation_rounding("storage", path).format for path in places}
    formats |= {"logits": FLOAT32} if "logits" in places else {}
    carried = sum(int(np.prod(shape)) * _carried_bytes(policy, formats[path]) for path, shape in places.items())
    states = settings.layers * (2 if settings.direction == "bidirectional" else 1)
    gates = (GATES * states, int(output_frames(settings, frames)), rows, settings.hidden) if keeps_gates else (0,)
    return {
        "rows": rows,
        "frames": frames,
        "stored": _role(((formats[path], shape) for path, shape in places.items()), carried),
        "gates": _role([(FLOAT32, gates)], 4 * int(np.prod(gates))),
    }


def _carried_bytes(policy: Policy, format: Format) -> int:
    is_native = policy.carrier == "native" and format.name in NATIVE_NAMES
    return jnp.dtype(format.name).itemsize if is_native else 4


def _epoch_flops(settings: ModelSettings, lengths: np.ndarray, shapes: list[dict[str, int]]) -> dict[str, int]:
    """Of an epoch at the utterances' own speed; `computed` has all rows of all steps at their padded length, and what is recomputed."""
    valid = _total(settings, *np.unique(lengths, return_counts=True))
    padded = _total(settings, [s["frames"] for s in shapes], [s["rows"] * s["steps"] for s in shapes])
    recomputed = padded.gru if settings.residuals == "recompute" else 0
    return {
        "forward_front_end": valid.front_end,
        "forward_gru": valid.gru,
        "forward_output": valid.output,
        "training": valid.training,
        "training_computed": padded.training + recomputed,
        "recomputed": recomputed,
    }


def _total(settings: ModelSettings, lengths: Any, counts: Any) -> NetworkFlops:
    """Of so many utterances of each length."""
    found = [(network_flops(settings, [int(n)]), int(count)) for n, count in zip(lengths, counts, strict=True)]
    names = ("front_end", "gru", "output", "gru_recurrent")
    return NetworkFlops(*(sum(getattr(own, name) * count for own, count in found) for name in names))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
