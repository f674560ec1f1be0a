"""A key above panels: each setting's line and name, in as many columns as the width takes, and coloured patches.

Where one panel is all, names stand at the curves (`labels.py`); small multiples share one key.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsrun.study.groups import Group
from dsrun.study.labels import broken, text_width
from dsrun.study.styles import Style, distinct_styles

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase
    from matplotlib.patches import Patch

POINTS = 8.0
LINE_INCHES = 0.152
_HANDLE_INCHES = 0.55  # the line, and the air around it and its name

Entry = tuple[str, Style]


def styles_of(groups: Sequence[Group]) -> dict[str, Style]:
    """By label, the same as in the report's other figures if these are all of its groups, in order."""
    styles = distinct_styles([group.config for group in groups])
    return {group.label: style for group, style in zip(groups, styles, strict=True)}


def key_height(entries: Sequence[Entry], width: float, patches: "Sequence[tuple[str, Patch]]" = ()) -> float:
    """Inches that `draw_key` needs."""
    names, columns = _names(entries, width, patches)
    rows = -(-len(names) // columns)
    # Matplotlib fills columns first; a row is as high as its highest name.
    heights = [max((names[i].count("\n") + 1 for i in range(row, len(names), rows)), default=1) for row in range(rows)]
    return LINE_INCHES * sum(heights) + 0.14


def draw_key(
    figure: "FigureBase", entries: Sequence[Entry], width: float, patches: "Sequence[tuple[str, Patch]]" = ()
) -> None:
    """Fill a part of a figure with the key."""
    from matplotlib.lines import Line2D

    names, columns = _names(entries, width, patches)
    lines = [
        Line2D([], [], color=style.colour, ls=style.dash, lw=1.6, marker=style.marker or None, ms=4)
        for _, style in entries
    ]
    key = figure.legend(
        [*lines, *(patch for _, patch in patches)], names, loc="upper left", ncols=columns, fontsize=POINTS, frameon=False,
        handlelength=2.6, borderaxespad=0.3, columnspacing=1.2, labelspacing=0.25, handletextpad=0.5,
    )  # fmt: skip
    for text in key.get_texts():
        text.set_parse_math(False)


def _names(entries: Sequence[Entry], width: float, patches: "Sequence[tuple[str, Patch]]") -> tuple[list[str], int]:
    """Names broken into lines, and the number of columns."""
    names = [name for name, _ in (*entries, *patches)]
    widest = max(text_width(name, POINTS) for name in names) + _HANDLE_INCHES
    columns = max(1, min(len(names), int(width / widest)))
    return [broken(name, POINTS, width / columns - _HANDLE_INCHES) for name in names], columns
