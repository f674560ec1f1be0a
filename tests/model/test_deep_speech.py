"""The whole network: padding, formats, statistics, initial values, gradients."""

from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY, Policy, parse_format, round_to
from dsrun.arithmetic.policy import Rounding
from dsrun.model import (
    Conv2dSettings,
    FrameStackSettings,
    GruWeights,
    ModelSettings,
    Recurrence,
    apply,
    bidirectional_gru,
    init_parameters,
    initial_statistics,
    output_frames,
    parameter_table,
    store_weights,
    update_running,
)
from dsrun.model.deep_speech import _dropout
from dsrun.model.gru import gru_sequences

SMALL = ModelSettings(
    num_bins=10,
    num_classes=5,
    front_end=FrameStackSettings(stack=3, stride=3, hidden=8),
    hidden=8,
    layers=2,
    direction="bidirectional",
    normalization="batch",
    dropout=0.0,
    relu_clip=20.0,
)
CONV = replace(SMALL, front_end=Conv2dSettings(channels=2))
AHEAD = replace(SMALL, direction="forward", lookahead=3)
LENGTHS = np.array([40, 40, 25, 4, 0], np.int32)


@lru_cache
def compiled(settings, policy=FLOAT32_POLICY, mode="train"):
    return jax.jit(partial(apply, settings, policy, mode=mode))


@lru_cache
def parameters_of(settings):
    """Initial values with biases and scales moved off 0 and 1, so that every parameter matters."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + jnp.asarray(0.2 * random.standard_normal(x.shape), jnp.float32), init_parameters(settings, 1)
    )


def batch(lengths=LENGTHS, frames=40, seed=1):
    features = np.random.default_rng(seed).standard_normal((len(lengths), frames, 10)).astype(np.float32)
    features[np.arange(frames)[None, :] >= np.asarray(lengths)[:, None]] = 0.0
    return jnp.asarray(features), jnp.asarray(lengths, jnp.int32)


def poisoned(features, num_frames):
    frame = np.arange(features.shape[1])
    return jnp.where((frame[None, :] < np.asarray(num_frames)[:, None])[..., None], features, jnp.nan)


def trained_statistics(settings):
    output = compiled(settings)(parameters_of(settings), None, *batch())
    return update_running(initial_statistics(settings), output.moments, momentum=0.5)


@lru_cache
def compiled_gradient(settings, policy=FLOAT32_POLICY):
    """Gradient and output of a smooth loss over the valid logits only."""

    def loss(parameters, features, num_frames):
        output = apply(settings, policy, parameters, None, features, num_frames, mode="train")
        frame = jnp.arange(output.logits.shape[1], dtype=jnp.int32)
        is_valid = (frame[None, :] < output.num_frames[:, None])[..., None]
        weight = jnp.cos(jnp.arange(output.logits.size, dtype=jnp.float32)).reshape(output.logits.shape)
        return jnp.sum(jnp.where(is_valid, weight * jnp.square(output.logits), 0.0)), output

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(
    "settings", [SMALL, CONV, replace(SMALL, normalization="layer")], ids=["stack", "conv", "layer"]
)
def test_utterance_alone_gives_the_logits_that_it_has_among_16_longer_ones(settings):
    statistics = trained_statistics(settings)
    run = compiled(settings, mode="evaluate")
    features, num_frames = batch([25, *[40] * 16])
    together = run(parameters_of(settings), statistics, features, num_frames)
    alone = run(parameters_of(settings), statistics, features[:1, :25], num_frames[:1])
    count = int(alone.num_frames[0])
    assert count == alone.logits.shape[1] == output_frames(settings, 25)
    np.testing.assert_allclose(together.logits[0, :count], alone.logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [SMALL, CONV, AHEAD], ids=["stack", "conv", "lookahead"])
def test_other_utterances_and_padding_do_not_change_a_bit_of_the_logits_at_equal_shape(settings):
    statistics, run = trained_statistics(settings), compiled(settings, mode="evaluate")
    features, num_frames = batch()
    other = jnp.asarray(poisoned(features, num_frames)).at[0].set(3.0)
    first = run(parameters_of(settings), statistics, features, num_frames)
    second = run(parameters_of(settings), statistics, other, num_frames)
    for row in range(1, len(LENGTHS)):
        count = int(first.num_frames[row])
        np.testing.assert_array_equal(first.logits[row, :count], second.logits[row, :count])


@pytest.mark.parametrize(
    "settings", [SMALL, CONV, pytest.param(AHEAD, marks=pytest.mark.slow)], ids=["stack", "conv", "lookahead"]
)
def test_nan_in_padded_frames_changes_no_bit_of_loss_statistics_or_gradients(settings):
    features, num_frames = batch()
    step = compiled_gradient(settings)
    clean = step(parameters_of(settings), features, num_frames)
    dirty = step(parameters_of(settings), poisoned(features, num_frames), num_frames)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)


def test_filler_rows_change_neither_statistics_nor_gradients():
    features, num_frames = batch()
    step = compiled_gradient(SMALL)
    (_, with_filler), gradient = step(parameters_of(SMALL), features, num_frames)
    (_, without), expected = step(parameters_of(SMALL), features[:4], num_frames[:4])
    # The same terms; sums over rows may be ordered by the array's shape.
    for a, b in zip(jax.tree.leaves(with_filler.moments), jax.tree.leaves(without.moments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(b))))


def test_shard_of_nothing_but_filler_rows_has_zero_gradients():
    features, num_frames = batch([0, 0])
    (loss, _), gradient = compiled_gradient(SMALL)(parameters_of(SMALL), poisoned(features, num_frames), num_frames)
    assert float(loss) == 0.0
    assert all(np.all(np.asarray(g) == 0.0) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "settings", [SMALL, CONV, pytest.param(AHEAD, marks=pytest.mark.slow)], ids=["stack", "conv", "lookahead"]
)
def test_gradient_is_the_slope_of_the_loss_and_reaches_every_parameter(settings):
    features, num_frames = batch()
    step, start = compiled_gradient(settings), parameters_of(settings)
    _, gradient = step(start, features, num_frames)
    assert all(np.any(np.asarray(g) != 0.0) for g in jax.tree.leaves(gradient))
    random = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape), jnp.float32), start)
    slope = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    values = []
    for size in (1e-3, -1e-3):
        moved = jax.tree.map(lambda x, d, size=size: x + jnp.float32(size) * d, start, direction)
        values.append(float(step(moved, features, num_frames)[0][0]))
    # Central difference in float32: rounding of the loss (about 1e-6 of it) over the step, and the step squared.
    assert abs((values[0] - values[1]) / 2e-3 - slope) < 2e-2 * abs(slope) + 1e-3 * abs(values[0])


def test_network_without_normalisation_is_front_end_gru_layers_and_a_linear_map():
    settings = replace(SMALL, normalization="none")
    p = parameters_of(settings)
    features, num_frames = batch()
    x = jnp.pad(features, ((0, 0), (1, 3), (0, 0)))
    window = jnp.concatenate([x[:, i : i + 40 : 3] for i in range(3)], axis=-1)
    shift = p["front_end"]["normalization"]["shift"][None, None]
    x = jnp.clip(FLOAT32_POLICY.dot(window, p["front_end"]["kernel"]) + shift, 0.0, 20.0)
    count = output_frames(settings, num_frames)
    for layer in range(2):
        directions = [p[f"gru_{layer}_{direction}"] for direction in ("forward", "backward")]
        weights = tuple(
            GruWeights(
                *(d[f"w_{gate}"] for gate in "rzn"),
                *(d[f"normalization_{gate}"]["shift"] for gate in "rzn"),
                Recurrence(d["u_r"], d["u_z"], d["u_n"], d["b_n"]),
            )
            for d in directions
        )
        x = bidirectional_gru(x, count, weights)
    expected = FLOAT32_POLICY.dot(x, p["output_kernel"]) + p["output_bias"][None, None]
    found = compiled(settings)(p, None, features, num_frames).logits
    for row, valid in enumerate(np.asarray(count)):
        np.testing.assert_allclose(found[row, :valid], expected[row, :valid], rtol=0, atol=1e-5)


def test_forward_network_sees_no_later_frame_and_bidirectional_does():
    features, num_frames = batch([40])
    later = features.at[:, 30:].set(1.0)
    for direction, is_causal in (("forward", True), ("bidirectional", False)):
        settings = replace(SMALL, direction=direction)
        statistics, run = trained_statistics(settings), compiled(settings, mode="evaluate")
        a, b = (run(parameters_of(settings), statistics, x, num_frames).logits for x in (features, later))
        # Output frame t sees frames 3t - 1 to 3t + 1.
        assert np.array_equal(a[0, :9], b[0, :9]) == is_causal
        assert not np.array_equal(a[0, 10:], b[0, 10:])


def test_network_with_lookahead_sees_so_many_output_frames_ahead_and_no_more():
    features, num_frames = batch([40])
    statistics, run = trained_statistics(AHEAD), compiled(AHEAD, mode="evaluate")
    a, b = (
        run(parameters_of(AHEAD), statistics, x, num_frames).logits for x in (features, features.at[:, 30:].set(1.0))
    )
    # Output frame t sees frames up to 3 (t + 3) + 1.
    assert np.array_equal(a[0, :7], b[0, :7])
    assert not np.array_equal(a[0, 7], b[0, 7])


def test_network_with_lookahead_starts_as_the_network_without():
    features, num_frames = batch()
    a, b = (
        compiled(settings)(init_parameters(settings, 1), None, features, num_frames)
        for settings in (AHEAD, replace(AHEAD, lookahead=0))
    )
    np.testing.assert_array_equal(a.logits, b.logits)


def test_lookahead_is_a_row_convolution_between_the_last_gru_layer_and_the_linear_map():
    """The kernel 1, 0, 0, 0 hands each frame on; 0, 1, 0, 0 the next one, and behind the utterance's last zeros: the bias alone."""
    plain = replace(AHEAD, lookahead=0)
    p, (features, num_frames) = parameters_of(AHEAD), batch()
    without = {name: value for name, value in p.items() if name != "lookahead_kernel"}
    expected = compiled(plain)(without, None, features, num_frames)
    for shift in (0, 1):
        kernel = jnp.zeros((4, 8), jnp.float32).at[shift].set(1.0)
        found = compiled(AHEAD)(p | {"lookahead_kernel": kernel}, None, features, num_frames)
        for row, valid in enumerate(np.asarray(found.num_frames)[:4]):
            np.testing.assert_array_equal(found.logits[row, : valid - shift], expected.logits[row, shift:valid])
            if shift:
                np.testing.assert_array_equal(found.logits[row, valid - 1], p["output_bias"])


def test_evaluation_uses_the_running_statistics_and_refuses_to_do_without():
    features, num_frames = batch()
    run = compiled(SMALL, mode="evaluate")
    own, initial = trained_statistics(SMALL), initial_statistics(SMALL)
    a, b = (run(parameters_of(SMALL), s, features, num_frames) for s in (own, initial))
    assert not np.allclose(a.logits, b.logits)
    assert a.moments == {}
    with pytest.raises(ValueError, match="give statistics"):
        apply(SMALL, FLOAT32_POLICY, parameters_of(SMALL), None, features, num_frames, mode="evaluate")


def test_initial_statistics_and_training_moments_have_the_same_names():
    assert set(initial_statistics(SMALL)) == set(compiled(SMALL)(parameters_of(SMALL), None, *batch()).moments)
    assert initial_statistics(replace(SMALL, normalization="layer")) == {}


def test_initial_values_depend_on_seed_and_path_alone():
    shallow, deep = init_parameters(SMALL, 1), init_parameters(replace(SMALL, layers=4, normalization="none"), 1)
    np.testing.assert_array_equal(shallow["gru_1_forward"]["u_z"], deep["gru_1_forward"]["u_z"])
    np.testing.assert_array_equal(shallow["output_kernel"], deep["output_kernel"])
    other = init_parameters(SMALL, 2)
    assert not np.array_equal(shallow["output_kernel"], other["output_kernel"])
    matrices = [x for x in jax.tree.leaves(shallow) if x.ndim == 2]
    assert len({np.asarray(x).tobytes() for x in matrices}) == len(matrices)
    # Pinned: runs of other days and machines start here. Moves only with an entry under "Numerics" in the changelog.
    pinned = np.float32([-0.13537295162677765, -0.14104397594928741])
    np.testing.assert_array_equal(shallow["output_kernel"][0, :2], pinned)


def test_gru_matrices_start_within_one_over_the_root_of_hidden_and_fill_that_range():
    parameters = init_parameters(replace(SMALL, hidden=64), 1)
    for name in ("w_r", "w_n", "u_r", "u_z", "u_n"):
        largest = np.abs(parameters["gru_1_forward"][name]).max()
        assert 0.99 / 8 < largest <= np.float32(1 / 8)  # 4096 values: all below 0.99 of it with probability 1e-18


def test_parameter_table_lists_what_init_makes():
    for settings in (SMALL, CONV, AHEAD):
        table = parameter_table(settings)
        leaves = jax.tree_util.tree_leaves_with_path(init_parameters(settings, 1))
        made = {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in leaves}
        assert {path: shape for path, shape, _ in table} == made
        assert sum(count for *_, count in table) == sum(x.size for _, x in leaves)
    assert [path for path, *_ in table] == sorted(path for path, *_ in table)


def test_dropout_zeroes_its_share_keeps_the_mean_and_is_a_function_of_its_key():
    x = jnp.ones((200, 50), jnp.float32)
    y = np.asarray(_dropout(x, 0.3, jax.random.key(1)))
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.0) / np.float32(0.7)}
    # Standard error of a share of 10,000 draws: sqrt(0.3 * 0.7 / 10000) = 0.0046; four of them.
    assert abs(np.mean(y == 0.0) - 0.3) < 0.019
    np.testing.assert_array_equal(y, _dropout(x, 0.3, jax.random.key(1)))


def test_dropout_acts_in_training_with_a_key_only():
    settings = replace(SMALL, dropout=0.5)
    features, num_frames = batch()
    p, statistics = parameters_of(settings), trained_statistics(settings)
    train, evaluate = compiled(settings), compiled(settings, mode="evaluate")
    plain = train(p, None, features, num_frames).logits
    dropped = [train(p, None, features, num_frames, dropout_key=jax.random.key(k)).logits for k in (1, 1, 2)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.array_equal(dropped[0], dropped[2])
    assert not np.array_equal(dropped[0], plain)
    evaluated = [evaluate(p, statistics, features, num_frames, dropout_key=k) for k in (None, jax.random.key(1))]
    np.testing.assert_array_equal(evaluated[0].logits, evaluated[1].logits)


@pytest.mark.parametrize(
    ("name", "front_end"), [("float16", SMALL.front_end), ("bfloat16", CONV.front_end)], ids=["stack", "conv"]
)
def test_every_operand_of_every_product_and_every_projection_is_on_the_storage_grid(name, front_end):
    """With float32 compute nothing but `store` can have put it there: weights as read, activations as handed on."""
    settings, policy = (
        replace(SMALL, front_end=front_end, layers=1, dropout=0.3),
        Policy(storage=Rounding(parse_format(name))),
    )
    seen = []
    to_grid = jax.jit(round_to, static_argnums=1)

    def watch(operand):
        seen.append(np.array_equal(operand, to_grid(jnp.asarray(operand), policy.storage.format)))

    def watched(function):
        def call(a, b, *args, **kwargs):
            for operand in jax.tree.leaves((a, b)):
                if operand.dtype == jnp.float32:  # not the mask
                    jax.debug.callback(watch, operand)
            return function(a, b, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jnp, "matmul", watched(jnp.matmul))
        patch.setattr(jax.lax, "dot_general", watched(jax.lax.dot_general))
        patch.setattr(jax.lax, "conv_general_dilated", watched(jax.lax.conv_general_dilated))
        patch.setattr("dsrun.model.deep_speech.gru_sequences", watched(gru_sequences))
        run = jax.jit(partial(apply, settings, policy, mode="train"))
        output = run(store_weights(policy, parameters_of(settings)), None, *batch(), dropout_key=jax.random.key(1))
        jax.effects_barrier()
    frames = output.logits.shape[1]
    products = (2 if front_end == CONV.front_end else 1) + 2 * (1 + frames) + 1
    assert len(seen) == 2 * products + 2 * 3  # and the three projections that each direction's loop is given
    assert all(seen)
    # Logits are a float32 island.
    assert not np.array_equal(output.logits, to_grid(output.logits, policy.storage.format))


@pytest.mark.parametrize(
    ("settings", "name"), [(SMALL, "float16"), (replace(CONV, layers=1), "bfloat16")], ids=["stack", "conv"]
)
def test_gradients_in_a_small_format_are_finite_and_point_the_way_of_float32(settings, name):
    small = Rounding(parse_format(name))
    features, num_frames = batch()
    _, truth = compiled_gradient(settings)(parameters_of(settings), features, num_frames)
    policy = Policy(storage=small, compute=small, gradient=small)
    weights = store_weights(policy, parameters_of(settings))
    _, found = compiled_gradient(settings, policy)(weights, features, num_frames)
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (truth, found))
    assert np.all(np.isfinite(b))
    assert np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


@pytest.mark.parametrize("settings", [replace(SMALL, dropout=0.1), CONV], ids=["stack", "conv"])
def test_compiled_training_step_has_no_scatter(settings):
    features, num_frames = batch()
    text = compiled_gradient(settings).lower(parameters_of(settings), features, num_frames).compile().as_text()
    assert " dot(" in text  # the text is what it should be
    assert " scatter(" not in text
    assert " select-and-scatter(" not in text


NATIVE = Rounding(parse_format("bfloat16"))


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(FLOAT32_POLICY, id="float32"),
        pytest.param(
            Policy(storage=NATIVE, compute=NATIVE, gradient=NATIVE, carrier="native"),
            id="native bfloat16",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_recomputed_gates_give_the_gradients_and_moments_of_stored_ones(policy):
    def results(residuals):
        settings = replace(SMALL, layers=2, dropout=0.3, residuals=residuals)

        def loss(weights):
            output = apply(settings, policy, weights, None, *batch(), mode="train", dropout_key=jax.random.key(1))
            return jnp.sum(jnp.square(output.logits)), output.moments

        weights = store_weights(policy, parameters_of(settings))
        gradient, moments = jax.jit(jax.grad(loss, has_aux=True))(weights)
        return jax.tree_util.tree_leaves_with_path((gradient, moments))

    # Other orders of summation; in bfloat16 a value beside a tie falls to the other side, 2^-8 of it, and the frames average that.
    bound = 1e-5 if policy == FLOAT32_POLICY else 0.05
    found, expected = results("recompute"), results("store")
    assert len(found) == len(expected)
    for (path, x), (_, y) in zip(found, expected, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.max(np.abs(x - y)) <= bound * max(np.max(np.abs(y)), 1e-3), jax.tree_util.keystr(path)


@pytest.mark.parametrize("front_end", [SMALL.front_end, CONV.front_end], ids=["stack", "conv"])
def test_native_tensorfloat32_asks_a_gpu_for_its_units_in_every_product_and_float32_for_none(front_end, monkeypatch):
    """Lowered for CUDA, where no GPU is: both directions in one loop, forward and backward."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    settings = replace(SMALL, front_end=front_end, layers=1)

    def lowered(policy):
        def loss(weights):
            return jnp.sum(jnp.square(apply(settings, policy, weights, None, *batch(), mode="train").logits))

        return jax.jit(jax.grad(loss)).trace(parameters_of(settings)).lower(lowering_platforms=("cuda",)).as_text()

    units = lowered(Policy(compute=Rounding(parse_format("tensorfloat32")), carrier="native"))
    plain = lowered(FLOAT32_POLICY)
    products = [line for line in units.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 8
    assert all("tf32" in line for line in products)
    assert "tf32" not in plain
    assert "DEFAULT" not in plain
    assert plain.count("stablehlo.while") == 2  # forward and backward, each for both directions
