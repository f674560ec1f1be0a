"""Normalisers: one form of a text, no spoken word lost in silence."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsrun.errors import DataError, UsageError
from dsrun.speech import NORMALIZERS, make_normalizer, normalize_all
from dsrun.speech.normalizers import _number, as_is, english
from dsrun.speech.normalizers import nfkc_lower as normalize


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Hello \t\n  World ", "hello world"),
        ("ﬁne Ｗｉｄｅ", "fine wide"),  # ligature and full-width letters: NFKC
        ("e\u0301té", "été"),  # combining accent: one character after NFKC
        ("ПРИВЕТ", "привет"),
        ("a\u00a0b\u3000c", "a b c"),  # no-break and ideographic spaces
        ("J\u030c", "\u01f0"),  # composed only after lower()
        ("", ""),
    ],
)
def test_text_is_nfkc_lower_case_and_single_spaced(text, normal):
    assert normalize(text) == normal


@given(st.text())
@example("J\u030c")
@example("ΑΣ Σ")
@example("\u0130")
def test_normalising_twice_is_normalising_once(text):
    assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize("name", NORMALIZERS)
@given(text=st.text() | st.text("aé '\u2019-.,5\u0301\u00ad\t"))
@example(text="a''b")
@example(text="' a\u2019b '")
@example(text="e\u00ad\u0301")
@example(text="\u0130'")
def test_every_normaliser_is_idempotent_on_what_it_takes(name, text):
    normalizer = make_normalizer(name)
    try:
        once = normalizer(text)
    except DataError:
        return
    assert normalizer(once) == once


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("\u201cDon\u2019t!\u201d, he said \u2014 twenty-one times\u2026", "don't he said twenty one times"),
        ("rock 'n' roll, 'tis the boys' o'clock", "rock n roll tis the boys o'clock"),
        ("it`s it\u00b4s it\u02bcs", "it's it's it's"),
        ("Mr. O'Neill e-mailed a.m./p.m.", "mr o'neill e mailed a m p m"),
        ("na\u00efve cafe\u0301", "naïve café"),
        ("co\u00adoperate", "cooperate"),  # a soft hyphen is no character
        ("5 dogs, 21 cats (and 0 mice).", "five dogs twenty one cats and zero mice"),
        (
            "the 1st, 2nd, 3rd, 4th, 12th, 20th and 42nd",
            "the first second third fourth twelfth twentieth and forty second",
        ),
        ("500 of 2,000 of 12000", "five hundred of two thousand of twelve thousand"),
        ("... - !", ""),
    ],
)
def test_english_keeps_words_and_their_apostrophes(text, normal):
    assert english(text) == normal


UNCERTAIN = """1984 101 100 1,000 1900 007 3.5 .5 3:30 5/6 -5 5" '84 10-20 2th 11st 1990s b52 5kg 1º ٣ ½ x² ④ $5 5% AT&T
a@b # +1 € ° ™ ❤ 5,00 10,0000"""


@pytest.mark.parametrize("text", UNCERTAIN.split())
def test_english_refuses_what_may_have_been_read_in_more_than_one_way(text):
    with pytest.raises(DataError, match="more than one way|nobody can know"):
        english(f"say {text} now")


def test_three_digits_behind_a_number_are_refused_for_they_may_be_its_thousands():
    assert english("5 dogs 200 cats") == "five dogs two hundred cats"
    with pytest.raises(DataError, match="'200'"):
        english("5 200")


@pytest.mark.parametrize("text", ["3 . 5", "5 / 6", "at 5 : 30", "5 , 6", "5 - 6", "(5 \u2013 6)", "5 -- 6", "5th . 6"])
def test_a_mark_alone_between_two_numbers_may_be_a_spoken_word_and_is_refused(text):
    with pytest.raises(DataError, match="may have been read as a word|more than one way"):
        english(f"say {text} now")


def test_a_mark_alone_beside_one_number_is_punctuation():
    assert english("- 5 dogs , all . 6 cats / dogs : 7") == "five dogs all six cats dogs seven"
    assert english("I have 5. 6 came") == "i have five six came"


def test_a_hundred_thousand_accents_on_a_letter_are_refused_at_once():
    pile = "a" + "\u0301\u0327" * 50_000
    start = time.process_time()
    for name in ("nfkc_lower", "english"):
        with pytest.raises(DataError, match="more than 1000 accents"):
            make_normalizer(name)(pile)
    assert time.process_time() - start < 0.5  # half a minute in NFKC
    few = "".join(letter + "\u0301\u0327" * 9 for letter in "abc" * 100)
    assert normalize(normalize(few)) == normalize(few)


def test_numbers_are_spelled_as_num2words_spells_them():
    num2words = pytest.importorskip("num2words").num2words
    taken = [value for value in [*range(2_100), *range(2_500, 110_000, 500)] if _number(str(value)) is not None]
    assert taken == [*range(100), *range(200, 1_000, 100), *range(2_000, 10_000, 1_000), *range(10_000, 100_000, 1_000)]
    for value in taken:
        assert _number(str(value)) == num2words(value).replace("-", " ")
    for value in range(1, 100):
        (spelled,) = [said for end in ("st", "nd", "rd", "th") if (said := _number(f"{value}{end}"))]
        assert spelled == num2words(value, to="ordinal").replace("-", " ")
        assert _number(num2words(value, to="ordinal_num")) == spelled


def test_as_is_touches_white_space_only():
    assert as_is(" \u2019A\u00a0 \ufb01! \n") == "\u2019A \ufb01!"


def test_refused_texts_are_counted_by_reason_with_the_utterances_named():
    texts = {f"u{k}": "in 1984" for k in range(5)} | {"fine": "in may", "v": "a & b"}
    with pytest.raises(DataError) as error:
        normalize_all(texts, english)
    first, second, total, advice = str(error.value).split("\n")
    assert first == "'1984': a number that may be read in more than one way. 5 utterances: 'u0', 'u1', 'u2'."
    assert second.startswith("'&' (U+0026)")
    assert second.endswith("1 utterance: 'v'.")
    assert total == "6 utterances in all."
    assert "data.normalizer" in advice
    assert normalize_all({"fine": "In May!"}, english) == {"fine": "in may"}


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="nfkc_lower, english, as_is"):
        make_normalizer("german")
