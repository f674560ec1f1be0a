"""`dsrun --help`: every command in its group, on one whole line."""

from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.cli_help import FIRST, GROUPS


def test_every_command_has_a_place_and_one_whole_line_of_a_terminal():
    shown = CliRunner().invoke(app, ["--help"]).stdout
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    assert names <= {name for lines in GROUPS.values() for name in lines}, "give the new command a line in cli_help.py"
    for lines in GROUPS.values():
        for name, line in lines.items():
            assert (f"  {name}" in shown and line in shown) == (name in names), name
    assert "..." not in shown.partition("Experiments")[2]
    assert max(map(len, shown.splitlines())) <= 80


def test_a_bare_call_ends_with_the_command_to_try_first():
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, result.stdout.splitlines()[-1].strip()) == (0, FIRST)
