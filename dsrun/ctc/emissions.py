"""Emissions: the probabilities of a frame's classes, ready for the lattice, and what loss and gradient need beside it.

Probabilities are taken relative to each frame's most probable class, p(k) = exp(logit[k] - largest), with the rounding
error of that subtraction put back. The frame's normalizer, 1 + the sum over the other classes, enters the loss only. So
an utterance that the network is sure of has an accurate small loss, and the lattice never sees the error of a softmax.

A padded frame emits blank with probability 1 and labels with probability 0, whatever its logits are.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from dsrun.ctc import cells
from dsrun.ctc.alignment import BLANK
from dsrun.ctc.cells import Cells


class Emissions(NamedTuple):
    """Probabilities of one utterance's frames relative to each frame's best class, time first."""

    blank: Cells  # [output_frame, batch, 1]
    label: Cells  # [output_frame, batch, label + 1]


class Softmax(NamedTuple):
    """What the loss and the gradient need of the frames beside the lattice.

    No array of probabilities: with thousands of classes it would be as large as everything else together, and the gradient, which is
    as large, makes it as it is written.
    """

    logits: Float32[Array, "batch output_frame class"]  # as they came, in padded frames too
    largest: Float32[Array, "batch output_frame"]
    others: Float32[
        Array, "batch output_frame"
    ]  # exp(logit - largest) summed without the best class: normalizer 1 + others
    is_valid: Bool[Array, "batch output_frame"]
    is_bad: Bool[Array, " batch"]  # a valid frame has no finite maximum

    def relative(self) -> Float32[Array, "batch output_frame class"]:
        """Probabilities relative to each frame's best class; anything in padded frames."""
        return jnp.exp(self.logits - self.largest[:, :, None])


def frame_probabilities(
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int32[Array, " batch"],
    ids: Int32[Array, "batch column"],
) -> tuple[Emissions, Softmax]:
    """Emissions of blank and of each column's class, and the frames' softmax."""
    frame = jnp.arange(logits.shape[1], dtype=jnp.int32)[None, :]
    is_valid = frame < num_frames[:, None]
    # Padded frames are selected away from what is made of them, row by row: a masked copy would be another array of the logits' size.
    largest = jnp.max(logits, axis=2, keepdims=True)
    is_bad = jnp.any(is_valid & ~jnp.isfinite(largest[:, :, 0]), axis=1)
    softmax = Softmax(logits, largest[:, :, 0], _others(logits, largest), is_valid, is_bad)
    return _by_column(ids, logits, largest, is_valid), softmax


def _others(
    logits: Float32[Array, "batch output_frame class"], largest: Float32[Array, "batch output_frame 1"]
) -> Float32[Array, "batch output_frame"]:
    """Sum over the classes but the best, of equals the first. A minimum of numbers: argmax reduces pairs, several times as slowly."""
    class_id = jnp.arange(logits.shape[2], dtype=jnp.int32)[None, None, :]
    best = jnp.min(jnp.where(logits == largest, class_id, logits.shape[2]), axis=2, keepdims=True)
    return jnp.sum(jnp.where(class_id == best, jnp.float32(0), jnp.exp(logits - largest)), axis=2)


def _probabilities(logits: Float32[Array, "..."], largest: Float32[Array, "..."], num_factors: int) -> Cells:
    """exp(logit - largest), with what rounding took from the difference put back (Knuth's two-sum, exact)."""
    relative = logits - largest
    of_largest = relative - logits
    error = (logits - (relative - of_largest)) - (largest + of_largest)
    return cells.exp(relative, error, num_factors=num_factors)


def _by_column(
    ids: Int32[Array, "batch column"],
    logits: Float32[Array, "batch output_frame class"],
    largest: Float32[Array, "batch output_frame 1"],
    is_valid: Bool[Array, "batch output_frame"],
) -> Emissions:
    """Time first, so that a step of the loop reads one contiguous slice. Padded frames: blank 1, labels 0.

    Logits are picked and then exponentiated, or the other way round, whichever makes fewer exponentials: the same numbers.
    """
    frames = logits.shape[1]

    def pick(x: Array) -> Array:
        return jnp.take_along_axis(jnp.swapaxes(x, 0, 1), ids[None, :, :], axis=2, mode="clip")

    if ids.shape[1] < logits.shape[2]:
        label = _probabilities(pick(logits), jnp.swapaxes(largest, 0, 1), frames)
    else:
        label = Cells(*(pick(part) for part in _probabilities(logits, largest, frames)))
    blank = Cells(*(jnp.swapaxes(part, 0, 1) for part in _probabilities(logits[:, :, BLANK, None], largest, frames)))
    is_valid = is_valid.T[:, :, None]
    return Emissions(
        Cells(jnp.where(is_valid, blank.mantissa, jnp.float32(1)), jnp.where(is_valid, blank.exponent, jnp.int32(0))),
        Cells(
            jnp.where(is_valid, label.mantissa, jnp.float32(1)),
            jnp.where(is_valid, label.exponent, jnp.int32(cells.DEAD)),
        ),
    )
