"""Front ends: from spectrogram frames to fewer, richer output frames.

* `Conv2dFrontEnd`: Deep Speech 2's two 2-D convolutions over frequency and time (Amodei et al. 2015): filters 41 x 11
  and 21 x 11 (frequency x time), strides 2 x 2 and 2 x 1, 32 channels, so 161 bins become 41 x 32 = 1312 inputs and
  the time stride is 2.
* `FrameStackFrontEnd`: a small one for CPU runs: each output frame is a linear map of `stack` neighbouring frames,
  every `stride`-th; one product instead of two convolutions.

Both normalise what they computed (over frequency too, a channel at a time, in the convolutions) and clip their
rectifier (at 20 in Deep Speech 2). Both see zeros outside an utterance, which is the mean of normalised features:
input behind `num_frames` is replaced before any arithmetic and each layer's output is cleared again, so that an
utterance means the same in any batch.

An utterance of n frames has ceil(n / time stride) output frames, an empty one none.

A front end is `enter`, its layers one after another, `leave`. A layer is given its input with the frames around it that its window
reaches (`time_windows`): zeros about a whole utterance, and in a stream (`streaming`) what came before.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int32

from dsrun.model.norm import ForwardPass, Normalization, NormalizationKind

Frames = TypeVar("Frames")


@dataclass(frozen=True)
class Conv2dSettings:
    """Deep Speech 2's convolutions with this many channels."""

    channels: int = 32


@dataclass(frozen=True)
class FrameStackSettings:
    """`stack` neighbouring frames, centred if odd, every `stride`-th, mapped to `hidden` features."""

    stack: int
    stride: int
    hidden: int


FrontEndSettings = Conv2dSettings | FrameStackSettings


class TimeWindow(NamedTuple):
    """Frames that a layer's output t sees: t * stride - past, and the width - 1 that follow."""

    width: int
    stride: int
    past: int

    @property
    def future(self) -> int:
        """Frames seen behind t * stride."""
        return self.width - 1 - self.past


# (frequency, time) of Deep Speech 2's two layers. Kernels are odd, so half of one on each side keeps ceil(n / stride).
CONV_KERNELS = ((41, 11), (21, 11))
CONV_STRIDES = ((2, 2), (2, 1))


def time_stride(settings: FrontEndSettings) -> int:
    """Frames an output frame."""
    return settings.stride if isinstance(settings, FrameStackSettings) else CONV_STRIDES[0][1] * CONV_STRIDES[1][1]


def time_windows(settings: FrontEndSettings) -> tuple[TimeWindow, ...]:
    """Of each layer."""
    if isinstance(settings, FrameStackSettings):
        return (TimeWindow(settings.stack, settings.stride, settings.stack // 2),)
    return tuple(
        TimeWindow(wide, stride, wide // 2) for (_, wide), (_, stride) in zip(CONV_KERNELS, CONV_STRIDES, strict=True)
    )


def front_end_frames(settings: FrontEndSettings, num_frames: Frames) -> Frames:
    """Output frames for so many frames: the quotient by the time stride, rounded up. Takes ints and integer arrays."""
    return -(-num_frames // time_stride(settings))  # type: ignore[operator]


def centre_frame(settings: FrontEndSettings) -> float:
    """The frame in the middle of what output frame 0 sees; output frame t sees t time strides later.

    A half where an even number of frames is stacked: the middle lies between two frames.
    """
    if isinstance(settings, FrameStackSettings):
        return (settings.stack - 1) / 2 - settings.stack // 2
    return 0.0  # both kernels are odd, centred on the frame that the stride picks


class FrameStackFrontEnd(nnx.Module):
    """Linear map of a window of frames, normalisation, clipped rectifier."""

    def __init__(self, settings: FrameStackSettings, num_bins: int, normalization: NormalizationKind, relu_clip: float):
        self.settings, self.relu_clip = settings, relu_clip
        self.num_outputs = settings.hidden
        self.kernel = nnx.Param(jnp.zeros((settings.stack * num_bins, settings.hidden), jnp.float32))
        self.normalization = Normalization(normalization, settings.hidden, "front_end.normalization")

    def __call__(
        self,
        features: Float[Array, "batch frame bin"],
        num_frames: Int32[Array, " batch"],
        forward: ForwardPass,
    ) -> Float[Array, "batch output_frame input"]:
        """Output frame t sees frames t * stride - stack // 2 and the stack - 1 that follow; zeros in padded frames."""
        settings, frames = self.settings, features.shape[1]
        present = jnp.where(_is_valid(num_frames, frames), features, jnp.zeros((), features.dtype))
        output_frames = front_end_frames(settings, frames)
        padded = jnp.pad(present, ((0, 0), (settings.stack // 2, settings.stack + settings.stride), (0, 0)))
        is_valid = _is_valid(front_end_frames(settings, num_frames), output_frames)
        return self.layer(0, padded, is_valid, forward)

    def enter(self, features: Float[Array, "batch frame bin"]) -> Float[Array, "batch frame bin"]:
        """What the first layer is given."""
        return features

    def layer(
        self,
        number: int,
        x: Float[Array, "batch frame bin"],
        is_valid: Bool[Array, "batch output_frame 1"],
        forward: ForwardPass,
    ) -> Float[Array, "batch output_frame input"]:
        """As many output frames as `is_valid` has, the first seeing the first `stack` frames of `x`."""
        settings = self.settings
        stop = settings.stride * (is_valid.shape[1] - 1) + 1
        window = [x[:, i : i + stop : settings.stride] for i in range(settings.stack)]
        y = forward.dot(jnp.concatenate(window, axis=-1), self.kernel[...], "front_end.kernel")
        normalized = self.normalization(y, is_valid, forward)
        return _activated(normalized, is_valid, self.relu_clip, forward, "front_end.output")

    def leave(self, y: Float[Array, "batch output_frame input"]) -> Float[Array, "batch output_frame input"]:
        """What the GRU layers are given."""
        return y


class Conv2dFrontEnd(nnx.Module):
    """Two convolutions, each with normalisation of its channels and a clipped rectifier; bins and channels flattened."""

    def __init__(self, settings: Conv2dSettings, num_bins: int, normalization: NormalizationKind, relu_clip: float):
        self.settings, self.relu_clip = settings, relu_clip
        channels_in, bins = 1, num_bins
        for layer, ((high, wide), (step, _)) in enumerate(zip(CONV_KERNELS, CONV_STRIDES, strict=True)):
            kernel = nnx.Param(jnp.zeros((wide, high, channels_in, settings.channels), jnp.float32))
            norm = Normalization(normalization, settings.channels, f"front_end.normalization_{layer}")
            setattr(self, f"kernel_{layer}", kernel)
            setattr(self, f"normalization_{layer}", norm)
            channels_in, bins = settings.channels, -(-bins // step)
        self.num_outputs = bins * settings.channels

    def __call__(
        self,
        features: Float[Array, "batch frame bin"],
        num_frames: Int32[Array, " batch"],
        forward: ForwardPass,
    ) -> Float[Array, "batch output_frame input"]:
        """Arrays are [batch, time, frequency, channel]; zeros in padded frames before and after each layer."""
        is_valid = _is_valid(num_frames, features.shape[1])[..., None]
        entering = self.enter(features)
        y = jnp.where(is_valid, entering, jnp.zeros((), features.dtype))
        for number, window in enumerate(time_windows(self.settings)):
            num_frames = -(-num_frames // window.stride)
            is_valid = _is_valid(num_frames, -(-y.shape[1] // window.stride))
            y = self.layer(number, y, is_valid, forward, around=(window.past, window.future))
        return self.leave(y)

    def enter(self, features: Float[Array, "batch frame bin"]) -> Float[Array, "batch frame bin 1"]:
        """What the first layer is given: one channel."""
        return features[..., None]

    def layer(
        self,
        number: int,
        x: Float[Array, "batch frame bin channel"],
        is_valid: Bool[Array, "batch output_frame 1"],
        forward: ForwardPass,
        *,
        around: tuple[int, int] = (0, 0),
    ) -> Float[Array, "batch output_frame output_bin output_channel"]:
        """One convolution over `x` with so many frames of zeros around it."""
        (high, _), (step, stride) = CONV_KERNELS[number], CONV_STRIDES[number]
        kernel, path = getattr(self, f"kernel_{number}")[...], f"front_end.kernel_{number}"
        padding = [around, (high // 2, high // 2)]
        y = forward.policy.convolve(x, kernel, strides=(stride, step), padding=padding, path=path, key=forward.key)
        cells_are_valid = is_valid[..., None]
        normalized = getattr(self, f"normalization_{number}")(y, cells_are_valid, forward)
        return _activated(normalized, cells_are_valid, self.relu_clip, forward, f"front_end.output_{number}")

    def leave(
        self, y: Float[Array, "batch output_frame output_bin output_channel"]
    ) -> Float[Array, "batch output_frame input"]:
        """What the GRU layers are given: bins and channels flattened."""
        return y.reshape(*y.shape[:2], -1)


def make_front_end(
    settings: FrontEndSettings, num_bins: int, normalization: NormalizationKind, relu_clip: float
) -> FrameStackFrontEnd | Conv2dFrontEnd:
    """The front end that the settings name."""
    if isinstance(settings, FrameStackSettings):
        return FrameStackFrontEnd(settings, num_bins, normalization, relu_clip)
    return Conv2dFrontEnd(settings, num_bins, normalization, relu_clip)


def _activated(
    y: Float32[Array, "*shape"], is_valid: Bool[Array, "..."], clip: float, forward: ForwardPass, path: str
) -> Float[Array, "*shape"]:
    """Clipped rectifier of valid frames, zero in padded ones, on the storage grid."""
    return forward.store(jnp.where(is_valid, jnp.clip(y, 0.0, clip), 0.0), path)


def _is_valid(num_frames: Int32[Array, " batch"], frames: int) -> Bool[Array, "batch frame 1"]:
    frame = jnp.arange(frames, dtype=jnp.int32)[None, :]
    return (frame < num_frames[:, None])[:, :, None]
