"""The picture of `dsrun data check --plot`: how long, how fast spoken, and what padding costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsrun.data_check import CheckedData
from dsrun.study.plots import check_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dsrun.speech import Histogram, Padding

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: seen by all eyes
TEXTS = {"seconds": "seconds an utterance", "characters_per_second": "characters a second"}


def draw_check(checked: CheckedData, output: Path) -> None:
    """A row a manifest with two histograms, and beside them the share of padding for each number of buckets.

    Raises:
        UsageError: a name that no picture can have.
    """
    import matplotlib
    from matplotlib.figure import Figure

    check_suffix(output)
    names = list(checked.manifests)
    figure = Figure(figsize=(12, 2.6 * len(names) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(names), 3)
    for row, name in enumerate(names):
        report = checked.manifests[name]
        colour = COLOURS[row % len(COLOURS)]
        for column, (key, text) in enumerate(TEXTS.items()):
            axes = figure.add_subplot(grid[row, column])
            _draw_histogram(axes, report.histograms[key], text, colour)
            if column == 0:
                found = report.totals
                title = f"{_short(name)}: {found['usable']:,} utterances, {found['hours']:.2f} h"
                axes.set_title(title, fontsize=9, loc="left", parse_math=False)
    _draw_padding(figure.add_subplot(grid[:, 2]), checked.padding)
    with matplotlib.rc_context({"svg.hashsalt": "dsrun"}):
        figure.savefig(output, dpi=110, metadata={"Date": None} if output.suffix == ".svg" else None)


def _short(name: str) -> str:
    return "/".join(Path(name).parts[-2:])


def _draw_histogram(axes: "Axes", found: "Histogram", text: str, colour: str) -> None:
    axes.set_xlabel(text, fontsize=8)
    axes.set_ylabel("utterances", fontsize=8)
    axes.tick_params(labelsize=8)
    if not found.counts:
        axes.text(0.5, 0.5, "nothing to count", ha="center", transform=axes.transAxes)
        return
    edges = found.start + found.width * np.arange(len(found.counts))
    axes.bar(edges, found.counts, width=found.width, align="edge", color=colour, edgecolor="white", lw=0.3)
    if found.percentiles:
        low, middle, high = found.percentiles
        for value, style in ((low, ":"), (middle, "-"), (high, ":")):
            axes.axvline(value, color="black", lw=0.9, ls=style)
        axes.set_xlabel(f"{text}: median {middle:.3g}, nine of ten from {low:.3g} to {high:.3g}", fontsize=8)


def _draw_padding(axes: "Axes", padding: "Mapping[str, Sequence[Padding]]") -> None:
    for row, (name, found) in enumerate(padding.items()):
        counts, shares = [p.buckets for p in found], [100 * p.share for p in found]
        axes.plot(counts, shares, marker="o", ms=4, color=COLOURS[row % len(COLOURS)], label=_short(name))
    axes.set_xscale("log", base=2)
    counts = sorted({p.buckets for found in padding.values() for p in found})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batches.buckets (each is a compilation)", fontsize=8)
    axes.set_ylabel("padding, % of computed frames", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)  # a path may have dollars in it
