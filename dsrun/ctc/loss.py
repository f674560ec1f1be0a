"""CTC loss and its gradient, exact where log space is not.

The problem. A path's probability is a product of hundreds of numbers below one and underflows any hardware format, so
everyone computes with logarithms. But at -2000, the log-probability of an 800-frame utterance, the spacing of float32
is 1.2e-4, and the gradient is made of exponentials of differences of such logarithms. Here every lattice cell is a
float32 mantissa with an int32 exponent instead (`cells`): log space with the integer part kept exactly.
`benchmarks/ctc_accuracy.py` compares.

The lattice (Graves et al. 2006) alternates blanks and labels: blank 0, label 0, blank 1, label 1, ..., blank L.
Blanks and labels are two arrays of L + 1 columns; a column from `num_labels` on is never left for the blank in which
every path must end. One frame, `alpha` with its emission and `prefix` before it:

    alpha.blank[i]  = prefix.blank[i] * p(blank)            prefix'.blank[i] = blank[i] + label[i - 1]
    alpha.label[i]  = prefix.label[i] * p(label i)          prefix'.label[i] = label[i] + blank[i] + label[i - 1]*

    * only where label i differs from label i - 1: equal neighbours need a blank between them.

`suffix` is the mirror image, from the end. prefix * p * suffix is the probability of all paths through a cell; its
share of a frame's total is the cell's occupancy, and the gradient with respect to the logits is softmax - occupancy.
Both loops carry the sums before the emission and hand out the carry as it came in: handing out what was just computed
would make XLA compute it twice, once for the carry and once for the output.

Lengths. A padded frame emits blank with probability 1 and labels with probability 0. So a path that has read its labels
waits through the padding in its last blank at no cost, and the loops need no masks.

Source: Graves et al. 2006 (Connectionist Temporal Classification), the recursion. The number format is ours.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from dsrun.ctc import cells, mosaic
from dsrun.ctc.alignment import BLANK
from dsrun.ctc.cells import Cells
from dsrun.ctc.emissions import Emissions, Softmax, frame_probabilities
from dsrun.ctc.mosaic import CtcKernel


def ctc_loss(
    logits: Float[Array, "batch output_frame class"],
    num_frames: Int[Array, " batch"],
    labels: Int[Array, "batch label"],
    num_labels: Int[Array, " batch"],
    *,
    kernel: CtcKernel = "scan",
) -> Float32[Array, " batch"]:
    """-log p(labels | logits) of each utterance.

    Args:
        logits: class scores before the softmax, blank is class 0. Another float type is converted to float32 first.
        num_frames: valid output frames of each utterance, 0..output_frame; lengths, not masks.
        labels: class ids 1..class-1; what lies behind `num_labels` has no effect. Not checked: an id out of range
            gives the loss of some other label.
        num_labels: labels of each utterance, 0..label.
        kernel: what walks the lattice: two scans, anywhere; "mosaic", one kernel on an NVIDIA GPU (`dsrun.kernels.ctc`), the same bits
            but for the order in which a frame's blanks are summed; "interpreted", that kernel on a CPU, for tests.

    Returns:
        Loss in nats (natural log), at least 0. No frames and no labels: 0. No valid alignment (fewer frames than
        `frames_needed`): infinity, and the gradient is exactly 0. A valid frame with NaN or +infinity, or with no
        finite logit: NaN, in the gradient of the utterance's valid frames too. Padded frames have no effect, whatever
        they hold; their gradient is 0.

    Arithmetic:
        float32 and int32. The loss is good to about one float32 rounding, the gradient to about 1e-6 at 800 frames;
        each frame's gradient sums to 0 over the classes within 1e-6. -infinity is a class of probability zero, and so
        is a logit more than 1.86e8 / output_frame below its frame's largest. No scatter, no atomics. Differentiable
        once, by `logits` only.

    Source: Graves et al. 2006.
    """
    num_frames, labels, num_labels = (x.astype(jnp.int32) for x in (num_frames, labels, num_labels))
    return _ctc_loss(kernel, logits.astype(jnp.float32), num_frames, labels, num_labels)


class _Lattice(NamedTuple):
    """Blank cells and label cells, each [batch, label + 1]."""

    blank: Cells
    label: Cells


class _Label(NamedTuple):
    """The label sequence on the lattice's columns."""

    ids: Int32[Array, "batch column"]  # 0 from num_labels on
    is_end: Bool[Array, "batch column"]  # column num_labels: the blank in which every path ends
    no_skip: Int32[Array, "batch column"]  # exponent added from label i - 1 to label i: 0, or DEAD where equal


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ctc_loss(
    kernel: CtcKernel,
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int32[Array, " batch"],
    labels: Int32[Array, "batch label"],
    num_labels: Int32[Array, " batch"],
) -> Float32[Array, " batch"]:
    label = _label_columns(labels, num_labels)
    emissions, softmax = frame_probabilities(logits, num_frames, label.ids)
    if kernel == "scan":
        return _loss(_total(label, _prefixes(label, emissions, keep=False)[0]), softmax)
    return _loss(mosaic.total(kernel, emissions, label.no_skip, num_labels), softmax)


def _ctc_loss_forward(
    kernel: CtcKernel,
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int32[Array, " batch"],
    labels: Int32[Array, "batch label"],
    num_labels: Int32[Array, " batch"],
) -> tuple[Float32[Array, " batch"], Float32[Array, "batch output_frame class"]]:
    """Loss, and its gradient as the only residual: as large as the logits, where the lattices are many times that."""
    label = _label_columns(labels, num_labels)
    emissions, softmax = frame_probabilities(logits, num_frames, label.ids)
    if kernel == "scan":
        last, prefixes = _prefixes(label, emissions, keep=True)
        assert prefixes is not None
        total = _total(label, last)
        blank, by_column = _occupancies(label, emissions, prefixes, total)
    else:
        total, blank, by_column = mosaic.total_and_occupancies(kernel, emissions, label.no_skip, num_labels)
    return _loss(total, softmax), _gradient(label, blank, by_column, _has_alignment(total), softmax)


def _ctc_loss_backward(
    kernel: CtcKernel, gradient: Float32[Array, "batch output_frame class"], loss_gradient: Float32[Array, " batch"]
) -> tuple[Float32[Array, "batch output_frame class"], None, None, None]:
    return _weighted(gradient, loss_gradient), None, None, None


def _weighted(
    gradient: Float32[Array, "batch output_frame class"], loss_gradient: Float32[Array, " batch"]
) -> Float32[Array, "batch output_frame class"]:
    # A zero stays zero under any incoming factor: weighting an infinite loss by 0 / 0 must not poison padded frames.
    return jnp.where(gradient == 0.0, jnp.float32(0), gradient * loss_gradient[:, None, None])


_ctc_loss.defvjp(_ctc_loss_forward, _ctc_loss_backward)


def _label_columns(labels: Int32[Array, "batch label"], num_labels: Int32[Array, " batch"]) -> _Label:
    column = jnp.arange(labels.shape[1] + 1, dtype=jnp.int32)[None, :]
    ids = jnp.where(column < num_labels[:, None], jnp.pad(labels, ((0, 0), (0, 1))), BLANK)
    is_equal = ids == jnp.pad(ids, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    no_skip = jnp.where(is_equal, jnp.int32(cells.DEAD), jnp.int32(0))
    return _Label(ids, column == num_labels[:, None], no_skip)


def _prefixes(label: _Label, emissions: Emissions, *, keep: bool) -> tuple[_Lattice, _Lattice | None]:
    """Sums over the ways to reach each cell, its own emission left out: after the last frame; at each (`keep`)."""
    is_first = jnp.broadcast_to(jnp.arange(label.ids.shape[1], dtype=jnp.int32)[None, :] == 0, label.ids.shape)
    start = _Lattice(cells.one_where(is_first), cells.one_where(is_first))

    def step(prefix: _Lattice, emission: Emissions) -> tuple[_Lattice, _Lattice | None]:
        blank, here = cells.multiply(prefix.blank, emission.blank), cells.multiply(prefix.label, emission.label)
        before = Cells(_from_left(here.mantissa, 1), _from_left(here.exponent, cells.DEAD))
        skipping = Cells(before.mantissa, before.exponent + label.no_skip)
        return _Lattice(cells.add(blank, before), cells.add(here, blank, skipping)), prefix if keep else None

    return jax.lax.scan(step, start, emissions)


def _occupancies(
    label: _Label, emissions: Emissions, prefixes: _Lattice, total: Cells
) -> tuple[Float32[Array, "output_frame batch"], Float32[Array, "output_frame batch column"]]:
    """Share of the paths through blank and through each label, at each frame, up to the drift of the two loops."""
    is_last_label = jnp.pad(label.is_end, ((0, 0), (0, 1)))[:, 1:]
    end = _Lattice(cells.one_where(label.is_end), cells.one_where(is_last_label))
    no_skip = _from_right(label.no_skip, cells.DEAD)
    exponent = total.exponent[:, None]

    def step(
        suffix: _Lattice, inputs: tuple[Emissions, _Lattice]
    ) -> tuple[_Lattice, tuple[Float32[Array, " batch"], Float32[Array, "batch column"]]]:
        emission, prefix = inputs
        blank, here = cells.multiply(suffix.blank, emission.blank), cells.multiply(suffix.label, emission.label)
        in_blank = jnp.sum(cells.share(prefix.blank, blank, exponent), axis=1)
        in_label = cells.share(prefix.label, here, exponent)
        after = Cells(_from_right(blank.mantissa, 1), _from_right(blank.exponent, cells.DEAD))
        skipping = Cells(_from_right(here.mantissa, 1), _from_right(here.exponent, cells.DEAD) + no_skip)
        return _Lattice(cells.add(blank, here), cells.add(here, after, skipping)), (in_blank, in_label)

    _, occupancies = jax.lax.scan(step, end, (emissions, prefixes), reverse=True)
    return occupancies


def _total(label: _Label, last: _Lattice) -> Cells:
    """p(labels) of each utterance relative to its best path without constraint, [batch]."""
    mantissa = jnp.sum(jnp.where(label.is_end, last.blank.mantissa, jnp.float32(0)), axis=1)
    exponent = jnp.sum(jnp.where(label.is_end, last.blank.exponent, jnp.int32(0)), axis=1)
    return cells.normalize(Cells(mantissa, exponent))


def _has_alignment(total: Cells) -> Bool[Array, " batch"]:
    return total.exponent > (cells.DEAD + cells.LOWEST_ALIVE) // 2


def _loss(total: Cells, softmax: Softmax) -> Float32[Array, " batch"]:
    """log of the product of the normalizers - log of the total, the integer parts of both subtracted exactly."""
    normalizer = cells.normalize(Cells(1.0 + softmax.others, jnp.zeros(softmax.others.shape, jnp.int32)))
    # Where 1 + others is below 2, log1p keeps what the addition of 1 would round away.
    fraction = jnp.where(normalizer.exponent == 0, jnp.log1p(softmax.others), jnp.log(normalizer.mantissa))
    fraction = jnp.sum(jnp.where(softmax.is_valid, fraction, jnp.float32(0)), axis=1)
    whole = jnp.sum(jnp.where(softmax.is_valid, normalizer.exponent, jnp.int32(0)), axis=1)
    loss = (whole - total.exponent).astype(jnp.float32) * jnp.float32(cells.LN2) + (fraction - jnp.log(total.mantissa))
    # A loss of -1e-7 is rounding; the truth is at least 0.
    loss = jnp.where(_has_alignment(total), jnp.maximum(loss, jnp.float32(0)), jnp.float32(jnp.inf))
    return jnp.where(softmax.is_bad, jnp.float32(jnp.nan), loss)


def _gradient(
    label: _Label,
    blank: Float32[Array, "output_frame batch"],
    by_column: Float32[Array, "output_frame batch column"],
    has_alignment: Bool[Array, " batch"],
    softmax: Softmax,
) -> Float32[Array, "batch output_frame class"]:
    """softmax - occupancy; zero in padded frames and without an alignment, NaN where the loss is."""
    # Dividing by the frame's own sum removes the rounding that all its cells share.
    in_frame = blank + jnp.sum(by_column, axis=2)
    in_frame = jnp.where(in_frame > 0.0, in_frame, jnp.float32(1))
    class_id = jnp.arange(softmax.logits.shape[2], dtype=jnp.int32)
    occupancy = _sum_by_class(label.ids, by_column / in_frame[:, :, None], class_id)
    occupancy = occupancy + jnp.where(
        class_id[None, None, :] == BLANK, (blank / in_frame).T[:, :, None], jnp.float32(0)
    )
    gradient = softmax.relative() / (1.0 + softmax.others[:, :, None]) - occupancy
    return _masked_gradient(gradient, softmax.is_valid, has_alignment, softmax.is_bad)


def _sum_by_class(
    ids: Int32[Array, "batch column"],
    by_column: Float32[Array, "output_frame batch column"],
    class_id: Int32[Array, " class"],
) -> Float32[Array, "batch output_frame class"]:
    """Sums of the columns of each class, by a product with 0 and 1: a scatter with repeated indices has no fixed order."""
    is_class = (ids[:, :, None] == class_id[None, None, :]).astype(jnp.float32)
    return jnp.einsum("tbl,blc->btc", by_column, is_class, precision=jax.lax.Precision.HIGHEST)


def _masked_gradient(
    gradient: Float32[Array, "batch output_frame class"],
    is_valid: Bool[Array, "batch output_frame"],
    has_alignment: Bool[Array, " batch"],
    is_bad: Bool[Array, " batch"],
) -> Float32[Array, "batch output_frame class"]:
    """Zero in padded frames and without an alignment, NaN in the valid frames of a bad utterance."""
    is_used = (is_valid & has_alignment[:, None])[:, :, None]
    gradient = jnp.where(is_used, gradient, jnp.float32(0))
    return jnp.where((is_valid & is_bad[:, None])[:, :, None], jnp.float32(jnp.nan), gradient)


def _from_left(x: Array, edge: int) -> Array:
    """Column i receives column i - 1, column 0 the edge."""
    return jnp.pad(x, ((0, 0), (1, 0)), constant_values=edge)[:, :-1]


def _from_right(x: Array, edge: int) -> Array:
    """Column i receives column i + 1, the last the edge."""
    return jnp.pad(x, ((0, 0), (0, 1)), constant_values=edge)[:, 1:]
