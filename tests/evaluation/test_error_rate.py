"""Counts against two independent programs, the empty-reference rule, and intervals against theory."""

import random
from collections.abc import Sequence

import jiwer
import kaldialign
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.evaluation import error_rate
from dsrun.evaluation.error_rate import (
    ErrorCount,
    bootstrap_interval,
    character_errors,
    paired_bootstrap,
    total_errors,
    word_errors,
)
from dsrun.speech.normalizers import nfkc_lower

WORDS = [
    "a",
    "to",
    "press",
    "one",
    "ёж",
    "жук",
    "café",
    "naïve",
    "日本",
    "語",
    "🎙",
    "e\u0301",
    "ǆ",
    "ß",
    "İ",
    "ﬁ",
    "שלום",
    "مرحبا",
]
WORDS += ["👩\u200d👧", "👍🏽", "नमस्ते", "q\u0323\u0307", "\u202eevil\u202c", "\u0301", "*", "ﷺ", "한국"]
# What str.split takes for white space, and two that it does not: a zero-width space and a word joiner.
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\u1680", "\u2028", "\x1f", "\u200b", "\u2060"]


def random_pairs(count: int, *, fewest: int = 1, spaces: Sequence[str] = (" ",)) -> list[tuple[str, str]]:
    """References of `fewest` to 12 words and hypotheses of none to 12, anything of `spaces` between them."""
    chance = random.Random(5)

    def text(fewest: int) -> str:
        words = chance.choices(WORDS, k=chance.randint(fewest, 12))
        return "".join(word + chance.choice(spaces) for word in words)

    return [(text(fewest), text(0)) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "oracle"), [(word_errors, jiwer.process_words), (character_errors, jiwer.process_characters)]
)
def test_totals_agree_with_jiwer_on_3000_pairs_of_many_scripts_empty_ones_among_them(count, oracle):
    pairs = [tuple(map(nfkc_lower, pair)) for pair in random_pairs(3000, fewest=0, spaces=SPACES)]
    empty = sum(reference == "" for reference, _ in pairs)
    assert empty > 100
    for reference, hypothesis in pairs:
        found, expected = count(reference, hypothesis), oracle(reference, hypothesis)
        assert found.errors == expected.substitutions + expected.deletions + expected.insertions
        assert found.reference_length == expected.hits + expected.substitutions + expected.deletions
        # The split on ties differs between programs, but insertions minus deletions is the difference of lengths in both.
        assert found.insertions - found.deletions == expected.insertions - expected.deletions


def test_where_jiwer_counts_otherwise_it_is_an_infinite_rate_and_white_space_that_was_not_normalised():
    # Nothing but empty references: jiwer's rate is the number of insertions, ours infinite. With any reference both divide by it.
    assert (jiwer.wer([""], ["a b"]), word_errors("", "a b").rate) == (2, float("inf"))
    mixed = total_errors([word_errors("", "a b"), word_errors("c d", "c d")])
    assert mixed.rate == jiwer.wer(["", "c d"], ["a b", "c d"]) == 1.0
    # jiwer takes U+0020 alone for a border of words; normalised texts have no other.
    assert word_errors("a\u2003b", "a b").errors == 0
    assert jiwer.process_words("a\u2003b", "a b").wer > 0


def test_the_corpus_rate_is_all_errors_over_all_reference_words_as_in_jiwer():
    pairs = random_pairs(50)
    total = total_errors([word_errors(*pair) for pair in pairs])
    references, hypotheses = zip(*pairs, strict=True)
    assert total.rate == pytest.approx(jiwer.wer(list(references), list(hypotheses)), rel=1e-12)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("press one now", "press one now", ErrorCount(0, 0, 0, 3)),
        ("press one now", "press two now", ErrorCount(1, 0, 0, 3)),
        ("press one now", "press now", ErrorCount(0, 1, 0, 3)),
        ("press now", "press one now", ErrorCount(0, 0, 1, 2)),
        ("press one now", "", ErrorCount(0, 3, 0, 3)),
        (" press \t one\n", "press one", ErrorCount(0, 0, 0, 2)),
    ],
)
def test_each_kind_of_word_error_is_counted_as_its_kind(reference, hypothesis, expected):
    assert word_errors(reference, hypothesis) == expected


def test_spaces_are_characters_and_code_points_are_compared_as_they_are():
    assert character_errors("a b", "ab") == ErrorCount(0, 1, 0, 3)
    assert character_errors("é", "e\u0301") == ErrorCount(1, 0, 1, 1)


def test_an_empty_reference_adds_insertions_and_no_length():
    empty = word_errors("", "a b c")
    assert empty == ErrorCount(0, 0, 3, 0)
    assert total_errors([empty, word_errors("a b", "a b")]).rate == 1.5  # above 1: never clamped
    assert total_errors([empty]).rate == float("inf")
    assert total_errors([word_errors("", "")]).rate == 0.0
    assert total_errors([]).rate == 0.0
    assert (character_errors("", "ab").insertions, character_errors("", "ab").reference_length) == (2, 0)


@settings(deadline=None)
@given(st.text(max_size=12), st.text(max_size=12))
def test_the_distance_is_symmetric_zero_only_for_equal_texts_and_at_most_the_longer_length(first, second):
    forward, backward = character_errors(first, second), character_errors(second, first)
    assert forward.errors == backward.errors
    assert (forward.errors == 0) == (first == second)
    assert abs(len(first) - len(second)) <= forward.errors <= max(len(first), len(second))


def some_counts(count: int, *, rate: float, seed: int) -> list[ErrorCount]:
    """Utterances of 10 words, each word wrong with probability `rate`."""
    generator = np.random.default_rng(seed)
    return [ErrorCount(int(errors), 0, 0, 10) for errors in generator.binomial(10, rate, size=count)]


def test_the_interval_is_the_normal_approximation_where_that_holds():
    counts = some_counts(2000, rate=0.3, seed=1)
    low, high = bootstrap_interval(counts, seed=1)
    rates = np.array([count.rate for count in counts])
    half_width = 1.96 * rates.std() / np.sqrt(len(rates))
    # A percentile of 10,000 draws has a standard error of about 3% of the half width.
    assert low == pytest.approx(rates.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(rates.mean() + half_width, abs=0.1 * half_width)


def test_the_interval_agrees_with_kaldialigns_on_texts_of_many_lengths():
    pairs = random_pairs(200)
    low, high = bootstrap_interval([word_errors(*pair) for pair in pairs], seed=1)
    references, hypotheses = zip(*[(r.split(), h.split()) for r, h in pairs], strict=True)
    theirs = kaldialign.bootstrap_wer_ci(references, hypotheses, replications=2000, seed=1)
    # Theirs is mean -+ 1.96 deviations of the draws; the distribution of 200 utterances is close to normal.
    assert low == pytest.approx(theirs["ci95min"], abs=0.15 * theirs["ci95"])
    assert high == pytest.approx(theirs["ci95max"], abs=0.15 * theirs["ci95"])


def test_95_percent_intervals_hold_the_true_rate_in_95_of_100_corpora():
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(some_counts(100, rate=0.2, seed=seed), seed=seed, samples=1000)
        hits += low <= 0.2 <= high
    # 200 corpora: standard error 1.5%; the percentile interval of 100 utterances itself covers a little under 95%.
    assert 0.89 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_more_utterances_a_narrower_one():
    few, many = some_counts(50, rate=0.2, seed=3), some_counts(5000, rate=0.2, seed=3)
    assert bootstrap_interval(few, seed=1) == bootstrap_interval(few, seed=1)
    assert bootstrap_interval(few, seed=1) != bootstrap_interval(few, seed=2)
    width = [high - low for low, high in (bootstrap_interval(counts, seed=1, samples=1000) for counts in (few, many))]
    assert width[1] == pytest.approx(width[0] / 10, rel=0.3)


def test_intervals_of_corpora_without_reference_are_infinite_or_zero_not_nan():
    inserted, silent, normal = ErrorCount(0, 0, 2, 0), ErrorCount(0, 0, 0, 0), ErrorCount(1, 0, 0, 2)
    assert bootstrap_interval([inserted, inserted], seed=1) == (float("inf"), float("inf"))
    assert bootstrap_interval([silent, silent], seed=1) == (0.0, 0.0)
    assert bootstrap_interval([inserted, normal], seed=1) == (0.5, float("inf"))
    assert bootstrap_interval([normal], seed=1) == (0.5, 0.5)
    assert bootstrap_interval([], seed=1) == (0.0, 0.0)
    assert paired_bootstrap([inserted, normal], [inserted, normal], seed=1).difference == 0.0


def test_a_paired_comparison_finds_a_small_difference_that_two_separate_intervals_hide():
    generator = np.random.default_rng(4)
    hard = generator.binomial(20, generator.uniform(0, 0.8, size=300))  # errors differ much between utterances
    first = [ErrorCount(int(errors) + 1, 0, 0, 21) for errors in hard]
    second = [
        ErrorCount(int(errors) + int(better), 0, 0, 21)
        for errors, better in zip(hard, generator.random(300) < 0.5, strict=True)
    ]
    found = paired_bootstrap(first, second, seed=1)
    assert found.difference == total_errors(second).rate - total_errors(first).rate
    assert found.low < found.difference < found.high < 0
    assert found.p_value == pytest.approx(2 / 10_001)
    assert bootstrap_interval(second, seed=1)[1] > bootstrap_interval(first, seed=1)[0]


def test_a_system_does_not_differ_from_itself_and_two_alike_seldom_do():
    counts = some_counts(50, rate=0.2, seed=3)
    same = paired_bootstrap(counts, counts, seed=1, samples=1000)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    significant = 0
    for seed in range(100):
        pair = (some_counts(100, rate=0.2, seed=seed), some_counts(100, rate=0.2, seed=1000 + seed))
        significant += paired_bootstrap(*pair, seed=seed, samples=1000).p_value < 0.05
    assert significant <= 12  # 5 expected, standard error 2.2


def test_a_paired_comparison_of_other_utterances_is_refused():
    with pytest.raises(ValueError, match="same utterances in the same order: 1 and 2"):
        paired_bootstrap([ErrorCount(0, 0, 0, 1)], [ErrorCount(0, 0, 0, 1)] * 2, seed=1)
    with pytest.raises(ValueError, match="got none"):
        paired_bootstrap([], [], seed=1)


def test_a_corpus_larger_than_a_block_of_draws_uses_every_draw():
    counts = [ErrorCount(1, 0, 0, 2)] * 1500
    assert bootstrap_interval(counts, seed=1, samples=1000) == (0.5, 0.5)


def test_counts_become_arrays_once_whatever_the_number_of_blocks(monkeypatch):
    asked = []

    class Counted(ErrorCount):
        @property
        def errors(self):
            asked.append(self)
            return super().errors

    monkeypatch.setattr(error_rate, "DRAWS_AT_ONCE", 8)  # two draws a block
    bootstrap_interval([Counted(1, 0, 0, 2)] * 4, seed=1, samples=100)
    assert len(asked) == 4
