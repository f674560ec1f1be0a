"""Random bits: a counter-based hash, so that a bit is a function of (seed, step, role, tensor, element) and of nothing else.

No generator with a state: what is drawn does not depend on the number of devices, on the order of evaluation, on how a tensor
is sharded, or on what else was drawn. A resumed run draws the same bits, and adding a layer reshuffles no other.

    key   two uint32 words, mixed from seed, role, path, step and what else tells one use from another
    bits  bits(key, i) = s(f(f(f(i ^ m(k0)) + m(~k1))))   for element i; f a round of an integer mix, s its shift alone, m two rounds and s

One round is x ^= x >> s; x *= odd: a bijection of 32-bit words, so element i's bits are a bijection of i under a fixed key: over
2**32 elements every word comes exactly once. The constants are those of `lowbias32` (C. Wellons, "Prospecting for Hash
Functions": found by search for the least bias in avalanche), the key's second word enters after the first round, so two keys
give unrelated sequences and not shifts of one another. It is no cryptographic generator; `tests/arithmetic/test_random_bits.py`
has what it is held to. Cost on a CPU: about that of reading the array.
"""

import hashlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

MULTIPLIER_1 = 0x7FEB352D
MULTIPLIER_2 = 0x846CA68B

Key = UInt32[Array, "2"]


def make_key(seed: int, role: str, path: str) -> Key:
    """Key of a role at a tensor; fold in the step (and the shard, the frame) before drawing.

    Args:
        seed: the run's, 0 to 2**32 - 1.
        role, path: names, e.g. "update" and "gru_0_forward.u_r"; hashed by SHA-256, not by Python's salted `hash`.
    """
    digest = hashlib.sha256(f"{role}\0{path}".encode()).digest()
    words = [jnp.uint32(int.from_bytes(digest[place : place + 4], "little")) for place in (0, 4)]
    return fold_in(jnp.stack(words), jnp.uint32(seed))


def fold_in(key: Key, number: UInt32[Array, ""] | int) -> Key:
    """Another key for each number, e.g. the step."""
    word = jnp.asarray(number, jnp.uint32)
    first = _mix(_mix(key[0] ^ word) + key[1])
    return jnp.stack([first, _mix(_mix(key[1] + first) ^ word)])


def draw(key: Key, shape: tuple[int, ...], *, start: UInt32[Array, ""] | int = 0) -> UInt32[Array, "*shape"]:
    """32 random bits for each element, numbered in C order from `start`.

    A part of a tensor (inside vmap or shard_map) draws what the whole would have drawn there when `start` is the number of its
    first element. Elements are numbered by 32 bits: a tensor of more than 2**32 values would draw some twice.
    """
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in range(len(shape) - 1, -1, -1):  # not iota and reshape: XLA would materialise it
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return hash_bits(key, index + jnp.asarray(start, jnp.uint32))


def hash_bits(key: Key, index: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """The mixing function itself: 32 bits for element `index` under `key`."""
    first, second = _mix(key[0]), _mix(~key[1])  # of the key alone: no cost an element
    x = index ^ first
    x = x ^ (x >> jnp.uint32(16))
    # The second word enters before a shift. After it, a difference in its top bit would go through the next product alone, and
    # the words of two such keys would always differ in their top bit. The mixing above keeps such pairs from lying one bit apart.
    x = x * jnp.uint32(MULTIPLIER_1) + second
    x = x ^ (x >> jnp.uint32(15))
    x = x * jnp.uint32(MULTIPLIER_2)
    x = x ^ (x >> jnp.uint32(16))
    x = x * jnp.uint32(MULTIPLIER_1)
    return x ^ (x >> jnp.uint32(15))


def _mix(x: UInt32[Array, ""]) -> UInt32[Array, ""]:
    """lowbias32."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(MULTIPLIER_1)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(MULTIPLIER_2)
    return x ^ (x >> jnp.uint32(16))
