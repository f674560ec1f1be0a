"""A 64-bit hash of every tensor of a state, made where the state is, at every step: what `dsrun diff` finds a difference with.

    w = bits(x_i) + (i + 1) * C    the element's bits, extended with zeros, and a word of its own for each place; C odd
    t = s15(s16(w) * M1)           s_k(x) = x ^ (x >> k)
    first lane  = sum of s16(t * M2)           modulo 2**32, over all elements
    second lane = sum of s15(s13(t) * M1)

Each line is a bijection of 32-bit words, so a change of one element, of a single bit too, changes its term and therefore both sums:
that is certain, not likely. Of changes of several elements one in 2**64 goes unseen, if they are not made for it: this is no
cryptographic hash, and a digest (`state_digest.py`) is made from time to time beside it. Sums of integers have no order: the hash does not
depend on devices, on sharding, or on how the compiler splits the sum. It is of bits: -0.0 is not 0.0, and NaNs have payloads.

A program of its own, behind the update and never fused with it: what is compiled together may round otherwise. It only reads.

The second lane leaves the first one half way. Hashing the first lane's words once more would be no second opinion: s15(y * M1) keeps
the top 15 bits of y * M1, a product whose sum follows from the first lane's sum, and changes that the first lane does not see would
leave those bits all but fixed (`tests/training/test_state_hash.py` counts them).

Not in a state, hence not in its hash: the random generator, which is a function of (seed, step, place), and the position in the data, which
is the step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

from dsrun.arithmetic.random_bits import MULTIPLIER_1, MULTIPLIER_2
from dsrun.errors import DevicesDisagreeError
from dsrun.training.program import Program
from dsrun.training.reduction import parameter_path
from dsrun.training.state import TrainState, Tree

_STRIDE = 0x9E3779B1  # odd, 2**32 divided by the golden ratio: neighbours lie far apart
_NAMED = 5  # tensors in a message
_TOGETHER = 4096  # smaller tensors of one size are one sum in the program: a state has hundreds of them


class StateHasher:
    """The compiled hash of a run's states; dispatches and returns, nothing waits for the device.

    Args:
        devices: that hold copies of a state.
    """

    def __init__(self, devices: int = 1) -> None:
        self._program = Program(lambda state: hash_tensors(state.to_dict()), devices=devices)

    def __call__(self, state: TrainState) -> UInt32[Array, "tensor 2"]:
        """Two words for each tensor of `tensor_names(state)`, on the state's device."""
        return self._program(state.step.device, state)


def require_equal_copies(
    hasher: StateHasher,
    copies: Sequence[TrainState],
    *,
    step: int,
    say: Callable[[Any], list[Any]] | None = None,
) -> None:
    """See that all devices hold the same state.

    Args:
        say: tells the other processes a value, and returns those of all; each of them calls this. None where there are none.

    Raises:
        DevicesDisagreeError: they do not; names tensors and devices. In all processes.
    """
    if len(copies) < 2 and say is None:
        return
    hashes = [hasher(copy) for copy in copies]  # all are dispatched before the first is waited for
    own = [[str(copy.step.device), as_words(each).tolist()] for copy, each in zip(copies, hashes, strict=True)]
    said = say(own) if say else [own]
    prefixes = [f"process {i} " if len(said) > 1 else "" for i in range(len(said))]
    devices = [prefix + device for prefix, rows in zip(prefixes, said, strict=True) for device, _ in rows]
    words = np.array([row for rows in said for _, row in rows], np.uint64)
    differing = np.flatnonzero((words != words[0]).any(axis=0))
    if not len(differing):
        return
    names = tensor_names(copies[0])
    texts = []
    for place in differing[:_NAMED].tolist():
        parties = [
            [device for device, word in zip(devices, words[:, place], strict=True) if word == value]
            for value in np.unique(words[:, place])
        ]
        texts.append(f"{names[place]} ({' against '.join(', '.join(party) for party in sorted(parties))})")
    more = f" and {len(differing) - _NAMED} more tensors" if len(differing) > _NAMED else ""
    raise DevicesDisagreeError(
        f"after step {step} the devices' copies of the state differ: {'; '.join(texts)}{more}. They come from the same total by the same "
        "program, so this is a fault of the hardware or of dsrun. Checkpoints from before are kept: the same command goes on from the "
        "last one. If it happens again, leave out the device that stands alone."
    )


def as_words(hashes: Any) -> np.ndarray:
    """A 64-bit integer for each tensor, the first lane below; waits for the device."""
    lanes = np.asarray(hashes).astype(np.uint64)
    return lanes[:, 0] | lanes[:, 1] << np.uint64(32)


def tensor_names(state: TrainState) -> tuple[str, ...]:
    """Names of a state's tensors in the order of their hashes, keys joined by "/" as in a checkpoint."""
    return tuple(name for name, _ in _by_name(state.to_dict()))


def tensor_meanings(state: TrainState) -> dict[str, str]:
    """What the numbered tensors of the optimizer are: their names there and the parameter they belong to."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state.optimizer)]
    moments = [".".join(part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey)) for path in paths]
    texts = [f"{moment} {parameter_path(path)}".strip() for moment, path in zip(moments, paths, strict=True)]
    return {f"optimizer/{name}": text for name, text in zip(state.to_dict()["optimizer"], texts, strict=True)}


def hash_tensors(tree: Tree) -> UInt32[Array, "tensor 2"]:
    """Both lanes of each tensor of a nested dict, in the order of their names."""
    words = [_words(leaf) for _, leaf in _by_name(tree)]
    rows: dict[int, Array] = {}
    for places in _groups([len(word) for word in words]):
        for place, hashed in zip(places, _hash_rows(jnp.stack([words[place] for place in places])), strict=True):
            rows[place] = hashed
    return jnp.stack([rows[place] for place in range(len(words))])


def _by_name(tree: Tree) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
    return sorted(named, key=lambda pair: pair[0])


def _words(x: Shaped[Array, "*shape"]) -> UInt32[Array, " word"]:
    """An array's bits, a word an element in C order; two, the lower one first, for an element of 64 bits."""
    if x.dtype == jnp.bool_:
        return x.reshape(-1).astype(jnp.uint32)
    flat = x.reshape(-1)
    bits = jnp.finfo(x.dtype).bits if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).bits
    if bits >= 32:
        return jax.lax.bitcast_convert_type(flat, jnp.uint32).reshape(-1)
    return jax.lax.bitcast_convert_type(flat, f"uint{bits}").astype(jnp.uint32)


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Places of tensors that are hashed together: small ones by their size, each other one alone."""
    groups: dict[Any, list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(size if size < _TOGETHER else (place, size), []).append(place)
    return list(groups.values())


def _hash_rows(words: UInt32[Array, "row word"]) -> UInt32[Array, "row 2"]:
    place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, 1) * jnp.uint32(_STRIDE) + jnp.uint32(_STRIDE)
    t = _shifted(_shifted(words + place, 16) * jnp.uint32(MULTIPLIER_1), 15)
    lanes = _shifted(t * jnp.uint32(MULTIPLIER_2), 16), _shifted(_shifted(t, 13) * jnp.uint32(MULTIPLIER_1), 15)
    # One reduction of two operands: two would each read the state.
    zero = np.uint32(0)
    return jnp.stack(jax.lax.reduce(lanes, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,)), axis=1)


def _shifted(x: UInt32[Array, "*shape"], places: int) -> UInt32[Array, "*shape"]:
    return x ^ (x >> jnp.uint32(places))
