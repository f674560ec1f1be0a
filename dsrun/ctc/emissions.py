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
    """What the loss and the gradient need of the frames beside the lattice."""

    relative: Float32[Array, "batch output_frame class"]  # exp(logit - largest)
    others: Float32[Array, "batch output_frame"]  # `relative` summed without the best class: normalizer 1 + others
    is_valid: Bool[Array, "batch output_frame"]
    is_bad: Bool[Array, " batch"]  # a valid frame has no finite maximum


def frame_probabilities(
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int32[Array, " batch"],
    ids: Int32[Array, "batch column"],
) -> tuple[Emissions, Softmax]:
    """Emissions of blank and of each column's class, and the frames' softmax."""
    frame = jnp.arange(logits.shape[1], dtype=jnp.int32)[None, :]
    is_valid = frame < num_frames[:, None]
    # Replaced before any arithmetic: NaN times zero is NaN.
    logits = jnp.where(is_valid[:, :, None], logits, jnp.float32(0))
    relative, error, is_best = _relative_logits(logits)
    others = jnp.sum(jnp.where(is_best, jnp.float32(0), jnp.exp(relative)), axis=2)
    is_bad = jnp.any(~jnp.isfinite(jnp.max(logits, axis=2)), axis=1)
    softmax = Softmax(jnp.exp(relative), others, is_valid, is_bad)
    probabilities = cells.exp(relative, error, num_factors=logits.shape[1])
    return _by_column(ids, probabilities, is_valid), softmax


def _relative_logits(
    logits: Float32[Array, "batch output_frame class"],
) -> tuple[
    Float32[Array, "batch output_frame class"],
    Float32[Array, "batch output_frame class"],
    Bool[Array, "batch output_frame class"],
]:
    """logit - largest of the frame; what rounding took from it (Knuth's two-sum, exact); which class is the largest."""
    largest = jnp.max(logits, axis=2, keepdims=True)
    relative = logits - largest
    of_largest = relative - logits
    error = (logits - (relative - of_largest)) - (largest + of_largest)
    class_id = jnp.arange(logits.shape[2], dtype=jnp.int32)[None, None, :]
    return relative, error, class_id == jnp.argmax(logits, axis=2, keepdims=True).astype(jnp.int32)


def _by_column(
    ids: Int32[Array, "batch column"], probabilities: Cells, is_valid: Bool[Array, "batch output_frame"]
) -> Emissions:
    """Time first, so that a step of the loop reads one contiguous slice. Padded frames: blank 1, labels 0."""
    mantissa, exponent = (jnp.swapaxes(part, 0, 1) for part in probabilities)
    is_valid = is_valid.T[:, :, None]
    blank = Cells(
        jnp.where(is_valid, mantissa[:, :, BLANK, None], jnp.float32(1)),
        jnp.where(is_valid, exponent[:, :, BLANK, None], jnp.int32(0)),
    )
    by_column = Cells(
        *(jnp.take_along_axis(part, ids[None, :, :], axis=2, mode="clip") for part in (mantissa, exponent))
    )
    return Emissions(blank, Cells(by_column.mantissa, jnp.where(is_valid, by_column.exponent, jnp.int32(cells.DEAD))))
