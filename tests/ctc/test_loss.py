"""CTC loss and gradient against all paths enumerated in float64, or a float64 recursion where there are too many."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.ctc import ctc_loss, frames_needed
from tests.reference.ctc import enumerate_paths, forward_backward

# Small shapes are padded to one size, so that all of hypothesis' examples use one compiled program.
FRAMES, CLASSES, LABELS = 6, 3, 4


@jax.jit
def loss_and_gradient(logits, num_frames, labels, num_labels):
    loss, pull = jax.vjp(lambda x: ctc_loss(x, num_frames, labels, num_labels), logits)
    return loss, pull(jnp.ones_like(loss))[0]


@jax.jit
def weighted_gradient(logits, num_frames, labels, num_labels, weight):
    loss, pull = jax.vjp(lambda x: ctc_loss(x, num_frames, labels, num_labels), logits)
    return loss, pull(weight)[0]


def evaluate(logits, num_frames, labels, num_labels):
    arrays = (np.asarray(logits, np.float32), *(np.asarray(x, np.int32) for x in (num_frames, labels, num_labels)))
    loss, gradient = loss_and_gradient(*(jnp.asarray(x) for x in arrays))
    return np.asarray(loss), np.asarray(gradient)


def one(logits: np.ndarray, labels: list[int]):
    """Loss and gradient of one utterance without padding."""
    loss, gradient = evaluate(logits[None], [len(logits)], np.array(labels, np.int32).reshape(1, -1), [len(labels)])
    return loss[0], gradient[0]


def random_logits(seed: int, *shape: int, deviation: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * deviation).astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    num_frames=st.integers(1, FRAMES),
    labels=st.lists(st.integers(1, CLASSES - 1), max_size=LABELS),
    deviation=st.sampled_from([0.0, 1.0, 3.0, 10.0]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_loss_and_gradient_equal_all_paths_enumerated(seed, num_frames, labels, deviation):
    logits = random_logits(seed, FRAMES, CLASSES, deviation=deviation)
    padded = np.pad(np.array(labels, np.int32), (0, LABELS - len(labels)), constant_values=1)
    loss, gradient = evaluate(logits[None], [num_frames], padded[None], [len(labels)])
    expected_loss, expected_gradient = enumerate_paths(logits[:num_frames], labels)
    assert np.isinf(expected_loss) == (frames_needed(labels) > num_frames)
    np.testing.assert_allclose(loss[0], expected_loss, rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(gradient[0, :num_frames], expected_gradient, atol=1e-6)
    assert np.all(gradient[0, num_frames:] == 0.0)


@pytest.mark.parametrize(
    "labels",
    [[], [1], [1, 1], [1, 2], [1, 1, 1], [2, 1, 2, 1, 2, 1], [1, 2, 1, 2, 1], [1, 1, 2, 2]],
    ids=lambda labels: "".join(map(str, labels)) or "empty",
)
def test_every_length_from_one_frame_up_equals_enumeration(labels):
    logits = random_logits(len(labels), 7, 7, 3)
    padded = np.tile(np.array(labels + [2] * (6 - len(labels))), (7, 1))
    losses, gradients = evaluate(logits, range(1, 8), padded, [len(labels)] * 7)
    for count, loss, gradient, row in zip(range(1, 8), losses, gradients, logits, strict=True):
        expected_loss, expected_gradient = enumerate_paths(row[:count], labels)
        np.testing.assert_allclose(loss, expected_loss, rtol=3e-7, atol=1e-6)
        np.testing.assert_allclose(gradient[:count], expected_gradient, atol=1e-6)


def test_the_two_references_agree():
    for seed, labels in enumerate([[], [1], [2, 2], [1, 2, 1]]):
        logits = random_logits(seed, 6, 3)
        for a, b in zip(enumerate_paths(logits, labels), forward_backward(logits, labels), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_as_many_frames_as_labels_leave_one_path():
    logits = random_logits(0, 40, 29)
    labels = [1 + i % 28 for i in range(40)]
    log_probs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    loss, gradient = one(logits, labels)
    np.testing.assert_allclose(loss, -log_probs[np.arange(40), labels].sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.exp(log_probs) - np.eye(29)[labels], atol=5e-7)


def test_repeats_at_the_least_number_of_frames_leave_one_path():
    logits = random_logits(1, 99, 5)
    labels = [3] * 50
    loss, gradient = one(logits, labels)
    path = [3 if t % 2 == 0 else 0 for t in range(99)]
    log_probs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(loss, -log_probs[np.arange(99), path].sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.exp(log_probs) - np.eye(5)[path], atol=5e-7)


def test_infeasible_is_infinite_loss_and_exactly_zero_gradient_beside_a_sound_utterance():
    logits = random_logits(2, 4, 6, 4)
    labels = np.array([[1, 1, 1, 1], [1, 2, 3, 1], [2, 2, 0, 0], [1, 2, 3, 1]])
    loss, gradient = evaluate(logits, [6, 6, 2, 0], labels, [4, 4, 2, 4])
    assert np.isinf(loss).tolist() == [True, False, True, True]
    assert np.all(loss > 0)
    assert [bool(np.any(g != 0.0)) for g in gradient] == [False, True, False, False]
    np.testing.assert_allclose(gradient[1], enumerate_paths(logits[1], [1, 2, 3, 1])[1], atol=1e-6)


def test_zero_gradient_of_an_infeasible_utterance_survives_an_infinite_or_nan_weight():
    arguments = [jnp.asarray(x) for x in (np.int32([1]), np.int32([[1, 2]]), np.int32([2]))]
    for weight in (np.inf, np.nan):
        _, gradient = weighted_gradient(jnp.zeros((1, 3, 3), jnp.float32), *arguments, jnp.array([weight], jnp.float32))
        assert np.all(np.asarray(gradient) == 0.0)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
def test_padded_frames_and_labels_change_no_bit(garbage):
    logits = random_logits(3, 2, 12, 5)
    labels = np.array([[1, 2, 2, 4, 0, 0], [3, 1, 0, 0, 0, 0]])
    clean = evaluate(logits, [9, 4], labels, [4, 2])
    soiled_logits, soiled_labels = logits.copy(), labels.copy()
    soiled_logits[0, 9:], soiled_logits[1, 4:] = garbage, garbage
    soiled_labels[0, 4:], soiled_labels[1, 2:] = -7, 1000
    soiled = evaluate(soiled_logits, [9, 4], soiled_labels, [4, 2])
    for a, b in zip(clean, soiled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(soiled[1][0, 9:] == 0.0)
    assert np.all(soiled[1][1, 4:] == 0.0)


def test_more_padding_changes_nothing_but_the_order_of_sums():
    logits = random_logits(4, 1, 30, 7)
    short = evaluate(logits, [30], [[1, 2, 3, 3]], [4])
    padded = evaluate(np.pad(logits, ((0, 0), (0, 50), (0, 0))), [30], [[1, 2, 3, 3, 0, 0, 0]], [4])
    np.testing.assert_allclose(padded[0], short[0], rtol=1.2e-7)
    np.testing.assert_allclose(padded[1][:, :30], short[1], atol=1e-7)


def test_an_utterance_does_not_see_its_neighbours():
    logits = random_logits(5, 3, 20, 6)
    labels = np.array([[1, 2, 3], [4, 4, 0], [0, 0, 0]])
    loss, gradient = evaluate(logits, [20, 11, 7], labels, [3, 2, 0])
    for i, (frames, count) in enumerate([(20, 3), (11, 2), (7, 0)]):
        expected_loss, expected_gradient = forward_backward(logits[i, :frames], labels[i, :count].tolist())
        np.testing.assert_allclose(loss[i], expected_loss, rtol=3e-7)
        np.testing.assert_allclose(gradient[i, :frames], expected_gradient, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_in_a_valid_frame_shows_in_its_utterance_and_in_no_other(bad):
    logits = random_logits(6, 2, 8, 4)
    logits[0, 3, 2] = bad
    loss, gradient = evaluate(logits, [6, 8], [[1, 2], [3, 1]], [2, 2])
    assert np.isnan(loss).tolist() == [True, False]
    assert np.all(np.isnan(gradient[0, :6]))
    assert np.all(gradient[0, 6:] == 0.0)
    assert np.all(np.isfinite(gradient[1]))


def test_a_frame_of_minus_infinity_is_bad_and_one_class_of_it_is_a_class_that_cannot_occur():
    logits = random_logits(7, 3, 5, 4)
    logits[0, 2, :] = -np.inf
    logits[1, :, 3] = -np.inf
    logits[2, :, 1] = -np.inf
    loss, gradient = evaluate(logits, [5, 5, 5], [[1], [1], [1]], [1, 1, 1])
    assert np.isnan(loss[0])
    expected_loss, expected_gradient = enumerate_paths(logits[1, :, :3], [1])
    np.testing.assert_allclose(loss[1], expected_loss, rtol=3e-7)
    np.testing.assert_allclose(gradient[1, :, :3], expected_gradient, atol=1e-6)
    assert np.all(gradient[1, :, 3] == 0.0)
    assert np.isposinf(loss[2])
    assert np.all(gradient[2] == 0.0)


def test_rows_without_frames_and_labels_are_loss_zero_and_gradient_zero():
    logits = np.full((2, 4, 3), np.nan, np.float32)
    loss, gradient = evaluate(logits, [0, 0], np.zeros((2, 2)), [0, 0])
    assert np.all(loss == 0.0)
    assert np.all(gradient == 0.0)


@pytest.mark.parametrize(("frames", "labels"), [(0, 0), (0, 2), (5, 0)])
def test_arrays_without_frames_or_without_labels_are_allowed(frames, labels):
    loss, gradient = evaluate(np.zeros((2, frames, 3)), [frames] * 2, np.ones((2, labels)), [labels] * 2)
    expected = np.inf if labels > frames else frames * np.log(3.0)
    np.testing.assert_allclose(loss, expected, rtol=2e-7)
    assert gradient.shape == (2, frames, 3)


def test_loss_is_never_negative_where_the_right_path_is_certain():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        path = np.zeros(200, int)
        path[::2] = rng.integers(1, 5, 100)
        labels = path[::2].tolist()
        for height in (10.0, 17.0, 20.0, 50.0, 1000.0):
            logits = random_logits(seed, 200, 5, deviation=1.0) + np.eye(5, dtype=np.float32)[path] * np.float32(height)
            loss, _ = one(logits, labels)
            assert 0.0 <= loss < 1.0
            # At height 17 the loss is 1e-5 and each of 200 frames rounds its own 1 + 6e-8: 3e-6 is 50 such roundings.
            np.testing.assert_allclose(loss, forward_backward(logits, labels)[0], rtol=1e-2, atol=3e-6)


@pytest.mark.parametrize(("frames", "labels"), [(800, 150), (400, 390), (1500, 5)])
def test_long_utterances_reach_one_rounding_in_loss_and_1e_6_in_gradient(frames, labels):
    # The design promises 5e-5 at 800 frames; this number format has reached 6e-7, so 2e-6 would be a step back.
    rng = np.random.default_rng(frames)
    logits = random_logits(frames, 2, frames, 29)
    ids = rng.integers(1, 29, (2, labels))
    ids[:, 1:] += ids[:, 1:] == ids[:, :-1]
    ids = np.where(ids > 28, 1, ids)
    loss, gradient = evaluate(logits, [frames, frames - 3], ids, [labels, labels // 2])
    for i, (count, length) in enumerate([(frames, labels), (frames - 3, labels // 2)]):
        expected_loss, expected_gradient = forward_backward(logits[i, :count], ids[i, :length].tolist())
        np.testing.assert_allclose(loss[i], expected_loss, rtol=2e-7)
        np.testing.assert_allclose(gradient[i, :count], expected_gradient, atol=2e-6)


@pytest.mark.parametrize(("deviation", "tolerance"), [(0.01, 2e-6), (10.0, 5e-6), (40.0, 1e-5)])
def test_flat_and_steep_logits_stay_accurate(deviation, tolerance):
    logits = random_logits(8, 300, 29, deviation=deviation)
    labels = np.random.default_rng(8).integers(1, 29, 60).tolist()
    loss, gradient = one(logits, labels)
    expected_loss, expected_gradient = forward_backward(logits, labels)
    np.testing.assert_allclose(loss, expected_loss, rtol=2e-7)
    np.testing.assert_allclose(gradient, expected_gradient, atol=tolerance)


def test_states_that_differ_by_more_than_float32_can_hold_are_all_kept():
    # One frame makes the label 2^-577 times less likely than blank, and nothing but the label will do.
    logits = np.zeros((3, 3), np.float32)
    logits[:, 1] = -400.0
    for labels in ([1], [1, 2, 1], [1, 1]):
        loss, gradient = one(logits, labels)
        expected_loss, expected_gradient = forward_backward(logits, labels)
        np.testing.assert_allclose(loss, expected_loss, rtol=2e-7)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_adding_a_constant_that_rounds_nothing_to_a_frame_changes_no_bit():
    logits = np.round(random_logits(9, 50, 10) * 64) / np.float32(64)
    shift = np.arange(-25, 25, dtype=np.float32)[:, None] * np.float32(64)
    a, b = one(logits, [1, 2, 3]), one(logits + shift, [1, 2, 3])
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_gradient_of_each_frame_sums_to_zero_over_the_classes():
    logits = random_logits(10, 4, 300, 40)
    labels = np.random.default_rng(10).integers(1, 40, (4, 70))
    _, gradient = evaluate(logits, [300, 211, 150, 1], labels, [70, 50, 3, 1])
    assert np.max(np.abs(gradient.astype(np.float64).sum(axis=2))) < 1e-6


def test_gradient_is_the_slope_of_the_loss():
    logits = random_logits(11, 12, 4, deviation=1.0)
    labels = [1, 3, 3]
    _, gradient = one(logits, labels)
    for t, k in [(0, 0), (5, 1), (11, 3)]:
        step = np.zeros(logits.shape)
        step[t, k] = 1e-5
        slope = (forward_backward(logits + step, labels)[0] - forward_backward(logits - step, labels)[0]) / 2e-5
        np.testing.assert_allclose(gradient[t, k], slope, atol=1e-6)


def test_the_loss_is_the_same_bits_with_and_without_a_gradient():
    logits = jnp.asarray(random_logits(12, 3, 60, 8))
    arguments = [jnp.asarray(x, jnp.int32) for x in ([60, 41, 0], np.ones((3, 9), int) + np.arange(9) % 7, [9, 4, 0])]
    plain = jax.jit(ctc_loss)(logits, *arguments)
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(loss_and_gradient(logits, *arguments)[0]))


def test_incoming_gradient_scales_each_utterance():
    logits = jnp.asarray(random_logits(13, 2, 9, 4))
    arguments = [jnp.asarray(x, jnp.int32) for x in ([9, 7], [[1, 2], [3, 3]], [2, 2])]
    unit, scaled = (
        weighted_gradient(logits, *arguments, jnp.array(weight, jnp.float32))[1] for weight in ([1.0, 1.0], [2.0, -0.5])
    )
    weights = np.array([2.0, -0.5], np.float32)[:, None, None]
    np.testing.assert_array_equal(np.asarray(scaled), np.asarray(unit) * weights)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrower_logits_are_converted_first(dtype):
    logits = jnp.asarray(random_logits(14, 1, 20, 5)).astype(dtype)
    arguments = [jnp.asarray(x, jnp.int32) for x in ([20], [[1, 2, 3]], [3])]
    loss, gradient = loss_and_gradient(logits, *arguments)
    assert loss.dtype == jnp.float32
    assert gradient.dtype == dtype
    expected, _ = loss_and_gradient(logits.astype(jnp.float32), *arguments)
    np.testing.assert_array_equal(np.asarray(loss), np.asarray(expected))


def test_compiled_gradient_has_no_scatter_and_no_exponential_inside_its_loops():
    shapes = [jnp.zeros((4, 50, 29), jnp.float32)] + [jnp.ones(s, jnp.int32) for s in ((4,), (4, 12), (4,))]
    jaxpr = jax.make_jaxpr(loss_and_gradient)(*shapes)
    outside, inside = set(), set()

    def visit(jaxpr, found):
        for equation in jaxpr.eqns:
            found.add(equation.primitive.name)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                visit(inner, inside if equation.primitive.name == "scan" else found)

    visit(jaxpr.jaxpr, outside)
    assert "scan" in outside
    assert "exp" in outside
    assert inside.isdisjoint({"exp", "exp2", "log", "log1p", "logistic", "scatter-add", "gather"})
    text = loss_and_gradient.lower(*shapes).compile().as_text()
    assert " while(" in text
    assert " scatter(" not in text


def test_thousands_of_classes_leave_one_array_of_the_logits_size_beside_the_gradient():
    batch, frames, labels, classes = 4, 50, 10, 4000
    shapes = [
        ((batch, frames, classes), jnp.float32),
        ((batch,), jnp.int32),
        ((batch, labels), jnp.int32),
        ((batch,), jnp.int32),
    ]

    def both(logits, *rest):
        loss, pull = jax.vjp(lambda x: ctc_loss(x, *rest), logits)
        return loss, pull(jnp.ones_like(loss))[0]

    compiled = jax.jit(both).lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile()
    of_logits = compiled.memory_analysis().temp_size_in_bytes / (4 * batch * frames * classes)
    assert of_logits < 1.3  # the lattice is a tenth here
