"""The figure of an export: what each layer lost when it alone was quantised, and the magnitudes that explain it.

Left a bar a product: the growth of the character error rate, with that of the CTC loss beside it, which orders equal ones. Right, of the
product that lost most and of the one that lost least, how its weights' and its inputs' magnitudes lie by binade, between half a step of
the code (what is smaller becomes zero) and the outermost code (what is larger is clipped). A tensor whose values crowd near the left
line, far below a few large ones, is what one scale serves badly.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.record.magnitudes import BIAS
from dsrun.study.exhibit import new_figure
from dsrun.study.plots import save_figure
from dsrun.study.styles import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST = 1e-4  # share of values that a histogram shows
WIDTH = 10.0


def worst_first(losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Products by what they lost in character errors, equal ones by the CTC loss."""
    return sorted(losses, key=lambda path: (-losses[path]["cer_loss"], -losses[path]["ctc_loss"]))


def draw_layers(
    losses: Mapping[str, Mapping[str, Any]],
    magnitudes: Mapping[str, Mapping[str, Any]],
    *,
    format: str,
    largest: Mapping[str, int],
    output: Path,
) -> None:
    """Write the figure.

    Args:
        losses: by product, `ctc_loss` (nats an utterance) and `cer_loss`, differences to float32.
        magnitudes: by product, `weight` and `input` counts by float32's exponent field, and `weight_scale`, `input_scale`.
        largest: code of `weight` and of `input`; empty for formats without codes.
    """
    order = worst_first(losses)
    rows = max(len(order), 8)
    figure = new_figure(WIDTH, 0.9 + 0.3 * rows)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.25, 1])
    _draw_losses(figure.add_subplot(grid[:, 0]), order, losses, format)
    for place, (path, word) in enumerate(((order[0], "most"), (order[-1], "least"))):
        axes = figure.add_subplot(grid[place, 1])
        _draw_magnitudes(axes, magnitudes[path], largest)
        axes.set_title(f"{path}, which lost {word}", loc="left", fontsize=9)
    save_figure(figure, output)


def _draw_losses(axes: "Axes", order: Sequence[str], losses: Mapping[str, Mapping[str, Any]], format: str) -> None:
    values = [losses[path]["cer_loss"] for path in order]
    axes.barh(range(len(order)), values, height=0.62, color=[VERMILION if value > 0 else GREY for value in values])
    span = max(max(values), 0.0) - min(min(values), 0.0) or 1.0
    for place, path in enumerate(order):
        text = f" {losses[path]['cer_loss']:+.4f}, {losses[path]['ctc_loss']:+.3f} nats"
        axes.text(max(values[place], 0.0), place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(min(min(values), 0.0) - 0.03 * span, max(max(values), 0.0) + 0.75 * span)
    axes.axvline(0, color="#444444", lw=0.8)
    axes.set_title(
        f"one layer alone in {format}: growth of the CER, and of the CTC loss an utterance", loc="left", fontsize=9
    )
    axes.set_xlabel("character error rate, difference to float32", fontsize=8.5)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_magnitudes(axes: "Axes", found: Mapping[str, Any], largest: Mapping[str, int]) -> None:
    for name, colour in (("weight", BLUE), ("input", VERMILION)):
        if name not in found:
            continue
        counts = np.asarray(found[name], np.float64)
        shares = counts / counts.sum()
        fields = np.flatnonzero(shares[1:255] >= LOWEST) + 1
        if not fields.size:
            continue
        edges = np.arange(fields[0], fields[-1] + 2) - BIAS
        axes.stairs(shares[fields[0] : fields[-1] + 1], edges, color=colour, lw=1.4, label=f"{name}s")
        scale = found.get(f"{name}_scale")
        if scale and name in largest:
            axes.axvline(np.log2(scale / 2), color=colour, lw=0.9, ls=":")
            axes.axvline(np.log2(scale * largest[name]), color=colour, lw=0.9, ls="--")
    axes.set_yscale("log")
    axes.set_ylim(LOWEST, 1.0)
    axes.set_xlabel("log2 of the magnitude (dotted: half a step; dashed: last code)", fontsize=7.5)
    axes.set_ylabel("share of values", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
