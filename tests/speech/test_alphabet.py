"""Alphabets: class ids, normalisation, files, and characters that are not there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrun.errors import DataError
from dsrun.speech import Alphabet, encode_all
from dsrun.speech.alphabet import TextStream

ENGLISH = Alphabet((" ", "'", *"abcdefghijklmnopqrstuvwxyz"))


def test_blank_is_class_0_and_the_first_symbol_class_1():
    assert ENGLISH.num_classes == 29
    assert ENGLISH.encode("a b'") == [3, 1, 4, 2]
    assert ENGLISH.decode([0, 3, 0, 1, 4, 2, 0]) == "a b'"


def test_decoding_collapses_doubled_spaces_and_trims():
    assert ENGLISH.decode([1, 3, 1, 1, 4, 1]) == "a b"


@given(st.lists(st.text(), max_size=4).filter(lambda texts: any(text.split() for text in texts)))
def test_an_alphabet_of_texts_encodes_them_and_decodes_to_the_normalised_text(texts):
    alphabet = Alphabet.from_texts(texts)
    for text in texts:
        labels = alphabet.encode(text)
        assert 0 not in labels
        assert alphabet.decode(labels) == alphabet.normalize(text)


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


def test_an_alphabet_reads_texts_as_its_normaliser_does(tmp_path):
    texts = {"a": "Don\u2019t -- stop!", "b": "7 Dogs"}
    plain = Alphabet.from_texts(texts.values())
    english = Alphabet.from_texts(texts.values(), normalizer="english")
    as_is = Alphabet.from_texts(texts.values(), normalizer="as_is")
    assert "".join(english.symbols) == " 'degnopstv"
    assert {"7", "\u2019", "-", "!"} <= set(plain.symbols)
    assert {"D", "o"} <= set(as_is.symbols)
    assert [english.decode(labels) for labels in encode_all(texts, english, on_unknown="error").labels] == [
        "don't stop",
        "seven dogs",
    ]
    for alphabet in (plain, english, as_is):
        alphabet.save(tmp_path / "alphabet.txt")
        assert Alphabet.from_file(tmp_path / "alphabet.txt", normalizer=alphabet.normalizer) == alphabet
    assert "d" not in as_is.symbols


def test_case_counts_in_the_file_of_an_alphabet_that_takes_text_as_it_is(tmp_path):
    path = tmp_path / "alphabet.txt"
    path.write_text("a\nA\n \n")
    assert Alphabet.from_file(path, normalizer="as_is").encode("aA a") == [1, 2, 3, 1]
    with pytest.raises(DataError, match="case does not count"):
        Alphabet.from_file(path)


CJK = [chr(0x4E00 + k) for k in range(5_000)]


def test_five_thousand_symbols_come_back_from_a_file_and_from_a_corpus(tmp_path):
    alphabet = Alphabet.from_texts("".join(CJK[k : k + 50]) for k in range(0, 5_000, 50))
    assert alphabet.symbols == tuple(CJK)
    alphabet.save(tmp_path / "alphabet.txt")
    assert Alphabet.from_file(tmp_path / "alphabet.txt") == alphabet
    assert alphabet.num_classes == 5_001


def test_two_thousand_texts_of_five_thousand_symbols_are_encoded_without_a_table_for_each():
    alphabet = Alphabet(tuple(CJK))
    texts = {str(k): "".join(CJK[(k * 7 + j * 31) % 5_000] for j in range(15)) for k in range(2_000)}
    encoded = encode_all(texts, alphabet, on_unknown="error")
    assert [alphabet.decode(labels) for labels in encoded.labels] == list(texts.values())
    assert alphabet.classes is alphabet.classes  # built once: 2,000 dicts of 5,000 would take seconds
    assert [alphabet.encode(text) for text in texts.values()] == encoded.labels


def test_unknown_symbols_among_thousands_are_counted():
    alphabet = Alphabet(tuple(CJK))
    foreign = "\u9ad8"  # U+9AD8, beyond the 5,000
    encoded = encode_all({"a": CJK[1] + foreign * 2, "b": foreign}, alphabet, on_unknown="drop")
    assert encoded.labels == [[2], []]
    assert encoded.dropped == {foreign: 3}


def test_text_that_comes_in_pieces_is_the_text_of_all_labels():
    alphabet = Alphabet((" ", "a", "b", "\t"))
    random = np.random.default_rng(0)
    for _ in range(200):
        labels = random.choice([0, 1, 1, 2, 3, 4], 12).tolist()
        cut = int(random.integers(13))
        stream = TextStream(alphabet)
        assert stream.push(labels[:cut]) == alphabet.decode(labels[:cut])
        stream.push([])
        stream = TextStream(alphabet)
        assert "".join(stream.push([label]) for label in labels) == alphabet.decode(labels)
