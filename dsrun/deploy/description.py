"""Description: whether what model.json says of network, features and audio can be, before anything is computed from it.

A folder may come from a stranger, or was edited by hand: a text where a number is due, a hop of nothing or 10^30 layers would end in an
error far from here, or in none. Limits are far beyond any network that can be trained.
"""

import math
from collections.abc import Mapping
from typing import Any

from dsrun.deploy.codes import FORMATS

MOST = 100_000  # of a size

# What each value may be: whole numbers from, to; numbers above 0, to (a float in the pair); or one of some texts.
RULES: dict[str, Any] = {
    "format": FORMATS,
    "network.num_bins": (1, MOST),
    "network.num_classes": (2, 1 << 21),
    "network.hidden": (1, MOST),
    "network.layers": (1, 1000),
    "network.direction": ("bidirectional", "forward"),
    "network.normalization": ("batch", "layer", "none"),
    "network.residuals": ("store", "recompute"),
    "network.lookahead": (0, MOST),
    "network.dropout": (-1e-9, 1.0),  # of training, and not used here
    "network.relu_clip": (0.0, 1e30),
    "features.kind": ("log_spectrogram", "log_mel"),
    "features.sample_rate": (1000, 768_000),
    "features.window_ms": (0.0, 10_000.0),
    "features.hop_ms": (0.0, 10_000.0),
    "features.num_mels": (0, MOST),
    "max_seconds": (0.0, 1e9),
}
FRONT_ENDS: tuple[dict[str, Any], ...] = (
    {"channels": (1, MOST)},
    {"stack": (1, 1000), "stride": (1, 1000), "hidden": (1, MOST)},
)


def problem_of(document: Mapping[str, Any]) -> str | None:
    """What is wrong with the description, by its dotted name; None if nothing is that can be told without the arrays."""
    rules = dict(RULES)
    front_end = _value(document, "network.front_end")
    sizes = next((own for own in FRONT_ENDS if isinstance(front_end, dict) and front_end.keys() == own.keys()), None)
    if sizes is None:
        return f"network.front_end is {_shown(front_end)}"
    rules |= {f"network.front_end.{name}": rule for name, rule in sizes.items()}
    for name, rule in rules.items():
        if not _obeys(value := _value(document, name), rule):
            return f"{name} is {_shown(value)}"
    resample, channel = _value(document, "audio.resample"), _value(document, "audio.channel")
    if type(resample) is not bool or not (channel == "mono" or _obeys(channel, (0, MOST))):
        return f"audio is {_shown(document.get('audio'))}"
    return _contradiction(document)


def _contradiction(document: Mapping[str, Any]) -> str | None:
    """Two values that cannot both be."""
    features, symbols = document["features"], _value(document, "alphabet.symbols")
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) and symbol for symbol in symbols):
        return f"alphabet.symbols is {_shown(symbols)}"
    if document["network"]["num_classes"] != len(symbols) + 1:
        return f"network.num_classes is {document['network']['num_classes']}, of {len(symbols)} symbols and blank"
    window, hop = (features["sample_rate"] * features[name] / 1000 for name in ("window_ms", "hop_ms"))
    if round(hop) < 1 or round(window) < 1:
        return f"features: {_shown(features)}, windows or hops of less than a sample"
    bins = features["num_mels"] if features["kind"] == "log_mel" else round(window) // 2 + 1
    if document["network"]["num_bins"] != bins:
        return f"network.num_bins is {document['network']['num_bins']}, where features have {bins}"
    return None


def _value(document: Mapping[str, Any], name: str) -> Any:
    found: Any = document
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _obeys(value: Any, rule: Any) -> bool:
    low, high = rule[0], rule[-1]
    if isinstance(low, str):
        return isinstance(value, str) and value in rule
    if isinstance(low, float):
        return type(value) in (int, float) and math.isfinite(value) and low < value <= high
    return type(value) is int and low <= value <= high


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
