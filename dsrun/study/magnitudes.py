"""What a watched step of a run left on disk, for people: a table of tensors, and the talk's histograms of any layer.

Reads `RUN/magnitudes/step_NNNNNN.npz` and nothing else of the run; ranges of formats stand in the file. No JAX.

A layer is `features`, `front_end`, `gru_0` (both directions), ..., or `output`. What a layer reads is the last that the layer before it
hands on. Histograms are shares of a tensor's non-zero finite values by binade: field -127 collects float32's subnormals.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.errors import UsageError
from dsrun.record.magnitudes import BIAS, FIELDS, KINDS, Magnitudes, file_of, load_magnitudes, watched_steps

MAX_CURVES = 7  # of a panel; beyond it tensors are taken together
_PANELS = {
    "parameters": "weight",
    "inputs": "activation",
    "outputs": "activation",
    "errors": "error",
    "gradients of weights": "weight_gradient",
    "updates": "update",
}


@dataclass(frozen=True)
class Curve:
    """Shares by exponent, of some tensors together, and the share of zeros among all their values."""

    label: str
    exponents: np.ndarray
    shares: np.ndarray
    zero_share: float


@dataclass(frozen=True)
class Panel:
    """Histograms of one kind with the range of its format; NaN where that has none."""

    title: str
    format: str
    smallest_positive: float
    smallest_normal: float
    largest: float
    curves: list[Curve]


def read_step(run: Path, step: int | None) -> tuple[Magnitudes, list[int]]:
    """A run's magnitudes at a step, the last if None, and the steps there are.

    Raises:
        UsageError: not a run folder, nothing was watched, or not at that step.
        DataError: the file is damaged.
    """
    if not (run / "config.yaml").is_file():
        raise UsageError(
            f"{run}: not a run folder (no config.yaml). Give one that dsrun train wrote; dsrun runs lists them."
        )
    folder = run / "magnitudes"
    steps = watched_steps(folder)
    if not steps:
        raise UsageError(
            f"{run}: no step was watched. Train with training.watch_every_steps, e.g. --set training.watch_every_steps=100; the "
            "first step is always among them."
        )
    if step is not None and step not in steps:
        raise UsageError(f"{run}: step {step} was not watched. There are {_listed(steps)}.")
    return load_magnitudes(file_of(folder, steps[-1] if step is None else step)), steps


def select(found: Magnitudes, *, layer: str | None, path: str | None, role: str | None) -> np.ndarray:
    """Places of the tensors of a layer, whose whole path matches a regular expression, and of a role.

    Raises:
        UsageError: there is none; lists what there is.
    """
    layers, roles = np.array([layer_of(str(name)) for name in found.path]), found.role
    if path is not None:
        try:
            pattern = re.compile(path)
        except re.error as error:
            raise UsageError(f"--path {path!r} is not a regular expression: {error}.") from None
    for option, wanted, known in (("--layer", layer, layers), ("--role", role, roles)):
        if wanted is not None and wanted not in known:
            raise UsageError(
                f"{option} {wanted}: there is none. There are {', '.join(dict.fromkeys(map(str, known)))}."
            )
    is_chosen = np.ones(len(layers), bool)
    if layer is not None:
        is_chosen &= layers == layer
    if role is not None:
        is_chosen &= roles == role
    if path is not None:
        is_chosen &= np.array([pattern.fullmatch(str(name)) is not None for name in found.path])
    if not is_chosen.any():
        chosen = {"--layer": layer, "--path": path, "--role": role}
        words = " ".join(f"{option} {value}" for option, value in chosen.items() if value is not None)
        examples = ", ".join(list(dict.fromkeys(map(str, found.path)))[:: max(len(found.path) // 8, 1)][:5])
        raise UsageError(f"{words}: no tensor matches; --path is matched as a whole. There are e.g. {examples}.")
    return np.flatnonzero(is_chosen)


def layer_of(path: str) -> str:
    """The layer that a parameter or a stored value belongs to."""
    if match := re.match(r"gru_\d+", path):
        return match[0]
    return path.split(".")[0] if path.split(".")[0] in ("features", "front_end") else "output"


def total_rows(found: Magnitudes, places: np.ndarray) -> list[dict[str, Any]]:
    """Figures of all chosen tensors of each kind together, in the order of `KINDS`."""
    kinds = [kind for kind in KINDS if kind in found.kind[places]]
    groups = [places[found.kind[places] == kind] for kind in kinds]
    return [
        {"kind": kind, "role": str(found.role[own[0]]), "tensors": len(own)} | found.figures(own)
        for kind, own in zip(kinds, groups, strict=True)
    ]


def tensor_rows(found: Magnitudes, places: np.ndarray) -> list[dict[str, Any]]:
    """Figures of each chosen tensor, and its histogram as pairs of exponent and number of values."""
    rows = found.rows()
    return [rows[place] | {"histogram": _pairs(found, place)} for place in places]


def make_panels(found: Magnitudes, places: np.ndarray) -> list[Panel]:
    """The figure's panels: parameters, inputs, outputs, errors, gradients of weights, updates; those that there are."""
    panels = []
    for title, kind in _PANELS.items():
        own = _inputs(found, places) if title == "inputs" else places[found.kind[places] == kind]
        if len(own):
            panels.append(_panel(found, title, own))
    return panels


def _inputs(found: Magnitudes, places: np.ndarray) -> np.ndarray:
    """For each layer with chosen activations, the last activation of the layer before it."""
    activations = np.flatnonzero(found.kind == "activation")
    layers = [layer_of(str(found.path[place])) for place in activations]
    order = list(dict.fromkeys(layers))
    chosen = {layer_of(str(found.path[place])) for place in places if found.kind[place] == "activation"}
    before = [order[order.index(layer) - 1] for layer in order[1:] if layer in chosen]
    last = dict(zip(layers, activations, strict=True))
    return np.array([last[layer] for layer in before], int)


def _panel(found: Magnitudes, title: str, places: np.ndarray) -> Panel:
    formats = list(dict.fromkeys(map(str, found.format[places])))
    # Of several formats the commonest: in a float16 network the logits alone are float32.
    name = max(formats, key=lambda one: int((found.format[places] == one).sum()))
    first = places[found.format[places] == name][0]
    note = f"{name}" if len(formats) == 1 else f"{name}, and {', '.join(one for one in formats if one != name)}"
    return Panel(
        title,
        note,
        smallest_positive=float(found.smallest_positive[first]),
        smallest_normal=float(found.smallest_normal[first]),
        largest=float(found.largest[first]),
        curves=[_curve(found, label, own) for label, own in _groups(found, places).items()],
    )


def _groups(found: Magnitudes, places: np.ndarray) -> dict[str, list[int]]:
    """Tensors one by one where they are few, else by layer, else by what they are in the layer."""
    labels: Sequence[Callable[[str], str]] = (str, layer_of, _part_of_layer)
    groups: dict[str, list[int]] = {}
    for label in labels:
        groups = {}
        for place in places:
            groups.setdefault(label(str(found.path[place])), []).append(int(place))
        if len(groups) <= MAX_CURVES and (len(groups) > 1 or len(places) == 1):
            break
    return groups


def _part_of_layer(path: str) -> str:
    """`w` for gru_0_forward.w_r: the name without layer, direction and gate."""
    return re.sub(r"_[rzn]$", "", path.rsplit(".", 1)[-1])


def _curve(found: Magnitudes, label: str, places: list[int]) -> Curve:
    counts = _histogram(found, places)
    used = np.flatnonzero(counts)
    zeros, values = int(found.zeros[places].sum()), int(found.fields[places].sum())
    return Curve(label, used - BIAS, counts[used] / max(counts.sum(), 1), zeros / max(values, 1))


def _histogram(found: Magnitudes, places: Sequence[int]) -> np.ndarray:
    """Numbers of non-zero finite values by exponent field."""
    counts = found.fields[places].sum(axis=0)[: FIELDS - 1].copy()
    counts[0] -= found.zeros[places].sum()
    return counts


def _pairs(found: Magnitudes, place: int) -> list[list[int]]:
    counts = _histogram(found, [place])
    return [[int(field) - BIAS, int(counts[field])] for field in np.flatnonzero(counts)]


def _listed(steps: Sequence[int]) -> str:
    texts = [str(step) for step in steps]
    return ", ".join(texts if len(texts) <= 12 else [*texts[:6], "...", *texts[-5:]])
