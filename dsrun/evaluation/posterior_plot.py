"""A picture of what a network heard: spectrogram above, below it the probability of every class at every output frame.

Both share an axis of seconds. A spectrogram frame is drawn around the middle of its window, an output frame around the moment it
stands for (`words.OutputClock`), so a sound and the label that it caused stand above one another, as far as the network says a
label where it hears it. The orange line is the best path, the most probable class of each output frame, and its dots the labels
that greedy search reads from it; they are written above the spectrogram too.

Probabilities are drawn by their logarithm: CTC's are near 0 or near 1, and what came second is what one wants to see. Of a large
alphabet the classes of the path and of the reference are shown, then those that were most probable anywhere.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64, Int

from dsrun.ctc.alignment import BLANK
from dsrun.ctc.beam import log_softmax
from dsrun.evaluation.words import OutputClock

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 40
LOWEST = -5.0  # log10 of the probability that is drawn as white
PATH_COLOUR = "#d55e00"
INCHES_A_SECOND, NARROWEST, WIDEST = 2.2, 9.0, 40.0
CHARACTERS_AN_INCH = 13  # of a title's line


@dataclass(frozen=True)
class Heard:
    """An utterance as the network had it.

    Fields:
        features: normalised, valid frames alone. first_frame, hop: middle of frame 0 and from one to the next, in seconds.
        highest: what the uppermost bin stands for, with its unit, e.g. (8.0, "kHz").
        logits: of the valid output frames. clock: when these are. symbols: of the classes 1, 2, ...; 0 is blank.
    """

    id: str
    reference: str
    hypothesis: str
    features: Float[np.ndarray, "frame bin"]
    first_frame: float
    hop: float
    highest: tuple[float, str]
    logits: Float[np.ndarray, "output_frame class"]
    clock: OutputClock
    symbols: Sequence[str]
    wanted: Sequence[int]


def draw_posterior(heard: Heard, output: Path) -> None:
    """Write the picture, .png or .svg; the same numbers give the same bytes again."""
    import matplotlib

    # SVG has the date and random ids in it unless told otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "dsrun"}):
        metadata = {"Date": None} if output.suffix == ".svg" else None
        posterior_figure(heard).savefig(output, dpi=110, metadata=metadata)


def posterior_figure(heard: Heard) -> "Figure":
    """The picture: axes of the spectrogram, then of the probabilities."""
    from matplotlib.figure import Figure

    log_probs = log10_probabilities(heard.logits)
    path = np.argmax(heard.logits, axis=-1)
    classes = shown_classes(log_probs, path, heard.wanted)
    width = min(max(INCHES_A_SECOND * len(heard.features) * heard.hop, NARROWEST), WIDEST)
    figure = Figure(figsize=(width, 5.2 + 0.17 * len(classes)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.2 + 0.17 * len(classes)])
    figure.suptitle(_title(heard, width), fontsize=10, ha="left", x=0.02, parse_math=False, linespacing=1.4)
    _draw_features(figure, above, heard)
    _draw_probabilities(figure, below, heard, log_probs, classes)
    _draw_path(above, below, heard, path, classes)
    return figure


def log10_probabilities(logits: Float[np.ndarray, "output_frame class"]) -> Float64[np.ndarray, "output_frame class"]:
    """Logarithms to base 10 of the softmax over classes."""
    return log_softmax(logits) / np.log(10)


def shown_classes(
    log_probs: Float[np.ndarray, "output_frame class"], path: Int[np.ndarray, " output_frame"], wanted: Sequence[int]
) -> list[int]:
    """All classes of a small alphabet; of a large one blank, those of the path and of `wanted`, and the most probable, in order."""
    count = log_probs.shape[1]
    if count <= MOST_CLASSES:
        return list(range(count))
    by_probability = np.argsort(-log_probs.max(axis=0), kind="stable")
    ranked = dict.fromkeys([BLANK, *path.tolist(), *wanted, *by_probability.tolist()])
    return sorted(list(ranked)[:MOST_CLASSES])


def _draw_features(figure: "Figure", axes: "Axes", heard: Heard) -> None:
    half, (top, unit) = heard.hop / 2, heard.highest
    extent = (heard.first_frame - half, heard.first_frame + heard.hop * (len(heard.features) - 1) + half, 0.0, top)
    image = axes.imshow(heard.features.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-3, vmax=3)
    axes.set(ylabel=unit, xlim=extent[:2])
    figure.colorbar(image, ax=axes, label="deviations from\nthe training mean", pad=0.01, aspect=12)


def _draw_probabilities(
    figure: "Figure", axes: "Axes", heard: Heard, log_probs: Float[np.ndarray, "output_frame class"], classes: list[int]
) -> None:
    extent = (heard.clock.start(0), heard.clock.end(len(log_probs) - 1), len(classes) - 0.5, -0.5)
    shown = np.maximum(log_probs[:, classes].T, LOWEST)
    image = axes.imshow(shown, aspect="auto", extent=extent, cmap="Greys", vmin=LOWEST, vmax=0, interpolation="nearest")
    names = ["blank" if number == BLANK else _name(heard.symbols[number - 1]) for number in classes]
    axes.set_yticks(range(len(classes)), names, fontsize=7, parse_math=False)
    axes.set(xlabel="seconds")
    figure.colorbar(image, ax=axes, label="log10 of the probability", pad=0.01, aspect=25)


def _draw_path(
    above: "Axes", below: "Axes", heard: Heard, path: Int[np.ndarray, " output_frame"], classes: list[int]
) -> None:
    rows = {number: row for row, number in enumerate(classes)}
    # A path through more classes than are shown has gaps.
    heights = np.array([rows.get(number, np.nan) for number in path.tolist()])
    times = np.array([heard.clock.start(frame) + heard.clock.step / 2 for frame in range(len(path))])
    below.plot(times, heights, color=PATH_COLOUR, lw=0.8, label="best path")
    is_read = (path != BLANK) & (np.diff(path, prepend=BLANK) != 0)
    below.plot(times[is_read], heights[is_read], "o", ms=3.5, color=PATH_COLOUR)
    for time, number in zip(times[is_read], path[is_read].tolist(), strict=True):
        above.text(
            time, 1.02, _name(heard.symbols[number - 1]), transform=above.get_xaxis_transform(), ha="center", va="bottom",
            fontsize=8, color=PATH_COLOUR, parse_math=False, clip_on=False,
        )  # fmt: skip


def _title(heard: Heard, width: float) -> str:
    lines = []
    for name, text in (("", heard.id), ("said   ", heard.reference), ("read   ", heard.hypothesis)):
        lines += textwrap.wrap(
            name + drawable(text), int(width * CHARACTERS_AN_INCH), subsequent_indent="           "
        ) or [name]
    return "\n".join(lines)


def _name(symbol: str) -> str:
    return "␣" if symbol == " " else drawable(symbol)


def drawable(text: str) -> str:
    """The text, with the code point in place of every character that the figure's font lacks or that cannot be seen."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else f"U+{ord(c):04X} " for c in text).strip()
