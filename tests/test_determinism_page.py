"""docs/DETERMINISM.md names tests, files, commands and settings; each of them must exist."""

import re
from pathlib import Path

import pytest
import typer

from dsrun.cli import app
from dsrun.config import Config
from dsrun.record.run_dir import CONTENTS

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "DETERMINISM.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL))
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
COMMANDS = [line.split("#")[0].strip() for line in BLOCKS.splitlines() if line.strip()]
TESTS = {
    name
    for file in (REPOSITORY / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
}


def source_text():
    """Everything that is ours and runs, without this file."""
    files = [*(REPOSITORY / "dsrun").rglob("*.py"), *(REPOSITORY / "scripts").glob("*"), *REPOSITORY.glob("configs/*")]
    files += [file for file in (REPOSITORY / "tests").rglob("*.py") if file != Path(__file__)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def is_setting(dotted):
    model = Config
    for name in dotted.split("."):
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:
            return False
        model = field.annotation
    return True


def test_it_names_tests_at_all():
    assert sum(name.startswith("test_") for name in QUOTED) > 20


@pytest.mark.parametrize("name", [name for name in QUOTED if name.startswith("test_")])
def test_a_test_that_is_named_exists(name):
    assert name in TESTS


@pytest.mark.parametrize(
    "name", [name for name in QUOTED if re.fullmatch(r"(dsrun|scripts|tests|docs|configs)/\S+", name)]
)
def test_a_file_that_is_named_exists(name):
    assert (REPOSITORY / name).is_file()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", PAGE))
def test_a_link_leads_to_a_file(target):
    assert (REPOSITORY / "docs" / target).is_file()


@pytest.mark.parametrize("name", [name for name in QUOTED if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+(: \w+)?", name)])
def test_a_dotted_name_is_a_setting_or_a_file_of_a_run_folder(name):
    if name in CONTENTS or name == "manifest.json":
        return
    assert is_setting(name.partition(":")[0])


@pytest.mark.parametrize("command", [*COMMANDS, *(name for name in QUOTED if name.startswith("dsrun "))])
def test_a_command_that_is_shown_exists_with_its_options(command):
    words = command.split()
    if words[0] == "sbatch":
        words = words[[word.startswith("scripts/") for word in words].index(True) :]
    if words[0].startswith("scripts/"):
        file = REPOSITORY / words[0]
        options = file.read_text(encoding="utf-8")
        own = [word for word in words[1:] if word.startswith("--") and word != "--config"]
        assert file.is_file()
        assert all(option.partition("=")[0] in options for option in own)
        return
    group = typer.main.get_command(app)
    for word in words[1:]:
        if not hasattr(group, "commands"):
            break
        group = group.commands[word]
    known = {option for parameter in group.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(
    "name", [name for name in QUOTED if re.fullmatch(r"--\w[\w-]*(=\S*)?|[A-Z_]{4,}|\w+\.?\w+", name)]
)
def test_a_word_that_is_quoted_occurs_in_the_source(name):
    if name.startswith("test_") or name in ("scancel", "psum"):
        return
    words = [part for part in re.split(r"[.=]", name) if part]
    text = source_text()
    assert all(word in text for word in words), words
