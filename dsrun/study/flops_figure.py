"""The figure of `flops_against_devices`: both axes logarithmic to base 2, one node and several apart.

Runs have the style of their setting. What is no setting's (benchmarks, models) has a marker that no setting has.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dsrun.study.exhibit import is_narrow, new_figure
from dsrun.study.scaling_model import GPUS_A_NODE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
MARKERS = "H8d2134"  # of no style (styles.py)
SEVERAL_NODES = "#f1f1f1"


class Unit(NamedTuple):
    """That rates are told and drawn in, and how many of it a TFLOP/s is."""

    name: str
    a_tflop: float


def unit_of(tflop_per_second: float) -> Unit:
    """For a figure with this largest rate: a CPU's small networks have thousandths of a TFLOP/s."""
    return Unit("TFLOP/s", 1.0) if tflop_per_second >= 0.1 else Unit("GFLOP/s", 1e3)


def draw_flops(
    series: Sequence[Any], marks: Sequence[tuple[str, int, float, float]], unit: Unit, width: float
) -> "Figure":
    """All series in one panel; the names below it."""
    narrow = is_narrow(width)
    entries = len(series) + 1 + bool(marks)
    columns = 1 if narrow else 2
    figure = new_figure(width, (3.6 if narrow else 4.6) + 0.2 * -(-entries // columns))
    axes = figure.subplots()
    points = [(point.devices, point.tflop_per_second) for own in series for point in own.points]
    points += [(count, rate) for _, count, _, rate in marks]
    in_unit = unit.a_tflop
    most = max(8, 2 ** math.ceil(math.log2(max(count for count, _ in points))))
    _draw_ideal(axes, series, most, in_unit)
    devices = {own.device for own in series if own.is_measured}
    for own, (colour, marker, dash) in zip(series, _looks(series), strict=True):
        look: dict[str, Any] = {
            "mfc": colour if own.is_measured else "white",
            "mec": colour,
            "ms": 7 if own.is_measured else 5,
        }
        x, y = [p.devices for p in own.points], [p.tflop_per_second * in_unit for p in own.points]
        needs_device = own.is_measured and len(devices) > 1 and own.device not in own.name
        label = f"{own.name}, {own.device}" if needs_device else own.name
        axes.plot(x, y, marker, ls=dash, color=colour, lw=1.2, label=label, zorder=4, **look)
    rates = [rate * in_unit for _, rate in points]
    _draw_marks(axes, [(device, count, share, rate * in_unit) for device, count, share, rate in marks], rates)
    _scale(axes, most, rates, unit.name)
    figure.legend(loc="outside lower left", ncols=columns, fontsize=8, frameon=False)
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)
    return figure


def _looks(series: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """Colour, marker and dash of each; no two are equal."""
    looks: list[tuple[str, str, Any]] = []
    others = 0
    for own in series:
        if own.style:
            looks.append((own.style.colour, own.style.marker, own.style.dash))
            continue
        colour, marker = COLOURS[others % len(COLOURS)], MARKERS[others // len(COLOURS) % len(MARKERS)]
        looks.append((colour, marker, "-" if own.is_measured else "--"))
        others += 1
    return looks


def _draw_ideal(axes: "Axes", series: Sequence[Any], most: int, in_unit: float) -> None:
    """Through the first measured point of each device; through the first modelled one where nothing was measured."""
    first: dict[str, Any] = {}
    for own in sorted(series, key=lambda own: not own.is_measured):
        if own.points and own.device not in first:
            first[own.device] = own.points[0]
    for number, point in enumerate(first.values()):
        rates = [point.tflop_per_second * in_unit * count / point.devices for count in (1, most)]
        axes.plot([1, most], rates, color="black", lw=0.8, label="ideal" if number == 0 else None, zorder=2)


def _draw_marks(axes: "Axes", marks: Sequence[tuple[str, int, float, float]], rates: Sequence[float]) -> None:
    """Crosses, each with its share where no other stands so near that their texts would touch."""
    octaves = math.log2(max(rates) / min(rates)) + 2
    told: list[tuple[int, float]] = []
    for number, (_, count, share, rate) in enumerate(marks):
        label = "the talk's 55% and 48% of the peak" if number == 0 else None
        axes.plot(count, rate, "x", color="black", ms=8, mew=1.6, label=label, zorder=5)
        if any(other == count and abs(math.log2(rate / known)) < octaves / 10 for other, known in told):
            continue
        told.append((count, rate))
        axes.annotate(
            f"{share:.0%}", (count, rate), (7, -13), textcoords="offset points", fontsize=8, zorder=6,
            bbox={"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.6},
        )  # fmt: skip


def _scale(axes: "Axes", most: int, rates: Sequence[float], unit: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    counts = [2**power for power in range(int(math.log2(most)) + 1)]
    axes.set_xticks(counts, [str(count) for count in counts], fontsize=8)
    axes.set_xlim(0.8, most * (1.25 if most > GPUS_A_NODE else 1.5))
    low, high = math.floor(math.log2(min(rates)) - 0.3), math.ceil(math.log2(max(rates)) + 0.3)
    step = max(1, -(-(high - low) // 10))
    ticks = [2.0**power for power in range(low, high + 1, step)]
    axes.set_yticks(ticks, [f"{tick:g}" if tick >= 1 else f"{tick:.3g}" for tick in ticks], fontsize=8)
    axes.set_ylim(2.0**low, 2.0 ** (high + 0.6))
    axes.minorticks_off()
    axes.set_xlabel("devices", fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.grid(color="#e0e0e0", lw=0.5)
    axes.set_axisbelow(True)
    top: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "fontsize": 8, "color": "#555555", "va": "top"}
    axes.text(0.85, 0.985, "one node", **top)
    if most > GPUS_A_NODE:
        axes.axvspan(GPUS_A_NODE * math.sqrt(2), most * 2, color=SEVERAL_NODES, lw=0, zorder=0)
        axes.text(GPUS_A_NODE * 1.5, 0.985, "several nodes", **top)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
