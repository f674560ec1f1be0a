"""The training step: shards, devices, gradients, updates."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32_POLICY, Policy, parse_format, round_to
from dsrun.arithmetic.policy import Rounding, Rule
from dsrun.model import FrameStackSettings, ModelSettings
from dsrun.network_parts import NetworkParts
from dsrun.training.loss_scale import NO_LOSS_SCALE, LossScale
from dsrun.training.optimizer import Optimizer, constant_schedule, sgd_direction
from dsrun.training.state import Beginning, TrainState
from dsrun.training.step import TrainStep, _updated, split_batch
from dsrun.training.watch import Watcher

SETTINGS = ModelSettings(
    num_bins=7,
    num_classes=5,
    front_end=FrameStackSettings(stack=3, stride=2, hidden=8),
    hidden=8,
    layers=1,
    direction="bidirectional",
    normalization="batch",
    dropout=0.2,
    relu_clip=20.0,
)


MIXED = Policy(
    storage=Rounding(FLOAT16, "stochastic"),
    reduce=Rounding(FLOAT16),
    master=None,
    update_mode="stochastic",
    state=Rounding(BFLOAT16),
)


@dataclass(frozen=True)
class HostBatch:
    features: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    num_labels: np.ndarray


def make_batch(rows=8, frames=24, labels=4, filler=0):
    rng = np.random.default_rng(1)
    num_frames = rng.integers(frames // 2, frames + 1, rows).astype(np.int32)
    num_labels = rng.integers(1, labels + 1, rows).astype(np.int32)
    if filler:
        num_frames[-filler:], num_labels[-filler:] = 0, 0
    return HostBatch(
        rng.standard_normal((rows, frames, 7)).astype(np.float32),
        num_frames,
        rng.integers(1, 5, (rows, labels)).astype(np.int32),
        num_labels,
    )


def make_step(
    *,
    policy=FLOAT32_POLICY,
    devices=1,
    shards=8,
    clip_norm=None,
    momentum=0.9,
    rate=0.05,
    loss_scale=NO_LOSS_SCALE,
    ctc_kernel="scan",
    reduction="tree",
    beginning=None,
):
    optimizer = Optimizer(sgd_direction(momentum=momentum, nesterov=True, weight_decay=0.0), constant_schedule(rate))
    return TrainStep(
        SETTINGS,
        policy,
        optimizer,
        clip_norm=clip_norm,
        shards=shards,
        seed=3,
        statistics_momentum=0.9,
        loss_scale=loss_scale,
        ctc_kernel=ctc_kernel,
        reduction=reduction,
        devices=jax.devices()[:devices],
        beginning=beginning,
    )


def run(step, steps=3, batch=None):
    batch = batch or make_batch()
    state, records = step.start(), []
    for _ in range(steps):
        state, record = step(state, split_batch(batch, step.shards))
        records.append(record)
    return jax.device_get(state.first), jax.device_get(records)


def bits(state):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@pytest.mark.parametrize(
    ("policy", "devices"),
    [
        pytest.param(FLOAT32_POLICY, (2, 3, 8), id="float32"),
        pytest.param(MIXED, (2,), id="mixed", marks=pytest.mark.slow),
    ],
)
def test_state_is_bitwise_equal_on_any_number_of_devices(policy, devices):
    one, *others = (bits(run(make_step(policy=policy, devices=n))[0]) for n in (1, *devices))
    assert all(other == one for other in others)


@pytest.mark.slow
def test_begun_with_other_weights_the_state_is_bitwise_equal_twice_and_on_two_devices():
    random = make_step().initial_state()
    beginning = Beginning(jax.tree.map(lambda w: w * 1.25, random.master), random.statistics)
    one, two = (make_step(beginning=beginning, devices=count) for count in (1, 2))
    assert bits(one.initial_state().master) == bits(beginning.parameters) != bits(random.master)
    first, again, other = (bits(run(step, steps=2)[0]) for step in (one, one, two))
    assert first == again == other


def test_number_of_shards_is_part_of_the_experiment():
    assert bits(run(make_step(shards=8))[0]) != bits(run(make_step(shards=4))[0])


def test_loss_falls_on_a_batch_seen_again_and_again():
    _, records = run(make_step(), steps=20)
    assert records[-1].loss < 0.7 * records[0].loss
    assert all(record.finite for record in records)


def test_storage_rounds_what_the_network_reads_and_not_the_master():
    step = make_step(policy=Policy(storage=Rounding(FLOAT16)))
    state, _ = run(step)
    weights = step.weights(jax.device_put(state))
    for master, weight in zip(jax.tree.leaves(state.master), jax.tree.leaves(weights), strict=True):
        np.testing.assert_array_equal(weight, round_to(jnp.asarray(master), FLOAT16))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state.master)]
    assert any(not np.array_equal(leaf, round_to(jnp.asarray(leaf), FLOAT16)) for leaf in leaves)


def test_filler_rows_change_nothing_but_the_shape():
    """Eight utterances in eight shards of one row, against the same eight followed by eight empty rows in sixteen shards."""
    full = make_batch(rows=8)
    padded = HostBatch(
        np.concatenate([full.features, np.full_like(full.features, np.nan)]),
        np.concatenate([full.num_frames, np.zeros(8, np.int32)]),
        np.concatenate([full.labels, full.labels]),
        np.concatenate([full.num_labels, np.zeros(8, np.int32)]),
    )
    plain, with_filler = make_step(shards=8), make_step(shards=16)
    assert bits(run(plain, 2, full)[0]) == bits(run(with_filler, 2, padded)[0])


def test_clipping_scales_the_gradient_to_the_norm():
    batch = make_batch()
    free, clipped = make_step(momentum=0.0), make_step(momentum=0.0, clip_norm=0.5)
    before = jax.device_get(free.initial_state().master)
    norm = run(free, 1, batch)[1][0].grad_norm
    moved = [jax.tree.map(lambda a, b: a - b, run(s, 1, batch)[0].master, before) for s in (free, clipped)]
    assert norm > 0.5
    for a, b in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(b, a * (0.5 / norm), rtol=0, atol=2e-7)  # weights of size 1: half an ulp is 6e-8


def test_a_step_that_is_not_finite_leaves_the_weights_alone():
    batch = make_batch()
    batch.features[0, 0, 0] = np.inf
    step = make_step()
    before = jax.device_get(step.initial_state())
    after, records = run(step, 1, batch)
    assert not records[0].finite
    assert bits(after.master) == bits(before.master)
    assert bits(after.optimizer) == bits(before.optimizer)
    assert after.step == 1


def modules_of_a_step(folder, **choices):
    """The text of every program that is lowered for one step on four devices, by name."""
    jax.config.update("jax_dump_ir_to", str(folder))
    try:
        run(make_step(devices=4, **choices), steps=1)
    finally:
        jax.config.update("jax_dump_ir_to", "")
    return {path.name: path.read_text() for path in folder.glob("*.mlir")}


def test_no_program_of_a_step_on_four_devices_has_a_scatter_or_an_all_reduce(tmp_path):
    """Copies bring the sums together. The library's all-reduce shows that it would be seen."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "library").mkdir()
    policy = Policy(storage=Rounding(FLOAT16), reduce=Rounding(FLOAT16))
    tree = modules_of_a_step(tmp_path / "tree", policy=policy)
    assert len(tree) > 5
    assert any("rounded_sum" in name for name in tree), sorted(tree)
    for name, text in tree.items():
        assert '"stablehlo.scatter"' not in text, name
        assert "stablehlo.all_reduce" not in text, name
        assert "stablehlo.all_to_all" not in text, name
    library = modules_of_a_step(tmp_path / "library", reduction="all_reduce")
    assert any("stablehlo.all_reduce" in text for text in library.values())


def test_state_survives_a_round_trip_through_plain_arrays():
    state, _ = run(make_step())
    arrays = jax.device_get(state.to_dict())
    assert bits(make_step().initial_state().from_dict(arrays)) == bits(state)


def test_more_than_a_hundred_optimizer_tensors_come_back_in_their_order():
    moments = [jnp.full((1,), i, jnp.float32) for i in range(180)]
    zero = jnp.int32(0)
    state = TrainState(jnp.int32(7), {"w": jnp.ones(2)}, moments, {}, jnp.float32(1.0), zero, zero, {})
    arrays = jax.device_get(state.to_dict())
    shuffled = arrays | {"optimizer": dict(sorted(arrays["optimizer"].items()))}  # as a checkpoint gives it back
    assert [int(x[0]) for x in state.from_dict(shuffled).optimizer] == list(range(180))


def test_a_state_of_another_shape_is_refused_by_name():
    state = make_step().initial_state()
    arrays = jax.device_get(state.to_dict())
    arrays["master"]["output_bias"] = np.zeros(9, np.float32)
    with pytest.raises(ValueError, match=r"master.output_bias: run has float32\[9\], config asks float32\[5\]"):
        state.from_dict(arrays)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_without_a_master_the_one_copy_is_on_the_storage_grid():
    step = make_step(policy=Policy(storage=Rounding(BFLOAT16), master=None))
    state, _ = run(step)
    assert all(np.array_equal(w, round_to(jnp.asarray(w), BFLOAT16)) for w in leaves(state.master))
    assert step.weights(state) is state.master


@pytest.mark.slow
def test_small_updates_vanish_to_nearest_get_through_stochastically_and_are_kept_by_kahan():
    """At rate 1e-4 ten updates of a normalisation's scale, which is near 1, stay below half of bfloat16's spacing there."""

    def run_with(**choices):
        step = make_step(policy=Policy(storage=Rounding(BFLOAT16), master=None, **choices), rate=1e-4)
        state, _ = run(step, steps=10)
        scales = [
            w for path, w in jax.tree_util.tree_leaves_with_path(state.master) if "scale" in jax.tree_util.keystr(path)
        ]
        return sum(int((np.asarray(w) != 1.0).sum()) for w in scales), state

    assert run_with()[0] == 0
    assert run_with(update_mode="stochastic")[0] > 0
    _, state = run_with(compensation="kahan")
    lost = leaves(state.compensation)
    assert sum(int((c != 0).sum()) for c in lost) > 100
    assert all(np.array_equal(c, round_to(jnp.asarray(c), BFLOAT16)) for c in lost)


def test_moments_are_kept_on_the_grid_of_their_role():
    state, _ = run(make_step(policy=Policy(state=Rounding(BFLOAT16))))
    assert all(np.array_equal(m, round_to(jnp.asarray(m), BFLOAT16)) for m in leaves(state.optimizer))


def test_a_scaled_loss_gives_the_same_float32_weights_bit_for_bit():
    """Powers of two scale exactly: a wrong unscaling, before clipping or after, would show."""
    plain = run(make_step(clip_norm=1.0))[0]
    scaled = run(make_step(clip_norm=1.0, loss_scale=LossScale(initial=1024.0)))[0]
    assert bits(plain.master) == bits(scaled.master)
    assert bits(plain.optimizer) == bits(scaled.optimizer)


def test_a_dynamic_scale_halves_at_each_skipped_step_and_doubles_after_finite_ones():
    bad = make_batch()
    bad.features[0, 0, 0] = np.inf
    step = make_step(loss_scale=LossScale("dynamic", initial=8.0, growth_interval=2, minimum=4.0, maximum=16.0))
    state, seen = step.start(), []
    for batch in (bad, bad, bad, *[make_batch()] * 7, bad):
        state, record = step(state, split_batch(batch, step.shards))
        seen.append((float(record.loss_scale), int(record.skipped_steps), float(state.first.loss_scale)))
    assert seen == [
        (8, 0, 4), (4, 1, 4), (4, 2, 4), (4, 0, 4), (4, 0, 8), (8, 0, 8), (8, 0, 16), (16, 0, 16), (16, 0, 16), (16, 0, 16),
        (16, 0, 8),
    ]  # fmt: skip


def test_gradients_that_underflow_a_narrow_format_survive_with_a_loss_scale():
    narrow = Policy(gradient=Rounding(parse_format("float8_e4m3fn", overflow="saturate")))
    steps = [make_step(policy=narrow, loss_scale=LossScale(initial=scale)) for scale in (2.0**-8, 1.0)]
    totals = [step.total(step.start(), split_batch(make_batch(), 8))[0].gradient for step in steps]
    small, large = (sum(int((g != 0).sum()) for g in leaves(total)) for total in totals)
    assert 0 < small < large


@pytest.mark.slow
def test_native_arrays_have_the_dtype_of_their_role_and_train():
    half = Rounding(FLOAT16)
    policy = Policy(
        storage=half, compute=half, gradient=half, master=None, state=Rounding(BFLOAT16), carrier="native",
        update_mode="stochastic",
    )  # fmt: skip
    step = make_step(policy=policy, loss_scale=LossScale(initial=128.0))
    state, records = run(step, steps=20)
    assert {leaf.dtype for leaf in leaves(state.master)} == {np.dtype(np.float16)}
    assert {leaf.dtype.name for leaf in leaves(state.optimizer)} == {"bfloat16"}
    assert records[-1].loss < 0.8 * records[0].loss
    arrays = jax.device_get(state.to_dict())
    assert bits(step.initial_state().from_dict(arrays)) == bits(state)


def test_a_rule_makes_the_matrices_ternary_and_leaves_the_rest():
    rule = Rule("gru_.*[.][wu]_[rzn]", (("storage", Rounding(parse_format("ternary"))),))
    step = make_step(policy=Policy(rules=(rule,)))
    weights = step.weights(jax.device_put(run(step)[0]))
    assert len(np.unique(weights["gru_0_forward"]["u_r"])) == 3
    assert len(np.unique(weights["output_kernel"])) > 20


def test_kahans_update_is_four_roundings_and_gets_through_in_time():
    """Against NumPy's own float16, with a rate whose float32 products are exact."""
    policy = Policy(storage=Rounding(FLOAT16), master=None, compensation="kahan")
    rules = make_step(policy=policy).update_rules
    w, c = np.full(3, 1.0, np.float16), np.zeros(3, np.float16)
    u = np.array(
        [2.0**-3, -(2.0**-3), 3.0], np.float32
    )  # a 16th of half an ulp of 1 at rate 2**-12; one that moves at once
    ours = (jnp.asarray(w, jnp.float32), jnp.asarray(c, jnp.float32))
    for _ in range(40):
        ours = _updated(rules, "w", ours[0], jnp.asarray(u), ours[1], jnp.float32(2.0**-12), jnp.int32(0))
        change = (np.float32(-(2.0**-12)) * u - c.astype(np.float32)).astype(np.float16)
        after = (w + change).astype(np.float16)
        c = ((after - w).astype(np.float16) - change).astype(np.float16)
        w = after
        np.testing.assert_array_equal(ours[0], w.astype(np.float32))
        np.testing.assert_array_equal(ours[1], c.astype(np.float32))
    np.testing.assert_allclose(w, 1.0 - 40 * 2.0**-12 * u, rtol=0, atol=2.0**-10)
    assert (w != 1.0).all()


def test_a_weight_that_overflows_its_format_is_not_kept():
    step = make_step(policy=Policy(state=Rounding(FLOAT16)), rate=1e-3, momentum=0.9)
    state = step.start()
    (total,) = step.total(state, split_batch(make_batch(), 8))
    huge = replace(total, gradient=jax.tree.map(lambda g: jnp.full_like(g, 8e5), total.gradient))
    before = jax.device_get(state.first.master)
    after, record = step.update(state, [huge])
    assert not record.finite, "1e5 is a finite gradient, and no float16"
    assert bits(jax.device_get(after.first.master)) == bits(before)


@pytest.mark.parametrize("part", ["step", "watcher", "pieces"])
def test_the_chosen_kernel_is_what_walks_ctcs_lattice(part, monkeypatch):
    """In the gradient, in what is watched of it, and in what `dsrun bench step` times of it."""

    class Reached(Exception):
        pass

    def reached(*args):
        raise Reached

    monkeypatch.setattr("dsrun.ctc.mosaic.total_and_occupancies", reached)
    step = make_step(shards=2, ctc_kernel="interpreted")
    state, shards = step.initial_state(), split_batch(make_batch(), 2)
    calls = {
        "step": lambda: step.shard_gradient(state, 0, shards[0]),
        "watcher": lambda: Watcher(step)._network(step.weights(state), state.step, state.loss_scale, shards[0]),
        "pieces": lambda: NetworkParts(step).one_pass(state, [shards]),
    }
    with pytest.raises(Reached):
        calls[part]()


@pytest.mark.slow
def test_a_step_with_five_thousand_classes_learns_from_labels_all_over_the_alphabet():
    settings = replace(SETTINGS, num_classes=5_001, dropout=0.0)
    optimizer = Optimizer(sgd_direction(momentum=0.0, nesterov=False, weight_decay=0.0), constant_schedule(0.05))
    step = TrainStep(
        settings,
        FLOAT32_POLICY,
        optimizer,
        clip_norm=None,
        shards=2,
        seed=3,
        statistics_momentum=0.9,
        devices=jax.devices()[:1],
    )
    batch = make_batch(rows=4)
    labels = np.random.default_rng(2).permutation(5_000)[:16].reshape(4, 4).astype(np.int32) + 1
    batch = replace(batch, labels=labels)
    start = step.start()
    before = np.asarray(start.first.master["output_bias"])
    state, record = step(start, split_batch(batch, 2))
    after = np.asarray(state.first.master["output_bias"])
    assert record.finite
    spoken = {int(label) for row, count in zip(labels, batch.num_labels, strict=True) for label in row[:count]}
    assert set(np.flatnonzero(after > before)) == spoken | {
        0
    }  # blank and what was said become more probable, all else less
