"""`dsrun study tensorboard`: runs as TensorBoard's event files, once or beside runs that go on.

On the roof beside `cli.py`. What is told is `study/replay.py`'s, the files are `study/tensorboard.py`'s. No JAX.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dsrun.cli_tables import printable, printable_lines
from dsrun.errors import UsageError
from dsrun.record.run_dir import RunDir

EXAMPLE = "Example: dsrun study tensorboard runs/formats -o tensorboard; then tensorboard --logdir tensorboard"
EVERY = 5.0  # seconds


def tensorboard(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN|FOLDER...", help="Run folders, or folders of run folders.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the event files, a folder in it a run.")],
    histograms: Annotated[
        str,
        typer.Option(help="Magnitudes of watched steps: of all tensors of a kind (kinds), of each (tensors), none."),
    ] = "kinds",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until all runs have ended.")] = False,
) -> None:
    """Write runs as TensorBoard's event files: curves, magnitudes by binade, samples, config and provenance.

    events.jsonl stays the truth, and nothing in a run folder is touched. Steps come once, resumed or not. Times are training times
    from 0, the sum of the steps: choose "Relative" as the horizontal axis. Needs the extra: pip install 'dsrun[tensorboard]'.
    """
    from dsrun.study.tensorboard import TensorBoardRun, require_tensorboardx

    require_tensorboardx()
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: not a folder.")
    counts = replay(
        paths, lambda name, config: TensorBoardRun(output / name, config), histograms, output=output, follow=follow
    )
    for name, count in counts.items():
        print(printable(f"{output / name}  {count} records"))


def replay(
    paths: Sequence[Path],
    begin: Any,
    histograms: str = "kinds",
    *,
    output: Path | None = None,
    follow: bool = False,
    every: float = EVERY,
) -> dict[str, int]:
    """Feed runs to a tracker.

    Args:
        begin: (name, config) to an object with `write`, `restart`, `flush` and `close`.
        output: folder that it writes to, a file or a folder by the run's name in it.
        follow: until all runs have ended.

    Returns:
        Records written, by the run's name.

    Raises:
        UsageError: not run folders, one with a name that leads out of it, an unknown detail of histograms, or an output in a run folder.
    """
    from dsrun.inspection import read_values, run_folders, without_files_of_sweeps
    from dsrun.study.replay import Replay

    if histograms not in ("kinds", "tensors", "none"):
        raise UsageError(f"--histograms {histograms}: write kinds, tensors or none.")
    folders = list(dict.fromkeys(folder for path in without_files_of_sweeps(paths) for folder in run_folders(path)))
    for folder in folders:
        RunDir(folder).require_own_contents()  # what they hold is handed on, and a pipe would never answer
    names = _names(folders)
    if output is not None:
        _require_outside(output, folders, names)
    sources = {names[folder]: Replay(folder, read_values(folder), histograms=histograms) for folder in folders}  # type: ignore[arg-type]
    sinks = {name: begin(name, source.config) for name, source in sources.items()}
    counts = dict.fromkeys(sources, 0)
    try:
        while True:
            is_over = all(
                source.is_ended() for source in sources.values()
            )  # asked before the last reading, which then has all
            for name, source in sources.items():
                batch = source.next()
                if batch.is_anew:
                    sinks[name].restart()
                    counts[name] = 0
                for problem in batch.problems:
                    print(printable_lines(problem), file=sys.stderr)
                for record in batch.records:
                    sinks[name].write(record)
                counts[name] += len(batch.records)
                sinks[name].flush()
            if is_over or not follow:
                return counts
            time.sleep(every)
    finally:
        for sink in sinks.values():
            sink.close()


def _require_outside(output: Path, folders: Sequence[Path], names: Mapping[Path, str]) -> None:
    """Raises UsageError where a run folder would be written into."""
    own = {folder.resolve() for folder in folders}
    for target in (output, *(output / name for name in names.values())):
        resolved = target.resolve()
        if hit := own & {resolved, *resolved.parents}:
            raise UsageError(
                f"{output}: would write into the run folder {hit.pop()}. Choose a folder of its own, such as tensorboard."
            )


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The folders' own names; with that of the folder they are in where two are the same."""
    own = [folder.resolve().name for folder in folders]
    long = {folder: "-".join(folder.resolve().parts[-2:]) for folder in folders}
    names = {folder: name if own.count(name) == 1 else long[folder] for folder, name in zip(folders, own, strict=True)}
    if len(set(names.values())) < len(names):
        raise UsageError("runs of the same name in folders of the same name: give them one after the other.")
    return names
