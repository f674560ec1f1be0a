"""Values with their intervals as dots and lines, a row each, the first at the top; drawn alike wherever a figure has some."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dsrun.study.labels import INK, LABEL_POINTS
from dsrun.study.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUIET = "#6a6a72"


@dataclass(frozen=True)
class Whisker:
    """A value, its interval (None: not known), and the values that it is the mean of.

    `note` is written at the right, on a narrow page above.
    """

    style: Style
    label: str
    value: float
    low: float | None
    high: float | None
    each: Sequence[float] = ()
    note: str = ""


def draw_whiskers(
    axes: "Axes",
    rows: Sequence[Whisker | None],
    labels: Sequence[str],
    *,
    has_zero: bool,
    is_narrow: bool,
    absent: Sequence[str],
) -> None:
    """Fill axes with rows.

    Args:
        rows: None where there is no value; `absent` says why in its place. labels: at the left, on a narrow page above each whisker.
    """
    for y, row in enumerate(rows):
        if row is not None and np.isfinite(row.value):
            _draw_whisker(axes, y, row)
        elif absent[y]:
            axes.text(
                0.02, y, absent[y], transform=axes.get_yaxis_transform(), fontsize=8, color=QUIET, va="center",
                bbox={"facecolor": "white", "lw": 0.0, "pad": 0.8}, zorder=2,
            )  # fmt: skip
    axes.set_ylim(len(rows) - 0.5, -0.85 if is_narrow else -0.5)
    axes.margins(x=0.04)
    if has_zero:
        axes.axvline(0.0, color=INK, lw=0.9, zorder=1)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.02 * (high - low)), max(high, 0.02 * (high - low)))
    axes.grid(visible=True, axis="x", color="#e4e4e8", lw=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    if is_narrow:
        axes.set_yticks([])
        _write_above(axes, rows, labels)
        return
    axes.set_yticks(range(len(rows)), labels, fontsize=LABEL_POINTS, color=INK, parse_math=False)
    for y, row in enumerate(rows):
        if row is not None and row.note:
            axes.text(
                1.02, y, row.note, transform=axes.get_yaxis_transform(), fontsize=LABEL_POINTS, color=INK, va="center", parse_math=False
            )  # fmt: skip


def _draw_whisker(axes: "Axes", y: int, row: Whisker) -> None:
    if row.low is not None and row.high is not None and np.isfinite([row.low, row.high]).all():
        axes.plot([row.low, row.high], [y, y], color=row.style.colour, lw=1.8, solid_capstyle="butt", zorder=2)
        for end in (row.low, row.high):
            axes.plot([end, end], [y - 0.12, y + 0.12], color=row.style.colour, lw=1.4, zorder=2)
    axes.plot(row.value, y, row.style.marker, color=row.style.colour, ms=7, mec="white", mew=0.7, zorder=3)
    if len(row.each) > 1:
        axes.plot(
            row.each, [y + 0.24] * len(row.each), row.style.marker, ms=3.6, mfc="none", mec=row.style.colour, mew=0.8
        )


def _write_above(axes: "Axes", rows: Sequence[Whisker | None], labels: Sequence[str]) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    height = axes.get_position().height * figure.get_size_inches()[1] / (len(rows) + 0.35)
    above = 0.15 / height
    for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
        texts = [(0.0, "left", label)] + ([(1.0, "right", row.note)] if row is not None and row.note else [])
        for x, side, text in texts:
            axes.text(
                x, y - above, text, transform=axes.get_yaxis_transform(), fontsize=8, color=INK, ha=side, va="bottom", parse_math=False,
                bbox={"facecolor": "white", "lw": 0.0, "pad": 0.8},
            )  # fmt: skip
