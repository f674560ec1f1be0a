"""The deployed network: against the trained one, against NumPy to the bit, integers against their float32 twins."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.deploy.codes import LARGEST_CODE, Coding, most_inputs, scale_reaching
from dsrun.deploy.folding import FloatProduct
from dsrun.deploy.network import EXACT_INPUTS, _convolve, encode, logits, multiplied
from dsrun.deploy.quantized import product_arrays
from dsrun.model import apply
from tests.deploy.networks import CONVOLUTIONS, STACK, quantized, small, speech, weights_of
from tests.reference import deployed

LENGTHS = (31, 17, 1, 0)
SHAPES = {
    "bidirectional": small(),
    "convolutions, streaming": small(CONVOLUTIONS, direction="forward", lookahead=3, normalization="none", bins=9),
}
LAYER = small(normalization="layer", direction="forward")  # half the layers to compile, where that is all the same


def run(network, arrays, features, num_frames):
    scores, counts = jax.jit(partial(logits, network))(arrays, features, num_frames)
    return np.asarray(scores), np.asarray(counts)


@pytest.mark.parametrize("settings", [SHAPES["bidirectional"], LAYER], ids=["batch", "layer"])
def test_in_float32_it_computes_what_evaluation_of_the_run_computes(settings):
    network, arrays = quantized(settings, "float32")
    features, num_frames = speech(settings, LENGTHS)
    weights, statistics = weights_of(settings)
    inputs = jnp.asarray(features), jnp.asarray(num_frames)
    wanted = jax.jit(partial(apply, settings, FLOAT32_POLICY, mode="evaluate"))(weights, statistics, *inputs)
    scores, counts = run(network, arrays, features, num_frames)
    assert counts.tolist() == wanted.num_frames.tolist()
    for row, count in enumerate(counts):
        np.testing.assert_allclose(scores[row, :count], np.asarray(wanted.logits)[row, :count], atol=2e-5)


@pytest.mark.parametrize("format", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES)
def test_integer_products_and_float32_twins_equal_numpy_to_the_bit(settings, format):
    network, arrays = quantized(settings, format, granularity="channel" if format == "int4" else "layer")
    assert network.is_exact
    features, num_frames = speech(settings, LENGTHS)
    scores, counts = run(network, arrays, features, num_frames)
    for row, count in enumerate(counts[:3]):
        wanted = deployed.logits(settings, arrays, features[row, : num_frames[row]])
        assert scores[row, :count].tobytes() == wanted.tobytes(), row
    if format == "int8":
        assert run(network.twin(), arrays, features, num_frames)[0].tobytes() == scores.tobytes()


def test_codes_made_in_a_program_are_numpys_on_a_million_values():
    # Divided by the scale instead of multiplied by the stored reciprocal, some of these would lie on the other side of a half.
    rng = np.random.default_rng(8)
    for scale in (0.0301, 0.00787, 0.0157):
        coding = Coding("int8", scale_reaching(np.array(127 * scale), 127))
        halves = (rng.integers(-120, 120, 300_000) + 0.5) * float(coding.scale)
        x = np.nextafter(halves.astype(np.float32), rng.choice([-9, 9], halves.size).astype(np.float32))
        x = np.concatenate([x, halves.astype(np.float32)])
        own = {"inverse_scale": coding.inverse_scale, "zero_point": np.float32(0)}
        found = jax.jit(partial(encode, format="int8"))(x, jax.tree.map(jnp.asarray, own))
        assert np.array_equal(np.asarray(found), coding.encode(x))


def test_a_long_sum_of_the_largest_codes_is_exact_in_integers_and_in_the_twin():
    # One float32 sum of 3,000 products 127 * 127 is beyond 2**24 and odd: it would be rounded.
    inputs = 3001
    assert inputs * 127 * 127 > 2**24
    assert inputs > EXACT_INPUTS
    weight = np.full((inputs, 3), 127, np.int8)
    for multiply in ("integer", "float32"):
        for rows in ((2,), (1,), (1, 1), (1, 3)):  # fewer than four are multiplied among rows of zeros
            codes = np.full((*rows, inputs), 127, np.int8)
            found = jax.jit(partial(multiplied, format="int8", multiply=multiply))(codes, weight)
            assert found.shape == (*rows, 3)
            assert (np.asarray(found) == inputs * 127 * 127).all()


@pytest.mark.parametrize(
    ("rows", "multiplied_rows"), [((1,), 4), ((3,), 4), ((4,), 4), ((9,), 9), ((1, 1), 4), ((5, 1), 1)]
)
def test_integer_products_have_four_rows_at_least_and_no_others_are_padded(rows, multiplied_rows):
    inputs = jnp.ones((*rows, 6), jnp.int8), jnp.ones((6, 3), jnp.int8)
    lines = str(jax.make_jaxpr(partial(multiplied, format="int8"))(*inputs))
    dot = next(line for line in lines.splitlines() if "dot_general" in line)
    assert f"{','.join(map(str, (*rows[:-1], multiplied_rows, 3)))}]" in dot
    assert ("pad" in lines) == (multiplied_rows != rows[-1])


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_sum_that_could_wrap_is_refused_and_the_longest_other_one_does_not(format):
    def product(inputs):
        ones = np.ones(1, np.float32)
        return FloatProduct(np.ones((inputs, 1), np.float32), ones, ones, gates=1, source="", is_normalized=False)

    # The worst case: a zero point of the largest code, and the sum of products and the one of the zero point of one sign.
    affine = Coding("int8", np.ones((), np.float32), zero_point=-127)
    take = partial(product_arrays, format=format, inputs=affine, granularity="layer", method="absmax")
    most = most_inputs(format)
    found, _ = take(product(most))
    codes = jnp.full((1, most), 127, jnp.int8)
    sums = multiplied(codes, found["weight"], format)[0] + found["offset"]
    assert int(sums[0]) == most * 2 * 127 * LARGEST_CODE[format] < 2**31
    assert (most + 1) * 2 * 127 * LARGEST_CODE[format] >= 2**31
    with pytest.raises(ValueError, match=f"{most + 1} inputs, whose int32 sum could wrap"):
        take(product(most + 1))


def test_a_convolution_over_many_channels_is_exact_in_integers_and_in_the_twin():
    rng = np.random.default_rng(0)
    codes = rng.integers(120, 128, (1, 13, 23, 32)).astype(np.int8)
    weight = rng.integers(120, 128, (11, 21, 32, 2)).astype(np.int8)
    wanted = np.einsum("ijk,ijko->o", codes[0, :11, :21].astype(np.int64), weight.astype(np.int64))
    for multiply in ("integer", "float32"):
        found = jax.jit(partial(_convolve, strides=(1, 2), format="int8", multiply=multiply))(codes, weight)
        assert np.asarray(found)[0, 0, 0].tolist() == wanted.tolist()


def test_an_utterance_has_the_same_bits_whoever_shares_its_batch_and_however_it_is_padded():
    settings = SHAPES["bidirectional"]
    network, arrays = quantized(settings, "int8")
    features, num_frames = speech(settings, LENGTHS)
    together, counts = run(network, arrays, features, num_frames)
    for row in range(3):
        padded = np.pad(features[row : row + 1], ((0, 2), (0, 8), (0, 0)), constant_values=np.inf)
        alone, _ = run(network, arrays, padded, np.array([num_frames[row], 0, 3], np.int32))
        assert alone[0, : counts[row]].tobytes() == together[row, : counts[row]].tobytes()


@pytest.mark.parametrize("format", ["float16", pytest.param("float8_e4m3fn", marks=pytest.mark.slow), "int8"])
def test_fewer_bits_are_further_from_float32_but_not_far(format):
    # Bounds are some four times what these weights gave; a scale applied twice or a gate left out is off by more than 1.
    settings = small(STACK, direction="forward")
    batch = speech(settings, LENGTHS)
    wanted, counts = run(*quantized(settings, "float32"), *batch)
    found, _ = run(*quantized(settings, format), *batch)
    error = max(np.abs(found[row, :count] - wanted[row, :count]).max() for row, count in enumerate(counts) if count)
    bound = {"float16": 4e-3, "float8_e4m3fn": 0.3, "int8": 0.1}[format]
    assert bound / 300 < error < bound


def test_one_product_alone_can_be_quantised():
    settings = small(STACK, direction="forward")
    batch = speech(settings, LENGTHS)
    plain, _ = run(*quantized(settings, "float32"), *batch)
    network, arrays = quantized(settings, "int4", only=("gru_1_forward.u",))
    found, _ = run(network, arrays, *batch)
    assert not network.is_exact
    assert 0 < np.abs(found[0] - plain[0]).max() < 0.5
