"""Intervals hold as often as they say, and planted differences are found: simulated pairs of groups (scripts/interval_coverage.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dsrun.study.statistics import compare_errors

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))
from interval_coverage import compared, corpus_lengths, draw_pair, intervals

PAIRS = 400
STANDARD_ERROR = (0.95 * 0.05 / PAIRS) ** 0.5  # 0.011


@pytest.mark.parametrize(("seeds", "effect"), [(1, 0.0), (2, 0.005), (3, 0.01), (5, 0.03)])
def test_zero_lies_in_95_percent_of_the_intervals_where_there_is_no_difference(seeds, effect):
    generator, corpus = np.random.Generator(np.random.Philox(seeds)), corpus_lengths("test")
    covered = 0
    for _ in range(PAIRS):
        pair = draw_pair(generator, corpus, seeds=seeds, effect=effect)
        found = compare_errors(pair.ours, pair.theirs, pair.lengths, seeds=range(seeds), is_paired=True)
        covered += not found.is_seen
    assert covered / PAIRS > 0.95 - 3 * STANDARD_ERROR


def test_utterances_alone_do_not_know_what_the_seed_does():
    """Why `compare` does not take the bootstrap over utterances: with such a seed effect it errs a third of the time or more."""
    generator, corpus = np.random.Generator(np.random.Philox(5)), corpus_lengths("test")
    covered = 0
    for _ in range(60):
        low, high = intervals(generator, draw_pair(generator, corpus, seeds=2, effect=0.02))["percentile"]
        covered += low <= 0 <= high
    assert covered < 45


def test_the_command_finds_what_was_planted_and_nothing_where_nothing_was():
    generator, corpus = np.random.Generator(np.random.Philox(6)), corpus_lengths("test")
    words = {
        planted: [
            compared(draw_pair(generator, corpus, seeds=3, effect=0.005, planted=planted))["words"] for _ in range(3)
        ]
        for planted in (0.08, 0.0)
    }
    assert words[0.08] == ["worse"] * 3
    assert words[0.0].count("no difference seen") >= 2  # of three at 95%, fewer than two once in 138
