"""Subtitles: layout, times and escapes, read back by an independent reading of the formats."""

import itertools
import re

import numpy as np
import pytest

from dsrun.evaluation.subtitles import COLUMNS, MOST_SECONDS, columns, srt, subtitles, vtt
from dsrun.evaluation.words import Word


def spoken(texts, *, length=0.3, gap=0.1, pauses=()):
    """Words one after the other; behind those numbered in `pauses` two seconds more."""
    words, time = [], 0.0
    for number, text in enumerate(texts):
        words.append(Word(text, time, time + length, 0.9))
        time += length + gap + 2.0 * (number in pauses)
    return words


def parsed(text, mark):
    """(start, end, text) of each cue, seconds."""
    stamp = rf"(\d\d+):(\d\d):(\d\d){re.escape(mark)}(\d\d\d)"
    found = re.findall(rf"^{stamp} --> {stamp}\n((?:.+\n)+)", text, flags=re.MULTILINE)
    seconds = [
        [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in (f[:4], f[4:8])] for f in found
    ]
    return [(start, end, cue[8].rstrip("\n")) for (start, end), cue in zip(seconds, found, strict=True)]


def random_words(seed):
    random = np.random.default_rng(seed)
    words, time = [], 0.0
    for _ in range(200):
        time += float(random.exponential(0.3))
        end = time + float(random.uniform(0.03, 1.5))
        words.append(Word("x" * int(random.integers(1, 15)), time, end, 0.5))
        time = end
    return words


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("write", "mark"), [(srt, ","), (vtt, ".")])
def test_every_word_is_shown_once_in_order_in_lines_that_fit_at_times_that_never_overlap(seed, write, mark):
    words = random_words(seed)
    cues = parsed(write(words), mark)
    assert [text for _, _, cue in cues for text in cue.split()] == [word.text for word in words]
    lines = [line for _, _, cue in cues for line in cue.split("\n")]
    assert max(map(len, lines)) <= COLUMNS
    assert all(cue.count("\n") <= 1 for _, _, cue in cues)
    times = [time for start, end, _ in cues for time in (start, end)]
    assert times == sorted(times)
    assert all(end - start <= MOST_SECONDS + 0.001 for start, end, _ in cues)
    starts = {round(word.start, 3) for word in words}
    assert all(min(abs(start - known) for known in starts) <= 0.0011 for start, _, _ in cues)


def test_a_pause_begins_a_new_subtitle_and_a_short_one_stays_for_a_second():
    found = subtitles(spoken(["yes", "no", "well"], pauses=[0]))
    assert [title.lines for title in found] == [("yes",), ("no well",)]
    assert found[0].end - found[0].start == pytest.approx(1.0)
    quick = subtitles([Word("a" * 42, 0.0, 0.2, 1.0), Word("b" * 42, 0.2, 0.4, 1.0), Word("c", 0.4, 0.5, 1.0)])
    assert [(title.start, title.end) for title in quick] == [(0.0, 0.4), (0.4, 1.4)]


def test_two_lines_are_of_nearly_equal_length():
    (found,) = subtitles(spoken(["word"] * 10, length=0.2))
    assert found.lines == (" ".join(["word"] * 5),) * 2


def test_wide_characters_count_twice_and_combining_ones_not():
    assert columns("ab你好") == 6
    assert columns("e\u0301") == 1
    words = spoken(list("你" * 60), length=0.05, gap=0.0)
    for title in subtitles(words, separator=""):
        assert max(columns(line) for line in title.lines) <= COLUMNS
    assert "".join(itertools.chain(*(t.lines for t in subtitles(words, separator="")))) == "你" * 60


def test_webvtt_escapes_what_it_takes_for_markup_and_subrip_numbers_its_cues():
    words = spoken(["<b>", "&", "-->", "שלום"])
    assert "\n&lt;b&gt; &amp; --&gt; שלום\n" in vtt(words)
    assert vtt(words).startswith("WEBVTT\n\n")
    assert srt(spoken(["a", "b"], pauses=[0])) == (
        "1\n00:00:00,000 --> 00:00:01,000\na\n\n2\n00:00:02,400 --> 00:00:03,400\nb\n\n"
    )


def test_no_words_are_an_empty_file_and_hours_have_two_digits_or_more():
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n"
    assert "101:01:01,500 --> " in srt([Word("late", 101 * 3600 + 61.5, 101 * 3600 + 62.0, 1.0)])
