"""Watching: counts against NumPy's own decomposition, updates that survive, and training that does not notice."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_step import SETTINGS, bits, make_batch, make_step

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32, FLOAT32_POLICY, Policy, parse_format, round_to
from dsrun.arithmetic.formats import TERNARY
from dsrun.arithmetic.scalar import finite_values
from dsrun.model import Conv2dSettings, init_parameters, output_frames
from dsrun.training.loss_scale import NO_LOSS_SCALE
from dsrun.training.optimizer import Optimizer, constant_schedule, sgd_direction
from dsrun.training.state import TrainState
from dsrun.training.step import Shard, ShardSums, UpdateRules, split_batch
from dsrun.training.watch import (
    BLOCK,
    Observation,
    Tensor,
    Watcher,
    count,
    half_ulp,
    observe_network,
    observe_update,
)
from dsrun.training.watch import _table as table


def special_values():
    """More than one block of all exponents and signs, with zeros, subnormals, infinities and NaNs among them."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**32, BLOCK + 1001, dtype=np.uint32)
    special = np.array([0, 0x8000_0000, 1, 0x8000_0001, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF], np.uint32)
    nonfinite = np.array([0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFFC0_0000], np.uint32)
    return np.concatenate([random, special, nonfinite]).view(np.float32)


def by_frexp(x, format):
    """Counts by NumPy in float64: exponents by frexp, limits by comparison."""
    with np.errstate(invalid="ignore"):  # a signalling NaN among the values
        wide = x.astype(np.float64)
    finite = np.isfinite(x)
    nonzero = np.abs(wide[finite & (wide != 0)])
    exponents = np.maximum(np.frexp(nonzero)[1] - 1, -127)  # float32's subnormals in one
    fields = np.bincount(exponents + 127, minlength=256)
    fields[0] += np.sum(wide == 0)
    fields[255] += np.sum(~finite)
    found = {"fields": fields, "zeros": np.sum(wide == 0), "nans": np.sum(np.isnan(x))}
    found |= {"smallest_seen": nonzero.min(), "largest_seen": nonzero.max()}
    if format is not None:
        flushed = nonzero <= format.smallest_positive / 2
        normal = getattr(format, "smallest_normal", 0.0)
        found |= {"flushed": flushed.sum(), "subnormal": np.sum(~flushed & (nonzero < normal))}
        found |= {"overflowed": np.sum(nonzero > -format.min_value)}
    return found


def test_counts_are_those_of_numpy_for_every_kind_of_value_and_format():
    x = special_values()
    narrow = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        widened = narrow.astype(np.float32)
    valid = np.arange(len(x)) % 3 > 0
    formats = [
        FLOAT32,
        FLOAT16,
        BFLOAT16,
        parse_format("fixed_q4.12"),
        parse_format("float8_e4m3fn"),
        parse_format("float_e5m4", subnormals=False),
    ]
    tensors = [Tensor(f.name, "weight", "storage", f, jnp.asarray(x)) for f in formats]
    tensors += [
        Tensor("empty", "weight", "storage", FLOAT16, jnp.zeros((3, 0))),
        Tensor("scalar", "weight", "storage", FLOAT16, jnp.float32(1.5)),
        Tensor("native", "weight", "storage", FLOAT16, jnp.asarray(narrow).reshape(256, 256)),
        Tensor("masked", "activation", "storage", FLOAT16, jnp.asarray(x), jnp.asarray(valid)),
    ]
    found = table(jax.device_get(jax.jit(lambda values, valid: count([
        Tensor(t.path, t.kind, t.role, t.format, v, None if t.valid is None else valid) for t, v in zip(tensors, values, strict=True)
    ]))([t.values for t in tensors], jnp.asarray(valid))))  # fmt: skip
    expected = [by_frexp(x, f) for f in formats]
    expected += [None, None, by_frexp(widened, FLOAT16), by_frexp(x[valid], FLOAT16)]
    for place, columns in enumerate(expected):
        for name, value in (columns or {}).items():
            np.testing.assert_array_equal(found[name][place], value, err_msg=f"{tensors[place].path} {name}")
    assert found["fields"][6].sum() == 0
    assert np.isnan(found["largest_seen"][6])
    assert found["fields"][7].tolist() == np.eye(256, dtype=int)[127].tolist()


def test_flushed_are_those_that_the_rounding_to_nearest_makes_zero():
    x = special_values()
    x = x[np.isfinite(x)]
    for format in (FLOAT16, BFLOAT16, parse_format("fixed_q4.12"), TERNARY):
        rounded = np.asarray(round_to(jnp.asarray(x), format)).view(np.uint32) & 0x7FFF_FFFF
        found = table(jax.device_get(count([Tensor("x", "weight", "storage", format, jnp.asarray(x))])))
        assert found["flushed"][0] == np.sum((x.view(np.uint32) & 0x7FFF_FFFF > 0) & (rounded == 0)), format


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float8_e5m2"])
def test_half_an_ulp_is_half_of_the_spacing_in_the_binade(name):
    format = parse_format(name)
    exponents = np.arange(-140, 128)
    size = np.float32(2.0) ** exponents.astype(np.float32)
    found = np.asarray(half_ulp(jnp.asarray(size.view(np.uint32)), format)).view(np.float32).astype(np.float64)
    half = 2.0 ** (np.maximum(exponents, format.min_exponent) - format.precision)
    np.testing.assert_array_equal(found, np.where(half < 2.0**-149, 0.0, half))


@pytest.mark.parametrize("name", ["float_e4m3", "float_e5m2", "float_e8m7"])
def test_half_an_ulp_of_a_format_without_subnormals_is_half_the_distance_to_the_next_value(name):
    format = parse_format(name, subnormals=False)
    values = [value for value in finite_values(format) if value >= 0]
    x = np.array(values[:-1], np.float32)
    half = np.diff(values) / 2
    found = np.asarray(half_ulp(jnp.asarray(x.view(np.uint32)), format)).view(np.float32)
    np.testing.assert_array_equal(found[half >= 2.0**-149], half[half >= 2.0**-149].astype(np.float32))
    between = np.float32(format.smallest_positive / 2)
    assert np.asarray(half_ulp(jnp.asarray(between.view(np.uint32)), format)).view(np.float32) == between


def survival(updates, weights, *, compensation="none"):
    """Numbers of updates, of those that changed a bfloat16 weight, and of the swallowed ones."""
    policy = Policy(storage=Policy().storage, master=BFLOAT16, compensation=compensation)
    optimizer = Optimizer(sgd_direction(momentum=0.0, nesterov=False, weight_decay=0.0), constant_schedule(0.5))
    rules = UpdateRules(policy, optimizer, NO_LOSS_SCALE, None, 0.9, 1)
    master = {"w": jnp.asarray(weights, jnp.float32)}
    zero, one = jnp.int32(0), jnp.float32(1.0)
    lost = {"w": jnp.zeros(len(weights), jnp.float32)} if compensation == "kahan" else {}
    state = TrainState(zero, master, optimizer.direction.init(master), {}, one, zero, zero, lost)
    gradient = {"w": jnp.asarray(updates, jnp.float32) * 2.0}  # the rate is a half
    total = ShardSums(gradient, one, one, one, one, {})
    counts, survived = jax.jit(partial(observe_update, rules))(state, total)
    assert [row.kind for row in counts.rows] == ["weight", "gradient_sum", "update", "master"]
    return np.asarray(survived).sum(axis=0).tolist()


def test_updates_that_survive_are_counted_on_a_case_made_by_hand():
    ulp = 2.0**-7  # of bfloat16 at 1; below 1 it is half of that
    # An update is subtracted: a negative one makes the weight larger.
    assert survival([-0.1 * ulp], [1.0]) == [1, 0, 1]
    assert survival([-0.6 * ulp], [1.0]) == [1, 1, 0]
    assert survival([-2.0 * ulp, 2.0 * ulp], [1.0, 1.0]) == [2, 2, 0]
    assert survival([0.1 * ulp], [1.0]) == [1, 0, 1]
    assert survival([0.3 * ulp], [1.0]) == [1, 1, 1], "below half an ulp, but the neighbour below 1 is nearer"
    assert survival([0.0, -0.0, 1e-30], [1.0, 0.0, 0.0]) == [1, 1, 0], (
        "no update is not an update; zero has a fine grid"
    )
    assert survival([0.1 * ulp, np.nan], [1.0, 1.0]) == [1, 0, 1], "a step that is skipped changes nothing"
    assert survival([-0.6 * ulp], [1.0], compensation="kahan") == [1, 1, 0]


@pytest.fixture(scope="module")
def watched():
    """Two steps with watching and two without: the states, and the first observation's magnitudes, of float16 storage."""
    batch = make_batch(filler=3)
    for row, frames in enumerate(batch.num_frames):
        batch.features[row, frames:] = np.nan
    step = make_step(policy=Policy(storage=make_rounding(FLOAT16)), shards=2)
    watcher = Watcher(step)
    shards = split_batch(batch, 2)
    states = []
    for is_watched in (False, True):
        state = step.start()
        for number in (1, 2):
            total = step.total(state, shards)
            observation = watcher(state.first, total[0], shards[0]) if is_watched else None
            state, record = step.update(state, total)
            if number == 1 and is_watched:
                found = watcher.read(observation, step=1, loss_scale=float(record.loss_scale))
        states.append(jax.device_get(state.first))
    return states, found, shards[0]


def make_rounding(format):
    from dsrun.arithmetic.policy import Rounding

    return Rounding(format)


def test_a_watched_run_has_the_same_bits_as_one_that_is_not(watched):
    (plain, seen), _, _ = watched
    assert bits(plain) == bits(seen)


def test_padded_frames_and_rows_are_not_counted_nor_what_stands_in_them(watched):
    _, found, shard = watched
    frames, after = int(shard.num_frames.sum()), int(output_frames(SETTINGS, shard.num_frames).sum())
    rows = {(row["kind"], row["path"]): row for row in found.rows()}
    assert found.nans.sum() == 0
    widths = {
        "features": frames * 7,
        "front_end.output": after * 8,
        "gru_0_backward.state": after * 8,
        "logits": after * 5,
    }
    for path, values in widths.items():
        assert rows["activation", path]["values"] == rows["error", path]["values"] == values
    assert rows["activation", "logits"]["format"] == "float32"
    assert rows["activation", "gru_0.output"]["format"] == "float16"


def test_features_and_initial_weights_have_the_histogram_of_numpy(watched):
    _, found, shard = watched
    present = np.concatenate([shard.features[row, :n] for row, n in enumerate(shard.num_frames)])
    weights = init_parameters(SETTINGS, 3)["gru_0_forward"]["u_r"]
    for kind, path, x in (("activation", "features", present), ("weight", "gru_0_forward.u_r", np.asarray(weights))):
        (place,) = np.flatnonzero((found.kind == kind) & (found.path == path))
        for name, value in by_frexp(x.ravel(), FLOAT16).items():
            np.testing.assert_array_equal(getattr(found, name)[place], value)
    updates = found.figures(found.kind == "update")
    assert updates["changed_share"] > 0.99
    assert found.summary()["updates"] == updates["updates"]


def test_what_is_lowered_to_watch_has_no_scatter():
    step = make_step(shards=2)
    watcher = Watcher(step)
    shards, state = split_batch(make_batch(), 2), step.initial_state()
    total = jax.eval_shape(lambda: ShardSums(state.master, *[jnp.float32(1)] * 4, moments_like(step, state)))
    texts = [
        watcher._update.lower(state, total).as_text(),
        watcher._network.lower(state.master, state.step, state.loss_scale, shards[0]).as_text(),
    ]
    assert all("dot_general" in text or "while" in text for text in texts)
    assert not any("scatter" in text or "all_reduce" in text for text in texts)


def moments_like(step, state):
    from dsrun.model.norm import Moments

    return {
        name: Moments(jnp.float32(1), values["mean"], values["variance"]) for name, values in state.statistics.items()
    }


def test_the_mask_of_valid_frames_fits_every_stored_value_of_the_convolutions_too():
    from dataclasses import replace

    settings = replace(SETTINGS, num_bins=16, front_end=Conv2dSettings(channels=2))
    shard = Shard(
        np.zeros((2, 25, 16), np.float32),
        np.array([25, 11], np.int32),
        np.ones((2, 3), np.int32),
        np.array([3, 2], np.int32),
    )
    weights = init_parameters(settings, 1)
    found = jax.eval_shape(
        partial(observe_network, settings, FLOAT32_POLICY, 1), weights, jnp.int32(0), jnp.float32(1), shard
    )
    paths = [row.path for row in found.rows if row.kind == "activation"]
    assert paths[:3] == ["features", "front_end.output_0", "front_end.output_1"]
    assert isinstance(Observation(found, found, None).network.rows, tuple)
