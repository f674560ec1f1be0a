"""Policy: which format applies where.

The network is written once, in calls of this page: `store` wherever a layer hands a value on, `dot` and `convolve` for
every product. With float32 everywhere they add no operation at all, so the float32 network pays nothing for being able to
be another.

* `storage`: weights as the network reads them, activations as layers hand them on, the recurrent state. Rounded forward;
  the gradient passes straight through (the derivative of a staircase is zero almost everywhere and would stop training).
* `compute`: the operands of a matrix product, in the forward product and in the two products of its derivative: hardware
  that multiplies float16 multiplies it in the backward pass too, so the incoming gradient is rounded there as well.
* partial sums are float32 (role `accumulate`), asked for by name: JAX's default for a float32 product on recent GPUs is
  TensorFloat-32.

The carrier is float32: values on a smaller format's grid, held in float32 arrays. A product of two float16 or bfloat16
values has at most 22 significand bits and is exact in float32, so emulated products differ from tensor-core products only
in the order of summation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from dsrun.arithmetic.formats import FLOAT32, Format
from dsrun.arithmetic.rounding import round_to


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def round_straight_through(x: Float32[Array, "*shape"], format: Format) -> Float32[Array, "*shape"]:
    """`round_to` whose derivative is taken as 1."""
    return round_to(x, format)


round_straight_through.defvjp(
    lambda x, format: (round_to(x, format), None),
    lambda format, _, gradient: (gradient,),
)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def round_gradient(x: Float32[Array, "*shape"], format: Format) -> Float32[Array, "*shape"]:
    """`x` unchanged; what flows back through it is rounded to `format`."""
    return x


round_gradient.defvjp(
    lambda x, format: (x, None),
    lambda format, _, gradient: (round_to(gradient, format),),
)


@dataclass(frozen=True)
class Policy:
    """Formats by role. Hashable, so that it can be a static argument of a compiled function."""

    storage: Format = FLOAT32
    compute: Format = FLOAT32

    def store(self, x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
        """`x` on the storage grid, gradient straight through."""
        return x if self.storage == FLOAT32 else round_straight_through(x, self.storage)

    def operand(self, x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
        """`x` on the compute grid, gradient straight through."""
        return x if self.compute == FLOAT32 else round_straight_through(x, self.compute)

    def round_storage(self, x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
        """`x` on the storage grid, without a rule for derivatives: for use inside a hand-written one."""
        return round_to(x, self.storage)

    def round_compute(self, x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
        """`x` on the compute grid, without a rule for derivatives: for use inside a hand-written one."""
        return round_to(x, self.compute)

    def dot(self, a: Float32[Array, "... inner"], b: Float32[Array, "inner outer"]) -> Float32[Array, "... outer"]:
        """`a @ b` with operands on the compute grid and float32 partial sums."""
        product = jnp.matmul(self.operand(a), self.operand(b), precision=jax.lax.Precision.HIGHEST)
        return self._round_incoming(product)

    def convolve(
        self,
        x: Float32[Array, "batch height width channel_in"],
        kernel: Float32[Array, "kernel_height kernel_width channel_in channel_out"],
        *,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
    ) -> Float32[Array, "batch height_out width_out channel_out"]:
        """2-D correlation, channels last, with operands on the compute grid and float32 partial sums."""
        y: Any = jax.lax.conv_general_dilated(
            self.operand(x),
            self.operand(kernel),
            window_strides=tuple(strides),
            padding=tuple(padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return self._round_incoming(y)

    def _round_incoming(self, product: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
        return product if self.compute == FLOAT32 else round_gradient(product, self.compute)


FLOAT32_POLICY = Policy()
