"""Curves in characters: a sparkline of one line, and a plot of Braille dots.

Series are long and lines short, so several values share a column: a sparkline shows their mean, a plot's column every height that
occurs, so that a spike of one step is still seen. What is not finite is a gap in a plot and a cross in a sparkline. Losses and error
rates fall by factors, so both can have a logarithmic scale (zero and below count as the smallest positive value there is).
"""

import itertools
import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"
MOST_GROUPS = 1000  # of a series that is plotted
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a character: four rows, two columns


def sparkline(values: Sequence[float], *, width: int = 16, is_log: bool = False) -> str:
    """One character for each of at most `width` groups of neighbours; empty for no values. The highest is the full block."""
    if not values:
        return ""
    means = [_mean(values[start:end]) for start, end in _groups(len(values), width)]
    scaled = _scaled(means, is_log)
    finite = [value for value in scaled if math.isfinite(value)]
    if not finite:
        return NOT_FINITE * len(means)
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    top = len(BLOCKS) - 1
    return "".join(
        BLOCKS[round((value - low) / span * top)] if math.isfinite(value) else NOT_FINITE for value in scaled
    )


def dot_plot(xs: Sequence[float], ys: Sequence[float], *, width: int, height: int, is_log: bool = False) -> list[str]:
    """Lines of Braille characters, the highest first; x grows to the right. Empty where nothing is finite.

    Points that are fewer than there are columns of dots are joined. Of a long series each of MOST_GROUPS groups of neighbours has its
    lowest and its highest.
    """
    xs, ys = _thinned(xs, ys)
    points = [(x, y) for x, y in zip(xs, _scaled(ys, is_log), strict=True) if math.isfinite(y)]
    if not points:
        return []
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    places = [
        ((x - left) / ((right - left) or 1) * (2 * width - 1), (high - y) / ((high - low) or 1) * (4 * height - 1))
        for x, y in points
    ]
    cells = [[0] * width for _ in range(height)]
    for across, down in _joined(places) if len(places) < 2 * width else places:
        column, row = round(across), round(down)
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(_BRAILLE | dots) for dots in row) for row in cells]


def _thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    if len(ys) <= 2 * MOST_GROUPS:
        return xs, ys
    kept: list[int] = []
    for start, end in _groups(len(ys), MOST_GROUPS):
        finite = [place for place in range(start, end) if math.isfinite(ys[place])]
        if finite:
            kept += sorted((min(finite, key=ys.__getitem__), max(finite, key=ys.__getitem__)))
    return [xs[place] for place in kept], [ys[place] for place in kept]


def _joined(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points and enough between neighbours that no dot is left out."""
    joined = list(places)
    for (x, y), (next_x, next_y) in itertools.pairwise(places):
        pieces = math.ceil(max(abs(next_x - x), abs(next_y - y), 1.0))
        joined += [(x + (next_x - x) * i / pieces, y + (next_y - y) * i / pieces) for i in range(1, pieces)]
    return joined


def _groups(count: int, width: int) -> list[tuple[int, int]]:
    columns = min(count, width)
    return [(count * i // columns, count * (i + 1) // columns) for i in range(columns)]


def _mean(values: Sequence[float]) -> float:
    """Of the finite ones; NaN if there is none, or if most are not finite: the column then shows the trouble."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if 2 * len(finite) > len(values) else math.nan


def _scaled(values: Sequence[float], is_log: bool) -> list[float]:
    if not is_log:
        return list(values)
    least = min((value for value in values if math.isfinite(value) and value > 0), default=1.0)
    return [math.log(max(value, least)) if math.isfinite(value) else math.nan for value in values]
