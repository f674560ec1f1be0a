"""What every figure of a report must keep, at both widths: letters that can be read, all of it inside, nothing over anything."""

from itertools import combinations

from dsrun.study.exhibit import NARROW, WIDE, Exhibit
from dsrun.study.figure_files import drawing

SMALLEST_POINTS = 8.0
TOUCH = (
    1.0  # pixels of 1/100 inch by which boxes of two texts may overlap: ascenders and descenders have room of their own
)


def check_figure(exhibit: Exhibit) -> None:
    """Draw an exhibit for both widths and look at its texts."""
    for width in (WIDE, NARROW):
        with drawing(exhibit.name):
            figure = exhibit.draw(width)
            assert abs(figure.get_size_inches()[0] - width) < 0.01
            texts = _texts(figure)
        right, top = figure.bbox.x1, figure.bbox.y1
        for text, box, points in texts:
            assert points >= SMALLEST_POINTS, f"{text!r} has {points} pt at {width} inches"
            is_inside = min(box.x0, box.y0, right - box.x1, top - box.y1) >= -1
            assert is_inside, f"{text!r} leaves the figure of {width} inches: {box}"
        for (one, a, _), (other, b, _) in combinations(texts, 2):
            across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert across <= TOUCH or down <= TOUCH, f"{one!r} lies over {other!r} at {width} inches"


def _texts(figure):
    """Each visible text with its box in pixels and its size in points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    unseen = {id(label) for axes in figure.axes for label in _labels_beyond(axes)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    shown = [text for text in found if id(text) not in unseen]
    boxes = [(text.get_text(), text.get_window_extent(renderer), text.get_fontsize()) for text in shown]
    return [(text, box, points) for text, box, points in boxes if box.width > 0]


def _labels_beyond(axes):
    """Labels of ticks beyond an axis's limits: matplotlib keeps them, and does not draw them."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - slack <= tick.get_loc() <= high + slack:
                yield from (tick.label1, tick.label2)
