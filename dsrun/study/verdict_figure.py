"""The verdict strip as a figure: for each setting its rate, its difference to the baseline, time, bytes and the verdict's word."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dsrun.study.exhibit import is_narrow
from dsrun.study.labels import INK, LABEL_POINTS, LINE_INCHES, broken, text_width
from dsrun.study.number_words import size_text
from dsrun.study.verdicts import Verdict
from dsrun.study.whiskers import Whisker, draw_whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, NARROW_ROW, HEAD, FOOT = 0.34, 0.5, 0.36, 0.45  # inches
GAP = 0.5
WIDEST_LABEL = 2.4
COLOURS = {"better": "#00694d", "worse": "#a63c00", "diverged": "#a63c00"}


def draw_strip(found: Sequence[Verdict], width: float) -> "Figure":
    """The figure, for a page of this width in inches."""
    from matplotlib.figure import Figure

    narrow = is_narrow(width)
    panels = _panels(found)
    row = NARROW_ROW if narrow else ROW
    labels = [broken(one.label, LABEL_POINTS, width - 0.3 if narrow else WIDEST_LABEL) for one in found]
    row += (max(label.count("\n") for label in labels)) * LINE_INCHES
    left = 0.15 if narrow else max(text_width(label, LABEL_POINTS) for label in labels) + 0.2
    tall = HEAD + FOOT + row * len(found)
    height = tall * (len(panels) if narrow else 1)
    figure = Figure(figsize=(width, height), facecolor="white")
    columns = [] if narrow else _columns(found)
    room = width - left - sum(wide for _, wide, _ in columns) - (0.15 if narrow else GAP * len(panels))
    for number, (title, rows, has_zero) in enumerate(panels):
        x = left if narrow else left + number * (room / len(panels) + GAP)
        bottom = height - HEAD - row * len(found) - (tall * number if narrow else 0)
        wide = room if narrow else room / len(panels)
        axes = figure.add_axes((x / width, bottom / height, wide / width, row * len(found) / height))
        shown = labels if narrow or not number else [""] * len(labels)
        absent = ["" if has_zero else "not scored"] * len(rows)
        draw_whiskers(axes, rows, shown, has_zero=has_zero, is_narrow=narrow, absent=absent)
        axes.set_title(title, loc="left", fontweight="bold", pad=6)
        if not narrow and number == len(panels) - 1:
            _write_columns(axes, columns, wide)
    return figure


def _panels(found: Sequence[Verdict]) -> list[tuple[str, list[Whisker | None], bool]]:
    """Titles and rows of what is drawn with intervals, each with whether it has a zero line."""
    split = found[0].split
    rates, differences = [], []
    for one in found:
        style, label = one.style, one.group.label
        rate, difference = one.rates.get(split), one.differences.get(split)
        rates.append(Whisker(style, label, rate.value, rate.low, rate.high, rate.by_seed) if rate else None)
        differences.append(
            Whisker(style, label, difference.value, difference.low, difference.high) if difference else None
        )
    panels = [(f"{split} CER", rates, False)]
    if any(differences):
        panels.append(("minus the baseline's", differences, True))
    return panels


def _columns(found: Sequence[Verdict]) -> list[tuple[str, float, list[tuple[str, str]]]]:
    """Heads, widths in inches, and texts with their colours, of what stands at the right."""
    columns = [("verdict", [(f"{one.mark} {one.word}".strip(), COLOURS.get(one.word, INK)) for one in found])]
    if any(one.time for one in found[1:]):
        columns.append(("time", [("" if one.time is None else f"×{one.time:.2f}", INK) for one in found]))
    if any(one.bytes for one in found):
        columns.append(("bytes", [("" if one.bytes is None else size_text(one.bytes), INK) for one in found]))
    return [
        (head, max(text_width(text, LABEL_POINTS) for text in (head, *(text for text, _ in texts))) + 0.3, texts)
        for head, texts in columns
    ]


def _write_columns(axes: "Axes", columns: Sequence[tuple[str, float, Sequence[tuple[str, str]]]], wide: float) -> None:
    x = 1 + 0.2 / wide
    options: dict[str, Any] = {"fontsize": LABEL_POINTS, "va": "center", "parse_math": False}
    for head, width, texts in columns:
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(head, (x, 1.0), (0, 6), fontsize=9, fontweight="bold", **place)
        for y, (text, colour) in enumerate(texts):
            axes.text(x, y, text, transform=axes.get_yaxis_transform(), color=colour, **options)
        x += width / wide
