"""Alphabet: the symbols that a recogniser writes, and their class ids.

Class 0 is blank, which is no symbol; symbol k of the alphabet is class k + 1. Text is normalised before it is looked up, as the
alphabet's normaliser does it (`normalizers.py`). A character that is not in the alphabet is an error with counts and
examples, or, where the config says `drop`, removed and counted. It is never lost in silence.

An alphabet file has one symbol a line, one character (after NFKC and lower case, unless the normaliser is `as_is`); a line that
holds one space is the space; `#` starts a comment and `\\#` is the hash sign. CRLF line ends and a byte-order mark are harmless.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dsrun.errors import DataError
from dsrun.speech.manifest import list_problems
from dsrun.speech.normalizers import as_is, make_normalizer, nfkc_lower, normalize_all

MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Alphabet:
    """Symbols in class order, blank excluded: `symbols[k]` is class k + 1; and what brings a text to these symbols."""

    symbols: tuple[str, ...]
    normalizer: str = "nfkc_lower"

    def __post_init__(self) -> None:
        repeated = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
        if repeated:
            raise DataError(f"alphabet: {', '.join(map(repr, repeated))} listed more than once.")
        if not self.symbols:
            raise DataError("alphabet: holds no symbols.")

    @property
    def num_classes(self) -> int:
        """Symbols and blank."""
        return len(self.symbols) + 1

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, normalizer: str = "nfkc_lower") -> "Alphabet":
        """Every character of the normalised texts, in code-point order."""
        normalize = make_normalizer(normalizer)
        characters: set[str] = set()
        for text in texts:
            characters.update(normalize(text))
        return cls(tuple(sorted(characters)), normalizer)

    @classmethod
    def from_file(cls, path: Path, *, normalizer: str = "nfkc_lower") -> "Alphabet":
        """Symbols of a file, in its order.

        Raises:
            DataError: missing, not UTF-8, a symbol twice or longer than one character.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as an alphabet: {error}.") from None
        fold = as_is if normalizer == "as_is" else nfkc_lower  # `english` of a single apostrophe would be nothing
        symbols: dict[str, int] = {}
        problems = []
        for number, line in enumerate((line.rstrip("\r") for line in lines), start=1):
            if line == "" or line.startswith("#"):
                continue
            symbol = " " if line == " " else fold("#" if line == "\\#" else line)
            if len(symbol) != 1 or (line.strip() != line and line != " "):
                problems.append(
                    f"{path}:{number}: {line!r} is not one symbol; write one a line (a single space for the space)."
                )
            elif symbol in symbols:
                case = "" if normalizer == "as_is" else " (case does not count)"
                problems.append(f"{path}:{number}: {symbol!r} stands in line {symbols[symbol]} already{case}.")
            symbols.setdefault(symbol, number)
        if problems:
            raise DataError(list_problems(problems))
        if not symbols:
            raise DataError(f"{path}: holds no symbols.")
        return cls(tuple(symbols), normalizer)

    def save(self, path: Path) -> None:
        """Write a file that `from_file` reads back."""
        path.write_text("".join(("\\#" if s == "#" else s) + "\n" for s in self.symbols), encoding="utf-8")

    def normalize(self, text: str) -> str:
        """The text as this alphabet's networks learn it and are scored on it."""
        return make_normalizer(self.normalizer)(text)

    def encode(self, text: str) -> list[int]:
        """Class ids of the normalised text.

        Raises:
            DataError: characters that the alphabet lacks, or a text that its normaliser refuses.
        """
        normalized = self.normalize(text)
        unknown = sorted({character for character in normalized if character not in self.classes})
        if unknown:
            raise DataError(f"{text!r}: not in the alphabet: {' '.join(map(repr, unknown))}.")
        return [self.classes[character] for character in normalized]

    def decode(self, labels: Iterable[int]) -> str:
        """Text of class ids, blank left out; spaces at the ends and doubled ones collapse."""
        return " ".join("".join(self.symbols[label - 1] for label in labels if label).split())

    @cached_property
    def classes(self) -> Mapping[str, int]:
        """Class id of each symbol."""
        return {symbol: index + 1 for index, symbol in enumerate(self.symbols)}


class TextStream:
    """`Alphabet.decode` of labels that come in pieces: what is new with each, of which nothing is taken back."""

    def __init__(self, alphabet: Alphabet):
        self._symbols = alphabet.symbols
        self._is_empty, self._has_space = True, False

    def push(self, labels: Iterable[int]) -> str:
        """Text that is new with these labels. A space is written before what follows it, so none ends the text."""
        new = []
        for symbol in (self._symbols[label - 1] for label in labels if label):
            if symbol.isspace():
                self._has_space = not self._is_empty
                continue
            new.append(" " + symbol if self._has_space else symbol)
            self._is_empty = self._has_space = False
        return "".join(new)


@dataclass(frozen=True)
class Encoded:
    """Class ids of each text, and how often each dropped character occurred."""

    labels: list[list[int]]
    dropped: Counter


def encode_all(texts: Mapping[str, str], alphabet: Alphabet, *, on_unknown: str) -> Encoded:
    """Class ids of every text.

    Args:
        texts: by utterance id.
        on_unknown: "error", or "drop" to leave unknown characters out.

    Raises:
        DataError: with "error", each unknown character, how often it occurs, and utterances that have it; with either, texts
            that the alphabet's normaliser refuses.
    """
    classes = alphabet.classes
    counts: Counter = Counter()
    examples: dict[str, list[str]] = {}
    labels = []
    for id, normalized in normalize_all(texts, make_normalizer(alphabet.normalizer)).items():
        for character in normalized:
            if character not in classes:
                counts[character] += 1
                found = examples.setdefault(character, [])
                if id not in found and len(found) < MOST_EXAMPLES:
                    found.append(id)
        labels.append([classes[character] for character in normalized if character in classes])
    if counts and on_unknown == "error":
        raise DataError(unknown_text(counts, examples))
    return Encoded(labels, counts)


def unknown_text(counts: Counter, examples: Mapping[str, Sequence[str]]) -> str:
    """A message that counts characters outside the alphabet and says where they are."""
    lines = [
        f"character {character!r} (U+{ord(character):04X}) is not in the alphabet: {count} time{'s' * (count > 1)}, "
        f"in {', '.join(map(repr, examples[character]))}"
        for character, count in counts.most_common()
    ]
    advice = (
        "Add them to the alphabet (data.alphabet: a text file, one symbol a line), clean the text, or set "
        "data.unknown_characters: drop."
    )
    return "\n".join([*lines, advice])
