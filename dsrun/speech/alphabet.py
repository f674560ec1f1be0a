"""Alphabet: the symbols that a recogniser writes, and their class ids.

Class 0 is blank, which is no symbol; symbol k of the alphabet is class k + 1. Text is normalised before it is looked up: Unicode
NFKC, lower case, white space collapsed to single spaces. A character that is not in the alphabet is an error with counts and
examples, or, where the config says `drop`, removed and counted. It is never lost in silence.

An alphabet file has one symbol a line, one character after normalisation; a line that holds one space is the space; `#` starts a
comment and `\\#` is the hash sign. CRLF line ends and a byte-order mark are harmless.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsrun.errors import DataError
from dsrun.speech.manifest import list_problems

MOST_EXAMPLES = 3


def normalize(text: str) -> str:
    """NFKC, lower case, white space collapsed and trimmed. Normalising again changes nothing."""
    # NFKC once more after lower(): J with a caron has no composed form, j with a caron has (U+01F0).
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()).split())


@dataclass(frozen=True)
class Alphabet:
    """Symbols in class order, blank excluded: `symbols[k]` is class k + 1."""

    symbols: tuple[str, ...]

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
    def from_texts(cls, texts: Iterable[str]) -> "Alphabet":
        """Every character of the normalised texts, in code-point order."""
        return cls(tuple(sorted({character for text in texts for character in normalize(text)})))

    @classmethod
    def from_file(cls, path: Path) -> "Alphabet":
        """Symbols of a file, in its order.

        Raises:
            DataError: missing, not UTF-8, a symbol twice or longer than one character.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as an alphabet: {error}.") from None
        symbols: dict[str, int] = {}
        problems = []
        for number, line in enumerate((line.rstrip("\r") for line in lines), start=1):
            if line == "" or line.startswith("#"):
                continue
            symbol = " " if line == " " else normalize("#" if line == "\\#" else line)
            if len(symbol) != 1 or (line.strip() != line and line != " "):
                problems.append(
                    f"{path}:{number}: {line!r} is not one symbol; write one a line (a single space for the space)."
                )
            elif symbol in symbols:
                problems.append(
                    f"{path}:{number}: {symbol!r} stands in line {symbols[symbol]} already (case does not count)."
                )
            symbols.setdefault(symbol, number)
        if problems:
            raise DataError(list_problems(problems))
        if not symbols:
            raise DataError(f"{path}: holds no symbols.")
        return cls(tuple(symbols))

    def save(self, path: Path) -> None:
        """Write a file that `from_file` reads back."""
        path.write_text("".join(("\\#" if s == "#" else s) + "\n" for s in self.symbols), encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Class ids of the normalised text.

        Raises:
            DataError: characters that the alphabet lacks.
        """
        classes = self._classes()
        unknown = sorted({character for character in normalize(text) if character not in classes})
        if unknown:
            raise DataError(f"{text!r}: not in the alphabet: {' '.join(map(repr, unknown))}.")
        return [classes[character] for character in normalize(text)]

    def decode(self, labels: Iterable[int]) -> str:
        """Text of class ids, blank left out; spaces at the ends and doubled ones collapse."""
        return " ".join("".join(self.symbols[label - 1] for label in labels if label).split())

    def _classes(self) -> Mapping[str, int]:
        return {symbol: index + 1 for index, symbol in enumerate(self.symbols)}


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
        DataError: with "error", each unknown character, how often it occurs, and utterances that have it.
    """
    classes = alphabet._classes()
    counts: Counter = Counter()
    examples: dict[str, list[str]] = {}
    labels = []
    for id, text in texts.items():
        normalized = normalize(text)
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
