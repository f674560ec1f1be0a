"""`init_from`: training begins with another run's weights, statistics and feature normalisation, and says which they were."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "training"))
from corpus import shortest_prompts, write_config, write_rows
from test_step import bits

from dsrun import build
from dsrun.beginning import find_origin, refuse_itself
from dsrun.config import config_hash, load_config, to_yaml
from dsrun.errors import DataError, UsageError
from dsrun.experiment import _dev_evaluation, circumstances, describe, prepare
from dsrun.record import RunDir, differences
from dsrun.speech import Normalization
from dsrun.sweep_state import best_digest_here
from dsrun.training import checkpoint as checkpoints
from dsrun.training.loop import Best
from dsrun.training.saver import host_copy
from dsrun.training.step import split_batch

# As many shards as this process's thread pool was pinned to.
TINY = ("batches.global_batch=8", "batches.shards=8", "augment=null", "model.direction=forward", "model.hidden=8")
SGD = "optimizer={kind: sgd, learning_rate: 0.01, momentum: 0.9, nesterov: true}"
NORMALIZATION = Normalization(np.full(161, -11.5, np.float32), np.full(161, 2.5, np.float32))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A config of a tiny network on eight clips."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = shortest_prompts(12)
    return write_config(
        folder, train=write_rows(folder / "train.jsonl", rows[:8]), dev=write_rows(folder / "dev.jsonl", rows[8:])
    )


def resolved(tiny, *sets):
    return load_config(tiny, [*TINY, *sets])


def leave_checkpoint(run, state, *, step=7, normalization=NORMALIZATION, symbols=tuple(" 'abcdefghijklmnopqrstuvwxyz")):
    """A checkpoint as training leaves it, the best so far."""
    return checkpoints.save(
        run.checkpoints,
        step,
        {"state": host_copy(state.to_dict()), "features": normalization.to_arrays()},
        {"best": asdict(Best(step, 0.5, 0)), "alphabet": list(symbols)},
        best=step,
    )


def leave_run(folder, config, **options):
    """A run folder with weights of another seed and statistics that training has moved; its state and the checkpoint's digest."""
    run = RunDir(folder)
    run.path.mkdir(parents=True)
    run.config.write_text(to_yaml(config), encoding="utf-8")
    experiment = prepare(config.model_copy(update={"seed": 9}), devices=1)
    state = experiment.step.initial_state()
    random = np.random.default_rng(5)
    moved = jax.tree.map(lambda x: x + np.float32(0.1) * random.random(x.shape, np.float32), state.statistics)
    master = jax.tree.map(lambda x: x + np.float32(0.01) * random.random(x.shape, np.float32), state.master)
    state = replace(state, master=master, statistics=moved)
    return state, leave_checkpoint(run, state, **options)


@pytest.fixture(scope="module")
def old(tiny):
    """A run folder to begin with: path, state, digest."""
    folder = tiny.parent / "runs" / "old"
    return folder, *leave_run(folder, resolved(tiny).config)


@pytest.fixture(scope="module")
def experiment(tiny, old):
    return prepare(resolved(tiny, f"init_from={old[0]}").config, devices=1)


def test_the_first_state_is_the_old_runs_weights_and_statistics_and_all_else_is_fresh(experiment, old, tiny):
    state, random = experiment.step.initial_state(), prepare(resolved(tiny).config, devices=1).step.initial_state()
    assert bits(state.master) == bits(old[1].master) != bits(random.master)
    assert bits(state.statistics) == bits(old[1].statistics) != bits(random.statistics)
    for name in ("step", "optimizer", "loss_scale", "finite_steps", "skipped_steps"):
        assert bits(getattr(state, name)) == bits(getattr(random, name)), name


def test_features_are_normalised_as_the_old_run_did_and_not_by_this_configs_data(experiment, tiny):
    own = build.build_training_data(resolved(tiny).config)
    assert bits(experiment.data.normalization.to_arrays()) == bits(NORMALIZATION.to_arrays())
    assert bits(own.normalization.to_arrays()) != bits(NORMALIZATION.to_arrays())
    first = experiment.data.train.features(0, epoch=1)
    assert np.array_equal(first, NORMALIZATION.apply(own.train.plain_features(0)))


def test_streamed_data_are_normalised_so_too(tiny):
    config = resolved(tiny, "data.loading=streamed").config
    data = build.build_training_data(config, normalization=NORMALIZATION)
    for dataset in (data.train, data.dev):
        assert bits(dataset.normalization.to_arrays()) == bits(NORMALIZATION.to_arrays())
    assert data.train.recordings  # the sample is read all the same: a resume compares its digests
    assert "looked at the features of 8" in data.notes[-1]


def step_of(experiment, config, *, devices=1):
    """As `prepare` makes it, on some devices; with a config that a file could not say, a learning rate of 0."""
    return build.build_step(
        config,
        experiment.settings,
        build.build_policy(config),
        steps_per_epoch=1,
        labels=experiment.batcher.most_labels,
        devices=jax.devices()[:devices],
        beginning=experiment.origin.beginning,
    )


def after_two_steps(step, batcher):
    state = step.start()
    for number in range(2):
        state, _ = step(state, split_batch(batcher.batch(*batcher.position(number)), step.shards))
    return state.first


def dev_of(experiment, step, state):
    return _dev_evaluation(experiment, lambda batches: batches)(step.weights(state), state.statistics)


@pytest.fixture(scope="module")
def layered(tiny):
    """Two configs with layer normalisation, which has no running statistics that a step would move: the old run's and the one that begins
    with it; and the latter, prepared."""
    config = resolved(tiny, "model.normalization=layer", SGD).config
    folder = tiny.parent / "runs" / "layer"
    leave_run(folder, config)
    new = config.model_copy(update={"init_from": str(folder)})
    return config, new, prepare(new, devices=1)


@pytest.mark.slow
def test_with_a_learning_rate_of_0_weights_and_dev_error_rate_stay_those_of_the_old_run(layered, tiny):
    old, config, experiment = layered
    still = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 0.0})})
    state = after_two_steps(step_of(experiment, still), experiment.batcher)
    found = checkpoints.restore(Path(config.init_from) / "checkpoints", "best")
    assert int(state.step) == 2
    assert bits(jax.device_get(state.master)) == bits(found.arrays["state"]["master"])
    unrelated = prepare(old, devices=1)  # the old run's own network, with what its checkpoint holds
    then = unrelated.step.initial_state().from_dict(found.arrays["state"])
    own = replace(unrelated, data=replace(unrelated.data, dev=experiment.data.dev), dev_batcher=experiment.dev_batcher)
    before, after = dev_of(own, unrelated.step, then), dev_of(experiment, experiment.step, state)
    assert after.details == before.details
    assert after.summary["characters"]["errors"] > 0


@pytest.mark.slow
def test_two_steps_give_the_same_bits_twice_and_on_one_and_two_devices(layered):
    _, config, experiment = layered
    one, again, two = (
        bits(jax.device_get(after_two_steps(step_of(experiment, config, devices=count), experiment.batcher)))
        for count in (1, 1, 2)
    )
    assert one == again == two
    assert one != bits(jax.device_get(experiment.step.initial_state()))


def test_a_narrow_master_copy_begins_with_the_old_weights_rounded_to_it(experiment, tiny, old):
    narrow = "arithmetic.rules=[{path: output_kernel, master: {format: float16}}]"
    master = jax.device_get(jax.jit(step_of(experiment, resolved(tiny, narrow).config).initial_state)().master)
    then = jax.device_get(old[1].master)
    rounded = then["output_kernel"].astype(np.float16).astype(np.float32)
    assert bits(master) == bits(then | {"output_kernel": rounded}) != bits(then)


def test_provenance_says_which_weights_and_a_copy_of_the_folder_under_another_name_is_the_same(experiment, tiny, old):
    config = resolved(tiny, f"init_from={old[0]}").config
    facts = circumstances(config, experiment.step, experiment.origin)
    assert facts["init_from"] == {"run": "old", "step": 7, "digest": old[2]}
    copied = facts | {"init_from": facts["init_from"] | {"run": "copy"}}
    assert differences(facts, copied) == {}
    others = facts | {"init_from": facts["init_from"] | {"digest": "0" * 64}}
    assert differences(facts, others) == {"init_from.digest": [old[2], "0" * 64]}
    assert "init_from" not in circumstances(config, experiment.step, None)
    assert best_digest_here(str(old[0])) == old[2]
    assert best_digest_here(str(tiny.parent)) is None


def test_a_run_that_goes_on_needs_the_old_folder_no_more(experiment, tiny, old, tmp_path):
    run, gone = RunDir(tmp_path / "new"), tmp_path / "gone"
    config = resolved(tiny, f"init_from={gone}").config
    run.path.mkdir()
    run.config.write_text(to_yaml(config), encoding="utf-8")
    with pytest.raises(UsageError, match=r"^init_from: .*gone is not a run folder"):
        find_origin(config, resumed=run)  # nothing was trained yet
    other = Normalization(np.full(161, -3, np.float32), np.full(161, 1, np.float32))
    leave_checkpoint(run, experiment.step.initial_state(), step=2, normalization=other)
    run.provenance.write_text(json.dumps({"init_from": {"run": "gone", "step": 7, "digest": "d" * 64}}))
    origin = find_origin(config, resumed=run)
    assert (origin.facts, origin.beginning) == ({"run": "gone", "step": 7, "digest": "d" * 64}, None)
    assert bits(origin.normalization.to_arrays()) == bits(other.to_arrays())
    on = prepare(config, devices=1, resumed=run)
    assert bits(on.data.normalization.to_arrays()) == bits(other.to_arrays())
    assert circumstances(config, on.step, on.origin)["init_from"]["digest"] == "d" * 64
    said = describe(load_config(tiny, [*TINY, f"init_from={gone}"]), run_dir=run.path, devices=1)
    assert said["init_from"]["digest"] == "d" * 64


def refusal(tiny, folder, *sets, error=UsageError):
    with pytest.raises(error) as caught:
        prepare(resolved(tiny, f"init_from={folder}", *sets).config, devices=1)
    return str(caught.value)


def test_what_is_no_run_or_has_no_best_checkpoint_is_refused_with_the_way_out(tiny, old, tmp_path):
    text = refusal(tiny, tmp_path / "none")
    assert text == (
        f"init_from: {tmp_path / 'none'} is not a run folder (no config.yaml there). Train that run first, or name one that is there "
        "(`dsrun runs`): --set init_from=runs/NAME. null begins with random weights."
    )
    empty = tmp_path / "empty"
    shutil.copytree(old[0], empty, ignore=shutil.ignore_patterns("checkpoints"))
    assert refusal(tiny, empty, error=DataError).startswith(f"init_from: {empty / 'checkpoints'}: no checkpoints.")


def test_another_network_or_other_features_are_named_on_both_sides_all_at_once(tiny, old):
    text = refusal(tiny, old[0], "model.hidden=16", "model.relu_clip=10", "features.window_ms=25", "model.dropout=0.5")
    assert text.splitlines() == [
        f"init_from: {old[0]} has another network or other features than this config:",
        "  features.window_ms: 20.0 there, 25.0 here",
        "  model.hidden: 8 there, 16 here",
        "  model.relu_clip: 20.0 there, 10.0 here",
        f"Write them as they are there ({old[0] / 'config.yaml'}), or begin with another run.",
    ]


def test_another_alphabet_is_refused_with_what_differs(tiny, old, tmp_path):
    letters = " abcdefghijklmnopqrstuvwxyzé"
    (tmp_path / "letters.txt").write_text("".join(f"{letter}\n" for letter in letters), encoding="utf-8")
    text = refusal(tiny, old[0], f"data.alphabet={tmp_path / 'letters.txt'}")
    assert text.startswith(
        f'init_from: {old[0]} writes the 28 symbols " \'abcdefghijklmnopqrstuvwxyz", this config the 28 '
    )
    assert "(only there: \"'\"; only here: 'é')" in text
    assert "data.alphabet" in text


def test_a_run_cannot_begin_with_itself(tiny, tmp_path):
    config = resolved(tiny, f"init_from={tmp_path}").config
    refuse_itself(config, RunDir(tmp_path / "other"))
    with pytest.raises(UsageError, match=r"own folder\. Train in another --run-dir"):
        refuse_itself(config, RunDir(tmp_path / "." / "x" / ".."))


def test_the_path_is_relative_to_the_file_that_says_it_and_the_same_in_another_checkout(tiny, tmp_path):
    found = []
    for checkout in ("a", "b"):
        file = tmp_path / checkout / "configs" / "tuned.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"base": str(tiny), "init_from": "../runs/x"}))
        config = load_config(file, []).config
        assert config.init_from == str(tmp_path / checkout / "runs" / "x")
        found.append(config_hash(config))
    assert found[0] == found[1] != config_hash(load_config(file, ["init_from=runs/y"]).config)
