"""The figure of `determinism_strip`: a row of cells a run, and below it where it differs from the first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, HEAD, FOOT = 0.62, 0.34, 0.5  # inches: of a run, above and below a set
CELLS, LINE = 0.3, 0.1  # of a row: the cells, and the line below them
DIFFERENT, SAME = "#d55e00", "#009e73"


def draw_strips(sets: Sequence[Any], width: float) -> "Figure":
    """A panel for each set of runs that ought to be equal."""
    heights = [HEAD + FOOT + ROW * len(own.strips) for own in sets]
    figure = new_figure(width, sum(heights))
    panels = figure.subplots(len(sets), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, own in zip(panels, sets, strict=True):
        _draw_set(axes, own, width)
    return figure


def _draw_set(axes: "Axes", own: Any, width: float) -> None:
    count = len(own.steps)
    for row, strip in enumerate(own.strips):
        top = row + 0.36
        colours = np.array([[_colour(key) for key in strip.cells]])
        axes.imshow(
            colours, extent=(0, count, top + CELLS, top), aspect="auto", interpolation="nearest", rasterized=True
        )
        axes.text(0, top - 0.04, strip.name, fontsize=8.5, va="bottom", parse_math=False)
        for start, end, differs in _stretches(strip.differs):
            if differs is None:
                continue
            look: dict[str, Any] = {"facecolor": SAME, "edgecolor": SAME}
            if differs:
                look = {"facecolor": "white", "edgecolor": DIFFERENT, "hatch": "////"}
            axes.barh(top + CELLS + 0.08, end - start, LINE, left=start, lw=0.5, **look)
    axes.set_xlim(0, count)
    axes.set_ylim(len(own.strips), 0)
    axes.set_yticks([])
    places = _ticks(count, 10 if width > 6 else 5)
    axes.set_xticks([place + 0.5 for place in places], [str(own.steps[place][0]) for place in places], fontsize=8)
    axes.set_xlabel(f"step ({own.what})", fontsize=8.5)
    axes.set_title(own.label, loc="left", fontsize=9, fontweight="bold", parse_math=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _colour(key: str | None) -> tuple[float, float, float]:
    """A bright colour of a hash; white where there is no record."""
    import colorsys

    if key is None:
        return (1.0, 1.0, 1.0)
    hue, value = int(key[:2], 16) / 256, int(key[2:4], 16) / 255
    return colorsys.hsv_to_rgb(hue, 0.35 + 0.4 * (1 - value), 0.55 + 0.4 * value)


def _stretches(flags: Sequence[bool | None]) -> list[tuple[int, int, bool | None]]:
    """Neighbouring cells that are alike, as start, end and flag."""
    found: list[tuple[int, int, bool | None]] = []
    for place, flag in enumerate(flags):
        if found and found[-1][2] == flag:
            found[-1] = (found[-1][0], place + 1, flag)
        else:
            found.append((place, place + 1, flag))
    return found


def _ticks(count: int, most: int) -> list[int]:
    """Places of at most `most` labels, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
