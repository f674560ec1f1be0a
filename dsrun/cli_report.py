"""`dsrun report`: one page of what runs have to show, and its figures as files."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dsrun.cli_options import JsonOption
from dsrun.errors import UsageError

EXAMPLE = "Example: dsrun report runs/formats --baseline float32 -o formats.html"


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of run folders such as a sweep's.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html",
            help="The page; its figures go into FILE_figures beside it. Default: report/report.html in the run folder, report.html in "
            "the folder that holds all the runs.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Setting, run or its path that others are compared with. Default: the first, or of a folder of runs the first scored "
            "plain float32.",
        ),
    ] = None,
    split: Annotated[
        Literal["test", "dev"] | None,
        typer.Option(help="Split that verdicts are given on. Default: test where runs were scored there."),
    ] = None,
    bench: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.json", help="Output of `dsrun bench step --json` or `scaling --json`. Repeatable."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write a page that compares runs: verdicts with intervals, learning curves, magnitudes, costs, bits.

    Reads run folders alone, so it works for any old run, without the data and without a GPU. The same folders give the same page.
    """
    from dsrun.inspection import is_run_folder, open_runs
    from dsrun.study.groups import group_runs, usual_baseline
    from dsrun.study.report import check_output, make_report, write_report

    if output is not None:
        check_output(output)  # before the runs are read
    records = open_runs(runs)
    why = None
    if baseline is None and not is_run_folder(runs[0]):  # nobody put them into an order
        first, why = usual_baseline(group_runs(records))
        baseline = first.label
    page = output or default_page([record.path for record in records])
    if output is None and page.parent.name == "report" and len(records) == 1:
        _make_folder(page.parent)
    check_output(page)
    found = make_report(
        records,
        title=title,
        baseline=baseline,
        why_baseline=why,
        split=split,
        benches=[read_bench(path) for path in bench or []],
        tell=_tell,
    )
    files = write_report(found, page, _tell)
    if json_output:
        print(json.dumps(found.to_json() | {"page": str(page), "files": [str(file) for file in files]}, indent=2))
    else:
        print(page)


def default_page(runs: list[Path]) -> Path:
    """Where the page goes if nobody says: into the run's own folder, or beside the runs.

    Raises:
        UsageError: the runs are not all in one folder.
    """
    if len(runs) == 1:
        return runs[0] / "report" / "report.html"
    if len({run.resolve().parent for run in runs}) > 1:
        raise UsageError("These runs are in different folders: say where the page goes, e.g. -o report.html.")
    return runs[0].parent / "report.html"


def _make_folder(folder: Path) -> None:
    """Raises UsageError where a run folder takes none."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}). Say where the page goes, e.g. -o report.html."
        ) from None


def read_bench(path: Path) -> dict[str, Any]:
    """A report of `dsrun bench`.

    Raises:
        UsageError: not such a file.
    """
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"--bench {path}: no JSON report. `dsrun bench step --json > {path.name}` writes one.")
    return found


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
