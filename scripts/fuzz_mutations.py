"""Mutations for `fuzz.py`: what transmission, tools, editors and strangers do to bytes and to tables.

Everything is drawn from the `random.Random` that is passed in, so a case is its number.
"""

import random
import re
from collections.abc import Callable

HEADER = 64  # bytes in which most of a format's promises stand
INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS = (
    "0", "-0", "1", "-1", "0.1", "1e-320", "1e308", "1e309", "-1e309", "NaN", "nan", "inf", "-inf", "Infinity",
    "99999999999999999999", "1" * 5000, "0x10", "1_000", "١٢", "", "null", "true", "1e", "--1", "2147483648", "0.0000001",
    "1,5",
)  # fmt: skip
WORDS = (
    "", " ", "\0", "../../../x", "..", "/", "/dev/zero", "/dev/stdin", "/proc/self/mem", "~", "~root/x", "a" * 5000,
    "x" * 300+"/y", "\\", "|", "touch pwned |", "$(touch pwned)", "`touch pwned`", "; touch pwned", "%s%n", "{{7*7}}",
    "${HOME}", "\ufeff", "\u202e", "\x1b[31m", "\U0001f389" * 10, "\ud800", "é" * 50, "e\u0301", "null", "[]", "{}",
    "[" * 3000, '{"a":' * 3000, '"', "'", "\\ud800", "\\u0000", "\r", "\t\t", "<unk>", "<s>", "</s>", "\\end\\", "\\data\\",
    "!!python/object/apply:os.system", "&a [*a]", "<<: *x", "https://example.org/x.wav", "file:///etc/passwd", "a.wav@5+9",
    "clip.wav:12", *(mark * 100_000 for mark in ("a", "-", ",", "(", "<", "{", "'", ":", "9", " ", "\u0301\u0327")),
    "0001.wav", ".", "con", "İ", "ß", "ﬀ",
)  # fmt: skip


def mutated_bytes(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """One to six changes; two thirds of them where headers stand."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        place = _place(rng, data)
        rng.choice(_BYTES)(rng, data, place, other)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    if not data:
        return 0
    return rng.randrange(min(HEADER, len(data)) if rng.random() < 0.67 else len(data))


def _flip(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    if data:
        data[place] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    width = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(INTERESTING) % (1 << 8 * width)
    data[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _cut(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    del data[place : place + rng.choice((1, 2, 4, 100, 5000))]


def _repeat(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    piece = bytes(data[place : place + rng.choice((1, 4, 64, 3000))])
    data[place:place] = piece * rng.choice((1, 1, 20))


def _noise(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    length = rng.choice((1, 4, 100, 3000))
    data[place : place + rng.choice((0, length))] = rng.randbytes(length)


def _fill(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    length = min(rng.choice((4, 100, 5000)), len(data) - place)
    data[place : place + length] = bytes([rng.choice((0, 255))]) * length


def _swap(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    second, length = _place(rng, data), rng.choice((1, 4, 200))
    a, b = bytes(data[place : place + length]), bytes(data[second : second + length])
    data[place : place + length], data[second : second + length] = b, a


def _splice(rng: random.Random, data: bytearray, place: int, other: bytes) -> None:
    start = rng.randrange(len(other) + 1)
    data[place : place + rng.choice((0, 64, 10**9))] = other[start : start + rng.choice((64, 10**9))]


_BYTES: tuple[Callable[[random.Random, bytearray, int, bytes], None], ...] = (
    _flip, _flip, _number, _number, _number, _cut, _remove, _repeat, _noise, _fill, _swap, _splice,
)  # fmt: skip


def mutated_text(rng: random.Random, text: str) -> bytes:
    """A table or document with one to five words, numbers, lines or marks changed; one in five with damaged bytes as well."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 5))):
        rng.choice(_LINES)(rng, lines)
    content = rng.choice(("\n",) * 16 + ("\r\n", "\r", "\n\n", "\u2028")).join(lines).encode("utf-8", "surrogatepass")
    content = rng.choice((b"",) * 18 + (b"\xef\xbb\xbf", b"\xff\xfe")) + content
    return mutated_bytes(rng, content, content) if rng.random() < 0.2 else content


def _word(rng: random.Random, lines: list[str]) -> None:
    _replace(rng, lines, r"[^\s,|\":{}\[\]]+", WORDS)


def _figure(rng: random.Random, lines: list[str]) -> None:
    _replace(rng, lines, r"-?\d+(\.\d+)?", NUMBERS)


def _mark(rng: random.Random, lines: list[str]) -> None:
    _replace(rng, lines, r"[,|\":{}\[\]\t ]", ("", " ", ",", "|", '"', ":", "\t", "{", "]", "\0"))


def _replace(rng: random.Random, lines: list[str], pattern: str, choices: tuple[str, ...]) -> None:
    number = rng.randrange(len(lines))
    found = list(re.finditer(pattern, lines[number]))
    if found:
        match = rng.choice(found)
        lines[number] = lines[number][: match.start()] + rng.choice(choices) + lines[number][match.end() :]


def _drop(rng: random.Random, lines: list[str]) -> None:
    if len(lines) > 1:
        del lines[rng.randrange(len(lines))]


def _again(rng: random.Random, lines: list[str]) -> None:
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))


def _other_order(rng: random.Random, lines: list[str]) -> None:
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]


def _new_line(rng: random.Random, lines: list[str]) -> None:
    lines.insert(rng.randrange(len(lines) + 1), " ".join(rng.choice(WORDS + NUMBERS) for _ in range(rng.randrange(5))))


_LINES: tuple[Callable[[random.Random, list[str]], None], ...] = (
    _word, _word, _figure, _figure, _mark, _drop, _again, _other_order, _new_line
)  # fmt: skip
