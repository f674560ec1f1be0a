"""The model of many GPUs against sums done by hand; what is drawn hollow was not measured."""

import pytest

from dsrun.study.datasheets import datasheet
from dsrun.study.plots import draw_scaling
from dsrun.study.scaling_model import (
    DEVICE_COUNTS,
    H100_FMA_TFLOP,
    OneDevice,
    measured_panel,
    model_rows,
    modelled_panel,
    one_device,
    sum_seconds,
)

GIGABYTE = 10**9


def counted(devices, *, exchanged=GIGABYTE, received=0, gathered=GIGABYTE, ring=GIGABYTE):
    return {"devices": devices, "exchanged": exchanged, "received": received, "gathered": gathered, "ring": ring}


def report(platform, *, counts=(1, 2)):
    """As `dsrun bench scaling` prints it: 2 TFLOP a step, a second on one device."""
    return {
        "config": "configs/some.yaml",
        "machine": {"platform": platform, "device": f"some {platform}"},
        "devices_share_processors": 2 if platform == "cpu" else None,
        "shards": 4,
        "rows": [{"devices": n, "seconds_a_step_median": 1.0 / n, "tflop_per_second": 2.0 * n} for n in counts],
        "reductions": [{"devices": n, "all_reduce_tflop_per_second": 2.5 * n} for n in counts if n > 1],
        "counted": {
            "flops_a_step": 2e12,
            "utterances_a_step": 16.0,
            "shards_a_device": 4,
            "by_devices": [counted(n) for n in DEVICE_COUNTS],
        },
    }


def test_one_gpu_sends_nothing():
    assert sum_seconds(counted(1), "tree") == sum_seconds(counted(1), "all_reduce") == 0.0


@pytest.mark.parametrize(
    ("devices", "tree", "ring"),
    [
        (2, 2 / 450 + 2 * 1 * 3.4e-6, 1 / 450 + 2 * 1 * 3.4e-6),
        (8, 2 / 450 + 2 * 7 * 3.4e-6, 1 / 450 + 2 * 7 * 3.4e-6),
        # Two nodes: 7 of 15 peers are near, 8 are far. The ring crosses between nodes twice of its 30 messages.
        (
            16,
            2 * 7 / 15 / 450 + 2 * 7 * 3.4e-6 + 2 * 8 / 15 / 50 + 2 * 8 * 9.6e-6,
            1 / 400 + 28 * 3.4e-6 + 2 * 9.6e-6,
        ),
    ],
)
def test_the_sum_takes_bytes_over_bandwidth_and_a_latency_a_message(devices, tree, ring):
    assert sum_seconds(counted(devices), "tree") == pytest.approx(tree)
    assert sum_seconds(counted(devices), "all_reduce") == pytest.approx(ring)


def test_an_owner_that_gets_more_than_anyone_sends_is_waited_for():
    slow = counted(2, exchanged=GIGABYTE, received=3 * GIGABYTE)
    assert sum_seconds(slow, "tree") == pytest.approx(4 / 450 + 2 * 3.4e-6)


def test_the_rate_counts_the_work_of_all_gpus_and_the_wait_for_the_sum():
    one = OneDevice(0.01, 2e12, is_measured=False, is_from="assumed")
    alone, two = model_rows(one, [counted(1), counted(2)])
    assert alone["tree_tflop_per_second"] == pytest.approx(200.0)
    assert alone["tree_efficiency"] == alone["all_reduce_efficiency"] == 1.0
    seconds = 0.01 + 2 / 450 + 2 * 3.4e-6
    assert two["tree_tflop_per_second"] == pytest.approx(2 * 2.0 / seconds)
    assert two["tree_efficiency"] == pytest.approx(0.01 / seconds)


def test_one_gpu_is_the_reports_if_it_had_one_and_otherwise_the_talks_share_of_an_h100():
    measured, assumed = one_device(report("gpu")), one_device(report("cpu"))
    assert (measured.seconds, measured.is_measured) == (1.0, True)
    assert not assumed.is_measured
    assert assumed.flops / assumed.seconds == pytest.approx(0.55 * 67e12)
    assert "assumed: 55%" in assumed.is_from
    assert not one_device(report("gpu", counts=(2, 4))).is_measured, "two devices say nothing about one"
    assert datasheet("NVIDIA H100 80GB HBM3")["float32"] == H100_FMA_TFLOP


def test_every_mark_of_a_gpu_is_hollow_where_only_a_cpu_was_measured():
    panel = modelled_panel(report("cpu"))
    assert [series.name for series in panel.series] == ["tree", "library's all-reduce (ring)"]
    for series in panel.series:
        assert [point.devices for point in series.points] == list(DEVICE_COUNTS)
        assert not any(point.is_measured for point in series.points)
    assert "no GPU was measured" in panel.caption


def test_of_a_measured_gpu_the_first_mark_is_filled_and_no_other():
    for series in modelled_panel(report("gpu")).series:
        assert [point.devices for point in series.points if point.is_measured] == [1]


def test_what_was_measured_is_a_panel_of_its_own_and_filled():
    panel = measured_panel(report("cpu"))
    assert [(point.devices, point.tflop_per_second) for point in panel.series[0].points] == [(1, 2.0), (2, 4.0)]
    assert [(point.devices, point.tflop_per_second) for point in panel.series[1].points] == [(2, 5.0)]
    assert all(point.is_measured for series in panel.series for point in series.points)
    assert "share 2 processors" in panel.caption


def test_without_the_library_the_measured_panel_has_the_tree_alone():
    left_out = report("cpu") | {"reductions": [{"devices": 2}]}
    assert [series.name for series in measured_panel(left_out).series] == ["tree"]


def test_the_figure_has_the_captions_and_the_same_bytes_again(tmp_path):
    panels = [measured_panel(report("cpu")), modelled_panel(report("cpu"))]
    for name in "ab":
        draw_scaling(panels, tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
