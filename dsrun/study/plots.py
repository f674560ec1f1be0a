"""Figures of the studies, as SVG or PNG by the name's suffix; the same numbers give the same bytes again.

Here are those of formats, of one watched step and of scaling. The talk's two have a module each (`cartoon_exhibit.py`,
`accumulate_exhibit.py`), for they are also exhibits of a report.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.errors import UsageError
from dsrun.study.styles import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dsrun.study.magnitudes import Panel
    from dsrun.study.scaling_model import ScalingPanel

SUFFIXES = (".png", ".svg")


def check_suffix(output: Path) -> None:
    """Raises UsageError for a name that no figure can have; before the work and not after it."""
    if output.suffix not in SUFFIXES:
        raise UsageError(f"{output}: write a name that ends in {' or '.join(SUFFIXES)}.")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: the folder {output.parent} does not exist.")


def draw_formats(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Ranges on a logarithmic scale: normal numbers solid, subnormal ones pale, precision written beside."""
    figure = _figure(8.5, 0.9 + 0.3 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        top = np.log2(row["largest"])
        normal = np.log2(row["smallest_normal"]) if row["smallest_normal"] else None
        smallest = np.log2(row["smallest_subnormal"]) if row["smallest_subnormal"] else normal
        smallest = 0.0 if smallest is None else smallest
        pale_top = top if normal is None else normal
        axes.barh(place, max(pale_top - smallest, 0.3), left=smallest, color="#9ecae1", height=0.6)
        if normal is not None:
            axes.barh(place, max(top - normal, 0.3), left=normal, color=COLOURS[0], height=0.6)
        note = f"p = {row['precision']}" if row["kind"] in ("float", "block") else f"{row['values']:,} values"
        axes.text(top + 3, place, note + (", times a scale" if row["scale"] else ""), va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row["format"] for row in reversed(rows)], fontsize=8)
    low, high = axes.get_xlim()
    axes.set(xlim=(low - 2, high + 0.12 * (high - low)), ylim=(-0.6, len(rows) - 0.4))
    axes.set(
        xlabel="log2 of the magnitude",
        title="ranges: normal numbers, and subnormal ones (pale), whose spacing is constant",
    )
    save_figure(figure, output)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", output: Path) -> None:
    """Write a figure; raises UsageError for a name that no figure can have."""
    import matplotlib

    check_suffix(output)
    # SVG has the date and random ids in it unless told otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "dsrun"}):
        figure.savefig(output, dpi=130, metadata={"Date": None} if output.suffix == ".svg" else None)


def draw_magnitudes(panels: "Sequence[Panel]", title: str, output: Path) -> None:
    """A histogram a panel, log-log, with bands for what the format flushes, holds with fewer bits, holds, and cannot reach."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(4.4 * columns, 3.3 * rows + 0.5)
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for own, panel in zip(axes, panels, strict=False):
        _draw_magnitude_panel(own, panel)
    for empty in axes[len(panels) :]:
        empty.set_axis_off()
    figure.suptitle(title, fontsize=10)
    save_figure(figure, output)


def _draw_magnitude_panel(axes: "Axes", panel: "Panel") -> None:
    exponents = [int(e) for curve in panel.curves for e in curve.exponents] or [0]
    low, high = min(exponents) - 3, max(exponents) + 5
    for name, left, right, colour in _bands(panel):
        start, stop = max(left, low), min(right, high)
        if start < stop:
            axes.axvspan(start, stop, color=colour, lw=0, zorder=0)
            axes.text((start + stop) / 2, 1.01, name, fontsize=6, ha="center", transform=axes.get_xaxis_transform())
    for place, curve in enumerate(panel.curves):
        zeros = f" ({curve.zero_share:.0%} zeros)" if curve.zero_share >= 0.005 else ""
        if len(curve.exponents):
            # A binade from 2**e to 2**(e+1) is a step of its width; a binade without values is a gap.
            span = np.arange(curve.exponents[0], curve.exponents[-1] + 2)
            shares = np.full(len(span), np.nan)
            shares[curve.exponents - span[0]] = curve.shares
            shares[-1] = shares[-2]
            colour, style = COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else "--"
            axes.step(span, shares, style, where="post", color=colour, lw=1.2, label=f"{curve.label}{zeros}")
        else:
            axes.plot([], [], color="#999999", label=f"{curve.label}: all zero")
    axes.set(xlim=(low, high), yscale="log", xlabel="log2 of the magnitude", ylabel="share of non-zero values")
    axes.set_title(f"{panel.title} ({panel.format})", fontsize=9, pad=14)
    axes.legend(fontsize=5.5, loc="upper left", framealpha=0.6)  # most of the values are at the right


def _bands(panel: "Panel") -> list[tuple[str, float, float, str]]:
    """Name, limits as log2 of the magnitude, and colour; none where the format's scale follows the data."""
    if np.isnan(panel.largest):
        return []
    flushed, top = float(np.log2(panel.smallest_positive)) - 1, float(np.log2(panel.largest))
    normal = flushed if np.isnan(panel.smallest_normal) else max(float(np.log2(panel.smallest_normal)), flushed)
    return [
        ("flushed", -np.inf, flushed, "#f6dfc6"),
        ("subnormal", flushed, normal, "#fbf3d0"),
        ("normal", normal, top, "#eaf4ea"),
        ("overflow", top, np.inf, "#f3d3d3"),
    ]


def draw_scaling(panels: "Sequence[ScalingPanel]", output: Path) -> None:
    """TFLOP/s against the number of devices, both on logarithmic scales: measured marks filled, modelled ones hollow."""
    figure = _figure(5.0 * len(panels), 4.9)
    for axes, panel in zip(np.ravel(figure.subplots(1, len(panels), squeeze=False)), panels, strict=True):
        _draw_scaling_panel(axes, panel)
    width = 68 * len(panels)
    lines = [line for panel in panels for line in textwrap.wrap(panel.caption, width)]
    figure.supxlabel("\n".join(lines), fontsize=7, ha="left", x=0.02)
    save_figure(figure, output)


def _draw_scaling_panel(axes: "Axes", panel: "ScalingPanel") -> None:
    counts = sorted({point.devices for series in panel.series for point in series.points})
    first = panel.series[0].points[0]
    ideal = [first.tflop_per_second * count / first.devices for count in counts]
    axes.plot(counts, ideal, color="black", lw=0.8, label="ideal")
    for place, series in enumerate(panel.series):
        colour, marker = COLOURS[place], "os"[place % 2]
        rates = [point.tflop_per_second for point in series.points]
        axes.plot([p.devices for p in series.points], rates, "--", color=colour, lw=1.0, label=series.name)
        for point in series.points:
            fill = colour if point.is_measured else "white"
            axes.plot(point.devices, point.tflop_per_second, marker, ms=6 - place, mec=colour, mfc=fill)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set(xlabel="devices", ylabel="TFLOP/s", title=panel.title)
    axes.grid(visible=True, which="major", color="#dddddd", lw=0.5)
    axes.legend(fontsize=7)
