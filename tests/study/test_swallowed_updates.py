"""The heat map of swallowed updates: a caption that follows the numbers."""

import numpy as np

from dsrun.inspection import open_runs
from dsrun.study.heat_maps import Block, HeatMap, draw_heat_maps, edges, scale_end, where_most
from dsrun.study.swallowed_updates import MOST_GROUPS, swallowed_updates
from tests.study.run_folders import magnitudes_of, network_tensors, write_watched_run

NO_MASTER = {"arithmetic.storage.format": "bfloat16", "arithmetic.master.format": "none"}
STOCHASTIC = NO_MASTER | {"arithmetic.update.rounding": "stochastic"}


def watched_run(folder, *, changed=10, swallowed=0, config=None, steps=(1, 50)):
    tables = [
        magnitudes_of(step, network_tensors("bfloat16", changed=changed, swallowed=swallowed if step > 1 else 0))
        for step in steps
    ]
    return write_watched_run(folder, tables, config=config)


def exhibit(tmp_path, *runs):
    return swallowed_updates(open_runs([watched_run(tmp_path / f"run{n}", **run) for n, run in enumerate(runs)]))


def test_the_caption_says_which_format_swallows_how_much_and_what_stochastic_rounding_changes(tmp_path):
    found = exhibit(
        tmp_path,
        {},
        {"changed": 4, "swallowed": 6, "config": NO_MASTER},
        {"changed": 7, "swallowed": 6, "config": STOCHASTIC},
    )
    assert found.caption.startswith(
        "At step 50, the last watched, 60.0% of the updates in bfloat16, no master are swallowed: "
    )
    assert "at step 1 it was 0%." in found.caption
    told = "Of these updates in bfloat16, no master 40.0% change the weight; with stochastic rounding 70.0%."
    assert told in found.caption
    assert found.alt.endswith("it stays as it is.")
    cell = {"setting": "bfloat16, no master", "seeds": 1, "layer": "gru_0", "step": 50, "updates": 10}
    assert cell | {"swallowed_share": 0.6, "changed_share": 0.4} in found.rows


def test_where_nothing_is_swallowed_or_nothing_differs_the_caption_says_so(tmp_path):
    assert exhibit(tmp_path / "a", {}).caption.startswith("No format swallows updates here: up to 0% of them (float32)")
    run = {"changed": 4, "swallowed": 6}
    found = exhibit(tmp_path / "b", {**run, "config": NO_MASTER}, {**run, "config": STOCHASTIC})
    assert "40.0% change the weight; with stochastic rounding no difference seen (40.0%)." in found.caption


def test_of_stochastic_rounding_alone_it_says_what_nearest_would_do(tmp_path):
    found = exhibit(tmp_path, {"swallowed": 6, "config": STOCHASTIC})
    assert "rounding to nearest would swallow them" in found.caption


def test_seeds_share_a_panel_and_runs_that_watched_nothing_have_none(tmp_path):
    found = exhibit(tmp_path, {}, {"config": {"seed": 2}})
    assert "a panel has the updates of up to 2 seeds together" in found.caption
    assert {row["seeds"] for row in found.rows} == {2}
    assert exhibit(tmp_path / "none", {"steps": ()}) is None


def test_of_many_settings_the_first_and_those_that_swallow_most_are_drawn_and_the_others_named(tmp_path):
    runs = [{"swallowed": n % 10, "config": NO_MASTER | {"model.hidden": 16 + n}} for n in range(MOST_GROUPS + 2)]
    found = exhibit(tmp_path, *runs)
    assert "Without a panel, since they swallow less:" in found.caption
    assert len({row["setting"] for row in found.rows}) == MOST_GROUPS + 2


def test_cells_end_halfway_between_steps_and_the_scale_holds_the_largest():
    np.testing.assert_array_equal(edges([1, 11, 31]), [1, 6, 21, 31])
    np.testing.assert_array_equal(edges([7]), [6.5, 7.5])
    shares = np.array([[0.0, np.nan], [0.03, 0.01]])
    heat = HeatMap("share", ["a", "b"], [1, 2], shares)
    assert where_most(heat) == ("b", 1, 0.03)
    assert where_most(HeatMap("share", ["a"], [1], np.array([[np.nan]]))) is None
    assert scale_end([Block("", [heat])]) == 0.05


def test_a_skipped_step_says_nothing_of_rounding_and_is_left_out(tmp_path):
    skipped = [("step", 50, {"loss_scale": 1.0, "finite": False})]
    tables = [magnitudes_of(step, network_tensors("bfloat16", changed=10 if step < 50 else 0)) for step in (1, 50)]
    write_watched_run(tmp_path / "run", tables, config=NO_MASTER, events=skipped)
    found = swallowed_updates(open_runs([tmp_path / "run"]))
    assert {row["step"] for row in found.rows} == {1}
    assert "1 skipped step left out" in found.caption


def test_only_settings_that_differ_in_nothing_else_are_compared(tmp_path):
    run = {"changed": 4, "swallowed": 6}
    other = STOCHASTIC | {"model.hidden": 99}
    found = exhibit(tmp_path, {**run, "config": NO_MASTER}, {**run, "config": other})
    assert "with stochastic rounding" not in found.caption


def test_two_watched_steps_are_two_columns_and_no_band(tmp_path):
    maps = [HeatMap("m", ["a"], [1, 100], np.array([[0.1, 0.2]]))]
    axes = draw_heat_maps(10.0, [Block("x", maps)], "share").axes[0]
    first, second = sorted(tuple(cells.get_coordinates()[0, [0, -1], 0]) for cells in axes.collections)
    assert first[1] < second[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "100"]
