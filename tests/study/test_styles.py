"""One name and one look for each arithmetic."""

import pytest

from dsrun.study.styles import distinct_styles, format_of, label_of, style_of

STOCHASTIC = {"arithmetic.update.rounding": "stochastic", "arithmetic.update.random_bits": 24}


def config(**roles: str) -> dict:
    """Everything float32 but these roles' formats."""
    formats = dict.fromkeys(("storage", "compute", "gradient", "master", "ctc"), "float32") | roles
    return {f"arithmetic.{role}.format": name for role, name in formats.items()}


RULES = {"arithmetic.rules": [{"path": "gru_.*", "storage": {"format": "ternary"}, "compute": None}]}


@pytest.mark.parametrize(
    ("values", "format", "label"),
    [
        (config(), "float32", "float32"),
        (config(storage="float16"), "float16", "float16"),
        (config(storage="bfloat16", master="none") | STOCHASTIC, "bfloat16", "bfloat16, no master, stochastic"),
        (config(storage="bfloat16", master="none"), "bfloat16", "bfloat16, no master"),
        (config(compute="float8_e4m3fn"), "float8_e4m3fn", "compute in float8_e4m3fn"),
        (config(ctc="float16"), "float16", "ctc in float16"),
        (config() | RULES, "ternary", "ternary"),
        (config(master="none"), "float32", "float32"),
        (
            config(storage="float16", master="none") | STOCHASTIC | {"arithmetic.update.random_bits": 4},
            "float16",
            "float16, no master, stochastic 4 bits",
        ),
        ({}, "float32", "float32"),
    ],
)
def test_an_arithmetic_is_named_by_what_is_narrow_in_it(values, format, label):
    assert (format_of(values), label_of(values)) == (format, label)


def test_formats_differ_in_colour_and_marker_and_roundings_in_dash():
    formats = ("float32", "bfloat16", "float16", "fixed_q6.10", "ternary", "binary", "float8_e4m3fn")
    styles = [style_of(config(storage=name)) for name in formats]
    assert len({style.colour for style in styles}) == len({style.marker for style in styles}) == len(formats)
    narrow = config(storage="bfloat16", master="none")
    kahan = narrow | {"arithmetic.update.compensation": "kahan"}
    dashes = [style_of(values).dash for values in (config(storage="bfloat16"), narrow, narrow | STOCHASTIC, kahan)]
    assert len(set(dashes)) == 4


def test_an_unknown_format_has_the_same_look_every_time():
    assert style_of(config(storage="posit16")) == style_of(config(storage="posit16"))


def test_settings_that_would_look_alike_get_colours_and_markers_of_their_own():
    narrow = {"arithmetic.storage.format": "float16"}
    configs = [{}, narrow, {}, {}, narrow]
    styles = distinct_styles(configs)
    assert styles[:2] == [style_of({}), style_of(narrow)]
    assert len(set(styles)) == len({style.colour for style in styles}) == len({style.marker for style in styles}) == 5
    assert [style.dash for style in styles] == [style_of(config).dash for config in configs]
    assert len(distinct_styles([{}] * 30)) == 30


def test_another_format_of_the_same_family_has_one_look_for_all_its_settings():
    first, second = ({"arithmetic.storage.format": name} for name in ("float8_e4m3fn", "float8_e5m2"))
    stochastic = {"arithmetic.update.rounding": "stochastic"}
    styles = distinct_styles([first, first | stochastic, second, second | stochastic])
    looks = [(style.colour, style.marker) for style in styles]
    assert looks[0] == looks[1] != looks[2] == looks[3]
    assert styles[0].dash == styles[2].dash != styles[1].dash
