"""Every setting of the arithmetic is obeyed: changed alone, it changes the state after three steps of training.

From YAML to bits, through the config, `build.py` and a real training step of a small network. A setting that is read and
then ignored is the fault that this room's neighbours have most of all.
"""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "training"))
from test_step import SETTINGS, bits, make_batch

from dsrun import build
from dsrun.config import load_config
from dsrun.training.optimizer import Optimizer, constant_schedule, sgd_direction
from dsrun.training.step import TrainStep, split_batch

CONFIG = Path(__file__).parent.parent / "configs" / "prompts_float32.yaml"
FLOAT16 = "{format: float16, rounding: ties_to_even}"
NARROW = ("storage={format: bfloat16, rounding: ties_to_even}", "master=none")
THREE_BITS_FEWER = ("storage={format: float_e8m20, rounding: ties_to_even}", "master=none")
SMALL_RANGE = "storage={format: fixed_q1.8, rounding: ties_to_even%s}"
UNDERFLOWS = "gradient={format: float8_e4m3fn, overflow: saturate, rounding: ties_to_even}"
OVERFLOWS = "gradient={format: float_e2m8, overflow: %s, rounding: ties_to_even}"  # beyond 3.99
FEW_BITS = "storage={format: float_e3m2, overflow: saturate, rounding: ties_to_even%s}"


@cache
def state_after_three_steps(sets):
    """The bits of the state of a small network trained with the baseline's config and some changes to its arithmetic."""
    config = load_config(CONFIG, [f"arithmetic.{text}" for text in sets]).config
    step = TrainStep(
        replace(SETTINGS, direction="forward", dropout=0.0),
        build.build_policy(config),
        Optimizer(sgd_direction(momentum=0.9, nesterov=False, weight_decay=0.0), constant_schedule(0.02)),
        clip_norm=None,
        shards=2,
        seed=1,
        statistics_momentum=0.9,
        loss_scale=build.build_loss_scale(config),
    )
    state = step.start()
    for _ in range(3):
        state, record = step(state, split_batch(make_batch(), 2))
        assert record.finite or "overflow: infinity" in str(sets)
    found = jax.device_get({"master": state.first.master, "moments": state.first.optimizer})
    # As float32: another dtype is no other number.
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32) if leaf.dtype.kind in "fV" else leaf, found)
    return tuple(sorted(bits(found).items()))


CHANGES = [  # CI walks most of the roles and a way to lose less
    ((), f"storage={FLOAT16}"),
    ((), f"compute={FLOAT16}"),
    ((), f"gradient={FLOAT16}"),
    ((), f"ctc={FLOAT16}"),
    ((), "accumulate={format: float16, rounding: ties_to_even, chunk: 4}"),
    (NARROW, "update.rounding=stochastic"),
    ((UNDERFLOWS,), "loss_scale={kind: static, scale: 64}"),
    ((), "rules=[{path: output_kernel, storage: {format: float16, rounding: ties_to_even}}]"),
]
MORE_CHANGES = [
    ((), f"reduce={FLOAT16}"),
    ((), f"state={FLOAT16}"),
    ((), "master.format=float16"),
    (NARROW, "update.compensation=kahan"),
    ((*NARROW, "update.rounding=stochastic"), "update.random_bits=2"),
    ((f"storage={FLOAT16}", f"gradient={FLOAT16}"), "carrier=native"),
    (("accumulate={format: float16, rounding: ties_to_even, chunk: 4}",), "accumulate.chunk=2"),
    (("accumulate={format: float16, rounding: ties_to_even, chunk: 4}",), "accumulate.rounding=toward_zero"),
    ((UNDERFLOWS,), "loss_scale={kind: dynamic, initial: 64}"),
    ((UNDERFLOWS, "loss_scale={kind: dynamic, initial: 8}"), "loss_scale.initial=4"),
    ((UNDERFLOWS, "loss_scale={kind: dynamic, initial: 8}"), "loss_scale.growth_interval=1"),
    ((UNDERFLOWS, "loss_scale={kind: dynamic, initial: 8, growth_interval: 1}"), "loss_scale.maximum=8"),
    *[((), f"rules=[{{path: output_kernel, {role}: {{format: float16, rounding: ties_to_even}}}}]") for role in
      ("compute", "gradient", "reduce", "state")],
    ((), "rules=[{path: output_kernel, accumulate: {format: float16, rounding: ties_to_even, chunk: 4}}]"),
    ((), "rules=[{path: output_kernel, master: {format: float16}}]"),
    (NARROW, "rules=[{path: output_kernel, update: {rounding: stochastic}}]"),
    ((*NARROW, "rules=[{path: output_kernel, update: {rounding: stochastic}}]"),
     "rules=[{path: output_kernel, update: {rounding: stochastic, random_bits: 2}}]"),
    *[(NARROW, f"update.rounding={mode}") for mode in
      ("toward_zero", "toward_positive", "toward_negative", "stochastic_equal")],
    (THREE_BITS_FEWER, "update.rounding=ties_to_away"),  # of a format with more bits to drop hardly a number is a tie
    ((SMALL_RANGE % "",), SMALL_RANGE % ", overflow: wrap"),
    ((FEW_BITS % "",), FEW_BITS % ", subnormals: false"),
    (("storage={format: int8, rounding: ties_to_even}",), "storage.granularity=channel"),
    *[((f"storage={FLOAT16}",), f"storage.rounding={mode}") for mode in
      ("toward_zero", "toward_positive", "toward_negative", "stochastic", "stochastic_equal")],
    (THREE_BITS_FEWER[:1], "storage.rounding=ties_to_away"),
    *[((), f"{role}={{format: bfloat16, rounding: stochastic}}") for role in
      ("compute", "gradient", "reduce", "state", "ctc")],
    *[((f"{role}={{format: bfloat16, rounding: stochastic}}",), f"{role}.random_bits=2") for role in
      ("storage", "compute", "gradient", "reduce", "state", "ctc")],
    ((OVERFLOWS % "infinity",), OVERFLOWS % "saturate"),
]  # fmt: skip
CASES = [*CHANGES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CHANGES)]


@pytest.mark.parametrize(("base", "change"), CASES, ids=[change for _, change in (*CHANGES, *MORE_CHANGES)])
def test_a_setting_changed_alone_changes_the_state(base, change):
    assert state_after_three_steps(base) != state_after_three_steps((*base, change))


def test_the_same_settings_give_the_same_state():
    sets = (*NARROW, "update.rounding=stochastic")
    first = state_after_three_steps(sets)
    state_after_three_steps.cache_clear()
    assert state_after_three_steps(sets) == first
