"""Intervals hold as often as they say, and planted differences are found: simulated pairs of groups (scripts/interval_coverage.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dsrun.study.statistics import compare_errors

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))
from interval_coverage import Pair, compared, corpus_lengths, draw_pair, intervals

PAIRS = 400


def words(pairs, *, seeds, effect, planted=0.0, is_paired=True):
    """What is said of so many pairs of groups."""
    generator, corpora = (
        np.random.Generator(np.random.Philox([3, seeds])),
        [corpus_lengths("dev"), corpus_lengths("test")],
    )
    found = []
    for number in range(pairs):
        pair = draw_pair(generator, corpora[number % 2], seeds=seeds, effect=effect, planted=planted)
        compared = compare_errors(pair.ours, pair.theirs, pair.lengths, seeds=range(seeds), is_paired=is_paired)
        found.append(compared.words)
    return found


def is_about(share, stated, count):
    """Whether a share of so many is what is stated, within three standard errors to both sides."""
    return abs(share - stated) <= 3 * (stated * (1 - stated) / count) ** 0.5


@pytest.mark.parametrize(
    ("seeds", "effect", "is_paired", "stated"),
    [
        (1, 0.0, True, 0.944),
        (2, 0.005, True, 0.993),
        (3, 0.01, True, 0.980),
        (5, 0.03, True, 0.962),
        (3, 0.03, False, 0.972),
    ],
)
def test_zero_lies_in_as_many_intervals_as_the_table_says_where_there_is_no_difference(
    seeds, effect, is_paired, stated
):
    """Not in more either, for zero lies in any interval that is wide enough. The table is in `dsrun/study/statistics.py`."""
    covering = words(PAIRS, seeds=seeds, effect=effect, is_paired=is_paired).count("no difference seen")
    assert is_about(covering / PAIRS, stated, PAIRS)


@pytest.mark.parametrize(("seeds", "stated"), [(2, 0.35), (3, 0.74)])
def test_a_planted_difference_is_found_in_as_many_of_100_pairs_as_is_said(seeds, stated):
    """And never with the wrong sign; of equal networks as many as are not seen to differ."""
    found = words(100, seeds=seeds, effect=0.01, planted=0.04)
    assert is_about(found.count("worse") / 100, stated, 100)
    assert "better" not in found
    assert words(100, seeds=seeds, effect=0.01).count("no difference seen") >= 95 - 3 * 2.2


def test_utterances_alone_do_not_know_what_the_seed_does():
    """Why `compare` does not take the bootstrap over utterances: with such a seed effect it errs a third of the time or more."""
    generator, corpus = np.random.Generator(np.random.Philox(5)), corpus_lengths("test")
    covered = 0
    for _ in range(60):
        low, high = intervals(generator, draw_pair(generator, corpus, seeds=2, effect=0.02))["percentile"]
        covered += low <= 0 <= high
    assert covered < 45


def test_the_command_finds_what_was_planted_and_nothing_between_equal_runs():
    generator, corpus = np.random.Generator(np.random.Philox(6)), corpus_lengths("test")
    pair = draw_pair(generator, corpus, seeds=3, effect=0.005, planted=0.08)
    assert compared(pair)["words"] == "worse"
    equal = compared(Pair(pair.theirs, pair.theirs, pair.lengths))
    assert (equal["words"], equal["interval"]) == ("no difference seen", [0, 0])
