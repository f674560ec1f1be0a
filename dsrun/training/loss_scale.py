"""Loss scale: the loss is multiplied before the backward pass, so that small gradients do not underflow a narrow format.

Scales are powers of two, so that scaling and unscaling are exact but at the ends of the range. A dynamic scale is doubled after
`growth_interval` finite steps in a row and halved after each step that is not finite, which is skipped; it is bounded both
ways, because a scale that ran to infinity would never come back. Gradients are unscaled before anything looks at their size:
clipping, weight decay, the moments, the test for finiteness (Micikevicius et al. 2018).
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32


@dataclass(frozen=True)
class LossScale:
    """A fixed scale (1 for none), or a dynamic one that starts at `initial`; all three powers of two."""

    kind: Literal["fixed", "dynamic"] = "fixed"
    initial: float = 1.0
    growth_interval: int = 2000
    minimum: float = 1.0
    maximum: float = 2.0**24

    def after(
        self, scale: Float32[Array, ""], finite_steps: Int32[Array, ""], is_finite: Bool[Array, ""]
    ) -> tuple[Float32[Array, ""], Int32[Array, ""]]:
        """Scale, and finite steps counted towards the next growth, after a step that was finite or not."""
        if self.kind == "fixed":
            return scale, finite_steps
        counted = jnp.where(is_finite, finite_steps + 1, 0)
        grows = counted >= self.growth_interval
        larger = jnp.minimum(scale * 2.0, jnp.float32(self.maximum))
        smaller = jnp.maximum(scale * 0.5, jnp.float32(self.minimum))
        changed = jnp.where(is_finite, jnp.where(grows, larger, scale), smaller)
        return changed, jnp.where(grows, 0, counted)

    def can_fall(self, scale: Float32[Array, ""]) -> Bool[Array, ""]:
        """A step that is not finite says that the scale was too large, and no more than that."""
        return scale > (self.minimum if self.kind == "dynamic" else jnp.inf)


NO_LOSS_SCALE = LossScale()
