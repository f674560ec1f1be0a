"""What `dsrun eval` prints for people: rates, tables of where the errors are, and a comparison."""

from collections.abc import Sequence
from typing import Any

from dsrun.cli_tables import print_table, printable

MOST_SPEAKERS = 10  # at either end
MOST_CONFUSED = 10


def print_scores(report: dict[str, Any]) -> None:
    """An evaluation's rates, intervals and examples."""
    from dsrun.evaluation.results import notes_on_tuning

    _print_origin(report)
    for name, counts in (("cer", "characters"), ("wer", "words")):
        count = report[counts]
        print(
            f"{name.upper()}       {report[name]:.4f}  {_interval(report[f'{name}_interval'])}  {count['errors']} errors in "
            f"{count['reference_length']} {counts}: {count['substitutions']} substitutions, {count['deletions']} deletions, "
            f"{count['insertions']} insertions"
        )
    if speed := report.get("speed"):
        print(
            f"speed     {speed['audio_seconds']:.1f} s of audio in {speed['recognising_seconds']:.2f} s: "
            f"{speed['times_real_time'] or 0.0:.1f} times real time, without reading and compiling ({speed['compiling_seconds']:.1f} s)"
        )
    if not report.get("manifest_is_as_trained", True):
        print("          not one of the manifests that the run was trained with, as they were then")
    for note in notes_on_tuning(report):
        print(f"          {note}")
    if unknown := report.get("unknown_characters"):
        found = ", ".join(f"{character!r} {count} times" for character, count in unknown.items())
        print(f"characters outside the alphabet, which the network cannot write: {found}")
    for name, example in report["examples"].items():
        texts = (printable(example[key]) for key in ("reference", "hypothesis"))
        print("{:<7} {}\n   said   {}\n   read   {}".format(name, printable(example["id"]), *texts))
    if report["details"]:
        print(f"each utterance: {report['details']}")


def print_model(report: dict[str, Any]) -> None:
    """Which model a report is of: a run's checkpoint, in which format if it is not that of its training, or an export."""
    if "export" in report:
        run = printable(report["exported_from"])
        print(f"export    {report['export']}  {report['format']}, of {run}, checkpoint step {report['step']}")
        return
    as_exported = f", exported as {report['format']}" if "format" in report else ""
    print(f"run       {report['run']}  checkpoint step {report['step']}{as_exported}")


def _print_origin(report: dict[str, Any]) -> None:
    if "results" in report:
        print(f"results   {report['results']}  {report['utterances']} utterances")
        return
    print_model(report)
    print(f"manifest  {report['manifest']}  {report['utterances']} utterances")
    if report["decoder"]["kind"] != "greedy":
        settings = ", ".join(f"{name} {value}" for name, value in report["decoder"].items() if value is not None)
        print(f"decoder   {settings.removeprefix('kind ')}")
    if report["determinism"] != "strict":
        print(f"          determinism {report['determinism']}")


def print_breakdown(report: dict[str, Any]) -> None:
    """Where the errors are: by length, by speaker, and what is confused with what."""
    if rows := report["by_length"]:
        print("\nby length")
        print_table([{"seconds": _span(row["seconds"]), **_cells(row)} for row in rows])
    if speakers := report["by_speaker"]:
        _print_speakers(speakers)
    for unit, kinds in report["confusions"].items():
        lines = [(text, _confused(kinds[kind])) for kind, text in _KINDS]
        if any(found for _, found in lines):
            print(f"\n{unit} (times of how often spoken)")
            for text, found in lines:
                print(f"  {text:<8} {found or '-'}")


_KINDS = (("substitutions", "misread"), ("deletions", "left out"), ("insertions", "put in"))


def _print_speakers(found: dict[str, Any]) -> None:
    rows, count = found["rows"], found["speakers"]
    print(f"\nby speaker: {count} speaker{'s' * (count > 1)}, worst first")
    table = [{"speaker": printable(row["speaker"]), **_cells(row)} for row in rows]
    if unknown := found["without_speaker"]:
        table.append({"speaker": "(not known)", **_cells(unknown)})
    if len(table) > 2 * MOST_SPEAKERS + 1:
        dots = dict.fromkeys(table[0], "...")
        table = [*table[:MOST_SPEAKERS], dots, *table[-MOST_SPEAKERS:]]
    print_table(table)
    for name in ("cer", "wer"):
        spread = "  ".join(f"{key} {value:.4f}" for key, value in found["spread"][name].items())
        print(f"{name.upper()} of a speaker: {spread}")
        if interval := found[f"{name}_interval"]:
            print(
                f"{name.upper()} of the corpus, 95% interval over speakers instead of utterances: {_interval(interval)}"
            )


def print_comparison(report: dict[str, Any]) -> None:
    """Two systems on the same utterances."""
    found = report["comparison"]
    first, second = found["names"]
    print(f"\ncomparison of {found['utterances']} utterances, paired\n  first   {first}\n  second  {second}")
    for name in ("cer", "wer"):
        row = found[name]
        print(
            f"{name.upper()}  {row['first']:.4f} and {row['second']:.4f}: first minus second {_difference(row)}: {row['verdict']}; "
            f"fewer errors in {row['first_better']} and {row['second_better']} utterances"
        )
        if grouped := row["by_speaker"]:
            print(
                f"     over {grouped['speakers']} speakers instead of utterances {_difference(grouped)}: {grouped['verdict']}"
            )
    for row in found["differing"][:5]:
        print(f"{printable(row['id'])}: {row['first_errors']} and {row['second_errors']} character errors")
        for name, key in (("said", "reference"), ("first", "first"), ("second", "second")):
            print(f"   {name:<7}{printable(row[key])}")


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    rates = {
        key: value
        for name in ("cer", "wer")
        for key, value in (
            (name.upper(), f"{row[name]:.4f}"),
            (f"{name.upper()} 95%", _interval(row[f"{name}_interval"])),
        )
    }
    return {"utterances": row["utterances"], "words": row["words"]["reference_length"], **rates}


def _interval(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def _difference(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}], p = {row['p_value']:.2g}"


def _span(seconds: Sequence[float] | None) -> str:
    return "not known" if seconds is None else f"{seconds[0]:.2f} to {seconds[1]:.2f}"


def _confused(kind: dict[str, Any]) -> str:
    shown = kind["rows"][:MOST_CONFUSED]
    texts = []
    for row in shown:
        text = " > ".join(_quoted(row[key]) for key in ("said", "read") if row[key] is not None)
        texts.append(f"{text} {row['count']}" + (f"/{row['spoken']}" if row["spoken"] is not None else ""))
    more = kind["distinct"] - len(shown)
    return ", ".join(texts) + (f" and {more} more kinds" if more > 0 else "")


def _quoted(text: str) -> str:
    return f"'{text}'" if " " in text else printable(text)
