"""A setting's line and marker as a small picture in a page, the same as in the figures."""

import math

from markupsafe import Markup

from dsrun.study.styles import Dash, Style

WIDTH, HEIGHT, SIZE = 40, 16, 5.0


def style_mark(style: Style) -> Markup:
    """A line with a marker on it; says nothing to who cannot see it, since the label stands beside it."""
    return Markup(
        '<svg class="mark" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true"><path d="M3 8H37" fill="none" '
        'stroke="{2}" stroke-width="2"{3}/><path d="{4}" fill="{2}" stroke="#fff" stroke-width=".7"/></svg>'
    ).format(WIDTH, HEIGHT, style.colour, _dash(style.dash), marker_path(style, WIDTH / 2, HEIGHT / 2))


def _dash(dash: Dash) -> Markup:
    if isinstance(dash, str):
        return Markup("")
    return Markup(' stroke-dasharray="{}"').format(
        " ".join(f"{length * 2:g}" for length in dash[1])
    )  # of the line's width


def marker_path(style: Style, x: float, y: float) -> str:
    """Of matplotlib's markers those that styles have; any other is a disc."""
    points = _POINTS.get(style.marker)
    if points is None:
        return f"M{x - SIZE:g} {y:g}a{SIZE:g} {SIZE:g} 0 1 0 {2 * SIZE:g} 0a{SIZE:g} {SIZE:g} 0 1 0 {-2 * SIZE:g} 0z"
    return "M" + "L".join(f"{x + SIZE * px:.2f} {y + SIZE * py:.2f}" for px, py in points) + "z"


def _regular(count: int, *, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners of a polygon that stands on an edge; with `inner` a star's."""
    corners = []
    for corner in range(count):
        radius = inner if corner % 2 else 1.0
        angle = 2 * math.pi * corner / count
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return corners


def _turned(points: list[tuple[float, float]], quarters: int) -> list[tuple[float, float]]:
    for _ in range(quarters):
        points = [(-y, x) for x, y in points]
    return points


_TRIANGLE = [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)]
_ARM = 0.35  # half the width of a cross's arm
_QUARTER = [(-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM)]
_PLUS = [point for quarters in range(4) for point in _turned(_QUARTER, quarters)]
_HALF = math.sqrt(0.5)
_POINTS = {
    "s": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "D": [(0.0, -1.1), (1.1, 0.0), (0.0, 1.1), (-1.1, 0.0)],
    "^": _TRIANGLE,
    ">": _turned(_TRIANGLE, 1),
    "v": _turned(_TRIANGLE, 2),
    "<": _turned(_TRIANGLE, 3),
    "p": _regular(5),
    "h": _regular(6),
    "*": _regular(10, inner=0.4),
    "P": _PLUS,
    "X": [(_HALF * (x - y), _HALF * (x + y)) for x, y in _PLUS],
}
