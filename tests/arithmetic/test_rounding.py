"""The rounding kernel, bit by bit: against ml_dtypes and NumPy, against gfloat, against exact fractions, and by enumeration.

Nothing here is statistical: where bits are random, all of them are tried, or they are given to both sides.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dsrun.arithmetic.formats import BFLOAT16, FLOAT8_E4M3FN, FLOAT8_E5M2, FLOAT16, FLOAT32, MODES, parse_format
from dsrun.arithmetic.random_bits import draw, fold_in, make_key
from dsrun.arithmetic.rounding import float32_bits, round_on_grid, round_to
from dsrun.arithmetic.scalar import round_scalar
from tests.reference.rounding import (
    FAMILY,
    FIXED,
    GFLOAT_MODE,
    REAL,
    TABLE,
    cast,
    decoded,
    gfloat_round,
    hard_patterns,
    mismatches,
    pattern,
    twin,
)

DETERMINISTIC = [mode for mode in MODES if not mode.startswith("stochastic")]
# What ml_dtypes and gfloat do not have, or not in this shape: exact fractions are the oracle.
OTHERS = [
    *(parse_format(name) for name in ("tensorfloat32", "float_e6m5", "float_e2m1", "float_e5m23", "float_e7m22")),
    *(parse_format(name, subnormals=False) for name in ("float_e8m7", "float_e4m3", "float_e5m10")),
    *(parse_format(name, overflow="nan") for name in ("float16", "float8_e5m2")),
    *(parse_format(name, overflow="saturate") for name in ("float32", "bfloat16", "float8_e4m3fn", "float_e6m5")),
    *(parse_format(name) for name in ("fixed_q2.14", "fixed_q8.8", "fixed_q1.1", "fixed_q1.24", "fixed_q25.0")),
    *(parse_format(name, overflow="wrap") for name in ("fixed_q2.14", "fixed_q8.8", "fixed_q1.24", "fixed_q25.0")),
]


def name_of(format):
    rest = "" if getattr(format, "subnormals", True) else "-without-subnormals"
    return f"{format}-{format.overflow}{rest}"


def words(count, seed=0):
    """Random bits that owe nothing to our own generator."""
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


def kernel(x, format, mode="ties_to_even", **options):
    return np.asarray(round_on_grid(jnp.asarray(x, jnp.float32), format, mode=mode, **options))


@pytest.mark.parametrize("format", TABLE + FAMILY + FIXED, ids=str)
def test_every_value_of_a_format_rounds_to_itself_in_every_mode_with_any_random_bits(format):
    values = np.resize(decoded(format), 1 << 16)
    for mode in DETERMINISTIC:
        assert mismatches(kernel(values, format, mode), values) == 0, mode
    for bits in (np.zeros_like(values, np.uint32), np.full(values.shape, 2**32 - 1, np.uint32), words(values.size)):
        assert mismatches(kernel(values, format, "stochastic_equal", bits=jnp.asarray(bits)), values) == 0
        for count in (1, 24, 31):
            rounded = kernel(values, format, "stochastic", bits=jnp.asarray(bits), random_bits=count)
            assert mismatches(rounded, values) == 0, count


@pytest.mark.parametrize("format", [format for format in TABLE + FIXED if format.bits <= 8], ids=str)
def test_the_scalar_twin_also_leaves_every_value_alone(format):
    values = decoded(format)
    for mode in MODES:
        for random in (0, 2**24 - 1, 2**23 + 12345):
            assert mismatches(twin(values, format, mode, random=np.full(values.shape, random)), values) == 0, mode


@pytest.mark.parametrize("format", REAL, ids=str)
def test_ties_to_even_equals_the_real_cast_on_all_high_halves_and_fourteen_low_halves(format):
    x = hard_patterns()
    got, expected = kernel(x, format), cast(x, format)
    if format.nan:
        assert mismatches(got, expected) == 0
    else:
        # ml_dtypes gives -0 or 0 for a NaN where the format has none; here a NaN stays visible.
        is_nan = np.isnan(x)
        assert mismatches(got[~is_nan], expected[~is_nan]) == 0
        assert np.isnan(got[is_nan]).all()
        assert not expected[is_nan].any()


def test_a_nan_keeps_its_sign_and_payload_and_becomes_quiet():
    nans = np.array([0x7F80_0001, 0x7FFF_FFFF, 0xFF80_0001, 0x7FC0_1234], np.uint32)
    for format in (FLOAT16, BFLOAT16, FLOAT8_E4M3FN, parse_format("float4_e2m1fn"), parse_format("fixed_q8.8")):
        for (
            mode
        ) in MODES:  # the popular way, adding random bits and cutting, makes -0 of the second and inf of the first
            rounded = kernel(nans.view(np.float32), format, mode, bits=jnp.full(4, 2**32 - 1, jnp.uint32))
            np.testing.assert_array_equal(rounded.view(np.uint32), nans | np.uint32(0x0040_0000))


@pytest.mark.parametrize("mode", GFLOAT_MODE)
@pytest.mark.parametrize("format", TABLE, ids=str)
def test_every_mode_equals_gfloat_on_all_high_halves_and_fourteen_low_halves(format, mode):
    check_against_gfloat(hard_patterns(), format, mode)


@pytest.mark.parametrize("mode", GFLOAT_MODE)
@pytest.mark.parametrize("format", FAMILY + [replace(f, overflow="saturate") for f in TABLE if f.nan], ids=name_of)
def test_the_family_and_saturating_formats_equal_gfloat_on_an_eleventh_of_the_patterns(format, mode):
    check_against_gfloat(hard_patterns()[::11], format, mode)


def check_against_gfloat(x, format, mode):
    if mode != "stochastic":
        assert mismatches(kernel(x, format, mode), gfloat_round(x, format, mode)) == 0
        return
    bits = words(x.size)
    for count in (8, 16, 23):
        given = (bits >> np.uint32(32 - count)).astype(np.int64)
        expected = gfloat_round(x, format, mode, random=given, random_bits=count)
        assert mismatches(kernel(x, format, mode, bits=jnp.asarray(bits), random_bits=count), expected) == 0, count


def hard_values(format):
    """Where a rounding goes wrong: some values of the grid, their midpoints, both float32 neighbours of each, and the range's ends."""
    largest, smallest = format.max_value, format.smallest_positive
    random = np.random.default_rng(1)
    exponents = np.linspace(math.log2(smallest) - 3, math.log2(max(largest, -format.min_value)) + 1.5, 60)
    anywhere = np.minimum(2.0**exponents * random.uniform(1, 2, 60), 3.4e38).astype(np.float32)
    down, away = (
        [round_scalar(v, format, mode) for v in anywhere.tolist()] for mode in ("toward_zero", "toward_positive")
    )
    grid = [v for v in (*down, *away, largest, smallest, getattr(format, "smallest_normal", 1.0)) if math.isfinite(v)]
    with np.errstate(over="ignore"):
        midpoints = [(low + high) / 2 for low, high in zip(down, away, strict=True) if math.isfinite(low + high)]
        points = np.array([*grid, *midpoints, -format.min_value, 1.5 * largest, smallest / 2, smallest / 4], np.float32)
        x = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))])
    x = np.concatenate([x, anywhere, np.array([0, np.inf, np.nan, 1e-45, 3.4028235e38], np.float32)])
    return np.resize(np.concatenate([x, -x]), 1024)


@pytest.mark.parametrize("format", OTHERS, ids=name_of)
def test_the_kernel_equals_exact_fractions_in_every_mode(format):
    x = np.concatenate([hard_values(format), hard_patterns()[:: len(hard_patterns()) // 511]])
    x = x[: 1024 + 512]
    for mode in MODES:
        bits = words(x.size)
        count = 24 if mode != "stochastic" else 13
        options = {"random_bits": count} if mode == "stochastic" else {}
        got = kernel(x, format, mode, bits=jnp.asarray(bits), **options)
        expected = twin(x, format, mode, random=bits >> np.uint32(32 - count), random_bits=count)
        assert mismatches(got, expected) == 0, mode


@settings(max_examples=300, deadline=None)
@given(
    x=st.floats(width=32),
    format=st.sampled_from(OTHERS + TABLE + FAMILY),
    mode=st.sampled_from(MODES),
    word=st.integers(0, 2**32 - 1),
    count=st.integers(1, 31),
)
def test_any_number_in_any_format_and_mode_equals_the_exact_fraction(x, format, mode, word, count):
    options = {"random_bits": count} if mode == "stochastic" else {}
    got = kernel(np.float32([x]), format, mode, bits=jnp.asarray([word], jnp.uint32), **options)
    expected = round_scalar(x, format, mode, random=word >> (32 - count), random_bits=count)
    assert mismatches(got, np.float32([expected])) == 0


# Stochastic rounding, by enumeration.


def ups(x, format, count):
    """How many of all 2**count random values send x away from zero."""
    random = np.arange(2**count, dtype=np.uint32)
    rounded = kernel(
        np.full(random.shape, x),
        format,
        "stochastic",
        bits=jnp.asarray(random << np.uint32(32 - count)),
        random_bits=count,
    )
    down, up = (
        abs(round_scalar(float(x), format, mode))
        for mode in ("toward_zero", "toward_positive" if x > 0 else "toward_negative")
    )
    assert set(np.abs(rounded).tolist()) <= {down, up}
    return int(np.sum(np.abs(rounded) == up)) if up != down else 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("format", "dropped", "tails", "base"),
    [
        (BFLOAT16, 16, (0, 1, 1000, 0x7FFF, 0x8000, 0xFFFF), 0x3F80_0000),
        (BFLOAT16, 16, (1, 1000, 0xFFFF), 0x0001_0000),  # bfloat16's subnormals are float32's
        (FLOAT16, 13, (0, 1, 1000, 4096, 8191), 0x4248_0000),
        (FLOAT16, 15, (1, 1000, 0x7FFF), float32_bits(2.0**-16)),  # subnormal: 2 bits fewer of precision
        (FLOAT8_E5M2, 21, (1, 2**20, 2**21 - 1), 0x3F80_0000),
        (FLOAT8_E4M3FN, 20, (1, 12345, 2**20 - 1), 0x3F80_0000),
        (parse_format("fixed_q8.8"), 15, (1, 1000, 2**15 - 1), 0x3F80_0000),
    ],
    ids=str,
)
def test_the_number_of_ups_over_all_random_values_is_the_dropped_tail(format, dropped, tails, base, sign):
    for tail in tails:
        x = sign * np.uint32(base + tail).view(np.float32)
        assert ups(x, format, dropped) == tail


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_random_bits_cut_the_probability_down_to_their_own_width(count):
    for tail in (1, 1000, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xFFFF):
        x = np.uint32(0x3F80_0000 + tail).view(np.float32)
        assert ups(x, BFLOAT16, count) == tail * 2**count // 2**16


@pytest.mark.parametrize(
    ("count", "end"), [(1, 100.0), (2, 100.0), (3, 100.78125), (4, 100.78125), (8, 100.9765625), (10, 100.994873046875)]
)
def test_the_mean_of_a_hundred_hundredths_in_float16_falls_short_by_what_few_bits_cut(count, end):
    # 0.01 is 0.16 of float16's spacing at 100: the chance is that number cut to `count` bits.
    chance = ups(np.float32(100.01), FLOAT16, count) / 2**count
    assert 100 + 100 * chance * 0.0625 == end


def test_below_the_smallest_subnormal_the_chance_of_a_move_is_the_value_itself():
    assert ups(np.float32(1.5 * 2.0**-30), FLOAT16, 16) == 2**16 * 1.5 * 2.0**-30 / 2.0**-24
    assert ups(np.float32(2.0**-60), FLOAT16, 16) == 0
    assert ups(np.float32(2.0**-10), parse_format("float_e4m3", subnormals=False), 16) == 2**12


def test_the_chance_of_infinity_in_the_last_interval_is_the_distance_from_the_largest_value():
    x = np.float32(65504 + 8)  # a quarter of the spacing, 32
    random = jnp.arange(2**8, dtype=jnp.uint32) << jnp.uint32(24)
    rounded = kernel(np.full(2**8, x), FLOAT16, "stochastic", bits=random, random_bits=8)
    assert np.isinf(rounded).sum() == 2**8 // 4
    saturating = kernel(
        np.full(2**8, x), replace(FLOAT16, overflow="saturate"), "stochastic", bits=random, random_bits=8
    )
    assert (saturating == 65504).all()


@pytest.mark.parametrize("format", [BFLOAT16, FLOAT16, FLOAT8_E4M3FN, parse_format("fixed_q4.12")], ids=str)
def test_the_same_random_bits_never_swap_two_values_and_do_not_see_the_sign(format):
    x = np.sort(
        np.concatenate([hard_values(FLOAT16), np.random.default_rng(3).standard_normal(3072).astype(np.float32)])
    )
    x = x[np.isfinite(x) & (np.abs(x) < 7)]
    for word in (0, 1, 2**31, 2**32 - 1, 0x1234_5678, 0xDEAD_BEEF):
        bits = jnp.full(x.shape, word, jnp.uint32)
        for mode in ("stochastic", "stochastic_equal"):
            positive = kernel(np.abs(x), format, mode, bits=bits)
            assert (np.diff(positive[np.argsort(np.abs(x))]) >= 0).all()
            negative = kernel(-np.abs(x), format, mode, bits=bits)
            np.testing.assert_array_equal(negative, -positive)


@pytest.mark.parametrize("format", [BFLOAT16, FLOAT16, FLOAT8_E4M3FN, parse_format("fixed_q4.12")], ids=str)
def test_a_stochastic_result_is_one_of_the_two_directed_results(format):
    x = np.random.default_rng(4).standard_normal(4096).astype(np.float32)
    low, high = kernel(x, format, "toward_negative"), kernel(x, format, "toward_positive")
    for mode in ("stochastic", "stochastic_equal"):
        rounded = kernel(x, format, mode, bits=jnp.asarray(words(x.size)))
        assert ((rounded == low) | (rounded == high)).all()


def test_scaling_by_a_power_of_two_commutes_with_rounding_within_the_range():
    x = np.random.default_rng(5).uniform(1, 2, 4096).astype(np.float32)
    bits = jnp.asarray(words(x.size))
    for mode in MODES:
        rounded = kernel(x, FLOAT16, mode, bits=bits)
        for exponent in (-13, -5, 3, 14):
            scale = np.float32(2.0**exponent)
            np.testing.assert_array_equal(kernel(x * scale, FLOAT16, mode, bits=bits), rounded * scale)


def test_stochastic_equal_goes_away_for_exactly_half_of_the_random_words_wherever_x_lies():
    random = jnp.arange(2**16, dtype=jnp.uint32) << jnp.uint32(16)
    for tail in (1, 1000, 0x8000, 0xFFFF):
        x = np.uint32(0x3F80_0000 + tail).view(np.float32)
        rounded = kernel(np.full(2**16, x), BFLOAT16, "stochastic_equal", bits=random)
        assert (rounded == np.float32(1 + 2.0**-7)).sum() == 2**15
    deep = kernel(np.full(2**16, 1e-45, np.float32), FLOAT16, "stochastic_equal", bits=random)
    assert (pattern(deep) == float32_bits(2.0**-24)).sum() == 2**15


# Known answers.


@pytest.mark.parametrize(
    ("x", "name", "mode", "expected"),
    [
        (65519.996, "float16", "ties_to_even", 65504.0),
        (65520.0, "float16", "ties_to_even", math.inf),
        (-65520.0, "float16", "ties_to_even", -math.inf),
        (65520.0, "float16", "toward_zero", 65504.0),
        (1e30, "float16", "toward_negative", 65504.0),
        (-1e30, "float16", "toward_positive", -65504.0),
        (-1e30, "float16", "toward_negative", -math.inf),
        (6.102146e-05, "float16", "ties_to_even", 2.0**-14),  # the carry out of the subnormals
        (2.0**-25, "float16", "ties_to_even", 0.0),
        (2.0**-25, "float16", "ties_to_away", 2.0**-24),
        (3 * 2.0**-25, "float16", "ties_to_even", 2.0**-23),
        (464.0, "float8_e4m3fn", "ties_to_even", 448.0),
        (464.00003, "float8_e4m3fn", "ties_to_even", math.nan),
        (464.0, "float8_e4m3fn", "ties_to_away", math.nan),
        (math.inf, "float8_e4m3fn", "toward_zero", math.nan),
        (400.0, "float8_e4m3fn", "ties_to_even", 384.0),
        (400.0, "float8_e4m3fn", "ties_to_away", 416.0),
        (61439.0, "float8_e5m2", "ties_to_even", 57344.0),
        (61440.0, "float8_e5m2", "ties_to_even", math.inf),
        (130816.0, "float16", "ties_to_even", math.inf),
        (3.0, "float32", "ties_to_even", 3.0),
        (1e9, "float4_e2m1fn", "ties_to_even", 6.0),
        (-math.inf, "float4_e2m1fn", "toward_zero", -6.0),
        (2.0, "fixed_q2.14", "ties_to_even", 2.0 - 2.0**-14),
        (-3.0, "fixed_q2.14", "ties_to_even", -2.0),
        (-0.0, "fixed_q2.14", "ties_to_even", 0.0),
        (-1e-9, "float8_e4m3fnuz", "ties_to_even", 0.0),
        (-1e-9, "float8_e4m3fn", "ties_to_even", -0.0),
    ],
)
def test_a_known_answer_is_given_by_the_kernel_and_by_the_twin(x, name, mode, expected):
    format = parse_format(name)
    answer = np.float32([expected])
    assert mismatches(round_to(jnp.float32([x]), format, mode=mode), answer) == 0
    assert mismatches(np.float32([round_scalar(float(np.float32(x)), format, mode)]), answer) == 0


@pytest.mark.parametrize(
    ("name", "midpoint", "expected"), [("float8_e4m3fn", 464.00003, 448.0), ("float16", 65520.0, 65504.0)]
)
def test_a_saturating_format_ends_at_its_largest_value(name, midpoint, expected):
    format = parse_format(name, overflow="saturate")
    for x in (midpoint, 1e38, math.inf):
        for sign in (1, -1):
            assert float(round_to(jnp.float32(sign * x), format)) == sign * expected


def test_wrapping_is_twos_complement():
    format = parse_format("fixed_q8.8", overflow="wrap")
    x = np.float32([127.99609375, 128.0, 128.5, -128.5, 256.0, 300.25, 1e6, 2.0**30, 3e38])
    expected = np.float32([127.99609375, -128.0, -127.5, 127.5, 0.0, 44.25, 64.0, 0.0, 0.0])
    np.testing.assert_array_equal(kernel(x, format), expected)
    assert np.isnan(kernel(np.float32([np.inf, -np.inf]), format)).all()


def test_a_carry_into_the_next_binade_is_kept_in_every_binade():
    for exponent in range(-14, 15):
        just_below = np.nextafter(np.float32(2.0 ** (exponent + 1)), np.float32(0))
        assert kernel(just_below[None], FLOAT16)[0] == 2.0 ** (exponent + 1)


def test_rounding_a_float64_through_float32_is_a_second_rounding():
    x = 1 + 2.0**-11 + 2.0**-40
    assert round_scalar(x, FLOAT16, "ties_to_even") == 1.0009765625
    assert float(round_to(jnp.float32(x), FLOAT16)) == 1.0


def test_rounding_to_float32_is_the_identity_and_adds_no_operation():
    assert not jax.make_jaxpr(lambda v: round_to(v, FLOAT32))(jnp.ones(3)).eqns


# The same bits everywhere.

SAME_EVERYWHERE = [
    parse_format(name)
    for name in ("float16", "bfloat16", "float8_e4m3fn", "fixed_q2.14", "int8", "mxfp8_e4m3", "ternary", "binary")
] + [parse_format(name, granularity="channel") for name in ("int4", "ternary")]
KEY = fold_in(make_key(7, "update", "gru_0_forward.u_r"), 12)


def options_of(mode):
    return {"mode": mode, "key": KEY if mode.startswith("stochastic") else None}


def some_values(shape):
    return np.random.default_rng(6).standard_normal(shape).astype(np.float32) * np.float32(0.37)


@pytest.mark.parametrize("mode", ["ties_to_even", "stochastic"])
@pytest.mark.parametrize("format", SAME_EVERYWHERE, ids=str)
def test_jit_and_sharding_over_four_devices_give_the_eager_bits(format, mode):
    x = some_values((8, 96))
    eager = round_to(jnp.asarray(x), format, **options_of(mode))
    compiled = jax.jit(lambda v: round_to(v, format, **options_of(mode)))
    assert mismatches(compiled(x), eager) == 0
    mesh = Mesh(np.array(jax.devices()[:4]), ("part",))
    for spec in (PartitionSpec("part"), PartitionSpec(None, "part")):
        sharded = jax.device_put(x, NamedSharding(mesh, spec))
        assert mismatches(compiled(sharded), eager) == 0


@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16, parse_format("fixed_q2.14")], ids=str)
def test_shard_map_and_vmap_draw_what_the_whole_draws_when_told_where_they_start(format):
    x = some_values((8, 96))
    whole = round_on_grid(jnp.asarray(x), format, mode="stochastic", bits=draw(KEY, x.shape))
    assert mismatches(round_to(jnp.asarray(x), format, mode="stochastic", key=KEY), whole) == 0

    def of_a_part(part):
        start = jax.lax.axis_index("part").astype(jnp.uint32) * jnp.uint32(part.size)
        return round_on_grid(part, format, mode="stochastic", bits=draw(KEY, part.shape, start=start))

    mesh = Mesh(np.array(jax.devices()[:4]), ("part",))
    mapped = jax.shard_map(of_a_part, mesh=mesh, in_specs=PartitionSpec("part"), out_specs=PartitionSpec("part"))
    assert mismatches(jax.jit(mapped)(x), whole) == 0

    def of_a_row(row, number):
        bits = draw(KEY, row.shape, start=number * jnp.uint32(96))
        return round_on_grid(row, format, mode="stochastic", bits=bits)

    assert mismatches(jax.vmap(of_a_row)(jnp.asarray(x), jnp.arange(8, dtype=jnp.uint32)), whole) == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_kernel_under_jit_and_vmap_gives_the_eager_bits_on_hard_patterns(mode):
    x = hard_patterns()[::113][:8000]
    bits = jnp.asarray(words(x.size))
    for format in (FLOAT16, BFLOAT16, parse_format("fixed_q8.8", overflow="wrap")):

        def rounded(v, r, format=format):
            return round_on_grid(v, format, mode=mode, bits=r)

        eager = rounded(jnp.asarray(x), bits)
        assert mismatches(jax.jit(rounded)(x, bits), eager) == 0
        assert mismatches(jax.vmap(rounded)(x.reshape(8, -1), bits.reshape(8, -1)).reshape(-1), eager) == 0


# What a caller can get wrong.


@pytest.mark.parametrize("mode", ["stochastic", "stochastic_equal"])
@pytest.mark.parametrize("format", [FLOAT16, FLOAT32], ids=str)
def test_a_mode_that_draws_asks_for_its_key(format, mode):
    with pytest.raises(ValueError, match=f"{mode} draws random bits; give key"):
        round_to(jnp.ones(2), format, mode=mode)


@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_a_key_is_refused_where_nothing_is_drawn(mode):
    with pytest.raises(ValueError, match=f"{mode} draws no random bits"):
        round_to(jnp.ones(2), FLOAT16, mode=mode, key=KEY)


@pytest.mark.parametrize(
    ("mode", "options", "text"),
    [
        ("nearest", {}, "ambiguous"),
        ("up", {}, "unknown rounding 'up'"),
        ("stochastic", {"key": KEY, "random_bits": 32}, "1 to 31"),
        ("toward_zero", {"random_bits": 8}, "draws none"),
    ],
)
def test_a_mode_or_width_that_does_not_exist_is_refused(mode, options, text):
    with pytest.raises(ValueError, match=text):
        round_to(jnp.ones(2), FLOAT16, mode=mode, **options)


def test_a_mode_that_the_twin_does_not_know_is_refused():
    with pytest.raises(ValueError, match="unknown rounding 'nearest'"):
        round_scalar(1.1, FLOAT16, "nearest")
