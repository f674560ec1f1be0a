"""Rates and differences of groups of runs: values by hand, and what must hold of the intervals."""

import numpy as np
import pytest
from scipy import stats

from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval
from dsrun.inspection import open_runs
from dsrun.study.groups import group_runs
from dsrun.study.statistics import NO_DIFFERENCE, compare_errors, difference, rate_interval, why_not_paired
from tests.study.run_folders import write_run_folder

FLOAT16 = {"arithmetic.storage.format": "float16"}
LENGTHS = np.array([4, 10, 7, 20, 3, 9, 11, 6, 8, 12])


def texts(errors, lengths=LENGTHS):
    """Utterances of these lengths with so many substitutions each."""
    return [
        (f"u{n}", "a" * length, "b" * e + "a" * (length - e))
        for n, (e, length) in enumerate(zip(errors, lengths, strict=True))
    ]


def draw(seed: int, rate: float) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).binomial(LENGTHS, rate)


def groups_of(tmp_path, *runs):
    """From (config, errors on test) of each run."""
    for number, (config, errors) in enumerate(runs):
        found = {} if errors is None else {"test": texts(errors)}
        write_run_folder(tmp_path / f"run{number}", config=config, texts=found)
    return group_runs(open_runs([tmp_path]))


def test_a_rate_is_of_all_seeds_errors_with_the_bootstrap_of_eval_and_students_t(tmp_path):
    errors = np.stack([draw(seed, 0.2) for seed in range(3)])
    (group,) = groups_of(tmp_path, *(({"seed": seed}, row) for seed, row in enumerate(errors)))
    rate = rate_interval(group, "test", "characters")
    assert rate.value == errors.sum() / (3 * LENGTHS.sum())
    assert rate.by_seed == tuple(errors.sum(axis=1) / LENGTHS.sum())
    summed = [ErrorCount(int(e), 0, 0, 3 * int(n)) for e, n in zip(errors.sum(axis=0), LENGTHS, strict=True)]
    assert (rate.low, rate.high) == bootstrap_interval(summed, seed=1)
    expected = stats.t.interval(0.95, 2, loc=np.mean(rate.by_seed), scale=stats.sem(rate.by_seed))
    assert (rate.seeds_low, rate.seeds_high) == pytest.approx(expected)


def test_one_seed_has_no_interval_over_seeds(tmp_path):
    (group,) = groups_of(tmp_path, ({}, draw(1, 0.2)))
    rate = rate_interval(group, "test", "characters")
    assert (rate.seeds_low, rate.seeds_high) == (None, None)


def test_without_results_by_utterance_rates_come_from_the_evaluations_of_training(tmp_path):
    (group,) = groups_of(tmp_path, ({"seed": 1}, None), ({"seed": 2}, draw(1, 0.1)))
    rate = rate_interval(group, "dev", "characters")
    assert (rate.value, rate.low, rate.utterances, rate.by_seed) == (0.3, None, 0, (0.3, 0.3))
    assert rate_interval(group, "test", "words").seeds == (2,)


def test_a_run_that_was_never_scored_has_no_rate(tmp_path):
    write_run_folder(tmp_path / "run", dev_cer=(), steps=0)
    (group,) = group_runs(open_runs([tmp_path]))
    assert rate_interval(group, "dev", "words") is None


def test_the_result_of_a_run_without_a_test_set_is_not_taken_for_tests(tmp_path):
    result = {"result": {"step": 8, "cer": 0.5, "wer": 0.5}}
    for name, config in (("a", {}), ("b", {"data.test": None})):
        write_run_folder(tmp_path / name, config=config, status=result)
    with_test, without = group_runs(open_runs([tmp_path]))
    assert rate_interval(with_test, "test", "characters").value == 0.5
    assert rate_interval(without, "test", "characters") is None


def test_a_difference_is_paired_by_utterance_whatever_the_files_order_and_by_seed(tmp_path):
    base, ours = [
        np.stack([draw(10 * place + seed, rate) for seed in range(3)]) for place, rate in ((1, 0.2), (2, 0.4))
    ]
    runs = [({"seed": seed}, row) for seed, row in enumerate(base)]
    runs += [(FLOAT16 | {"seed": seed}, row) for seed, row in enumerate(ours)]
    baseline, group = groups_of(tmp_path, *runs)
    path = group.runs[1].results_path("test")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    found = difference(group, baseline, "test", "characters")
    assert found == compare_errors(ours, base, LENGTHS, seeds=(0, 1, 2), is_paired=True)
    assert found.value == pytest.approx((ours.sum() - base.sum()) / (3 * LENGTHS.sum()))
    each = (ours - base).sum(axis=1) / LENGTHS.sum()
    expected = stats.t.interval(0.95, 2, loc=each.mean(), scale=stats.sem(each))
    assert (found.seeds_low, found.seeds_high) == pytest.approx(expected)
    assert difference(baseline, group, "test", "characters").value == -found.value


def test_p_is_below_5_percent_exactly_where_the_interval_excludes_zero():
    generator = np.random.Generator(np.random.Philox(7))
    seen = 0
    for _ in range(200):
        seeds = int(generator.integers(1, 5))
        ours, theirs = (generator.binomial(LENGTHS, rate, (seeds, len(LENGTHS))) for rate in (0.2, 0.35))
        found = compare_errors(ours, theirs, LENGTHS, seeds=range(seeds), is_paired=True)
        assert found.is_seen == (found.p < 0.05)
        assert found.words == ("better" if found.is_seen else NO_DIFFERENCE) or found.value > 0
        seen += found.is_seen
    assert 20 < seen < 180


def test_with_one_seed_the_interval_is_students_t_of_utterances():
    lengths = np.full(30, 10)  # equal lengths: the ratio is a mean
    ours, theirs = (np.random.Generator(np.random.Philox(n)).binomial(10, 0.3, (1, 30)) for n in (1, 2))
    found = compare_errors(ours, theirs, lengths, seeds=[1], is_paired=True)
    each = (ours - theirs)[0] / 10
    test = stats.ttest_rel(ours[0] / 10, theirs[0] / 10)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 29, loc=each.mean(), scale=stats.sem(each)))
    assert found.p == pytest.approx(test.pvalue)


def test_seeds_that_disagree_widen_the_interval_that_verdicts_use():
    lengths = np.full(40, 10)
    theirs = np.full((3, 40), 3)
    steady = theirs - np.arange(40) % 2
    wavering = np.stack([theirs[0] - 3, theirs[1], theirs[2] + 1])
    a, b = (compare_errors(ours, theirs, lengths, seeds=(1, 2, 3), is_paired=True) for ours in (steady, wavering))
    assert a.words == "better"
    assert b.words == NO_DIFFERENCE
    assert b.utterances_high < 0  # though for these networks there is no doubt


def test_five_utterances_that_differ_tell_nothing_and_six_may():
    lengths, theirs = np.full(50, 10), np.zeros((1, 50), int)
    found = []
    for differing in (5, 6):
        ours = theirs.copy()
        ours[0, :differing] = 2
        found.append(compare_errors(ours, theirs, lengths, seeds=[1], is_paired=True))
    assert [d.words for d in found] == [NO_DIFFERENCE, "worse"]
    assert found[0].low == 0 < found[0].high
    assert found[0].p == 2 * 0.5**5


@pytest.mark.parametrize("seeds", [1, 2])
def test_where_every_utterance_says_the_same_p_is_that_of_tosses_and_not_one(seeds):
    """Nothing was written, against all right: no variance, so t has no word in it."""
    theirs, differing = np.zeros((seeds, len(LENGTHS)), int), len(LENGTHS)
    found = compare_errors(np.tile(LENGTHS, (seeds, 1)), theirs, LENGTHS, seeds=range(seeds), is_paired=True)
    assert (found.words, found.value, found.low, found.high, found.p) == ("worse", 1, 1, 1, 2.0 ** (1 - differing))
    few = compare_errors(
        np.full((seeds, 5), 3), np.zeros((seeds, 5)), np.full(5, 3), seeds=range(seeds), is_paired=True
    )
    assert (few.words, few.low, few.high, few.p) == (NO_DIFFERENCE, 0, 1, 2.0**-4)


@pytest.mark.parametrize(
    ("ours", "theirs", "is_paired", "method"),
    [
        (1, 1, True, "over utterances; one seed, so it holds for these networks"),
        (3, 1, False, "over utterances; 3 seeds against one seed, so it holds for these networks"),
        (1, 3, False, "over utterances; one seed against 3 seeds, so it holds for these networks"),
        (3, 3, True, "over utterances and 3 seeds"),
        (3, 2, False, "over utterances and seeds, 3 against 2 others"),
    ],
)
def test_the_method_counts_the_seeds_of_both_sides(ours, theirs, is_paired, method):
    sides = [np.stack([draw(10 * place + n, 0.3) for n in range(count)]) for place, count in ((1, ours), (2, theirs))]
    assert compare_errors(*sides, LENGTHS, seeds=range(ours), is_paired=is_paired).method == method


def test_equal_runs_have_a_difference_of_zero_and_p_of_one():
    errors = np.stack([draw(1, 0.2), draw(2, 0.2)])
    found = compare_errors(errors, errors, LENGTHS, seeds=(1, 2), is_paired=True)
    assert (found.value, found.low, found.high, found.p, found.words) == (0, 0, 0, 1, NO_DIFFERENCE)


def test_groups_without_common_seeds_are_compared_by_welchs_variance(tmp_path):
    base, ours = [np.stack([draw(place + seed, 0.3) for seed in range(3)]) for place in (20, 40)]
    runs = [({"seed": seed}, row) for seed, row in enumerate(base)]
    runs += [(FLOAT16 | {"seed": seed + 100}, row) for seed, row in enumerate(ours[:2])]
    baseline, group = groups_of(tmp_path, *runs)
    found = difference(group, baseline, "test", "characters")
    a, b = ours[:2].sum(axis=1) / LENGTHS.sum(), base.sum(axis=1) / LENGTHS.sum()
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.seeds_low, found.seeds_high) == pytest.approx(tuple(interval))
    assert not found.paired
    assert found.seeds == (100, 101)


def test_a_lone_common_seed_is_no_pair_where_both_have_others(tmp_path):
    runs = [({"seed": seed}, draw(seed, 0.3)) for seed in (1, 2, 3)]
    runs += [(FLOAT16 | {"seed": seed}, draw(seed, 0.3)) for seed in (3, 4)]
    baseline, group = groups_of(tmp_path, *runs)
    assert not difference(group, baseline, "test", "characters").paired
    baseline, group = groups_of(tmp_path / "more", *runs[2:4])
    assert difference(group, baseline, "test", "characters").seeds == (3,)


def test_what_cannot_be_paired_says_why(tmp_path):
    for name, config, said in (("a", {}, texts(draw(1, 0.2))), ("b", FLOAT16, texts(draw(1, 0.2), LENGTHS + 1))):
        write_run_folder(tmp_path / name, config=config, texts={"test": said})
    baseline, group = group_runs(open_runs([tmp_path]))
    assert difference(group, baseline, "test", "characters") is None
    assert why_not_paired(group, baseline, "test") == "b was scored on other utterances or references of test than a"
    assert "a has no results on dev" in why_not_paired(baseline, baseline, "dev")
