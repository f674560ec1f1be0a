"""Figures of the studies, as SVG or PNG by the name's suffix; the same numbers give the same bytes again."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.arithmetic.formats import RANDOM_MODES, GridFormat
from dsrun.errors import UsageError
from dsrun.study.grid import ulp

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dsrun.study.accumulate import Accumulation, UniformSums
    from dsrun.study.cartoon import Trajectory
    from dsrun.study.magnitudes import Panel
    from dsrun.study.scaling_model import ScalingPanel

SUFFIXES = (".png", ".svg")
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#555555",
)  # Okabe and Ito: seen by all eyes
_METHOD_COLOURS = {"ties_to_even": "#d55e00", "stochastic": "#0072b2", "master": "#009e73", "kahan": "#cc79a7"}
_STALLED = "#f6dfc6"
_MAX_POINTS = 600  # of a curve


def check_suffix(output: Path) -> None:
    """Raises UsageError for a name that no figure can have; before the work and not after it."""
    if output.suffix not in SUFFIXES:
        raise UsageError(f"{output}: write a name that ends in {' or '.join(SUFFIXES)}.")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: the folder {output.parent} does not exist.")


def draw_accumulate(
    sums: "Sequence[Accumulation]",
    sweeps: Sequence[Sequence[dict[str, Any]]],
    uniforms: "Sequence[UniformSums]",
    output: Path,
) -> None:
    """Sums as they grow, the mean against the number of random bits, and sums of uniform numbers."""
    names = list(dict.fromkeys(found.format.name for found in sums))
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    panels = 1 + bool(sweeps) + bool(uniforms)
    figure = _figure(4.6 * panels, 4.0)
    axes = list(np.ravel(figure.subplots(1, panels)))
    _draw_growth(axes.pop(0), sums, colours)
    if sweeps:
        _draw_sweeps(axes.pop(0), sweeps, colours)
    if uniforms:
        _draw_uniforms(axes.pop(0), uniforms, colours)
    _save(figure, output)


def _draw_growth(axes: "Axes", sums: "Sequence[Accumulation]", colours: dict[str, str]) -> None:
    first = sums[0]
    steps = np.arange(first.times + 1)
    for found, style in zip(sums, _styles([found.mode for found in sums]), strict=True):
        mean = np.concatenate([[found.start], found.mean])
        sd = np.concatenate([[0.0], found.sd])
        colour = colours[found.format.name]
        shown = _thinned(len(steps))
        axes.plot(steps[shown], mean[shown], ls=style, color=colour, lw=1.6, label=f"{found.format} {found.mode}")
        if sd.any():
            axes.fill_between(steps[shown], (mean - sd)[shown], (mean + sd)[shown], color=colour, alpha=0.13, lw=0)
    axes.plot(steps, first.start + first.increment * steps, color="black", lw=0.8, label="real numbers")
    axes.set(xlabel="additions", ylabel="sum", title=f"{first.start:g} + {first.increment:g}, {first.times} times")
    axes.legend(fontsize=7, title="band: one sd over draws", title_fontsize=7, handlelength=4)


def _draw_sweeps(axes: "Axes", sweeps: Sequence[Sequence[dict[str, Any]]], colours: dict[str, str]) -> None:
    for rows in sweeps:
        bits = [row["random_bits"] for row in rows]
        means, errors = [row["mean"] for row in rows], [2 * row["standard_error"] for row in rows]
        colour = colours[rows[0]["format"]]
        axes.errorbar(bits, means, errors, fmt="o", ms=4, capsize=2, color=colour, label=rows[0]["format"])
        if all(row["predicted_mean"] is not None for row in rows):
            axes.plot(bits, [row["predicted_mean"] for row in rows], color=colour, lw=0.9)
    axes.set(xlabel="random bits", ylabel="mean sum")
    axes.set_title("few random bits (bars: 2 standard errors; lines: predicted)", fontsize=9)
    axes.legend(loc="lower right", fontsize=7)


def _draw_uniforms(axes: "Axes", uniforms: "Sequence[UniformSums]", colours: dict[str, str]) -> None:
    count = len(uniforms[0].mean)
    narrow = [found for found in uniforms if found.accumulator == found.format]
    shown = _thinned(count)
    for found, style in zip(narrow, _styles([found.mode for found in narrow]), strict=True):
        colour, label = colours[found.format.name], f"{found.format} {found.mode}"
        axes.plot(shown + 1, found.mean[shown], ls=style, color=colour, lw=1.6, label=label)
    axes.plot([0, count], [0, count / 2], color="black", lw=0.8, label="expected")
    axes.set(xlabel="numbers added", ylabel="sum, mean of sequences", title=f"{count:,} numbers uniform in [0, 1)")
    axes.legend(fontsize=7, handlelength=4)


def draw_cartoon(trajectories: "Sequence[Trajectory]", output: Path) -> None:
    """A column for each format: the weight's ways above, the update beside the grid's resolution below."""
    from dsrun.study.cartoon import real_sequence

    grouped: dict[str, list[Any]] = {}
    for trajectory in trajectories:
        grouped.setdefault(trajectory.format.name, []).append(trajectory)
    figure = _figure(3.5 * len(grouped) + 0.6, 6.4)
    columns = figure.subplots(2, len(grouped), squeeze=False, sharex="row", sharey="row")
    for (name, group), (above, below) in zip(grouped.items(), columns.T, strict=True):
        format, start, rate = group[0].format, group[0].start, group[0].learning_rate
        steps = np.arange(1, len(group[0].mean))
        real = np.array([real_sequence(int(step), start=start, learning_rate=rate) for step in steps])
        span = (min(start, 3.0) - 0.1, max(start, 3.0) + 0.35)
        _shade_stalled(above.axhspan, format, rate, span)
        above.plot(steps, real, color="black", lw=0.8, label="real numbers")
        for trajectory in group:
            _draw_way(above, trajectory)
        above.set(title=name, xlabel="step", xscale="log", ylim=span)
        above.set_xlim(1, max(len(steps), 2))
        _shade_stalled(below.axvspan, format, rate, span)
        w = np.linspace(*span, 1500)
        below.plot(w, 2 * rate * np.abs(3 - w), color="black", lw=1.2, label=f"update, {2 * rate:g} |3 - w|")
        resolution = [ulp(format, float(x)) / 2 for x in w]
        below.plot(w, resolution, color=_METHOD_COLOURS["ties_to_even"], lw=1.6, label="half of the spacing at w")
        below.set(xlabel="w", yscale="log", xlim=span)
    columns[0, 0].set_ylabel("w")
    columns[1, 0].set_ylabel("size")
    columns[1, 0].set_ylim(bottom=1e-4, top=1.0)
    columns[0, 0].legend(fontsize=7, loc="lower right")
    columns[1, 0].legend(fontsize=7, loc="upper right")
    claim = "nearest stalls (shaded) where the update is below half of the spacing"
    figure.suptitle(f"Q(w) = -(w - 3)² + 3: {claim}", fontsize=10)
    _save(figure, output)


def _draw_way(axes: "Axes", trajectory: "Trajectory") -> None:
    colour = _METHOD_COLOURS[trajectory.method]
    steps, mean, sd = np.arange(1, len(trajectory.mean)), trajectory.mean[1:], trajectory.sd[1:]
    order = {"stochastic": 2, "master": 3, "kahan": 4, "ties_to_even": 5}[trajectory.method]
    style = {"master": "--", "kahan": ":"}.get(trajectory.method, "-")
    label = f"{trajectory.method}{' (mean, sd)' if trajectory.method == 'stochastic' else ''}"
    axes.plot(steps, mean, style, color=colour, lw=1.6, zorder=order, label=label)
    if sd.any():
        axes.fill_between(steps, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0, zorder=1)


def _shade_stalled(shade: Any, format: GridFormat, rate: float, span: tuple[float, float]) -> None:
    """Shade the intervals of w, cut at powers of two, in which the update is at most half of the spacing."""
    w = np.linspace(*span, 4000)
    stalled = np.array([2 * rate * abs(3 - x) <= ulp(format, float(x)) / 2 for x in w])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], stalled, [False]]).astype(int)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        shade(w[first], w[last - 1], color=_STALLED, lw=0, zorder=0)


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
            axes.barh(place, max(top - normal, 0.3), left=normal, color=_COLOURS[0], height=0.6)
        note = f"p = {row['precision']}" if row["kind"] in ("float", "block") else f"{row['values']:,} values"
        axes.text(top + 3, place, note + (", times a scale" if row["scale"] else ""), va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row["format"] for row in reversed(rows)], fontsize=8)
    low, high = axes.get_xlim()
    axes.set(xlim=(low - 2, high + 0.12 * (high - low)), ylim=(-0.6, len(rows) - 0.4))
    axes.set(
        xlabel="log2 of the magnitude",
        title="ranges: normal numbers, and subnormal ones (pale), whose spacing is constant",
    )
    _save(figure, output)


def _styles(modes: Sequence[str]) -> list[Any]:
    """A line style for each curve: solid for random modes, dashes for the others, which would hide one another, in turns."""
    dashed = [place for place, mode in enumerate(modes) if mode not in RANDOM_MODES]
    gap = 4 * max(len(dashed) - 1, 1)
    return ["-" if mode in RANDOM_MODES else (4 * dashed.index(place), (4, gap)) for place, mode in enumerate(modes)]


def _thinned(length: int) -> np.ndarray:
    """Indices of at most `_MAX_POINTS` places, first and last included."""
    return np.unique(np.linspace(0, length - 1, min(length, _MAX_POINTS)).astype(int))


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", output: Path) -> None:
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
    _save(figure, output)


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
            colour, style = _COLOURS[place % len(_COLOURS)], "-" if place < len(_COLOURS) else "--"
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
    _save(figure, output)


def _draw_scaling_panel(axes: "Axes", panel: "ScalingPanel") -> None:
    counts = sorted({point.devices for series in panel.series for point in series.points})
    first = panel.series[0].points[0]
    ideal = [first.tflop_per_second * count / first.devices for count in counts]
    axes.plot(counts, ideal, color="black", lw=0.8, label="ideal")
    for place, series in enumerate(panel.series):
        colour, marker = _COLOURS[place], "os"[place % 2]
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
