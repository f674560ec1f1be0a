"""Swallowed updates: in which layer, and when, a weight's update is too small for its format to notice.

The talk's argument as one number. A weight w moves to nearest only if its update is at least half an ulp of w; a smaller one is
swallowed, however many of them come. Two shares are drawn, both of the updates that are finite and not zero:

* below half an ulp of the weight: a property of the numbers, the same question for every rounding;
* changed the weight: what the rounding made of it. Stochastic rounding lets a small update through now and then, in proportion to its
  size. Kahan's sum keeps what was lost until it is large enough.

"The weight" is the copy that accumulates: with a float32 master it is the master, which notices nearly everything, and the narrow
weights follow it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import Group, group_runs, settings_of
from dsrun.study.heat_maps import Block, HeatMap, draw_heat_maps
from dsrun.study.number_words import at_most, counted, listed, percent
from dsrun.study.run_record import RunRecord, bounded
from dsrun.study.watched import LayerSeries, Tally, chosen_steps, layer_series

MOST_GROUPS = 8  # of panels that anybody compares
NOTICED = 0.005  # of all updates: below it nothing is said to be swallowed
MASTER = "a master copy"
WAYS_OUT = ("stochastic rounding", "Kahan's sum", MASTER)
MOST_NAMED = 6  # settings in a sentence
MOST_COMPARED = 4  # sentences
_UPDATING = ("arithmetic.update.", "arithmetic.master.")
SWALLOWED, CHANGED = "below half an ulp", "changed the weight"


@dataclass(frozen=True)
class _Found:
    group: Group
    series: LayerSeries
    skipped: int  # watched steps that are left out

    @property
    def last(self) -> int:
        """Place of the last step with updates, of which captions tell shares: at step 1 Adam's are the learning rate and say nothing."""
        places = range(len(self.series.steps))
        return max(place for place in places if any(row[place].updates for row in self.series.tallies))

    @property
    def last_step(self) -> int:
        return self.series.steps[self.last]

    @property
    def swallowed(self) -> float:
        return self.share("swallowed", self.last)

    @property
    def changed(self) -> float:
        return self.share("changed", self.last)

    def share(self, part: str, place: int) -> float:
        """Of the updates of a step, all layers together."""
        return sum((row[place] for row in self.series.tallies), Tally()).share(part, "updates")


def swallowed_updates(runs: Sequence[RunRecord]) -> Exhibit | None:
    """Heat maps, layer x step, of updates that are too small and of those that came through; None where no update was watched.

    Raises:
        DataError: a file of magnitudes is damaged.
    """
    everything = [found for group in group_runs(runs) if (found := _find(group))]
    if not everything:
        return None
    shown = _shown(everything)
    blocks = [_block(found) for found in shown]
    answer = _answer(everything, is_all=len(everything) == len(group_runs(runs)))
    caption = [answer, *_where(everything), *_ways_out(everything), *_small_print(everything, shown, runs)]
    return Exhibit(
        "swallowed_updates",
        "Swallowed updates",
        " ".join(caption),
        f"Heat maps, layer by step, of the share of updates that are below half an ulp of their weight. {answer}",
        [row for found in everything for row in _rows(found)],
        lambda width: draw_heat_maps(width, blocks, "share of the updates that are not zero"),
    )


def _find(group: Group) -> _Found | None:
    shares = {event["step"]: bounded(event.get("swallowed_share")) for run in group.runs for event in run.watches}
    heights = {step: share for step, share in shares.items() if np.isfinite(share)}
    watching = [run for run in group.runs if run.watched_steps]
    skipped = {int(step) for run in watching for step in run.steps.step[run.steps.finite == 0]}
    watched = chosen_steps(watching, heights)
    steps = [step for step in watched if step not in skipped]  # a skipped step changes no weight, whatever its updates
    if not steps:
        return None
    series = layer_series(watching, "update", steps)
    found = _Found(group, series, len(watched) - len(steps))
    return found if np.isfinite(series.overall("swallowed", "updates")) else None


def _shown(found: list[_Found]) -> list[_Found]:
    """The first, the baseline, and those that swallow most, in the order given."""
    kept = [found[0], *sorted(found[1:], key=lambda one: -one.swallowed)[: MOST_GROUPS - 1]]
    return [one for one in found if one in kept]


def _block(found: _Found) -> Block:
    series = found.series
    maps = [
        HeatMap(name, series.layers, series.steps, series.share(part, "updates"))
        for name, part in ((SWALLOWED, "swallowed"), (CHANGED, "changed"))
    ]
    return Block(found.group.label, maps)


def _answer(found: Sequence[_Found], *, is_all: bool) -> str:
    """The first sentence; of settings that watched no update it says nothing."""
    most = _most(found)
    if most.swallowed < NOTICED:
        where = "here" if is_all else f"in {listed([one.group.label for one in found], MOST_NAMED)}"
        return (
            f"No format swallows updates {where}: {at_most(most.swallowed)} of them ({most.group.label}) are below half an ulp of "
            f"their weight at step {most.last_step}, the last watched."
        )
    words = (
        f"At step {most.last_step}, the last watched, {percent(most.swallowed)} of the updates in {most.group.label}"
    )
    if _way(most.group.config) == "nearest":
        return f"{words} are swallowed: they are below half an ulp of their weight, and rounded to nearest it stays as it is."
    return f"{words} are below half an ulp of their weight; rounding to nearest would swallow them."


def _most(found: Sequence[_Found]) -> _Found:
    """The group that swallows most: of those that round to nearest, if they swallow anything."""
    nearest = [one for one in found if _way(one.group.config) == "nearest" and one.swallowed >= NOTICED]
    return max(nearest or found, key=lambda one: one.swallowed)


def _where(found: Sequence[_Found]) -> list[str]:
    """Of the group that swallows most: the layer, and whether it grows; then the shares of the others."""
    most = _most(found)
    if most.swallowed < NOTICED:
        return []
    series = most.series
    layers = {
        layer: row[most.last].share("swallowed", "updates")
        for layer, row in zip(series.layers, series.tallies, strict=True)
    }
    known = {layer: share for layer, share in layers.items() if np.isfinite(share)}
    top, least = max(known, key=lambda layer: known[layer]), min(known, key=lambda layer: known[layer])
    words = f"Most in {top} ({percent(known[top])}), least in {least} ({percent(known[least])})"
    words = words if top != least else f"All of it in {top}"
    if most.last > 0:
        words += f"; at step {series.steps[0]} it was {percent(most.share('swallowed', 0))}"
    others = [f"{percent(one.swallowed)} in {one.group.label}" for one in found if one is not most]
    return [f"{words}.", *([f"The others: {listed(others, MOST_NAMED)}."] if others else [])]


def _ways_out(found: Sequence[_Found]) -> list[str]:
    """Settings that are updated to nearest without a wider copy, beside those that differ from them in that alone."""
    sentences = []
    for plain in found:
        if _way(plain.group.config) != "nearest" or plain.swallowed < NOTICED:
            continue
        others = [one for one in found if _other_settings(one) == _other_settings(plain)]
        words = [_compared(way, one, plain) for way in WAYS_OUT for one in others if _way(one.group.config) == way]
        if words:
            begin = f"Of these updates in {plain.group.label} {percent(plain.changed)} change the weight"
            sentences.append(f"{begin}; {'; '.join(words)}.")
    return sentences[:MOST_COMPARED]


def _other_settings(found: _Found) -> dict[str, Any]:
    """What decides a result but for how the weight is updated."""
    settings = settings_of(found.group.runs[0])
    return {key: value for key, value in settings.items() if not key.startswith(_UPDATING)}


def _way(config: Mapping[str, Any]) -> str | None:
    """How the weight is updated, in the words of a caption; None for others (directed rounding)."""
    if config.get("arithmetic.master.format") != "none":
        return MASTER
    if config.get("arithmetic.update.compensation", "none") != "none":
        return "Kahan's sum"
    rounding = str(config.get("arithmetic.update.rounding", "ties_to_even"))
    return {"ties_to_even": "nearest", "stochastic": "stochastic rounding"}.get(rounding)


def _compared(way: str, other: _Found, plain: _Found) -> str:
    if abs(other.changed - plain.changed) < NOTICED:
        return f"with {way} no difference seen ({percent(other.changed)})"
    return f"with {way} {percent(other.changed)}{' change the copy' if way == MASTER else ''}"


def _small_print(found: Sequence[_Found], shown: Sequence[_Found], runs: Sequence[RunRecord]) -> list[str]:
    steps = max(len(one.series.steps) for one in found)
    seeds = max(len(one.group.runs) for one in found)
    skipped = sum(one.skipped for one in found)
    text = f"Up to {counted(steps, 'watched step')}, one colour scale"
    text += f"; {counted(skipped, 'skipped step')} left out" if skipped else ""
    text += f"; a panel has the updates of up to {seeds} seeds together" if seeds > 1 else ""
    left = [one.group.label for one in found if one not in shown]
    blind = len(group_runs(runs)) - len(found)
    return [
        f"{text}.",
        *([f"Without a panel, since they swallow less: {listed(left, MOST_NAMED)}."] if left else []),
        *([f"Not seen: {counted(blind, 'setting')} watched no update."] if blind else []),
    ]


def _rows(found: _Found) -> list[dict[str, Any]]:
    series = found.series
    return [
        {
            "setting": found.group.label,
            "seeds": len(found.group.runs),
            "layer": layer,
            "step": step,
            "updates": tally.updates,
            "swallowed_share": _none(tally.share("swallowed", "updates")),
            "changed_share": _none(tally.share("changed", "updates")),
        }
        for layer, row in zip(series.layers, series.tallies, strict=True)
        for step, tally in zip(series.steps, row, strict=True)
    ]


def _none(share: float) -> float | None:
    return None if np.isnan(share) else share
