"""Subtitles: timed words to SubRip (.srt) and WebVTT (.vtt).

Rules of thumb of those who make them: at most two lines of 42 columns, on screen for at least a second where the next subtitle leaves
room and for at most seven, a new one after a pause of 0.7 s, lines of nearly equal length. A column is a cell of a
terminal: Chinese, Japanese and Korean characters take two, combining marks none. Right-to-left text stands in its logical order,
which is what players expect. A subtitle ends no later than the next one begins.

WebVTT takes `&`, `<` and `>` for markup, so they are escaped (with them `-->` too). SubRip has no escapes: some players take `<i>`
there for italics, and nothing can be done.
"""

import html
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dsrun.evaluation.words import Word

COLUMNS = 42
LINES = 2
MOST_SECONDS = 7.0
FEWEST_SECONDS = 1.0
PAUSE = 0.7  # seconds


@dataclass(frozen=True)
class Subtitle:
    """Lines on screen from `start` to `end`, seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def srt(words: Sequence[Word], *, separator: str = " ") -> str:
    """A SubRip file, or nothing if there are no words."""
    return "".join(
        f"{number}\n{_time(title.start, ',')} --> {_time(title.end, ',')}\n{chr(10).join(title.lines)}\n\n"
        for number, title in enumerate(subtitles(words, separator=separator), start=1)
    )


def vtt(words: Sequence[Word], *, separator: str = " ") -> str:
    """A WebVTT file."""
    titles = (
        f"\n{_time(title.start, '.')} --> {_time(title.end, '.')}\n{html.escape(chr(10).join(title.lines), quote=False)}\n"
        for title in subtitles(words, separator=separator)
    )
    return "WEBVTT\n" + "".join(titles)


def subtitles(words: Sequence[Word], *, separator: str = " ") -> list[Subtitle]:
    """Words in the order of time, cut into subtitles. `separator`: between words; "" where every character is one."""
    titles = [
        Subtitle(group[0].start, group[-1].end, tuple(_lines([word.text for word in group], separator)))
        for group in _groups(words, separator)
    ]
    following = [*(title.start for title in titles[1:]), float("inf")]
    return [_on_screen(title, next_start) for title, next_start in zip(titles, following, strict=False)]


def columns(text: str) -> int:
    """Width of a text in columns."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _groups(words: Sequence[Word], separator: str) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group and (
            word.start - group[-1].end >= PAUSE
            or word.end - group[0].start > MOST_SECONDS
            or _greedy_lines([w.text for w in [*group, word]], separator, COLUMNS) > LINES
        ):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _greedy_lines(texts: Sequence[str], separator: str, width: int) -> int:
    """How many lines of at most `width` columns the texts need; a text that is wider has a line of its own."""
    lines, used = 0, 0
    for text in texts:
        wide = columns(text)
        if lines and used + len(separator) + wide <= width:
            used += len(separator) + wide
        else:
            lines, used = lines + 1, wide
    return lines


def _lines(texts: Sequence[str], separator: str) -> list[str]:
    """One line if it fits, else two that differ least in width."""
    whole = separator.join(texts)
    if len(texts) == 1 or columns(whole) <= COLUMNS:
        return [whole]
    halves = ([separator.join(texts[:cut]), separator.join(texts[cut:])] for cut in range(1, len(texts)))
    return min(halves, key=lambda lines: max(map(columns, lines)))


def _on_screen(title: Subtitle, next_start: float) -> Subtitle:
    """Long enough to be read, and gone when the next one comes. Cut off at a whole millisecond, so that order survives the rounding."""
    end = min(max(title.end, title.start + FEWEST_SECONDS), next_start)
    return replace(title, end=max(end, title.start))


def _time(seconds: float, mark: str) -> str:
    milliseconds = int(seconds * 1000 + 1e-6)  # of 0.29 seconds 289.99... remain otherwise
    rest, thousandth = divmod(milliseconds, 1000)
    return f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}{mark}{thousandth:03d}"
