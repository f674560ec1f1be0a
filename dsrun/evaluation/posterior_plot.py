"""A picture of what a network heard: spectrogram above, below it the probability of every class at every output frame.

Both share an axis of seconds. A spectrogram frame is drawn around the middle of its window, an output frame around the moment it
stands for (`words.OutputClock`), so a sound and the label that it caused stand above one another, as far as the network says a
label where it hears it. The orange line is the best path, the most probable class of each output frame, and its dots the labels
that greedy search reads from it; they are written above the spectrogram too.

Probabilities are drawn by their logarithm: CTC's are near 0 or near 1, and what came second is what one wants to see. Of a large
alphabet the classes of the path and of the reference are shown, then those that were most probable anywhere. The blank, which is most
of every path, has a line of its own below.

What is drawn is a `posteriors.Shown`, made of a live network's scores or read from a run folder; no JAX.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.evaluation.posteriors import BLANK, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST = -5.0  # log10 of the probability that is drawn as white
PATH_COLOUR, BLANK_COLOUR = "#d55e00", "#0072b2"
INCHES_A_SECOND, NARROWEST, WIDEST = 2.2, 9.0, 40.0
CHARACTERS_AN_INCH = 13  # of a title's line
NARROW = 6.0  # inches below which there is no room beside the panels
COLOURS = 24
INCHES_A_LETTER = 0.085  # of 8 pt


def draw_posterior(shown: Shown, output: Path) -> None:
    """Write the picture, .png or .svg; the same numbers give the same bytes again."""
    import matplotlib

    # SVG has the date and random ids in it unless told otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "dsrun"}):
        metadata = {"Date": None} if output.suffix == ".svg" else None
        posterior_figure(shown).savefig(output, dpi=110, metadata=metadata)


def posterior_figure(shown: Shown, *, width: float | None = None) -> "Figure":
    """The picture: axes of the spectrogram, of the probabilities, and of the blank's alone.

    Args:
        width: in inches; None makes it as wide as the utterance is long. The texts then stand above, and otherwise below.
    """
    from matplotlib.figure import Figure

    is_fixed = width is not None
    seconds = len(shown.features) * shown.hop
    width = min(max(INCHES_A_SECOND * seconds, NARROWEST), WIDEST) if width is None else width
    row = 0.145 if is_fixed else 0.17
    heights = [1.5 if is_fixed else 2.6, max(1.9, (0.3 if is_fixed else 1.2) + row * len(shown.classes)), 0.7]
    texts = _texts(shown, width)
    height = 2.6 + sum(heights) - (0.9 if is_fixed else 0) + 0.17 * len(texts) * is_fixed
    figure = Figure(figsize=(width, height), layout="constrained")
    above, below, blank = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    words, options = "\n".join(texts), {"ha": "left", "x": 0.02, "parse_math": False, "linespacing": 1.4}
    if is_fixed:
        figure.supxlabel(words, fontsize=8.5, **options)
    else:
        figure.suptitle(words, fontsize=10, **options)
    _draw_features(figure, above, shown, has_bar=width >= NARROW)
    _draw_probabilities(figure, below, shown, has_room=width >= NARROW)
    _draw_path(above, below, shown, room=width - (2.2 if width >= NARROW else 0.8))
    _draw_blank(blank, shown)
    return figure


def _draw_features(figure: "Figure", axes: "Axes", shown: Shown, *, has_bar: bool) -> None:
    half, (top, unit) = shown.hop / 2, shown.highest
    extent = (shown.first_frame - half, shown.first_frame + shown.hop * (len(shown.features) - 1) + half, 0.0, top)
    image = axes.imshow(
        shown.features.T, origin="lower", aspect="auto", extent=extent, vmin=-3, vmax=3, **_look("magma")
    )
    axes.set_ylabel(drawable(unit), fontsize=8, parse_math=False)
    axes.set(xlim=extent[:2])
    axes.tick_params(labelsize=8)
    if has_bar:
        bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=12)
        bar.set_label("deviations from\nthe training mean", fontsize=8)
        bar.ax.tick_params(labelsize=8)


def _draw_probabilities(figure: "Figure", axes: "Axes", shown: Shown, *, has_room: bool) -> None:
    extent = (shown.clock.start(0), shown.clock.end(len(shown.path) - 1), len(shown.classes) - 0.5, -0.5)
    values = np.maximum(shown.log10_probs.T, LOWEST)
    image = axes.imshow(values, aspect="auto", extent=extent, vmin=LOWEST, vmax=0, **_look("Greys"))
    names = ["blank" if number == BLANK else _name(shown.symbols[number]) for number in shown.classes]
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.tick_params(axis="x", labelsize=8)
    place = {"pad": 0.01, "aspect": 25} if has_room else {"location": "top", "pad": 0.01, "aspect": 30}
    bar = figure.colorbar(image, ax=axes, **place)
    bar.set_label("log10 of the probability", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _look(name: str) -> dict[str, Any]:
    """Of an image: as it is, in few colours, which makes a page with noise in it a fifth of its size."""
    import matplotlib

    return {"cmap": matplotlib.colormaps[name].resampled(COLOURS), "interpolation": "nearest"}


def _draw_path(above: "Axes", below: "Axes", shown: Shown, *, room: float) -> None:
    rows, path = {number: row for row, number in enumerate(shown.classes)}, shown.path
    # A path through more classes than are shown has gaps.
    heights = np.array([rows.get(number, np.nan) for number in path.tolist()])
    times = _times(shown)
    below.plot(times, heights, color=PATH_COLOUR, lw=0.8, label="best path")
    is_read = (path != BLANK) & (np.diff(path, prepend=BLANK) != 0)
    below.plot(times[is_read], heights[is_read], "o", ms=3.5, color=PATH_COLOUR)
    low, high = above.get_xlim()
    gaps = np.diff(times[is_read]) * room / (high - low)
    if gaps.size and gaps.min() < INCHES_A_LETTER:  # the letters would lie upon one another; the dots say the same
        return
    for time, number in zip(times[is_read], path[is_read].tolist(), strict=True):
        above.text(
            time, 1.02, _name(shown.symbols[number]), transform=above.get_xaxis_transform(), ha="center", va="bottom",
            fontsize=8, color=PATH_COLOUR, parse_math=False, clip_on=False,
        )  # fmt: skip


def _draw_blank(axes: "Axes", shown: Shown) -> None:
    """The blank's probability, dashed: between its drops the network says nothing."""
    if BLANK in shown.classes:
        blank = 10 ** shown.log10_probs[:, shown.classes.index(BLANK)]
        axes.plot(_times(shown), blank, "--", color=BLANK_COLOUR, lw=1.1)
    axes.set_ylabel("p(blank)", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.set(ylim=(-0.06, 1.06), yticks=(0, 1))
    axes.tick_params(labelsize=8)


def _times(shown: Shown) -> np.ndarray:
    return np.array([shown.clock.start(frame) + shown.clock.step / 2 for frame in range(len(shown.path))])


def _texts(shown: Shown, width: float) -> list[str]:
    lines = []
    for name, text in (("", shown.id), ("said   ", shown.reference), ("read   ", shown.hypothesis)):
        lines += textwrap.wrap(
            name + drawable(text), int(width * CHARACTERS_AN_INCH), subsequent_indent="           "
        ) or [name]
    return lines


def _name(symbol: str) -> str:
    return "␣" if symbol == " " else drawable(symbol)


def drawable(text: str) -> str:
    """The text, with the code point in place of every character that the figure's font lacks or that cannot be seen."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else f"U+{ord(c):04X} " for c in text).strip()
