"""Training state: everything that the next step depends on, and what a step reports.

The random generator is not here: every random number is a function of (seed, step, place). Neither is the data loader: the
batch is a function of (seed, step). So a checkpoint of `TrainState` is the whole run.
"""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp

from dsrun.errors import DataError

Scalar = Any  # a 0-d array, on the device or read from it
Tree = Any  # a nested dict of arrays, or an optax state


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """State after `step` updates.

    Fields:
        step: number of updates made or skipped, int32 scalar.
        master: the copy of the weights that accumulates updates, nested dict by parameter path; values of the master's format, or of
            the storage format where there is no other copy.
        optimizer: momentum or Adam moments, as optax keeps them, values of the state's format.
        statistics: running mean and variance of the normalisations, float32, nested dict.
        loss_scale: what the loss is multiplied by before the backward pass, float32 scalar, a power of two.
        finite_steps: finite steps in a row, counted towards the next growth of the scale, int32 scalar.
        skipped_steps: steps in a row up to now that were not finite though no smaller loss scale was left, int32 scalar.
        compensation: what the last updates lost, by Kahan's summation, like `master`; empty without it.

    Arrays are float32, or in the native carrier of the format's dtype.
    """

    step: Scalar
    master: Tree
    optimizer: Tree
    statistics: Tree
    loss_scale: Scalar
    finite_steps: Scalar
    skipped_steps: Scalar
    compensation: Tree

    def to_dict(self) -> dict[str, Tree]:
        """Nested dict of arrays for a checkpoint; the optimizer's leaves are numbered in optax's order."""
        leaves = jax.tree_util.tree_leaves(self.optimizer)
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return state | {"optimizer": dict(zip(_leaf_names(len(leaves)), leaves, strict=True))}

    def from_dict(self, arrays: dict[str, Tree]) -> "TrainState":
        """The state that `to_dict` wrote, with self as the template of structure, shapes and dtypes.

        Raises:
            DataError: names, shapes or dtypes differ from the template; the text lists the first differences.
        """
        _require_same_layout(self.to_dict(), arrays)
        own, structure = jax.tree_util.tree_flatten(self.optimizer)
        leaves = [arrays["optimizer"][name] for name in _leaf_names(len(own))]
        as_arrays = jax.tree.map(jnp.asarray, {**arrays, "optimizer": leaves})
        optimizer = jax.tree_util.tree_unflatten(structure, as_arrays["optimizer"])
        return TrainState(**{**as_arrays, "optimizer": optimizer})


@dataclass(frozen=True)
class Beginning:
    """What training begins with where that is another run's: its weights, float32, and its running statistics, as in `TrainState`."""

    parameters: Tree
    statistics: Tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepRecord:
    """What one step reports; scalars on the device until they are read.

    `loss` is the mean over the utterances of the global batch of -log p(labels), in nats; `grad_norm` the Euclidean norm
    of its gradient before clipping; `blank_share` the share of valid output frames whose best class is blank; `skipped_steps` the
    state's after this step.
    """

    loss: Scalar
    grad_norm: Scalar
    learning_rate: Scalar
    loss_scale: Scalar
    finite: Scalar
    skipped_steps: Scalar
    blank_share: Scalar


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
class Replicas:
    """The same state on each of this process's devices; the first is what is evaluated, recorded and kept."""

    copies: tuple[TrainState, ...]

    @property
    def first(self) -> TrainState:
        """The copy on the first device."""
        return self.copies[0]


def _leaf_names(count: int) -> list[str]:
    """In optax's order, which is not the alphabet's: from 100 leaves on, "100_of_180" sorts before "11_of_180"."""
    return [f"{i:02d}_of_{count}" for i in range(count)]


def _layout(arrays: Tree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{jnp.asarray(x).dtype}{list(jnp.shape(x))}"
        for path, x in leaves
    }


def _require_same_layout(expected: Tree, found: Tree) -> None:
    want, have = _layout(expected), _layout(found)
    differing = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
    if differing:
        lines = [
            f"{name}: run has {have.get(name, 'nothing')}, config asks {want.get(name, 'nothing')}"
            for name in differing
        ]
        raise DataError("checkpoint does not fit this config: " + "; ".join(lines[:8]))
