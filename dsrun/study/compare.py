"""Experiments beside each other: what differs in their settings, their error rates with intervals, differences to a baseline, costs.

Everything is in one document of JSON's types (`compare_groups`), which the command prints as a table, JSON, CSV or Markdown and which a
report draws. Nothing is averaged over groups and nothing left out in silence: what makes a number worth less than it looks (a run that is
not done, other data, another decoder, another machine, a single seed) is a sentence in `notes`.

Times are of the run's own machine. Bytes are of what is kept from step to step (`costs.py`), as the formats need and as the arrays have
them; runs of before there was a costs.json have none.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.errors import UsageError
from dsrun.study.costs import bytes_kept, count_of, seconds_a_step
from dsrun.study.groups import Group, differing_keys, settings_of, usual_baseline
from dsrun.study.number_words import first_of, of_seeds
from dsrun.study.run_record import SPLITS, RunRecord, Split, bounded
from dsrun.study.statistics import (
    METRIC,
    Difference,
    Rate,
    Unit,
    common_seeds,
    difference,
    known_rate,
    rate_interval,
    why_not_paired,
)

SCHEMA_VERSION = 1
UNITS: tuple[Unit, ...] = ("characters", "words")
MOST_NAMED = 4


def baseline_of(groups: Sequence[Group], name: str | None, *, is_ordered: bool = True) -> tuple[Group, str | None]:
    """The group that others are compared with, and what must be said of the choice.

    Args:
        name: a group's label, a run's name or path, or what a sweep calls it (`nearest` for `nearest-seed=1-fe592d`). is_ordered:
            whether somebody put the runs into an order; then, without a name, it is the first, else the usual one.

    Raises:
        UsageError: there is none of that name.
    """
    if name is None:
        return (groups[0], None) if is_ordered else usual_baseline(groups)
    for group in groups:
        if group.label == name or any(name in (run.name, str(run.path), str(run.path.resolve())) for run in group.runs):
            return group, None
    resolved = Path(name).resolve()
    for group in groups:
        if any(run.path.resolve() == resolved for run in group.runs):
            return group, None
    begun = [group for group in groups if any(run.name.startswith(f"{name}-") for run in group.runs)]
    if len(begun) == 1:
        return begun[0], None
    labels = "; ".join(repr(group.label) for group in groups)
    raise UsageError(
        f"--baseline {name}: {'several groups have runs' if begun else 'no group or run'} of that name. The groups are {labels}; "
        f"a run is named as its folder, such as {groups[0].runs[0].name}."
    )


def compare_groups(
    groups: Sequence[Group],
    baseline: Group,
    *,
    splits: Sequence[Split] = SPLITS,
    all_keys: bool = False,
    why_baseline: str | None = None,
) -> dict[str, Any]:
    """The document; see the module. Groups in their order.

    Raises:
        UsageError: no run has a rate.
        DataError: results are damaged.
    """
    keys = differing_keys(groups)
    if all_keys:
        keys = list(dict.fromkeys(key for group in groups for key in (*group.config, *settings_of(group.runs[0]))))
        keys = [key for key in keys if key != "seed"]
    found = [_group(group, baseline, keys, splits) for group in groups]
    if not any(rate for entry in found for rates in entry["rates"].values() for rate in rates.values()):
        names = [run.name for group in groups for run in group.runs]
        raise UsageError(
            f"no error rates to compare: none of the runs ({first_of(names, MOST_NAMED)}) was evaluated yet "
            f"on {' or '.join(splits)}. Training evaluates every training.evaluate_every_epochs and at its end; "
            "`dsrun eval RUN` scores a checkpoint."
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "baseline": baseline.label,
        "splits": list(splits),
        "keys": keys,
        "groups": found,
        "notes": [*filter(None, [why_baseline]), *notes(groups, baseline, splits), *_wide(found), *_chance(found)],
    }


def _group(group: Group, baseline: Group, keys: Sequence[str], splits: Sequence[Split]) -> dict[str, Any]:
    settings = settings_of(group.runs[0])
    is_baseline = group is baseline
    return {
        "label": group.label,
        "is_baseline": is_baseline,
        "seeds": list(group.seeds),
        "settings": {key: group.config.get(key, settings.get(key)) for key in keys},
        "rates": {
            split: {METRIC[unit]: _rate(rate_interval(group, split, unit)) for unit in UNITS} for split in splits
        },
        "differences": {
            split: {
                METRIC[unit]: None if is_baseline else _difference(difference(group, baseline, split, unit))
                for unit in UNITS
            }
            for split in splits
        },
        "changed_share": _mean(changed_share(run) for run in group.runs),
        "costs": costs_of(group.runs),
        "runs": [_run(run, splits) for run in group.runs],
    }


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {
        "value": rate.value,
        "interval": None if rate.low is None else [rate.low, rate.high],
        "seeds_interval": None if rate.seeds_low is None else [rate.seeds_low, rate.seeds_high],
        "by_seed": list(rate.by_seed),
        "seeds": list(rate.seeds),
        "utterances": rate.utterances,
    }


def _difference(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "value": found.value,
        "interval": [found.low, found.high],
        "p": found.p,
        "words": found.words,
        "utterances_interval": [found.utterances_low, found.utterances_high],
        "seeds_interval": None if found.seeds_low is None else [found.seeds_low, found.seeds_high],
        "utterances": found.utterances,
        "paired": found.paired,
        "method": found.method,
        "rates": [found.rate, found.baseline_rate],
        "seeds": list(found.seeds),
        "left_out": list(found.left_out),
        "baseline_left_out": list(found.baseline_left_out),
    }


def _run(run: RunRecord, splits: Sequence[Split]) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "seed": run.seed,
        "state": run.state,
        "step": run.step if run.status else None,
        "best_step": run.best["step"] if run.best else None,
        **{f"{split}_{METRIC[unit]}": known_rate(run, split, unit) for split in splits for unit in UNITS},
        "minutes": _minutes(run),
        "milliseconds_a_step": _milliseconds(run),
        "commit": run.commit,
        "device": run.device,
    }


def changed_share(run: RunRecord) -> float | None:
    """Of the last watched step's non-zero updates the share that changed their weight."""
    share = bounded(run.watches[-1].get("changed_share"), 0.0, 1.0) if run.watches else math.nan
    return None if math.isnan(share) else share


def costs_of(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Minutes of training (mean over the runs that are done), milliseconds of a step, parameters, bytes kept from step to step."""
    done = [run for run in runs if run.state == "done"] or list(runs)
    counted = count_of(runs[0].costs.get("parameters"))
    seconds = seconds_a_step(runs)
    return {
        "minutes": _mean(_minutes(run) for run in done),
        "milliseconds_a_step": None if seconds is None else 1000 * seconds,
        "parameters": parameters_listed(runs[0]) if counted is None else counted,
        "bytes_as_formats": bytes_kept(runs, "as_formats"),
        "bytes_as_carried": bytes_kept(runs, "as_carried"),
    }


def parameters_listed(run: RunRecord) -> int | None:
    """Values of the network by the last line of `parameters.txt`; None where there is no such file."""
    try:
        name, count = run.run.parameters.read_text(encoding="utf-8").splitlines()[-1].split()
        return int(count.replace(",", "")) if name == "all" else None
    except (OSError, ValueError, IndexError):
        return None


def notes(groups: Sequence[Group], baseline: Group, splits: Sequence[Split]) -> list[str]:
    """What a reader must know before believing the numbers."""
    runs = [run for group in groups for run in group.runs]
    found = [
        *_incomplete(runs),
        *_other_data(groups, baseline),
        *_not_paired(groups, baseline, splits),
        *_left_out(groups, baseline, splits),
        *_mixed(groups),
        *_decoders(runs, splits),
    ]
    for what, values, how in (
        ("commits of dsrun", [run.commit for run in runs], "results may differ for that too"),
        ("devices", [run.device for run in runs], "equal runs would have other bits"),
    ):
        if len(known := {value for value in values if value}) > 1:
            listed = ", ".join(sorted(known))
            found.append(f"the runs are of different {what} ({listed}): {how}, and their times do not compare")
    if "dev" in splits and any(run.best for run in runs):
        found.append("rates on dev are of the checkpoint that was chosen by them, which flatters all of them")
    loose = {str(run.config.get("determinism")) for run in runs} - {"strict", "None"}
    if loose:
        found.append(f"determinism is {', '.join(sorted(loose))} in some runs: the same run again has other bits")
    if len(groups) > 1 and any(len(group.runs) == 1 for group in groups):
        found.append(
            "groups of one seed: their differences are tested over utterances alone and hold for these networks; another seed may "
            "turn them"
        )
    return found


def _incomplete(runs: Sequence[RunRecord]) -> Iterable[str]:
    for state in dict.fromkeys(run.state for run in runs):
        names = [run.name for run in runs if run.state == state]
        if state == "diverged":
            yield f"diverged, so scored by the best checkpoint before if there is one: {first_of(names, MOST_NAMED)}"
        elif state != "done":
            bare = [run.name for run in runs if run.state == state and not _has_rates(run)]
            if scored := [name for name in names if name not in bare]:
                yield f"not done ({state}), so their rates are of the best checkpoint so far: {first_of(scored, MOST_NAMED)}"
            if bare:
                yield f"not done ({state}) and not evaluated yet, so without rates: {first_of(bare, MOST_NAMED)}"


def _has_rates(run: RunRecord) -> bool:
    return any(known_rate(run, split, "characters") is not None for split in SPLITS)


def _other_data(groups: Sequence[Group], baseline: Group) -> Iterable[str]:
    first = baseline.runs[0]
    for group in groups:
        known = (first.data_digest("train"), group.runs[0].data_digest("train"))
        if None not in known and known[0] != known[1]:
            yield f"{group.label}: trained on other data than {baseline.label}"


def _not_paired(groups: Sequence[Group], baseline: Group, splits: Sequence[Split]) -> Iterable[str]:
    for split in splits:
        without = [run.name for group in groups for run in group.runs if run.results(split) is None]
        for why, names in _without_results([run for group in groups for run in group.runs], split).items():
            yield f"no differences on {split} {why}: {first_of(names, MOST_NAMED)}"
        reasons: dict[str, list[str]] = {}
        for group in groups:
            is_told = any(run.name in without for run in (*group.runs, *baseline.runs))
            reason = None if group is baseline or is_told else why_not_paired(group, baseline, split)
            if reason:
                reasons.setdefault(reason, []).append(group.label)
        for reason, labels in reasons.items():
            yield f"no difference on {split} for {first_of(labels, MOST_NAMED)}: {reason}"


def _without_results(runs: Sequence[RunRecord], split: Split) -> dict[str, list[str]]:
    """Names of runs without results by utterance, by why and what to do; what has no checkpoint cannot be scored."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if run.results(split) is not None:
            continue
        why = "without results by utterance, which `dsrun eval` makes"
        if run.state in ("new", "running"):
            why = "yet of runs that are not over"
        elif run.state != "done" and not _has_rates(run):
            why = "of runs that ended before an evaluation"
        found.setdefault(why, []).append(run.name)
    return found


def _decoders(runs: Sequence[RunRecord], splits: Sequence[Split]) -> Iterable[str]:
    for split in splits:
        used: dict[str, list[str]] = {}
        for run in runs:
            if decoder := decoder_of(run, split):
                used.setdefault(decoder, []).append(run.name)
        if len(used) > 1:
            told = "; ".join(f"{decoder}: {first_of(names, MOST_NAMED)}" for decoder, names in used.items())
            yield f"results on {split} are of different decoders, which is a difference of its own ({told})"


def decoder_of(run: RunRecord, split: Split) -> str | None:
    """What decoder made a run's results, in JSON; None where the file does not say."""
    path = run.results_path(split)
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as lines:
            decoder = json.loads(lines.readline()).get("decoder")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(decoder, dict) and set(decoder) == {"kind"}:
        return str(decoder["kind"])
    return json.dumps(decoder, sort_keys=True) if decoder else None


def _left_out(groups: Sequence[Group], baseline: Group, splits: Sequence[Split]) -> Iterable[str]:
    """Seeds that are in a group's rates and not in its difference."""
    for group in groups:
        common = [] if group is baseline else common_seeds(group, baseline)
        if not common or not any(why_not_paired(group, baseline, split) is None for split in splits):
            continue
        sides = [(side.label, [seed for seed in side.seeds if seed not in common]) for side in (group, baseline)]
        if told := " and ".join(f"{of_seeds(seeds, MOST_NAMED)} of {label}" for label, seeds in sides if seeds):
            yield f"{group.label}: its difference is of {of_seeds(common, MOST_NAMED)}, which both have; only rates have {told}"


def _mixed(groups: Sequence[Group]) -> Iterable[str]:
    if mixed := [group.label for group in groups if group.are_mixed]:
        yield (
            "runs with the same settings and seed, which commit, folder and device do not tell apart, are in groups by the order in "
            f"which they were given: {' / '.join(mixed)}"
        )


def _wide(found: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Rates whose interval over seeds goes below zero, where no rate is."""
    rates = [rate for entry in found for of in entry["rates"].values() for rate in of.values() if rate]
    if any(rate["seeds_interval"] and rate["seeds_interval"][0] < 0 for rate in rates):
        yield (
            "an interval over seeds that goes below zero says that the seeds are too few and too unlike to tell their mean: it is "
            "Student's t of so many, and not cut"
        )


def _chance(found: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Of the differences of one metric that the document has; those of the other metric are hardly other ones."""
    by_metric = [[of[metric] for entry in found for of in entry["differences"].values()] for metric in METRIC.values()]
    tested = max(sum(one is not None for one in differences) for differences in by_metric)
    if tested > 1:
        yield (
            f"{tested} differences at 95% each: if none were true, one or more would be seen with a chance of up to "
            f"{1 - 0.95**tested:.0%}"
        )


def _minutes(run: RunRecord) -> float | None:
    return None if run.training_seconds is None else run.training_seconds / 60


def _milliseconds(run: RunRecord) -> float | None:
    return None if run.seconds_a_step is None else 1000 * run.seconds_a_step


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
