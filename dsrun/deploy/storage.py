"""Storage: an export's arrays as NumPy's .npz has them, where nothing is wider than its format.

NumPy has no bfloat16, float8 or int4. Their bits are kept in unsigned integers: bfloat16 in uint16, float8 in uint8, int4 two codes a
byte (code + 8, the first in the low half; an odd last one alone). `unpack` undoes it and can be compiled into a program, so a program
takes the file's arrays as they are.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.deploy.codes import INTEGERS, has_scale
from dsrun.deploy.network import Network
from dsrun.deploy.quantized import CONSTANTS, Arrays

Stored = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]  # of the weights that are packed
_BITS_OF = {"bfloat16": (np.uint16, jnp.bfloat16), "float8_e4m3fn": (np.uint8, jnp.float8_e4m3fn)}
_DTYPE_OF = {"bfloat16": "uint16", "float8_e4m3fn": "uint8"}
_HALF = 8  # what is added to an int4 code


def pack(network: Network, arrays: Arrays) -> tuple[Stored, Shapes]:
    """Arrays by `product/name`, and the shapes of those whose shape the packing loses."""
    formats, stored, shapes = dict(network.formats), {}, {}
    for path, own in arrays.items():
        for name, array in own.items():
            key, value = f"{path}/{name}", np.asarray(array)
            format = formats.get(path)
            if name == "weight" and format in _BITS_OF:
                value = value.view(_BITS_OF[format][0])
            elif name == "weight" and format == "int4":
                shapes[key] = value.shape
                value = _packed(value)
            stored[key] = value
    return stored, shapes


def unpack(network: Network, stored: Mapping[str, jax.Array], shapes: Shapes) -> Arrays:
    """What `pack` was given; works under jit."""
    formats = dict(network.formats)
    arrays: Arrays = {}
    for key, array in stored.items():
        path, name = key.rsplit("/", 1)
        format, value = formats.get(path), jnp.asarray(array)
        if name == "weight" and format in _BITS_OF:
            value = jax.lax.bitcast_convert_type(value, _BITS_OF[format][1])
        elif name == "weight" and format == "int4":
            value = _unpacked(value, shapes[key])
        arrays.setdefault(path, {})[name] = value
    return arrays


def stored_layout(network: Network, weights: Shapes) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every array that `pack` makes of a network. `weights`: shape of each product's."""
    layout: dict[str, tuple[tuple[int, ...], str]] = {f"{CONSTANTS}/zero": ((), "int32")}
    if network.settings.lookahead:
        rows = network.settings.lookahead + 1
        layout[f"{CONSTANTS}/lookahead_kernel"] = ((rows, network.settings.hidden), "float32")
    for path, format in network.formats:
        shape, channels = weights[path], weights[path][-1:]
        held = ((-(-math.prod(shape) // 2),), "uint8") if format == "int4" else (shape, _DTYPE_OF.get(format, format))
        own = {"weight": held, "multiplier": (channels, "float32"), "bias": (channels, "float32")}
        if has_scale(format):
            own |= {"inverse_scale": ((), "float32"), "zero_point": ((), "float32")}
        if format in INTEGERS:
            own["offset"] = (channels, "int32")
        if network.settings.normalization == "layer" and not path.endswith(".u") and path != "output_kernel":
            own["gain"] = (channels, "float32")
        layout |= {f"{path}/{name}": what for name, what in own.items()}
    return layout


def _packed(codes: np.ndarray) -> np.ndarray:
    flat = (codes.reshape(-1) + _HALF).astype(np.uint8)
    flat = np.pad(flat, (0, flat.size % 2))
    return flat[::2] | (flat[1::2] << 4)


def _unpacked(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    halves = jnp.stack([packed & jnp.uint8(15), packed >> jnp.uint8(4)], axis=-1).reshape(-1)
    return (halves[: math.prod(shape)].astype(jnp.int8) - jnp.int8(_HALF)).reshape(shape)
