"""Runs that ought to be equal: found, compared by their strongest records, and told apart where they part."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from figure_checks import check_figure
from run_folders import write_run_folder

from dsrun.inspection import open_runs
from dsrun.record.tensor_hashes import TensorHashLog, combined_hash
from dsrun.study.determinism_strip import MOST_CELLS, determinism_strip
from dsrun.study.exhibit import WIDE

NAMES = ("master/a", "optimizer/00_of_1")


def write(folder: Path, *, steps: int = 8, wrong_from: int | None = None, **config):
    """A run with hashes at each step, of the second tensor wrong from a step on."""
    words = [
        np.array([step, 100 + step + 1000 * (wrong_from is not None and step >= wrong_from)], np.uint64)
        for step in range(1, steps + 1)
    ]
    events = [("digest", steps, {"digest": f"{steps:064x}"})]
    write_run_folder(folder, steps=steps, config=config, events=events)
    log = TensorHashLog(folder / "tensor_hashes.bin", NAMES, {"optimizer/00_of_1": "trace a"})
    for step, word in enumerate(words, start=1):
        assert log.append(step, word) == combined_hash(NAMES, word)
    log.close()
    return folder


def answer(*folders: Path) -> str:
    return determinism_strip(open_runs(folders)).caption.split(". ")[0]


def test_runs_of_one_config_and_seed_are_compared_at_every_step(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    assert answer(a, b) == "The two runs that ought to be equal have the same bits at all 8 steps that both recorded"


def test_where_they_part_the_step_and_the_tensor_are_named_with_its_meaning(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", wrong_from=5)
    assert answer(a, b) == "a and b part at step 5: optimizer/00_of_1 (trace a) differs first"
    rows = [row for row in determinism_strip(open_runs([a, b])).rows if row["run"] == "b" and "hash" in row]
    assert [row["differs from the first run"] for row in rows] == [False] * 4 + [True] * 4


def test_one_pair_of_several_that_parts_is_the_answer(tmp_path):
    folders = [write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", wrong_from=7)]
    assert answer(*folders).startswith("a and c part at step 7")
    assert answer(*folders).endswith("(1 of 2 pairs that ought to be equal are not)")


def test_another_seed_or_setting_ought_not_to_be_equal_and_of_a_run_alone_the_digest_is_told(tmp_path):
    a, b, c = write(tmp_path / "a"), write(tmp_path / "b", seed=2), write(tmp_path / "c", **{"model.hidden": 32})
    assert (
        answer(a, b, c)
        == "No two of these 3 runs have the same config and seed, so there is nothing that ought to be equal"
    )
    exhibit = determinism_strip(open_runs([a]))
    assert exhibit.caption.startswith(f"The state of a after step 8 has the digest {'0' * 16}…")
    assert exhibit.draw is None


def test_a_run_without_records_is_neither_equal_nor_different(tmp_path):
    a, b = write(tmp_path / "a"), write_run_folder(tmp_path / "b", steps=0, dev_cer=[0.5])
    assert answer(a, b) == "Runs that ought to be equal have no record of a step in common"


def test_losses_are_compared_where_there_is_nothing_better_and_are_said_to_be_losses(tmp_path):
    a, b = write_run_folder(tmp_path / "a"), write_run_folder(tmp_path / "b")
    assert "the same losses" in answer(a, b)


def test_a_long_run_has_few_cells_and_one_step_that_differs_shows_in_one(tmp_path):
    a, b = write(tmp_path / "a", steps=400), write(tmp_path / "b", steps=400, wrong_from=400)
    exhibit = determinism_strip(open_runs([a, b]))
    cells = [row for row in exhibit.rows if row["run"] == "b" and "hash" in row]
    assert len(cells) <= MOST_CELLS
    assert [row["first step"] <= 400 <= row["last step"] for row in cells if row["differs from the first run"]] == [
        True
    ]
    (panel,) = exhibit.draw(WIDE).axes
    assert len(panel.images) == 2
    check_figure(exhibit)
