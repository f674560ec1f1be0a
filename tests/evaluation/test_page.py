"""The page of an evaluation: what it marks, that nobody's transcript becomes markup, and that it is the same bytes again."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dsrun.evaluation.breakdown import breakdown
from dsrun.evaluation.comparison import compare
from dsrun.evaluation.page import BIDI_CONTROLS, Piece, align_line, render_page, visible
from dsrun.evaluation.results import Evaluation, score_utterance

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><style>*{display:none}",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; &#60;",
    "\u202eevil\u2066",
    "a\x00b\x1b[2Jc\u2028d",
]
VOID = {"meta", "br"}
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "h3",
    "p",
    "dl",
    "dt",
    "dd",
    "div",
    "table",
    "caption",
}
ALLOWED |= {"thead", "tbody", "tr", "th", "td", "b", "bdi", "span", "ol", "li", "svg", "path", "circle"}


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and fails on tags that do not nest."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def evaluation(pairs, *, speakers=False) -> Evaluation:
    results = [score_utterance(f"u{n}", *pair, 0.0) for n, pair in enumerate(pairs)]
    return Evaluation(
        tuple(replace(u, seconds=1.0 + n, speaker=f"s{n % 3}" if speakers else None) for n, u in enumerate(results))
    )


def page_of(found: Evaluation, *, title="runs/x", **more) -> str:
    report = {"results": title, "utterances": len(found.utterances), **found.summary(), **breakdown(found.utterances)}
    return render_page(title, report | more, found.utterances)


def test_a_word_is_marked_as_substituted_deleted_or_inserted_and_the_characters_inside_that_differ():
    line = align_line(score_utterance("a", "press the one now", "press one won please", 0.0))
    assert line.pieces == (
        Piece("match", (("press", False),)),
        Piece("deletion", (("the", True),)),
        Piece("match", (("one", False),)),
        Piece("substitution", (("n", True), ("o", False), ("w", True)), (("w", True), ("o", False), ("n", True))),
        Piece("insertion", (), (("please", True),)),
    )


def test_a_reference_without_spaces_is_aligned_by_characters():
    line = align_line(score_utterance("a", "你好世界", "你号世界吗", 0.0))
    assert line.pieces == (
        Piece("match", (("你", False),)),
        Piece("substitution", (("好", True),), (("号", True),)),
        Piece("match", (("世界", False),)),
        Piece("insertion", (), (("吗", True),)),
    )


@pytest.mark.parametrize(
    ("reference", "hypothesis", "direction"),
    [("שלום 1", "x", "rtl"), ("1 go", "שלום", "ltr"), ("", "مرحبا", "rtl"), ("", "", "ltr")],
)
def test_an_utterance_runs_in_the_direction_of_its_reference(reference, hypothesis, direction):
    assert align_line(score_utterance("a", reference, hypothesis, 0.0)).direction == direction


def test_transcripts_speakers_ids_and_titles_never_become_markup():
    friendly = page_of(evaluation([("a b", "a c")] * len(HOSTILE), speakers=True))
    hostile_results = evaluation([(text + " one", text + " two") for text in HOSTILE])
    results = Evaluation(
        tuple(replace(u, id=text, speaker=text) for u, text in zip(hostile_results.utterances, HOSTILE, strict=True))
    )
    found = {"names": HOSTILE[:2], **compare(results, results, samples=100)}
    page = page_of(results, title=HOSTILE[2], comparison=found)
    parsed = Page(page)
    assert set(parsed.tags) <= ALLOWED
    assert not [name for name in parsed.attributes if name.startswith("on") or name in ("style", "src", "href")]
    assert parsed.tags.count("style") == Page(friendly).tags.count("style") == 1
    for text in HOSTILE[:5]:
        assert text in parsed.text
    # Neither a direction override nor a control character is left to act; each is told by its code point.
    assert not set(page) & (BIDI_CONTROLS | set("\x00\x1b\u2028"))
    assert {"U+202E", "U+2066", "U+0000", "U+001B", "U+2028"} <= set(re.findall(r"U\+[0-9A-F]{4}", parsed.text))


def test_the_page_asks_for_nothing_and_runs_nothing():
    page = page_of(evaluation([("a b", "a c")]))
    assert "default-src 'none'" in page
    assert not re.findall(r"https?:|<script|<link|<img|url\(|@import|javascript", page)


def test_kinds_of_errors_are_told_in_letters_and_words_and_not_by_colour_alone():
    parsed = Page(page_of(evaluation([("one two three", "one too three four"), ("gone away", "away")])))
    for text in ("said two read as tooS", "inserted fourI", "left out goneD"):
        assert text in "".join(parsed.text.split("\n")), parsed.text
    # Whoever cannot see hears the words of the hidden texts; the letters are not read aloud.
    assert "aria-hidden" in parsed.attributes


def test_utterances_come_worst_first_and_a_cut_is_said(monkeypatch):
    results = evaluation([("aaaa a", "aaaa a"), ("aaaa a", ""), ("aaaa a", "aaaa b"), ("", "x")])
    text = Page(page_of(results)).text
    places = [text.index(f"{u.id}, {u.seconds:.2f} s") for u in results.utterances]
    assert sorted(range(4), key=places.__getitem__) == [3, 1, 2, 0]
    assert "inf" in text
    monkeypatch.setattr("dsrun.evaluation.page.MOST_UTTERANCES", 3)
    assert "1 more utterances" in Page(page_of(results)).text


def test_every_table_of_the_report_is_on_the_page():
    results = evaluation([("go on", "go in"), ("go up", "go up")] * 15, speakers=True)
    text = Page(page_of(results, comparison={"names": ["a", "b"], **compare(results, results, samples=100)})).text
    for part in (
        "0.2500",
        "1.00 to 10.00",
        "3 speakers, worst first",
        "95% interval over speakers",
        "no difference seen",
        "15 misread",
    ):
        assert part in text


def test_the_same_results_give_the_same_bytes_again():
    results = evaluation([("go on", "go in"), ("", "x"), ("up", "")] * 4, speakers=True)
    assert page_of(results) == page_of(results)


def test_what_cannot_be_seen_alone_is_shown_by_its_code_point_and_a_mark_stands_on_a_circle():
    assert "␣" in visible(" ")
    assert "U+200D" in visible("\u200d")
    assert "U+2003" in visible("\u2003")
    assert visible("👩\u200d👧") == "👩\u200d👧"  # the joiner makes one picture of two
    assert visible("\u0301") == "\u25cc\u0301"
    assert visible("a b") == "a b"
