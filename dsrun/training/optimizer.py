"""Optimizers and learning-rate schedules, by optax; applying the update is ours.

optax turns gradients into directions (momentum, Adam's moments). Scaling by the learning rate and adding to the master
weights stays here, because that addition is what experiments on number formats are about: the terms are lopsided, and a
small update to a large weight can vanish.

Nesterov's momentum as in Sutskever et al. 2013 and optax's `trace(nesterov=True)`. Deep Speech 2 (Amodei et al. 2015): momentum
0.99, gradient norm clipped at 400, learning rate divided by 1.2 after each epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int32

Schedule = Callable[[Int32[Array, ""]], Float32[Array, ""]]


@dataclass(frozen=True)
class Optimizer:
    """`direction` maps gradients to a descent direction; `learning_rate` maps the step number to its factor."""

    direction: optax.GradientTransformation
    learning_rate: Schedule


def sgd_direction(*, momentum: float, nesterov: bool, weight_decay: float) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient (L2)."""
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    trace = optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
    return optax.chain(decay, trace)


def adamw_direction(*, beta1: float, beta2: float, epsilon: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    return optax.chain(optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon), decay)


def constant_schedule(learning_rate: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: jnp.float32(learning_rate)


def anneal_schedule(learning_rate: float, *, factor: float, steps_per_epoch: int) -> Schedule:
    """Divided by `factor` after each epoch, as Deep Speech 2 does."""

    def rate(step: Int32[Array, ""]) -> Float32[Array, ""]:
        epoch = (step // jnp.int32(steps_per_epoch)).astype(jnp.float32)
        return jnp.float32(learning_rate) * jnp.float32(1.0 / factor) ** epoch

    return rate


def warmup_cosine_schedule(
    learning_rate: float, *, warmup_steps: int, total_steps: int, final_fraction: float
) -> Schedule:
    """Linear from 0 to `learning_rate` in `warmup_steps`, then half a cosine down to `final_fraction` of it."""

    def rate(step: Int32[Array, ""]) -> Float32[Array, ""]:
        position = step.astype(jnp.float32)
        rising = (position + 1.0) / jnp.float32(max(warmup_steps, 1))
        progress = jnp.clip((position - warmup_steps) / jnp.float32(max(total_steps - warmup_steps, 1)), 0.0, 1.0)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        falling = final_fraction + (1.0 - final_fraction) * cosine
        return jnp.float32(learning_rate) * jnp.minimum(rising, falling)

    return rate
