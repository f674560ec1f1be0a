"""Underflow and overflow: which numbers a format cannot hold, over the steps, by kind of tensor.

The names are those of NVIDIA's Transformer Engine, whose debugging statistics exist for PyTorch alone:

* `underflows%`: non-zero, and zero in the format to nearest, whatever the rounding that the run has: at most half of the smallest
  positive number.
* `overflows%`: finite, and beyond the format's largest number: infinity, or the largest itself where the format saturates.
* `subnormals%`: held with fewer bits than the format's precision (ours).
* `dynamic_range`: log2 of the largest by the smallest magnitude that was seen, zeros left out: the binades that a format would need.

Shares are of the non-zero finite values; those that are not finite are counted. Seeds share a line, their mean. Gradients are seen
as the format sees them, with the loss scale. A watched step whose batch had a shape of its own may have weights and updates alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import Exhibit, is_narrow, new_figure, thinned
from dsrun.study.groups import Group, group_runs
from dsrun.study.keys import draw_key, key_height, styles_of
from dsrun.study.number_words import at_most, listed
from dsrun.study.run_record import RunRecord
from dsrun.study.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "weight": "weights",
    "activation": "activations",
    "error": "errors",
    "weight_gradient": "gradients of weights",
    "gradient_sum": "sums over shards",
    "update": "updates",
    "moment": "moments",
    "master": "master copy",
}
ALL = "all kinds"
RANGED = ("activation", "error")
SHARES = {"underflow_share": "underflows%", "overflow_share": "overflows%", "subnormal_share": "subnormals%"}
NONFINITE, DYNAMIC_RANGE = "nonfinite", "dynamic_range"
NOTICED = 1e-4  # of the values
MOST_PANELS = 9
MOST_NAMED = 6  # settings in a sentence
MOST_MARKERS = 12  # of a curve; more of them hide it
_TICKS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class _Curve:
    """A figure of one kind of tensors over the watched steps of a group: the mean of its seeds."""

    group: Group
    kind: str
    measure: str
    steps: np.ndarray
    values: np.ndarray


def underflow_overflow(runs: Sequence[RunRecord]) -> Exhibit | None:
    """Counters of the watch events over the steps, a panel for each kind and measure in which anything happens.

    None where nothing was watched.
    """
    everything = group_runs(runs)
    groups = [group for group in everything if any(run.watches for run in group.runs)]
    curves = [curve for group in groups for curve in _curves(group)]
    if not curves:
        return None
    panels, styles = _panels(curves), styles_of(everything)
    blind = [group.label for group in everything if all(curve.group is not group for curve in curves)]
    answer = _answer(curves, is_all=not blind)
    unseen = [f"Not seen: {listed(blind, MOST_NAMED)}, without a watched step."] if blind else []
    caption = [answer, *unseen, *_ranges(curves), *_quiet(groups, curves), _names(panels)]
    return Exhibit(
        "underflow_overflow",
        "Underflow and overflow",
        " ".join(sentence for sentence in caption if sentence),
        f"Shares of values that underflow, overflow or are subnormal, by kind of tensor and step. {answer}",
        [row for curve in curves for row in _rows(curve)],
        lambda width: _draw(width, panels, styles),
    )


def _curves(group: Group) -> list[_Curve]:
    """Of each kind that has figures."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for step, kinds in watch_figures(group):
        for kind, figures in kinds.items():
            for measure, value in _measures(figures).items():
                found.setdefault((kind, measure), {}).setdefault(step, []).append(value)
    curves = []
    for (kind, measure), by_step in found.items():
        steps = sorted(by_step)
        values = [float(np.mean(by_step[step])) for step in steps]
        curves.append(_Curve(group, kind, measure, np.array(steps, float), np.array(values)))
    return curves


def watch_figures(group: Group) -> Iterable[tuple[int, dict[str, Mapping[str, Any]]]]:
    """Step and figures by kind of each watch event."""
    for run in group.runs:
        for event in run.watches:
            roles = event.get("roles")
            for own in roles.values() if isinstance(roles, Mapping) else ():
                kinds = own if isinstance(own, Mapping) else {}
                yield (
                    int(event["step"]),
                    {
                        kind: figures
                        for kind, figures in kinds.items()
                        if kind in KINDS and isinstance(figures, Mapping)
                    },
                )


def _measures(figures: Mapping[str, Any]) -> dict[str, float]:
    found = {name: number_in(figures, name) for name in (*SHARES, NONFINITE) if figures.get(name) is not None}
    limits = [figures.get(name) for name in ("log2_smallest", "log2_largest")]
    if all(isinstance(limit, int | float) for limit in limits):
        found[DYNAMIC_RANGE] = number_in(figures, "log2_largest") - number_in(figures, "log2_smallest")
    return found


def number_in(figures: Mapping[str, Any], name: str) -> float:
    """A figure, 0 where there is none."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _panels(curves: Sequence[_Curve]) -> list[list[_Curve]]:
    """What is drawn: shares where any group has some, the highest if they are many; values that are not finite, all kinds together; and
    the dynamic ranges of activations and errors, which say how near it was where nothing happens.
    """
    found = []
    for measure in SHARES:
        panels = [_of(curves, measure, kind) for kind in KINDS]
        found += [panel for panel in panels if any(map(_happens, panel))]
    if len(found) > MOST_PANELS:
        heights = sorted((_height(panel) for panel in found), reverse=True)
        found = [panel for panel in found if _height(panel) >= heights[MOST_PANELS - 1]][:MOST_PANELS]
    counts = [curve for curve in curves if curve.measure == NONFINITE]
    if any(map(_happens, counts)):
        found.append(_added(counts))
    found += [_of(curves, DYNAMIC_RANGE, kind) for kind in RANGED]
    return [panel for panel in found if panel]


def _of(curves: Iterable[_Curve], measure: str, kind: str) -> list[_Curve]:
    return [curve for curve in curves if (curve.measure, curve.kind) == (measure, kind)]


def _height(panel: Sequence[_Curve]) -> float:
    return max(float(curve.values.max()) for curve in panel)


def _added(curves: Sequence[_Curve]) -> list[_Curve]:
    """Counts of each group's kinds added, step by step."""
    totals: dict[str, tuple[Group, dict[float, float]]] = {}
    for curve in curves:
        _, by_step = totals.setdefault(curve.group.label, (curve.group, {}))
        for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
            by_step[step] = by_step.get(step, 0.0) + value
    return [
        _Curve(group, ALL, NONFINITE, np.array(sorted(by_step)), np.array([by_step[step] for step in sorted(by_step)]))
        for group, by_step in totals.values()
    ]


def _happens(curve: _Curve) -> bool:
    return bool((curve.values > (0 if curve.measure == NONFINITE else NOTICED)).any())


def _draw(width: float, panels: Sequence[Sequence[_Curve]], styles: Mapping[str, Style]) -> "Figure":
    across = min(2 if is_narrow(width) else 4, len(panels))
    rows = -(-len(panels) // across)
    drawn = {curve.group.label for panel in panels for curve in panel}
    key = [(label, style) for label, style in styles.items() if label in drawn]
    figure = new_figure(width, 1.75 * rows + key_height(key, width))
    heights = [key_height(key, width), 1.75 * rows]
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_key(above, key, width)
    axes = list(np.ravel(below.subplots(rows, across, squeeze=False)))
    for own, panel in zip(axes, panels, strict=False):
        _draw_panel(own, panel, styles)
    for empty in axes[len(panels) :]:
        empty.set_axis_off()
    return figure


def _draw_panel(axes: "Axes", panel: Sequence[_Curve], styles: Mapping[str, Style]) -> None:
    measure, kind = panel[0].measure, panel[0].kind
    for curve in panel:
        style = styles[curve.group.label]
        marker = style.marker if len(curve.steps) <= MOST_MARKERS else ""
        axes.plot(
            *thinned(curve.steps, curve.values),
            color=style.colour,
            ls=style.dash,
            lw=1.2,
            clip_on=False,
            marker=marker,
            ms=3,
        )
    axes.set_title(f"{SHARES.get(measure, measure)}\n{KINDS.get(kind, kind)}", fontsize=8, loc="left", pad=4)
    if measure in SHARES:
        axes.set_yscale("symlog", linthresh=_TICKS[1], linscale=0.6)
        axes.set_ylim(0, 1)
        axes.set_yticks(_TICKS, [f"{100 * tick:g}%" for tick in _TICKS], fontsize=8)
        axes.minorticks_off()
    elif measure == NONFINITE:
        axes.set_yscale("symlog", linthresh=1.0, linscale=0.6)
        axes.set_yticks([0, 10, 1e3, 1e6, 1e9], ["0", "10", "10³", "10⁶", "10⁹"])
        axes.set_ylim(0, 10 * _height(panel))
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=4, integer=True)
    first, last = min(c.steps[0] for c in panel), max(c.steps[-1] for c in panel)
    axes.set_xticks([first, last] if last > first else [first])
    axes.set_xticklabels([f"{tick:g}" for tick in axes.get_xticks()], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("step", fontsize=8, labelpad=-6)
    axes.grid(visible=True, axis="y", color="#e5e5e5", lw=0.5)


def _peaks(curves: Iterable[_Curve], measure: str) -> list[tuple[float, _Curve]]:
    return sorted(
        ((float(curve.values.max()), curve) for curve in curves if curve.measure == measure), key=lambda pair: -pair[0]
    )


def _answer(curves: Sequence[_Curve], *, is_all: bool) -> str:
    """The first sentence; of settings without a watched step it says nothing."""
    under, over = _peaks(curves, "underflow_share")[:1], _peaks(curves, "overflow_share")[:1]
    nonfinite = sum(float(curve.values.sum()) for curve in curves if curve.measure == NONFINITE)
    words = [f"rounded to nearest, {_peak_words(pair, 'become zero')}" for pair in under if pair[0] > NOTICED]
    words += [_peak_words(pair, "overflow") for pair in over if pair[0] > NOTICED]
    if not words:
        highest = max([pair[0] for pair in (*under, *over)], default=0.0)
        some = (
            "no value underflows or overflows"
            if highest == 0
            else "fewer than 1 value in 10,000 underflows or overflows"
        )
        labels = list(dict.fromkeys(curve.group.label for curve in curves))
        words = [f"{some} in {'any format' if is_all else listed(labels, MOST_NAMED)} at any watched step"]
    words.append("every value seen is finite" if nonfinite == 0 else f"{_how_many(nonfinite)} values are not finite")
    text = "; ".join(words)
    return f"{text[0].upper()}{text[1:]}."


def _how_many(number: float) -> str:
    return f"{number:,.0f}" if number >= 1 else "some"


def _peak_words(pair: tuple[float, _Curve], what: str) -> str:
    share, curve = pair
    step = int(curve.steps[int(np.argmax(curve.values))])
    return f"{at_most(share)} of the {KINDS[curve.kind]} in {curve.group.label} {what} (step {step})"


def _ranges(curves: Sequence[_Curve]) -> list[str]:
    """The largest dynamic range of what is stored and of the errors, which a format would have to span."""
    words = []
    for kind in RANGED:
        found = _peaks((curve for curve in curves if curve.kind == kind), DYNAMIC_RANGE)
        if found:
            words.append(f"{KINDS[kind]} span up to {found[0][0]:.0f} binades ({found[0][1].group.label})")
    text = listed(words)
    return [f"{text[0].upper()}{text[1:]}."] if words else []


def _quiet(groups: Sequence[Group], curves: Sequence[_Curve]) -> list[str]:
    loud = {id(curve.group) for curve in curves if curve.measure != DYNAMIC_RANGE and _happens(curve)}
    quiet = [group.label for group in groups if id(group) not in loud]
    if not loud or not quiet:
        return []
    return [f"Nothing to speak of, at most {NOTICED:.2%} of any kind, in {listed(quiet, MOST_NAMED)}."]


def _names(panels: Sequence[Sequence[_Curve]]) -> str:
    meanings = {
        "underflow_share": "underflows% are non-zero values that their format, rounding to nearest, makes zero",
        "overflow_share": "overflows% are finite values beyond its largest",
        "subnormal_share": "subnormals% are values held with fewer bits",
        NONFINITE: "nonfinite counts infinities and NaNs",
        DYNAMIC_RANGE: "dynamic_range is log2 of the largest by the smallest magnitude",
    }
    shown = dict.fromkeys(panel[0].measure for panel in panels)
    text = listed([meanings[measure] for measure in meanings if measure in shown])
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _rows(curve: _Curve) -> list[dict[str, Any]]:
    about = {"setting": curve.group.label, "seeds": len(curve.group.runs), "kind": curve.kind, "measure": curve.measure}
    return [about | {"step": int(s), "value": float(v)} for s, v in zip(curve.steps, curve.values, strict=True)]
