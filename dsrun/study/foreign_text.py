"""Text of others (names of folders, configs, logs) where it shall show and do nothing: on a terminal, and in Markdown. No JAX.

A terminal obeys control characters, Markdown what would end a cell or begin a code, an emphasis or a tag. For HTML it is
`evaluation.page.visible`.
"""

import re

_SPECIAL_IN_MARKDOWN = re.compile(r"[\\|`*<>]")


def printable(text: str) -> str:
    """Control characters, which could move a terminal's cursor or turn its text around, as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Without line breaks, which would end whatever it stands in, and control characters as their escapes."""
    return printable(" ".join(text.split()))


def in_markdown(text: str) -> str:
    """Markdown, also as a table's cell, that shows the text letter by letter."""
    return _SPECIAL_IN_MARKDOWN.sub(lambda found: "\\" + found.group(), one_line(text)).replace("](", "]\\(")


def code_in_markdown(text: str) -> str:
    """Markdown's code, where a backslash is one and only the backticks at its ends end it."""
    shown = one_line(text)
    fence = "`" * (longest_backticks(shown) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def longest_backticks(text: str) -> int:
    """Length of the longest run of backticks, 0 if there is none."""
    return max(map(len, re.findall("`+", text)), default=0)
