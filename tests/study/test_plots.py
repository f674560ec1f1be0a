"""Figures: the same bytes again, and names that cannot be figures are refused."""

import re
from pathlib import Path

import pytest

from dsrun.errors import UsageError
from dsrun.study.format_table import format_rows
from dsrun.study.plots import check_suffix, draw_formats


def draw_ranges(path):
    draw_formats(format_rows(["float16", "fixed_q4.12", "int8", "binary", "mxfp4"]), path)


def test_a_figure_has_the_same_bytes_again_and_no_date(tmp_path):
    for suffix in (".svg", ".png"):
        paths = [tmp_path / f"{place}{suffix}" for place in "ab"]
        for path in paths:
            draw_ranges(path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not re.search(r"<dc:date>", (tmp_path / "a.svg").read_text())


@pytest.mark.parametrize("name", ["figure.pdf", "figure", "no_such_folder/figure.svg"])
def test_a_name_that_is_no_figure_is_refused(name):
    with pytest.raises(UsageError, match=re.escape(str(Path(name)))):
        check_suffix(Path(name))
