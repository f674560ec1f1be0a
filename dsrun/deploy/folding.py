"""Folding: a trained network as a list of products, each with what is done to its result: one gain and one bias a channel.

Batch normalisation in evaluation is (y - mean) / sqrt(variance + epsilon) * scale + shift with constants, so behind a product it is

    y * gain + bias,   gain = scale / sqrt(variance + epsilon),   bias = shift - mean * gain

and is folded into the product: where codes are multiplied, the gain joins the scales in one multiplication that is made anyhow, and the
weights keep the values, and so the codes, that were trained. (Gain times weight, quantised together, would need a scale that suits the
channel with the largest gain.) A gain is computed in float64 and rounded once. Layer normalisation takes its mean from the frame itself
and stays where it is.

Products, by path: `front_end.kernel` (or `front_end.kernel_0`, `_1`), for each GRU layer and direction `gru_0_forward.w` (input) and
`gru_0_forward.u` (recurrent), each three gates side by side, r, z, n, and `output_kernel`. The row convolution multiplies each channel by
itself, no matrix product, and stays float32.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from dsrun.model import Conv2dSettings, ModelSettings
from dsrun.model.deep_speech import gru_paths
from dsrun.model.norm import EPSILON

Constants = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class FloatProduct:
    """One product of the network in float32.

    Fields:
        weight: [input, channel], of a convolution [time, bin, channel in, channel].
        gain, bias: of its result, [channel]; with layer normalisation they come behind that.
        gates: matrices that stand side by side in `weight`, each with scales of its own.
        source: what goes into it, as the network calls what it stores (`model.stored_places`).
        is_normalized: layer normalisation stands between the product and the gain.
    """

    weight: Float32[np.ndarray, "... channel"]
    gain: Float32[np.ndarray, " channel"]
    bias: Float32[np.ndarray, " channel"]
    gates: int
    source: str
    is_normalized: bool


def fold(settings: ModelSettings, weights: Any, statistics: Any) -> dict[str, FloatProduct]:
    """The products in the network's order.

    Args:
        weights: nested dict as the network reads them. statistics: running mean and variance by normalisation; empty without any.
    """
    values = jax.tree.map(lambda array: np.asarray(array, np.float32), jax.device_get(weights))
    constants = jax.tree.map(lambda array: np.asarray(array, np.float64), jax.device_get(statistics or {}))
    return _front_end(settings, values, constants) | _layers(settings, values, constants) | _output(settings, values)


def layer_source(settings: ModelSettings, layer: int) -> str:
    """What a layer hands on; -1 is the front end, and `settings.layers` what goes into the linear layer."""
    if layer < 0:
        return "front_end.output_1" if isinstance(settings.front_end, Conv2dSettings) else "front_end.output"
    if layer == settings.layers:
        return "lookahead.output" if settings.lookahead else layer_source(settings, layer - 1)
    paths = gru_paths(settings, layer)
    return f"gru_{layer}.output" if len(paths) == 2 else f"{paths[0]}.state"


def _front_end(settings: ModelSettings, values: Any, constants: Constants) -> dict[str, FloatProduct]:
    own, found = values["front_end"], {}
    is_convolution = isinstance(settings.front_end, Conv2dSettings)
    for suffix in ("_0", "_1") if is_convolution else ("",):
        name = f"front_end.normalization{suffix}"
        gain, bias = _gain_and_bias(own[f"normalization{suffix}"], constants.get(name))
        source = "front_end.output_0" if suffix == "_1" else "features"
        is_normalized = settings.normalization == "layer"
        found[f"front_end.kernel{suffix}"] = FloatProduct(own[f"kernel{suffix}"], gain, bias, 1, source, is_normalized)
    return found


def _layers(settings: ModelSettings, values: Any, constants: Constants) -> dict[str, FloatProduct]:
    found = {}
    for layer in range(settings.layers):
        for path in gru_paths(settings, layer):
            own = values[path]
            pairs = [_gain_and_bias(own[f"normalization_{gate}"], constants.get(f"{path}.{gate}")) for gate in "rzn"]
            gain, bias = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            inputs = np.concatenate([own[f"w_{gate}"] for gate in "rzn"], axis=1)
            is_normalized = settings.normalization == "layer"
            found[f"{path}.w"] = FloatProduct(inputs, gain, bias, 3, layer_source(settings, layer - 1), is_normalized)
            recurrent = np.concatenate([own[f"u_{gate}"] for gate in "rzn"], axis=1)
            nothing = np.zeros_like(own["b_n"])  # only the candidate has a bias of its own inside the reset gate
            bias = np.concatenate([nothing, nothing, own["b_n"]])
            found[f"{path}.u"] = FloatProduct(recurrent, np.ones_like(bias), bias, 3, f"{path}.state", False)
    return found


def _output(settings: ModelSettings, values: Any) -> dict[str, FloatProduct]:
    bias, source = values["output_bias"], layer_source(settings, settings.layers)
    return {"output_kernel": FloatProduct(values["output_kernel"], np.ones_like(bias), bias, 1, source, False)}


def _gain_and_bias(
    norm: dict[str, np.ndarray], constants: dict[str, np.ndarray] | None
) -> tuple[Float32[np.ndarray, " channel"], Float32[np.ndarray, " channel"]]:
    """Of a normalisation: batch's with its constants; layer's scale and shift; a bias alone where there is none."""
    shift = norm["shift"]
    scale = norm.get("scale", np.ones_like(shift)).astype(np.float64)
    if constants is None:
        return scale.astype(np.float32), shift
    gain = scale / np.sqrt(constants["variance"] + EPSILON)
    return gain.astype(np.float32), (shift - constants["mean"] * gain).astype(np.float32)
