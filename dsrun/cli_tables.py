"""What the commands print for people: tables and reports on stdout.

Names of folders, settings and transcripts are foreign text, and a terminal obeys what it is shown: ESC [2J clears it, ESC ]0; renames its
window, U+202E turns a line around. So whatever is printed goes through `printable`, each cell of every table included.
"""

from pathlib import Path
from typing import Any

from dsrun.study.foreign_text import printable


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows with equal keys as an aligned text table on stdout, full width whatever the terminal."""
    if not rows:
        return
    texts = [
        [printable(str(name)) for name in rows[0]],
        *([cell_text(value) for value in row.values()] for row in rows),
    ]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def cell_text(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def printable_lines(text: str) -> str:
    """The same of a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def print_import(report: dict[str, Any], out: Path) -> None:
    """What an import took and what it left out."""
    print_table(
        [
            {
                "manifest": f"{out / name}.jsonl",
                "utterances": totals["utterances"],
                "hours": totals["hours"],
                "shortest": totals["shortest_seconds"],
                "longest": totals["longest_seconds"],
                "speakers": totals["speakers"] or None,
                "rates (Hz)": _counts(totals["sample_rates"]),
                "channels": _counts(totals["channels"]),
            }
            for name, totals in report["splits"].items()
        ]
    )
    for reason, entry in report["left_out"].items():
        print(f"left out, {reason}: {entry['count']}, such as {entry['examples'][0]}")
    if report["options"]["allow_commands"]:
        print(f"commands were run where a wav.scp has them; what they wrote is in {out / 'audio'}")


def _counts(counts: dict[str, int]) -> str:
    """One value alone, or each with how often it occurs."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def print_description(report: dict[str, Any]) -> None:
    """A dry run's report for people."""
    print(f"{report['config']} -> {report['run_dir']}")
    print_table(report["parameters"])
    print(f"parameters: {report['parameter_count']:,}")
    for name, size in report["bytes"].items():
        print(f"  {name}: {size / 1e6:.2f} MB")
    if begins := report["init_from"]:
        print(f"init_from: {begins['run']}, step {begins['step']}, checkpoint {begins['digest']}")
    print(f"GRU: {report['gru']}")
    print(f"CTC: {report['ctc']}")
    print(f"determinism: {report['determinism']}")
    print(
        f"batches: {report['steps_per_epoch']} an epoch, {report['total_steps']} steps in all; "
        f"{len(report['batch_shapes'])} shapes (one compilation each), padding {report['padding']:.1%} of frames"
    )
    print_table(report["batch_shapes"])
    print(
        f"utterances: {report['utterances']}; seconds of audio: {report['audio_seconds']:.0f}; classes: {report['classes']}"
    )
    print(f"infeasible for CTC: {len(report['infeasible'])}")
    for text in report["infeasible"]:
        print(f"  {text}")
    print("nothing was written")


MOST_SHOWN = 50  # problems of a severity; --json has more


def print_check(document: dict[str, Any]) -> None:
    """What a check of manifests found, for people."""
    for severity in ("error", "warning"):
        texts = document[f"{severity}s"]
        for text in texts[:MOST_SHOWN]:
            print(f"{severity}: {text}")
        if len(texts) > MOST_SHOWN:
            print(f"... and {len(texts) - MOST_SHOWN} more {severity}s; --json lists them")
    manifests = document["manifests"]
    names = ("utterances", "usable", "hours", "speakers", "distinct_texts", "characters", "characters_per_second")
    print_table(
        [{"manifest": found["manifest"]} | {name: found["totals"][name] for name in names} for found in manifests]
    )
    if any(found["totals"]["usable"] and found["kinds"]["errors"] for found in manifests):
        print("usable: the recording has no error; what is wrong with texts is in the errors and warnings above")
    for found in manifests:
        _print_manifest(found)
    counts = [row["buckets"] for row in manifests[0]["padding"]]
    print("padding, % of the frames that are computed, by number of buckets (batches.buckets; each is a compilation):")
    print_table(
        [
            {"manifest": found["manifest"]} | {str(row["buckets"]): f"{row['share']:.1%}" for row in found["padding"]}
            for found in manifests
            if len(found["padding"]) == len(counts)
        ]
    )
    if document["leakage"]:
        print("utterances of a split that have what another has too:")
        print_table(document["leakage"])
    print("  ".join(f"{name} {value}" for name, value in document["totals"].items()))


def _print_manifest(found: dict[str, Any]) -> None:
    """What a table of totals has no room for."""
    lines = [
        f"{name} " + ", ".join(f"{value} ({count:,} times)" for value, count in counts.items())
        for name, counts in found["headers"].items()
    ]
    lines += [
        f"{name.replace('_', ' ')}: median {middle:g}, nine of ten from {low:g} to {high:g}"
        for name, histogram in found["histograms"].items()
        if histogram["percentiles"]
        for low, middle, high in (histogram["percentiles"],)
    ]
    lines += [
        f"{name} " + ", ".join(f"{id!r} {seconds:g} s" for id, seconds in found[name].items())
        for name in ("longest", "shortest")
        if found[name]
    ]
    print(f"{found['manifest']}:")
    for line in lines:
        print(f"  {line}")
