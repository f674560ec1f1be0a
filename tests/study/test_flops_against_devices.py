"""TFLOP/s against devices: measured from runs and reports, modelled hollow, and shares of a peak where one is known."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from figure_checks import check_figure
from run_folders import write_run_folder
from test_scaling_model import report

from dsrun.errors import UsageError
from dsrun.inspection import open_runs
from dsrun.study.exhibit import WIDE
from dsrun.study.flops_against_devices import flops_against_devices, tflop_per_second
from dsrun.study.groups import group_runs
from dsrun.study.keys import styles_of

H100 = {"jax.device_kinds": ["NVIDIA H100 80GB HBM3"], "jax.backend": "gpu"}


def write(folder: Path, *, devices: int | None = 1, flops: int = 10**12, facts=None, **config):
    """Four epochs of two steps of half a second."""
    status = {"devices": {"kind": "x", "count": devices, "processes": 1}} if devices else {}
    write_run_folder(folder, config=config, facts=facts, status=status)
    (folder / "costs.json").write_text(json.dumps({"flops": {"training": flops}, "steps_per_epoch": 2}))
    return folder


def scaling(platform="gpu", device="NVIDIA H100 80GB HBM3", **more):
    found = report(platform) | {"benchmark": "scaling"} | more
    return found | {"machine": found["machine"] | {"device": device, "devices": 2}}


def test_a_runs_rate_is_an_epochs_operations_over_the_seconds_of_its_steps(tmp_path):
    (run,) = open_runs([write(tmp_path / "a")])
    assert tflop_per_second(run) == 1.0
    exhibit = flops_against_devices([run])
    assert exhibit.caption.startswith(
        "Float32 reaches 1 TFLOP/s on one device (A processor). All points have one device"
    )
    assert "The peak of these devices is not known" in exhibit.caption


def test_the_first_epoch_which_compiles_does_not_count(tmp_path):
    folder = write(tmp_path / "a")
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    slow = [line | {"seconds": 50.0} if line["event"] == "step" and line["epoch"] == 0 else line for line in lines]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slow))
    assert tflop_per_second(open_runs([folder])[0]) == 1.0


def test_the_same_experiment_on_more_devices_is_one_series(tmp_path):
    runs = open_runs([write(tmp_path / "a"), write(tmp_path / "b", devices=4, flops=3 * 10**12)])
    rows = flops_against_devices(runs).rows
    assert [(row["series"], row["devices"], row["TFLOP/s"]) for row in rows] == [
        ("float32", 1, 1.0),
        ("float32", 4, 3.0),
    ]


def test_a_small_rate_is_told_and_drawn_in_gflop_per_second(tmp_path):
    exhibit = flops_against_devices(open_runs([write(tmp_path / "a", flops=2 * 10**9)]))
    assert exhibit.caption.startswith("Float32 reaches 2 GFLOP/s on one device")
    assert [row["TFLOP/s"] for row in exhibit.rows] == [0.002]
    (axes,) = exhibit.draw(WIDE).axes
    (point,) = [line for line in axes.lines if line.get_label() == "float32"]
    assert (axes.get_ylabel(), list(point.get_ydata())) == ("GFLOP/s", [2.0])


def test_a_setting_looks_as_in_the_reports_other_figures(tmp_path):
    config = {"arithmetic.storage.format": "bfloat16"}
    runs = open_runs([write(tmp_path / "a"), write(tmp_path / "b", **config)])
    figure = flops_against_devices(runs, benches=[scaling()]).draw(WIDE)
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    styles = styles_of(group_runs(runs))
    for label, style in styles.items():
        (look,) = [own for name, own in looks.items() if name.startswith(f"{label},")]
        assert look == (style.colour, style.marker)
    everything = [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in figure.axes[0].lines]
    everything = [look for look in everything if look[1] not in ("None", "x")]  # the ideal lines, the talk's marks
    assert len(everything) == len(set(everything)) > len(styles)


def test_a_setting_on_two_kinds_of_devices_is_drawn_as_two(tmp_path):
    runs = open_runs([write(tmp_path / "a"), write(tmp_path / "b", facts=H100)])
    figure = flops_against_devices(runs).draw(WIDE)
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    looks = {label: look for label, look in looks.items() if label.startswith("float32")}
    assert len(looks) == 2
    assert len(set(looks.values())) == 2


def test_caption_and_axis_have_one_unit(tmp_path):
    exhibit = flops_against_devices(open_runs([write(tmp_path / "a", flops=2 * 10**9, facts=H100)]))
    assert exhibit.draw(WIDE).axes[0].get_ylabel() == "TFLOP/s"  # for the marks of the peak
    assert "reaches 0.002 TFLOP/s" in exhibit.caption
    assert "less than 0.1% of the peak" in exhibit.caption


def test_on_a_device_with_a_data_sheet_the_share_of_its_peak_and_the_talks_marks_are_told(tmp_path):
    exhibit = flops_against_devices(open_runs([write(tmp_path / "a", flops=33 * 10**12, facts=H100)]))
    assert "49.3% of the peak (float32 FMA, data sheet)" in exhibit.caption
    marks = {row["devices"]: row["TFLOP/s"] for row in exhibit.rows if row["series"].startswith("the talk")}
    assert marks == {1: pytest.approx(0.55 * 67), 8: pytest.approx(8 * 0.48 * 67)}


def test_a_report_is_measured_where_it_measured_and_modelled_beyond(tmp_path):
    exhibit = flops_against_devices([], benches=[scaling()])
    points = [(row["series"].split(",")[0], row["devices"]) for row in exhibit.rows if "talk" not in row["series"]]
    assert points[:2] == [("bench scaling some", 1), ("bench scaling some", 2)]
    assert ("modelled", 128) in points
    assert ("modelled", 1) not in points  # it was measured
    (axes,) = exhibit.draw(WIDE).axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_label() for line in hollow] == ["modelled, tree", "modelled, library's all-reduce (ring)"]
    assert len([line for line in axes.lines if line.get_label() == "ideal"]) == 1
    check_figure(exhibit)


def test_of_a_cpu_the_peak_is_what_large_products_reached_and_eight_devices_have_none():
    ceilings = {"devices": 2, "products": {"float32": {"measured_tflop_per_second": 8.0}}}
    exhibit = flops_against_devices([], benches=[scaling("cpu", "cpu", ceilings=ceilings)])
    assert "50.0% of the peak (large products, measured beside the steps, of all cores)" in exhibit.caption
    marks = [row for row in exhibit.rows if row["series"].startswith("the talk") and row["device"] == "cpu"]
    assert [row["TFLOP/s"] for row in marks] == [pytest.approx(4.4)]


def test_a_report_of_parts_is_passed_over_and_a_broken_one_is_one_message(tmp_path):
    assert flops_against_devices([], benches=[{"benchmark": "gru"}]) is None
    for broken in ({"machine": 3}, {"rows": [{"devices": 1, "tflop_per_second": "x"}]}, {"counted": {}}):
        with pytest.raises(UsageError, match="not as dsrun writes it"):
            flops_against_devices([], benches=[scaling() | broken])


def test_runs_that_do_not_say_their_devices_or_costs_have_no_point(tmp_path):
    assert flops_against_devices(open_runs([write(tmp_path / "a", devices=None)])) is None
    assert flops_against_devices(open_runs([write_run_folder(tmp_path / "b")])) is None
