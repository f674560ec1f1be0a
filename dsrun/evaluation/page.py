"""An evaluation as one HTML page: rates, tables, and every utterance with its errors marked, worst first.

One file without scripts, pictures or links, so that it can be mailed and kept; the same results give the same bytes again. Each
utterance is its reference, and where the hypothesis differs both stand one above the other, marked by a letter and a line as
well as by colour. Words are aligned, and inside a word that was read as another the characters; a reference without spaces is
aligned by characters at once.

Transcripts are anybody's text. All of it is escaped, each piece is isolated from the direction of its neighbours, and characters
that cannot be seen but change how others look (controls, bidirectional marks and overrides, line separators) are shown by their
code point. Beyond `MOST_UTTERANCES` the page says how many it leaves out.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from dsrun.evaluation.edits import Edit, character_edits, word_edits
from dsrun.evaluation.results import UtteranceResult, notes_on_tuning

MOST_UTTERANCES = 5_000
MOST_SPEAKERS = 20  # at either end
MOST_CONFUSED = 15

# Unicode's bidirectional formatting characters: they reorder what follows, or look like nothing.
BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
DOTTED_CIRCLE = "\u25cc"  # what a combining mark stands on where it stands alone

LETTERS = {"substitution": "S", "deletion": "D", "insertion": "I"}


@dataclass(frozen=True)
class Piece:
    """A stretch of an utterance: equal words, or one edit; `said` and `read` are texts, each with whether it is wrong."""

    kind: str
    said: tuple[tuple[str, bool], ...]
    read: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True)
class Line:
    """An utterance as the page shows it."""

    result: UtteranceResult
    unit: Literal["words", "characters"]
    direction: Literal["ltr", "rtl"]
    pieces: tuple[Piece, ...]


def render_page(title: str, report: dict[str, Any], utterances: Sequence[UtteranceResult]) -> str:
    """The page's text.

    Args:
        title: what was scored. report: as `dsrun eval --json` has it. utterances: each one's result, in any order.
    """
    worst = sorted(utterances, key=lambda u: (-u.characters.rate, -u.characters.errors, u.id))
    environment = _environment()
    environment.filters |= {"rate": _rate, "interval": _interval, "signed": _signed}
    environment.globals |= {"whisker": _whisker, "largest": _largest, "aligned": aligned}
    template = environment.from_string(_template())
    return template.render(
        title=title,
        report=report,
        facts=_facts(report),
        speakers=_ends((report["by_speaker"] or {"rows": []})["rows"]),
        lines=[align_line(u) for u in worst[:MOST_UTTERANCES]],
        left_out=max(len(worst) - MOST_UTTERANCES, 0),
        most_confused=MOST_CONFUSED,
        aligned_style=aligned_style(),
    )


def aligned(line: Line) -> Markup:
    """The reference, and where the hypothesis differs both, one above the other: marked by letter, line and colour."""
    return Markup(_aligned_template().render(line=line, letters=LETTERS).rstrip("\n"))


def aligned_style() -> Markup:
    """What a page's style sheet needs for it; the page says which colours `--substitution`, `--deletion` and `--insertion` are."""
    return Markup((files(__package__) / "aligned.css").read_text(encoding="utf-8"))


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    return environment


@cache
def _aligned_template() -> Template:
    return _environment().from_string((files(__package__) / "aligned.html").read_text(encoding="utf-8"))


def is_page(path: Path) -> bool:
    """Whether a file begins as every page does, so that a new page may replace it."""
    head = _template().partition("<title>")[0].encode()
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _template() -> str:
    return (files(__package__) / "page.html").read_text(encoding="utf-8")


def align_line(result: UtteranceResult) -> Line:
    """Where an utterance's hypothesis differs from its reference."""
    is_by_words = len(result.reference.split()) != 1
    align, between = (word_edits, " ") if is_by_words else (character_edits, "")
    pieces: list[Piece] = []
    for edit in align(result.reference, result.hypothesis):
        if edit.kind == "match" and pieces and pieces[-1].kind == "match":
            text = pieces.pop().said[0][0] + between + edit.reference
            pieces.append(Piece("match", ((text, False),)))
        else:
            pieces.append(_piece(edit, is_by_words=is_by_words))
    unit: Literal["words", "characters"] = "words" if is_by_words else "characters"
    return Line(result, unit, _direction(result.reference or result.hypothesis), tuple(pieces))


def _piece(edit: Edit, *, is_by_words: bool) -> Piece:
    if edit.kind == "match":
        return Piece("match", ((edit.reference, False),))
    if edit.kind == "substitution" and is_by_words:
        inside = character_edits(edit.reference, edit.hypothesis)
        said = [(step.reference, step.kind != "match") for step in inside if step.kind != "insertion"]
        read = [(step.hypothesis, step.kind != "match") for step in inside if step.kind != "deletion"]
        return Piece(edit.kind, _runs(said), _runs(read))
    said, read = [(edit.reference, True)], [(edit.hypothesis, True)]
    return Piece(edit.kind, tuple(said) if edit.reference else (), tuple(read) if edit.hypothesis else ())


def _runs(characters: Sequence[tuple[str, bool]]) -> tuple[tuple[str, bool], ...]:
    """Neighbours that are alike, joined."""
    runs: list[tuple[str, bool]] = []
    for character, is_wrong in characters:
        if runs and runs[-1][1] == is_wrong:
            runs[-1] = (runs[-1][0] + character, is_wrong)
        else:
            runs.append((character, is_wrong))
    return tuple(runs)


def _direction(text: str) -> Literal["ltr", "rtl"]:
    """Of the first character that has one; the browser's own rule would not look into isolated pieces."""
    for character in text:
        if (found := unicodedata.bidirectional(character)) in ("L", "R", "AL"):
            return "ltr" if found == "L" else "rtl"
    return "ltr"


def visible(text: str) -> Markup:
    """Escaped text with what cannot be seen shown by its code point, and a lone space as an open box."""
    if text == " ":
        return Markup('<span class="code">␣</span>')
    if len(text) == 1 and unicodedata.category(text) in ("Cf", "Zs"):  # a joiner, a soft hyphen, a wide space
        return _code_point(text)
    start = DOTTED_CIRCLE if text and unicodedata.combining(text[0]) else ""
    return Markup(start) + Markup("").join(_visible_character(character) for character in text)


def is_unseen(character: str) -> bool:
    """Whether it cannot be seen and changes how others look: controls, bidirectional marks, line separators, half a surrogate pair."""
    return character in BIDI_CONTROLS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _visible_character(character: str) -> Markup:
    return _code_point(character) if is_unseen(character) else escape(character)


def _code_point(character: str) -> Markup:
    return Markup('<span class="code">U+{:04X}</span>').format(ord(character))


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    names = ("run", "step", "manifest", "results", "decoder", "determinism", "utterances")
    facts = [(name, _fact(report[name])) for name in names if name in report]
    if not report.get("manifest_is_as_trained", True):
        facts.append(("note", "not one of the manifests that the run was trained with, as they were then"))
    facts += [("note", note) for note in notes_on_tuning(report)]
    if unknown := report.get("unknown_characters"):
        found = ", ".join(f"{character!r} {count} times" for character, count in unknown.items())
        facts.append(("characters outside the alphabet", found))
    return facts


def _fact(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _ends(rows: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """All rows, or the worst and the best with None for those between."""
    if len(rows) <= 2 * MOST_SPEAKERS + 1:
        return list(rows)
    return [*rows[:MOST_SPEAKERS], None, *rows[-MOST_SPEAKERS:]]


def _rate(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _interval(values: Sequence[float] | None) -> str:
    return "–" if values is None else f"{values[0]:.4f} to {values[1]:.4f}"


def _largest(rows: Sequence[dict[str, Any] | None], name: str) -> float:
    """The largest finite end of the rows' intervals, or rate where there is none."""
    ends = [end for row in rows if row for end in (row[name], *(row[f"{name}_interval"] or ()))]
    return max((end for end in ends if end < float("inf")), default=0.0)


def _whisker(value: float, interval: Sequence[float] | None, largest: float) -> Markup:
    """A rate as a dot and its interval as a line, on a scale from 0 to `largest`; nothing where either is infinite."""
    ends = [value, *(interval or ())]
    if largest <= 0 or max(ends) == float("inf"):
        return Markup("")
    low, dot, high = (f"{2 + 96 * end / largest:.2f}" for end in (min(ends), value, max(ends)))
    return Markup(
        '<svg viewBox="0 0 100 10" width="100" height="10" aria-hidden="true"><path class="axis" d="M2 5H98"/>'
        '<path class="span" d="M{} 5H{}"/><circle cx="{}" cy="5" r="3"/></svg>'
    ).format(low, high, dot)
