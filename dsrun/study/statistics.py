"""How sure is a rate, and a difference of rates, where both the utterances and the seeds are drawn by chance?

A network's error rate on a test set depends on two draws: which utterances are in the set, and which seed made the network (its first
weights, the order of its batches, its dropout). An interval over utterances alone answers for these networks only; on other seeds
the order of two formats may be another. So a rate has two intervals, each said for what it is, and a difference a third one, of both
draws together, which verdicts use.

Rates are the corpus's: all errors of all seeds divided by all reference characters (or words) of all seeds.

* Over utterances (given these networks): utterances are drawn with replacement, with the errors of all seeds; for a rate the
  percentile bootstrap of `evaluation.error_rate`, the same numbers as `dsrun eval` prints for one run; for a difference
  delta +- t(U - 1) sqrt(V_u), V_u the linearised variance of a ratio over U utterances.
* Over seeds (given these utterances): Student's t on the S seeds' own rates, or on their differences seed by seed. None with one seed.
* Both: delta +- t' sqrt(V_u + V_s) with V_s the variance over seeds, and t' = (t(U - 1) V_u + t(S - 1) V_s) / (V_u + V_s), the
  weighted quantile of Cochran and Cox (Experimental Designs, 1957), who made it for another sum of two variances with different degrees
  of freedom. What belongs to neither utterance nor seed alone is in both variances, so the interval errs to the wide side.

Groups are paired by utterance always, and by seed where they have seeds in common: the same seed gives two formats the same first
weights and the same batches. Runs of seeds that the other group does not have are then left out of the difference, which says so, with
the rates that it is of. Without common seeds V_s is the sum of both groups' (Welch's degrees of freedom).

With one seed, on one side or both, the interval is over utterances and holds for these networks, not for their settings. Where fewer
than six utterances differ at all no interval excludes zero, whatever a variance of so few says (`evaluation.comparison` tells why), and
where n differ no p is smaller than 2^(1-n), that of n tosses of a coin which all fall on one side.

How often intervals hold, measured on simulated pairs like this corpus's without a difference (scripts/interval_coverage.py has the model
and prints the table again; 2,000 pairs a figure, standard error 0.5%): share that cover zero, by the standard deviation of the seeds'
effect on a difference of CERs.

| seeds | effect | this method | bootstrap over utterances | pigeonhole bootstrap | Satterthwaite |
|---:|---:|---:|---:|---:|---:|
| 1 | 0.000 | 94.4% | 93.5% | - | - |
| 1 | 0.005 | 90.1% | 89.5% | - | - |
| 1 | 0.010 | 77.3% | 76.0% | - | - |
| 1 | 0.030 | 37.4% | 36.7% | - | - |
| 2 | 0.000 | 99.0% | 93.1% | 98.0% | 97.2% |
| 2 | 0.005 | 99.3% | 90.0% | 96.9% | 97.2% |
| 2 | 0.010 | 97.8% | 79.5% | 92.8% | 94.3% |
| 2 | 0.030 | 94.8% | 42.4% | 75.0% | 88.8% |
| 3 | 0.000 | 98.9% | 93.8% | 99.0% | 97.9% |
| 3 | 0.005 | 99.0% | 88.8% | 97.6% | 97.3% |
| 3 | 0.010 | 98.0% | 79.0% | 94.8% | 96.3% |
| 3 | 0.030 | 95.0% | 43.1% | 82.0% | 91.6% |
| 5 | 0.000 | 98.7% | 92.0% | 98.3% | 97.8% |
| 5 | 0.005 | 98.2% | 89.5% | 97.5% | 97.3% |
| 5 | 0.010 | 98.2% | 81.5% | 95.6% | 96.8% |
| 5 | 0.030 | 96.2% | 47.1% | 88.3% | 95.0% |

Without common seeds (`--other-seeds --seed 7` of the same script), as many seeds on each side, effects from top to bottom: with two 99.6,
99.2, 98.6 and 97.9%; with three 99.1, 99.1, 98.6 and 97.2%; with five 98.6, 98.6, 98.3 and 96.8%.

With two seeds and more it keeps 95% whatever the seeds' effect, erring to the wide side where that is small; the others lose it where
the effect is as large as that of ternary weights. The price is paid with two seeds, whose t quantile is 12.7: the interval is twice as
wide as Satterthwaite's (a difference of 0.04 was found in 35 of 100 pairs; with three seeds in 74, effect 0.01), so a third seed buys
more than anything else. With one seed the rate holds for the networks at hand (effect 0) and not for their settings.

Source: Cochran and Cox 1957; Owen 2007 (The pigeonhole bootstrap) for the crossed design.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dsrun.evaluation.comparison import FEWEST_TO_TELL
from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval
from dsrun.evaluation.results import BOOTSTRAP_SEED, Evaluation
from dsrun.study.groups import Group
from dsrun.study.run_record import RunRecord, Split, bounded

Unit = Literal["characters", "words"]
TAIL = 0.025  # on each side of a 95% interval
SMALLEST_P_EXPONENT = 60.0
NO_DIFFERENCE = "no difference seen"
METRIC = {"characters": "cer", "words": "wer"}


@dataclass(frozen=True)
class Rate:
    """A group's error rate.

    Fields:
        value: of all seeds together. by_seed: each run's own, in the group's order.
        low, high: 95% interval over utterances; None where only rates are known, not each utterance's errors.
        seeds_low, seeds_high: 95% interval over seeds; None with one seed.
        utterances: 0 where only rates are known.
    """

    value: float
    low: float | None
    high: float | None
    seeds_low: float | None
    seeds_high: float | None
    by_seed: tuple[float, ...]
    seeds: tuple[Any, ...]
    utterances: int


@dataclass(frozen=True)
class Difference:
    """A group's rate minus the baseline's; negative: the group makes fewer errors.

    Fields:
        low, high, p: of both draws together (with one seed of utterances alone); verdicts use these.
        utterances_low, utterances_high: over utterances, for these networks.
        seeds_low, seeds_high: over seeds, for these utterances; None with one seed.
        seeds: of the group's runs that were compared. paired: seed by seed.
        method: what the interval is, in a few words.
        rate, baseline_rate: of the runs that were compared, whose difference `value` is.
        left_out, baseline_left_out: seeds that the other group does not have, so that their runs are in the groups' rates and not here.
    """

    value: float
    low: float
    high: float
    p: float
    utterances_low: float
    utterances_high: float
    seeds_low: float | None
    seeds_high: float | None
    seeds: tuple[Any, ...]
    utterances: int
    paired: bool
    method: str
    rate: float
    baseline_rate: float
    left_out: tuple[Any, ...] = ()
    baseline_left_out: tuple[Any, ...] = ()

    @property
    def is_seen(self) -> bool:
        """Whether the interval excludes zero."""
        return not self.low <= 0 <= self.high

    @property
    def words(self) -> str:
        """`better`, `worse` or `no difference seen`."""
        if not self.is_seen:
            return NO_DIFFERENCE
        return "better" if self.value < 0 else "worse"


def rate_interval(group: Group, split: Split, unit: Unit) -> Rate | None:
    """A group's rate with both intervals; None where no run has one.

    Where not all runs have results by utterance the rates of their best evaluations are taken, without an interval over utterances.
    """
    table = _table(group.runs, split, unit)
    if table is not None:
        counts = [ErrorCount(int(errors), 0, 0, int(length)) for errors, length in zip(*table.summed, strict=True)]
        low, high = bootstrap_interval(counts, seed=BOOTSTRAP_SEED)
        by_seed = [float(rate) for rate in table.rates]
        return Rate(
            table.rate, low, high, *_over_seeds(by_seed), tuple(by_seed), group.seeds, len(table.ids)
        )  # fmt: skip
    known = [(run.seed, rate) for run in group.runs if (rate := known_rate(run, split, unit)) is not None]
    if not known:
        return None
    rates = [rate for _, rate in known]
    return Rate(
        float(np.mean(rates)), None, None, *_over_seeds(rates), tuple(rates), tuple(seed for seed, _ in known), 0
    )


def known_rate(run: RunRecord, split: Split, unit: Unit) -> float | None:
    """One run's rate on dev or test: of its results, else what its evaluations said."""
    results = run.results(split)
    if results is not None:
        counts: ErrorCount = getattr(results, unit)
        return counts.rate
    if split == "test":
        return run.test_rate(METRIC[unit])
    rate = bounded(run.best.get(METRIC[unit]), 0.0) if run.best else np.nan
    return None if np.isnan(rate) else float(rate)


def difference(group: Group, baseline: Group, split: Split, unit: Unit) -> Difference | None:
    """The group's rate minus the baseline's, paired by utterance and where possible by seed.

    Returns:
        None where there is nothing to pair: `why_not_paired` says why.
    """
    if why_not_paired(group, baseline, split) is not None:
        return None
    common = common_seeds(group, baseline)
    runs = [[run for run in side.runs if run.seed in common or not common] for side in (group, baseline)]
    ours, theirs = _table(runs[0], split, unit), _table(runs[1], split, unit)
    assert ours is not None
    assert theirs is not None
    found = compare_errors(
        ours.errors,
        theirs.errors[:, theirs.places(ours.ids)],
        ours.lengths,
        seeds=common or group.seeds,
        is_paired=bool(common),
    )
    left_out = [tuple(run.seed for run in side.runs if common and run.seed not in common) for side in (group, baseline)]
    if not any(left_out):
        return found
    method = f"{found.method}; {len(common)} in common of {len(group.runs)} and {len(baseline.runs)}"
    return replace(found, method=method, left_out=left_out[0], baseline_left_out=left_out[1])


def common_seeds(group: Group, baseline: Group) -> list[Any]:
    """Seeds by which two groups are paired; none where they are compared as they are, each with all of its seeds."""
    common = [seed for seed in group.seeds if seed in baseline.seeds]
    # One pair alone would leave both groups' other seeds unused, if both have some.
    return common if len(common) > 1 or 1 in (len(group.runs), len(baseline.runs)) else []


def why_not_paired(group: Group, baseline: Group, split: Split) -> str | None:
    """Why two groups' results on a split cannot be compared utterance by utterance; None if they can."""
    for side in (group, baseline):
        missing = [run.name for run in side.runs if run.results(split) is None]
        if missing:
            return f"{missing[0]} has no results on {split} (`dsrun eval` makes them)"
    first = _references(baseline.runs[0].results(split))
    for run in (*baseline.runs, *group.runs):
        if _references(run.results(split)) != first:
            return f"{run.name} was scored on other utterances or references of {split} than {baseline.runs[0].name}"
    return None if any(first.values()) else f"nothing is said in any reference of {split}"


def compare_errors(
    ours: np.ndarray, theirs: np.ndarray, lengths: np.ndarray, *, seeds: Sequence[Any], is_paired: bool
) -> Difference:
    """The arithmetic of `difference`.

    Args:
        ours, theirs: errors [seed, utterance]; where `is_paired`, row i of both is of one seed.
        lengths: of the references, [utterance]; not all zero.
    """
    total, count = float(lengths.sum()), len(lengths)
    mean_errors = ours.mean(axis=0) - theirs.mean(axis=0)
    value = float(mean_errors.sum() / total)
    residuals = (mean_errors - value * lengths) / total
    over_utterances = float((residuals**2).sum()) * count / max(count - 1, 1)
    over_seeds, seed_freedom = _seed_variance(ours.sum(axis=1) / total, theirs.sum(axis=1) / total, is_paired)
    parts = [(over_utterances, float(max(count - 1, 1)))]
    if seed_freedom is not None:
        parts.append((over_seeds, seed_freedom))
    differing = int((ours.sum(axis=0) * len(theirs) != theirs.sum(axis=0) * len(ours)).sum())
    low, high, p = _combined(value, parts, differing)
    across = None if seed_freedom is None else _t(TAIL, seed_freedom) * over_seeds**0.5
    within = _t(TAIL, parts[0][1]) * over_utterances**0.5
    return Difference(
        value, low, high, p,
        value - within, value + within,
        None if across is None else value - across, None if across is None else value + across,
        tuple(seeds), count, is_paired, _method(len(ours), len(theirs), is_paired),
        float(ours.sum() / (len(ours) * total)), float(theirs.sum() / (len(theirs) * total)),
    )  # fmt: skip


def _method(ours: int, theirs: int, is_paired: bool) -> str:
    """What the interval of so many seeds and so many of the baseline is over."""
    if 1 in (ours, theirs):
        those = "one seed" if ours == theirs else f"{_seeds(ours)} against {_seeds(theirs)}"
        return f"over utterances; {those}, so it holds for these networks"
    if is_paired:
        return f"over utterances and {ours} seeds"
    return f"over utterances and seeds, {ours} against {theirs} others"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _seed_variance(ours: np.ndarray, theirs: np.ndarray, is_paired: bool) -> tuple[float, float | None]:
    """Variance of the mean difference over seeds and its degrees of freedom; None where seeds are too few to know."""
    if is_paired:
        each = ours - theirs
        return (float(each.var(ddof=1)) / len(each), float(len(each) - 1)) if len(each) > 1 else (0.0, None)
    if min(len(ours), len(theirs)) < 2:
        return 0.0, None
    a, b = (float(side.var(ddof=1)) / len(side) for side in (ours, theirs))
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1)) if a + b else len(ours) - 1.0
    return a + b, freedom


def _combined(value: float, parts: Sequence[tuple[float, float]], differing: int) -> tuple[float, float, float]:
    """95% interval and two-sided p from variances with their degrees of freedom."""
    error = sum(variance for variance, _ in parts) ** 0.5
    half = _quantile(TAIL, parts) * error
    p = _both_tails(abs(value) / error, parts) if error and value else float(not value)
    low, high = value - half, value + half
    if differing < FEWEST_TO_TELL:
        low, high = min(low, 0.0), max(high, 0.0)
    # Each utterance that differs favours either side by the toss of a coin, so no p is smaller than that of all heads: where all differ
    # by the same share (one group wrote nothing) there is no variance, and t would be infinite.
    return low, high, max(p, min(1.0, 2.0 ** (1 - differing)))


def _quantile(tail: float, parts: Sequence[tuple[float, float]]) -> float:
    """Cochran and Cox's t', with `tail` beyond it: quantiles of Student's t, weighted by the variances."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    return sum(variance * _t(tail, freedom) for variance, freedom in parts) / total


def _both_tails(t: float, parts: Sequence[tuple[float, float]]) -> float:
    """Two-sided p of a value `t` standard errors from zero: the p whose t' is `t`, by bisection on its logarithm."""
    low, high = -SMALLEST_P_EXPONENT, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _quantile(10**middle / 2, parts) > t else (low, middle)
    return float(10**high)


def _t(tail: float, freedom: float) -> float:
    """What Student's t exceeds with probability `tail`."""
    from scipy.special import stdtrit  # comes with JAX; the import takes a while

    return -float(stdtrit(freedom, tail))


def _over_seeds(rates: Sequence[float]) -> tuple[float | None, float | None]:
    """95% interval of the mean of seeds' rates by Student's t; their references are the same, so their mean is the rate of all."""
    if len(rates) < 2 or not np.isfinite(rates).all():
        return None, None
    half = _t(TAIL, len(rates) - 1) * float(np.std(rates, ddof=1)) / len(rates) ** 0.5
    return float(np.mean(rates)) - half, float(np.mean(rates)) + half


@dataclass(frozen=True)
class _Table:
    """Errors [seed, utterance] beside the references' lengths [utterance]."""

    ids: tuple[str, ...]
    errors: np.ndarray
    lengths: np.ndarray

    @property
    def summed(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors and lengths of each utterance over the seeds."""
        return self.errors.sum(axis=0), self.lengths * len(self.errors)

    @property
    def rates(self) -> np.ndarray:
        """Each seed's."""
        return np.array([ErrorCount(int(e), 0, 0, int(self.lengths.sum())).rate for e in self.errors.sum(axis=1)])

    @property
    def rate(self) -> float:
        """Of all seeds together."""
        errors, lengths = self.summed
        return ErrorCount(int(errors.sum()), 0, 0, int(lengths.sum())).rate

    def places(self, ids: Sequence[str]) -> list[int]:
        """Where utterances stand here."""
        place = {id: at for at, id in enumerate(self.ids)}
        return [place[id] for id in ids]


def _table(runs: Sequence[RunRecord], split: Split, unit: Unit) -> _Table | None:
    """Errors of runs on the same utterances; None if one has no results, or they are of other utterances."""
    found = [run.results(split) for run in runs]
    if not found or any(results is None for results in found):
        return None
    first = _references(found[0])
    if any(_references(results) != first for results in found):
        return None
    by_run = [{u.id: getattr(u, unit) for u in results.utterances} for results in found if results]
    errors = np.array([[counts[id].errors for id in first] for counts in by_run])
    return _Table(tuple(first), errors, np.array([by_run[0][id].reference_length for id in first]))


def _references(results: Evaluation | None) -> dict[str, str]:
    return {u.id: u.reference for u in results.utterances} if results else {}
