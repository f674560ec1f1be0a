"""`dsrun results`: docs/RESULTS.md from run folders, and the records in git that it can be made from again.

On the roof beside `cli.py`. What a record holds is `study/results_record.py`'s, what the page says `study/results_page.py`'s. No JAX.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dsrun.errors import CannotWriteError, DataError, UsageError

EXAMPLE = (
    "Example: dsrun results runs/formats -o docs/RESULTS.md writes docs/results/formats.json too; then, from the records alone, "
    "dsrun results docs/results/*.json -o docs/RESULTS.md"
)
FIRST_LINE = "# Results\n"
COMMAND = "dsrun results {records}/*.json -o {page}"


def results(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN|FOLDER|RECORD.json...", help="Run folders, folders of run folders, records."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The page, a .md file.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Take all runs together as one section of this name.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 3 if the page is not what the records give.")
    ] = False,
) -> None:
    """Write the results page from run folders, a section for each argument, and beside it a record of each (results/NAME.json).

    No number in the page is typed: groups of seeds with intervals, paired differences to the baseline, steps, minutes, device, commit,
    commands, and what is incomplete or diverged. Run folders are not kept in git; the records are, small and without recordings or
    transcripts, and the page is made of the records alone. Those that were made before lie beside the page and stay in it, unless one
    of the same name is made anew. Absolute paths are shortened: from the last folder named data, configs, runs or scripts on, else to
    the file's name.
    """
    if not paths or output is None:
        missing = [
            what for what, given in (("run folders or records", paths), ("the page, -o FILE.md", output)) if not given
        ]
        raise UsageError(f"Say {' and '.join(missing)}. {EXAMPLE}")
    if output.suffix != ".md":
        raise UsageError(f"{output}: write a name that ends in .md.")
    if not check:
        _require_writable(output.parent)
    folder = output.parent / "results"
    records = dict(_records_of(paths, name))
    if len(records) < len(paths) and name is None:
        raise UsageError("two folders of the same name: give one of them another, or take them together with --name.")
    there = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    page = _page(there | records, output)
    if check:
        _require_current(there, records, output, page)
        return
    _require_own(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteError(f"{folder}: {error.strerror}.") from error
    from dsrun.record import write_atomically

    for stem, text in records.items():
        if there.get(stem) != text:
            write_atomically(folder / f"{stem}.json", text)
    write_atomically(output, page)
    print(f"{output}: {len(there | records)} sections; records in {folder}", file=sys.stderr)


def _records_of(paths: Sequence[Path], name: str | None) -> list[tuple[str, str]]:
    """Name and text of each record: read, or made of run folders."""
    from dsrun.inspection import open_runs
    from dsrun.study.results_record import record_text

    if name is not None:
        if any(path.suffix == ".json" for path in paths):
            raise UsageError("--name takes run folders together; a record has its name already.")
        return [(_file_name(name), record_text(name, open_runs(paths), is_experiment=_is_experiment))]
    found = []
    for path in paths:
        if path.suffix == ".json" and path.is_file():
            found.append((path.stem, _read(path)))
        else:
            own = path.resolve().name
            found.append((_file_name(own), record_text(own, open_runs([path]), is_experiment=_is_experiment)))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: no record that can be read as UTF-8 text ({error}). Make it again from the run folders."
        ) from error


def _is_experiment(path: Path) -> bool:
    """Whether a file is a config or a sweep."""
    from dsrun.config import load_config
    from dsrun.errors import DsrunError
    from dsrun.sweep_file import load_sweep

    for load in (load_config, load_sweep):
        try:
            load(path)
        except DsrunError:
            continue
        return True
    return False


def _file_name(name: str) -> str:
    """A section's name as a file's."""
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip("._")
    if not stem:
        raise UsageError(f"--name {name!r}: write a name with a letter or a digit.")
    return stem


def _page(records: dict[str, str], output: Path) -> str:
    from dsrun.study.results_page import render_page
    from dsrun.study.results_record import clean, read_record

    folder = f"{output.parent}/results" if str(output.parent) != "." else "results"
    sections = [read_record(text, f"results/{stem}.json") for stem, text in sorted(records.items())]
    command = COMMAND.format(records=clean(folder), page=clean(str(output)))
    return render_page(sections, command=command, records="[results/](results)")


def _require_own(output: Path) -> None:
    """Raises UsageError for somebody's file."""
    if output.is_file() and not output.read_text(encoding="utf-8", errors="replace").startswith(FIRST_LINE):
        raise UsageError(f"{output}: there already, and no results page. Choose another name, or move that file away.")


def _require_writable(folder: Path) -> None:
    """Raises UsageError, before runs are read, where nothing can be written."""
    from dsrun.record.durable import why_not_writable

    if cannot := why_not_writable(folder):
        raise UsageError(f"{cannot} Say where the page goes with -o.")


def _require_current(there: dict[str, str], records: dict[str, str], output: Path, page: str) -> None:
    stale = [stem for stem, text in records.items() if there.get(stem) != text]
    written = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    if stale or written != page:
        what = f"records of {', '.join(stale)}" if stale else str(output)
        raise DataError(f"{what}: not what the runs and records give. Run the same command without --check.")
