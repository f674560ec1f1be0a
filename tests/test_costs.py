"""Bytes and operations of a step, counted: what a format needs and what carries it, by hand for a small network."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "training"))
from test_step import SETTINGS, make_step

from dsrun.arithmetic import FLOAT16, Policy, parse_format
from dsrun.arithmetic.policy import Rounding
from dsrun.costs import _activations, _epoch_flops, _needed, bytes_by_role
from dsrun.model import parameter_table
from dsrun.study.flops import network_flops

PARAMETERS = sum(count for *_, count in parameter_table(SETTINGS))
SHORT = Policy(storage=Rounding(FLOAT16), gradient=Rounding(FLOAT16))
NO_MASTER = Policy(storage=Rounding(FLOAT16), master=None)


def roles(policy: Policy) -> dict[str, tuple[int, int]]:
    step = make_step(policy=policy)
    found = bytes_by_role(step, jax.eval_shape(step.initial_state))
    json.dumps(found)
    return {name: (role["as_carried"], role["as_formats"]) for name, role in found.items()}


@pytest.mark.parametrize("carrier", ["emulated", "native"])
def test_float16_storage_beside_a_float32_master_needs_two_bytes_more_a_weight_whatever_carries_it(carrier):
    found = roles(Policy(storage=Rounding(FLOAT16), gradient=Rounding(FLOAT16), carrier=carrier))
    carried = 4 if carrier == "emulated" else 2
    assert found["master"] == (4 * PARAMETERS, 4 * PARAMETERS)
    assert found["storage"] == (carried * PARAMETERS, 2 * PARAMETERS)
    assert found["gradient"] == (carried * PARAMETERS, 2 * PARAMETERS)
    assert found["state"] == (4 * PARAMETERS, 4 * PARAMETERS)  # momentum


def test_one_copy_is_counted_once():
    found = roles(NO_MASTER)
    assert (found["storage"], found["master"]) == ((0, 0), (4 * PARAMETERS, 2 * PARAMETERS))


def test_formats_of_few_bits_are_packed_and_have_their_scales():
    assert _needed(parse_format("binary"), (8, 5)) == 40 / 8 + 4
    assert _needed(parse_format("ternary", granularity="channel"), (3, 5)) == 4 + 5 * 4
    assert _needed(parse_format("mxfp8_e4m3"), (32, 2)) == 64 + 2
    assert _needed(parse_format("float16"), ()) == 2


def test_activations_are_the_places_where_a_value_is_stored_and_four_gates_a_state():
    step = make_step(policy=SHORT)
    found = _activations(step, jax.eval_shape(step.initial_state).master, 2, 12)
    output_frames, hidden = 6, SETTINGS.hidden
    assert found["gates"]["as_formats"] == 4 * 4 * 2 * hidden * 2 * output_frames
    values = found["stored"]["values"]
    logits = 2 * output_frames * SETTINGS.num_classes
    assert found["stored"]["formats"] == {"float16": values - logits, "float32": logits}
    assert found["stored"]["as_formats"] == 2 * (values - logits) + 4 * logits
    assert found["stored"]["as_carried"] == 4 * values
    # Features, the projections of three gates in two directions, their states and the sum of these, at least.
    assert values > 2 * 12 * SETTINGS.num_bins + (6 + 2 + 1) * hidden * 2 * output_frames


def test_an_epochs_operations_are_those_of_its_utterances_and_of_all_padded_rows():
    lengths = [9, 9, 10, 20]
    shapes = [{"frames": 12, "rows": 4, "steps": 1}, {"frames": 20, "rows": 4, "steps": 2}]
    found = _epoch_flops(SETTINGS, np.array(lengths), shapes)
    assert found["training"] == network_flops(SETTINGS, lengths).training
    assert found["training_computed"] == network_flops(SETTINGS, [12] * 4 + [20] * 8).training
    assert found["forward_front_end"] + found["forward_gru"] + found["forward_output"] == found["training"] / 3
