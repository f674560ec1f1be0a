"""Normalisation of what enters a nonlinearity, computed from real frames only.

Sequence-wise batch normalisation (Deep Speech 2, Amodei et al. 2015): mean and variance of each feature over all
valid frames of all utterances of the shard, batch and time together, applied to the input projection of a layer and
never to the recurrent product. Padded frames are in neither the sums nor the count. Statistics are of the shard, not
of the global batch, so that a shard's gradient does not depend on the other shards.

Within the shard, where the network depends on it, the variance is two-pass (mean first, then squared distances): no
cancellation. For the running statistics a shard returns plain sums (count, sum, sum of squares), so that shards
combine by addition alone, in the fixed tree; Chan's pairwise formula multiplies, and a multiplication beside an
addition may be contracted in one program and not in another. The price is the combination's variance as E[x^2] -
E[x]^2: its relative error is about (1 + (mean / deviation)^2) times that of a float32 sum: 1e-6 for a mean of the
order of the deviation, which is what projections have; useless for a mean a thousand deviations from zero. It enters
evaluation only.

Layer normalisation (Ba et al. 2016): mean and variance over the last axis, so the features of one frame (in the
convolutions, the channels of one cell); no running statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.random_bits import Key
from dsrun.arithmetic.row_convolution import row_convolve

NormalizationKind = Literal["batch", "layer", "none"]

EPSILON = 1e-5  # added to the variance: torch's default

Statistics = dict[str, dict[str, Array]]


class Moments(NamedTuple):
    """Sums over the valid frames of one shard: their number, and for each feature the sum and the sum of squares.

    Those of several shards together are their elementwise sum.
    """

    count: Float32[Array, ""]  # type: ignore[assignment]  # hides tuple.count
    total: Float32[Array, " feature"]
    squares: Float32[Array, " feature"]


@dataclass
class ForwardPass:
    """What one pass through the network carries along.

    `statistics` are the running ones to normalise with, by the normalisation's name. None is training: each batch
    normalisation uses the shard's own and leaves its sums in `moments`. `key` is for roundings that draw. `taps`, where it is
    a dict, collects what is stored, before it is rounded, by path; `probes` are zeros added behind the rounding, whose gradients are
    the errors between layers before they are rounded.
    """

    policy: Policy
    statistics: Statistics | None
    key: Key | None = None
    moments: dict[str, Moments] = field(default_factory=dict)
    taps: dict[str, Array] | None = None
    probes: dict[str, Array] | None = None

    @property
    def is_watched(self) -> bool:
        """Somebody collects what passes."""
        return self.taps is not None or self.probes is not None

    def store(self, x: Float32[Array, "*shape"], path: str) -> Float[Array, "*shape"]:
        """`Policy.store` of what a layer hands on."""
        self.tap(x, path)
        return self.probed(self.policy.store(x, path, self.key), path)

    def receive(self, x: Float32[Array, "*shape"], path: str) -> Float32[Array, "*shape"]:
        """`Policy.receive` of what leaves the network."""
        self.tap(x, path)
        return self.probed(self.policy.receive(x, path, self.key), path)

    def tap(self, x: Float[Array, "*shape"], path: str) -> None:
        """Leave `x` in `taps`, where they are asked for."""
        if self.taps is not None:
            self.taps[path] = x

    def probed(self, x: Float[Array, "*shape"], path: str) -> Float[Array, "*shape"]:
        """`x` itself, with its probe added where there are probes."""
        return x if self.probes is None else x + self.probes[path].astype(x.dtype)

    def load(self, x: Float[Array, "*shape"]) -> Float32[Array, "*shape"]:
        """`Policy.load`."""
        return self.policy.load(x)

    def dot(
        self, x: Float[Array, "... inner"], weight: Float[Array, "inner outer"], path: str
    ) -> Float32[Array, "... outer"]:
        """`Policy.dot` with the weight at `path`."""
        return self.policy.dot(x, weight, path, self.key)

    def dots(
        self, x: Float[Array, "... inner"], weights: Sequence[Float[Array, "inner _"]], paths: Sequence[str]
    ) -> list[Float32[Array, "... _"]]:
        """`Policy.dots` with the weights at `paths`."""
        return self.policy.dots(x, weights, paths, self.key)

    def row_convolve(
        self, x: Float[Array, "frame batch channel"], kernel: Float[Array, "row channel"], path: str
    ) -> Float32[Array, "output_frame batch channel"]:
        """`row_convolution.row_convolve` with the kernel at `path`."""
        return row_convolve(self.policy, x, kernel, path, self.key)


class Normalization(nnx.Module):
    """Normalisation of the kind named, then a learned scale and shift; kind "none" only shifts, which is a bias."""

    def __init__(self, kind: NormalizationKind, features: int, name: str):
        self.kind, self.name = kind, name
        if kind != "none":
            self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((features,), jnp.float32))

    def __call__(
        self, x: Float32[Array, "*frames feature"], is_valid: Bool[Array, "*broadcastable 1"], forward: ForwardPass
    ) -> Float32[Array, "*frames feature"]:
        """Padded frames come out as anything; the caller clears them."""
        if self.kind == "batch":
            if forward.statistics is None:
                x, forward.moments[self.name] = batch_normalize(x, is_valid)
            else:
                x = running_normalize(x, forward.statistics[self.name])
        elif self.kind == "layer":
            x = layer_normalize(x)
        if self.kind != "none":
            x = x * _like(forward.load(self.scale[...]), x)
        return x + _like(forward.load(self.shift[...]), x)


def batch_normalize(
    x: Float32[Array, "*frames feature"], is_valid: Bool[Array, "*broadcastable 1"]
) -> tuple[Float32[Array, "*frames feature"], Moments]:
    """`x` with mean 0 and variance 1 for each feature over the valid frames, and the sums for the running statistics.

    Zero in padded frames. A shard without a single valid frame gives zeros and sums of zero.
    """
    axes = tuple(range(x.ndim - 1))
    cells_an_entry = x[..., 0].size // is_valid.size  # a convolution's mask has one entry for all bins of a frame
    count = jnp.sum(is_valid.astype(jnp.float32)) * jnp.float32(cells_an_entry)
    divisor = jnp.maximum(count, 1.0)
    total = jnp.sum(jnp.where(is_valid, x, 0.0), axis=axes)
    mean = total / divisor
    centred = jnp.where(is_valid, x - _like(mean, x), 0.0)
    distances = jnp.sum(jnp.square(centred), axis=axes)
    moments = Moments(count, total, distances + total * mean)  # sum of x^2, without another pass over x
    scale = jax.lax.rsqrt(distances / divisor + EPSILON)
    return centred * _like(scale, x), jax.lax.stop_gradient(moments)


def running_normalize(
    x: Float32[Array, "*frames feature"], statistics: dict[str, Float32[Array, " feature"]]
) -> Float32[Array, "*frames feature"]:
    """`x` normalised with running mean and variance, as evaluation does."""
    scale = jax.lax.rsqrt(statistics["variance"] + EPSILON)
    return (x - _like(statistics["mean"], x)) * _like(scale, x)


def layer_normalize(x: Float32[Array, "*frames feature"]) -> Float32[Array, "*frames feature"]:
    """Each frame with mean 0 and variance 1 over its features."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPSILON)


def update_running(statistics: Statistics, moments: dict[str, Moments], *, momentum: float) -> Statistics:
    """Running statistics moved by a share 1 - momentum towards those of one global batch.

    Args:
        statistics: running mean and variance by the normalisation's name.
        moments: sums over all shards of the batch; a normalisation that saw no frame stays as it was.
        momentum: what is kept of the old, 0 to 1 (torch's `momentum` is 1 minus this).

    Arithmetic: the batch's variance is that of its own frames (divided by their number, not one fewer).
    """
    return {name: _moved(statistics[name], moments[name], momentum) for name in statistics}


def _moved(running: dict[str, Array], moments: Moments, momentum: float) -> dict[str, Array]:
    count = jnp.maximum(moments.count, 1.0)
    mean = moments.total / count
    variance = jnp.maximum(moments.squares / count - jnp.square(mean), 0.0)
    share = jnp.where(moments.count > 0.0, jnp.float32(1.0 - momentum), jnp.float32(0.0))
    return {
        "mean": running["mean"] + share * (mean - running["mean"]),
        "variance": running["variance"] + share * (variance - running["variance"]),
    }


def _like(feature: Float32[Array, " feature"], x: Float32[Array, "*frames feature"]) -> Float32[Array, "*ones feature"]:
    return feature.reshape((1,) * (x.ndim - 1) + feature.shape)
