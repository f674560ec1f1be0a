"""The figure of `dsrun bench serve`: how long text takes, by number of streams, a line a model; beside it, without batch dispatch.

Solid with its own marker: the median; dashed: the 98th percentile. A model that could not keep up with so many streams has no latency
and a cross at the top instead. Deep Speech 2's own figures are there in grey for the shape of the curve: another network on another device.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsrun.study.exhibit import new_figure
from dsrun.study.plots import save_figure
from dsrun.study.styles import GREY, Style, distinct_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"eager": "batches as they arrive", "none": "without batches: one stream a step"}
WIDTH, HEIGHT = 5.2, 4.2  # inches, of a panel
HEADROOM = 1.6  # above the largest latency, for the crosses


def draw_serve(report: Mapping[str, Any], output: Path) -> None:
    """Write the figure of a report, .svg or .png."""
    rows = report["rows"]
    kinds = [kind for kind in TITLES if any(row["batching"] == kind and row["streams"] > 1 for row in rows)] or [
        "eager"
    ]
    names = list(dict.fromkeys(row["model"] for row in rows))
    formats = {row["model"]: row["format"] for row in rows}
    looks = distinct_styles([{"arithmetic.storage.format": formats[name]} for name in names])
    figure = new_figure(WIDTH * len(kinds), HEIGHT)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    found = [row["latency"]["percentile_98_ms"] for row in rows if row["keeps_up"]]
    past = report["deep_speech_2"]
    top = HEADROOM * max([*found, *(row["percentile_98_ms"] for row in past)])
    for axes, kind in zip(panels, kinds, strict=True):
        if kind == "eager":
            _draw_past(axes, past)
        for place, (name, look) in enumerate(zip(names, looks, strict=True)):
            # One stream alone is the same with batches and without, and measured once.
            own = [row for row in rows if row["model"] == name and (row["batching"] == kind or row["streams"] == 1)]
            _draw_model(axes, name, own, look, top * 0.86**place)
        counts = sorted({row["streams"] for row in rows} | {row["streams"] for row in past})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set(yscale="log", xlabel="streams", ylim=(None, 1.15 * top))
        axes.set_title(TITLES[kind], loc="left", fontsize=10)
        axes.grid(visible=True, axis="y", color="#dddddd", lw=0.5)
    panels[0].set_ylabel("latency of a chunk, ms")
    panels[0].legend(fontsize=7, frameon=False, loc="upper left")
    machine = report["machine"]
    figure.suptitle(
        f"From a chunk's last sample to its text: median (solid) and 98th percentile (dashed)\n{machine['device']}, "
        f"{machine['threads']} threads, {report['rounds']} rounds of {report['seconds_a_round']:g} s, models in turn",
        fontsize=9,
    )
    save_figure(figure, output)


def _draw_model(axes: "Axes", name: str, rows: Sequence[Mapping[str, Any]], look: Style, top: float) -> None:
    good = sorted((row for row in rows if row["keeps_up"]), key=lambda row: row["streams"])
    counts = [row["streams"] for row in good]
    own: dict[str, Any] = {"color": look.colour, "marker": look.marker, "ms": 5}
    axes.plot(counts, [row["latency"]["median_ms"] for row in good], "-", label=name, lw=1.4, **own)
    axes.plot(counts, [row["latency"]["percentile_98_ms"] for row in good], "--", lw=0.9, mfc="white", **own)
    lost = [row["streams"] for row in rows if not row["keeps_up"]]
    axes.plot(lost, [top] * len(lost), "x", color=look.colour, ms=7, mew=2)
    if lost:
        axes.annotate(
            "cannot keep up", (min(lost), top), (-7, 0), textcoords="offset points", fontsize=7, ha="right", va="center"
        )


def _draw_past(axes: "Axes", past: Sequence[Mapping[str, Any]]) -> None:
    counts = [row["streams"] for row in past]
    label = "Deep Speech 2, Quadro K1200"
    axes.plot(counts, [row["median_ms"] for row in past], "-", color=GREY, lw=0.8, marker=".", label=label)
    axes.plot(counts, [row["percentile_98_ms"] for row in past], "--", color=GREY, lw=0.8, marker=".", mfc="white")
