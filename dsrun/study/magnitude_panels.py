"""Histograms of magnitudes by binade, as panels: steps over the bands of a format, zeros and non-finite values as bars at the edges.

The exponent is an integer, so a binade is a bar of its own and nothing is binned. Shares are of all values, zeros and non-finite ones
among them, so that the bars at the edges can be compared with the curve; the scale of shares is logarithmic and ends at
`LOWEST`, one value in 100,000. What lies below it is neither drawn nor made room for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.record.magnitudes import BIAS
from dsrun.study.number_words import power_of_two
from dsrun.study.styles import Dash
from dsrun.study.watched import Range, Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

LOWEST = 1e-5
BANDS = {"zero, to nearest": "#f6dfc6", "subnormal": "#fbf3d0", "normal": "#eef5ee", "overflow": "#f3d3d3"}
_EDGE = 3.0  # binades between the outermost curve and the bars for zeros and for what is not finite
_BAR = 2.0
_LABEL_INCHES = 0.22
_ROUND = (2, 5, 10, 20, 50, 100)  # exponents from one label to the next


@dataclass(frozen=True)
class Curve:
    """One histogram, and how it is drawn: as a line or filled, with bars at the edges or without."""

    tally: Tally
    colour: str
    dash: Dash = "-"
    width: float = 1.2
    fills: bool = False
    has_bars: bool = True


@dataclass(frozen=True)
class Span:
    """Exponents that a figure shows, common to all its panels, and whether any value is not finite."""

    low: int
    high: int
    has_nonfinite: bool

    @property
    def ends(self) -> tuple[float, float]:
        """Limits of the axis, with room for the bars."""
        return self.low - _EDGE - _BAR, self.high + 1 + (_EDGE + _BAR if self.has_nonfinite else 1.0)


def shares(tally: Tally) -> np.ndarray:
    """Of all values, by exponent field."""
    return tally.by_exponent / max(tally.values, 1)


def span_of(tallies: Iterable[Tally], least: tuple[int, int] | None = None) -> Span:
    """From the lowest to the highest binade with a share that is drawn; at least the exponents `least`."""
    found = list(tallies)
    seen = [np.flatnonzero(shares(tally) >= LOWEST) - BIAS for tally in found]
    exponents = np.concatenate([*seen, np.array(least if least else (), int)])
    low, high = (int(exponents.min()), int(exponents.max())) if len(exponents) else (-10, 0)
    return Span(low, high, any(tally.nonfinite for tally in found))


def draw_panel(axes: "Axes", curves: Sequence[Curve], span: Span, limits: Range | None, *, is_log: bool = True) -> None:
    """Bands first, then the curves in order, then the bars at the edges."""
    low, high = span.ends
    for name, left, right in bands(limits):
        start, stop = max(left, low + _BAR + 1), min(right, span.high + 2)
        if start < stop:
            axes.axvspan(start, stop, color=BANDS[name], lw=0, zorder=0)
    for curve in curves:
        _draw_curve(axes, curve, span, LOWEST if is_log else 0.0)
    barred = [curve for curve in curves if curve.has_bars]
    for place, curve in enumerate(barred):
        _draw_bars(axes, curve, span, place, len(barred), LOWEST if is_log else 0.0)
    axes.set_xlim(low, high)
    if is_log:
        axes.set_yscale("log")
        axes.set_ylim(LOWEST, 1.0)
        axes.set_yticks([1e-4, 1e-2, 1.0], ["0.01%", "1%", "100%"])
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0.0)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.locator_params(axis="y", nbins=4)
    axes.tick_params(labelsize=8, length=2.5, pad=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_curve(axes: "Axes", curve: Curve, span: Span, floor: float) -> None:
    x, y = _outline(curve.tally, span, floor)
    if curve.fills:
        axes.fill(x, y, color=curve.colour, lw=0, zorder=1)
    else:
        axes.plot(x, y, color=curve.colour, ls=curve.dash, lw=curve.width, zorder=2, solid_joinstyle="miter")


def _outline(tally: Tally, span: Span, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the histogram from floor to floor, without those that lie on a straight line."""
    exponents = np.arange(span.low, span.high + 2)
    heights = np.maximum(shares(tally)[np.clip(exponents[:-1] + BIAS, 0, len(tally.by_exponent) - 1)], floor)
    heights = np.concatenate([[floor], heights, [floor]])
    corners = np.flatnonzero(np.diff(heights))
    x = np.repeat(exponents[corners], 2)
    y = np.stack([heights[corners], heights[corners + 1]], axis=1).ravel()
    return x, y


def _draw_bars(axes: "Axes", curve: Curve, span: Span, place: int, number: int, floor: float) -> None:
    """Zeros at the left edge and what is not finite at the right one, each curve's beside the others'."""
    values, width = max(curve.tally.values, 1), _BAR / number
    low, high = span.ends
    bars = [(curve.tally.zeros, low), (curve.tally.nonfinite, high - _BAR)]
    for count, x in bars:
        if count / values > floor:
            axes.bar(
                x + place * width,
                count / values - floor,
                width,
                bottom=floor,
                align="edge",
                color=curve.colour,
                lw=0,
                zorder=2,
            )


def label_exponents(axes: "Axes", span: Span, inches: float) -> None:
    """Powers of two below an axis of so many inches; 0 under the bar of zeros and `∞` under that of what is not finite."""
    low, high = span.ends
    apart = (high - low) * _LABEL_INCHES / inches  # from the middle of 0 or ∞ to the next label's
    zero, infinite = low + _BAR / 2, high - _BAR / 2
    last = infinite - apart if span.has_nonfinite else high
    every = next((step for step in _ROUND if step >= 1.5 * apart), _ROUND[-1])  # both may be long
    exponents = [e for e in range(-300, 300, every) if zero + apart <= e <= last]
    ticks = [(zero, "0"), *((float(e), power_of_two(e)) for e in exponents)]
    ticks += [(infinite, "∞")] if span.has_nonfinite else []
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=8.5)


def bands(limits: Range | None) -> list[tuple[str, float, float]]:
    """Name and limits as log2 of the magnitude; none where the format's scale follows the data."""
    if limits is None or not limits.is_fixed:
        return []
    flushed, top = float(np.log2(limits.smallest_positive)) - 1, float(np.log2(limits.largest))
    normal = flushed if np.isnan(limits.smallest_normal) else max(float(np.log2(limits.smallest_normal)), flushed)
    return [
        ("zero, to nearest", -np.inf, flushed),
        ("subnormal", flushed, normal),
        ("normal", normal, top),
        ("overflow", top, np.inf),
    ]


def band_patches(limits: Iterable[Range], span: Span) -> "list[tuple[str, Patch]]":
    """Those bands that lie within what is shown, for a key."""
    from matplotlib.patches import Patch

    seen = dict.fromkeys(
        name
        for one in limits
        for name, left, right in bands(one)
        if left < span.high + 2 and right > span.low and left < right
    )
    return [
        (name, Patch(facecolor=colour, edgecolor="#999999", lw=0.4)) for name, colour in BANDS.items() if name in seen
    ]


def histogram_rows(tally: Tally, about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each binade with values, one for the zeros and one for what is not finite."""
    values = max(tally.values, 1)
    rows = [
        about | {"exponent": int(place) - BIAS, "count": int(tally.by_exponent[place])}
        for place in np.flatnonzero(tally.by_exponent)
    ]
    rows += [
        about | {"exponent": name, "count": n}
        for name, n in (("zero", tally.zeros), ("nonfinite", tally.nonfinite))
        if n
    ]
    return [row | {"share": row["count"] / values} for row in rows]
