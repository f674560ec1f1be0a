"""`dsrun compare`: groups of runs beside each other, as tables that fit a terminal, JSON, CSV or Markdown.

On the roof beside `cli.py`; what is compared is in `study/compare.py`. No JAX.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dsrun.cli_options import JsonOption
from dsrun.cli_rows import CsvOption, MarkdownOption, Row, fitting, form_of, print_fitting, print_rows
from dsrun.cli_tables import printable
from dsrun.errors import UsageError
from dsrun.study.number_words import counted

EXAMPLE = "Example: dsrun compare runs/formats --baseline float32 --split test"
Metric = Literal["cer", "wer"]
METRICS: tuple[Metric, ...] = ("cer", "wer")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of run folders, such as a sweep's.")
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Group or run that others are compared with. Default: the first, or of a folder of runs the first scored plain float32.",
        ),
    ] = None,
    split: Annotated[Literal["dev", "test"] | None, typer.Option(help="Compare on this alone; default both.")] = None,
    metric: Annotated[
        Literal["cer", "wer"] | None, typer.Option(help="Show this alone; default both, differences of the CER.")
    ] = None,
    by_seed: Annotated[bool, typer.Option("--by-seed", help="A row for each run instead of each group.")] = False,
    all_keys: Annotated[
        bool, typer.Option("--all-keys/--only-changed", help="Show all settings; default those that differ.")
    ] = False,
    json_output: JsonOption = False,
    csv_output: CsvOption = False,
    markdown: MarkdownOption = False,
) -> None:
    """Compare runs: settings that differ, error rates with 95% intervals, paired differences to the first, time and bytes.

    Runs that are equal but for the seed are one group. A rate has an interval over utterances (for these networks) and, from two seeds on,
    one over seeds. A difference is paired by utterance and seed; its interval and p are of both draws together, and where zero lies
    inside it says that no difference was seen.
    """
    form = form_of(json_output=json_output, csv_output=csv_output, markdown=markdown)
    from dsrun.inspection import is_run_folder, open_runs
    from dsrun.study.compare import SPLITS, baseline_of, compare_groups
    from dsrun.study.groups import group_runs

    records = open_runs(runs)
    if len(records) < 2:
        raise UsageError(
            f"{records[0].path}: one run has nothing to be compared with. Name another, or a sweep's folder; `dsrun eval` scores one run."
        )
    groups = group_runs(records)
    first, why = baseline_of(groups, baseline, is_ordered=is_run_folder(runs[0]))
    groups.sort(key=lambda group: group is not first)
    document = compare_groups(groups, first, splits=(split,) if split else SPLITS, all_keys=all_keys, why_baseline=why)
    metrics = (metric,) if metric else METRICS
    if form == "json":
        print_rows("json", [], [], document=document)
    elif by_seed:
        rows = [row for group in document["groups"] for row in _run_rows(group, document["splits"], metrics)]
        print_rows(form, rows, [_shown_run(row) for row in rows])
    elif form == "table":
        print_comparison(document, metrics)
    else:
        rows = [_flat(group, document, metrics) for group in document["groups"]]
        print_rows(form, rows, [_markdown_row(group, document, metrics[0]) for group in document["groups"]])
    if form in ("md", "csv"):
        for note in document["notes"]:
            print(printable(f"note: {note}"), file=sys.stderr)


def print_comparison(document: Mapping[str, Any], metrics: Sequence[Metric]) -> None:
    """All tables of a comparison, one below the other, none wider than the terminal if it can be helped."""
    groups = document["groups"]
    names = _names(groups)
    count = sum(len(group["runs"]) for group in groups)
    print(printable(f"{counted(count, 'run')} in {counted(len(groups), 'group')}; baseline: {document['baseline']}"))
    print()
    _print_settings(groups, names, document["keys"])
    for split in document["splits"]:
        if not any(rate for group in groups for rate in group["rates"][split].values()):
            continue
        print(f"\n{split}: rates of all seeds together [95% over utterances, for these networks]")
        print_fitting([_rates_row(group, name, split, metrics) for group, name in zip(groups, names, strict=True)])
        others = [(g["differences"][split][metrics[0]], name) for g, name in zip(groups, names, strict=True)]
        if rows := [_difference_row(found, name) for found, name in others if found]:
            print(
                f"\n{split} {metrics[0].upper()} minus that of {printable(document['baseline'])} [95% over what `over` says]; "
                "negative: fewer errors"
            )
            print_fitting(rows)
    print(
        "\ncosts; ms: the median over the steps of all seeds together; weights changed: share of the last watched step's updates that "
        "changed their weight; MB kept from step to step"
    )
    print_fitting([_costs_row(group, name) for group, name in zip(groups, names, strict=True)])
    for note in document["notes"]:
        print(printable(f"note: {note}"))


def _names(groups: Sequence[Row]) -> list[str]:
    """What a group is called in the tables: its label, or its number where labels leave no room for figures."""
    labels = [str(group["label"]) for group in groups]
    if not sys.stdout.isatty() or max(map(len, labels)) <= max(shutil.get_terminal_size().columns - 64, 12):
        return labels
    for number, label in enumerate(labels, 1):
        print(printable(f"{number:>3}  {label}"))
    print()
    return [str(number) for number in range(1, len(labels) + 1)]


def _print_settings(groups: Sequence[Row], names: Sequence[str], keys: Sequence[str]) -> None:
    """Groups as rows; where that is too wide settings as rows; where that is too, lists: the first group's, of the others what differs."""
    from dsrun.study.groups import short_names

    short = short_names(keys)
    by_group: list[Row] = [
        {"group": name, "seeds": _seeds(group["seeds"])} | {short[key]: _value(key, group) for key in keys}
        for group, name in zip(groups, names, strict=True)
    ]
    by_key: list[Row] = [
        {"setting": short[key]} | {name: _value(key, group) for group, name in zip(groups, names, strict=True)}
        for key in keys
    ]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    if not fitting(by_group, width)[1] or not keys:
        print_fitting(by_group)
    elif not fitting(by_key, width)[1]:
        print_fitting(by_key)
    else:
        for group, name in zip(groups, names, strict=True):
            rest = "" if group is groups[0] else f", and not as {names[0]}:"
            print(printable(f"{name}: seeds {_seeds(group['seeds'])}{rest}"))
            for key in keys:
                if group is groups[0] or group["settings"][key] != groups[0]["settings"][key]:
                    print(printable(f"    {short[key]}: {_value(key, group)}"))


def _rates_row(group: Row, name: str, split: str, metrics: Sequence[Metric]) -> dict[str, Any]:
    row: dict[str, Any] = {"group": name, "seeds": len(group["seeds"])}
    for metric in metrics:
        rate = group["rates"][split][metric]
        row[metric.upper()] = rate_text(rate)
        row[f"{metric.upper()} over seeds"] = interval_text(rate and rate["seeds_interval"])
    return row


def _difference_row(found: Row, name: str) -> dict[str, Any]:
    seeds = f", {counted(len(found['seeds']), 'seed')}" + ("" if found["paired"] else " and others")
    return {
        "group": name,
        "difference": f"{found['value']:+.3f} {interval_text(found['interval'], '+')}",
        "p": p_text(found["p"]),
        "in words": found["words"],
        "over": f"{found['utterances']} utterances" + (seeds if found["seeds_interval"] else ""),
        "rates compared": _rates_compared(found),
        "over utterances": interval_text(found["utterances_interval"], "+"),
        "over seeds": interval_text(found["seeds_interval"], "+"),
    }


def _rates_compared(found: Row) -> str | None:
    """Both rates of the difference; None where they are those of the table of rates."""
    if not found["left_out"] and not found["baseline_left_out"]:
        return None
    ours, theirs = found["rates"]
    return f"{ours:.3f} - {theirs:.3f}"


def _costs_row(group: Row, name: str) -> dict[str, Any]:
    costs = group["costs"]
    return {
        "group": name,
        "minutes": _number(costs["minutes"], ".1f"),
        "ms a step": _number(costs["milliseconds_a_step"], ".1f"),
        "parameters": _number(costs["parameters"], ",d"),
        "weights changed": _number(group["changed_share"], ".1%"),
        "MB needed": _megabytes(costs["bytes_as_formats"]),
        "MB carried": _megabytes(costs["bytes_as_carried"]),
        "device": _distinct(group, "device"),
        "commit": _distinct(group, "commit"),
    }


def _run_rows(group: Row, splits: Sequence[str], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    rates = [f"{split}_{metric}" for split in splits for metric in metrics]
    return [
        {"group": group["label"], "seed": run["seed"]}
        | {name: run[name] for name in (*rates, "state", "step", "best_step", "minutes", "milliseconds_a_step", "run")}
        for run in group["runs"]
    ]


def _shown_run(row: Row) -> dict[str, Any]:
    shown = {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}
    return {name.replace("milliseconds", "ms").replace("_", " "): value for name, value in shown.items()}


def _flat(group: Row, document: Row, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Every figure of a group in one row, for CSV."""
    row: dict[str, Any] = {"group": group["label"], "baseline": document["baseline"], "seeds": group["seeds"]}
    row |= {key: group["settings"][key] for key in document["keys"]}
    for split in document["splits"]:
        for metric in metrics:
            name = f"{split}_{metric}"
            rate, found = group["rates"][split][metric] or {}, group["differences"][split][metric] or {}
            row |= {name: rate.get("value")} | _ends(name, rate.get("interval"))
            row |= _ends(f"{name}_seeds", rate.get("seeds_interval")) | {f"{name}_by_seed": rate.get("by_seed")}
            row |= {f"{name}_difference": found.get("value")} | _ends(f"{name}_difference", found.get("interval"))
            row |= {
                f"{name}_p": found.get("p"),
                f"{name}_words": found.get("words"),
                f"{name}_method": found.get("method"),
            }
            row |= _ends(f"{name}_difference_utterances", found.get("utterances_interval"))
            row |= _ends(f"{name}_difference_seeds", found.get("seeds_interval"))
    row |= {"changed_share": group["changed_share"]} | group["costs"]
    return row | {"states": sorted({run["state"] for run in group["runs"]})}


def _ends(name: str, interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _markdown_row(group: Row, document: Row, metric: Metric) -> dict[str, Any]:
    """A row for a page: rates by seed and together, differences in words."""
    row: dict[str, Any] = {"group": group["label"]}
    for split in document["splits"]:
        rate, found = group["rates"][split][metric], group["differences"][split][metric]
        name = f"{split} {metric.upper()}"
        row[f"{name}, by seed"] = ", ".join(f"{value:.3f}" for value in rate["by_seed"]) if rate else None
        row[name] = rate_text(rate) if rate else None
        row[f"{split} difference"] = (
            f"{found['value']:+.3f} {interval_text(found['interval'], '+')}, p {p_text(found['p'])}: {found['words']}"
            if found
            else "baseline"
            if group["is_baseline"]
            else None
        )
    row["updates that changed a weight"] = _number(group["changed_share"], ".3f")
    row["minutes"] = _number(group["costs"]["minutes"], ".1f")
    row["ms a step"] = _number(group["costs"]["milliseconds_a_step"], ".1f")
    return row


def rate_text(rate: Mapping[str, Any] | None) -> str:
    """A rate with its interval over utterances."""
    if not rate:
        return "-"
    return f"{rate['value']:.3f}" + (f" {interval_text(rate['interval'])}" if rate["interval"] else "")


def interval_text(interval: Sequence[float] | None, sign: Literal["", "+"] = "") -> str:
    """An interval, `-` if there is none."""
    return "-" if not interval else f"[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def p_text(p: float) -> str:
    """A p with the digits that matter."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _value(key: str, group: Row) -> str:
    from dsrun.study.groups import text_of

    return text_of(group["settings"][key])


def _seeds(seeds: Sequence[Any]) -> str:
    return ",".join(map(str, seeds))


def _distinct(group: Row, name: str) -> str | None:
    known = dict.fromkeys(run[name] for run in group["runs"] if run[name])
    return ", ".join(known) or None


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def _megabytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 1e6:.3g}"
