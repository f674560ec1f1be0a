"""Verdicts: the word follows the rule, and a setting that was not trained to its end has no verdict by its rates."""

import math
import re

import pytest

from dsrun.inspection import open_runs
from dsrun.study.error_rates import error_rates
from dsrun.study.groups import group_runs
from dsrun.study.style_marks import marker_path, style_mark
from dsrun.study.styles import _FAMILIES, _MARKERS, Style
from dsrun.study.verdict_strip import Whiskers, verdict_strip
from dsrun.study.verdicts import MARKS, chance, signed, verdicts
from tests.study.run_folders import write_run_folder

FLOAT16 = {"arithmetic.storage.format": "float16"}
UTTERANCES = [f"say the word {number}" for number in range(20)]


def texts(wrong: int, *, prefix: str = "") -> dict:
    """Results of 20 utterances of which `wrong` have an error, on both splits."""
    rows = [(f"u{n}", prefix + text, ("x" if n < wrong else "") + prefix + text) for n, text in enumerate(UTTERANCES)]
    return {"dev": rows, "test": rows}


def judged(tmp_path, **other):
    write_run_folder(tmp_path / "a", texts=texts(8))
    write_run_folder(tmp_path / "b", config=FLOAT16, **other)
    return verdicts(group_runs(open_runs([tmp_path])), "test")[1]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"texts": texts(20)}, "worse"),
        ({"texts": texts(0)}, "better"),
        ({"texts": texts(8)}, "no difference seen"),
        ({"texts": texts(10)}, "no difference seen"),
        ({}, "not scored"),
        ({"texts": texts(8, prefix="now ")}, "not comparable"),
        ({"texts": texts(0), "state": "stopped", "status": {"exit_code": 4}}, "diverged"),
        ({"texts": texts(0), "state": "running"}, "unfinished"),
    ],
)
def test_the_word_follows_the_rule(tmp_path, other, word):
    found = judged(tmp_path, **other)
    assert found.word == word
    assert found.mark == MARKS[word]
    assert found.is_compared == (word in ("worse", "better", "no difference seen"))


def test_a_setting_of_which_one_seed_diverged_says_so_beside_its_verdict(tmp_path):
    write_run_folder(
        tmp_path / "c", config=FLOAT16 | {"seed": 2}, state="stopped", status={"exit_code": 4}, texts=texts(8)
    )
    found = judged(tmp_path, texts=texts(8))
    assert found.ended == "1 of 2 runs diverged"
    assert found.word == "no difference seen"


def test_why_settings_are_not_comparable_is_in_the_caption(tmp_path):
    judged(tmp_path, texts=texts(8, prefix="now "))
    caption = verdict_strip(open_runs([tmp_path])).caption
    assert caption.startswith("Against float32, by CER on test: float16 is not comparable.")
    assert "b was scored on other utterances or references of test than a" in caption


def test_without_test_results_the_strip_judges_by_dev(tmp_path):
    for name, config in (("a", {}), ("b", FLOAT16)):
        write_run_folder(tmp_path / name, config=config, texts={"dev": texts(8)["dev"]})
    runs = open_runs([tmp_path])
    assert verdict_strip(runs).caption.startswith("Against float32, by CER on dev: no difference was seen for float16.")
    assert error_rates(runs).caption.startswith("No difference in dev CER was seen between float16 and float32.")


def test_time_is_relative_to_the_baseline(tmp_path):
    assert judged(tmp_path, step_fields={"seconds": 0.75}).time == 1.5


def test_numbers_are_written_with_a_minus_and_no_p_is_zero():
    assert signed(-0.01234) == "\N{MINUS SIGN}0.0123"
    assert signed(0.01234) == "+0.0123"
    assert chance(1e-9) == "p < 0.0001"
    assert chance(0.0321) == "p = 0.032"


def test_small_whiskers_share_a_scale_and_stay_in_their_box(tmp_path):
    write_run_folder(tmp_path / "a", texts=texts(8))
    write_run_folder(tmp_path / "b", config=FLOAT16, texts=texts(20))
    found = [one.rates["test"] for one in verdicts(group_runs(open_runs([tmp_path])), "test")]
    whiskers = Whiskers(found)
    dots = [float(re.search(r'cx="([\d.]+)"', whiskers(one))[1]) for one in found]
    assert 4 <= dots[0] < dots[1] <= 116


def test_every_marker_that_a_style_has_is_drawn_within_its_picture():
    for marker in {marker for _, _, marker in _FAMILIES} | set(_MARKERS):
        path = marker_path(Style("#000000", "-", marker), 20.0, 8.0)
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
        assert all(math.isfinite(number) for number in numbers)
        if marker != "o":
            assert all(abs(x - 20) <= 8 and abs(y - 8) <= 8 for x, y in zip(numbers[::2], numbers[1::2], strict=True))
    assert "stroke-dasharray" in style_mark(Style("#000000", (0.0, (1.5, 1.2)), "s"))
