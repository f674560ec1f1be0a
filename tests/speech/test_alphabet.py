"""Alphabets: class ids, normalisation, files, and characters that are not there."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsrun.errors import DataError
from dsrun.speech import Alphabet, encode_all, normalize

ENGLISH = Alphabet((" ", "'", *"abcdefghijklmnopqrstuvwxyz"))


def test_blank_is_class_0_and_the_first_symbol_class_1():
    assert ENGLISH.num_classes == 29
    assert ENGLISH.encode("a b'") == [3, 1, 4, 2]
    assert ENGLISH.decode([0, 3, 0, 1, 4, 2, 0]) == "a b'"


def test_decoding_collapses_doubled_spaces_and_trims():
    assert ENGLISH.decode([1, 3, 1, 1, 4, 1]) == "a b"


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


@given(st.lists(st.text(), max_size=4).filter(lambda texts: any(normalize(text) for text in texts)))
def test_an_alphabet_of_texts_encodes_them_and_decodes_to_the_normalised_text(texts):
    alphabet = Alphabet.from_texts(texts)
    for text in texts:
        labels = alphabet.encode(text)
        assert 0 not in labels
        assert alphabet.decode(labels) == normalize(text)


def test_an_alphabet_of_texts_does_not_depend_on_their_order():
    assert Alphabet.from_texts(["cab", "Ż '"]) == Alphabet.from_texts(["ż ' c", "BA"])
    assert Alphabet.from_texts(["cab", "Ż '"]).symbols == (" ", "'", "a", "b", "c", "ż")


def test_a_file_may_have_comments_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "alphabet.txt"
    path.write_bytes("\ufeff# comment\r\n \r\n'\r\nA\r\n\\#\r\n\r\n\\\r\nЯ".encode())
    assert Alphabet.from_file(path).symbols == (" ", "'", "a", "#", "\\", "я")


def test_what_is_saved_is_read_back(tmp_path):
    alphabet = Alphabet((" ", "#", "\\", "'", "z", "a", "ё"))
    alphabet.save(tmp_path / "alphabet.txt")
    assert Alphabet.from_file(tmp_path / "alphabet.txt") == alphabet


def test_all_bad_lines_of_a_file_are_named(tmp_path):
    path = tmp_path / "alphabet.txt"
    path.write_text("a\nch\nA\n  \nb \n\t\nc\n")
    with pytest.raises(DataError) as error:
        Alphabet.from_file(path)
    lines = str(error.value).split("\n")
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "5", "6"]
    assert "'a' stands in line 1 already" in lines[1]


def test_a_missing_empty_or_binary_alphabet_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read as an alphabet"):
        Alphabet.from_file(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(DataError, match="holds no symbols"):
        Alphabet.from_file(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfea\n")
    with pytest.raises(DataError, match="cannot be read as an alphabet"):
        Alphabet.from_file(tmp_path / "binary.txt")
    with pytest.raises(DataError, match="more than once"):
        Alphabet(("a", "b", "a"))


def test_an_unknown_character_is_an_error_that_counts_and_shows_examples():
    texts = {"one": "naïve 5", "two": "café ï ï", "three": "plain"}
    with pytest.raises(DataError) as error:
        encode_all(texts, ENGLISH, on_unknown="error")
    first, second, third, advice = str(error.value).split("\n")
    assert first == "character 'ï' (U+00EF) is not in the alphabet: 3 times, in 'one', 'two'"
    assert second == "character '5' (U+0035) is not in the alphabet: 1 time, in 'one'"
    assert "'é'" in third
    assert "data.unknown_characters: drop" in advice
    with pytest.raises(DataError, match="'5' 'ï'"):
        ENGLISH.encode(texts["one"])


def test_drop_leaves_unknown_characters_out_and_counts_them():
    encoded = encode_all({"one": "naïve", "two": "55"}, ENGLISH, on_unknown="drop")
    assert [ENGLISH.decode(labels) for labels in encoded.labels] == ["nave", ""]
    assert encoded.dropped == {"ï": 1, "5": 2}
