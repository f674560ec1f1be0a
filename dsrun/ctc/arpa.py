"""ARPA files: n-gram language models as text, plain or gzipped, as every toolkit writes them.

    \\data\\
    ngram 1=4
    ngram 2=2

    \\1-grams:
    -0.60  <s>   -0.30        log10 probability, words, log10 backoff weight (none means 0)
    ...
    \\2-grams:
    ...
    \\end\\

Fields are parted by spaces or tabs; CRLF line ends and a byte-order mark are harmless. What cannot be meant is refused, with its
line: a count that is not the section's, an n-gram twice, a word or a context that no shorter n-gram lists, a probability above 1, a
number that is not finite, a backoff weight on the longest n-grams. `<s>` and `</s>` must be there. `<UNK>` is `<unk>`, as in KenLM.
A backoff weight may be above 1, where the words listed after a context are rarer there than elsewhere. One that makes a word after a
single word more probable than certain is refused; behind longer contexts the model bounds probabilities by 1 (`ngram`).

The file is read once, a line at a time. Nothing is allocated from a count that the header claims, lines are at most 64 KiB, and
reading ends at the first twenty problems, so a hostile file costs no more than its honest length.
"""

import gzip
import math
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from dsrun.ctc.ngram import ABSENT, BEGIN, END, UNKNOWN, Grams, NgramModel
from dsrun.errors import DataError
from dsrun.speech import list_problems

LONGEST_LINE = 1 << 16  # bytes
MOST_BLANK_LINES = 1000  # in a row; gzip packs millions of them into kilobytes
HIGHEST_ORDER = 10
LARGEST_COUNT = 10**10
LARGEST_LOG10 = 10_000.0  # of a probability or weight; toolkits write -99 for never
MOST_PROBLEMS = 20
TOLERANCE = 0.01  # log10: files have few digits
GZIP_MAGIC = b"\x1f\x8b"
UNKNOWN_IN_CAPITALS = "<UNK>"
KENLM_BINARY = b"mmap lm http://kheafield.com/code"


def read_arpa(path: Path | str) -> NgramModel:
    """The language model of an ARPA file.

    Raises:
        DataError: missing, unreadable, or not a language model; with the lines that say so.
    """
    path = Path(path)
    with _opened(path) as file:
        return _Reader(path, file).read()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, unzipped where they are gzip; what goes wrong while reading is a DataError too."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise DataError(f"{path}: a folder, a pipe or a device cannot be read as a language model.")
        with path.open("rb") as file:
            head = file.read(len(KENLM_BINARY))
            file.seek(0)
            if head == KENLM_BINARY:
                raise DataError(f"{path}: a KenLM binary; give the ARPA file that it was made from.")
            if not head.startswith(GZIP_MAGIC):
                yield file
                return
            with gzip.open(file) as unzipped:
                yield unzipped
    except FileNotFoundError:
        raise DataError(f"{path}: no such language model. `dsrun lm train TEXT OUT.arpa` makes one.") from None
    except (OSError, EOFError, zlib.error) as error:  # gzip tells of damage by any of them
        raise DataError(f"{path}: cannot be read: {error}.") from None


class _Reader:
    """One pass over a file."""

    def __init__(self, path: Path, file: BufferedIOBase):
        self._path, self._file = path, file
        self._number = 0  # of the line last read
        self._problems: list[str] = []
        self._words: dict[str, int] = {}
        self._grams: list[Grams] = []
        self._favouring: dict[int, int] = {}  # words whose backoff weight is above 1, and their lines

    def read(self) -> NgramModel:
        line = self._next_filled()
        if line.removeprefix(b"\xef\xbb\xbf").strip() != b"\\data\\":
            raise self._refusal("an ARPA file begins with a line \\data\\; this is none.")
        counts, line = self._read_counts()
        for order, count in enumerate(counts, start=1):
            if line != b"\\%d-grams:" % order:
                raise self._refusal(f"expected \\{order}-grams:, found {_shown(line)}.")
            line = self._read_section(order, count, is_last=order == len(counts))
            if order == 2 and self._favouring:
                self._require_at_most_certain()
        if line != b"\\end\\":
            raise self._refusal(f"expected \\end\\, found {_shown(line)}.")
        return NgramModel(self._words, self._grams)

    def _read_counts(self) -> tuple[list[int], bytes]:
        """Counts by order, and the line after them."""
        counts: list[int] = []
        while True:
            line = self._next_filled()
            if not line.startswith(b"ngram"):
                break
            order, _, count = line.removeprefix(b"ngram").partition(b"=")
            if not (order.strip().isdigit() and count.strip().isdigit() and len(order) < 6 and len(count) < 16):
                raise self._refusal(f"expected `ngram ORDER=COUNT`, found {_shown(line)}.")
            if int(order) != len(counts) + 1:
                raise self._refusal(f"order {int(order)} after order {len(counts)}; they go up by one from 1.")
            if int(order) > HIGHEST_ORDER:
                raise self._refusal(f"order {int(order)} is above {HIGHEST_ORDER}, the highest that is read.")
            if int(count) > LARGEST_COUNT:
                raise self._refusal(f"{int(count)} n-grams are more than the {LARGEST_COUNT} that are read.")
            counts.append(int(count))
        if not counts:
            raise self._refusal(f"expected `ngram 1=COUNT`, found {_shown(line)}.")
        return counts, line

    def _read_section(self, order: int, count: int, *, is_last: bool) -> bytes:
        """Read one order's n-grams; returns the line after them."""
        first = self._number
        keys, lines, probs, backoffs = array("q"), array("q"), array("d"), array("d")
        contexts = _Contexts(self._words, self._grams)
        while True:
            line = self._next_filled()
            if line.startswith(b"\\"):
                break
            if len(probs) == count:
                raise self._refusal(f"the header says that there are {count} {order}-grams, and here is one more.")
            try:
                log10_prob, words, log10_backoff = _fields(line, order, is_last=is_last)
                keys.append(self._new_word(words[0]) if order == 1 else contexts.key(words))
            except DataError as error:
                self._note(str(error))
                continue
            lines.append(self._number)
            probs.append(log10_prob)
            if not is_last:
                backoffs.append(log10_backoff)
                if order == 1 and log10_backoff > 0:
                    self._favouring[keys[-1]] = self._number
        if order == 1:
            for word in (BEGIN, END):
                if word not in self._words:
                    self._note(f"the 1-grams lack {word}.")
        self._grams.append(self._sorted(keys, lines, probs, backoffs))
        if self._problems:  # what follows builds on this section
            raise DataError(list_problems(self._problems))
        if len(probs) != count:
            raise self._refusal(
                f"the header says that there are {count} {order}-grams; the section from line {first} has {len(probs)}."
            )
        return line

    def _require_at_most_certain(self) -> None:
        """Refuse words whose backoff weight lifts the likeliest word that is not listed after them above 1."""
        ones, size = self._grams[0], len(self._words)
        names = list(self._words)
        # Nobody predicts <s>, and lmplz gives it probability 1.
        likeliest = [word for word in np.argsort(-np.asarray(ones.log10_probs)).tolist() if names[word] != BEGIN]
        for context, line in self._favouring.items():
            word = next((w for w in likeliest if self._grams[1].find(context * size + w) == ABSENT), None)
            log10_prob = 0.0 if word is None else ones.log10_backoffs[context] + ones.log10_probs[word]
            if word is not None and log10_prob > TOLERANCE:
                self._problems.append(
                    f"{self._path}:{line}: the log10 backoff weight {ones.log10_backoffs[context]:g} of {names[context]!r} makes "
                    f"{names[word]!r} after it more probable than certain (log10 {log10_prob:g})."
                )
        if self._problems:
            raise DataError(list_problems(self._problems[:MOST_PROBLEMS], more=len(self._problems[MOST_PROBLEMS:])))

    def _sorted(self, keys: array, lines: array, probs: array, backoffs: array) -> Grams:
        key = np.asarray(keys)
        order = np.argsort(key, kind="stable")
        key = key[order]
        for repeated in np.flatnonzero(key[1:] == key[:-1])[:MOST_PROBLEMS]:
            first, again = (lines[int(order[repeated + k])] for k in (0, 1))
            self._problems.append(f"{self._path}:{again}: the n-gram of line {first} again.")

        def arranged(values: array) -> array:
            return array(values.typecode, np.asarray(values)[order].tobytes()) if values else values

        return Grams(array("q", key.tobytes()), arranged(probs), arranged(backoffs))

    def _new_word(self, word: bytes) -> int:
        text = _word(word)
        if text in self._words:
            raise DataError(f"the 1-gram {text!r} stands in an earlier line already.")
        return self._words.setdefault(text, len(self._words))

    def _next_filled(self) -> bytes:
        """The next line that is not blank, without white space at its ends."""
        for _ in range(MOST_BLANK_LINES + 1):
            line = self._file.readline(LONGEST_LINE + 1)
            self._number += 1
            if not line:
                raise self._refusal("the file ends before \\end\\: it was cut off.")
            if len(line) > LONGEST_LINE:
                raise self._refusal(f"a line longer than {LONGEST_LINE} bytes.")
            if line := line.strip():
                return line
        raise self._refusal(f"more than {MOST_BLANK_LINES} blank lines in a row.")

    def _note(self, problem: str) -> None:
        self._problems.append(f"{self._path}:{self._number}: {problem}")
        if len(self._problems) == MOST_PROBLEMS:
            raise DataError(list_problems(self._problems))

    def _refusal(self, problem: str) -> DataError:
        return DataError(list_problems([*self._problems, f"{self._path}:{self._number}: {problem}"]))


class _Contexts:
    """Keys of the n-grams of one order; neighbouring lines mostly share their context."""

    def __init__(self, words: dict[str, int], grams: list[Grams]):
        self._words, self._grams = words, grams
        self._last: list[bytes] = []
        self._index = ABSENT

    def key(self, words: list[bytes]) -> int:
        """The n-gram's key; its context must be listed."""
        last = self._id(words[-1])
        if words[:-1] != self._last:
            index = self._id(words[0])
            for order, word in enumerate(words[1:-1], start=2):
                index = self._grams[order - 1].find(index * len(self._words) + self._id(word))
                if index == ABSENT:
                    context = _text(b" ".join(words[:-1]))
                    raise DataError(f"the n-gram's context {context!r} is not among the {len(words) - 1}-grams.")
            self._last, self._index = words[:-1], index
        return self._index * len(self._words) + last

    def _id(self, word: bytes) -> int:
        text = _word(word)
        if text not in self._words:
            raise DataError(f"the word {text!r} is not among the 1-grams.")
        return self._words[text]


def _fields(line: bytes, order: int, *, is_last: bool) -> tuple[float, list[bytes], float]:
    """log10 probability, words, log10 backoff weight."""
    fields = line.split()
    if len(fields) not in (order + 1, order + 2):
        raise DataError(
            f"expected a log10 probability, {order} word{'s' * (order > 1)} and perhaps a backoff weight, found {_shown(line)}."
        )
    log10_prob = _number(fields[0], "log10 probability")
    if log10_prob > 0:
        raise DataError(f"the log10 probability {log10_prob:g} is above 0: more probable than certain.")
    log10_backoff = _number(fields[-1], "log10 backoff weight") if len(fields) == order + 2 else 0.0
    if is_last and log10_backoff:
        raise DataError(f"the backoff weight {log10_backoff:g} on an n-gram of the highest order, which has none.")
    return log10_prob, fields[1 : order + 1], log10_backoff


def _number(field: bytes, name: str) -> float:
    try:
        value = float(field) if b"_" not in field else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_LOG10:  # NaN too
        raise DataError(
            f"the {name} is {_shown(field)}; write a number between -{LARGEST_LOG10:g} and {LARGEST_LOG10:g}."
        )
    return value


def _word(word: bytes) -> str:
    text = _text(word)
    return UNKNOWN if text == UNKNOWN_IN_CAPITALS else text


def _text(word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError:
        raise DataError(f"{_shown(word)} is not UTF-8.") from None


def _shown(line: bytes) -> str:
    text = line[:60].decode(errors="replace")
    return repr(text + "..." * (len(line) > 60))
