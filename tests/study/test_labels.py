"""Labels of curves: none over another, and none further from its curve than needed."""

from itertools import pairwise

import numpy as np

from dsrun.study.labels import Key, broken, spread, text_width
from dsrun.study.styles import style_of


def test_labels_with_room_stay_where_they_are_wanted():
    assert spread([1.0, 5.0, 3.0], [0.5] * 3, 0.0, 10.0) == [1.0, 5.0, 3.0]


def test_two_labels_wanted_at_one_place_share_the_move():
    assert spread([5.0, 5.0], [1.0, 1.0], 0.0, 10.0) == [4.5, 5.5]


def test_labels_keep_their_order_and_never_overlap_and_stay_inside():
    rng = np.random.default_rng(1)
    for _ in range(200):
        count = int(rng.integers(1, 12))
        wanted, sizes = rng.uniform(0, 10, count), rng.uniform(0.2, 0.8, count)
        placed = np.array(spread(wanted.tolist(), sizes.tolist(), 0.0, 10.0))
        order = np.argsort(wanted, kind="stable")
        for before, after in pairwise(order):
            assert placed[after] - placed[before] >= (sizes[before] + sizes[after]) / 2 - 1e-9
        assert (placed - sizes / 2 >= -1e-9).all()
        assert (placed + sizes / 2 <= 10 + 1e-9).all()


def test_no_other_places_on_a_fine_grid_have_a_smaller_sum_of_squared_moves():
    wanted, size = [2.0, 2.1, 2.2, 6.0], 1.0
    best = min(
        ((a - 2.0) ** 2 + (b - 2.1) ** 2 + (c - 2.2) ** 2, (a, b, c))
        for a in np.arange(0.5, 3, 0.1)
        for b in np.arange(a + size, 4.05, 0.1)
        for c in np.arange(b + size, 5.05, 0.1)
    )
    placed = spread(wanted, [size] * 4, 0.0, 10.0)
    assert sum((p - w) ** 2 for p, w in zip(placed, wanted, strict=True)) <= best[0] + 1e-9
    assert placed[3] == 6.0


def test_a_formula_in_a_label_is_measured_as_the_letters_it_has():
    assert text_width("$x^2$", 8.0) > text_width("x", 8.0) * 3
    assert text_width("", 8.0) == text_width("  ", 8.0) == 0.0


def test_a_text_is_broken_at_blanks_to_fit_its_width():
    lines = broken("bfloat16, no master, stochastic", 8.5, 0.95).split("\n")
    assert len(lines) > 1
    assert max(text_width(line, 8.5) for line in lines) <= 0.95
    assert " ".join(lines) == "bfloat16, no master, stochastic"


def test_a_key_takes_as_many_entries_a_row_as_there_is_room_for():
    entries = [(f"setting {number}", style_of({})) for number in range(7)]
    key = Key(entries, 3.7)
    assert [label for row in key.rows for label, _, _ in row] == [label for label, _ in entries]
    assert all(x + 0.42 + text_width(label, 8.5) <= 3.7 for row in key.rows for label, _, x in row)
    assert 2 <= len(key.rows) < 7
    assert Key([], 3.7).height == 0
