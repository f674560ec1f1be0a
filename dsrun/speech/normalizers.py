"""Normalisers: the form in which text is learnt and scored.

Manifests keep text as it was written. What a network is taught, what its alphabet holds and what an error rate compares is the
text after one of these, named in the config (`data.normalizer`):

| name | what it does |
|---|---|
| `nfkc_lower` | Unicode NFKC, lower case, white space collapsed. Punctuation and digits stay. |
| `english` | also: apostrophes inside words kept (curly ones straightened), punctuation to spaces, numbers spelled or refused |
| `as_is` | white space collapsed and trimmed, nothing else: case and composition count |

Every one is idempotent, and none loses a spoken word in silence: where `english` cannot know what was said it refuses the text.
`7` is "seven", but 1984 may be "nineteen eighty four", 101 may lack its "and", 100 may be "a hundred", 3:30 may be "half past
three" and & may be "and" or nothing. Certain are 0 to 99, round hundreds from 200 to 900, round thousands from 2,000 to 9,000 and
from 10,000 to 99,000 (1,000 may be "a thousand"), and 1st to 99th, each standing alone between spaces and sentence punctuation, and
not with a mark alone between two of them (`3 . 5`, `5 / 6`). An
apostrophe that is not between two letters ('tis, the boys' house) goes like any quotation mark: the two cannot be told apart.
Abbreviations stay as they are written (mr, a m).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

from dsrun.errors import DataError, UsageError
from dsrun.speech.manifest import MOST_PROBLEMS

Normalizer = Callable[[str], str]

MOST_EXAMPLES = 3
APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc\u02b9\u0060\u00b4\uff07\u2032"), "'")
SPOKEN = frozenset("%&@#\u2030")  # punctuation by Unicode, words by ear
# fmt: off
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
# fmt: on
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
ORDINAL = re.compile(r"([1-9]\d?)(st|nd|rd|th)")
HUNDREDS = re.compile(r"([2-9])00")
THOUSANDS = re.compile(r"([2-9]|[1-9]\d),?000")
OPENING, CLOSING = (
    '(["\u201c\u00ab',
    ".,;:!?)]\u00bb",
)  # may touch a number; not a closing quote: 5" are inches, .5 is a half
# Alone between two numbers these are words: 3 . 5 may be "three point five", 5 / 6 "five sixths", 5 - 6 "five to six".
SPOKEN_BETWEEN = re.compile("[.,:/]|[-\u2010-\u2015]+")
MOST_MARKS = 1_000  # on one letter; a text has two or three
LONE_APOSTROPHE = re.compile(r"(?<![^\s'])'|'(?![^\s'])")  # not between two characters of a word


def as_is(text: str) -> str:
    """White space collapsed to single spaces and trimmed; nothing else."""
    return " ".join(text.split())


def nfkc_lower(text: str) -> str:
    """NFKC, lower case, white space collapsed and trimmed. Normalising again changes nothing.

    Raises:
        DataError: a letter with more than a thousand accents.
    """
    _refuse_piles(text)
    # NFKC once more after lower(): J with a caron has no composed form, j with a caron has (U+01F0).
    return as_is(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()))


def english(text: str) -> str:
    """Letters, spaces and apostrophes inside words; small numbers spelled; abbreviations as they are.

    Raises:
        DataError: a number or a symbol that may have been read in more than one way.
    """
    # Both first, for what NFKC makes of them: of U+00B4 a space and a combining accent, of the trademark sign the letters tm.
    text = text.translate(APOSTROPHES)
    _refuse_symbols(text)
    words = nfkc_lower("".join(c for c in text if _kind(c) != "invisible"))
    _refuse_symbols(words)
    if any(_kind(character) == "digit" for character in set(words)):
        words = _spell(words.split())
    bare = words.translate({ord(c): " " for c in set(words) if _kind(c) == "punctuation"})
    return nfkc_lower(LONE_APOSTROPHE.sub(" ", bare))


NORMALIZERS: dict[str, Normalizer] = {"nfkc_lower": nfkc_lower, "english": english, "as_is": as_is}


def make_normalizer(name: str) -> Normalizer:
    """The normaliser of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in NORMALIZERS:
        raise UsageError(f"normalizer {name!r}: there are {', '.join(NORMALIZERS)}.")
    return NORMALIZERS[name]


def normalize_all(texts: Mapping[str, str], normalizer: Normalizer) -> dict[str, str]:
    """Every text normalised, by utterance id.

    Raises:
        DataError: texts that the normaliser refuses: each reason, how often, and utterances that have it.
    """
    done: dict[str, str] = {}
    counts: Counter = Counter()
    examples: dict[str, list[str]] = {}
    for id, text in texts.items():
        try:
            done[id] = normalizer(text)
        except DataError as error:
            counts[str(error)] += 1
            found = examples.setdefault(str(error), [])
            if len(found) < MOST_EXAMPLES:
                found.append(id)
    if counts:
        raise DataError(_refusals(counts, examples))
    return done


def _refusals(counts: Counter, examples: Mapping[str, list[str]]) -> str:
    lines = [
        f"{reason} {count} utterance{'s' * (count > 1)}: {', '.join(map(repr, examples[reason]))}."
        for reason, count in counts.most_common(MOST_PROBLEMS)
    ]
    more = len(counts) - len(lines)
    lines += [f"... and {more} more such words"] if more else []
    advice = (
        "Write in the manifest what was said, leave these utterances out (`dsrun data import --normalizer` does), or choose "
        "another data.normalizer."
    )
    return "\n".join([*lines, f"{counts.total()} utterances in all.", advice])


@cache
def _kind(character: str) -> Literal["letter", "digit", "punctuation", "symbol", "invisible"]:
    category = unicodedata.category(character)
    if character == "'" or character.isspace():
        return "letter"
    if character in SPOKEN or category in ("Sc", "Sm", "So", "No", "Nl"):
        return "symbol"
    if category == "Nd":
        return "digit"
    if category == "Cf":
        return "invisible"
    return "punctuation" if category[0] == "P" or category in ("Sk", "Cc") else "letter"


def _refuse_piles(text: str) -> None:
    """NFKC sorts the marks on a letter by insertion, in time that grows with their square: 80,000 of them take 13 s."""
    if len(text) <= MOST_MARKS or text.isascii():
        return
    count = 0
    for character in text:
        count = count + 1 if unicodedata.combining(character) else 0
        if count > MOST_MARKS:
            raise DataError(f"a letter with more than {MOST_MARKS} accents: no text.")


def _refuse_symbols(text: str) -> None:
    for character in sorted(set(text)):
        if _kind(character) == "symbol":
            raise DataError(f"{character!r} (U+{ord(character):04X}): nobody can know which word was said for it.")


def _spell(words: list[str]) -> str:
    """The text with its numbers in words."""
    spelled = []
    for place, word in enumerate(words):
        if not _has_digit(word):
            around = words[max(0, place - 1) : place + 2]
            if SPOKEN_BETWEEN.fullmatch(word) and len(around) == 3 and _has_digit(around[0]) and _has_digit(around[2]):
                raise DataError(f"{' '.join(around)!r}: a mark between numbers that may have been read as a word.")
            spelled.append(word)
            continue
        number = word.lstrip(OPENING).rstrip(CLOSING)
        # "5 200" may be five thousand two hundred.
        is_group = place > 0 and HUNDREDS.fullmatch(number) and _kind(words[place - 1][-1]) == "digit"
        spoken = None if is_group else _number(number)
        if spoken is None:
            raise DataError(f"{word!r}: a number that may be read in more than one way.")
        spelled.append(spoken)
    return " ".join(spelled)


def _has_digit(word: str) -> bool:
    return any(_kind(character) == "digit" for character in word)


def _number(text: str) -> str | None:
    if re.fullmatch(r"0|[1-9]\d?", text, re.ASCII):
        return _small(int(text))
    if found := ORDINAL.fullmatch(text):
        value, suffix = int(found[1]), found[2]
        return _ordinal(value) if suffix == _suffix(value) else None
    if found := HUNDREDS.fullmatch(text):
        return f"{_small(int(found[1]))} hundred"
    if found := THOUSANDS.fullmatch(text):
        return f"{_small(int(found[1]))} thousand"
    return None


def _small(value: int) -> str:
    if value < 20:
        return ONES[value]
    tens = TENS[value // 10 - 2]
    return tens if value % 10 == 0 else f"{tens} {ONES[value % 10]}"


def _ordinal(value: int) -> str:
    *tens, last = _small(value).split()
    if last in ORDINALS:
        last = ORDINALS[last]
    else:
        last = last.removesuffix("y") + "ie" * last.endswith("y") + "th"
    return " ".join([*tens, last])


def _suffix(value: int) -> str:
    return "th" if 11 <= value <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
