"""Text of others (transcripts, alphabets, logs, file names) in a terminal, in Markdown and in HTML, where it must show and do nothing."""

import re

from dsrun.evaluation.page import is_unseen

_SPECIAL = re.compile(r"[\\`*<>|\[\]#~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def printable(text: str) -> str:
    """In one line; what moves a cursor, colours, or turns the direction of writing by its code point."""
    return "".join(_shown(character) for character in " ".join(text.split()))


def _shown(character: str) -> str:
    return f"[U+{ord(character):04X}]" if is_unseen(character) else character


def in_markdown(text: str) -> str:
    """Letter by letter: no emphasis, tag, link, picture, or cell of its own."""
    escaped = _SPECIAL.sub(lambda found: "\\" + found.group(), printable(text))
    return escaped.replace("://", ":\\//").replace("www.", "www\\.")


def code_in_markdown(text: str) -> str:
    """A command in a table's cell."""
    fence = "``" if "`" in text else "`"
    inner = printable(text).replace("|", "\\|")
    return f"{fence}{inner}{fence}" if fence == "`" else f"{fence} {inner} {fence}"
