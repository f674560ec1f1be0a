"""Devices' sums come together in one order, whatever the number of devices; the library's all-reduce has another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import BFLOAT16, Policy
from dsrun.arithmetic.policy import Rounding
from dsrun.training.exchange import Layout, Reduction, _dealt_out, bytes_sent
from dsrun.training.state import ShardSums

SHARDS = 8
SHAPES = {"a": (40, 3), "b": (7,), "c": {"d": (2, 3, 5)}, "e": (1,)}


def wide_range(rng, shape):
    return (rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, shape)).astype(np.float32)


def parts():
    rng = np.random.default_rng(0)
    return [
        ShardSums(
            jax.tree.map(lambda shape: wide_range(rng, shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)),
            *wide_range(rng, 4),
            {"norm": wide_range(rng, (2, 6))},
        )
        for _ in range(SHARDS)
    ]


def summed(devices, *, policy=None, kind="tree", shards=None):
    from concurrent.futures import ThreadPoolExecutor

    reduction = Reduction(policy or Policy(), seed=1, shards=SHARDS, devices=jax.devices()[:devices], kind=kind)
    counters = []
    for place, device in enumerate(reduction.devices):
        counter = reduction.counter(place, jax.device_put(jnp.int32(5), device))
        for number in reduction.share(place):
            counter.put(number, jax.device_put((shards or parts())[number], device))
        counters.append(counter)
    with ThreadPoolExecutor(devices) as threads:
        return reduction(counters, threads)


def bits(tree):
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [
        pytest.param(Policy(), (2, 3, 5, 8), id="float32"),
        pytest.param(Policy(reduce=Rounding(BFLOAT16, "stochastic")), (3,), id="stochastic"),
        pytest.param(Policy(reduce=Rounding(BFLOAT16), carrier="native"), (3, 8), id="half the bytes"),
    ],
)
def test_every_device_has_the_same_sums_for_any_number_of_devices(policy, numbers):
    (one,) = summed(1, policy=policy)
    for devices in numbers:
        found = summed(devices, policy=policy)
        assert [leaf.device for leaf in (sums.loss for sums in found)] == jax.devices()[:devices]
        assert {bits(sums) for sums in found} == {bits(one)}


def test_the_librarys_all_reduce_differs_with_the_devices_so_the_test_above_can_fail():
    found = {bits(summed(devices, kind="all_reduce")[0]) for devices in (1, 3, 8)}
    assert len(found) == 3
    assert bits(summed(1, kind="all_reduce")[0]) == bits(summed(1)[0])
    assert bits(summed(2, kind="all_reduce")[0]) == bits(summed(2)[0]), "two numbers have one sum"


def test_owners_have_about_equally_many_values_and_every_tensor_one_owner():
    sizes = [5, 100, 1, 60, 40, 30, 7, 3]
    owners = _dealt_out(sizes, 3)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == place) for place in range(3)]
    assert sum(loads) == sum(sizes)
    assert max(loads) <= 100
    assert _dealt_out([1, 2], 4)[0] != _dealt_out([1, 2], 4)[1]


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_device_sends_what_a_ring_would_where_tensors_divide_evenly(devices):
    even = ShardSums([jnp.zeros(48)] * 24, *[jnp.zeros(48)] * 4, [jnp.zeros(48)] * 4)
    reduction = Reduction(Policy(), seed=0, shards=SHARDS, devices=jax.devices()[:devices])
    found = reduction.bytes_sent(even)
    assert found["exchanged"] + found["gathered"] == found["ring"] == 2 * (devices - 1) * 32 * 48 * 4 // devices


def test_a_tensor_larger_than_an_equal_share_is_counted_where_its_owner_gets_and_sends_it():
    # 1000 values and 29 times 1: of 128 owners one has the thousand, whatever the number of owners.
    one_large = ShardSums([jnp.zeros(1000)], *[jnp.zeros(1)] * 4, [jnp.zeros(1)] * 25)
    found = bytes_sent(one_large, Policy(), devices=128, shards=256)
    assert found["exchanged"] == 4 * 1029
    assert found["received"] == found["gathered"] == 4 * 1000 * 127
    assert found["ring"] == -(-2 * 127 * 4 * 1029 // 128)


def test_a_run_of_shards_that_is_no_node_of_the_tree_sends_each_of_its_nodes():
    even = ShardSums([jnp.zeros(48)] * 25, *[jnp.zeros(48)] * 4, [jnp.zeros(48)] * 4)
    found = bytes_sent(even, Policy(), devices=3, shards=8)
    # Shards 0 and 1, 2 to 4, 5 to 7: nodes (0, 2) | (2, 4) (4, 5) | (5, 6) (6, 8).
    assert found["exchanged"] == 2 * (2 * 11 * 48 * 4)
    assert found["received"] == 4 * 11 * 48 * 4
    assert found["gathered"] == 2 * 11 * 48 * 4


def test_a_narrow_native_sum_sends_half_the_bytes():
    wide, narrow = (
        Layout(parts()[0], 2, Policy(reduce=Rounding(BFLOAT16), carrier=carrier)) for carrier in ("emulated", "native")
    )
    gradient = sum(leaf.size for leaf in jax.tree.leaves(parts()[0].gradient))
    saved = sum(wide.bytes_of(owner) - narrow.bytes_of(owner) for owner in range(2))
    assert saved == 2 * gradient
