"""Directions and schedules against their formulas written out."""

import jax.numpy as jnp
import numpy as np

from dsrun.training.optimizer import anneal_schedule, constant_schedule, sgd_direction, warmup_cosine_schedule


def test_nesterov_momentum_follows_the_recursion():
    direction = sgd_direction(momentum=0.9, nesterov=True, weight_decay=0.1)
    w = {"w": jnp.float32(2.0)}
    state, velocity = direction.init(w), 0.0
    for gradient in (1.0, -0.5, 3.0):
        got, state = direction.update({"w": jnp.float32(gradient)}, state, w)
        decayed = gradient + 0.1 * 2.0
        velocity = decayed + 0.9 * velocity
        np.testing.assert_allclose(got["w"], decayed + 0.9 * velocity, rtol=1e-6)


def test_anneal_divides_by_the_factor_after_each_epoch():
    rate = anneal_schedule(3e-4, factor=1.2, steps_per_epoch=10)
    for step, power in ((0, 0), (9, 0), (10, 1), (29, 2)):
        np.testing.assert_allclose(rate(jnp.int32(step)), 3e-4 / 1.2**power, rtol=1e-6)


def test_cosine_rises_to_the_rate_and_ends_at_its_fraction():
    rate = warmup_cosine_schedule(1e-3, warmup_steps=10, total_steps=110, final_fraction=0.01)
    got = [float(rate(jnp.int32(step))) for step in (0, 9, 10, 60, 110)]
    np.testing.assert_allclose(got, [1e-4, 1e-3, 1e-3, 1e-3 * (0.01 + 0.99 * 0.5), 1e-5], rtol=1e-5)


def test_a_constant_rate_is_constant():
    assert constant_schedule(0.5)(jnp.int32(7)) == 0.5
