"""How learning curves are drawn: CER above loss, steps at the left and time at the right; on a narrow page all below one another.

Curves are named where they end, if there is room for the names and no more of them than can be told apart; else in a key above.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dsrun.study.exhibit import is_narrow, thinned
from dsrun.study.labels import LABEL_POINTS, Key, broken, label_ends, room_for, text_width
from dsrun.study.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM = 3.0  # largest by smallest value from which an axis is logarithmic
LEFT, RIGHT, TOP, BELOW = 0.5, 0.14, 0.34, 0.52  # inches around a panel
CER_HEIGHT, LOSS_HEIGHT = 2.9, 2.0
NARROW_HEIGHT = 0.8  # of that
EMPTY = 0.25  # of an axis: where no curve begins before, it does not begin at zero
_UNITS = (("hours", 3600.0, 2.0), ("minutes", 60.0, 3.0), ("seconds", 1.0, 0.0))  # and how many make it the unit


@dataclass(frozen=True)
class Line:
    """What is drawn: one run's points, or the mean of several seeds with the lowest and the highest."""

    step: np.ndarray
    seconds: np.ndarray
    value: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    is_cut: bool = False  # it ends before it should: a cross


@dataclass(frozen=True)
class Curves:
    """One setting: its lines of either kind. `label` also says how it ended if not as it should."""

    setting: str
    label: str
    style: Style
    loss: list[Line]
    cer: list[Line]


@dataclass(frozen=True)
class _Panel:
    kind: str  # of Curves: "cer" or "loss"
    against: str  # of Line: "step" or "seconds"
    left: float
    bottom: float
    width: float
    height: float
    has_labels: bool


def draw_curves(curves: Sequence[Curves], width: float) -> "Figure":
    """The figure, for a page of this width in inches."""
    from matplotlib.figure import Figure

    most = 0.95 if is_narrow(width) else 2.1
    texts = [broken(each.label, LABEL_POINTS, most) for each in curves]
    needed = max(text_width(text, LABEL_POINTS) for text in texts)
    lowest = LOSS_HEIGHT * (NARROW_HEIGHT if is_narrow(width) else 1.0)
    is_broken = is_narrow(width) and any(
        "\n" in text for text in texts
    )  # a column of broken labels would leave the curves half the page
    has_labels = len(curves) > 1 and not is_broken and needed <= most and sum(room_for(texts)) <= lowest + 0.1
    has_key = len(curves) > 1 and not has_labels
    key = Key([(each.label, each.style) for each in curves] if has_key else [], width - 0.2)
    height, panels = _layout(width, needed + 0.42 if has_labels else 0.0, key.height)
    figure = Figure(figsize=(width, height), facecolor="white")
    longest = [line.seconds for each in curves for line in each.loss]
    unit, seconds = _unit(longest)
    for panel in panels:
        place = (panel.left / width, panel.bottom / height, panel.width / width, panel.height / height)
        axes = figure.add_axes(place)
        scale = seconds if panel.against == "seconds" else 1.0
        _draw_panel(axes, curves, panel, scale, "step" if panel.against == "step" else f"{unit} of training")
        if panel.has_labels:
            ends = [_end(getattr(each, panel.kind), panel.against, scale) for each in curves]
            label_ends(axes, ends, texts, [each.style for each in curves])
    key.draw(figure)
    return figure


def _layout(width: float, labels: float, key: float) -> tuple[float, list[_Panel]]:
    """The figure's height, and where the panels are, all in inches; `labels` is the width of those, `key` the height of that."""
    kinds = [("cer", CER_HEIGHT), ("loss", LOSS_HEIGHT)]
    panels: list[_Panel] = []
    if is_narrow(width):
        places = [(kind, against, tall * NARROW_HEIGHT) for against in ("step", "seconds") for kind, tall in kinds]
        height = bottom = sum(tall + TOP + BELOW for _, _, tall in places) + key
        bottom -= key
        for kind, against, tall in places:
            bottom -= tall + TOP
            room = width - LEFT - max(RIGHT, labels)
            panels.append(_Panel(kind, against, LEFT, bottom, room, tall, labels > 0))
            bottom -= BELOW
        return height, panels
    room = width - 2 * LEFT - RIGHT - max(labels, 0.2)
    height = sum(tall + TOP + BELOW for _, tall in kinds) + key
    bottom = height - key
    for kind, tall in kinds:
        bottom -= tall + TOP
        panels.append(_Panel(kind, "step", LEFT, bottom, 0.56 * room, tall, labels > 0))
        panels.append(_Panel(kind, "seconds", width - RIGHT - 0.44 * room, bottom, 0.44 * room, tall, False))
        bottom -= BELOW
    return height, panels


def _draw_panel(axes: "Axes", curves: Sequence[Curves], panel: _Panel, scale: float, xlabel: str) -> None:
    lines = [line for each in curves for line in getattr(each, panel.kind)]
    for each in curves:
        for line in getattr(each, panel.kind):
            _draw_line(axes, each.style, line, getattr(line, panel.against) / scale, is_bold=panel.kind == "cer")
    _scale(axes, [line.value for line in lines])
    axes.margins(x=0.02)
    axes.set_xlim(left=_left(curves, panel.against) / scale)
    axes.set_xlabel(xlabel, labelpad=2)
    axes.set_title("dev CER" if panel.kind == "cer" else "train loss, nats", loc="left", fontweight="bold", pad=5)
    axes.grid(visible=True, color="#e4e4e8", lw=0.6)
    axes.locator_params(axis="x", nbins=5 if panel.width < 3 else 7)


def _left(curves: Sequence[Curves], against: str) -> float:
    """Where the axis of steps or of time begins, above and below alike: at zero, or shortly before the first curve if that is far off.

    The first epoch compiles, and the first mean of the loss is at its end: of a short run that is most of the time.
    """
    places = [getattr(line, against) for each in curves for line in (*each.loss, *each.cer) if len(line.step)]
    first = min((float(own[0]) for own in places), default=0.0)
    last = max((float(own[-1]) for own in places), default=0.0)
    return first - 0.05 * (last - first) if EMPTY * last < first < last else 0.0


def _draw_line(axes: "Axes", style: Style, line: Line, x: np.ndarray, *, is_bold: bool) -> None:
    if line.low is not None and line.high is not None:
        if len(x) > 1:
            axes.fill_between(x, line.low, line.high, color=style.colour, alpha=0.16, lw=0)
        else:  # a band of no width cannot be seen
            axes.vlines(x, line.low, line.high, color=style.colour, alpha=0.4, lw=4)
    known = np.flatnonzero(np.isfinite(line.value))
    if line.is_cut and len(known):
        axes.plot(x[known[-1]], line.value[known[-1]], "x", color=style.colour, ms=9, mew=1.8, zorder=5)
    if not is_bold:
        x, y = thinned(x, line.value)
        axes.plot(x, y, color=style.colour, ls=style.dash, lw=0.9)
        return
    every = max(len(x) // 24, 1)
    axes.plot(
        x, line.value, color=style.colour, ls=style.dash, lw=1.9, marker=style.marker, ms=4.5, mec="white", mew=0.5, markevery=every
    )  # fmt: skip


def _unit(seconds: Sequence[np.ndarray]) -> tuple[str, float]:
    longest = max((float(np.nanmax(s)) for s in seconds if len(s) and np.isfinite(s).any()), default=0.0)
    return next((name, scale) for name, scale, least in _UNITS if longest >= least * scale)


def _scale(axes: "Axes", values: Sequence[np.ndarray]) -> None:
    """Logarithmic where values differ much and none is zero, with plain numbers at the ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    found = np.concatenate([*values, []])
    found = found[np.isfinite(found)]
    if not len(found) or found.min() <= 0 or found.max() / found.min() < LOG_FROM:
        if len(found) and 0 <= found.min() < 0.5 * found.max():
            axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    low, high = found.min() / 1.12, found.max() * 1.12
    axes.set_ylim(low, high)
    subs = (1, 2, 3, 4, 5, 7) if high / low < 12 else (1, 2, 5) if high / low < 300 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _end(lines: Sequence[Line], against: str, scale: float) -> tuple[float, float] | None:
    """The last point of the line that goes furthest."""
    ends = []
    for line in lines:
        known = np.flatnonzero(np.isfinite(line.value))
        if len(known):
            ends.append((float(getattr(line, against)[known[-1]]) / scale, float(line.value[known[-1]])))
    return max(ends, default=None)
