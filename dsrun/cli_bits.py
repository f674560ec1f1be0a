"""`dsrun diff` and `dsrun verify`: have two runs, or a run and its repetition, the same bits, and where do they part?

On the roof beside `cli.py`: options, texts and tables. What is compared is `study/diff.py`'s, the repetition `verification.py`'s.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN = 10  # tensors that people are told of; --json has them all

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, with every tensor.")]
DIFF_EXAMPLE = (
    "Example: dsrun diff runs/prompts_float32-1a2b3c runs/again. Exit codes: 0 the same bits; 1 different; 2 bad usage, or nothing to "
    "compare; 3 a damaged file."
)


def diff(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one.")],
    json_output: JsonOption = False,
) -> None:
    """Have two runs the same bits? If not: the first step and the tensors that differ there, how far, and what may explain it.

    Reads the folders and nothing else; either run may still be going on, or be shorter. Training leaves a 64-bit hash of every
    tensor at each step (training.hash_every_steps), and a SHA-256 of the whole state now and then (training.digest_every_steps) and at
    each checkpoint. Runs without them are compared by what both have, down to the losses, and the table says by what.

    Step n is the state after n updates. A loss is that of the state before its update, so it shows a difference a step later, or
    never, where the difference is too small. How many elements differ, and by how many ulps (steps to the next larger value of the
    dtype), is read from checkpoints: of the first step that differs, or of the next one that both folders hold.
    """
    from dsrun.cli_study import print_json
    from dsrun.inspection import open_run
    from dsrun.study.diff import diff_runs

    report = diff_runs(open_run(a), open_run(b))
    print_json(report) if json_output else print_diff(report)
    if not report["same"]:
        raise typer.Exit(1)


VERIFY_EXAMPLE = (
    "Example: dsrun verify runs/prompts_float32-1a2b3c --steps 20. Exit codes: 0 verified; 1 different; 2 bad usage, or nothing to "
    "compare with; 3 bad data or a damaged file."
)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/prompts_float32-1a2b3c.")],
    steps: Annotated[int, typer.Option(min=1, help="How many of its first steps.")] = 10,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Devices to use; default all. Changes the speed, never a bit of the result."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Does a run come again, bit for bit, here and now? Trains its first steps once more and compares each state with the record.

    The config is the run's own, so a difference has its reason elsewhere: in the code, a version, the machine, a flag, the data. What
    of these is not as it was at the run's start is told before the first step, and again if the bits differ. Without such a reason a
    difference is a fault of the hardware or of dsrun. A state is compared tensor by tensor with the hashes that training left
    (training.hash_every_steps), else by digests, else by its loss, and the report says by what. Nothing is written, neither into the run
    folder nor into a cache.
    """
    from dsrun.cli_study import print_json
    from dsrun.verification import verify_run

    report = verify_run(run, steps=steps, devices=devices)
    print_json(report) if json_output else print_verification(report)
    if report["first_different"] is not None:
        raise typer.Exit(1)


def print_verification(report: dict[str, Any]) -> None:
    """The report for people."""
    count = report["steps_compared"]
    if report["first_different"] is None:
        caution = "; equal losses do not show that the states are" if report["what"] == "losses" else ""
        print(
            f"{report['run']}: verified up to step {report['verified_up_to']}: {report['what']} of {count} steps{caution}"
        )
        return
    before = report["verified_up_to"]
    since = f"equal up to step {before}" if before else "none is equal"
    print(f"{report['run']}: DIFFERENT at step {report['first_different']} ({since}), by {report['what']}")
    loss = report["loss"]
    print(f"loss of that step: {loss['then']!r} then, {loss['now']!r} now")
    _print_tensors(report)
    if report["provenance"]:
        print("\nnot as it was when the run began, hence the likely reason:")
        _table(
            [
                {"key": row["key"], "then": _short(row["then"]), "now": _short(row["now"])}
                for row in report["provenance"]
            ]
        )
    else:
        print(
            "\nversions, code, flags, device kind and data are as they were, so this is a fault of the hardware or of dsrun."
        )


def print_diff(report: dict[str, Any]) -> None:
    """The report for people."""
    for name, last in zip("ab", report["last_step"], strict=True):
        print(f"{name.upper()}  {report[name]}  to step {last}")
    print(_headline(report))
    print()
    _table([_words(row) for row in report["compared"]])
    _print_tensors(report)
    _print_checkpoint(report)
    if loss := report["first_different_loss"]:
        print(f"\nfirst loss that differs: step {loss['step']}: {loss['a']!r} in A, {loss['b']!r} in B")
    print_circumstances(report)


def _headline(report: dict[str, Any]) -> str:
    what = report["compared"][0]["what"]
    caution = (
        "; losses are all that both have, and equal losses do not show that the states are" if what == "losses" else ""
    )
    if report["same"]:
        shorter = min(report["last_step"])
        more = {name: last for name, last in zip("AB", report["last_step"], strict=True) if last > shorter}
        longer = "".join(f"; {name} goes on to step {last}" for name, last in more.items())
        return f"the same bits up to step {report['equal_up_to']}, by {what}{longer}{caution}"
    before = report["equal_up_to"]
    since = "none is known to be equal" if before is None else f"equal up to step {before}"
    return f"DIFFERENT from step {report['first_different']} on ({since}), by {_by_what(report)}{caution}"


def _by_what(report: dict[str, Any]) -> str:
    return next(row["what"] for row in report["compared"] if row["first_different"] is not None)


def _print_tensors(report: dict[str, Any]) -> None:
    tensors = report["tensors"]
    if names := report.get("tensors_in_one_only"):
        print(
            f"\n{len(names)} tensors are in one run only: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        )
    if not tensors:
        return
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(row["kind"] for row in tensors).items())
    print(
        f"\ntensors that differ at step {report['first_different']}: {len(tensors)} of {report['tensors_hashed']} ({kinds})"
    )
    for row in tensors[:SHOWN]:
        print(f"  {row['name']}{_meaning(row)}")
    if len(tensors) > SHOWN:
        print(f"  ... and {len(tensors) - SHOWN} more: --json lists them")


def _meaning(row: dict[str, Any]) -> str:
    return f"  ({row['meaning']})" if row["meaning"] else ""


def _print_checkpoint(report: dict[str, Any]) -> None:
    if found := report["checkpoint"]:
        tensors = found["tensors"]
        print(f"\ntensors that differ in the checkpoints of step {found['step']}: {len(tensors)}")
        _table([_apart(row) for row in tensors[:SHOWN]])
        if len(tensors) > SHOWN:
            print(f"... and {len(tensors) - SHOWN} more: --json lists them")
    for note in report["checkpoint_notes"]:
        print(f"\n{note}")


def _apart(row: dict[str, Any]) -> dict[str, Any]:
    columns = {"tensor": f"{row['name']}{_meaning(row)}", "dtype": row["dtype"]}
    if "other" in row:
        return (
            columns
            | dict.fromkeys(("differ", "non-finite", "largest ulps", "first at", "A"), "-")
            | {"B": row["other"]}
        )
    (value_a, value_b), (bits_a, bits_b) = row["values"], row["bits"]
    return columns | {
        "differ": f"{row['differing']:,} of {row['elements']:,}",
        "non-finite": row["nonfinite"],
        "largest ulps": "-" if row["largest_ulps"] is None else f"{row['largest_ulps']:,}",
        "first at": str(row["first"]),
        "A": f"{value_a:.9g} {bits_a}",
        "B": f"{value_b:.9g} {bits_b}",
    }


def print_circumstances(report: dict[str, Any]) -> None:
    """What differs around two runs: config, provenance, flags."""
    for name in ("config", "provenance", "flags"):
        rows = report[name]
        print(f"\n{name}: {'the same' if not rows else ''}".rstrip())
        _table([{"key": row["key"], "A": _short(row["a"]), "B": _short(row["b"])} for row in rows])
    for change in report.get("changed_on_the_way", ()):
        print(
            f"\n{change['run'].upper()} went on from step {change['step']} under other circumstances: {_short(change['changed'])}"
        )


def _short(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _words(row: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in row.items()}


def _table(rows: list[dict[str, Any]]) -> None:
    from dsrun.cli_tables import print_table

    print_table(rows)
