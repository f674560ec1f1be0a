"""Curves in characters."""

import math

from dsrun.study.sparkline import dot_plot, sparkline


def test_the_lowest_is_the_thinnest_and_the_highest_the_full_block():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([7.0, 7.0]) == "▁▁"
    assert sparkline([]) == ""


def test_a_long_series_has_the_width_and_what_is_not_finite_is_a_cross():
    line = sparkline([1.0] * 500 + [math.nan] * 500, width=10)
    assert line == "▁▁▁▁▁×××××"


def test_factors_are_steps_on_a_logarithmic_scale():
    assert sparkline([1, 10, 100], is_log=True) == "▁▅█"
    assert sparkline([0.0, 1.0, 10.0], is_log=True) == "▁▁█"


def test_a_plot_keeps_a_spike_of_one_step_among_thousands():
    values = [0.0] * 5000
    values[2500] = 1.0
    top, *middle, bottom = dot_plot(range(5000), values, width=20, height=4)
    assert sum(c != "⠀" for c in top) == 1
    assert all(set(line) == {"⠀"} for line in middle)
    assert "⠀" not in bottom


def test_few_points_are_joined_so_that_a_line_of_two_has_a_dot_in_each_column():
    lines = dot_plot([0, 1], [0.0, 1.0], width=10, height=3)
    assert all(any(line[column] != "⠀" for line in lines) for column in range(10))


def test_a_plot_of_nothing_finite_is_empty():
    assert dot_plot([1, 2], [math.nan, math.inf], width=5, height=2) == []
