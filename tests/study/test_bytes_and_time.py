"""Bytes by role and time a step: what is compared, and what is not because it would mean nothing."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from figure_checks import check_figure
from run_folders import write_run_folder

from dsrun.inspection import open_runs
from dsrun.study.bytes_and_time import bytes_and_time, milliseconds
from dsrun.study.exhibit import WIDE
from dsrun.study.number_words import size_text


def role(values: int, carried: int, needed: int) -> dict:
    return {"values": values, "formats": {}, "as_carried": carried, "as_formats": needed}


def write(folder: Path, *, width: int = 4, costs=True, seconds: float = 0.5, facts=None, **config):
    write_run_folder(folder, config=config, facts=facts, step_fields={"seconds": seconds})
    if costs:
        roles = {"master": role(1000, 4000, 1000 * width), "storage": role(0, 0, 0), "state": role(1000, 4000, 4000)}
        activations = {"rows": 2, "frames": 9, "stored": role(500, 2000, 500 * width)}
        document = {"carrier": "emulated", "bytes": roles, "activations": activations}
        (folder / "costs.json").write_text(json.dumps(document))
    return folder


HALF = {"arithmetic.storage.format": "float16"}


def test_bytes_that_the_formats_need_and_times_are_compared_with_the_first_setting(tmp_path):
    runs = open_runs([write(tmp_path / "a"), write(tmp_path / "b", width=2, seconds=0.75, **HALF)])
    exhibit = bytes_and_time(runs)
    # 1000 x 4 + 4000 beside 1000 x 2 + 4000; activations are not kept.
    assert exhibit.caption.startswith(
        "float16 keeps 0.75 of the bytes of float32 from step to step (6 kB against 8 kB) and takes 1.50 times its time a step here."
    )
    assert "emulated" in exhibit.caption
    rows = {(row["setting"], row["what"]): row["value"] for row in exhibit.rows}
    assert rows["float16", "bytes needed, weights that accumulate"] == 2000
    assert rows["float16", "bytes carried, weights that accumulate"] == 4000
    assert rows["float16", "seconds a step, median"] == 0.75


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"platform.cpu": "Another"}, "different devices"), ({"git.commit": "fedcba9876543210"}, "different commits")],
)
def test_times_of_other_devices_or_commits_are_not_compared(tmp_path, facts, words):
    runs = open_runs([write(tmp_path / "a"), write(tmp_path / "b", width=2, facts=facts, **HALF)])
    caption = bytes_and_time(runs).caption
    assert caption.startswith("float16 keeps 0.75 of the bytes of float32 from step to step (6 kB against 8 kB). ")
    assert words in caption
    assert "their times do not compare" in caption


def test_an_older_run_has_times_alone_and_one_without_both_nothing(tmp_path):
    exhibit = bytes_and_time(open_runs([write(tmp_path / "a", costs=False)]))
    assert exhibit.caption.startswith("float32 takes 500 ms a step (the median).")
    assert "Bytes are not known of float32" in exhibit.caption
    assert bytes_and_time(open_runs([write_run_folder(tmp_path / "b", steps=0, dev_cer=[0.5])])) is None


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"bytes": 3},
        {"bytes": {"master": {"as_carried": "x", "as_formats": -1}}, "activations": None},
        {"bytes": {"master": [1]}},
    ],
)
def test_costs_that_dsrun_does_not_write_count_as_absent(tmp_path, costs):
    folder = write(tmp_path / "a")
    (folder / "costs.json").write_text(json.dumps(costs))
    assert "Bytes are not known" in bytes_and_time(open_runs([folder])).caption


def test_a_bar_a_role_and_a_dot_a_setting_are_drawn(tmp_path):
    runs = [write(tmp_path / "a"), write(tmp_path / "b", width=2, **HALF), write(tmp_path / "c", seed=2, seconds=0.25)]
    exhibit = bytes_and_time(open_runs(runs))
    bars, times = exhibit.draw(WIDE).axes
    # float32 is carried as it is: one bar of three roles; float16 two.
    assert len(bars.patches) == 3 * 3
    assert [line for line in times.lines if line.get_marker() == "o" and line.get_markersize() == 4]
    check_figure(exhibit)


def test_sizes_and_times_have_three_digits():
    assert [size_text(n) for n in (12, 1234, 1_235_000, 2.5e9)] == ["12 bytes", "1.23 kB", "1.24 MB", "2.5 GB"]
    assert [milliseconds(s) for s in (0.0123456, 1.5)] == ["12.3 ms", "1500 ms"]
