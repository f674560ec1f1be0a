"""Histograms: every value is counted once, in bins with round edges."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsrun.speech.histogram import MOST_BINS, histogram


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200))
def test_every_value_is_counted_once_in_few_bins_of_a_round_width(values):
    found = histogram(np.array(values))
    assert sum(found.counts) == len(values)
    assert 1 <= len(found.counts) <= MOST_BINS + 1
    assert f"{found.width:e}"[0] in "125"
    assert abs(found.start / found.width - round(found.start / found.width)) < 1e-6


def test_bins_are_where_the_values_are():
    found = histogram(np.array([1.0, 1.05, 2.0, 2.9, 3.0]))
    edges = found.start + found.width * np.arange(len(found.counts))
    assert dict(zip(edges.round(9).tolist(), found.counts, strict=True))[1.0] >= 1
    assert (found.start, found.width, found.percentiles) == (1.0, 0.1, (1.01, 2.0, 2.98))


def test_nothing_has_a_histogram_of_nothing():
    assert histogram(np.zeros(0)).counts == ()
