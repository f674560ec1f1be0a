"""Underflow, overflow and the loss scale: what is drawn, what is said, and what is kept of long runs."""

import numpy as np

from dsrun.inspection import open_run, open_runs
from dsrun.study.exhibit import MOST_POINTS, NARROW
from dsrun.study.loss_scale import loss_scale
from dsrun.study.underflow_by_layer import underflow_by_layer
from dsrun.study.underflow_overflow import underflow_overflow
from tests.study.run_folders import magnitudes_of, network_tensors, write_run_folder, write_watched_run

FLOAT16 = {"arithmetic.storage.format": "float16"}


def with_losses(kind, layer="", **losses):
    return [t | (losses if t["kind"] == kind and t["path"].startswith(layer) else {}) for t in network_tensors()]


def test_the_caption_names_kind_share_step_and_setting_of_the_worst(tmp_path):
    tables = [magnitudes_of(1, network_tensors()), magnitudes_of(40, with_losses("error", flushed=500))]
    write_watched_run(tmp_path / "a", tables, config=FLOAT16)
    write_watched_run(tmp_path / "b", [magnitudes_of(1, network_tensors("float32"))])
    found = underflow_overflow(open_runs([tmp_path]))
    assert found.caption.startswith(
        "Rounded to nearest, up to 25.1% of the errors in float16 become zero (step 40); every value seen is finite."
    )
    assert "in float32." in found.caption
    assert "Underflows% are non-zero values that their format, rounding to nearest, makes zero" in found.caption
    key = ("float16", "error", "underflow_share", 40)
    (row,) = (r for r in found.rows if (r["setting"], r["kind"], r["measure"], r["step"]) == key)
    assert 0.25 < row["value"] < 0.252


def test_where_nothing_happens_it_says_so_and_shows_how_near_it_was(tmp_path):
    write_watched_run(tmp_path / "a", [magnitudes_of(1, network_tensors())])
    found = underflow_overflow(open_runs([tmp_path]))
    assert found.caption.startswith(
        "No value underflows or overflows in any format at any watched step; every value seen is finite."
    )
    titles = [axes.get_title(loc="left") for axes in found.draw(NARROW).axes if axes.get_title(loc="left")]
    assert titles == ["dynamic_range\nactivations", "dynamic_range\nerrors"]
    assert underflow_by_layer(open_runs([tmp_path])) is None


def test_what_is_not_finite_is_counted_over_all_kinds(tmp_path):
    write_watched_run(tmp_path / "a", [magnitudes_of(1, with_losses("error", nans=7))], config=FLOAT16)
    found = underflow_overflow(open_runs([tmp_path]))
    assert "21 values are not finite" in found.caption  # 7 in each of three layers


def test_runs_that_watched_nothing_have_no_figure(tmp_path):
    run = open_run(write_run_folder(tmp_path / "run"))
    assert (underflow_overflow([run]), underflow_by_layer([run]), loss_scale([run])) == (None, None, None)


def test_events_of_another_shape_are_no_figures(tmp_path):
    gradient = {"error": {"underflow_share": "much"}, "moment": 3}
    strange = [("watch", 1, {"roles": {"gradient": gradient, "state": 1}}), ("watch", 2, {"roles": []})]
    run = open_run(write_run_folder(tmp_path / "run", events=strange))
    found = underflow_overflow([run])
    assert found is None or found.caption.startswith("No value")


def test_the_heat_map_is_of_the_kind_and_layer_that_lose_most(tmp_path):
    tables = [
        magnitudes_of(1, network_tensors()),
        magnitudes_of(40, with_losses("weight_gradient", "gru_0", flushed=500)),
    ]
    write_watched_run(tmp_path / "a", tables, config=FLOAT16)
    write_watched_run(tmp_path / "b", [magnitudes_of(1, network_tensors("float32"))])
    found = underflow_by_layer(open_runs([tmp_path]))
    assert found.title == "Where gradients of weights underflow"
    assert found.caption.startswith(
        "Of the gradients of weights, which underflow most, 25.1% become zero, rounded to nearest, in gru_0 at step 40 in float16."
    )
    assert "Left out, with less of it: float32." in found.caption
    shares = {(row["layer"], row["step"]): row["underflow_share"] for row in found.rows}
    assert shares["front_end", 40] == 0.0
    assert shares["gru_0", 40] > 0.2


def scaled(folder, scales, finite=(), **options):
    """A run whose steps have these loss scales, all but some of them finite."""
    events = [
        ("step", step, {"loss": 1.0, "loss_scale": scale, "finite": step not in finite, "skipped_steps": 0})
        for step, scale in enumerate(scales, start=1)
    ]
    return open_run(write_run_folder(folder, steps=0, dev_cer=(), events=events, **options))


def test_the_loss_scale_is_told_with_its_skipped_steps(tmp_path):
    run = scaled(tmp_path / "run", [1024.0, 512.0, 512.0, 1024.0], finite={1}, config=FLOAT16)
    found = loss_scale([run])
    assert found.caption.startswith(
        "1 of 4 steps (25.0%) skipped, since the loss, a gradient or a new weight was not finite. The loss scale moved in 1 run."
    )
    assert "float16: between 2⁹ and 2¹⁰, at the end 2¹⁰, 1 step skipped." in found.caption
    skipped = [row["step"] for row in found.rows if row["what"] == "skipped"]
    assert skipped == [1]


def test_a_fixed_scale_that_skipped_nothing_says_so_and_a_scale_of_one_is_left_out(tmp_path):
    runs = [scaled(tmp_path / "a", [256.0] * 3, config=FLOAT16), scaled(tmp_path / "b", [1.0] * 3)]
    found = loss_scale(runs)
    assert found.caption.startswith("No step was skipped: every gradient was finite. The loss scale never moved.")
    assert "float16: stays at 2⁸" in found.caption
    assert "1 run with a scale of 1 and no skipped step left out." in found.caption


def test_a_short_fall_of_the_scale_in_a_long_run_stays(tmp_path):
    scales = np.full(5 * MOST_POINTS, 1024.0)
    scales[1234] = 2.0
    found = loss_scale([scaled(tmp_path / "run", scales.tolist())])
    values = [(row["step"], row["value"]) for row in found.rows]
    assert values == [(1, 1024.0), (1235, 2.0), (1236, 1024.0), (len(scales), 1024.0)]
