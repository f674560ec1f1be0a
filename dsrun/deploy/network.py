"""The deployed network: the forward pass of a Deep Speech 2 from folded products, in the formats of an export.

Each product encodes its input, multiplies, and comes back to float32 by one multiplication and one addition (`quantized`). With codes of
int8 the sum is an int32: exact, whatever the order. Its *twin* multiplies the same codes as float32 numbers, in pieces of at most 1,040
inputs: every partial sum is then an integer below 2^24 (1,040 * 127 * 127 = 16.77 million; 2^24 is 16.78), which float32 holds exactly, so
twin and integer agree to the bit and either is the other's oracle. `Multiply` says which is compiled; nothing else differs.

Between products: gates, state, rectifier and row convolution are made of `arithmetic.exact`, so what goes into a product has the same
bits on every CPU too. With float formats the products themselves are summed in the backend's order, and then that holds to rounding
only.

Padding: as in training, what lies behind an utterance's end is zero for every layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Shaped

from dsrun.arithmetic import exact
from dsrun.deploy.codes import INTEGERS, LARGEST_CODE, DeployFormat, has_scale
from dsrun.deploy.quantized import CONSTANTS, Arrays
from dsrun.model import Conv2dSettings, ModelSettings
from dsrun.model.deep_speech import gru_paths
from dsrun.model.frontend import CONV_KERNELS, CONV_STRIDES, front_end_frames, time_windows
from dsrun.model.norm import layer_normalize

Multiply = Literal["integer", "float32"]
EXACT_INPUTS = 2**24 // (127 * 127)  # products of two codes whose float32 sum is exact
# XLA:CPU widens the weight of an integer product of one row to int32 and reads four bytes a weight in every frame; products of several
# rows go to a library's int8 kernels. With four rows these took no longer than with two or three (docs/DEPLOYMENT.md has the gain).
FEWEST_ROWS = 4


@dataclass(frozen=True)
class Network:
    """What is fixed when a program is compiled: shape, format of each product, and how codes are multiplied. Hashable."""

    settings: ModelSettings
    formats: tuple[tuple[str, DeployFormat], ...]
    multiply: Multiply = "integer"

    @property
    def is_exact(self) -> bool:
        """Every CPU gives the same bits: all products are of integers, and no layer normalisation stands between (`arithmetic.exact`)."""
        return self.settings.normalization != "layer" and all(format in INTEGERS for _, format in self.formats)

    def twin(self) -> "Network":
        """The same network, its codes multiplied as float32 numbers."""
        return replace(self, multiply="float32")


class Pass:
    """One pass: the network's layers as functions of arrays."""

    def __init__(self, network: Network, arrays: Mapping[str, Mapping[str, Array]]):
        self.network, self.settings, self.arrays = network, network.settings, arrays
        self.formats = dict(network.formats)
        self.zero = arrays[CONSTANTS]["zero"]

    def product(self, path: str, x: Float32[Array, "*rows input"]) -> Float32[Array, "*rows channel"]:
        """`x` through the product at `path`, with its gain and bias."""
        own, format = self.arrays[path], self.formats[path]
        return self._rescaled(path, multiplied(encode(x, own, format), own["weight"], format, self.network.multiply))

    def convolution(
        self, path: str, x: Float32[Array, "batch time bin channel"], strides: tuple[int, int]
    ) -> Float32[Array, "batch output_frame output_bin output_channel"]:
        """`x`, with all zeros around it that there are to be, through the convolution at `path`."""
        own, format = self.arrays[path], self.formats[path]
        return self._rescaled(
            path, _convolve(encode(x, own, format), own["weight"], strides, format, self.network.multiply)
        )

    def _rescaled(self, path: str, sums: Shaped[Array, "*rows channel"]) -> Float32[Array, "*rows channel"]:
        """Sums of products as float32 numbers: times scales and gain, plus bias."""
        own = self.arrays[path]
        if "offset" in own:
            sums = sums + own["offset"].reshape((1,) * (sums.ndim - 1) + (-1,))
        y = self.times(sums.astype(jnp.float32), own["multiplier"])
        if "gain" in own:
            gates = 3 if path.endswith(".w") else 1
            by_gate = y.reshape(*y.shape[:-1], gates, -1)
            y = self.times(layer_normalize(by_gate).reshape(y.shape), own["gain"])
        return y + own["bias"].reshape((1,) * (y.ndim - 1) + (-1,))

    def times(
        self, a: Float32[Array, "*rows channel"], b: Float32[Array, "*ones channel"]
    ) -> Float32[Array, "*rows channel"]:
        """A product that nothing is fused with; `b` of as many axes, or one number a channel."""
        return exact.times(a, b.reshape((1,) * (a.ndim - b.ndim) + b.shape), self.zero)

    def front_end_layer(
        self, number: int, x: Float32[Array, "batch frame ..."], is_valid: Bool[Array, "batch output_frame 1"]
    ) -> Float32[Array, "batch output_frame ..."]:
        """One layer, given the frames around it that its window reaches; zero where a frame is not the utterance's."""
        settings = self.settings.front_end
        if isinstance(settings, Conv2dSettings):
            around = CONV_KERNELS[number][0] // 2
            x = jnp.pad(x, ((0, 0), (0, 0), (around, around), (0, 0)))
            step, stride = CONV_STRIDES[number]
            y, valid = self.convolution(f"front_end.kernel_{number}", x, (stride, step)), is_valid[..., None]
        else:
            count = is_valid.shape[1]
            stop = settings.stride * (count - 1) + 1
            window = [x[:, i : i + stop : settings.stride] for i in range(settings.stack)]
            y, valid = self.product("front_end.kernel", jnp.concatenate(window, axis=-1)), is_valid
        return jnp.where(valid, jnp.clip(y, 0.0, self.settings.relu_clip), 0.0)

    def enter(self, features: Float32[Array, "batch frame bin"]) -> Float32[Array, "batch frame ..."]:
        """What the first front-end layer is given."""
        return features[..., None] if isinstance(self.settings.front_end, Conv2dSettings) else features

    def leave(self, y: Float32[Array, "batch output_frame ..."]) -> Float32[Array, "output_frame batch input"]:
        """What the GRU layers are given: time-major, bins and channels flattened."""
        return jnp.swapaxes(y.reshape(*y.shape[:2], -1) if y.ndim > 3 else y, 0, 1)

    def gru_layer(
        self, layer: int, x: Float32[Array, "output_frame batch input"], is_valid: Bool[Array, "output_frame batch 1"]
    ) -> Float32[Array, "output_frame batch hidden"]:
        """One layer from zeros, its directions summed."""
        start = jnp.zeros((x.shape[1], self.settings.hidden), jnp.float32)
        found = [self.direction(path, x, is_valid, start)[0] for path in gru_paths(self.settings, layer)]
        return found[0] if len(found) == 1 else found[0] + found[1]

    def direction(
        self,
        path: str,
        x: Float32[Array, "output_frame batch input"],
        is_valid: Bool[Array, "output_frame batch 1"],
        start: Float32[Array, "batch hidden"],
    ) -> tuple[Float32[Array, "output_frame batch hidden"], Float32[Array, "batch hidden"]]:
        """States of one direction of a layer from a state on, zero in padded frames, and the last one."""
        projections = self.product(f"{path}.w", x)

        def step(h: Array, of_frame: tuple[Array, Array]) -> tuple[Array, Array]:
            x, valid = of_frame
            x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
            u_r, u_z, u_n = jnp.split(self.product(f"{path}.u", h), 3, axis=-1)
            r, z = exact.sigmoid(x_r + u_r, self.zero), exact.sigmoid(x_z + u_z, self.zero)
            n = exact.tanh(x_n + self.times(r, u_n), self.zero)
            h = jnp.where(valid, n + self.times(z, h - n), 0.0)
            return h, h

        last, states = jax.lax.scan(step, start, (projections, is_valid), reverse=path.endswith("_backward"))
        return states, last

    def look_ahead(self, x: Float32[Array, "frame batch hidden"]) -> Float32[Array, "output_frame batch hidden"]:
        """Row convolution of all frames but the last `lookahead`; summed from the frame itself on."""
        kernel, count = self.arrays[CONSTANTS]["lookahead_kernel"], x.shape[0] - self.settings.lookahead
        seen = self.times(x[:count], kernel[0])
        for row in range(1, self.settings.lookahead + 1):
            seen = seen + self.times(x[row : row + count], kernel[row])
        return seen

    def classify(self, x: Float32[Array, "output_frame batch hidden"]) -> Float32[Array, "batch output_frame class"]:
        """The linear layer."""
        return jnp.swapaxes(self.product("output_kernel", x), 0, 1)


def logits(
    network: Network,
    arrays: Arrays,
    features: Float32[Array, "batch frame bin"],
    num_frames: Int32[Array, " batch"],
) -> tuple[Float32[Array, "batch output_frame class"], Int32[Array, " batch"]]:
    """Class scores of whole utterances, and how many of their output frames are the utterance's.

    Args:
        network: static under jit. arrays: of an export, as `quantized` describes them.
        features: normalised; what lies behind `num_frames` has no effect, NaN included.
    """
    run, settings = Pass(network, arrays), network.settings
    is_valid = _is_valid(num_frames, features.shape[1])
    x = run.enter(jnp.where(is_valid, features, 0.0))
    lengths = num_frames
    for number, window in enumerate(time_windows(settings.front_end)):
        lengths = -(-lengths // window.stride)
        count = -(-x.shape[1] // window.stride)
        around = [(0, 0), (window.past, window.width + window.stride)] + [(0, 0)] * (x.ndim - 2)
        padded = jnp.pad(x, around)[:, : window.stride * (count - 1) + window.width]
        x = run.front_end_layer(number, padded, _is_valid(lengths, count))
    output_frames = front_end_frames(settings.front_end, num_frames)
    h = run.leave(x)
    valid = jnp.swapaxes(_is_valid(output_frames, h.shape[0]), 0, 1)
    for layer in range(settings.layers):
        h = run.gru_layer(layer, h, valid)
    if settings.lookahead:
        h = run.look_ahead(jnp.pad(h, ((0, settings.lookahead), (0, 0), (0, 0))))
    return run.classify(h), output_frames


def encode(x: Float32[Array, "*shape"], own: Mapping[str, Array], format: DeployFormat) -> Shaped[Array, "*shape"]:
    """A product's input in its format: codes as `codes.Coding` makes them, or numbers of the dtype."""
    if format == "float32":
        return x
    if not has_scale(format):
        return x.astype(jnp.dtype(format))
    ratio = x * own["inverse_scale"]
    if format in INTEGERS:
        largest = LARGEST_CODE["int8"]
        return jnp.clip(
            jax.lax.round(ratio, jax.lax.RoundingMethod.TO_NEAREST_EVEN) + own["zero_point"], -largest, largest
        ).astype(jnp.int8)
    largest = LARGEST_CODE[format]
    return jnp.clip(ratio, -largest, largest).astype(jnp.dtype(format))


def multiplied(
    codes: Shaped[Array, "*rows input"],
    weight: Shaped[Array, "input channel"],
    format: DeployFormat,
    multiply: Multiply = "integer",
) -> Shaped[Array, "*rows channel"]:
    """Sums of products: int32 of integers, float32 otherwise."""
    if format in INTEGERS and multiply == "integer":
        return _integer_dot(codes, weight)
    if format not in INTEGERS:
        return _float_dot(_operand(codes), _operand(weight))
    pieces = range(0, weight.shape[0], EXACT_INPUTS)
    sums = [
        _float_dot(_operand(codes[..., at : at + EXACT_INPUTS]), _operand(weight[at : at + EXACT_INPUTS]))
        for at in pieces
    ]
    return sum((part.astype(jnp.int32) for part in sums[1:]), start=sums[0].astype(jnp.int32))


def _operand(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """A number of 8 bits as float32, which holds it exactly; wider ones as they are."""
    return x.astype(jnp.float32) if x.dtype.itemsize == 1 else x


def _integer_dot(
    codes: Shaped[Array, "*rows input"], weight: Shaped[Array, "input channel"]
) -> Int32[Array, "*rows channel"]:
    """Fewer than `FEWEST_ROWS` rows are filled up with rows of zeros, which are dropped again.

    Not where an axis before the last two is longer than one, or a symbol: such products have frames beside the batch, and rows enough.
    """
    *outer, count, _ = codes.shape
    added = 0 if any(size != 1 for size in outer) else jax.core.max_dim(count, FEWEST_ROWS) - count
    if isinstance(added, int) and not added:
        return jnp.matmul(codes, weight, preferred_element_type=jnp.int32)
    codes = jnp.pad(codes, [(0, 0)] * len(outer) + [(0, added), (0, 0)])
    return jnp.matmul(codes, weight, preferred_element_type=jnp.int32)[..., :count, :]


_float_dot: Any = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _convolve(
    codes: Shaped[Array, "batch time bin channel"],
    weight: Shaped[Array, "width height channel output_channel"],
    strides: tuple[int, int],
    format: DeployFormat,
    multiply: Multiply,
) -> Shaped[Array, "batch output_frame output_bin output_channel"]:
    """As `multiplied`; the twin's pieces are channels, so many that a piece has no more than the inputs whose sum is exact."""
    if format in INTEGERS and multiply == "integer":
        return _float_convolution(codes, weight, strides, jnp.int32)
    a, b = _operand(codes), _operand(weight)
    if format not in INTEGERS:
        return _float_convolution(a, b, strides, jnp.float32)
    together = EXACT_INPUTS // (weight.shape[0] * weight.shape[1])
    pieces = [slice(at, at + together) for at in range(0, weight.shape[2], together)]
    sums = [_float_convolution(a[..., piece], b[:, :, piece], strides, jnp.float32) for piece in pieces]
    return sum((part.astype(jnp.int32) for part in sums[1:]), start=sums[0].astype(jnp.int32))


def _float_convolution(a: Array, b: Array, strides: tuple[int, int], dtype: Any) -> Array:
    return jax.lax.conv_general_dilated(
        a,
        b,
        strides,
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )


def _is_valid(num_frames: Int32[Array, " batch"], frames: Any) -> Bool[Array, "batch frame 1"]:
    # `frames` is an int, or in an exported program a symbol.
    return (jnp.arange(frames, dtype=jnp.int32)[None, :] < num_frames[:, None])[:, :, None]
