"""docs/SETTINGS.md and `dsrun schema KEY`: every setting, current, and found by what somebody would type."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.config import Config
from dsrun.config_messages import leaves
from dsrun.config_reference import explain, sections, settings_page
from dsrun.errors import UsageError

PAGE = Path(__file__).parents[1] / "docs" / "SETTINGS.md"


def test_the_committed_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: dsrun schema --markdown > docs/SETTINGS.md"


def test_every_value_of_the_models_has_its_default_and_its_meaning():
    described = {
        (re.sub(r"\.N\b", "", f"{key}.{setting.name}").lstrip("."), section.kind): setting
        for section in sections()
        for key in section.keys
        for setting in section.settings
    }
    for key, field in leaves(Config):
        found = [setting for (name, _), setting in described.items() if name == key]
        assert found, key
        assert any(setting.meaning == " ".join(field.description.split()) for setting in found), key
        assert any((setting.default is None) == field.is_required() for setting in found), key


@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("seed", "whole number at least 0 and below 2^32", None),
        ("data.test", "path or null", "null"),
        ("data.channel", "mono or whole number at least 0", "mono"),
        ("features.window_ms", "number from 2 to 1000", "20.0"),
        ("augment.gain_db", "list of 2, each number from -100 to 100 or null", "null"),
        ("augment.speeds", "list, each number above 0", "[1.0]"),
        ("arithmetic.master.format", "none or format", None),
        ("arithmetic.storage.overflow", "infinity, nan, saturate, wrap or null", "null"),
        ("arithmetic.rules.0.path", "text", None),
        ("arithmetic.loss_scale.scale", "number from 2^-100 to 2^100", None),
        ("training.compilation_cache", "true or false", "false"),
        ("arithmetic.loss_scale", "", None),
    ],
)
def test_a_setting_is_told_with_what_may_be_written_and_its_default(key, value, default):
    found = explain(key)
    assert found.startswith(key.replace(".0.", ".N."))
    if value:
        assert f": {value}; {'required' if default is None else f'default {default}'}\n" in found


def test_a_setting_of_several_kinds_is_told_for_each_and_says_which():
    assert re.findall(r"optimizer.weight_decay \(kind (\w+)\)", explain("optimizer.weight_decay")) == ["sgd", "adamw"]
    assert re.findall(r"optimizer.momentum \(kind (\w+)\)", explain("optimizer.momentum")) == ["sgd"]
    assert re.findall(r"^arithmetic.loss_scale \(kind (\w+)\)", explain("arithmetic.loss_scale"), re.MULTILINE) == [
        "none", "static", "dynamic",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("hidden", "did you mean model.hidden or model.front_end.hidden?"),
        ("optimizer.momentun", "did you mean optimizer.momentum?"),
        ("learning_rate", "did you mean optimizer.learning_rate?"),
        ("zzz", "the top level has seed, data, features"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key, hint):
    with pytest.raises(UsageError, match=re.escape(hint)):
        explain(key)


def test_the_command_prints_a_part_or_the_page_and_not_both():
    part = CliRunner().invoke(app, ["schema", "arithmetic.update"])
    assert part.stdout == explain("arithmetic.update") + "\n"
    assert CliRunner().invoke(app, ["schema", "--markdown"]).stdout == settings_page()
    both = CliRunner().invoke(app, ["schema", "seed", "--markdown"])
    assert isinstance(both.exception, UsageError)
