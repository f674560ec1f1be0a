"""The cartoon as an exhibit: a weight climbing to 3 in several formats, drawn from the document of `dsrun study cartoon --json`.

A column for each format: above the weight's ways, below the update beside half of the grid's spacing. Where the update is the smaller
of the two, nearest does not move (shaded). As each panel is of one format, colours are free to say the method here, and
dashes say it too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import Exhibit, is_narrow, new_figure
from dsrun.study.grid import parse_grid, ulp
from dsrun.study.keys import draw_key, key_height
from dsrun.study.number_words import listed
from dsrun.study.styles import BLUE, GREEN, KAHAN, NEAREST, NO_MASTER, PURPLE, VERMILION, Style
from dsrun.study.talk_documents import read_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {
    "ties_to_even": ("nearest", Style(VERMILION, NEAREST, "")),
    "stochastic": ("stochastic (mean, band: sd)", Style(BLUE, NEAREST, "")),
    "master": ("float32 master", Style(GREEN, NO_MASTER, "")),
    "kahan": ("Kahan's sum", Style(PURPLE, KAHAN, "")),
}
_NAMES = {"stochastic": "Stochastic rounding", "master": "A float32 master", "kahan": "Kahan's sum"}
TARGET = 3.0
STALLED, SPACING = "#f6dfc6", "#a65628"
INK = "#000000"
_NEAR = 1e-3  # from 3: arrived


def cartoon_exhibit(path: Path) -> Exhibit:
    """Of a file that `dsrun study cartoon --json` wrote.

    Raises:
        DataError: it is no such file.
    """
    document = read_study(path, "cartoon")
    answer = _answer(document["ways"])
    return Exhibit(
        "cartoon",
        "Gradient descent on one weight",
        " ".join([answer, *_ways_out(document["ways"]), _about(document)]),
        f"A weight's way to 3 in each format by four ways of updating it, and the update beside half of the spacing. {answer}",
        [row for way in document["trajectories"] for row in _rows(way)],
        lambda width: draw_cartoon(document, width),
    )


def _answer(ways: Sequence[Mapping[str, Any]]) -> str:
    stuck = [way for way in ways if way["method"] == "ties_to_even" and way["format"] != "float32"]
    stalled = [way for way in stuck if abs(way["final"] - TARGET) > _NEAR]
    if not stalled:
        return "Rounded to nearest the weight arrives at 3 in every format."
    places = listed([f"{way['final']:.7g} in {way['format']}" for way in stalled])
    arrives = listed([way["format"] for way in stuck if way not in stalled])
    rest = f"; in {arrives} it arrives" if arrives else ""
    return f"Rounded to nearest the weight stalls at {places}, and more steps do not help{rest}."


def _ways_out(ways: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each other method where it ended."""
    sentences = []
    for method in ("stochastic", "master", "kahan"):
        own = [way for way in ways if way["method"] == method]
        if not own:
            continue
        short = [way for way in own if abs(way["final"] - TARGET) > _NEAR]
        if not short:
            words = "arrives at 3 in every format"
        else:
            words = f"ends at {listed([f'''{way['final']:.4g} in {way['format']}''' for way in short])}"
            words += "" if len(short) == len(own) else ", elsewhere at 3"
        sentences.append(f"{_NAMES[method]} {words}.")
    return sentences


def _about(document: Mapping[str, Any]) -> str:
    rate = document["learning_rate"]
    draws = max((way["draws"] for way in document["ways"]), default=1)
    return (
        f"Q(w) = -(w - 3)² + 3, learning rate {rate:g}, {document['steps']:,} steps, {draws:,} draws of what is stochastic; shaded: the "
        "update is at most half of the spacing."
    )


def _rows(way: Mapping[str, Any]) -> list[dict[str, Any]]:
    about = {"format": way["format"], "method": way["method"], "draws": way["draws"]}
    columns = zip(way["steps"], way["real"], way["mean"], way["sd"], strict=True)
    return [about | {"step": step, "real": real, "mean": mean, "sd": sd} for step, real, mean, sd in columns]


def draw_cartoon(document: Mapping[str, Any], width: float) -> "Figure":
    """Columns of formats; narrow figures have two beside one another."""
    ways = [way for way in document["trajectories"] if way["format"] != "float32"] or document["trajectories"]
    formats = list(dict.fromkeys(way["format"] for way in ways))
    across = min(len(formats), 2 if is_narrow(width) else 4)
    blocks = [formats[place : place + across] for place in range(0, len(formats), across)]
    seen = dict.fromkeys(way["method"] for way in ways)
    key = [METHODS[method] for method in METHODS if method in seen]
    key = [
        *key,
        ("real numbers, and the update", Style(INK, "-", "")),
        ("half of the spacing", Style(SPACING, "-", "")),
    ]
    above, height = key_height(key, width), 4.9 if not is_narrow(width) else 4.2
    figure = new_figure(width, above + height * len(blocks))
    parts = figure.subfigures(1 + len(blocks), 1, height_ratios=[above, *[height] * len(blocks)], squeeze=False)[:, 0]
    draw_key(parts[0], key, width)
    for part, block in zip(parts[1:], blocks, strict=True):
        axes = part.subplots(2, across, squeeze=False, sharex="row", sharey="row")
        for name, column in zip(block, axes.T, strict=False):
            own = [way for way in ways if way["format"] == name]
            _draw_column(column, name, own, document["learning_rate"])
        for empty in axes[:, len(block) :].ravel():
            empty.set_axis_off()
        axes[0, 0].set_ylabel("w", fontsize=8)
        axes[1, 0].set_ylabel("size", fontsize=8)
    return figure


def _draw_column(column: "Sequence[Axes]", name: str, ways: Sequence[Mapping[str, Any]], rate: float) -> None:
    above, below = column
    format, start = parse_grid(name), ways[0]["start"]
    span = (min(start, TARGET) - 0.1, max(start, TARGET) + 0.35)
    w = np.linspace(*span, 1200)
    half = np.array([ulp(format, float(x)) / 2 for x in w])
    update = 2 * rate * np.abs(TARGET - w)
    for first, last in _stretches(update <= half):
        above.axhspan(w[first], w[last], color=STALLED, lw=0, zorder=0)
        below.axvspan(w[first], w[last], color=STALLED, lw=0, zorder=0)
    above.plot(ways[0]["steps"], ways[0]["real"], color=INK, lw=0.8)
    for place, way in enumerate(sorted(ways, key=lambda one: list(METHODS).index(one["method"]), reverse=True)):
        _draw_way(above, way, zorder=2 + place)
    above.set_xscale("log")
    above.set_xlim(1, max(ways[0]["steps"][-1], 2))
    above.set_ylim(*span)
    above.set_title(name, fontsize=9, parse_math=False)
    above.set_xlabel("step", fontsize=8)
    # A curve of straight pieces; its corners are where the spacing doubles.
    corners = np.flatnonzero(np.concatenate([[True], np.diff(half) != 0, [False]])) if len(half) else np.array([0])
    keep = np.unique(np.concatenate([corners, np.maximum(corners - 1, 0), [len(w) - 1]]))
    below.plot(w[keep], half[keep], color=SPACING, lw=1.6)
    below.plot(w[::8], np.maximum(update[::8], 1e-6), color=INK, lw=1.2)
    below.set_yscale("log")
    below.set_ylim(1e-4, 1.0)
    below.set_xlim(*span)
    below.set_xlabel("w", fontsize=8)
    for axes in column:
        axes.tick_params(labelsize=8)
        axes.minorticks_off()


def _draw_way(axes: "Axes", way: Mapping[str, Any], zorder: int) -> None:
    style = METHODS[way["method"]][1]
    steps, mean, sd = (np.array(way[name], float) for name in ("steps", "mean", "sd"))
    axes.plot(steps, mean, ls=style.dash, color=style.colour, lw=1.6, zorder=zorder)
    if sd.any():
        axes.fill_between(steps, mean - sd, mean + sd, color=style.colour, alpha=0.2, lw=0, zorder=1)


def _stretches(chosen: np.ndarray) -> list[tuple[int, int]]:
    """First and last place of each run of true ones."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    return [(int(first), int(last) - 1) for first, last in zip(ends[::2], ends[1::2], strict=True)]
