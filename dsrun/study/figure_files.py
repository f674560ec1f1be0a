"""A figure as bytes: SVG for the page, PNG for papers, CSV for whoever wants the numbers; the same exhibit gives the same bytes again.

SVG has the date and random ids in it unless told otherwise, and matplotlib reads a user's `matplotlibrc`: here it draws with its own
defaults and these settings alone. Text is drawn as outlines. As text it would be smaller, but set in another machine's fonts its
lines have other lengths, and labels that were kept apart here would run into one another there.

Coordinates are cut to a hundredth of a point, far below a pixel, which makes a page a third smaller.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsrun.study.exhibit import NARROW, WIDE, Exhibit, columns_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 300  # what journals ask for
MOST_PIXELS = 4000  # of a side of a PNG: a figure that is taller gets fewer dots an inch
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "path.simplify_threshold": 0.1,
}
_COORDINATES = re.compile(r'(?<= )(?:d|x|y|points)="[^"]*"|translate\([^)]*\)')  # a scale of 0.015625 stays as it is
_CLIP_PATH = re.compile(r'\s*<clipPath id="(p[0-9a-f]{10})">(.*?)</clipPath>', re.DOTALL)
_CLIP_NAME = re.compile(r'(?<=[#"])p[0-9a-f]{10}(?=[)"])')
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}(?![\de])")
_MINUS_ZERO = re.compile(r"-0(?:\.0+)?(?![\d.e])")


@dataclass(frozen=True)
class Picture:
    """An exhibit drawn: SVG for wide windows, for narrow ones if the page shows it, PNG, and the wide one's size in CSS pixels."""

    wide: bytes
    narrow: bytes | None
    png: bytes
    size: tuple[int, int]


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Matplotlib's own defaults and our settings, whatever the user's are; ids in an SVG follow from `name`."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | {"svg.hashsalt": name})
        yield


def draw(exhibit: Exhibit) -> Picture:
    """All drawings of an exhibit that has a figure."""
    assert exhibit.draw is not None
    with drawing(exhibit.name):
        wide = _settled(exhibit.draw(WIDE))
        width, height = wide.get_size_inches()
        narrow = _svg(_settled(exhibit.draw(NARROW))) if exhibit.is_pictured else None
        return Picture(_svg(wide), narrow, _png(wide), (round(width * 96), round(height * 96)))


def _settled(figure: "Figure") -> "Figure":
    """The figure with its axes where the layout puts them, to a millionth of its size.

    The solver of constrained layouts adds up in an order that is not the same in every process: the last bits of a place differ,
    and with them the ids that matplotlib makes of it.
    """
    if figure.get_layout_engine() is None:
        return figure
    figure.draw_without_rendering()
    places = [axes.get_position().bounds for axes in figure.axes]
    figure.set_layout_engine("none")
    for axes, (left, bottom, width, height) in zip(figure.axes, places, strict=True):
        axes.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))
    return figure


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table with a column for every key of any row; numbers so that they can be read back unchanged."""
    columns = columns_of(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if row.get(key) is None else row.get(key) for key in columns] for row in rows])
    return text.getvalue()


def _svg(figure: "Figure") -> bytes:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _with_own_ids(_COORDINATES.sub(_shortened, file.getvalue())).encode()


def _with_own_ids(svg: str) -> str:
    """Clip paths called p1, p2, ... by their place in the file, those of one rectangle together.

    Matplotlib makes their names of the rectangle's bounds, whose last bits are a matrix product's and not the same in every process.
    """
    names: dict[str, str] = {}
    by_content: dict[str, str] = {}

    def once(found: re.Match[str]) -> str:
        content = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", found[2])
        is_new = content not in by_content
        names[found[1]] = by_content.setdefault(content, f"p{len(by_content) + 1}")
        return f'\n  <clipPath id="{names[found[1]]}">{content}</clipPath>' if is_new else ""

    # The rectangles stand behind what they clip, so they are read first.
    svg = _CLIP_PATH.sub(once, svg)
    return _CLIP_NAME.sub(lambda found: names.get(found[0], found[0]), svg)


def _png(figure: "Figure") -> bytes:
    """At 300 dots an inch, fewer where that would be too many."""
    dpi = min(PNG_DPI, MOST_PIXELS / max(figure.get_size_inches()))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def _shortened(coordinates: re.Match[str]) -> str:
    text = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", coordinates[0])
    # The edge of a part of a figure is 0 but for the last bits of a matrix product, of either sign: 1e-14 is written 0, -1e-14 as -0.
    return " ".join(_MINUS_ZERO.sub("0", text).split())
