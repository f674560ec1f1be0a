"""Quantized: products in a deployment format, as the arrays that the network reads.

Of each product: `weight` (codes, or numbers of the format), `multiplier` [channel], the product of input scale, weight scale and gain,
computed in float64 and rounded once, `bias` [channel], and with codes the input's `inverse_scale` and `zero_point` and `offset` [channel]
int32, which takes the input's zero point out of the integer sum: sum of (x - zero_point) w = sum of x w - zero_point * sum of w. With
layer normalisation the gain stands by itself.

What stays float32, and why, is in `KEPT`; it is written into every export.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float32, Shaped

from dsrun.deploy.codes import (
    INTEGERS,
    Coding,
    DeployFormat,
    Granularity,
    Method,
    most_inputs,
    weight_coding,
)
from dsrun.deploy.folding import FloatProduct
from dsrun.model import ModelSettings

Arrays = dict[str, dict[str, jax.Array]]
CONSTANTS = "constants"  # beside the products

KEPT = {
    "multipliers and biases": "one number a channel: few bytes beside a row of weights; the bias is added to a wide sum, once",
    "state and gates": "a state is added to itself at every frame, so its rounding would add up; only the product that reads it sees codes",
    "row convolution": "one number a channel and frame, multiplied element by element: no matrix product, no bytes to speak of",
    "layer normalisation": "its mean and variance are the frame's own and cannot be folded",
    "feature normalisation": "it makes the first layer's input, before any code",
    "logits": "the search compares them",
}


@dataclass(frozen=True)
class WeightFacts:
    """What a format did to a product's weight.

    Fields:
        scales: as many as there are, flat; empty without codes. clipped: share of values beyond the outermost codes.
        sqnr_db: signal to quantisation noise, decibels; infinite where nothing was lost.
    """

    scales: tuple[float, ...]
    clipped: float
    sqnr_db: float


def product_arrays(
    product: FloatProduct,
    format: DeployFormat,
    *,
    inputs: Coding | None,
    granularity: Granularity,
    method: Method,
) -> tuple[dict[str, jax.Array], WeightFacts]:
    """A product in a format. `inputs`: how what goes into it is coded; None of formats without a scale.

    Raises:
        ValueError: a weight beyond the format's range, or so many inputs that an int32 sum could wrap.
    """
    ones = np.ones(product.weight.shape[-1])
    if format in INTEGERS and (count := product.weight.size // len(ones)) > (most := most_inputs(format)):
        raise ValueError(f"{count} inputs, whose int32 sum could wrap (at most {most}); export float16.")
    if inputs is None:
        weight, facts = _converted(product.weight, format)
        found: dict[str, np.ndarray] = {"weight": weight}
    else:
        weight, scales, facts = _coded(product, format, granularity, method)
        ones = scales * np.float64(inputs.scale)
        sums = weight.astype(np.int64).reshape(-1, weight.shape[-1]).sum(axis=0) if inputs.zero_point else 0 * ones
        found = {
            "weight": weight,
            "inverse_scale": inputs.inverse_scale,
            "zero_point": np.asarray(inputs.zero_point, np.float32),
        }
        if format in INTEGERS:
            found["offset"] = np.asarray(-inputs.zero_point * sums, np.int32)
    if product.is_normalized:
        found["gain"] = product.gain
    else:
        ones = ones * product.gain.astype(np.float64)
    found |= {"multiplier": ones.astype(np.float32), "bias": product.bias}
    return {name: jnp.asarray(array) for name, array in found.items()}, facts


def constants(settings: ModelSettings, weights: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays of no product: the row convolution's, and a zero that no compiler knows (`arithmetic.exact`)."""
    found = {"zero": jnp.int32(0)}
    if settings.lookahead:
        found["lookahead_kernel"] = jnp.asarray(weights["lookahead_kernel"], jnp.float32)
    return found


def kept(settings: ModelSettings) -> dict[str, str]:
    """`KEPT`, without what this network does not have."""
    absent = set() if settings.lookahead else {"row convolution"}
    absent |= set() if settings.normalization == "layer" else {"layer normalisation"}
    return {name: why for name, why in KEPT.items() if name not in absent}


def sqnr_db(signal: float, noise: float) -> float:
    """Ratio of two sums of squares in decibels."""
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0.0 else float("-inf")


def _converted(
    weight: Float32[np.ndarray, "*shape"], format: DeployFormat
) -> tuple[Shaped[np.ndarray, "*shape"], WeightFacts]:
    dtype = {"bfloat16": ml_dtypes.bfloat16}.get(format, format)
    with np.errstate(over="ignore"):
        found = weight.astype(dtype)
    if not np.isfinite(found.astype(np.float32)).all():
        raise ValueError(
            f"weights of up to {np.abs(weight).max():.4g} are beyond {format}; export bfloat16 or float32."
        )
    return found, WeightFacts((), 0.0, _sqnr_of(weight, found.astype(np.float32)))


def _coded(
    product: FloatProduct, format: DeployFormat, granularity: Granularity, method: Method
) -> tuple[np.ndarray, np.ndarray, WeightFacts]:
    """Codes, the scale of each channel, and what was lost; gate by gate."""
    codes, scales, values, found, clipped = [], [], [], [], 0
    for matrix in np.split(product.weight, product.gates, axis=-1):
        coding = weight_coding(matrix, format, granularity, method)
        codes.append(coding.encode(matrix))
        values.append(coding.decode(codes[-1]))
        scales.append(np.broadcast_to(coding.scale, matrix.shape[-1:]).astype(np.float64))
        found += np.ravel(coding.scale).tolist()
        clipped += coding.clipped(matrix)
    share = clipped / product.weight.size
    facts = WeightFacts(tuple(found), share, _sqnr_of(product.weight, np.concatenate(values, axis=-1)))
    return np.concatenate(codes, axis=-1), np.concatenate(scales), facts


def _sqnr_of(x: Float32[np.ndarray, "*shape"], rounded: Float32[np.ndarray, "*shape"]) -> float:
    noise = np.square(x.astype(np.float64) - rounded).sum()
    return sqnr_db(float(np.square(x, dtype=np.float64).sum()), float(noise))


def byte_count(arrays: Mapping[str, jax.Array], format: DeployFormat) -> int:
    """Bytes of a product as it is stored: two int4 codes a byte."""
    return sum(-(-x.size // 2) if name == "weight" and format == "int4" else x.nbytes for name, x in arrays.items())
