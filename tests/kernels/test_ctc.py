"""The CTC kernel, interpreted on the CPU, against the scan of `dsrun.ctc.loss`; and lowered for a GPU that is not there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.ctc import cells, loss
from dsrun.ctc.cells import Cells
from dsrun.ctc.emissions import frame_probabilities
from dsrun.kernels import ctc as kernel

interpreted = jax.jit(kernel.total_and_occupancies, static_argnames="target")


@jax.jit
def scan(logits, num_frames, labels, num_labels):
    """The inputs of the kernel, and what the scan makes of them."""
    label = loss._label_columns(labels, num_labels)
    emissions, softmax = frame_probabilities(logits, num_frames, label.ids)
    last, prefixes = loss._prefixes(label, emissions, keep=True)
    total = loss._total(label, last)
    return label, emissions, softmax, total, loss._occupancies(label, emissions, prefixes, total)


def for_kernel(label, emissions, num_labels):
    blank = (part[:, :, 0] for part in emissions.blank)
    return kernel.Emissions(*blank, *emissions.label), kernel.Label(label.no_skip, num_labels)


def problem(seed, num_frames, labels, *, columns, deviation=3.0):
    """Random logits of 5 classes, labels padded to columns - 1; as many frames as the longest utterance and one."""
    frames = max(num_frames) + 1
    logits = np.random.default_rng(seed).standard_normal((len(labels), frames, 5)) * deviation
    padded = [row + [1] * (columns - 1 - len(row)) for row in labels]
    lengths = [len(row) for row in labels]
    return (
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(num_frames, jnp.int32),
        jnp.asarray(padded, jnp.int32).reshape(len(labels), columns - 1),
        jnp.asarray(lengths, jnp.int32),
    )


MIXED = [[1, 2, 3, 4], [2, 2, 2], [], [3], [1, 1, 1, 1]]
PROBLEMS = {
    "repeats, one empty, one infeasible": problem(0, [9, 5, 6, 1, 6], MIXED, columns=5),
    "one column": problem(1, [4, 0], [[], []], columns=1),
    "exactly one register of columns": problem(2, [5, 2], [[4, 4, 3], [1, 2]], columns=128),
    "labels across the border of two registers": problem(3, [131], [[1, 2] * 65], columns=131),
    "steep": problem(4, [12, 8], [[1, 2, 2, 1], [3, 1]], columns=6, deviation=200.0),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_bit_is_the_scans_where_there_is_an_alignment(name):
    label, emissions, _, total, (in_blank, in_label) = scan(*PROBLEMS[name])
    has_alignment = np.asarray(loss._has_alignment(total))
    assert has_alignment.any()
    inputs = for_kernel(label, emissions, PROBLEMS[name][3])
    found, occupancies = interpreted(*inputs, target="interpreter")
    np.testing.assert_array_equal(np.asarray(found.mantissa), np.asarray(total.mantissa))
    np.testing.assert_array_equal(np.asarray(found.exponent), np.asarray(total.exponent))
    np.testing.assert_array_equal(
        np.asarray(occupancies.in_label)[:, has_alignment], np.asarray(in_label)[:, has_alignment]
    )
    # The columns' sum is in XLA's order in both, but XLA need not choose the same one twice.
    np.testing.assert_allclose(
        np.asarray(occupancies.in_blank)[:, has_alignment], np.asarray(in_blank)[:, has_alignment], rtol=5e-7
    )


def test_the_first_loop_alone_gives_the_same_total():
    problem = PROBLEMS["repeats, one empty, one infeasible"]
    label, emissions, _, total, _ = scan(*problem)
    found = kernel.total(*for_kernel(label, emissions, problem[3]), target="interpreter")
    np.testing.assert_array_equal(np.asarray(found.mantissa), np.asarray(total.mantissa))
    np.testing.assert_array_equal(np.asarray(found.exponent), np.asarray(total.exponent))


def test_loss_and_gradient_made_of_it_are_those_of_the_scan_without_an_alignment_too():
    problem = PROBLEMS["repeats, one empty, one infeasible"]
    label, emissions, softmax, *of_scan = scan(*problem)
    total, occupancies = interpreted(*for_kernel(label, emissions, problem[3]), target="interpreter")
    losses, gradients = [], []
    for p, shares in (of_scan, (Cells(*total), occupancies)):
        losses.append(np.asarray(loss._loss(p, softmax)))
        gradients.append(np.asarray(loss._gradient(label, *shares, loss._has_alignment(p), softmax)))
    assert np.isinf(losses[0]).tolist() == [False, False, False, False, True]
    np.testing.assert_array_equal(losses[1], losses[0])
    # Not to the bit: the sum over the blanks may have another order.
    np.testing.assert_allclose(gradients[1], gradients[0], atol=5e-7)
    assert np.all(gradients[1][4] == 0.0)


@pytest.mark.parametrize(("frames", "batch"), [(0, 2), (3, 0)])
def test_no_frames_and_no_utterances_are_allowed(frames, batch):
    emissions = kernel.Emissions(
        jnp.ones((frames, batch), jnp.float32),
        jnp.zeros((frames, batch), jnp.int32),
        jnp.ones((frames, batch, 3), jnp.float32),
        jnp.zeros((frames, batch, 3), jnp.int32),
    )
    label = kernel.Label(jnp.zeros((batch, 3), jnp.int32), jnp.arange(batch, dtype=jnp.int32))
    total, occupancies = kernel.total_and_occupancies(emissions, label, target="interpreter")
    assert occupancies.in_blank.shape == (frames, batch)
    assert occupancies.in_label.shape == (frames, batch, 3)
    # Without frames there is one path for no labels, and none for one label.
    assert total.mantissa.tolist() == [1.0] * batch
    assert loss._has_alignment(Cells(*total)).tolist() == [True, False][:batch]


def test_operations_on_cells_are_those_of_the_scan_to_the_bit():
    rng = np.random.default_rng(0)
    shape = (3, 4096)
    mantissas = jnp.asarray(rng.uniform(1, 2, shape), jnp.float32)
    far, near = rng.integers(-(2**28), 0, shape), rng.integers(-200, 1, shape)
    exponents = jnp.asarray(np.choose(rng.integers(0, 3, shape), [far, near, np.full(shape, cells.DEAD)]), jnp.int32)
    theirs = [Cells(m, e) for m, e in zip(mantissas, exponents, strict=True)]
    ours = [kernel._Cells(*pair) for pair in theirs]
    for mine, other in [(kernel._multiply, cells.multiply), (kernel._add, cells.add)]:
        for a, b in zip(mine(*ours[:2]), other(*theirs[:2]), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for a, b in zip(kernel._normalize(kernel._add(*ours)), cells.normalize(cells.add(*theirs)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    largest = exponents[0] + exponents[1]
    np.testing.assert_array_equal(
        np.asarray(kernel._share(*ours[:2], largest)), np.asarray(cells.share(*theirs[:2], largest))
    )
    assert cells.DEAD == kernel.DEAD


def test_products_inside_a_sum_round_nothing_so_contracting_them_changes_no_bit():
    mantissas = np.random.default_rng(1).uniform(1, 2, 1000).astype(np.float32)
    mantissas[:2] = 1.0, np.nextafter(np.float32(2), np.float32(1))
    shifts = np.arange(-140, 1)
    powers = np.asarray(kernel._power_of_two(jnp.asarray(shifts, jnp.int32)))
    np.testing.assert_array_equal(powers, np.where(shifts < -126, 0.0, np.exp2(shifts.astype(np.float64))))
    products = np.asarray(jnp.asarray(mantissas)[:, None] * jnp.asarray(powers)[None, :])
    np.testing.assert_array_equal(products, mantissas[:, None].astype(np.float64) * powers.astype(np.float64))


@pytest.mark.parametrize("function", [kernel.total, kernel.total_and_occupancies])
def test_lowers_for_a_gpu_with_every_maximum_of_exponents_signed(function):
    frames, batch, columns = 800, 32, 151
    rows, row = (frames, batch, columns), (frames, batch)
    emissions = kernel.Emissions(
        *(jax.ShapeDtypeStruct(shape, dtype) for shape in (row, rows) for dtype in (jnp.float32, jnp.int32))
    )
    label = kernel.Label(jax.ShapeDtypeStruct((batch, columns), jnp.int32), jax.ShapeDtypeStruct((batch,), jnp.int32))
    traced = jax.jit(partial(function, target="cuda")).trace(emissions, label)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text
    assert "maxsi" in text
    # Under Lane semantics 32 of 45 are unsigned, and the interpreter cannot show it (`dsrun.kernels.target`).
    assert "maxui" not in text
