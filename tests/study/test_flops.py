"""The formulas against a count of every product in the traced program, a loop's as often as it turns."""

from dataclasses import replace
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.model import Conv2dSettings, FrameStackSettings, ModelSettings, apply, init_parameters
from dsrun.study.bench_gru import layer_arguments, layer_pass
from dsrun.study.bench_sizes import CtcSize, GruSize
from dsrun.study.flops import ctc_work, gru_work, network_flops, weight_bytes_a_frame

SIZE = GruSize(batch=3, frames=7, hidden=5)


def counted(jaxpr, *, in_loop=False):
    """(FLOPs inside loops, FLOPs outside) of a traced program's products."""
    inside, outside = 0, 0
    for equation in jaxpr.eqns:
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for part in chain.from_iterable(_programs(value) for value in equation.params.values()):
            found = counted(part, in_loop=in_loop or equation.primitive.name == "scan")
            inside, outside = inside + turns * found[0], outside + turns * found[1]
        own = _flops(equation)
        inside, outside = (inside + own, outside) if in_loop else (inside, outside + own)
    return inside, outside


def _programs(value):
    """Traced programs in an equation's parameter."""
    for item in value if isinstance(value, tuple | list) else (value,):
        item = getattr(item, "jaxpr", item)
        if hasattr(item, "eqns"):
            yield item


def _flops(equation):
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
        return 2 * int(inner) * equation.outvars[0].aval.size
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = equation.params["dimension_numbers"].rhs_spec[0]
        return 2 * int(np.prod(kernel)) // kernel[outputs] * equation.outvars[0].aval.size
    return 0


def traced(format, name, residuals="store"):
    return counted(jax.make_jaxpr(layer_pass(format, name, residuals))(*layer_arguments(SIZE)).jaxpr)


@pytest.mark.parametrize("format", ["float32", "tensorfloat32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["forward", "both"])
def test_a_gru_layer_has_the_products_of_the_formula_in_the_loop_and_outside_it(format, name):
    work = gru_work(SIZE, has_gradient=name == "both")
    assert traced(format, name) == (work.sequential, work.hoistable)


def test_recomputing_repeats_the_forward_products_outside_the_loop_and_is_not_credited():
    work = gru_work(SIZE, has_gradient=True, recompute=True)
    assert traced("float32", "both", "recompute") == (work.sequential, work.hoistable + work.recomputed)
    assert work.flops == gru_work(SIZE, has_gradient=True).flops


def test_bytes_are_those_of_arguments_and_results():
    x, _, weights, incoming = layer_arguments(SIZE)
    leaves = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    assert gru_work(SIZE, has_gradient=False).bytes == x.nbytes + leaves + x.nbytes
    assert gru_work(SIZE, has_gradient=True).bytes == x.nbytes + incoming.nbytes + leaves + x.nbytes + leaves
    recurrent = sum(u.nbytes for w in weights for u in w.recurrence[:3])
    assert weight_bytes_a_frame(SIZE) == recurrent
    assert weight_bytes_a_frame(SIZE, 2) == recurrent // 2


def settings(front_end, direction="bidirectional"):
    return ModelSettings(
        num_bins=11,
        num_classes=7,
        front_end=front_end,
        hidden=6,
        layers=2,
        direction=direction,
        normalization="none",
        dropout=0.0,
        relu_clip=20.0,
    )


FRONT_ENDS = [FrameStackSettings(stack=3, stride=2, hidden=4), Conv2dSettings(channels=3)]


def run(network, frames):
    parameters = init_parameters(network, 0)
    features, lengths = jnp.zeros((2, frames, 11), jnp.float32), jnp.full(2, frames, jnp.int32)

    def logits(parameters):
        return apply(network, FLOAT32_POLICY, parameters, None, features, lengths, mode="train").logits

    return logits, parameters


@pytest.mark.parametrize("direction", ["bidirectional", "forward"])
@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=["frame_stack", "conv2d"])
def test_a_network_has_the_products_of_the_formula(front_end, direction):
    network = settings(front_end, direction)
    logits, parameters = run(network, 13)
    inside, outside = counted(jax.make_jaxpr(logits)(parameters).jaxpr)
    found = network_flops(network, [13, 13])
    assert inside + outside == found.forward
    assert inside == found.gru_recurrent


def test_a_lookahead_has_a_multiply_add_for_each_row_of_its_kernel_unit_and_frame():
    plain = replace(settings(FRONT_ENDS[0], "forward"), layers=1)
    ahead = replace(plain, lookahead=4)
    more = network_flops(ahead, [13]).output - network_flops(plain, [13]).output
    assert more == 2 * 5 * 6 * 7  # 7 output frames of 6 units

    def multiplications(network):
        logits, parameters = run(network, 13)
        text = str(jax.make_jaxpr(logits)(parameters))
        return sum("f32[7,2,6] = mul" in line for line in text.splitlines())

    assert multiplications(ahead) - multiplications(plain) == 5


def test_training_has_three_times_the_products_but_for_the_error_of_the_features():
    network = settings(FRONT_ENDS[0])
    logits, parameters = run(network, 12)
    gradient = jax.grad(lambda parameters: jnp.sum(jnp.square(logits(parameters))))
    found = network_flops(network, [12, 12])
    assert sum(counted(jax.make_jaxpr(gradient)(parameters).jaxpr)) == found.training - found.front_end


def test_frames_of_an_utterance_count_and_padding_does_not():
    network = settings(FRONT_ENDS[1])
    one, other, both = (network_flops(network, lengths).forward for lengths in ([9], [20], [9, 20]))
    assert both == one + other
    assert network_flops(network, []).forward == 0


def test_ctc_counts_eight_operations_a_state_and_six_a_logit():
    # One frame, one label, three classes: states blank, label, blank.
    work = ctc_work(CtcSize(batch=1, frames=1, labels=1, classes=3))
    assert (work.flops, work.bytes) == (8 * 3 + 6 * 3, 4 * 2 * 3)
    assert ctc_work(CtcSize(5, 7, 1, 3)).flops == 35 * work.flops
