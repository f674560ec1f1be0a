"""CTC's two loops as one GPU kernel: a thread block an utterance, the frames a loop inside it.

The problem. As a scan, each frame of the lattice is a few kernel launches, microseconds of waiting for nanoseconds of
arithmetic, and the utterances wait for one another. They need not: an utterance's lattice row is a few hundred numbers,
so one thread block keeps it in registers and meets no other block. The only exchange is between neighbouring columns,
through a row of shared memory with one more column at each end:

    row     [edge] [column 0] [column 1] ... [column C - 1] [edge]
    write          |<---------------- at 1 --------------->|
    column i - 1   read at 0            column i + 1   read at 2

The recursion is that of `dsrun.ctc.loss`, whose docstring has the formulas and the names (prefix, suffix, occupancy);
the number format is that of `dsrun.ctc.cells`: a float32 mantissa and an int32 exponent, a dead cell's exponent near
-2**29. This room lies below that one and may not import it, so the five operations on cells are written again here, and
a test holds both to the same bits. Frames are read one ahead: the next frame's emissions are on their way while this
one's are used.

What is promised. Same operations, same order, so the same bits as the scan of the same emissions, for the total and for
each label's occupancy, in every utterance that has an alignment. Mosaic allows the contraction of a product and a sum to
one rounding, the CPU may not; it makes no difference: the only sums are in `_add`, their products are by powers of two,
and an exact product rounds nothing. Nor do subnormal numbers: there are none. The blanks' occupancies are summed over
the columns by XLA, outside, in XLA's order. In an utterance without an alignment the total's exponent is as low as a
dead cell's and the occupancies mean nothing; they may be NaN.

Cost: loss and gradient take at most 2 us a frame on an H100 (docs/MEASUREMENTS.md, GPU). Mosaic puts a barrier before
and after every store, so a frame has 12 in the first loop (4 when nothing is kept) and 12 in the second, counted in the
lowered code. Memory: four numbers a frame and padded column for the prefixes. Next, if it is too slow: both loops at once
in two blocks, occupancies outside.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float32, Int32

from dsrun.kernels.target import COMPILER, THREADS, Target, interpretation, one_a_thread

DEAD = -(2**29)


class Emissions(NamedTuple):
    """Probability of blank, and of the class of each column, at each frame: mantissa * 2**exponent, mantissa > 0.

    A padded frame emits blank with probability 1 and labels with probability 0 (exponent DEAD).
    """

    blank_mantissa: Float32[Array, "output_frame batch"]
    blank_exponent: Int32[Array, "output_frame batch"]
    label_mantissa: Float32[Array, "output_frame batch column"]
    label_exponent: Int32[Array, "output_frame batch column"]


class Label(NamedTuple):
    """The label sequences on the lattice's columns."""

    no_skip: Int32[Array, "batch column"]  # exponent added from label i - 1 to label i: 0, or DEAD where equal
    end: Int32[Array, " batch"]  # the number of labels: column of the blank in which every path ends, below `column`


class Total(NamedTuple):
    """p(labels) of each utterance, as the emissions are scaled: mantissa * 2**exponent, mantissa in [1, 2)."""

    mantissa: Float32[Array, " batch"]
    exponent: Int32[Array, " batch"]


class Occupancies(NamedTuple):
    """Paths through blank and through each column's label, in units of 2**exponent of the total, up to the loops' drift."""

    in_blank: Float32[Array, "output_frame batch"]
    in_label: Float32[Array, "output_frame batch column"]


def total(emissions: Emissions, label: Label, *, target: Target) -> Total:
    """The probability of each utterance's labels: the first loop alone, nothing kept.

    Args:
        emissions: time first. Any size, 0 included.
        label: batch first.
        target: "cuda", or "interpreter", which is for tests and slow.

    Returns:
        What the scan's `_total` returns, to the bit. Without an alignment: exponent near DEAD.
    """
    shape = emissions.label_mantissa.shape
    emissions, label = _pad(emissions, label)
    (sums,) = _launch(_total_block, (_total_type(emissions),), 1, target)(emissions, label)
    return _crop_total(sums, shape)


def total_and_occupancies(emissions: Emissions, label: Label, *, target: Target) -> tuple[Total, Occupancies]:
    """The probability of each utterance's labels, and where its paths run: both loops.

    Args and promises as for `total`. Prefixes, four numbers a frame and column, are kept in global memory between the
    loops.

    Returns:
        What the scan's `_total` and `_occupancies` return: bits of `in_label` the same, `in_blank` summed in its own
        order. In an utterance without an alignment the occupancies mean nothing.
    """
    shape = emissions.label_mantissa.shape
    emissions, label = _pad(emissions, label)
    share, exponent = (_like(emissions.label_mantissa, dtype) for dtype in (jnp.float32, jnp.int32))
    kept = _Lattice(_Cells(share, exponent), _Cells(share, exponent))
    outputs = (_total_type(emissions), Occupancies(share, share), kept)
    sums, shares, _ = _launch(_total_and_occupancies_block, outputs, 2, target)(emissions, label)
    in_blank, in_label = (x[: shape[0], : shape[1], : shape[2]] for x in shares)
    return _crop_total(sums, shape), Occupancies(jnp.sum(in_blank, axis=2), in_label)


# Shapes: at least one frame, one utterance, and a multiple of 128 columns.


def _pad(emissions: Emissions, label: Label) -> tuple[Emissions, Label]:
    """A frame, an utterance or columns more, all dead but for blanks of a padded frame: no path changes."""
    frames, batch, columns = emissions.label_mantissa.shape
    extra = (max(1 - frames, 0), max(1 - batch, 0), -columns % THREADS)
    return (
        Emissions(
            _grow(emissions.blank_mantissa, extra[:2], 1),
            _grow(emissions.blank_exponent, extra[:2], 0),
            _grow(emissions.label_mantissa, extra, 1),
            _grow(emissions.label_exponent, extra, DEAD),
        ),
        # One column more than the others: the backward loop reads the rule of column i + 1.
        Label(_grow(label.no_skip, (extra[1], extra[2] + 1), DEAD), _grow(label.end, extra[1:2], 0)),
    )


def _grow(x: jax.Array, extra: tuple[int, ...], value: int) -> jax.Array:
    return jnp.pad(x, [(0, n) for n in extra], constant_values=value)


def _like(x: jax.Array, dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, dtype)


def _total_type(emissions: Emissions) -> Total:
    utterances = emissions.blank_mantissa[0]
    return Total(_like(utterances, jnp.float32), _like(utterances, jnp.int32))


def _crop_total(sums: Total, shape: tuple[int, ...]) -> Total:
    return Total(sums.mantissa[: shape[1]], sums.exponent[: shape[1]])


def _launch(block: Any, outputs: Any, num_rows: int, target: Target) -> Any:
    """A function of (Emissions, Label) that runs `block` once for each utterance."""

    def run(emissions: Emissions, label: Label) -> Any:
        columns = emissions.label_mantissa.shape[2]
        row = _Cells(plgpu.SMEM((columns + 2,), jnp.float32), plgpu.SMEM((columns + 2,), jnp.int32))
        kernel = plgpu.kernel(
            partial(block, one_a_thread(target, columns)),
            out_type=outputs,
            scratch_types=(row,) * num_rows,
            grid=emissions.blank_mantissa.shape[1:],
            grid_names=("utterance",),
            compiler_params=COMPILER,
            interpret=interpretation(target),
        )
        return kernel(emissions, label)

    return run


# Inside the block: arrays are rows of `column`, refs point to global or shared memory.


class _Cells(NamedTuple):
    """Numbers mantissa * 2**exponent: two rows, two scalars, or two refs."""

    mantissa: Any
    exponent: Any


class _Lattice(NamedTuple):
    """Blank cells and label cells."""

    blank: _Cells
    label: _Cells


@dataclass(frozen=True)
class _Utterance:
    """What one block sees of the inputs."""

    emissions: Emissions  # refs
    label: Label  # refs
    index: jax.Array
    lay: Any  # spreads a row over the threads

    @property
    def num_frames(self) -> int:
        return self.emissions.label_mantissa.shape[0]

    @property
    def num_columns(self) -> int:
        return self.emissions.label_mantissa.shape[2]

    @property
    def column(self) -> jax.Array:
        return self.lay(jax.lax.iota(jnp.int32, self.num_columns))

    @property
    def end(self) -> jax.Array:
        return self.label.end[self.index]

    def emission(self, frame: jax.Array) -> _Lattice:
        """Of blank two scalars, of the labels two rows."""
        blank, label = (frame, self.index), (frame, self.index, pl.ds(0, self.num_columns))
        return _Lattice(
            _Cells(self.emissions.blank_mantissa[blank], self.emissions.blank_exponent[blank]),
            _Cells(self.lay(self.emissions.label_mantissa[label]), self.lay(self.emissions.label_exponent[label])),
        )

    def no_skip(self, offset: int) -> jax.Array:
        """The rule of column i + offset, 0 or 1."""
        return self.lay(self.label.no_skip[self.index, pl.ds(offset, self.num_columns)])

    def one_where(self, condition: jax.Array) -> _Cells:
        exponent = jnp.where(condition, jnp.zeros_like(self.column), jnp.full_like(self.column, DEAD))
        return _Cells(self.lay(jnp.ones(condition.shape, jnp.float32)), exponent)


@dataclass(frozen=True)
class _Row:
    """A row in shared memory, through which a column reads its neighbours. Mosaic puts barriers around each write."""

    cells: _Cells  # refs of num_columns + 2
    lay: Any

    @property
    def num_columns(self) -> int:
        return self.cells.mantissa.shape[0] - 2

    def set_edges(self) -> None:
        for edge in (0, self.num_columns + 1):
            self.cells.mantissa[edge] = jnp.float32(1)
            self.cells.exponent[edge] = jnp.int32(DEAD)

    def write(self, cells: _Cells) -> None:
        for ref, row in zip(self.cells, cells, strict=True):
            ref[pl.ds(1, self.num_columns)] = row

    def left(self) -> _Cells:
        """Column i receives column i - 1, column 0 the edge."""
        return _Cells(*(self.lay(ref[pl.ds(0, self.num_columns)]) for ref in self.cells))

    def right(self) -> _Cells:
        """Column i receives column i + 1, the last the edge."""
        return _Cells(*(self.lay(ref[pl.ds(2, self.num_columns)]) for ref in self.cells))

    def at(self, column: jax.Array) -> _Cells:
        return _Cells(*(ref[column + 1] for ref in self.cells))


def _total_block(lay: Any, emissions: Emissions, label: Label, sums: Total, row: _Cells) -> None:
    utterance = _Utterance(emissions, label, jax.lax.axis_index("utterance"), lay)
    _prefixes(utterance, _Row(row, lay), sums, keep=None)


def _total_and_occupancies_block(
    lay: Any,
    emissions: Emissions,
    label: Label,
    sums: Total,
    shares: Occupancies,
    prefixes: _Lattice,
    row: _Cells,
    blank_row: _Cells,
) -> None:
    utterance = _Utterance(emissions, label, jax.lax.axis_index("utterance"), lay)
    rows = _Row(row, lay), _Row(blank_row, lay)
    exponent = _prefixes(utterance, rows[0], sums, keep=prefixes)
    _suffixes(utterance, rows, exponent, prefixes, shares)


def _prefixes(utterance: _Utterance, row: _Row, sums: Total, *, keep: _Lattice | None) -> jax.Array:
    """First loop: sums over the ways to reach each cell, its own emission left out. Writes the total, returns its exponent."""
    row.set_edges()
    no_skip = utterance.no_skip(0)
    last = utterance.num_frames - 1

    def step(frame: jax.Array, carry: tuple[_Lattice, _Lattice]) -> tuple[_Lattice, _Lattice]:
        prefix, emission = carry
        ahead = utterance.emission(jnp.minimum(frame + 1, last))
        if keep is not None:
            _store(keep, prefix, (frame, utterance.index))
        blank, here = _multiply(prefix.blank, emission.blank), _multiply(prefix.label, emission.label)
        row.write(here)
        before = row.left()
        skipping = _Cells(before.mantissa, before.exponent + no_skip)
        return _Lattice(_add(blank, before), _add(here, blank, skipping)), ahead

    first = utterance.one_where(utterance.column == 0)
    start = (_Lattice(first, first), utterance.emission(jnp.int32(0)))
    final, _ = jax.lax.fori_loop(0, utterance.num_frames, step, start)
    row.write(_normalize(final.blank))
    at_end = row.at(utterance.end)
    sums.mantissa[utterance.index] = at_end.mantissa
    sums.exponent[utterance.index] = at_end.exponent
    return at_end.exponent


def _suffixes(
    utterance: _Utterance, rows: tuple[_Row, _Row], exponent: jax.Array, prefixes: _Lattice, shares: Occupancies
) -> None:
    """Second loop, last frame first: the mirror image, and with the prefixes the occupancies."""
    row, blank_row = rows
    row.set_edges()
    blank_row.set_edges()
    no_skip = utterance.no_skip(1)
    last = utterance.num_frames - 1

    def read(frame: jax.Array) -> tuple[_Lattice, _Lattice]:
        return utterance.emission(frame), _load(prefixes, (frame, utterance.index), utterance)

    def step(count: jax.Array, carry: tuple[_Lattice, _Lattice, _Lattice]) -> tuple[_Lattice, _Lattice, _Lattice]:
        suffix, emission, prefix = carry
        frame = last - count
        ahead = read(jnp.maximum(frame - 1, 0))
        blank, here = _multiply(suffix.blank, emission.blank), _multiply(suffix.label, emission.label)
        place = (frame, utterance.index, pl.ds(0, utterance.num_columns))
        shares.in_blank[place] = _share(prefix.blank, blank, exponent)
        shares.in_label[place] = _share(prefix.label, here, exponent)
        row.write(here)
        blank_row.write(blank)
        after, skipping = blank_row.right(), row.right()
        skipping = _Cells(skipping.mantissa, skipping.exponent + no_skip)
        return _Lattice(_add(blank, here), _add(here, after, skipping)), *ahead

    end = _Lattice(
        utterance.one_where(utterance.column == utterance.end),
        utterance.one_where(utterance.column + 1 == utterance.end),
    )
    jax.lax.fori_loop(0, utterance.num_frames, step, (end, *read(jnp.int32(last))))


def _store(refs: _Lattice, lattice: _Lattice, place: tuple[Any, ...]) -> None:
    for ref, row in zip(jax.tree.leaves(refs), jax.tree.leaves(lattice), strict=True):
        ref[(*place, pl.ds(0, row.shape[0]))] = row


def _load(refs: _Lattice, place: tuple[Any, ...], utterance: _Utterance) -> _Lattice:
    place = (*place, pl.ds(0, utterance.num_columns))
    return jax.tree.map(lambda ref: utterance.lay(ref[place]), refs)


# Cells, as in `dsrun.ctc.cells`: the same operations in the same order.


def _normalize(cells: _Cells) -> _Cells:
    """The same numbers with mantissas in [1, 2)."""
    bits = jax.lax.bitcast_convert_type(cells.mantissa, jnp.int32)
    mantissa = jax.lax.bitcast_convert_type((bits & 0x007F_FFFF) | 0x3F80_0000, jnp.float32)
    return _Cells(mantissa, cells.exponent + (bits >> 23) - 127)


def _multiply(a: _Cells, b: _Cells) -> _Cells:
    """a * b, normalized; dead times anything stays dead and does not drift down."""
    return _normalize(_Cells(a.mantissa * b.mantissa, jnp.maximum(a.exponent + b.exponent, DEAD)))


def _add(first: _Cells, *others: _Cells) -> _Cells:
    """Sum of two or three normalized cells, not normalized; a term more than 2**126 below the largest is lost."""
    exponent = first.exponent
    for cells in others:
        exponent = jnp.maximum(exponent, cells.exponent)
    mantissa = first.mantissa * _power_of_two(first.exponent - exponent)
    for cells in others:
        mantissa = mantissa + cells.mantissa * _power_of_two(cells.exponent - exponent)
    return _Cells(mantissa, exponent)


def _share(a: _Cells, b: _Cells, exponent: jax.Array) -> jax.Array:
    """a * b / 2**exponent as a plain float32; below 2**-126 it is 0."""
    return a.mantissa * b.mantissa * _power_of_two(a.exponent + b.exponent - exponent)


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """2**exponent for exponents up to 127, from bits; 0 below -126."""
    return jax.lax.bitcast_convert_type(jnp.maximum(exponent + 127, 0) << 23, jnp.float32)
