"""The GRU against its NumPy reference, against torch's equations, and over padding."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dsrun.arithmetic import FLOAT32_POLICY, Policy, parse_format, round_to
from dsrun.arithmetic.policy import Rounding
from dsrun.model.gru import Gates, GruWeights, Recurrence, bidirectional_gru, gru_sequences, loop_choice, valid_frames
from tests.reference import gru as reference

# Against float64: float32 rounding (6e-8 an operation) through 30 frames of products over 7 to 12 values.
TOLERANCE = 2e-6


def make_case(seed=0, batch=4, frames=30, inputs=7, hidden=12, directions=2):
    """Ragged inputs, full-length, one-frame and empty utterances among them, and weights for each direction."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((batch, frames, inputs))
    num_frames = np.array([frames, frames * 2 // 3, 1, 0][:batch], np.int32)
    return x, num_frames, [reference.random_weights(random, inputs, hidden) for _ in range(directions)]


def as_weights(directions):
    arrays = [{name: jnp.asarray(array, jnp.float32) for name, array in w.items()} for w in directions]
    return tuple(
        GruWeights(*(w[name] for name in reference.NAMES[:6]), Recurrence(*(w[name] for name in reference.NAMES[6:])))
        for w in arrays
    )


@partial(jax.jit, static_argnums=1)
def _rounded(x, format):
    return round_to(x, format)


def is_on_grid(x, format):
    return np.array_equal(x, _rounded(jnp.asarray(x), format))


_layer = jax.jit(bidirectional_gru, static_argnames="policy")


def run(x, num_frames, directions, policy=FLOAT32_POLICY):
    return _layer(jnp.asarray(x, jnp.float32), jnp.asarray(num_frames), as_weights(directions), policy=policy)


def gradients(x, num_frames, directions, output_gradient, policy=FLOAT32_POLICY):
    def loss(x, weights):
        y = bidirectional_gru(x, jnp.asarray(num_frames), weights, policy=policy)
        # Selected, as a loss over real frames does: output gradients of padded frames may be NaN.
        return jnp.sum(jnp.where(jnp.isnan(output_gradient), 0.0, y * output_gradient))

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(x, jnp.float32), as_weights(directions))


def flat(weights_gradient):
    """Gradient arrays of one direction by the reference's names."""
    return dict(zip(reference.NAMES, [*weights_gradient[:6], *weights_gradient.recurrence], strict=True))


def relative_error(value, truth):
    return np.max(np.abs(np.asarray(value, np.float64) - truth)) / max(np.max(np.abs(truth)), 1e-30)


@pytest.mark.parametrize("directions", [1, 2])
def test_states_equal_the_reference_on_ragged_utterances(directions):
    x, num_frames, weights = make_case(directions=directions)
    y = run(x, num_frames, weights)
    assert relative_error(y, reference.bidirectional(x, num_frames, weights)) < TOLERANCE
    assert np.all(np.asarray(y)[1, 20:] == 0.0)
    assert np.all(np.asarray(y)[3] == 0.0)


@pytest.mark.parametrize("directions", [1, 2])
def test_every_gradient_equals_the_reference_on_ragged_utterances(directions):
    x, num_frames, weights = make_case(directions=directions)
    output_gradient = np.random.default_rng(1).standard_normal((4, 30, 12))
    dx, dweights = gradients(x, num_frames, weights, output_gradient.astype(np.float32))
    true_dx, true_dweights = reference.bidirectional_gradients(x, num_frames, weights, output_gradient)
    assert relative_error(dx, true_dx) < TOLERANCE
    for found, truth in zip(dweights, true_dweights, strict=True):
        errors = {name: relative_error(array, truth[name]) for name, array in flat(found).items()}
        assert max(errors.values()) < TOLERANCE, errors


def test_reference_gradients_equal_finite_differences():
    """The reference's backward pass is written by hand too; central differences in float64 are its judge."""
    x, num_frames, weights = make_case(frames=5, inputs=3, hidden=4)
    output_gradient = np.random.default_rng(1).standard_normal((4, 5, 4))
    dx, dweights = reference.bidirectional_gradients(x, num_frames, weights, output_gradient)

    def difference(array, index, step=1e-5):
        values = []
        for sign in (1, -1):
            array[index] += sign * step
            values.append(np.sum(reference.bidirectional(x, num_frames, weights) * output_gradient))
            array[index] -= sign * step
        return (values[0] - values[1]) / (2 * step)

    pairs = [(x, dx)] + [(w[name], d[name]) for w, d in zip(weights, dweights, strict=True) for name in reference.NAMES]
    random = np.random.default_rng(2)
    for array, gradient in pairs:
        for _ in range(6):
            index = tuple(random.integers(0, array.shape))
            # Central differences: step^2 times the third derivative, plus float64 rounding / step.
            assert abs(difference(array, index) - gradient[index]) < 1e-8


def test_gradients_equal_finite_differences_of_the_layer_itself():
    x, num_frames, weights = make_case(frames=6, inputs=3, hidden=4)

    def layer(x, weights):  # check_grads calls with NumPy arrays
        x, weights = jax.tree.map(jnp.asarray, (x, weights))
        return bidirectional_gru(x, jnp.asarray(num_frames), weights)

    # Differences of float32 values: about sqrt of their rounding.
    arguments = (jnp.asarray(x, jnp.float32), as_weights(weights))
    check_grads(layer, arguments, order=1, modes=["rev"], atol=5e-3, rtol=5e-3)


def test_layer_computes_torch_gru_from_its_stacked_parameters():
    """torch.nn.GRU's equations from its own parameter layout (weight_ih [3H, D] as r, z, n): reset after the matmul."""
    random = np.random.default_rng(3)
    hidden, inputs, frames = 6, 5, 9
    weight_ih, weight_hh = random.standard_normal((3 * hidden, inputs)), random.standard_normal((3 * hidden, hidden))
    bias_ih, bias_hh = random.standard_normal(3 * hidden), random.standard_normal(3 * hidden)
    x = random.standard_normal((frames, inputs))
    h, states = np.zeros(hidden), []
    for frame in x:
        i_r, i_z, i_n = np.split(weight_ih @ frame + bias_ih, 3)
        h_r, h_z, h_n = np.split(weight_hh @ h + bias_hh, 3)
        r, z = 1 / (1 + np.exp(-(i_r + h_r))), 1 / (1 + np.exp(-(i_z + h_z)))
        n = np.tanh(i_n + r * h_n)
        h = (1 - z) * n + z * h
        states.append(h)
    (w_r, w_z, w_n), (u_r, u_z, u_n) = np.split(weight_ih, 3), np.split(weight_hh, 3)
    (b_r, b_z, b_x), (c_r, c_z, c_n) = np.split(bias_ih, 3), np.split(bias_hh, 3)
    # torch has two biases a gate; those of r and z only ever occur as a sum.
    arrays = (w_r.T, w_z.T, w_n.T, b_r + c_r, b_z + c_z, b_x, u_r.T, u_z.T, u_n.T, c_n)
    y = run(x[None], np.array([frames], np.int32), [dict(zip(reference.NAMES, arrays, strict=True))])
    # Pre-activations of order 10 here: their float32 rounding is 5e-7.
    assert relative_error(y[0], np.array(states)) < 1e-5


def test_utterance_alone_equals_the_same_utterance_among_longer_ones():
    x, num_frames, weights = make_case()
    together = np.asarray(run(x, num_frames, weights))
    for row, frames in enumerate(num_frames[:3]):
        alone = np.asarray(run(x[row : row + 1, :frames], num_frames[row : row + 1], weights))
        # Same operations; a product's order of summation may follow the batch size.
        np.testing.assert_allclose(together[row, :frames], alone[0], rtol=0, atol=1e-6)


def test_other_rows_and_padding_do_not_change_a_bit_at_equal_shape():
    x, num_frames, weights = make_case()
    other = np.array(x)
    other[0] = 7.0  # another utterance
    other[1, 20:] = -3.0  # other padding
    first, second = np.asarray(run(x, num_frames, weights)), np.asarray(run(other, num_frames, weights))
    np.testing.assert_array_equal(first[1:], second[1:])


def test_backward_direction_starts_at_the_last_frame_of_each_utterance():
    """A backward layer over an utterance is a forward layer over the reversed utterance."""
    x, num_frames, (w,) = make_case(directions=1)
    weights = as_weights([w])[0]
    inputs = jnp.asarray(x, jnp.float32)
    turned = np.array(inputs)
    for row, frames in enumerate(num_frames):
        turned[row, :frames] = turned[row, :frames][::-1]
    is_valid = valid_frames(jnp.asarray(num_frames), x.shape[1])

    def states(values, direction):
        pairs = zip(weights[:3], weights[3:6], strict=True)
        projections = Gates(*(jnp.swapaxes(values, 0, 1) @ m + b[None, None] for m, b in pairs))
        return gru_sequences(
            [projections], is_valid, [weights.recurrence], policy=FLOAT32_POLICY, directions=(direction,)
        )[0]

    backward = np.swapaxes(states(inputs, "backward"), 0, 1)
    forward = np.array(np.swapaxes(states(jnp.asarray(turned), "forward"), 0, 1))
    for row, frames in enumerate(num_frames):
        np.testing.assert_allclose(backward[row, :frames], forward[row, :frames][::-1], rtol=0, atol=1e-6)


def test_nan_in_padded_frames_changes_no_bit_of_states_or_gradients():
    x, num_frames, weights = make_case()
    poisoned = np.array(x)
    output_gradient = np.random.default_rng(1).standard_normal((4, 30, 12)).astype(np.float32)
    poisoned_gradient = np.array(output_gradient)
    for row, frames in enumerate(num_frames):
        poisoned[row, frames:] = np.nan
        poisoned_gradient[row, frames:] = np.nan
    np.testing.assert_array_equal(run(x, num_frames, weights), run(poisoned, num_frames, weights))
    clean = jax.tree.leaves(gradients(x, num_frames, weights, output_gradient))
    dirty = jax.tree.leaves(gradients(poisoned, num_frames, weights, poisoned_gradient))
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_in_projections_and_incoming_gradients_of_padded_frames_reaches_no_gradient():
    """The core on its own: whatever a normalisation leaves in padded frames or the next layer sends back to them."""
    random = np.random.default_rng(5)
    num_frames = jnp.array([9, 4, 0], jnp.int32)
    is_valid = valid_frames(num_frames, 9)
    arrays = [random.standard_normal((9, 3, 6)).astype(np.float32) for _ in range(4)]
    recurrence = as_weights([reference.random_weights(random, 6, 6)])[0].recurrence

    @partial(jax.jit, static_argnums=0)
    def results(direction, fill):
        *projections, incoming = (jnp.where(is_valid, array, fill) for array in arrays)

        def states(projections, recurrence):
            return gru_sequences([projections], is_valid, [recurrence], policy=FLOAT32_POLICY, directions=(direction,))[
                0
            ]

        y, pull = jax.vjp(states, Gates(*projections), recurrence)
        return [y, *jax.tree.leaves(pull(incoming))]

    for direction in ("forward", "backward"):
        for a, b in zip(results(direction, 0.0), results(direction, np.nan), strict=True):
            assert np.all(np.isfinite(a))
            np.testing.assert_array_equal(a, b)


def test_states_stay_finite_and_bounded_on_saturating_inputs():
    x, num_frames, weights = make_case()
    y = np.asarray(run(1e4 * x, num_frames, weights))
    assert np.all(np.abs(y) <= 2.0)  # two directions of |h| <= 1
    output_gradient = np.ones((4, 30, 12), np.float32)
    assert all(
        np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients(1e4 * x, num_frames, weights, output_gradient))
    )


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("compute", ["float32", "float16", "bfloat16"])
def test_states_are_on_the_storage_grid_and_near_the_float32_layer(storage, compute):
    x, num_frames, weights = make_case()
    policy = Policy(storage=Rounding(parse_format(storage)), compute=Rounding(parse_format(compute)))
    y = run(x, num_frames, weights, policy)
    assert is_on_grid(y, policy.storage.format)
    # Rounding of states and weights, 2^-9 (bfloat16) or 2^-12 relative; the recurrence averages it over the frames.
    coarsest = 2.0 ** -min(policy.storage.format.precision, policy.compute.format.precision)
    error = np.max(np.abs(np.asarray(y) - reference.bidirectional(x, num_frames, weights)))
    assert 0.0 < error < 8 * coarsest


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_gradients_of_a_small_format_are_finite_and_near_the_float32_ones(name):
    x, num_frames, weights = make_case()
    policy = Policy(storage=Rounding(parse_format(name)), compute=Rounding(parse_format(name)))
    output_gradient = np.random.default_rng(1).standard_normal((4, 30, 12))
    dx, dweights = gradients(x, num_frames, weights, output_gradient.astype(np.float32), policy)
    true_dx, true_dweights = reference.bidirectional_gradients(x, num_frames, weights, output_gradient)
    bound = 8 * 2.0**-policy.compute.format.precision  # relative to the largest: a handful of roundings to the format
    assert relative_error(dx, true_dx) < bound
    for found, truth in zip(dweights, true_dweights, strict=True):
        assert all(relative_error(array, truth[name]) < bound for name, array in flat(found).items())


def test_every_operand_of_the_loop_is_on_the_compute_grid():
    """Read from the traced program: each product in the loops of both passes has two operands on bfloat16's grid."""
    x, num_frames, weights = make_case()
    policy = Policy(compute=Rounding(parse_format("bfloat16")))
    seen = []

    def watch(a, b):
        seen.append(all(is_on_grid(v, policy.compute.format) for v in (a, b)))

    original = jnp.matmul, jax.lax.dot_general

    def watched(product):
        def call(a, b, *args, **kwargs):
            jax.debug.callback(watch, a, b)
            return product(a, b, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jnp, "matmul", watched(original[0]))
        patch.setattr("dsrun.model.gru.jax.lax.dot_general", watched(original[1]))
        gradients(x[:, :4], np.minimum(num_frames, 4), weights, np.ones((4, 4, 12), np.float32), policy)
        jax.effects_barrier()
    # A direction: a projection, a product a frame forward, one backward, and 3 sums over frames after the loop.
    assert len(seen) >= 2 * (1 + 4 + 4 + 3)
    assert all(seen)


@pytest.mark.parametrize(("loops", "count"), [("separate", 4), ("together", 2)])
@pytest.mark.parametrize("residuals", ["store", "recompute"])
def test_a_frame_is_one_call_of_a_product_without_concatenation_transpose_or_padding(loops, count, residuals):
    """Read from the traced program; what is cut is cut along the rows of the product, where each gate is contiguous.

    A loop of both directions multiplies backward a gate at a time, in one batch: an inner dimension of 3 hidden is one that XLA splits on a
    GPU, copying the matrix at every frame.
    """
    x, num_frames, weights = make_case()

    def loss(x, weights):
        y = bidirectional_gru(x, jnp.asarray(num_frames), weights, loops=loops, residuals=residuals)
        return jnp.sum(jnp.square(y))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(jnp.asarray(x, jnp.float32), as_weights(weights))
    compiled = traced.lower().compile().as_text()
    assert " scatter(" not in compiled
    in_loops = _computations_of_loops(compiled)
    assert len(in_loops) >= count
    for operation in (
        " concatenate(",
        " transpose(",
        " pad(",
    ):  # XLA copies the carried state once a frame, nothing else
        assert operation not in "".join(in_loops)
    bodies = [e.params["jaxpr"].jaxpr for e in _flattened(traced.jaxpr.jaxpr) if e.primitive.name == "scan"]
    assert len(bodies) == count
    matrices: list[tuple[int, ...]] = []
    for body in bodies:
        primitives = [e.primitive.name for e in _flattened(body)]
        assert primitives.count("dot_general") == 1
        (product,) = (e for e in _flattened(body) if e.primitive.name == "dot_general")
        matrices.append(product.invars[0].aval.shape)
        assert not {"concatenate", "transpose", "pad", "gather", "scatter"} & set(primitives)
    forward, backward = ((2, 36, 12), (2, 3, 12, 12)) if loops == "together" else ((36, 12), (12, 36))
    assert sorted(matrices) == sorted([forward, backward] * (count // 2))


@pytest.mark.parametrize("direction", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "float32",
        pytest.param("bfloat16", marks=pytest.mark.slow),
        pytest.param("native bfloat16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "choice", [{"loops": "together"}, {"residuals": "recompute"}, {"loops": "together", "residuals": "recompute"}]
)
def test_every_choice_of_loop_and_residuals_computes_the_same_layer(choice, name, direction):
    if direction == 1 and "loops" in choice:
        pytest.skip("one direction has nothing to share")
    x, num_frames, weights = make_case(directions=direction)
    role = Rounding(parse_format(name.split()[-1]))
    carrier = "native" if "native" in name else "emulated"
    policy = Policy(storage=role, compute=role, gradient=role, carrier=carrier)
    output_gradient = np.random.default_rng(1).standard_normal((4, 30, 12)).astype(np.float32)

    def results(**options):
        def layer(x, weights):
            return bidirectional_gru(x, jnp.asarray(num_frames), weights, policy=policy, **options)

        def both(x, weights):
            y, pull = jax.vjp(layer, x, weights)
            return y, pull(jnp.asarray(output_gradient))

        y, gradient = jax.jit(both)(jnp.asarray(x, jnp.float32), as_weights(weights))
        return y, jax.tree.leaves(gradient)

    (y, gradients), (other_y, other_gradients) = results(), results(**choice)
    # Sums in another order: float32's rounding through 30 frames; on a coarser grid a tie may fall to the other side.
    bound = TOLERANCE if name == "float32" else 2.0**-7
    assert relative_error(other_y, np.asarray(y, np.float64)) < bound
    for a, b in zip(other_gradients, gradients, strict=True):
        assert relative_error(a, np.asarray(b, np.float64)) < bound


def test_recomputing_hands_the_states_and_no_gate_to_the_backward_pass():
    x, num_frames, weights = make_case(batch=3, frames=30, inputs=12)

    def values_kept(residuals):
        def layer(x):
            return bidirectional_gru(x, jnp.asarray(num_frames), as_weights(weights), residuals=residuals)

        _, pull = jax.vjp(layer, jnp.asarray(x, jnp.float32))
        arrays = {id(leaf): leaf for leaf in jax.tree.leaves(pull) if leaf.ndim > 2 and leaf.dtype == jnp.float32}
        return sum(leaf.size for leaf in arrays.values()) / x.size

    assert values_kept("store") >= 2 * 5  # r, z, n, q and the state of both directions
    assert values_kept("recompute") <= 2 + 2  # both states; the layer's input, and its copy with padding set to zero


def test_a_loop_is_shared_on_a_gpu_where_both_directions_round_alike():
    stochastic = Policy(compute=Rounding(parse_format("bfloat16"), "stochastic"))
    scaled = Policy(compute=Rounding(parse_format("int8")))
    paths = ["gru_0_forward", "gru_0_backward"]
    assert loop_choice(FLOAT32_POLICY, paths, backend="gpu") == "together"
    assert loop_choice(FLOAT32_POLICY, paths, backend="cpu") == "separate"
    assert loop_choice(FLOAT32_POLICY, paths[:1], backend="gpu") == "separate"
    assert loop_choice(stochastic, paths, backend="gpu") == "separate"
    with pytest.raises(ValueError, match="recompute restores the gates with one product"):
        bidirectional_gru(*_small_layer(), policy=scaled, residuals="recompute")
    with pytest.raises(ValueError, match="together needs two directions"):
        bidirectional_gru(*_small_layer(), policy=scaled, loops="together")


def _small_layer():
    x, num_frames, weights = make_case(frames=2)
    return jnp.asarray(x, jnp.float32), jnp.asarray(num_frames), as_weights(weights)


def _computations_of_loops(compiled):
    """Text of each loop's body in the optimised program, and of the fusions that it calls."""
    found = dict(re.findall(r"^(%?[\w.\-]+) \(.*?\) -> .*? \{\n(.*?)^\}", compiled, re.MULTILINE | re.DOTALL))
    texts, waiting = [], re.findall(r"body=(%?[\w.\-]+)", compiled)
    while waiting:
        text = found[waiting.pop()]
        texts.append(text)
        waiting += re.findall(r"calls=(%?[\w.\-]+)", text)
    return texts


def _flattened(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(
                value, "jaxpr", value if hasattr(value, "eqns") else None
            )  # closed, or as checkpoints have it
            if inner is not None and equation.primitive.name != "scan":
                yield from _flattened(inner)


def test_three_directions_are_refused():
    x, num_frames, weights = make_case(directions=1)
    with pytest.raises(ValueError, match="3 directions"):
        run(x, num_frames, weights * 3)
