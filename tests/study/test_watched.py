"""Counts by layer: what is added, what is chosen of many steps, and what a damaged file says."""

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.inspection import open_run
from dsrun.study import watched
from dsrun.study.watched import (
    HANDED_ON,
    Tally,
    by_layer,
    chosen_steps,
    common_steps,
    layer_series,
    read_layers,
    together,
)
from tests.study.run_folders import magnitudes_of, network_tensors, write_watched_run

UPDATES = [
    {"path": "gru_0_forward.w_r", "kind": "update", "format": "bfloat16", "counts": {-9: 30}, "updates": 30, "changed": 3, "swallowed": 27},
    {"path": "gru_0_backward.w_r", "kind": "update", "format": "bfloat16", "counts": {-9: 10}, "updates": 10, "changed": 10},
    {"path": "output_kernel", "kind": "update", "format": "bfloat16", "counts": {-9: 10}, "updates": 10, "swallowed": 10},
]  # fmt: skip


def test_tensors_of_a_layer_and_seeds_are_added_before_a_share_is_taken(tmp_path):
    runs = [
        open_run(write_watched_run(tmp_path / f"{seed}", [magnitudes_of(5, UPDATES)], config={"seed": seed}))
        for seed in (1, 2)
    ]
    series = layer_series(runs, "update", [5])
    assert series.layers == ["gru_0", "output"]
    # 27 of 40 and not the mean of 27/30 and 0/10.
    np.testing.assert_allclose(series.share("swallowed", "updates"), [[27 / 40], [1.0]])
    assert series.overall("updates", "updates") == 1.0
    assert series.tallies[0][0].updates == 80


def test_zeros_and_what_is_not_finite_are_no_magnitudes():
    tensor = {"path": "features", "kind": "activation", "format": "float16", "counts": {-3: 4}, "zeros": 2, "nans": 1}
    tally = by_layer(magnitudes_of(1, [tensor])).total("activation")
    assert (tally.finite, tally.zeros, tally.nonfinite, tally.values) == (4, 2, 1, 7)
    assert np.isnan(Tally().share("flushed"))


def test_a_layer_hands_on_its_last_activation_and_the_commonest_format_counts():
    tensors = [
        {"path": "gru_0.state", "kind": "activation", "format": "float16", "counts": {-3: 4}},
        {"path": "gru_0.output", "kind": "activation", "format": "float16", "counts": {-5: 1}},
        {"path": "logits", "kind": "activation", "format": "float32", "counts": {3: 1}},
    ]
    step = by_layer(magnitudes_of(1, tensors))
    assert step.tallies[HANDED_ON, "gru_0"].finite == 1
    assert step.ranges["activation"].format == "float16"


def test_every_seeds_loss_scale_and_the_layers_of_the_first_stay_when_seeds_are_added():
    one, two = (by_layer(magnitudes_of(3, network_tensors(), loss_scale=scale)) for scale in (8.0, 4.0))
    both = together([one, two])
    assert (both.loss_scales, both.layers) == ((8.0, 4.0), ["features", "front_end", "gru_0", "output"])
    assert both.total("weight").finite == 2 * one.total("weight").finite


def test_steps_are_those_of_every_seed_and_of_many_the_spikes_stay(tmp_path, monkeypatch):
    tables = [magnitudes_of(step, UPDATES) for step in range(1, 10)]
    runs = [
        open_run(write_watched_run(tmp_path / "a", tables)),
        open_run(write_watched_run(tmp_path / "b", tables[1:])),
    ]
    assert common_steps(runs) == list(range(2, 10))
    monkeypatch.setattr(watched, "MOST_STEPS", 4)
    assert chosen_steps(runs, {5: 0.9, 7: 0.4, 8: 0.8}) == [2, 5, 8, 9]
    assert chosen_steps([], {}) == []


def test_a_damaged_file_is_named_and_a_new_one_in_its_place_is_read(tmp_path):
    run = open_run(write_watched_run(tmp_path / "run", [magnitudes_of(1, UPDATES)]))
    assert read_layers(run, 1).total("update").swallowed == 37
    path = tmp_path / "run" / "magnitudes" / "step_000001.npz"
    magnitudes_of(1, UPDATES[:1]).save(path.parent)
    assert read_layers(run, 1).total("update").swallowed == 27
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"step_000001\.npz: not a whole file"):
        read_layers(run, 1)
