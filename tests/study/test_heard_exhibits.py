"""Exhibits of single utterances: what is drawn and marked, from folders alone, whatever the texts are."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from figure_checks import check_figure
from run_folders import write_run_folder

from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.posteriors import Heard, posteriors_bytes
from dsrun.inspection import open_runs
from dsrun.study.ctc_posterior import ctc_posterior
from dsrun.study.exhibit import NARROW, WIDE
from dsrun.study.utterances import MOST_APART, utterances

SAID = ("one two", "three", "four five", "six")
EVIL = "<script>alert(1)</script> \u202e & \x00"


def write(folder: Path, read, *, said=SAID, split="test", heard=None, **config):
    rows = [(f"u{number}", *texts) for number, texts in enumerate(zip(said, read, strict=True))]
    write_run_folder(folder, config=config, texts={split: rows})
    if heard:
        (folder / "evaluation" / "posteriors.npz").write_bytes(posteriors_bytes(8, split, heard))
    return folder


def a_sound(path=(0, 2, 2, 0, 1, 0), *, id="u1", said="ab", read="ba") -> Heard:
    logits = 6.0 * np.eye(3, dtype=np.float32)[list(path)]
    features = np.random.default_rng(1).standard_normal((3 * len(path), 5)).astype(np.float32)
    return Heard(id, said, read, features, 0.01, 0.01, (8.0, "kHz"), logits, OutputClock(0.02, 0.03), "ab", [1])


def test_the_median_utterance_of_the_first_run_that_left_one_is_drawn_and_said_in_numbers(tmp_path):
    older = write(tmp_path / "older", SAID)
    run = write(tmp_path / "run", SAID, heard={"best": a_sound(id="b"), "median": a_sound()}, **{"model.hidden": 32})
    exhibit = ctc_posterior(open_runs([older, run]))
    assert "median utterance" in exhibit.caption
    assert (
        "reads “ba”, 2 errors in 2 characters; blank is the best class of 50% of its 6 output frames."
        in exhibit.caption
    )
    assert [row["best class"] for row in exhibit.rows] == ["blank", "b", "b", "blank", "a", "blank"]
    assert exhibit.rows[1]["second class"] == "blank"
    assert exhibit.rows[1]["seconds"] == pytest.approx(0.05)
    spectrogram, posterior, blank = exhibit.draw(WIDE).axes[:3]
    assert spectrogram.get_xlim() == posterior.get_xlim() == blank.get_xlim()
    check_figure(exhibit)
    assert ctc_posterior(open_runs([older])) is None


def test_an_utterance_that_was_not_kept_is_said_and_another_shown(tmp_path):
    broken = a_sound()
    broken.logits[:] = np.nan
    exhibit = ctc_posterior(
        open_runs([write(tmp_path / "run", SAID, heard={"median": broken, "worst": a_sound(id="w")})])
    )
    assert "its worst utterance" in exhibit.caption or "Of its worst utterance" in exhibit.caption
    assert "The median utterance is not kept: its class scores are not finite." in exhibit.caption


def test_one_run_shows_its_best_median_and_worst_utterance_with_errors_marked(tmp_path):
    (run,) = open_runs([write(tmp_path / "run", ["one two", "thee", "four", ""])])
    exhibit = utterances([run])
    assert exhibit.caption.startswith("float32 reads 1 of 4 test utterances without an error.")
    assert {row["utterance"]: row["why"] for row in exhibit.rows} == {"u0": "Best", "u2": "Median", "u3": "Worst"}
    assert exhibit.html.count('class="edit deletion"') == 1 + 3  # "five", and the letters of "six", which is one word
    (row,) = [row for row in exhibit.rows if row["utterance"] == "u2"]
    assert (row["character errors"], row["deletions"], row["characters said"]) == (5, 5, 9)


def test_settings_stand_beside_one_another_and_the_utterances_furthest_apart_are_added(tmp_path):
    said = [f"number {n}" for n in range(8)]
    other = [text if n % 2 else text[: 8 - n] for n, text in enumerate(said)]
    a = write(tmp_path / "a", said, said=said)
    b = write(tmp_path / "b", other, said=said, **{"arithmetic.storage.format": "float16"})
    exhibit = utterances(open_runs([a, b]))
    assert exhibit.caption.startswith("float16 reads 5 of 8 test utterances letter for letter as float32 does.")
    why = {row["utterance"]: row["why"] for row in exhibit.rows}
    assert len([name for name in why.values() if name == "Far apart"]) <= MOST_APART
    assert "u6" in why  # of which float16 reads two letters
    assert {row["setting"] for row in exhibit.rows} == {"float32", "float16"}


def test_a_setting_that_was_scored_on_other_utterances_is_named_and_not_shown(tmp_path):
    a = write(tmp_path / "a", SAID)
    b = write_run_folder(tmp_path / "b", config={"model.hidden": 32}, texts={"test": [("other", "x", "y")]})
    exhibit = utterances(open_runs([a, b]))
    assert {row["setting"] for row in exhibit.rows} == {"float32, hidden 16"}
    assert "Scored on other utterances, and so not here: float32, hidden 32." in exhibit.caption


def test_equal_readings_are_said_to_be_equal_and_dev_stands_in_for_test(tmp_path):
    a = write(tmp_path / "a", SAID, split="dev")
    b = write(tmp_path / "b", SAID, split="dev", **{"arithmetic.storage.format": "float16"})
    assert utterances(open_runs([a, b])).caption.startswith(
        "float16 reads all 4 dev utterances letter for letter as float32 does."
    )
    assert utterances(open_runs([write_run_folder(tmp_path / "c")])) is None


def test_texts_of_strangers_are_escaped_and_what_cannot_be_seen_is_shown(tmp_path):
    heard = {"median": a_sound(id=EVIL, said=EVIL, read=EVIL)}
    runs = open_runs([write(tmp_path / "run", [EVIL, "x", "<b>", "&"], said=["<i>", EVIL, "y", "z"], heard=heard)])
    exhibit = utterances(runs)
    assert "<script" not in exhibit.html
    assert "\u202e" not in exhibit.html
    assert "&lt;script&gt;" in exhibit.html
    json.dumps(ctc_posterior(runs).to_json())
    ctc_posterior(runs).draw(NARROW)
