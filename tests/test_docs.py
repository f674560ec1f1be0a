"""Every page of the documentation: a command that it shows is one that dsrun has, and a link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from dsrun.cli import app

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "data" / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(REPOSITORY)): page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
END = {"|", ">", "&&", "&", ";", ">>", "2>", "||"}  # of what dsrun is given


def commands_of(text):
    """`dsrun ...` in blocks of shell and in the running text, each as its words up to a pipe or a comment."""
    blocks = [body for kind, body in FENCE.findall(text) if kind == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(dsrun [^`\n]+)`", FENCE.sub("", text))
    for line in lines:
        found = re.search(r"(?:^|[\s/$(])dsrun ([^\n]*)", line)
        if found:
            words = shlex.split(found[1].rstrip(")"), comments=True)
            yield words[: next((place for place, word in enumerate(words) if word in END), len(words))]


def links_of(text):
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)) if "://" not in target]


def anchors_of(text):
    """As GitHub makes them from headings: lower case, no punctuation, hyphens for spaces, a number for a repetition."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        number = found.get(plain, 0)
        found[plain] = number + 1
        yield f"{plain}-{number}" if number else plain


COMMANDS = [(page, words) for page, text in TEXTS.items() for words in commands_of(text)]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_a_command_that_is_shown_can_be_given(page, words):
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):  # `dsrun --help`
            break
        assert words[0] in command.commands, f"{page}: dsrun has no {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"--help"}
    assert given <= known, f"{page}: dsrun {command.name} has no {given - known}"


@pytest.mark.parametrize(("page", "target"), [(page, link) for page, text in TEXTS.items() for link in links_of(text)])
def test_a_link_leads_to_a_file_and_a_heading(page, target):
    path, _, anchor = target.partition("#")
    file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
    assert file.exists(), f"{page}: {target}"
    if anchor:
        assert anchor in anchors_of(file.read_text(encoding="utf-8")), f"{page}: {target}"


def test_the_pages_have_commands_and_links_at_all():
    assert len(COMMANDS) > 40
    assert "dsrun" not in {words[0] for _, words in COMMANDS if words}
    assert list(commands_of("```sh\n.venv/bin/dsrun eval RUN --json | head\n```\n`dsrun runs`")) == [
        ["eval", "RUN", "--json"], ["runs"],
    ]  # fmt: skip
