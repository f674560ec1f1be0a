"""Words in figures: how wide they are, where labels go so that none covers another, and what to write for what a font lacks.

A curve is named where it ends and not in a box beside the figure, so that nobody has to go back and forth. Curves may end close to
one another, and their labels must not: `spread` moves labels apart as little as possible (the sum of the squared moves is the
smallest there is), in the order of the curves. Labels are dark, whatever the colour of the curve: yellow letters on white cannot be read.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_POINTS = 8.5
LINE_INCHES = LABEL_POINTS * 1.25 / 72
INK = "#222222"
LEADER = (0.0, (0.7, 2.0))  # dots that nobody takes for the curve going on


@cache
def text_width(text: str, points: float) -> float:
    """Inches that the longest line of a text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    properties = FontProperties(family="DejaVu Sans")
    lines = [line for line in text.split("\n") if line.strip()]
    widths = [TextPath((0, 0), _safe(line), size=points, prop=properties).get_extents().width for line in lines]
    return max(widths, default=0.0) / 72


def _safe(line: str) -> str:
    return line.replace("$", r"\$")  # TextPath knows no parse_math=False: between two dollars lies a formula


def broken(text: str, points: float, inches: float) -> str:
    """The text in lines no wider than `inches` where its blanks allow."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", points) <= inches:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def elided(text: str, points: float, inches: float) -> str:
    """The text, or its beginning and end where it is wider than `inches`."""
    shown = text
    for kept in range(len(text) - 1, 3, -1):
        if text_width(shown, points) <= inches:
            break
        shown = f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"
    return shown


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Middles of labels along an axis, each as near as can be to where it is wanted, none over another.

    Args:
        wanted: where each would stand best. sizes: how much room each takes.
        low, high: the room there is. Labels that need more than that leave it at `high`.
    """
    if not wanted:
        return []
    order = np.argsort(np.asarray(wanted), kind="stable")
    room = np.asarray(sizes, float)[order]
    # Below each label lie the labels before it: with their room taken away, apart becomes "in order".
    below = np.cumsum(room) - room / 2
    free = _in_order(np.asarray(wanted, float)[order] - below)
    first, last = low, high - room.sum()
    placed = np.clip(free, first, max(first, last)) + below
    found = np.empty(len(order))
    found[order] = placed
    return [float(place) for place in found]


def _in_order(values: np.ndarray) -> np.ndarray:
    """The non-decreasing values nearest to these, by squares: neighbours that are out of order share their mean."""
    blocks: list[tuple[float, int]] = []  # mean and number of values
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (next_mean, next_count) = blocks[-2:]
            blocks[-2:] = [((mean * count + next_mean * next_count) / (count + next_count), count + next_count)]
    return np.concatenate([np.full(count, mean) for mean, count in blocks])


def room_for(texts: Sequence[str]) -> list[float]:
    """Inches of height that each label takes."""
    return [(text.count("\n") + 1) * LINE_INCHES + 0.03 for text in texts]


def label_ends(
    axes: "Axes", ends: Sequence[tuple[float, float] | None], texts: Sequence[str], styles: Sequence[Style]
) -> None:
    """Write names beside the ends of curves, at the right of the axes, with a thin line to each; None: no curve there.

    The axes need their place and their limits first.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    box = axes.get_position()
    edge, low, high = box.x1 * width, box.y0 * height, box.y1 * height
    shown = [(end, text, style) for end, text, style in zip(ends, texts, styles, strict=True) if end is not None]
    points = [axes.transData.transform(end) / figure.dpi for end, _, _ in shown]
    sizes = room_for([text for _, text, _ in shown])
    heights = spread([float(y) for _, y in points], sizes, low - 0.1, max(high, low - 0.1 + sum(sizes)))
    for (x, y), middle, (_, text, style) in zip(points, heights, shown, strict=True):
        leader = [(x + 0.05, y), (edge + 0.05, y), (edge + 0.2, middle)]
        _add_line(figure, leader, color=style.colour, lw=0.7, ls=LEADER)
        _add_line(figure, [(edge + 0.27, middle)], color=style.colour, marker=style.marker, ms=4.5)
        figure.text(
            (edge + 0.36) / width, middle / height, text, fontsize=LABEL_POINTS, color=INK, va="center",
            linespacing=1.1, parse_math=False,
        )  # fmt: skip


class Key:
    """Which style is which setting, in rows at the top of a figure: for where names have no room beside the curves."""

    def __init__(self, entries: Sequence[tuple[str, Style]], room: float):
        self.entries, self.room = entries, room

    @property
    def height(self) -> float:
        """Inches."""
        return sum(self._heights) + 0.1 * bool(self.rows)

    @cached_property
    def rows(self) -> list[list[tuple[str, Style, float]]]:
        """Entries a row, as many as there is room for, each with its left edge in inches; what is too long for a row has lines."""
        rows: list[list[tuple[str, Style, float]]] = []
        x = 0.0
        for entry, style in self.entries:
            label = broken(entry, LABEL_POINTS, self.room - 0.42)
            needed = 0.42 + text_width(label, LABEL_POINTS)
            if not rows or x + needed > self.room:
                rows.append([])
                x = 0.0
            rows[-1].append((label, style, x))
            x += needed + 0.22
        return rows

    @property
    def _heights(self) -> list[float]:
        return [0.19 + max(label.count("\n") for label, _, _ in row) * LINE_INCHES for row in self.rows]

    def draw(self, figure: "Figure") -> None:
        """At the figure's top, which must have been left free."""
        width, height = figure.get_size_inches()
        y = height - 0.05
        for row, tall in zip(self.rows, self._heights, strict=True):
            middle = y - tall / 2
            y -= tall
            for label, style, x in row:
                left = x + 0.1
                _add_line(figure, [(left, middle), (left + 0.34, middle)], color=style.colour, ls=style.dash, lw=1.9)
                _add_line(figure, [(left + 0.17, middle)], color=style.colour, marker=style.marker, ms=4.5)
                figure.text(
                    (left + 0.42) / width, middle / height, label, fontsize=LABEL_POINTS, color=INK, va="center",
                    linespacing=1.1, parse_math=False,
                )  # fmt: skip


def _add_line(figure: "Figure", points: Sequence[tuple[float, float]], **look: Any) -> None:
    """A line through points in inches from the figure's lower left corner."""
    from matplotlib.lines import Line2D

    path = np.array(points) / figure.get_size_inches()
    figure.add_artist(Line2D(path[:, 0], path[:, 1], mew=0.0, **look))
