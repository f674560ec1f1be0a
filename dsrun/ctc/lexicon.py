"""Lexicon: the words that a search may write, as a tree of their spellings.

One node for each beginning of a word; node 0 is the empty one, before a word's first symbol. A file has one word a line; what follows
it on the line (a spelling, as flashlight's and torchaudio's lexicons have it) must be the word's own letters, with or without a
separator `|` at the end, since a symbol of the alphabet is what a word is written with. CRLF line ends and a byte-order mark are
harmless; words are normalised as the alphabet's texts are, and each counts once.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from dsrun.errors import DataError
from dsrun.speech import Alphabet, list_problems

SPACE = " "


class Lexicon:
    """A tree of spellings for one alphabet; a word that the alphabet cannot write is left out and counted in `num_left_out`."""

    def __init__(self, words: Iterable[str], alphabet: Alphabet):
        classes = {symbol: index + 1 for index, symbol in enumerate(alphabet.symbols)}
        self._num_classes = alphabet.num_classes
        self._space = classes.get(SPACE)
        if self._space is None:
            raise DataError("a lexicon needs an alphabet with a space: without one every symbol is a word.")
        self._children: list[dict[int, int]] = [{}]
        self._ends: set[int] = set()
        self._rows: dict[int, np.ndarray] = {}
        self.num_left_out = 0
        listed: dict[str, None] = {}
        for word in words:
            if not word or any(symbol not in classes or symbol == SPACE for symbol in word):
                self.num_left_out += 1
                continue
            listed[word] = None
            self._add([classes[symbol] for symbol in word])
        self.words = tuple(listed)
        if not listed:
            raise DataError("the lexicon holds no word that the alphabet can write.")

    def after(self, node: int, label: int) -> int:
        """The node of a beginning with one symbol more."""
        return self._children[node][label]

    def is_word(self, node: int) -> bool:
        """Whether a text may end here: behind a whole word, or behind none."""
        return node == 0 or node in self._ends

    def allowed(self, node: int) -> Bool[np.ndarray, " class"]:
        """Which classes may follow."""
        if node not in self._rows:
            row = np.zeros(self._num_classes, bool)
            row[list(self._children[node])] = True
            row[self._space] = node in self._ends
            self._rows[node] = row
        return self._rows[node]

    def _add(self, labels: list[int]) -> None:
        node = 0
        for label in labels:
            following = self._children[node].setdefault(label, len(self._children))
            if following == len(self._children):
                self._children.append({})
            node = following
        self._ends.add(node)


def read_lexicon(path: Path, alphabet: Alphabet) -> Lexicon:
    """The lexicon of a file.

    Raises:
        DataError: missing, not UTF-8, or lines that are not a word and its letters.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise DataError(f"{path}: a folder, a pipe or a device cannot be read as a lexicon.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such lexicon.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}.") from None
    words, problems = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        written, *spelling = line.split() or [""]
        if spelling and "".join(spelling).removesuffix("|") != written:
            problems.append(
                f"{path}:{number}: {' '.join(spelling)!r} is not the spelling of {written!r} by its letters."
            )
        try:
            words += alphabet.normalize(written).split()
        except DataError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise DataError(list_problems(problems))
    try:
        return Lexicon(words, alphabet)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
