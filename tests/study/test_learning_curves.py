"""Learning curves: what a point is the mean of, when seeds are one line, and what the caption says first."""

import numpy as np
import pytest

from dsrun.inspection import open_runs
from dsrun.study.learning_curves import _lines, dev_rates, learning_curves, losses
from tests.study.run_folders import write_run_folder


def record(folder, **more):
    return open_runs([write_run_folder(folder, **more)])[0]


def test_a_point_of_the_train_loss_is_the_mean_over_an_epochs_utterances(tmp_path):
    steps = [
        ("step", n, {"loss": loss, "utterances": count, "epoch": epoch, "seconds": 2.0})
        for n, (loss, count, epoch) in enumerate([(10.0, 1, 0), (20.0, 3, 0), (None, 4, 1), (8.0, 4, 1)], start=1)
    ]
    more = [("step", 4 + n, {"loss": 1.0, "utterances": 1, "epoch": 1 + n, "seconds": 2.0}) for n in range(1, 7)]
    found = losses(record(tmp_path / "run", steps=0, dev_cer=[], events=steps + more))
    assert found.value.tolist() == [17.5, 8.0, *[1.0] * 6]  # a loss that was not finite is left out
    assert found.step.tolist() == [2, 4, 5, 6, 7, 8, 9, 10]
    assert found.seconds.tolist() == [4, 8, 10, 12, 14, 16, 18, 20]


def test_of_few_epochs_a_point_is_the_mean_of_as_many_steps_as_an_epoch_has(tmp_path):
    found = losses(record(tmp_path / "run", steps=40))  # 4 epochs, loss 50 / step
    assert found.step[0] == 10
    assert found.step[-1] == 40
    expected = [np.mean([50.0 / n for n in range(int(end) - 9, int(end) + 1)]) for end in found.step]
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_run_of_hardly_any_steps_has_as_many_points(tmp_path, steps):
    found = losses(record(tmp_path / "run", steps=steps, dev_cer=[]))
    assert len(found.value) == steps
    assert np.isfinite(found.value).all()


def test_an_evaluation_stands_at_the_seconds_of_its_step(tmp_path):
    found = dev_rates(record(tmp_path / "run", steps=8, dev_cer=[0.5, 0.25]))
    assert found.step.tolist() == [4, 8]
    assert found.seconds.tolist() == [2.0, 4.0]
    assert found.value.tolist() == [0.5, 0.25]


def test_seeds_that_ran_the_same_steps_are_one_line_with_a_band(tmp_path):
    seeds = [dev_rates(record(tmp_path / str(n), dev_cer=cer)) for n, cer in enumerate(([0.8, 0.4], [0.6, 0.6]))]
    (line,) = _lines(seeds, [False, False])
    assert line.value.tolist() == pytest.approx([0.7, 0.5])
    assert (line.low.tolist(), line.high.tolist()) == ([0.6, 0.4], [0.8, 0.6])


def test_seeds_of_which_one_was_cut_are_lines_of_their_own(tmp_path):
    seeds = [dev_rates(record(tmp_path / str(n), dev_cer=cer)) for n, cer in enumerate(([0.8, 0.4], [0.6]))]
    lines = _lines(seeds, [False, True])
    assert [line.is_cut for line in lines] == [False, True]
    assert all(line.low is None for line in lines)


def test_the_caption_begins_with_how_far_the_settings_came(tmp_path):
    write_run_folder(tmp_path / "a", dev_cer=[0.5, 0.3, 0.35])
    write_run_folder(tmp_path / "b", config={"arithmetic.storage.format": "float16"}, dev_cer=[0.6, 0.4])
    both = learning_curves(open_runs([tmp_path]))
    assert both.caption.startswith(
        "The lowest dev CER that a setting reached goes from 0.300 (float32) to 0.400 (float16)"
    )
    assert "One seed each: other seeds may differ." in both.caption
    alone = learning_curves(open_runs([tmp_path / "a"]))
    assert alone.caption.startswith("Dev CER went from 0.500 at step 3 to 0.300 at step 5.")
    assert "One seed: other seeds may differ." in alone.caption


def test_every_point_is_among_the_numbers(tmp_path):
    exhibit = learning_curves([record(tmp_path / "run", steps=40)])
    assert {row["curve"] for row in exhibit.rows} == {"train loss", "dev CER"}
    assert [row["value"] for row in exhibit.rows if row["curve"] == "dev CER"] == [0.9, 0.6, 0.4, 0.3]


def test_without_a_step_there_are_no_curves(tmp_path):
    assert learning_curves([record(tmp_path / "run", steps=0, dev_cer=[], state="new")]) is None
