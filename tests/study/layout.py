"""What is wrong with the letters of a drawn figure, by the renderer's own boxes: texts over one another, cut off, or too small."""

from itertools import combinations
from unittest.mock import patch

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

SMALLEST_POINTS = 8.0
_SLACK = 1.0  # pixels that boxes may share: they have some air around their letters


def drawn_texts(figure):
    """Each text that the figure draws, with its box in pixels: left, bottom, right, top."""
    found = []
    draw = Text.draw

    def noted(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            found.append((self, self.get_window_extent(renderer).extents))
        return draw(self, renderer, *args, **kwargs)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the first lays out
    with patch.object(Text, "draw", noted):
        canvas.draw()
    return found


def overlapping_texts(figure):
    """Pairs of texts that cover one another, and texts that leave the figure, in words; [] is as it must be."""
    texts = drawn_texts(figure)
    width, height = figure.canvas.get_width_height()
    wrong = [f"{a.get_text()!r} over {b.get_text()!r}" for (a, x), (b, y) in combinations(texts, 2) if _cover(x, y)]
    for text, (left, bottom, right, top) in texts:
        if left < -_SLACK or bottom < -_SLACK or right > width + _SLACK or top > height + _SLACK:
            wrong.append(f"{text.get_text()!r} is cut off")
    return wrong


def small_texts(figure):
    """Texts below `SMALLEST_POINTS`."""
    return [
        f"{text.get_text()!r}: {size}"
        for text, _ in drawn_texts(figure)
        if (size := text.get_fontsize()) < SMALLEST_POINTS
    ]


def _cover(a, b):
    across = min(a[2], b[2]) - max(a[0], b[0])
    along = min(a[3], b[3]) - max(a[1], b[1])
    return across > _SLACK and along > _SLACK
