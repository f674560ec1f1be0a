"""The loss with the GPU's kernel in place of the scans, interpreted on the CPU. The kernel alone: tests/kernels/test_ctc.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.ctc import ctc_loss

NUM_FRAMES = jnp.array([9, 5, 6, 1], jnp.int32)
LABELS = jnp.array([[1, 2, 3, 4], [2, 2, 1, 1], [1, 1, 1, 1], [3, 1, 1, 1]], jnp.int32)
NUM_LABELS = jnp.array([4, 2, 4, 0], jnp.int32)  # the third has no alignment: 7 frames needed


def loss_and_gradient(kernel):
    logits = np.random.default_rng(0).standard_normal((4, 10, 5)).astype(np.float32) * 3
    logits[1, 5:] = np.nan  # padding

    @jax.jit
    def both(logits):
        loss, pull = jax.vjp(partial(ctc_loss, kernel=kernel), logits, NUM_FRAMES, LABELS, NUM_LABELS)
        return loss, pull(jnp.ones_like(loss))[0]

    return jax.device_get(both(logits))


def test_loss_is_the_scans_to_the_bit_and_its_gradient_within_the_rounding_of_a_sum_of_blanks():
    (loss, gradient), (expected_loss, expected) = loss_and_gradient("interpreted"), loss_and_gradient("scan")
    np.testing.assert_array_equal(loss, expected_loss)
    assert np.isinf(loss[2])
    assert np.all(gradient[2] == 0.0)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=5e-7)


@pytest.mark.slow
def test_the_loss_alone_is_the_scans_to_the_bit():
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((4, 10, 5)), jnp.float32)
    losses = [ctc_loss(logits, NUM_FRAMES, LABELS, NUM_LABELS, kernel=kernel) for kernel in ("interpreted", "scan")]
    np.testing.assert_array_equal(losses[0], losses[1])
