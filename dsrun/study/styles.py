"""What a run's arithmetic is called and how it is drawn: one colour, dash and marker for each, in every figure, page and table.

Colour and marker say the format that a run is about, the dash how its updates are rounded. Colours are Okabe and Ito's (2008), which
people with any kind of colour vision tell apart; marker and dash say the same without colour. A format that is not in the table
takes the colour of its kind and a marker of its own, always the same.

The format that a run is about: of its roles the first that is not float32, in the order storage, rules, compute, accumulate, gradient,
reduce, state, ctc, master; `float32` if all are. A rule counts as its format: ternary weights of the recurrent layers are a run
about ternary.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FLOAT32 = "float32"
ROLES = ("storage", "compute", "accumulate", "gradient", "reduce", "state", "ctc", "master")
RULE_ROLES = ("storage", "compute", "accumulate", "gradient", "reduce", "state", "master")

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, GREY = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#767676",
)  # fmt: skip
# By the beginning of the format's name; the first that fits.
_FAMILIES = (
    ("float32", BLACK, "o"),
    ("tensorfloat32", GREY, "o"),
    ("bfloat16", VERMILION, "s"),
    ("float16", BLUE, "^"),
    ("fixed_", GREEN, "D"),
    ("ternary", PURPLE, "P"),
    ("binary", SKY, "X"),
    ("mxfp", ORANGE, "v"),
    ("float8", ORANGE, "v"),
    ("float6", ORANGE, "<"),
    ("float4", ORANGE, ">"),
    ("int", GREEN, "p"),
    ("float_e", SKY, "h"),
)
_MARKERS = "osD^v<>pPXh*"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY)  # of what has none of its own, in this order

Dash = str | tuple[float, tuple[float, ...]]
NEAREST: Dash = "-"
NO_MASTER: Dash = (0.0, (5.0, 2.0))
STOCHASTIC: Dash = (0.0, (1.5, 1.2))
KAHAN: Dash = (0.0, (6.0, 1.5, 1.2, 1.5))
DIRECTED: Dash = (0.0, (3.0, 1.0, 1.0, 1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Style:
    """Colour (#rrggbb), line style and marker as matplotlib has them."""

    colour: str
    dash: Dash
    marker: str


def format_of(config: Mapping[str, Any]) -> str:
    """The format that a run is about; `config` has the values of config.yaml by dotted key."""
    return about(config)[1]


def about(config: Mapping[str, Any]) -> tuple[str, str]:
    """The role and the format that a run is about; ("storage", "float32") where nothing is narrow."""
    found = [("storage", config.get("arithmetic.storage.format"))]
    rules = config.get("arithmetic.rules") or ()
    for rule in rules if isinstance(rules, list | tuple) else ():
        if isinstance(rule, Mapping):
            sections = [(role, rule.get(role)) for role in RULE_ROLES]
            found += [(role, s.get("format")) for role, s in sections if isinstance(s, Mapping)]
    found += [(role, config.get(f"arithmetic.{role}.format")) for role in ROLES]
    for role, name in found:
        if isinstance(name, str) and name not in (FLOAT32, "none"):
            return role, name
    return "storage", FLOAT32


def label_of(config: Mapping[str, Any]) -> str:
    """The arithmetic in a few words: `float32`; `float16`; `bfloat16, no master, stochastic`; `ctc in float16`."""
    role, format = about(config)
    words = [format if role == "storage" else f"{role} in {format}"]
    if config.get("arithmetic.master.format") == "none" and format != FLOAT32:
        words.append("no master")
    rounding = config.get("arithmetic.update.rounding", "ties_to_even")
    if rounding != "ties_to_even":
        bits = config.get("arithmetic.update.random_bits")
        words.append(str(rounding) + (f" {bits} bits" if rounding == "stochastic" and bits not in (None, 24) else ""))
    if config.get("arithmetic.update.compensation", "none") != "none":
        words.append(str(config["arithmetic.update.compensation"]))
    return ", ".join(words)


def style_of(config: Mapping[str, Any]) -> Style:
    """How everything of a run with this arithmetic is drawn."""
    format = format_of(config)
    colour, marker = GREY, _MARKERS[int(hashlib.sha256(format.encode()).hexdigest(), 16) % len(_MARKERS)]
    for beginning, its_colour, its_marker in _FAMILIES:
        if format.startswith(beginning):
            colour, marker = its_colour, its_marker
            break
    return Style(colour, _dash(config, format), marker)


def distinct_styles(configs: Sequence[Mapping[str, Any]]) -> list[Style]:
    """Styles of settings that are drawn together: `style_of`, but what would look like an earlier one has a look of its own.

    Another format of the same family gets them for all its settings, and so does a setting that differs in something that styles do
    not tell, such as the learning rate; as long as there are any that nothing else here has.
    """
    wanted = [style_of(config) for config in configs]
    colours, markers = {style.colour for style in wanted}, {style.marker for style in wanted}

    def free(taken: tuple[str, str]) -> tuple[str, str]:
        colour = next((one for one in COLOURS if one not in colours), taken[0])
        marker = next((one for one in _MARKERS if one not in markers), taken[1])
        colours.add(colour)
        markers.add(marker)
        return colour, marker

    looks: dict[str, tuple[str, str]] = {}
    styles: list[Style] = []
    for config, style in zip(configs, wanted, strict=True):
        format, look = format_of(config), (style.colour, style.marker)
        if format not in looks:
            looks[format] = free(look) if look in looks.values() else look
        colour, marker = looks[format]
        if Style(colour, style.dash, marker) in styles:
            colour, marker = free((colour, marker))
        styles.append(Style(colour, style.dash, marker))
    return styles


def _dash(config: Mapping[str, Any], format: str) -> Dash:
    rounding = config.get("arithmetic.update.rounding", "ties_to_even")
    if config.get("arithmetic.update.compensation", "none") != "none":
        return KAHAN
    if str(rounding).startswith("stochastic"):
        return STOCHASTIC
    if rounding not in ("ties_to_even", "ties_to_away"):
        return DIRECTED
    return NO_MASTER if config.get("arithmetic.master.format") == "none" and format != FLOAT32 else NEAREST
