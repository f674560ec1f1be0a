"""Policy: float32 costs nothing, smaller formats round where the page says, forward and backward."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import BFLOAT16, FLOAT16, FLOAT32, FLOAT32_POLICY, Policy, parse_format, round_to
from dsrun.arithmetic.policy import Rounding, Rule, pass_key, site_key

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape, np.float32))


def compiled(function, *args):
    """As one program: operation by operation, each for each shape, takes ten times as long."""
    return jax.jit(function)(*args)


def primitives(f, *args):
    return {equation.primitive.name for equation in jax.make_jaxpr(f)(*args).eqns}


def test_float32_adds_no_operation():
    assert primitives(lambda x: FLOAT32_POLICY.store(x, "place"), normal(3)) == set()
    assert primitives(FLOAT32_POLICY.dot, normal(2, 3), normal(3, 4)) == {"dot_general"}


def test_store_puts_values_on_the_grid_and_passes_the_gradient_through():
    policy = Policy(storage=Rounding(FLOAT16))
    x = normal(1000) * 1e-5
    value, pullback = jax.vjp(lambda v: policy.store(v, "place"), x)
    np.testing.assert_array_equal(value, round_to(x, FLOAT16))
    g = normal(1000)
    np.testing.assert_array_equal(pullback(g)[0], g)


def test_dot_rounds_both_operands_forward_and_the_incoming_gradient_backward():
    policy = Policy(compute=Rounding(BFLOAT16))
    a, b, g = normal(5, 7), normal(7, 3), normal(5, 3)
    y, pullback = jax.vjp(policy.dot, a, b)
    a16, b16, g16 = (round_to(v, BFLOAT16) for v in (a, b, g))
    np.testing.assert_array_equal(y, FLOAT32_POLICY.dot(a16, b16))
    da, db = pullback(g)
    np.testing.assert_array_equal(da, FLOAT32_POLICY.dot(g16, b16.T))
    np.testing.assert_array_equal(db, FLOAT32_POLICY.dot(a16.T, g16))


def test_convolve_equals_the_sum_over_the_window_written_out():
    x, kernel = normal(2, 6, 5, 3), normal(3, 2, 3, 4)
    y = FLOAT32_POLICY.convolve(x, kernel, strides=(2, 1), padding=((1, 1), (0, 0)))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (0, 0), (0, 0)))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[:, 2 * i : 2 * i + 3, j : j + 2]
            expected = np.einsum("bhwc,hwco->bo", window, np.asarray(kernel, np.float64))
            np.testing.assert_allclose(y[:, i, j], expected, rtol=0, atol=1e-5)  # 18 float32 products of size ~1


KEY = pass_key(1, jnp.uint32(2), jnp.uint32(0))


def test_the_error_behind_a_store_is_rounded_to_the_gradient_format():
    policy = Policy(storage=Rounding(FLOAT16), gradient=Rounding(BFLOAT16))
    g = normal(1000)
    _, pullback = jax.vjp(lambda v: policy.store(v, "place"), normal(1000))
    np.testing.assert_array_equal(pullback(g)[0], round_to(g, BFLOAT16))


def test_the_error_of_the_logits_is_rounded_and_they_are_not():
    policy = Policy(gradient=Rounding(BFLOAT16))
    x, g = normal(1000), normal(1000)
    y, pullback = jax.vjp(lambda v: policy.receive(v, "logits"), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pullback(g)[0], round_to(g, BFLOAT16))


def test_random_roundings_differ_by_place_step_and_shard_and_repeat_by_key():
    policy = Policy(storage=Rounding(BFLOAT16, "stochastic"))
    x = normal(1000)
    here = policy.store(x, "here", KEY)
    np.testing.assert_array_equal(here, policy.store(x, "here", KEY))
    others = [policy.store(x, "there", KEY)]
    others += [policy.store(x, "here", pass_key(*place)) for place in _places((1, 3, 0), (1, 2, 1), (2, 2, 0))]
    assert all(not np.array_equal(here, other) for other in others)
    assert site_key(None, "storage", "here") is None


def _places(*places):
    return [(seed, jnp.uint32(step), jnp.uint32(shard)) for seed, step, shard in places]


def test_for_each_role_the_first_rule_counts_that_matches_and_names_it():
    narrow, wide = Rounding(parse_format("float8_e5m2")), Rounding(FLOAT32)
    policy = Policy(
        storage=Rounding(FLOAT16),
        compute=Rounding(BFLOAT16),
        rules=(
            Rule("output_.*", (("compute", wide),)),
            Rule(".*", (("storage", narrow),)),
            Rule("output_kernel", (("storage", wide), ("compute", narrow))),
        ),
    )
    assert policy.rounding("storage", "output_kernel") == narrow
    assert policy.rounding("compute", "output_kernel") == wide
    assert policy.rounding("compute", "front_end.kernel") == Rounding(BFLOAT16)
    assert policy.rounding("storage", "an.output_kernel") == narrow, "a pattern matches the whole path"


def test_without_a_master_the_updated_weight_has_the_storage_format_of_its_path():
    rule = Rule("bias", (("storage", Rounding(FLOAT32)),))
    policy = Policy(storage=Rounding(FLOAT16), master=None, update_mode="stochastic", rules=(rule,))
    assert policy.rounding("update", "kernel") == Rounding(FLOAT16, "stochastic")
    assert policy.rounding("update", "bias").is_exact


def test_a_narrow_accumulator_rounds_the_sum_after_each_chunk():
    policy = Policy(accumulate=Rounding(FLOAT16), chunk=4)
    a, b = normal(3, 10), normal(10, 2)
    expected = np.zeros((3, 2), np.float32)
    to_float16 = jax.jit(lambda x: round_to(x, FLOAT16))
    for start in (0, 4, 8):
        part = FLOAT32_POLICY.dot(a[:, start : start + 4], b[start : start + 4])
        expected = to_float16(expected + to_float16(part))
    np.testing.assert_array_equal(compiled(policy.dot, a, b), expected)
    # 2048 + 1 is 2048 in float16, once a product; 4096 exactly if 2048 ones are summed first.
    ones = jnp.ones((1, 4096), jnp.float32)
    assert float(compiled(replace(policy, chunk=1).dot, ones, ones.T)[0, 0]) == 2048.0
    assert float(compiled(replace(policy, chunk=2048).dot, ones, ones.T)[0, 0]) == 4096.0


def test_the_products_of_the_derivative_have_the_narrow_accumulator_too():
    policy = Policy(accumulate=Rounding(FLOAT16), chunk=1)
    ones = jnp.ones((4096, 1), jnp.float32)
    _, pullback = jax.vjp(policy.dot, ones, jnp.ones((1, 1), jnp.float32))
    assert float(pullback(ones)[1][0, 0]) == 2048.0


def test_a_narrow_accumulator_convolves_as_float32_does_but_for_its_rounding():
    x, kernel = normal(2, 6, 5, 3), normal(3, 2, 3, 4)
    options = {"strides": (2, 1), "padding": ((1, 1), (0, 0))}
    exact = FLOAT32_POLICY.convolve(x, kernel, **options)
    narrow = Policy(accumulate=Rounding(FLOAT16), chunk=6).convolve(x, kernel, **options)
    assert not np.array_equal(narrow, exact)
    np.testing.assert_array_equal(narrow, round_to(narrow, FLOAT16))
    np.testing.assert_allclose(narrow, exact, rtol=0, atol=8 * 2.0**-9)  # four roundings of sums up to 8


def test_a_frame_of_an_activation_has_a_scale_of_its_own_and_a_weight_one_a_tensor():
    policy = Policy(storage=Rounding(parse_format("int8")))
    x = normal(5, 40)
    x = x.at[3].mul(100.0)
    store = jax.jit(lambda x: policy.store(x, "place"))
    together = np.asarray(store(x))
    np.testing.assert_array_equal(together[2], store(x[2:3])[0])
    weight = np.asarray(compiled(lambda x: policy.round_weight(x, "w"), x))
    assert len(np.unique(together[2])) > 20
    assert len(np.unique(weight[2])) < 10, "the largest row's scale leaves a small row few codes"


def test_blocks_of_a_weight_lie_along_a_matrix_inputs_and_along_a_convolutions_last_axis_stored_or_computed_with():
    format = parse_format("mxfp8_e4m3")
    spread = 2.0 ** np.random.default_rng(0).integers(-30, 30, (64, 40)).astype(np.float32)
    matrix, kernel = normal(64, 40) * spread, (normal(64, 40) * spread).reshape(2, 4, 8, 40)
    stored, computed = Policy(storage=Rounding(format)), Policy(compute=Rounding(format))

    def along(axis):
        return lambda weight: Rounding(format)(weight, axis=axis)

    for weight, axis in ((matrix, 0), (kernel, 3)):
        expected = compiled(along(axis), weight)
        assert not np.array_equal(expected, compiled(along(1 - axis if axis < 2 else 0), weight))
        np.testing.assert_array_equal(compiled(lambda w: stored.round_weight(w, "w"), weight), expected)
    operand = compiled(lambda w: computed.operand(w, "w", "weight", axis=0), matrix)
    np.testing.assert_array_equal(operand, compiled(along(0), matrix))


def test_a_rule_gives_some_parameters_a_master_an_update_and_an_accumulator_of_their_own():
    rules = (
        Rule("scale", (("master", Rounding(FLOAT32)),)),
        Rule("w", (("update", Rounding(FLOAT32, "stochastic", 8)), ("accumulate", Rounding(FLOAT16))), chunk=4),
    )
    policy = Policy(storage=Rounding(BFLOAT16), master=None, rules=rules)
    assert policy.rounding("master", "scale").is_exact
    assert policy.rounding("update", "scale") == Rounding(FLOAT32)
    assert policy.rounding("update", "w") == Rounding(BFLOAT16, "stochastic", 8), (
        "in the format of the master at that path"
    )
    assert policy.rounding("update", "other") == Rounding(BFLOAT16)
    assert not policy.stores_exactly
    a, b = normal(3, 16), normal(16, 2)
    narrow = Policy(accumulate=Rounding(FLOAT16), chunk=4)
    np.testing.assert_array_equal(policy.dot(a, b, "w"), narrow.dot(a, b, "w"))
    np.testing.assert_array_equal(policy.dot(a, b, "other"), Policy().dot(a, b, "other"))


def test_native_arrays_hold_the_values_that_emulated_ones_hold():
    emulated = Policy(storage=Rounding(FLOAT16), compute=Rounding(FLOAT16), gradient=Rounding(FLOAT16))
    native = replace(emulated, carrier="native")
    x, w, g = normal(6, 40), normal(40, 3), normal(6, 3)

    def network(policy):
        def run(x, w):
            return policy.dot(policy.store(x, "x"), w, "w")

        return run

    def both(policy):
        def run(x, w, g):
            y, pull = jax.vjp(network(policy), x, w)
            return y, pull(g)

        return run

    stored = {policy: compiled(lambda w, p=policy: p.round_weight(w, "w"), w) for policy in (emulated, native)}
    assert stored[native].dtype == native.store(x, "x").dtype == jnp.float16
    np.testing.assert_array_equal(stored[native].astype(jnp.float32), stored[emulated])
    results = {policy: compiled(both(policy), x, stored[policy], g) for policy in (emulated, native)}
    # Products of float16 values are exact in float32; 40 of them are summed in an order of the backend's.
    np.testing.assert_allclose(results[native][0], results[emulated][0], rtol=1e-5, atol=1e-5)
    (dx, dw), (true_dx, true_dw) = results[native][1], results[emulated][1]
    np.testing.assert_allclose(dx, true_dx, rtol=2.0**-10, atol=1e-5)
    assert dw.dtype == jnp.float16
    np.testing.assert_allclose(dw.astype(jnp.float32), true_dw, rtol=2.0**-10, atol=1e-5)


def products_and_gradients(policy, *, at_once):
    """Three products of one input, and what flows back, from `dots` or from three calls of `dot`."""
    random = np.random.default_rng(0)
    a = jnp.asarray(random.standard_normal((5, 12)), jnp.float32)
    weights = [jnp.asarray(random.standard_normal((12, n)), jnp.float32) for n in (3, 3, 4)]
    incoming = [jnp.asarray(random.standard_normal((5, n)), jnp.float32) for n in (3, 3, 4)]
    paths = ["w_r", "w_z", "w_n"]

    def products(a, weights):
        if at_once:
            return policy.dots(a, weights, paths)
        return [policy.dot(a, w, path) for w, path in zip(weights, paths, strict=True)]

    def both(a, weights):
        y, pull = jax.vjp(products, a, weights)
        return y, pull(incoming)

    return jax.jit(both), (a, weights)


def test_products_side_by_side_are_those_of_each_weight():
    for policy in (
        FLOAT32_POLICY,
        Policy(compute=Rounding(BFLOAT16)),
        Policy(compute=Rounding(FLOAT16), carrier="native"),
    ):
        (at_once, arrays), (one_by_one, _) = (products_and_gradients(policy, at_once=flag) for flag in (True, False))
        assert sum(e.primitive.name == "dot_general" for e in flat_equations(jax.make_jaxpr(at_once)(*arrays))) == 3
        for x, y in zip(jax.tree.leaves(at_once(*arrays)), jax.tree.leaves(one_by_one(*arrays)), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)  # sums of 12 values of order 1, in another order


def test_products_with_narrow_sums_scales_or_random_bits_stay_one_by_one():
    """A narrow running sum over three weights' columns, or a scale of all three, would be another definition."""
    for policy in (
        Policy(accumulate=Rounding(FLOAT16), chunk=4),
        Policy(compute=Rounding(parse_format("int8"))),
        Policy(compute=Rounding(BFLOAT16), rules=(Rule("w_n", (("compute", Rounding(FLOAT16)),)),)),
    ):
        (at_once, arrays), (one_by_one, _) = (products_and_gradients(policy, at_once=flag) for flag in (True, False))
        for x, y in zip(jax.tree.leaves(at_once(*arrays)), jax.tree.leaves(one_by_one(*arrays)), strict=True):
            np.testing.assert_array_equal(x, y)


def flat_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value if hasattr(value, "eqns") else None)
            if inner is not None:
                yield from flat_equations(inner)
