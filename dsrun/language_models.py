"""Language models from text: Kneser-Ney n-grams by kaldingram, written as an ARPA file, and how well they fit other text.

On the roof: reads manifests and text files, trains, and reads back what it wrote with the reader that decoding uses.

A text is one sentence a line, or a manifest (a name that ends in .jsonl), whose transcripts are the sentences. Every sentence is
normalised as transcripts are; empty ones are left out and counted. A model of characters (for alphabets without a space) has each
character as a word.

`<unk>` stands for the words that the text does not have. kaldingram reserves nothing for it. Here it is counted as one word that was
seen once after one other, and what that gives is shared among as many unseen words as the text has seen ones, since a decoder meets one
of them at a time: with so many of them all probabilities add up to 1. (KenLM's estimator also gives it what one word of a uniform
vocabulary gets. As probable as a word that was heard, it makes every misspelling one.)

Kneser-Ney takes D = n1 / (n1 + 2 n2) from every count of an order, where n1 n-grams occur once and n2 twice. In a text so small that
none occurs twice D is 1, and what the text does have would get probability 0; there 0.5 is taken, as KenLM's estimator falls back to.
"""

import codecs
import contextlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dsrun.ctc import NgramModel, read_arpa
from dsrun.ctc.ngram import BEGIN, END, UNKNOWN
from dsrun.errors import DataError, UsageError
from dsrun.record import write_atomically
from dsrun.speech import list_problems, make_normalizer, read_manifest

LONGEST_LINE = 1_000_000  # characters
SMALL_TEXT_DISCOUNT = 0.5
INSTALL = 'pip install "dsrun[lm]"'


def train_language_model(
    text: Path, output: Path, *, order: int, normalizer: str, characters: bool, dev: Path | None
) -> dict[str, Any]:
    """Train on a text, write an ARPA file, and report its size and how it fits.

    Raises:
        UsageError: the output is an input, another kind of file, or in no folder; kaldingram is not installed, or no normaliser
            of that name.
        DataError: texts that cannot be read or normalised, hold no sentence, or are too small for the order.
    """
    _require_ours(output, inputs=[text] if dev is None else [text, dev])
    sentences, num_empty = _sentences(text, normalizer=normalizer, characters=characters)
    held_out = None if dev is None else _sentences(dev, normalizer=normalizer, characters=characters)[0]
    arpa = estimate_arpa(sentences, order=order, name=str(text))
    write_atomically(output, arpa)
    model = read_arpa(output)
    return {
        "lm": str(output),
        "text": str(text),
        "order": order,
        "unit": "character" if characters else "word",
        "normalizer": normalizer,
        "sentences": len(sentences),
        "empty_lines": num_empty,
        "words": sum(map(len, sentences)),
        "ngrams": model.counts,
        "fit": fit(model, sentences),
        "dev": None if held_out is None else {"lm": str(output), "text": str(dev), **fit(model, held_out)},
    }


def _require_ours(output: Path, *, inputs: list[Path]) -> None:
    """Raises UsageError for a name whose file would be lost, or that cannot be written: seen before a long training."""
    for path in inputs:
        if output.resolve() == path.resolve() or (output.exists() and path.exists() and output.samefile(path)):
            raise UsageError(f"{output}: the model would replace the text {path}. Give the model another name.")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: there is no folder {output.parent}. Make it, or choose another place.")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output}: the folder {output.parent} cannot be written to. Choose another place.")
    if output.exists() and not (output.is_file() and _is_arpa(output)):
        raise UsageError(
            f"{output}: is there and is no ARPA file; only those are replaced. Remove it or give the model another name."
        )


def _is_arpa(path: Path) -> bool:
    r"""Whether the first line with text is \data\, as it must be for `read_arpa`; an empty file is one to be."""
    with path.open("rb") as file:
        head = file.read(LONGEST_LINE).removeprefix(codecs.BOM_UTF8).lstrip()
    return not head or head.split(maxsplit=1)[0] == b"\\data\\"


def score_text(lm: Path, text: Path, *, normalizer: str, characters: bool) -> dict[str, Any]:
    """How well a language model fits a text."""
    sentences, _ = _sentences(text, normalizer=normalizer, characters=characters)
    return {"lm": str(lm), "text": str(text), **fit(read_arpa(lm), sentences)}


def fit(model: NgramModel, sentences: Iterable[list[str]]) -> dict[str, Any]:
    """Perplexity a word, `</s>` counted as one: with words outside the model as `<unk>`, and without them."""
    total = listed = 0.0
    num_sentences = num_words = num_unlisted = 0
    for words in sentences:
        score = model.score_sentence(words)
        total += score.log_prob
        listed += score.log_prob_listed
        num_sentences += 1
        num_words += len(words)
        num_unlisted += score.num_unlisted
    return {
        "sentences": num_sentences,
        "words": num_words,
        "words_outside": num_unlisted,
        "perplexity": _perplexity(total, num_words + num_sentences),
        "perplexity_of_listed": _perplexity(listed, num_words + num_sentences - num_unlisted),
    }


def estimate_arpa(sentences: list[list[str]], *, order: int, name: str) -> str:
    """The text of an ARPA file.

    Raises:
        UsageError: kaldingram is not installed.
        DataError: too little text for the order.
    """
    try:
        from kaldingram.train import NgramCounts
    except ImportError:
        raise UsageError(f"training a language model needs kaldingram: {INSTALL}") from None
    written = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        counts = NgramCounts(order)
        for words in sentences:
            counts.add_raw_counts_from_line(" ".join(words))
        first = counts.counts[0][()]
        is_unknown_ours = UNKNOWN not in first.word_to_count
        if is_unknown_ours:
            first.add_count(UNKNOWN, UNKNOWN, 1)
        if order == 1:  # no sentence begins in the middle of another; higher orders leave <s> out themselves
            first.total_count -= first.word_to_count[BEGIN]
            first.word_to_count[BEGIN] = 0
        counts.cal_discounting_constants()
        counts.d = [SMALL_TEXT_DISCOUNT if discount >= 1 else discount for discount in counts.d]
        counts.cal_f()
        counts.cal_bow()
        try:
            counts.print_as_arpa(written)
        except ValueError:  # the logarithm of a backoff weight that is not positive
            raise DataError(f"{name}: too little text for n-grams of order {order}. Lower --order.") from None
    return _share_unknown(written.getvalue(), len(first.word_to_count)) if is_unknown_ours else written.getvalue()


def _share_unknown(arpa: str, num_words: int) -> str:
    """Divide the probability of `<unk>` by the number of seen words."""

    def divided(line: re.Match) -> str:
        return f"{float(line[1]) - math.log10(num_seen):.7f}\t{UNKNOWN}"

    num_seen = num_words - 3  # without <unk>, <s> and </s>
    return re.sub(rf"^(-[\d.]+)\t{UNKNOWN}", divided, arpa, count=1, flags=re.MULTILINE)


def _sentences(path: Path, *, normalizer: str, characters: bool) -> tuple[list[list[str]], int]:
    """Words of every sentence of a file that has any, and how many have none."""
    normalize = make_normalizer(normalizer)
    found: list[list[str]] = []
    problems: list[str] = []
    num_empty = 0
    for number, line in _lines(path):
        try:
            words = list(re.sub(r"\s", "", normalize(line))) if characters else normalize(line).split()
        except DataError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if marks := sorted({BEGIN, END} & set(words)):
            problems.append(f"{path}:{number}: {marks[0]} is the mark of a sentence's end, and no word.")
        elif words:
            found.append(words)
        else:
            num_empty += 1
    if problems:
        raise DataError(list_problems(problems))
    if not found:
        raise DataError(f"{path}: holds no sentence.")
    return found, num_empty


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a file with their line numbers; of a manifest its transcripts."""
    if path.suffix == ".jsonl":
        yield from ((utterance.line, utterance.text) for utterance in read_manifest(path))
        return
    if path.exists() and not path.is_file():  # a pipe or a device has no end
        raise DataError(f"{path}: a folder, a pipe or a device cannot be read as a text.")
    with _named(path), path.open(encoding="utf-8-sig", newline="\n") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise DataError(f"{path}:{number}: longer than {LONGEST_LINE:,} characters; write one sentence a line.")
            yield number, line


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read or written as UTF-8 text: {error}.") from None


def _perplexity(log_prob: float, count: int) -> float | None:
    """None where nothing was scored, or where it is beyond a float."""
    return math.exp(-log_prob / count) if count and -log_prob / count < 700 else None
