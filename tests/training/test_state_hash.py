"""The hash sees every bit of every element, and nothing but bits and places."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_step import make_step

from dsrun.arithmetic.random_bits import MULTIPLIER_1, MULTIPLIER_2
from dsrun.errors import DevicesDisagreeError
from dsrun.training.state_digest import empty_dicts, flatten, unflatten
from dsrun.training.state_hash import (
    StateHasher,
    as_words,
    hash_tensors,
    require_equal_copies,
    tensor_meanings,
    tensor_names,
)

DTYPES = (
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "int32", "uint32", "int16",
    "uint8", "int8", "int4", "bool",
)  # fmt: skip
hash_of_tensors = jax.jit(hash_tensors)


def hash_of(x) -> int:
    """Hash of one array."""
    return int(as_words(hash_of_tensors({"x": jnp.asarray(x)}))[0])


def reference(x: np.ndarray) -> int:
    """The same with Python's integers, after the module's formulas."""
    mask, lanes = 2**32 - 1, [0, 0]
    width = {1: np.uint8, 2: np.uint16, 4: np.uint32}[x.itemsize]
    for place, bits in enumerate(np.ascontiguousarray(x).view(width).ravel().tolist()):
        w = (bits + (place + 1) * 0x9E3779B1) & mask
        t = (w ^ w >> 16) * MULTIPLIER_1 & mask
        t ^= t >> 15
        first, second = t * MULTIPLIER_2 & mask, (t ^ t >> 13) * MULTIPLIER_1 & mask
        lanes = [(lanes[0] + (first ^ first >> 16)) & mask, (lanes[1] + (second ^ second >> 15)) & mask]
    return lanes[0] | lanes[1] << 32


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "int32"])
def test_the_hash_is_the_formula_of_the_module(dtype):
    x = np.random.default_rng(0).standard_normal((5, 7)) * 50
    assert hash_of(x.astype(jnp.dtype(dtype))) == reference(x.astype(jnp.dtype(dtype)))


def some_values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 6, shape)
    return values.astype(bool if dtype == "bool" else jnp.dtype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_single_bit_of_each_element_changes_both_lanes(dtype):
    x = some_values(dtype, (3, 4))
    bits = 1 if dtype == "bool" else (ml_dtypes.iinfo if "int" in dtype else ml_dtypes.finfo)(x.dtype).bits
    lanes = np.asarray(hash_of_tensors({"x": jnp.asarray(x)}))[0]
    found = set()
    for place in range(x.size):
        for bit in range(bits):
            flipped = x.copy()
            raw = flipped.view(f"u{x.itemsize}").reshape(-1)
            raw[place] ^= raw.dtype.type(1 << bit)
            other = np.asarray(hash_of_tensors({"x": jnp.asarray(flipped)}))[0]
            assert (other != lanes).all(), (place, bit)
            found.add(tuple(other.tolist()))
    assert len(found) == x.size * bits


def test_zeros_of_either_sign_nans_with_payloads_and_places_are_told_apart():
    nans = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)
    arrays = [np.float32([0, -0.0]), np.float32([-0.0, 0]), *(np.float32([nan, 1]) for nan in nans)]
    arrays += [np.float32([1, 2, 3]), np.float32([2, 1, 3]), np.float32([1, 3, 2]), np.float32([0, 1, 2, 3])]
    arrays += [np.float32([]), np.float32([0]), np.float32([0, 0, 0])]
    assert len({hash_of(x) for x in arrays}) == len(arrays)


def test_equal_bits_have_equal_hashes_in_any_layout_eager_or_compiled_alone_or_among_others():
    x = np.random.default_rng(2).standard_normal((70, 90)).astype(np.float32)
    expected = hash_of(x)
    assert hash_of(np.asfortranarray(x)) == expected
    assert hash_of(x.reshape(30, 210)) == expected  # C order is the same
    assert hash_of(x.T) != expected
    assert int(as_words(hash_tensors({"x": jnp.asarray(x)}))[0]) == expected
    small = x[:5, :5].copy()
    together = as_words(hash_of_tensors({"a": {"b": jnp.asarray(small)}, "c": jnp.asarray(x), "d": jnp.asarray(small)}))
    assert together.tolist() == [hash_of(small), expected, hash_of(small)]


def test_a_state_spread_over_devices_has_the_same_hash():
    x = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    for spec in (("device",), (None, "device"), ()):
        placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
        assert hash_of(placed) == hash_of(x)


def test_the_second_lane_has_its_own_opinion_of_changes_that_the_first_does_not_see():
    """Two elements change so that the first lane's sum stays; each bit of the second lane's change is then a coin.

    With s15(s16(t * M2) * M1) as second lane its top 15 bits would be zero in one of four.
    """

    def shifted(x, places):
        return x ^ (x >> np.uint32(places))

    def second_of_first(first):  # t from s16(t * M2), then the second lane's term
        t = shifted(first, 16) * np.uint32(pow(MULTIPLIER_2, -1, 2**32))
        return shifted(shifted(t, 13) * np.uint32(MULTIPLIER_1), 15)

    count = 1 << 19
    rng = np.random.default_rng(4)
    a, b, c = (rng.integers(0, 2**32, count, dtype=np.uint32) for _ in range(3))
    change = second_of_first(c) + second_of_first(a + b - c) - second_of_first(a) - second_of_first(b)
    shares = np.array([(change >> np.uint32(bit) & np.uint32(1)).mean() for bit in range(32)])
    assert abs(shares - 0.5).max() < 5 * 0.5 / count**0.5  # 5 standard errors
    for bit in (0, 8, 16, 24):
        seen = np.bincount(change >> np.uint32(bit) & np.uint32(255), minlength=256)
        assert ((seen - count / 256) ** 2 / (count / 256)).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_a_states_names_are_those_of_its_checkpoint_and_the_hash_is_of_each():
    state = make_step().initial_state()
    names = tensor_names(state)
    tensors = flatten(state.to_dict())
    assert list(names) == sorted(tensors)
    words = as_words(StateHasher()(state))
    assert words.tolist() == [hash_of(tensors[name]) for name in names]
    meanings = tensor_meanings(state)
    assert set(meanings) == {name for name in names if name.startswith("optimizer/")}
    assert {f"trace {name.removeprefix('master/').replace('/', '.')}" for name in names if "master" in name} <= set(
        meanings.values()
    )


def test_a_device_whose_copy_lost_a_bit_is_named_with_the_tensor():
    state = make_step().initial_state()
    copies = [jax.device_put(state, device) for device in jax.devices()[:3]]
    require_equal_copies(StateHasher(), copies, step=7)
    tensors = {name: value.copy() for name, value in flatten(state.to_dict()).items()}
    name = next(name for name in tensors if name.startswith("master/"))
    tensors[name].view(np.uint32).reshape(-1)[2] ^= 1
    copies[1] = jax.device_put(state.from_dict(unflatten(tensors, empty_dicts(state.to_dict()))), jax.devices()[1])
    with pytest.raises(DevicesDisagreeError, match="after step 7 ") as caught:
        require_equal_copies(StateHasher(), copies, step=7)
    assert f"{name} (" in str(caught.value)
    assert "cpu:0, cpu:2 against cpu:1)" in str(caught.value)
