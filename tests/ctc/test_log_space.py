"""CTC with every result rounded: against float64, against NumPy's own float16, and what it costs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32, parse_format, round_to
from dsrun.arithmetic.random_bits import make_key
from dsrun.ctc import ctc_loss, log_space, log_space_ctc_loss
from tests.reference.ctc import enumerate_paths, forward_backward

KEY = make_key(0, "ctc", "")

pytestmark = pytest.mark.slow  # a compilation for each format and shape


def loss_and_gradient(logits, num_frames, labels, num_labels, key=None, *, loss=log_space_ctc_loss, **options):
    if key is not None:
        options["key"] = key
    losses, pull = jax.vjp(lambda x: loss(x, num_frames, labels, num_labels, **options), logits)
    return losses, pull(jnp.ones_like(losses))[0]


compiled = jax.jit(loss_and_gradient, static_argnames=("loss", "format", "mode", "random_bits"))


def evaluate(logits, num_frames, labels, num_labels, *, function=compiled, **options):
    arrays = [jnp.asarray(logits, jnp.float32), *(jnp.asarray(x, jnp.int32) for x in (num_frames, labels, num_labels))]
    loss, gradient = function(*arrays, **options)
    return np.asarray(loss), np.asarray(gradient)


def random_problem(frames, labels, *, utterances=2, classes=29, deviation=3.0):
    """All frames valid; labels of labels/2 to labels, the first of the full length."""
    rng = np.random.default_rng(frames)
    logits = (rng.standard_normal((utterances, frames, classes)) * deviation).astype(np.float32)
    ids = rng.integers(1, classes, (utterances, labels))
    num_labels = rng.integers(labels // 2, labels + 1, utterances)
    num_labels[0] = labels
    return logits, np.full(utterances, frames), ids, num_labels


def exact(logits, num_frames, labels, num_labels):
    """Loss and gradient in float64; all frames valid."""
    rows = zip(logits, labels, num_labels, strict=True)
    pairs = [forward_backward(row, label[:count].tolist()) for row, label, count in rows]
    return np.array([loss for loss, _ in pairs]), np.stack([gradient for _, gradient in pairs])


def largest_error(problem, **options):
    _, gradient = evaluate(*problem, **options)
    return float(np.max(np.abs(gradient - exact(*problem)[1])))


@pytest.mark.parametrize("num_frames", range(1, 7))
@pytest.mark.parametrize("labels", [[], [1], [1, 1], [1, 2], [2, 1, 2], [1, 1, 2, 2]], ids=str)
def test_in_float32_loss_and_gradient_equal_all_paths_enumerated(num_frames, labels):
    logits = np.random.default_rng(num_frames).standard_normal((1, 6, 3)) * 2.0
    padded = np.array([labels + [2] * (4 - len(labels))])
    loss, gradient = evaluate(logits, [num_frames], padded, [len(labels)], format=FLOAT32)
    expected_loss, expected_gradient = enumerate_paths(logits[0, :num_frames].astype(np.float32), labels)
    # Losses reach 20, where a float32 ulp is 2e-6; the gradient is made of differences of three such.
    np.testing.assert_allclose(loss[0], expected_loss, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient[0, :num_frames], expected_gradient, atol=1e-5)
    assert np.all(gradient[0, num_frames:] == 0.0)


def test_in_float32_it_agrees_with_ctc_loss_as_far_as_plain_log_space_can():
    problem = random_problem(70, 14)
    plain, cells = evaluate(*problem, format=FLOAT32), evaluate(*problem, loss=ctc_loss)
    np.testing.assert_allclose(plain[0], cells[0], rtol=2e-6)
    # Losses of 300 have an ulp of 3e-5, and some ten of them meet in an occupancy.
    np.testing.assert_allclose(plain[1], cells[1], atol=5e-4)


def float16_program(logits: np.ndarray, labels: list[int]) -> tuple[np.float16, np.ndarray]:
    """The recursion in NumPy's own float16, an independent float16: no lattice arrays, one number at a time."""
    zero, log_0 = np.float16(0), np.float16(-np.inf)
    ids = [0]
    for label in labels:
        ids += [label, 0]

    def add(a, b):
        large, small = max(a, b), min(a, b)
        return large if small == log_0 else large + np.log1p(np.exp(small - large))

    def mix(row, skips, back):
        outside = [log_0, log_0]
        one, two = (row[1:] + outside, row[2:] + outside) if back else (outside[:1] + row, outside + row)
        return [add(add(x, one[s]), two[s] if skips[s] else log_0) for s, x in enumerate(row)]

    def folded(row):
        row = list(row) + [zero] * ((1 << (len(row) - 1).bit_length()) - len(row))
        while len(row) > 1:
            row = [a + b for a, b in zip(row[: len(row) // 2], row[len(row) // 2 :], strict=True)]
        return row[0]

    relative = logits.astype(np.float16) - logits.astype(np.float16).max(axis=1, keepdims=True)
    log_probs = np.stack([row - np.log(folded(np.exp(row))) for row in relative])
    skips = [s >= 2 and ids[s] != 0 and ids[s] != ids[s - 2] for s in range(len(ids))]
    prefix = [[zero if s < 2 else log_0 for s in range(len(ids))]]
    for row in log_probs:
        prefix.append(mix([x + row[k] for x, k in zip(prefix[-1], ids, strict=True)], skips, back=False))
    total = prefix[-1][-1]
    suffix = [zero if s >= len(ids) - 2 else log_0 for s in range(len(ids))]
    gradient = np.exp(log_probs)
    for t in reversed(range(len(logits))):
        here = [x + log_probs[t, k] for x, k in zip(suffix, ids, strict=True)]
        occupancy = np.zeros(logits.shape[1], np.float32)
        for s, k in enumerate(ids):
            occupancy[k] += np.float32(np.exp((prefix[t][s] + here[s]) - total))
        gradient[t] -= occupancy.astype(np.float16)
        suffix = mix(here, [*skips[2:], False, False], back=True)
    assert gradient.dtype == total.dtype == np.float16
    return max(-total, zero), gradient


def test_float16_is_bit_for_bit_a_program_written_in_numpys_float16():
    # The two exponentials differ in a float32's last bit; one such difference in some 8,000 moves a float16 rounding.
    logits, num_frames, ids, num_labels = random_problem(12, 5, utterances=24, classes=7, deviation=2.0)
    loss, gradient = evaluate(logits, num_frames, ids, num_labels, format=FLOAT16)
    equal = 0
    with np.errstate(over="ignore"):
        for i, row in enumerate(logits):
            expected = float16_program(row, ids[i, : num_labels[i]].tolist())
            equal += int(loss[i] == expected[0] and np.array_equal(gradient[i], expected[1].astype(np.float32)))
    assert equal >= 20


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("float16", "ties_to_even"),
        ("float16", "stochastic"),
        ("bfloat16", "toward_zero"),
        ("float8_e5m2", "ties_to_even"),
    ],
)
def test_loss_and_gradient_are_on_the_grid_of_the_format(name, mode):
    format = parse_format(name)
    options = {"mode": mode} | ({"key": KEY} if mode == "stochastic" else {})
    for x in evaluate(*random_problem(40, 8), format=format, **options):
        np.testing.assert_array_equal(x, np.asarray(round_to(jnp.asarray(x), format)))
        assert np.any(np.isfinite(x) & (x != 0.0))


def test_the_error_grows_with_the_length_and_with_the_ulp_of_the_format():
    problems = [random_problem(frames, labels) for frames, labels in ((20, 4), (200, 40))]
    formats = (FLOAT32, FLOAT16, BFLOAT16)
    errors = {format.name: [largest_error(problem, format=format) for problem in problems] for format in formats}
    assert all(row == sorted(row) for row in errors.values()), errors
    for fine, coarse in (("float32", "float16"), ("float16", "bfloat16")):
        assert all(a < b for a, b in zip(errors[fine], errors[coarse], strict=True)), errors
    assert errors["float32"][-1] < 5e-3
    assert errors["float16"][-1] > 0.5


def test_an_occupancy_beyond_the_format_is_an_infinite_gradient_and_not_a_nan():
    # Infinity times the 0 of another class, in the sum over the states of a class, would be NaN.
    _, gradient = evaluate(*random_problem(40, 8), format=parse_format("float_e4m4"))
    assert np.any(np.isinf(gradient))
    assert not np.any(np.isnan(gradient))


def test_loss_below_the_range_of_the_format_is_infinite_with_zero_gradient():
    # float8_e3m4 ends at 15.5; 40 frames of these logits are worth some 170 nats.
    loss, gradient = evaluate(*random_problem(40, 8), format=parse_format("float8_e3m4"))
    assert np.all(np.isposinf(loss))
    assert np.all(gradient == 0.0)


def test_stochastic_rounding_repeats_by_key_and_differs_for_another():
    problem = random_problem(40, 8)
    options = {"format": FLOAT16, "mode": "stochastic"}
    first, again, other = (evaluate(*problem, **options, key=make_key(seed, "ctc", "")) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a != c)
    few = evaluate(*problem, **options, key=make_key(1, "ctc", ""), random_bits=2)
    assert np.any(few[1] != first[1])


def test_every_rounding_of_every_frame_has_a_key_of_its_own(monkeypatch):
    keys = []

    def record(x, format, *, key, **options):
        keys.append(np.asarray(key).tobytes())
        return round_to(x, format, key=key, **options)

    monkeypatch.setattr(log_space, "round_to", record)
    with jax.disable_jit():
        problem = random_problem(2, 1, classes=3, utterances=1)
        evaluate(*problem, function=loss_and_gradient, format=FLOAT16, mode="stochastic", key=KEY)
    # Softmax 5 and 2 levels of additions; 9 and 12 a frame in the two loops; 3 in the gradient.
    assert len(keys) == 7 + 2 * (9 + 12) + 3
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("format", "mode"), [(FLOAT16, "ties_to_even"), (FLOAT16, "stochastic"), (FLOAT32, "ties_to_even")]
)
def test_infeasible_is_infinite_loss_and_exactly_zero_gradient_beside_a_sound_utterance(format, mode):
    logits, *_ = random_problem(6, 4, utterances=4, classes=4)
    labels = np.array([[1, 1, 1, 1], [1, 2, 3, 1], [2, 2, 0, 0], [1, 2, 3, 1]])
    options = {"key": KEY} if mode == "stochastic" else {}
    loss, gradient = evaluate(logits, [6, 6, 2, 0], labels, [4, 4, 2, 4], format=format, mode=mode, **options)
    assert np.isposinf(loss).tolist() == [True, False, True, True]
    assert [bool(np.any(g != 0.0)) for g in gradient] == [False, True, False, False]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("mode", ["ties_to_even", "stochastic"])
def test_what_padded_frames_and_labels_hold_changes_no_bit(garbage, mode):
    logits, *_ = random_problem(12, 6, classes=5)
    labels = np.array([[1, 2, 2, 4, 0, 0], [3, 1, 0, 0, 0, 0]])
    soiled_logits, soiled_labels = logits.copy(), labels.copy()
    soiled_logits[0, 9:], soiled_logits[1, 4:] = garbage, garbage
    soiled_labels[0, 4:], soiled_labels[1, 2:] = -7, 1000
    options = {"format": FLOAT16, "mode": mode} | ({"key": KEY} if mode == "stochastic" else {})
    clean = evaluate(logits, [9, 4], labels, [4, 2], **options)
    soiled = evaluate(soiled_logits, [9, 4], soiled_labels, [4, 2], **options)
    for a, b in zip(clean, soiled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(soiled[1][0, 9:] == 0.0)
    assert np.all(soiled[1][1, 4:] == 0.0)


def test_more_padding_changes_no_bit_where_nothing_is_drawn():
    logits, num_frames, labels, num_labels = random_problem(40, 8)
    short = evaluate(logits, num_frames, labels, num_labels, format=FLOAT16)
    wide = np.pad(logits, ((0, 0), (0, 20), (0, 0)))
    padded = evaluate(wide, num_frames, np.pad(labels, ((0, 0), (0, 3))), num_labels, format=FLOAT16)
    np.testing.assert_array_equal(padded[0], short[0])
    np.testing.assert_array_equal(padded[1][:, :40], short[1])


def test_no_labels_leave_the_blank_path_and_no_frames_a_loss_of_zero():
    loss, gradient = evaluate(np.zeros((2, 5, 4)), [5, 0], np.zeros((2, 0)), [0, 0], format=FLOAT16)
    # Each of five frames costs ln 4 = 1.386, of which float16 keeps 1.38672 (2**-10 an ulp).
    np.testing.assert_allclose(loss, [5 * np.log(4.0), 0.0], rtol=1e-3)
    np.testing.assert_allclose(gradient[0], np.full((5, 4), 0.25) - np.eye(4)[0], atol=5e-3)
    assert np.all(gradient[1] == 0.0)
    empty, _ = evaluate(np.zeros((2, 0, 4)), [0, 0], np.ones((2, 3)), [0, 3], format=FLOAT16)
    assert empty.tolist() == [0.0, np.inf]


def test_loss_is_never_negative_where_the_right_path_is_certain():
    path = np.array([0, 1, 0, 2, 0, 3] * 20)
    labels = path[path > 0]
    noise = np.random.default_rng(0).standard_normal((1, 120, 5))
    for format in (FLOAT16, BFLOAT16):
        for height in (6.0, 10.0, 20.0):
            loss, _ = evaluate(noise + np.eye(5)[path] * height, [120], labels[None], [60], format=format)
            assert loss[0] >= 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e5])
def test_a_bad_number_in_a_valid_frame_shows_in_its_utterance_and_in_no_other(bad):
    # 1e5 is infinite in float16.
    logits, *_ = random_problem(8, 2, classes=4)
    logits[0, 3, 2] = bad
    loss, gradient = evaluate(logits, [6, 8], [[1, 2], [3, 1]], [2, 2], format=FLOAT16)
    assert np.isnan(loss).tolist() == [True, False]
    assert np.all(np.isnan(gradient[0, :6]))
    assert np.all(gradient[0, 6:] == 0.0)
    assert np.all(np.isfinite(gradient[1]))


@pytest.mark.parametrize("mode", ["ties_to_even", "stochastic"])
def test_the_loss_is_the_same_bits_with_and_without_a_gradient(mode):
    problem = [jnp.asarray(x, jnp.float32 if i == 0 else jnp.int32) for i, x in enumerate(random_problem(40, 8))]
    key = KEY if mode == "stochastic" else None
    plain = jax.jit(partial(log_space_ctc_loss, format=FLOAT16, mode=mode))(*problem, key=key)
    with_gradient, _ = compiled(*problem, key, format=FLOAT16, mode=mode)
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(with_gradient))


def test_jit_equals_eager():
    options = {"format": FLOAT16, "mode": "stochastic", "key": KEY}
    problem = random_problem(40, 8)
    jitted, eager = evaluate(*problem, **options), evaluate(*problem, function=loss_and_gradient, **options)
    for a, b in zip(jitted, eager, strict=True):
        np.testing.assert_array_equal(a, b)


def test_incoming_gradient_scales_each_utterance_in_float32():
    problem = random_problem(40, 8)
    weights = jnp.array([2.0, -0.3], jnp.float32)
    _, unit = evaluate(*problem, format=FLOAT16)
    _, scaled = evaluate(*problem, loss=lambda *x: weights * log_space_ctc_loss(*x, format=FLOAT16))
    np.testing.assert_array_equal(scaled, unit * np.asarray(weights)[:, None, None])


def test_formats_without_infinity_and_keys_that_do_not_fit_the_mode_are_refused():
    problem = random_problem(5, 2)
    for name in ("float8_e4m3fn", "fixed_q8.8", "int8", "mxfp8_e4m3"):
        with pytest.raises(ValueError, match="cannot become infinite"):
            evaluate(*problem, format=parse_format(name))
    with pytest.raises(ValueError, match="cannot become infinite"):
        evaluate(*problem, format=parse_format("float16", overflow="saturate"))
    with pytest.raises(ValueError, match="key"):
        evaluate(*problem, format=FLOAT16, mode="stochastic")
    with pytest.raises(ValueError, match="key"):
        evaluate(*problem, format=FLOAT16, key=KEY)


def test_compiled_gradient_has_no_scatter():
    shapes = [jnp.zeros((4, 50, 29), jnp.float32)] + [jnp.ones(s, jnp.int32) for s in ((4,), (4, 12), (4,))]
    text = compiled.lower(*shapes, KEY, format=FLOAT16, mode="stochastic").compile().as_text()
    assert " while(" in text
    assert " scatter(" not in text
