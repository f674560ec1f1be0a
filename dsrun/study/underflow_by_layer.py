"""Where in the network numbers underflow: a heat map, layer x step, of the kind of tensors that loses most to zero.

`underflow_overflow.py` has the names. Updates are left out here: that they are small is the matter of `swallowed_updates.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import Group, group_runs
from dsrun.study.heat_maps import Block, HeatMap, draw_heat_maps, where_most
from dsrun.study.number_words import at_most, listed, percent
from dsrun.study.run_record import RunRecord
from dsrun.study.underflow_overflow import KINDS, MOST_NAMED, NOTICED, number_in, watch_figures
from dsrun.study.watched import chosen_steps, layer_series

MAPPED = ("weight", "activation", "error", "weight_gradient", "gradient_sum")  # updates have a figure of their own
MOST_MAPS = 8


def underflow_by_layer(runs: Sequence[RunRecord]) -> Exhibit | None:
    """Heat maps, layer x step, of the kind of tensors that underflows most; None where nothing underflows.

    Raises:
        DataError: a file of magnitudes is damaged.
    """
    groups = [group for group in group_runs(runs) if any(run.watched_steps for run in group.runs)]
    worst: dict[str, float] = {}
    for group in groups:
        for kind, share in _worst_kinds(group).items():
            worst[kind] = max(worst.get(kind, 0.0), share)
    kind = max(worst, key=lambda one: worst[one], default="")
    if not kind or worst[kind] <= NOTICED:
        return None
    loud = sorted(groups, key=lambda group: -_worst_kinds(group).get(kind, 0.0))[:MOST_MAPS]
    shown = [g for g in groups if g in loud and _worst_kinds(g).get(kind, 0.0) > NOTICED]
    blocks = [Block(group.label, [_map(group, kind)]) for group in shown]
    most = max(zip(blocks, map(_peak, blocks), strict=True), key=lambda pair: pair[1][2])
    layer, step, share = most[1]
    where = f"in {layer} at step {step} in {most[0].label}"
    answer = f"Of the {KINDS[kind]}, which underflow most, {percent(share)} become zero, rounded to nearest, {where}."
    rest = [group.label for group in groups if group not in shown]
    small = f"Left out, with less of it: {listed(rest, MOST_NAMED)}." if rest else ""
    return Exhibit(
        "underflow_by_layer",
        f"Where {KINDS[kind]} underflow",
        " ".join(text for text in (answer, _others(blocks, most[0]), small) if text),
        f"Heat maps, layer by step, of the share of {KINDS[kind]} that become zero, rounded to nearest. {answer}",
        [row for group, block in zip(shown, blocks, strict=True) for row in _map_rows(group, kind, block.maps[0])],
        lambda width: draw_heat_maps(width, blocks, f"underflows% of the {KINDS[kind]}, rounded to nearest"),
    )


def _peak(block: Block) -> tuple[str, int, float]:
    return where_most(block.maps[0]) or ("", 0, -1.0)


def _others(blocks: Sequence[Block], most: Block) -> str:
    words = [
        f"{at_most(_peak(block)[2])} in {_peak(block)[0]} in {block.label}" for block in blocks if block is not most
    ]
    return f"The others: {listed(words, MOST_NAMED)}." if words else ""


def _worst_kinds(group: Group) -> dict[str, float]:
    """By kind the largest underflow share that any event of a group tells."""
    worst: dict[str, float] = {}
    for _, kinds in watch_figures(group):
        for kind, figures in ((kind, kinds[kind]) for kind in MAPPED if kind in kinds):
            worst[kind] = max(worst.get(kind, 0.0), number_in(figures, "underflow_share"))
    return worst


def _map(group: Group, kind: str) -> HeatMap:
    watching = [run for run in group.runs if run.watched_steps]
    heights = {step: number_in(kinds[kind], "underflow_share") for step, kinds in watch_figures(group) if kind in kinds}
    steps = chosen_steps(watching, heights)
    series = layer_series(watching, kind, steps)
    return HeatMap(KINDS[kind], series.layers, series.steps, series.share("flushed"))


def _map_rows(group: Group, kind: str, map: HeatMap) -> list[dict[str, Any]]:
    about = {"setting": group.label, "seeds": len(group.runs), "kind": kind}
    return [
        about | {"layer": layer, "step": step, "underflow_share": None if np.isnan(share) else float(share)}
        for layer, shares in zip(map.layers, map.shares, strict=True)
        for step, share in zip(map.steps, shares, strict=True)
    ]
