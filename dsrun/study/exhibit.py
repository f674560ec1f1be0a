"""Exhibits: the figures of a report, each with its numbers, and a caption that begins with the answer.

An exhibit is drawn twice, for a wide page and for a narrow one (a telephone), by the same function with another width: panels go
below one another instead of beside, and letters keep their size. What is drawn is also written as numbers, `rows`, in long
form: one row a number or a point, columns named in words.

A caption is computed and never typed: its first sentence answers the question that the title asks, and where an interval contains
zero it says that no difference was seen. `alt` tells the finding to who cannot see the picture.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 10.0, 3.9  # inches: 960 and 374 pixels of a page
MOST_POINTS = 400  # of a curve


@dataclass(frozen=True)
class Exhibit:
    """One figure of a report.

    Fields:
        name: of its files and its place in the page, e.g. learning_curves.
        title: a few words. caption: sentences; the first is the answer. alt: for who cannot see it.
        rows: every number that is drawn; becomes name.csv.
        draw: the figure for a width in inches, WIDE or NARROW; None where `html` is the exhibit.
        html: markup instead of a figure or below it, with everything foreign escaped already (markupsafe.Markup).
        is_pictured: whether the page shows the figure; where `html` says the same it is among the files alone.
    """

    name: str
    title: str
    caption: str
    alt: str
    rows: list[dict[str, Any]] = field(repr=False)
    draw: "Callable[[float], Figure] | None" = None
    html: str | None = field(default=None, repr=False)
    is_pictured: bool = True

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        return {"name": self.name, "title": self.title, "caption": self.caption, "alt": self.alt, "rows": self.rows}


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every key of any row, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def is_narrow(width: float) -> bool:
    """Whether panels have to go below one another."""
    return width < (WIDE + NARROW) / 2


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure on white, whose parts make room for one another; inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def thinned(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about `MOST_POINTS` points of a curve: the lowest and the highest of each stretch, so that spikes and NaNs stay.

    Returns:
        x and y of the points kept, in order; the first and the last are always among them.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) <= MOST_POINTS:
        return x, y
    keep = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(len(x)), MOST_POINTS // 2):
        known = stretch[np.isfinite(y[stretch])]
        if len(known) < len(stretch):
            keep.add(int(stretch[~np.isfinite(y[stretch])][0]))  # a gap stays a gap
        if len(known):
            keep |= {int(known[np.argmin(y[known])]), int(known[np.argmax(y[known])])}
    places = np.array(sorted(keep))
    return x[places], y[places]
