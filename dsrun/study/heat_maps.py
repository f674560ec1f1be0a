"""Heat maps of shares, layer x step, for several groups of runs beside one another, all on one colour scale.

The colours are cividis: brightness grows evenly with the share, and eyes with any kind of colour vision see the same order (Nuñez et
al. 2018). Grey is where there was nothing to take a share of. Cells are as wide as the steps are apart, for a step stands for those
around it; but fewer than `FEWEST` steps have a column each, equally wide and apart, named by its step: two watched steps say nothing of
the many between them. The cells are rasterised, so that a figure with thousands of them stays small; letters and axes are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import is_narrow, new_figure
from dsrun.study.labels import broken
from dsrun.study.number_words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis"
NOTHING = "#d9d9d9"
LAYER_INCHES = 0.19  # of a row of cells: a letter of 8 points and some air
FEWEST = 5  # steps that may stand for those between them
GAP = 0.15  # of a column's width, on either side
_BOLD = 1.16
_SCALE_ENDS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class HeatMap:
    """Shares [layer, step] of one measure; NaN where there is none."""

    measure: str
    layers: list[str]
    steps: list[int]
    shares: np.ndarray


@dataclass(frozen=True)
class Block:
    """The heat maps of a group, one for each measure, beside one another under the group's label."""

    label: str
    maps: list[HeatMap]


def draw_heat_maps(width: float, blocks: Sequence[Block], scale: str) -> "Figure":
    """All blocks in rows, and the colour scale below, called `scale`."""
    measures = len(blocks[0].maps)
    across = min(1 if is_narrow(width) else 4 // measures, len(blocks))
    rows = -(-len(blocks) // across)
    heights = [_height(blocks[row * across : (row + 1) * across], width / across) for row in range(rows)]
    figure = new_figure(width, sum(heights) + 0.62)
    parts = figure.subfigures(rows + 1, 1, height_ratios=[*heights, 0.62], squeeze=False)[:, 0]
    end = scale_end(blocks)
    cells: Any = None
    for row, part in enumerate(parts[:-1]):
        own = blocks[row * across : (row + 1) * across]
        for block, place in zip(own, np.ravel(part.subfigures(1, across, squeeze=False)), strict=False):
            place.suptitle(
                _title(block, width / across),
                fontsize=9, fontweight="bold", x=0.02, ha="left", parse_math=False,
            )  # fmt: skip
            for axes, map in zip(np.ravel(place.subplots(1, measures, sharey=True)), block.maps, strict=True):
                cells = _draw_map(axes, map, end)
    bar, *rest = np.ravel(parts[-1].subplots(1, 1 if is_narrow(width) else 2, squeeze=False))
    for empty in rest:
        empty.set_axis_off()
    shown = figure.colorbar(cells, cax=bar, orientation="horizontal")
    ticks = np.linspace(0.0, end, 3 if is_narrow(width) else 5).tolist()
    shown.set_ticks(ticks, labels=[f"{100 * tick:.3g}%" for tick in ticks], fontsize=8)
    shown.set_label(scale, fontsize=8)
    return figure


def scale_end(blocks: Sequence[Block]) -> float:
    """The share that the brightest colour stands for, the same in all panels: the first of a few round ones that none exceeds."""
    shares = np.concatenate([map.shares.ravel() for block in blocks for map in block.maps])
    largest = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    return next((end for end in _SCALE_ENDS if largest <= end), 1.0)


def _title(block: Block, width: float) -> str:
    """In lines; bold letters are wider than those that are measured."""
    return broken(block.label, 9 * _BOLD, width - 0.25)


def _height(blocks: Sequence[Block], width: float) -> float:
    layers = max(len(map.layers) for block in blocks for map in block.maps)
    lines = max(_title(block, width).count("\n") + 1 for block in blocks)
    return 0.17 * lines + 0.28 + LAYER_INCHES * max(layers, 3) + 0.42


def _draw_map(axes: "Axes", map: HeatMap, end: float) -> Any:
    from matplotlib import colormaps

    colours = colormaps[COLOURS].with_extremes(bad=NOTHING)
    layers = np.arange(len(map.layers) + 1)
    masked = np.ma.masked_invalid(map.shares)
    axes.set_facecolor(NOTHING)
    look: Any = {"cmap": colours, "vmin": 0.0, "vmax": end, "rasterized": True}
    is_sparse = len(map.steps) < FEWEST
    if is_sparse:
        axes.set_facecolor("white")
        for place in range(len(map.steps)):
            sides = [place - 0.5 + GAP, place + 0.5 - GAP]
            cells = axes.pcolormesh(sides, layers, masked[:, place : place + 1], **look)
        axes.set_xlim(-0.5, len(map.steps) - 0.5)
    else:
        cells = axes.pcolormesh(edges(map.steps), layers, masked, **look)
    axes.set_ylim(len(map.layers), 0)  # the first layer above
    axes.set_yticks(layers[:-1] + 0.5, map.layers, fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(map.measure, fontsize=8, pad=3)
    axes.set_xlabel("step", fontsize=8, labelpad=1)
    if is_sparse:
        axes.set_xticks(range(len(map.steps)), [str(step) for step in map.steps], fontsize=8)
        axes.tick_params(axis="x", length=0)
    else:
        _few_ticks(axes, map.steps)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return cells


def _few_ticks(axes: "Axes", steps: Sequence[int]) -> None:
    """The first and the last step, within the panel's width, so that neighbours' do not meet."""
    ends = list(dict.fromkeys([steps[0], steps[-1]]))
    axes.set_xticks(ends, [str(step) for step in ends], fontsize=8)
    first, *others = axes.get_xticklabels()
    first.set_horizontalalignment("left" if others else "center")
    for last in others:
        last.set_horizontalalignment("right")


def edges(steps: Sequence[int]) -> np.ndarray:
    """Limits of the cells: halfway between the steps."""
    places = np.asarray(steps, float)
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    middles = (places[1:] + places[:-1]) / 2
    return np.concatenate([places[:1], middles, places[-1:]])


def where_most(map: HeatMap) -> tuple[str, int, float] | None:
    """Layer, step and share of the largest cell, of equals the first; None where nothing is known."""
    if not np.isfinite(map.shares).any():
        return None
    layer, step = np.unravel_index(int(np.nanargmax(map.shares)), map.shares.shape)
    return map.layers[layer], map.steps[step], float(map.shares[layer, step])


def told(map: HeatMap) -> str:
    """`most in gru_0 at step 70 (81.2%)`."""
    found = where_most(map)
    return "" if found is None else f"most in {found[0]} at step {found[1]} ({percent(found[2])})"
