"""The drawing of the two figures of magnitudes (`magnitude_histograms.py`), for wide pages and narrow ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import is_narrow, new_figure
from dsrun.study.keys import draw_key, key_height
from dsrun.study.labels import broken
from dsrun.study.magnitude_panels import Curve, Span, band_patches, draw_panel, label_exponents, span_of
from dsrun.study.magnitude_settings import steps_text
from dsrun.study.styles import Style
from dsrun.study.watched import Tally

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from dsrun.study.magnitude_settings import Setting

AREA = "#c4cdd5"
INK = "#000000"
TALK_SPAN = (-20, 5)  # exponents that the talk's figure shows
_ROW_INCHES = 0.82
_DEPTHS = "viridis"  # of the layers, from the input to the output


def draw_multiples(width: float, settings: "Sequence[Setting]") -> "Figure":
    """A row a layer and a column a kind; in narrow figures three kinds, and below them the other three."""
    titles = list(settings[0].last)
    layers = list(dict.fromkeys(layer for title in titles for layer in settings[0].last[title] if layer != "features"))
    tables = [table for setting in settings for table in (setting.first, setting.last)]
    span = span_of(
        tally for table in tables for own in table.values() for layer, tally in own.items() if layer in layers
    )
    blocks = [titles[:3], titles[3:]] if is_narrow(width) else [titles]
    blocks = [block for block in blocks if block]
    entries = _entries(settings)
    patches = [*_area(settings), *band_patches(settings[0].ranges.values(), span)]
    key = key_height(entries, width, patches)
    heights = [_ROW_INCHES * len(layers) + 0.75] * len(blocks)
    figure = new_figure(width, key + sum(heights))
    parts = figure.subfigures(1 + len(blocks), 1, height_ratios=[key, *heights], squeeze=False)[:, 0]
    draw_key(parts[0], entries, width, patches)
    for part, block in zip(parts[1:], blocks, strict=True):
        inches = (width - 0.8) / len(block) - 0.1
        axes = part.subplots(len(layers), len(block), squeeze=False, sharex=True, sharey=True)
        for row, layer in enumerate(layers):
            for own, title in zip(axes[row], block, strict=True):
                curves = _curves(settings, title, layer)
                draw_panel(own, curves, span, settings[0].ranges.get(title))
                if not curves:
                    own.text(0.5, 0.5, "none", transform=own.transAxes, ha="center", va="center", fontsize=8)
            axes[row, 0].set_ylabel(layer, fontsize=8, parse_math=False)
        for own, title in zip(axes[0], block, strict=True):
            name = broken(title, 8, inches)
            own.set_title(f"{name}\n{settings[0].ranges[title].format}", fontsize=8, pad=4, parse_math=False)
        for own in axes[-1]:
            label_exponents(own, span, inches)
    return figure


def _curves(settings: "Sequence[Setting]", title: str, layer: str) -> list[Curve]:
    """The area first: the first setting beside others, or of one setting its first step."""
    tables = [setting.last for setting in settings]
    if len(settings) == 1:
        tables.insert(0, settings[0].first)
    styles = [Style(AREA, "-", ""), *(setting.style for setting in settings[-(len(tables) - 1) :])]
    found = []
    for place, (table, style) in enumerate(zip(tables, styles, strict=True)):
        tally = table.get(title, {}).get(layer)
        if tally is not None and tally.values:
            found.append(Curve(tally, style.colour, style.dash, fills=place == 0))
    return found


def _entries(settings: "Sequence[Setting]") -> list[tuple[str, Style]]:
    lines = settings[1:] if len(settings) > 1 else settings
    names = [s.group.label + (f", {steps_text(s.last_steps)}" if len(settings) == 1 else "") for s in lines]
    return [(name, _without_marker(s.style)) for name, s in zip(names, lines, strict=True)]


def _area(settings: "Sequence[Setting]") -> "list[tuple[str, Patch]]":
    """What the area is, for the key."""
    from matplotlib.patches import Patch

    first = settings[0]
    if len(settings) == 1 and first.first_steps == first.last_steps:
        return []
    name = first.group.label if len(settings) > 1 else steps_text(first.first_steps)
    return [(name, Patch(facecolor=AREA, edgecolor=AREA))]


def _without_marker(style: Style) -> Style:
    return Style(style.colour, style.dash, "")


def draw_distribution(width: float, setting: "Setting", titles: Sequence[str]) -> "Figure":
    """A column a kind; shares on a linear scale above, on a logarithmic one below, over the same binades."""
    from matplotlib import colormaps

    layers = list(dict.fromkeys(layer for title in titles for layer in setting.last[title]))
    depths = colormaps[_DEPTHS](np.linspace(0.0, 0.9, len(layers)))
    styles = {layer: Style(_hex(depth), "-", "") for layer, depth in zip(layers, depths, strict=True)}
    span = span_of((setting.total(title) for title in titles), TALK_SPAN)
    entries = [("all layers", Style(INK, "-", "")), *styles.items()]
    patches = band_patches((setting.ranges[title] for title in titles), span)
    blocks = [list(titles[:2]), list(titles[2:])] if is_narrow(width) else [list(titles)]
    blocks = [block for block in blocks if block]
    key, height = key_height(entries, width, patches), 4.6 if not is_narrow(width) else 3.6
    figure = new_figure(width, key + height * len(blocks))
    parts = figure.subfigures(1 + len(blocks), 1, height_ratios=[key, *[height] * len(blocks)], squeeze=False)[:, 0]
    draw_key(parts[0], entries, width, patches)
    for part, block in zip(parts[1:], blocks, strict=True):
        axes = part.subplots(2, len(block), squeeze=False, sharex=True, sharey="row")
        for column, title in enumerate(block):
            _draw_column(axes[:, column], setting, title, styles, span)
            label_exponents(axes[1, column], span, (width - 0.8) / len(block) - 0.1)
        axes[0, 0].set_ylabel("share, linear", fontsize=8)
        axes[1, 0].set_ylabel("share, logarithmic", fontsize=8)
    return figure


def _draw_column(axes: Any, setting: "Setting", title: str, styles: dict[str, Style], span: Span) -> None:
    own = setting.last[title]
    curves = [
        Curve(own[layer], style.colour, width=0.8, has_bars=False) for layer, style in styles.items() if layer in own
    ]
    curves.append(Curve(_total(own), INK, width=1.8))
    for place, panel in enumerate(axes):
        draw_panel(panel, curves, span, setting.ranges[title], is_log=place == 1)
    axes[0].set_title(f"{title}\n{setting.ranges[title].format}", fontsize=9, pad=4, parse_math=False)


def _total(own: dict[str, Tally]) -> Tally:
    return sum(own.values(), Tally())


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])
