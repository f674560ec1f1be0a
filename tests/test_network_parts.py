"""The pieces that `dsrun bench step` times are the program that training runs."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT16, FLOAT32_POLICY, Policy
from dsrun.arithmetic.policy import Rounding
from dsrun.model import Conv2dSettings, FrameStackSettings, ModelSettings
from dsrun.network_parts import PARTS, Clock, NetworkParts
from dsrun.training.optimizer import Optimizer, constant_schedule, sgd_direction
from dsrun.training.step import TrainStep, split_batch


@dataclass(frozen=True)
class HostBatch:
    features: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    num_labels: np.ndarray


def make_batch():
    random = np.random.default_rng(1)
    features = random.standard_normal((6, 24, 7), np.float32)
    labels = random.integers(1, 5, (6, 4)).astype(np.int32)
    return HostBatch(
        features, np.array([24, 20, 0, 13, 24, 18], np.int32), labels, np.array([4, 2, 0, 1, 4, 3], np.int32)
    )


def make_step(front_end, policy, devices, lookahead=0):
    settings = ModelSettings(
        num_bins=7,
        num_classes=5,
        front_end=front_end,
        hidden=8,
        layers=1,
        direction="forward" if lookahead else "bidirectional",
        lookahead=lookahead,
        normalization="batch",
        dropout=0.0,
        relu_clip=20.0,
    )
    optimizer = Optimizer(sgd_direction(momentum=0.9, nesterov=True, weight_decay=0.0), constant_schedule(0.05))
    return TrainStep(
        settings,
        policy,
        optimizer,
        clip_norm=None,
        shards=3,
        seed=3,
        statistics_momentum=0.9,
        devices=jax.devices()[:devices],
    )


STOCHASTIC = Policy(storage=Rounding(FLOAT16, "stochastic"))


STACK, CONVOLUTIONS = FrameStackSettings(stack=3, stride=2, hidden=8), Conv2dSettings(channels=2)


@pytest.mark.parametrize(
    ("front_end", "policy", "devices", "lookahead"),
    [
        pytest.param(STACK, FLOAT32_POLICY, 2, 0, id="two devices", marks=pytest.mark.slow),
        pytest.param(CONVOLUTIONS, FLOAT32_POLICY, 1, 0, id="convolutions", marks=pytest.mark.slow),
        pytest.param(STACK, STOCHASTIC, 1, 0, id="random storage", marks=pytest.mark.slow),
        pytest.param(STACK, FLOAT32_POLICY, 1, 3, id="lookahead"),
    ],
)
def test_the_pieces_have_the_gradient_of_the_whole_program(front_end, policy, devices, lookahead):
    step = make_step(front_end, policy, devices, lookahead)
    state, pieces = step.initial_state(), split_batch(make_batch(), step.shards)
    seconds = dict.fromkeys(PARTS, 0.0)
    found = NetworkParts(step).gradients(state, pieces, Clock(seconds))
    wanted = [step.shard_gradient(state, number, piece).gradient for number, piece in enumerate(pieces)]
    assert len(found) == len(wanted) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        # Other programs fuse, and so sum, otherwise: some ulps, where a wrong key or a lost layer moves every digit.
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.max(np.abs(b))) + 1e-6)
    assert all(value > 0.0 for value in seconds.values())
