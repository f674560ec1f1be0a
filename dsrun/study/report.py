"""A report of runs: every exhibit that these run folders have something for, as one page and as files.

Only run folders are read, so that a report can be made again for any old run, on any machine, without the data: the same folders give
the same bytes, whoever makes it, when and where. Their order counts: the first setting is the one that others are compared with.

An exhibit is a function from runs to what it shows, in a module of its own: None where these runs have nothing to show,
several where one figure would be too much (`exhibit.py`). To add one, write it and name it in `exhibit_functions`, in the page's
order.

    report.html             the page
    report_figures/         NAME.svg, NAME.png, NAME.csv of each exhibit, and contents.txt, which lists them
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsrun.errors import UsageError
from dsrun.record.durable import require_own, why_not_writable, write_atomically
from dsrun.study.bytes_and_time import bytes_and_time
from dsrun.study.compare import baseline_of
from dsrun.study.ctc_posterior import ctc_posterior
from dsrun.study.determinism_strip import determinism_strip
from dsrun.study.error_rates import error_rates
from dsrun.study.exhibit import Exhibit
from dsrun.study.figure_files import as_csv, draw
from dsrun.study.flops_against_devices import flops_against_devices
from dsrun.study.groups import Group, group_runs
from dsrun.study.learning_curves import learning_curves
from dsrun.study.loss_scale import loss_scale
from dsrun.study.magnitude_histograms import magnitude_distribution, magnitude_histograms
from dsrun.study.report_page import Item, is_page, render_page
from dsrun.study.run_record import RunRecord, Split
from dsrun.study.runs_table import notes, run_names
from dsrun.study.swallowed_updates import swallowed_updates
from dsrun.study.underflow_by_layer import underflow_by_layer
from dsrun.study.underflow_overflow import underflow_overflow
from dsrun.study.utterances import utterances
from dsrun.study.verdict_strip import verdict_strip

Found = Exhibit | Sequence[Exhibit] | None
Tell = Callable[[str], None]
CONTENTS = "contents.txt"
_OWN_NAME = re.compile(r"[a-z0-9_]+\.(svg|png|csv)")
MOST_IN_TITLE = 2


@dataclass(frozen=True)
class Report:
    """What was found in the folders: everything but the pictures."""

    title: str
    runs: list[RunRecord]
    groups: list[Group]
    notes: list[str]
    exhibits: list[Exhibit]

    @property
    def summary(self) -> str:
        """How much there is, and what is compared with what."""
        runs, settings = len(self.runs), len(self.groups)
        if runs == 1:
            return "One run."
        if settings == 1:
            return f"{runs} runs of one setting, {self.groups[0].label}, which differ in their seeds."
        return f"{runs} runs of {settings} settings. Differences are to {self.groups[0].label}, the first of them."

    def to_json(self) -> dict[str, Any]:
        """What `dsrun report --json` prints."""
        return {
            "title": self.title,
            "runs": [
                {"run": name, "setting": group.label, "seed": run.seed}
                for name, run in zip(run_names(self.runs), self.runs, strict=True)
                for group in self.groups
                if any(run is other for other in group.runs)
            ],
            "notes": self.notes,
            "exhibits": [exhibit.to_json() for exhibit in self.exhibits],
        }


def exhibit_functions(
    split: Split, benches: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Callable[[Sequence[RunRecord]], Found]]]:
    """What a report shows, in the page's order, each with what to call it while it is made.

    Args:
        split: that verdicts are given on. benches: JSON reports of `dsrun bench step` and `scaling`.
    """
    return [
        ("verdicts", partial(verdict_strip, split=split)),
        ("learning curves", learning_curves),
        ("magnitudes", magnitude_distribution),
        ("magnitudes by layer", magnitude_histograms),
        ("swallowed updates", swallowed_updates),
        ("underflow and overflow", underflow_overflow),
        ("underflow by layer", underflow_by_layer),
        ("loss scale", loss_scale),
        ("error rates", partial(error_rates, split=split)),
        ("what the network heard", ctc_posterior),
        ("utterances", partial(utterances, split=split)),
        ("bytes and time", bytes_and_time),
        ("determinism", determinism_strip),
        ("TFLOP/s", partial(flops_against_devices, benches=benches)),
    ]


def make_report(
    runs: Sequence[RunRecord],
    *,
    title: str | None = None,
    baseline: str | None = None,
    why_baseline: str | None = None,
    split: Split | None = None,
    benches: Sequence[Mapping[str, Any]] = (),
    tell: Tell = lambda text: None,
) -> Report:
    """Find what the runs have to show; draws nothing yet.

    Args:
        baseline: label of a setting, or a run's name or path, that others are compared with; default: the first. why_baseline: a note
            on that.
        split: that verdicts are given on; default: test if any run was scored there, else dev.
        tell: takes a line on what is being done.

    Raises:
        UsageError: no such baseline, or nothing was scored on that split.
        DataError: a file in a run folder is damaged.
    """
    ordered = with_baseline_first(runs, baseline)
    groups = group_runs(ordered)
    exhibits: list[Exhibit] = []
    for name, function in exhibit_functions(choose_split(ordered, split), benches):
        tell(f"reading {name}")
        found = function(ordered)
        exhibits += [found] if isinstance(found, Exhibit) else found or []
    about = [f"{why_baseline[0].upper()}{why_baseline[1:]}."] if why_baseline else []
    return Report(title or _title(groups, ordered), ordered, groups, [*about, *notes(ordered)], exhibits)


def with_baseline_first(runs: Sequence[RunRecord], baseline: str | None) -> list[RunRecord]:
    """The runs with those of the baseline's setting first; the others stay in order.

    Raises:
        UsageError: there is no such setting or run.
    """
    if baseline is None:
        return list(runs)
    groups = group_runs(runs)
    numbered = dict(zip(run_names(runs), runs, strict=True))  # names that the page has made different
    try:
        first, _ = baseline_of(groups, baseline)
    except UsageError:
        if baseline not in numbered:
            raise
        first, _ = baseline_of(groups, str(numbered[baseline].path))
    own = {id(run) for run in first.runs}
    return sorted(runs, key=lambda run: id(run) not in own)


def choose_split(runs: Sequence[RunRecord], split: Split | None) -> Split:
    """The split that verdicts are given on.

    Raises:
        UsageError: nothing was scored on the one that was asked for.
    """
    if split is None:
        return "test" if any(run.results_path("test") for run in runs) or not runs else "dev"
    if not any(run.results_path(split) for run in runs):
        raise UsageError(
            f"--split {split}: no run has results on it (evaluation/*.jsonl). `dsrun eval RUN --manifest FILE` scores a run."
        )
    return split


def check_output(page: Path) -> None:
    """Raises UsageError where the page or its folder of figures cannot be written, or is somebody's; before the work and not after it."""
    if page.suffix not in (".html", ".htm"):
        raise UsageError(f"{page}: write a name that ends in .html.")
    if cannot := why_not_writable(page.parent):
        raise UsageError(f"{cannot} Say where the page goes, e.g. -o report.html.")
    if not page.parent.is_dir():
        raise UsageError(
            f"{page}: the folder {page.parent} does not exist. `mkdir -p {shlex.quote(str(page.parent))}` makes it."
        )
    if page.is_dir():
        raise UsageError(f"{page}: a folder. Choose another name.")
    require_own(page)
    if page.is_file() and not is_page(page):
        raise UsageError(
            f"{page}: there already, and no report of dsrun's. Choose another name, or move that file away."
        )
    folder = figures_folder(page)
    require_own(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: a file, where the figures would go. Choose another name for the page.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONTENTS).is_file():
        raise UsageError(
            f"{folder}: there already, and not written by dsrun report (no {CONTENTS}). Choose another name for the page."
        )


def figures_folder(page: Path) -> Path:
    """Where a page's figures go: `report.html` has `report_figures`."""
    return page.with_name(f"{page.stem}_figures")


def write_report(report: Report, page: Path, tell: Tell = lambda text: None) -> list[Path]:
    """Draw everything, write the figures, and the page last; what an earlier report left and this one has not is removed.

    Returns:
        The files written, the page first.

    Raises:
        UsageError: somebody's file has the name of one of them.
        CannotWriteError: there is no room.
    """
    folder = figures_folder(page)
    folder.mkdir(exist_ok=True)
    old = _listed(folder)
    names = [name for exhibit in report.exhibits for name in Item(exhibit, None).files]
    for name in names:
        require_own(folder / name)
        if (folder / name).exists() and name not in old:
            raise UsageError(f"{folder / name}: there already, and not written by dsrun report. Move that file away.")
    write_atomically(folder / CONTENTS, "".join(f"{name}\n" for name in sorted({*old, *names})))
    items = []
    for number, exhibit in enumerate(report.exhibits, start=1):
        tell(f"drawing {exhibit.title} ({number} of {len(report.exhibits)})")
        picture = draw(exhibit) if exhibit.draw else None
        if picture:
            write_atomically(folder / f"{exhibit.name}.svg", picture.wide)
            write_atomically(folder / f"{exhibit.name}.png", picture.png)
        write_atomically(folder / f"{exhibit.name}.csv", as_csv(exhibit.rows))
        items.append(Item(exhibit, picture))
    for name in old - set(names):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / CONTENTS, "".join(f"{name}\n" for name in sorted(names)))
    write_atomically(page, render_page(report.title, report.summary, items, report.runs, report.notes))
    return [page, *(folder / name for name in names)]


def _listed(folder: Path) -> set[str]:
    """What an earlier report wrote into the folder; names that no report writes are left out."""
    contents = folder / CONTENTS
    require_own(contents)
    if not contents.is_file():
        return set()
    lines = contents.read_text(encoding="utf-8", errors="replace").splitlines()
    return {line for line in lines if _OWN_NAME.fullmatch(line)}


def _title(groups: Sequence[Group], runs: Sequence[RunRecord]) -> str:
    if len(runs) == 1:
        return run_names(runs)[0]
    if len(groups) == 1:
        return f"{groups[0].label}, {len(runs)} runs"
    if len(groups) <= MOST_IN_TITLE:
        return " · ".join(group.label for group in groups)
    return f"{groups[0].label} and {len(groups) - 1} other settings"
