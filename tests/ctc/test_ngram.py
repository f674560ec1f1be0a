"""ARPA files and backoff: probabilities by hand and from KenLM, and files that lie."""

import gzip
import math
import random

import pytest

from dsrun.ctc.arpa import HIGHEST_ORDER, LONGEST_LINE, read_arpa
from dsrun.ctc.ngram import LN10
from dsrun.errors import DataError

ARPA = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=1

\\1-grams:
-1.0 <unk>
-99 <s> -0.5
-0.7 </s>
-0.4 cat -0.2
-0.9 sat -0.3

\\2-grams:
-0.1 <s> cat -0.6
-0.25 cat sat -0.05
-0.15 sat </s>
-0.35 cat cat

\\3-grams:
-0.01 <s> cat sat

\\end\\
"""


def model_of(tmp_path, text=ARPA, name="lm.arpa"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_arpa(path)


def log10_of(model, sentence: str) -> float:
    return model.score_sentence(sentence.split()).log_prob / LN10


@pytest.mark.parametrize(
    ("sentence", "log10_prob"),
    [
        ("cat sat", -0.1 - 0.01 - (0.05 + 0.15)),  # trigram <s> cat sat; then backoff(cat sat), sat </s>
        ("cat cat", -0.1 - (0.6 + 0.35) - (0.2 + 0.7)),  # backoff(<s> cat), cat cat; then backoff(cat), </s>
        ("sat", -(0.5 + 0.9) - 0.15),
        ("dog", -(0.5 + 1.0) - 0.7),  # <unk>, which has no backoff weight
        ("", -(0.5 + 0.7)),
    ],
)
def test_backoff_by_hand(tmp_path, sentence, log10_prob):
    assert log10_of(model_of(tmp_path), sentence) == pytest.approx(log10_prob, abs=1e-12)


def test_unlisted_words_are_counted_and_a_model_without_unk_gives_them_almost_nothing(tmp_path):
    score = model_of(tmp_path).score_sentence(["cat", "dog"])
    assert score.num_unlisted == 1
    assert score.log_prob - score.log_prob_listed == pytest.approx((-0.6 - 0.2 - 1.0) * LN10)
    without = model_of(tmp_path, ARPA.replace("ngram 1=5", "ngram 1=4").replace("-1.0 <unk>\n", ""))
    assert not without.lists_unknown
    assert log10_of(without, "dog") == pytest.approx(-(0.5 + 100.0) - 0.7)


def test_unk_in_capitals_is_unk_and_both_at_once_are_one_word_twice(tmp_path):
    capitals = model_of(tmp_path, ARPA.replace("<unk>", "<UNK>").replace("cat cat", "<UNK> cat"))
    assert "<UNK>" not in capitals.vocabulary
    assert log10_of(capitals, "dog") == pytest.approx(-(0.5 + 1.0) - 0.7, abs=1e-12)
    assert log10_of(capitals, "dog cat") == pytest.approx(-(0.5 + 1.0) - 0.35 - (0.2 + 0.7), abs=1e-12)
    with pytest.raises(DataError, match=r"lm.arpa:8: the 1-gram '<unk>' stands in an earlier line already"):
        model_of(tmp_path, ARPA.replace("1=5", "1=6").replace("-1.0 <unk>", "-1.0 <unk>\n-2.0 <UNK>"))


def test_words_gzip_crlf_and_byte_order_mark_mean_the_same(tmp_path):
    expected = log10_of(model_of(tmp_path), "cat sat cat")
    windows = b"\xef\xbb\xbf" + ARPA.replace("\n", "\r\n").encode()
    assert log10_of(model_of(tmp_path, windows), "cat sat cat") == expected
    assert log10_of(model_of(tmp_path, gzip.compress(ARPA.encode()), "lm.arpa.gz"), "cat sat cat") == expected
    assert model_of(tmp_path).vocabulary == ["cat", "sat"]


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("\\data\\", "hello", 1, "begins with a line"),
        ("ngram 2=4", "ngram 3=4", 3, "order 3 after order 1"),
        ("ngram 1=5", "ngram 1=many", 2, "ORDER=COUNT"),
        ("ngram 1=5", "ngram 1=99999999999", 2, "more than"),
        ("ngram 1=5", "ngram 1=6", 13, "the section from line 6 has 5"),
        ("ngram 1=5", "ngram 1=3", 10, "here is one more"),
        ("-0.4 cat -0.2", "nan cat -0.2", 10, "log10 probability is 'nan'"),
        ("-0.4 cat -0.2", "-inf cat -0.2", 10, "log10 probability is '-inf'"),
        ("-0.4 cat -0.2", "-0_4 cat -0.2", 10, "log10 probability is '-0_4'"),
        ("-0.4 cat -0.2", "0.4 cat -0.2", 10, "more probable than certain"),
        ("-0.4 cat -0.2", "-0.4 cat inf", 10, "backoff weight is 'inf'"),
        ("-0.4 cat -0.2", "-0.4", 10, "expected a log10 probability, 1 word"),
        ("-0.4 cat -0.2", "-0.4 sat -0.2", 11, "'sat' stands in an earlier line"),
        ("-0.35 cat cat", "-0.35 cat sat", 17, "the n-gram of line 15 again"),
        ("-0.35 cat cat", "-0.35 cat dog", 17, "'dog' is not among the 1-grams"),
        ("<s> cat sat", "sat cat sat", 20, "context 'sat cat' is not among the 2-grams"),
        ("-0.01 <s> cat sat", "-0.01 <s> cat sat -1", 20, "highest order"),
        ("</s>", "</t>", 13, "the 1-grams lack </s>"),
        ("\\2-grams:", "\\4-grams:", 13, "expected \\2-grams:"),
        ("\\end\\\n", "", 22, "cut off"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path, old, new, line, reason):
    with pytest.raises(DataError) as refusal:
        model_of(tmp_path, ARPA.replace(old, new))
    assert f"lm.arpa:{line}: " in str(refusal.value)
    assert reason in str(refusal.value)


def test_several_problems_are_told_at_once(tmp_path):
    with pytest.raises(DataError) as refusal:
        model_of(tmp_path, ARPA.replace("-0.4 cat", "x cat").replace("-0.7 </s>", "1 </s>"))
    assert str(refusal.value).count("lm.arpa:") == 3  # with the </s> that is then missing


def test_hostile_files_are_refused_before_they_cost_anything(tmp_path):
    orders = "\\data\\\n" + "".join(f"ngram {order}=1\n" for order in range(1, 20))
    with pytest.raises(DataError, match=f"above {HIGHEST_ORDER}"):
        model_of(tmp_path, orders)
    with pytest.raises(DataError, match="longer than"):
        model_of(tmp_path, gzip.compress(b"\\data\\\n" + b"x" * (4 * LONGEST_LINE)))
    with pytest.raises(DataError, match="here is one more"):
        model_of(tmp_path, "\\data\\\nngram 1=1\n\\1-grams:\n" + "".join(f"-1 w{k}\n" for k in range(100)))
    with pytest.raises(DataError, match="not UTF-8"):
        model_of(tmp_path, ARPA.encode().replace(b"cat", b"c\xff"))
    with pytest.raises(DataError, match="cannot be read"):
        model_of(tmp_path, gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(DataError, match="KenLM binary"):
        model_of(tmp_path, b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(DataError, match="no such language model"):
        read_arpa(tmp_path / "none.arpa")
    with pytest.raises(DataError, match="folder"):
        read_arpa(tmp_path)


def random_arpa(rng: random.Random, *, order: int, has_unknown: bool) -> str:
    """A model of ten words whose numbers need not add up: backoff is defined all the same."""
    words = ["<s>", "</s>", *(f"w{k}" for k in range(8))] + ["<unk>"] * has_unknown
    listed = {1: [(word,) for word in words]}
    for n in range(2, order + 1):
        # Suffix closed, as every toolkit writes them: KenLM fills in others.
        contexts = [gram for gram in listed[n - 1] if gram[-1] != "</s>"]
        grams = {(*rng.choice(contexts), rng.choice(words[1:])) for _ in range(25)}
        listed[n] = sorted(gram for gram in grams if gram[1:] in listed[n - 1])
    lines = ["\\data\\", *(f"ngram {n}={len(grams)}" for n, grams in listed.items())]
    for n, grams in listed.items():
        lines += ["", f"\\{n}-grams:"]
        for gram in grams:
            backoff = f"\t{-rng.random():.4f}" if n < order and gram[-1] != "</s>" else ""
            lines.append(f"{-3 * rng.random():.4f}\t{' '.join(gram)}{backoff}")
    return "\n".join([*lines, "", "\\end\\", ""])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_sentences_score_as_in_kenlm_words_outside_the_model_included(tmp_path, order):
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary")
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    rng = random.Random(order)
    for unknown in ("<unk>", "<UNK>", None):
        path = tmp_path / f"{unknown}.arpa"
        text = random_arpa(rng, order=order, has_unknown=unknown is not None)
        path.write_text(text.replace("<unk>", unknown or ""))
        ours = read_arpa(path)
        names = [*(f"w{k}" for k in range(8)), "other", "another"]
        theirs = kenlm.KenLM(str(path), dictionary.Dictionary(names))
        for _ in range(60):
            sentence = [rng.randrange(len(names)) for _ in range(rng.randrange(7))]
            state, total = theirs.start(False), 0.0
            for word in sentence:
                state, score = theirs.score(state, word)
                total += score
            total += theirs.finish(state)[1]
            # KenLM adds float32s.
            assert log10_of(ours, " ".join(names[k] for k in sentence)) == pytest.approx(total, rel=1e-6, abs=1e-5)


def test_probabilities_are_natural_logarithms_of_the_files_log10(tmp_path):
    model = model_of(tmp_path)
    assert model.score(model.start, "cat")[0] == math.log(10) * -0.1


def test_a_backoff_that_makes_a_word_more_probable_than_certain_is_refused_and_others_above_1_are_not(tmp_path):
    with pytest.raises(
        DataError, match=r"lm.arpa:8: the log10 backoff weight 5 of '<s>' makes '</s>' after it more probable"
    ):
        model_of(tmp_path, ARPA.replace("-99 <s> -0.5", "0 <s> 5"))
    # Behind <s> the likeliest word, cat, is listed; of the others </s> has 10**-0.7.
    favouring = model_of(tmp_path, ARPA.replace("-99 <s> -0.5", "0 <s> 0.6"))
    assert log10_of(favouring, "") == pytest.approx(0.6 - 0.7)
    longer = model_of(tmp_path, ARPA.replace("-0.1 <s> cat -0.6", "-0.1 <s> cat 3"))
    assert log10_of(longer, "cat cat") == pytest.approx(-0.1 + 0.0 - (0.2 + 0.7))
