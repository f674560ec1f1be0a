"""Figures: the same bytes again, and names that cannot be figures are refused."""

import re
from pathlib import Path

import pytest

from dsrun.arithmetic import parse_format
from dsrun.errors import UsageError
from dsrun.study.accumulate import accumulate, sum_uniforms, sweep_random_bits
from dsrun.study.cartoon import METHODS, climb
from dsrun.study.format_table import format_rows
from dsrun.study.plots import check_suffix, draw_accumulate, draw_cartoon, draw_formats

FLOAT16 = parse_format("float16")


def draw_sums(path):
    sums = [accumulate(FLOAT16, mode, times=5, draws=20) for mode in ("ties_to_even", "stochastic")]
    sweep = sweep_random_bits(FLOAT16, most=3, times=5, draws=20)
    draw_accumulate(sums, [sweep], [sum_uniforms(FLOAT16, "stochastic", count=9)], path)


def draw_ways(path):
    draw_cartoon([climb(FLOAT16, method, steps=30, draws=20) for method in METHODS], path)


def draw_ranges(path):
    draw_formats(format_rows(["float16", "fixed_q4.12", "int8", "binary", "mxfp4"]), path)


@pytest.mark.parametrize("draw", [draw_sums, draw_ways, draw_ranges])
def test_a_figure_has_the_same_bytes_again_and_no_date(draw, tmp_path):
    for suffix in (".svg", ".png"):
        paths = [tmp_path / f"{place}{suffix}" for place in "ab"]
        for path in paths:
            draw(path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not re.search(r"<dc:date>", (tmp_path / "a.svg").read_text())


@pytest.mark.parametrize("name", ["figure.pdf", "figure", "no_such_folder/figure.svg"])
def test_a_name_that_is_no_figure_is_refused(name):
    with pytest.raises(UsageError, match=re.escape(str(Path(name)))):
        check_suffix(Path(name))
