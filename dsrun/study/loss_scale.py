"""The loss scale of the runs that have one, and the steps that were skipped because a gradient was not finite.

A narrow gradient format flushes what is small; the loss, and with it every gradient, is multiplied by a power of two before the backward
pass and divided by it after. A dynamic scale doubles after a number of finite steps and halves when a gradient is not finite; that step
changes nothing, it is skipped. A run whose scale was 1 throughout and that skipped nothing is not drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import Exhibit, is_narrow, new_figure
from dsrun.study.groups import Group, group_runs
from dsrun.study.keys import draw_key, key_height, styles_of
from dsrun.study.number_words import WHY_SKIPPED, counted, listed, percent, power_of_two
from dsrun.study.run_record import RunRecord
from dsrun.study.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RUG_INCHES = 0.16  # of a run's row of ticks
MOST_RUNS = 24
MOST_NAMED = 6  # settings in a sentence


@dataclass(frozen=True)
class _Way:
    """A run's scale where it changes, first and last step among it, and its skipped steps."""

    group: Group
    style: Style
    seed: Any
    steps: np.ndarray
    scales: np.ndarray
    skipped: np.ndarray
    steps_made: int


def loss_scale(runs: Sequence[RunRecord]) -> Exhibit | None:
    """Each run's loss scale as a step function over a strip of its skipped steps; None where no run has either."""
    groups = group_runs(runs)
    styles = styles_of(groups)
    ways = [way for group in groups for run in group.runs if (way := _way(group, styles[group.label], run))]
    if not ways:
        return None
    shown = ways[:MOST_RUNS]
    answer = _answer(ways)
    return Exhibit(
        "loss_scale",
        "Loss scale and skipped steps",
        " ".join([answer, *_each(ways), *_left(ways, len(runs))]),
        f"The loss scale over the steps, and ticks at the steps that were skipped. {answer}",
        [row for way in ways for row in _rows(way)],
        lambda width: _draw(width, shown),
    )


def _way(group: Group, style: Style, run: RunRecord) -> _Way | None:
    series = run.steps
    known = np.isfinite(series.loss_scale)
    skipped = series.step[series.finite == 0]
    if not known.any() or not ((series.loss_scale[known] != 1).any() or len(skipped)):
        return None
    steps, scales = series.step[known], series.loss_scale[known]
    # A step function is whole with the steps at which it changes, so nothing is lost by leaving out the others.
    changes = np.concatenate([[True], scales[1:] != scales[:-1]])
    changes[-1] = True
    # Not the steps on record: with training.log_every_steps=10 a tenth of them is, but every skipped one.
    return _Way(group, style, run.seed, steps[changes], scales[changes], skipped, run.last_step)


def _answer(ways: Sequence[_Way]) -> str:
    skipped, steps = sum(len(way.skipped) for way in ways), sum(way.steps_made for way in ways)
    moving = [way for way in ways if len(set(way.scales.tolist())) > 1]
    words = "The loss scale never moved" if not moving else f"The loss scale moved in {counted(len(moving), 'run')}"
    if not skipped:
        return f"No step was skipped: every gradient was finite. {words}."
    return f"{skipped:,} of {counted(steps, 'step')} ({percent(skipped / steps)}) skipped, {WHY_SKIPPED}. {words}."


def _each(ways: Sequence[_Way]) -> list[str]:
    """For each setting where its scale began, between what it moved and what it skipped."""
    words = []
    for label in dict.fromkeys(way.group.label for way in ways):
        own = [way for way in ways if way.group.label == label]
        low, high = min(way.scales.min() for way in own), max(way.scales.max() for way in own)
        last = sorted({float(way.scales[-1]) for way in own})
        skipped = sum(len(way.skipped) for way in own)
        between = f"stays at {_scale(low)}" if low == high else f"between {_scale(low)} and {_scale(high)}"
        end = "" if low == high else f", at the end {listed([_scale(scale) for scale in last])}"
        words.append(f"{label}: {between}{end}, {counted(skipped, 'step')} skipped")
    more = [f"{counted(len(words) - MOST_NAMED, 'more setting')}"] if len(words) > MOST_NAMED + 1 else []
    return [f"{'; '.join([*words[: MOST_NAMED + 1 - len(more)], *more])}."]


def _scale(scale: float) -> str:
    exponent = np.log2(scale) if scale > 0 else np.nan
    return power_of_two(exponent) if exponent == round(float(exponent)) else f"{scale:g}"


def _left(ways: Sequence[_Way], runs: int) -> list[str]:
    left = []
    if runs > len(ways):
        left.append(f"{counted(runs - len(ways), 'run')} with a scale of 1 and no skipped step left out.")
    if len(ways) > MOST_RUNS:
        left.append(f"Drawn are the first {MOST_RUNS} of {len(ways)} runs.")
    return left


def _draw(width: float, ways: Sequence[_Way]) -> "Figure":
    key = list({way.group.label: way.style for way in ways}.items())
    has_skips = any(len(way.skipped) for way in ways)
    rug = RUG_INCHES * len(ways) + 0.3 if has_skips else 0.0
    above, height = key_height(key, width), 2.2 if is_narrow(width) else 2.6
    figure = new_figure(width, above + height + rug)
    top, below = figure.subfigures(2, 1, height_ratios=[above, height + rug], squeeze=False)[:, 0]
    draw_key(top, key, width)
    if not has_skips:
        _draw_scales(below.subplots(), ways)
        return figure
    scales, strip = below.subplots(2, 1, sharex=True, height_ratios=[height, rug])
    _draw_scales(scales, ways)
    scales.set_xlabel("")
    _draw_strip(strip, ways)
    return figure


def _draw_scales(axes: "Axes", ways: Sequence[_Way]) -> None:
    for way in ways:
        colour, dash = way.style.colour, way.style.dash
        axes.plot(way.steps, way.scales, drawstyle="steps-post", color=colour, ls=dash, lw=1.3, alpha=0.9)
    axes.set_yscale("log", base=2)
    low, high = min(way.scales.min() for way in ways), max(way.scales.max() for way in ways)
    axes.set_ylim(low / 2, high * 2)
    lowest, highest = math.floor(math.log2(low)), math.ceil(math.log2(high))
    exponents = range(lowest, highest + 1, max(1, round((highest - lowest) / 4)))
    axes.set_yticks([2.0**e for e in exponents], [power_of_two(e) for e in exponents], fontsize=8)
    axes.minorticks_off()
    axes.tick_params(labelsize=8)
    axes.set_ylabel("loss scale", fontsize=8)
    axes.set_xlabel("step", fontsize=8)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.grid(visible=True, axis="y", color="#e5e5e5", lw=0.5)


def _draw_strip(axes: "Axes", ways: Sequence[_Way]) -> None:
    for row, way in enumerate(ways):
        axes.vlines(way.skipped, row - 0.4, row + 0.4, color=way.style.colour, lw=0.8)
    axes.set_ylim(len(ways) - 0.5, -0.5)
    axes.set_yticks(range(len(ways)), [f"seed {way.seed}" for way in ways], fontsize=8, parse_math=False)
    for label, way in zip(axes.get_yticklabels(), ways, strict=True):
        label.set_color(way.style.colour)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("step (ticks: skipped)", fontsize=8)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)


def _rows(way: _Way) -> list[dict[str, Any]]:
    about = {"setting": way.group.label, "seed": way.seed}
    scales = [
        about | {"what": "loss_scale", "step": int(step), "value": float(scale)}
        for step, scale in zip(way.steps, way.scales, strict=True)
    ]
    return scales + [about | {"what": "skipped", "step": int(step), "value": 1.0} for step in way.skipped]
