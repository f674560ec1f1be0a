"""The sum over devices: nodes of the tree are brought to one owner each, completed there, and handed to everyone.

    own nodes ──pack──> a piece for each owner ──all-to-all──> owner completes the tree ──all-gather──> every device

Every tensor has one owner, the tensors dealt out so that owners have about equally many values; rules by path and random bits by
element need whole tensors. Each device sends each owner its part of that owner's tensors and gets the sums of all: the bytes of a
ring all-reduce, 2 (N-1)/N of the gradient sent by each of N devices, where N is a power of two that divides the shards and no tensor
is larger than an equal share. Elsewhere a device's run of shards is no single node of the tree, and it sends its two or three nodes;
and the owner of a tensor that is too large for an equal share sends and gets more (`bytes_sent` counts; docs/MEASUREMENTS.md models what
that means for many GPUs).

The programs that add belong to one device each; what connects devices only moves bytes. Within a process those are copies from
device to device, between processes JAX's collectives (NCCL on GPUs, Gloo on CPUs). A gradient whose `reduce` is float16 or bfloat16
travels so in the native carrier: half the bytes, the same values.

`all_reduce` is what other trainers do, here to be compared with: each device adds its own nodes, and the library adds up the
devices, in an order of its own. Its bits depend on the number of devices, from four devices on also where shards divide evenly (two
numbers have one sum).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.random_bits import Key
from dsrun.training.program import Program
from dsrun.training.reduction import (
    Counter,
    Node,
    completed,
    covering,
    node_key,
    parameter_path,
    reduces_exactly,
    rounded_part,
    rounded_sum,
    rounded_value,
    share,
)
from dsrun.training.state import ShardSums

ReductionKind = Literal["tree", "all_reduce"]
Pieces = dict[str, Array]  # by the dtype that travels


@dataclass(frozen=True)
class Tensor:
    """A leaf of `ShardSums`: its parameter's path (None where nothing rounds it), shape, dtype on the way, owner."""

    path: str | None
    shape: tuple[int, ...]
    dtype: str
    owner: int

    @property
    def size(self) -> int:
        """Values."""
        return int(np.prod(self.shape, dtype=np.int64))


class Layout:
    """Who owns which tensor, and where it lies in that owner's pieces.

    Args:
        example: arrays, or their shapes.
        places: owners.
        policy: its `reduce` and carrier decide what travels.
    """

    def __init__(self, example: ShardSums, places: int, policy: Policy):
        leaves = jax.tree_util.tree_leaves_with_path(example)
        self.structure = jax.tree_util.tree_structure(example)
        self.places = places
        owners = _dealt_out([leaf.size for _, leaf in leaves], places)
        self.tensors = []
        for (path, leaf), owner in zip(leaves, owners, strict=True):
            is_gradient = path[0] == jax.tree_util.GetAttrKey("gradient")
            name = parameter_path(path) if is_gradient else None
            dtype = _dtype_on_the_way(policy, name)
            self.tensors.append(Tensor(name, tuple(leaf.shape), dtype, owner))
        self.dtypes = sorted({tensor.dtype for tensor in self.tensors})

    def owned(self, owner: int, dtype: str) -> list[int]:
        """Places in `tensors` of an owner's tensors of a dtype, in order."""
        return [i for i, tensor in enumerate(self.tensors) if (tensor.owner, tensor.dtype) == (owner, dtype)]

    def width(self, owner: int, dtype: str) -> int:
        """Values of an owner's piece."""
        return sum(self.tensors[i].size for i in self.owned(owner, dtype))

    @property
    def widths(self) -> dict[str, int]:
        """Values of the widest piece of each dtype."""
        return {dtype: max(self.width(owner, dtype) for owner in range(self.places)) for dtype in self.dtypes}

    def bytes_of(self, owner: int) -> int:
        """Of an owner's piece."""
        return sum(self.width(owner, dtype) * jnp.dtype(dtype).itemsize for dtype in self.dtypes)

    def joined(self, leaves: dict[int, Array], owner: int) -> Pieces:
        """An owner's tensors, end to end."""
        return {dtype: self._end_to_end(leaves, owner, dtype) for dtype in self.dtypes}

    def _end_to_end(self, leaves: dict[int, Array], owner: int, dtype: str) -> Array:
        flat = [leaves[i].reshape(-1).astype(dtype) for i in self.owned(owner, dtype)]
        return jnp.concatenate(flat) if flat else jnp.zeros(0, dtype)

    def parted(self, pieces: Pieces, owner: int) -> dict[int, Array]:
        """The tensors of a piece, in float32; what lies behind them is padding."""
        found = {}
        for dtype in self.dtypes:
            start = 0
            for i in self.owned(owner, dtype):
                tensor = self.tensors[i]
                flat = pieces[dtype][start : start + tensor.size]
                found[i] = flat.reshape(tensor.shape).astype(jnp.float32)
                start += tensor.size
        return found

    def sums(self, leaves: dict[int, Array]) -> ShardSums:
        """The tree of all tensors."""
        return jax.tree_util.tree_unflatten(self.structure, [leaves[i] for i in range(len(self.tensors))])


def bytes_sent(example: ShardSums, policy: Policy, *, devices: int, shards: int) -> dict[str, int]:
    """Bytes that the busiest device moves in a step, by count: no device and no array is needed.

    Returns:
        "exchanged": sent to the owners; "received": what the busiest owner gets meanwhile; "gathered": an owner's sums, sent to all
        others; "ring": what a ring all-reduce of the same arrays sends. Pieces are unequal where a tensor is larger than an equal
        share, and then "received" and "gathered" grow with the largest tensor and the number of devices.
    """
    layout = Layout(example, devices, policy)
    pieces = [layout.bytes_of(owner) for owner in range(devices)]
    slots = [len(covering(share(place, devices, shards), shards)) for place in range(devices)]
    return {
        "exchanged": max(slots[place] * (sum(pieces) - pieces[place]) for place in range(devices)),
        "received": max(pieces[owner] * (sum(slots) - slots[owner]) for owner in range(devices)),
        "gathered": max(pieces) * (devices - 1),
        "ring": -(-2 * (devices - 1) * sum(pieces) // devices),
    }


def _dealt_out(sizes: Sequence[int], places: int) -> list[int]:
    """An owner for each tensor: the largest first, each to the owner with least so far; ties by number."""
    loads, owners = [0] * places, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += sizes[i]
    return owners


def _dtype_on_the_way(policy: Policy, path: str | None) -> str:
    if path is None:
        return "float32"
    rounding = policy.rounding("reduce", path)
    return str(jax.eval_shape(lambda x: policy.to_carrier(x, rounding), jnp.float32(0)).dtype)


class Reduction:
    """Sums of all shards on every device of this process.

    Args:
        policy: role `reduce`.
        seed: of its random roundings.
        shards: leaves of the tree.
        devices: of all processes, in order: shards go to them in runs of neighbours.
        kind: "tree", or the library's "all_reduce".
    """

    def __init__(
        self, policy: Policy, *, seed: int, shards: int, devices: Sequence[jax.Device], kind: ReductionKind = "tree"
    ):
        self.policy, self.seed, self.shards, self.kind = policy, seed, shards, kind
        self.devices = list(devices)
        self.places = [i for i, device in enumerate(self.devices) if device.process_index == jax.process_index()]
        self.is_exact = reduces_exactly(policy)
        assert kind == "tree" or self.is_exact, "the library's all-reduce rounds nothing"
        self._round = Program(partial(rounded_part, policy, seed), devices=len(self.places))
        self._sum = Program(partial(rounded_sum, policy, seed), donate_argnums=2, devices=len(self.places))
        self._programs: _Programs | None = None

    @property
    def _spans_processes(self) -> bool:
        return len({device.process_index for device in self.devices}) > 1

    def share(self, place: int) -> range:
        """Shards of a device."""
        return range(*share(place, len(self.devices), self.shards))

    def counter(self, place: int, step: Int32[Array, ""]) -> "PartialSums":
        """Where a device's shards are added up; `step` lies on that device."""
        return PartialSums(self, place, step)

    def __call__(self, sums: Sequence["PartialSums"], threads: ThreadPoolExecutor) -> tuple[ShardSums, ...]:
        """The sums over all shards, on each of this process's devices.

        Args:
            sums: of this process's devices, in order.
            threads: one a device, so that their programs are compiled and begun side by side.
        """
        if self._programs is None:
            example = next(iter(sums[0].nodes.values()))
            self._programs = _Programs(self, Layout(example, self._owners, self.policy))
        return self._programs(sums, threads)

    @property
    def _owners(self) -> int:
        return len(self.devices) if self.kind == "tree" else 1

    def bytes_sent(self, example: ShardSums) -> dict[str, int]:
        """What `bytes_sent` counts, for these devices."""
        return bytes_sent(example, self.policy, devices=len(self.devices), shards=self.shards)


class PartialSums(Counter[ShardSums]):
    """A device's part of the tree, from its shards' gradients."""

    def __init__(self, reduction: Reduction, place: int, step: Int32[Array, ""]):
        self._reduction, self.device, self.step = reduction, reduction.devices[place], step
        super().__init__(share(place, len(reduction.devices), reduction.shards), reduction.shards, self._plus)

    def put(self, shard: int, part: ShardSums) -> None:
        """The next shard's sums as the gradient program gives them."""
        reduction = self._reduction
        is_float32 = all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(part.gradient))
        if not (is_float32 and reduction.is_exact):
            part = reduction._round(self.device, self.step, self._here((shard, shard + 1)), part)
        super().put(shard, part)

    def _plus(self, node: Node, a: ShardSums, b: ShardSums) -> ShardSums:
        return self._reduction._sum(self.device, self.step, self._here(node), a, b)

    def _here(self, node: Node) -> Array:
        return jax.device_put(np.array(node, np.uint32), self.device)


class _Programs:
    """What is compiled once the tensors are known."""

    def __init__(self, reduction: Reduction, layout: Layout):
        self.reduction, self.layout = reduction, layout
        count, shards = len(reduction.devices), reduction.shards
        self.nodes = [covering(share(place, count, shards), shards) for place in range(count)]
        self._unpack = Program(partial(_unpacked, layout), devices=len(reduction.places))
        if reduction.kind == "all_reduce":
            self._flatten = Program(partial(_added_and_flat, layout), devices=len(reduction.places))
            self._all_reduce = collective(reduction.devices, lambda x: jax.lax.psum(x, "device"))
            return
        self.padding = None
        if reduction._spans_processes:
            self.padding = max(map(len, self.nodes)), layout.widths
            self._all_to_all = collective(
                reduction.devices, lambda x: jax.lax.all_to_all(x, "device", split_axis=0, concat_axis=0, tiled=True)
            )
            self._all_gather = collective(reduction.devices, lambda x: jax.lax.all_gather(x, "device"))
        self._pack = Program(partial(_packed, layout, self.padding), devices=len(reduction.places))
        finish = partial(_finished, reduction.policy, reduction.seed, shards, layout, self.padding, self.nodes)
        self._finish = {place: jax.jit(partial(finish, place)) for place in reduction.places}

    def __call__(self, sums: Sequence[PartialSums], threads: ThreadPoolExecutor) -> tuple[ShardSums, ...]:
        devices = [own.device for own in sums]
        if self.reduction.kind == "all_reduce":
            flat = list(threads.map(self._flat, sums))
            return tuple(threads.map(self._unpack, devices, ([x] for x in self._all_reduce(flat))))
        if len(self.reduction.devices) == 1:
            return (sums[0].nodes[0, self.reduction.shards],)
        packed = list(threads.map(self._packed, sums))
        received = self._all_to_all(packed) if self.padding else self._to_owners(packed)
        owned = list(threads.map(self._owned, self.reduction.places, sums, received))
        everything = self._all_gather(owned) if self.padding else self._to_everyone(owned)
        return tuple(threads.map(self._unpack, devices, everything))

    def _flat(self, own: PartialSums) -> Pieces:
        return self._flatten(own.device, list(own.nodes.values()), shape=len(own.nodes))

    def _packed(self, own: PartialSums) -> Any:
        return self._pack(own.device, [own.nodes[node] for node in sorted(own.nodes)], shape=len(own.nodes))

    def _owned(self, place: int, own: PartialSums, received: Any) -> Pieces:
        return self._finish[place](own.step, received)

    def _to_owners(self, packed: list[list[Pieces]]) -> list[list[Pieces]]:
        """By copies within the process: what each owner gets from each device."""
        devices = self.reduction.devices
        return [jax.device_put([own[owner] for own in packed], devices[owner]) for owner in range(len(devices))]

    def _to_everyone(self, owned: list[Pieces]) -> list[list[Pieces]]:
        return [jax.device_put(owned, device) for device in self.reduction.devices]


def collective(devices: Sequence[jax.Device], move: Callable[[Array], Array]) -> Callable[[list[Any]], list[Any]]:
    """`move` over all devices of all processes, for one tree of arrays a device of this process."""
    mesh = Mesh(np.array(devices), ("device",))
    sharding = NamedSharding(mesh, PartitionSpec("device"))
    spread = PartitionSpec("device")

    def local(tree: Any) -> Any:
        return jax.tree.map(lambda x: move(x[0])[None], tree)

    program = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False))
    lead = jax.jit(lambda tree: jax.tree.map(lambda x: x[None], tree))
    drop = jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree))

    def call(trees: list[Any]) -> list[Any]:
        columns = zip(*(jax.tree.leaves(lead(tree)) for tree in trees), strict=True)
        whole = [
            jax.make_array_from_single_device_arrays((len(devices), *column[0].shape[1:]), sharding, list(column))
            for column in columns
        ]
        moved = program(whole)
        structure = jax.tree.structure(trees[0])
        order = {device: place for place, device in enumerate(devices)}
        by_leaf = [sorted(x.addressable_shards, key=lambda shard: order[shard.device]) for x in moved]
        return [drop(jax.tree.unflatten(structure, [shards[i].data for shards in by_leaf])) for i in range(len(trees))]

    return call


def _leaves(sums: ShardSums) -> dict[int, Array]:
    return dict(enumerate(jax.tree.leaves(sums)))


def _packed(layout: Layout, padding: tuple[int, dict[str, int]] | None, nodes: list[ShardSums]) -> Any:
    """A piece for each owner, one row a node: a list of owners, or for a collective one array of owners of equal size."""
    rows = [[layout.joined(_leaves(sums), owner) for sums in nodes] for owner in range(layout.places)]
    pieces = [{dtype: jnp.stack([row[dtype] for row in own]) for dtype in layout.dtypes} for own in rows]
    if padding is None:
        return pieces
    slots, widths = padding
    return {
        dtype: jnp.stack([_padded(piece[dtype], (slots, widths[dtype])) for piece in pieces]) for dtype in layout.dtypes
    }


def _padded(x: Array, shape: tuple[int, ...]) -> Array:
    return jnp.pad(x, [(0, wanted - there) for wanted, there in zip(shape, x.shape, strict=True)])


def _finished(
    policy: Policy,
    seed: int,
    shards: int,
    layout: Layout,
    padding: tuple[int, dict[str, int]] | None,
    nodes: list[list[Node]],
    owner: int,
    step: Int32[Array, ""],
    received: Any,
) -> Pieces:
    """The owner's tensors, summed over all shards."""
    found: dict[Node, dict[int, Array]] = {}
    for sender, own in enumerate(nodes):
        pieces = {dtype: received[dtype][sender] for dtype in layout.dtypes} if padding else received[sender]
        for slot, node in enumerate(own):
            found[node] = layout.parted({dtype: piece[slot] for dtype, piece in pieces.items()}, owner)

    def add(node: Node, a: dict[int, Array], b: dict[int, Array]) -> dict[int, Array]:
        key = partial(node_key, seed, step, node)
        return {i: _rounded(policy, layout.tensors[i].path, a[i] + b[i], key) for i in a}

    joined = layout.joined(completed(found, (0, shards), add), owner)
    if padding is None:
        return joined
    return {dtype: _padded(joined[dtype], (padding[1][dtype],)) for dtype in layout.dtypes}


def _rounded(policy: Policy, path: str | None, x: Array, key: Callable[[], Key]) -> Array:
    return x if path is None else rounded_value(policy, path, x, key)


def _unpacked(layout: Layout, pieces: Any) -> ShardSums:
    """All tensors from all owners' pieces: a list, or from a collective one array of them."""
    by_owner = (
        pieces
        if isinstance(pieces, list)
        else [{dtype: x[owner] for dtype, x in pieces.items()} for owner in range(layout.places)]
    )
    leaves: dict[int, Array] = {}
    for owner, own in enumerate(by_owner):
        leaves |= layout.parted(own, owner)
    return layout.sums(leaves)


def _added_and_flat(layout: Layout, nodes: list[ShardSums]) -> Pieces:
    """A device's own nodes added in order, as one vector."""
    total = nodes[0]
    for other in nodes[1:]:
        total = jax.tree.map(jnp.add, total, other)
    return layout.joined(_leaves(total), 0)
