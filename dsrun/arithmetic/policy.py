"""Policy: which format and rounding applies where.

The network is written once, in calls of this page: `store` wherever a layer hands a value on, `load` where it is read,
`dot` and `convolve` for every product. With float32 everywhere they add no operation at all, so the float32 network pays
nothing for being able to be another.

Roles
* `storage`: weights as the network reads them (rounded once a step, outside the network), activations as layers hand them on,
  the recurrent state. Backward the gradient passes straight through (the derivative of a staircase is zero almost everywhere and
  would stop training), and is then itself rounded to `gradient`.
* `gradient`: the errors between layers, at each place where the forward pass stored a value; the recurrent error at each frame;
  the error that CTC hands to the network; the gradient of each weight, of each shard.
* `compute`: the operands of a matrix product, in the forward product and in the two products of its derivative: hardware
  that multiplies float16 multiplies it in the backward pass too, so the incoming gradient is rounded there as well.
* `accumulate`: the partial sums of those products: float32, or narrow by chunks (`summation.product`).
* `reduce`: the gradients' sum over shards, rounded after each addition of the tree; the parts before the first.
* `master`: the copy that accumulates updates; `none` makes it the storage format, so that there is one copy.
* `update`: how an updated weight becomes a value of the master's format, with or without Kahan's compensation.
* `state`: the optimizer's moments, rounded as they are kept. `ctc`: every intermediate of the CTC loss.

Rules refine a role by path: for each role but `ctc`, the first rule counts whose pattern matches the whole path and which names
that role; the update's is in the format of the master at that path. Paths are those of the parameters (`gru_0_forward.u_r`), and of
the places where values are stored (`gru_0_forward.state`).

Carriers. `emulated`: values on a smaller format's grid, held in float32 arrays. A product of two float16 or bfloat16 values
has at most 22 significand bits and is exact in float32, so emulated products differ from tensor-core products only in the order
of summation. `native`: weights, activations, moments in arrays of the format's dtype, and products of arrays of that dtype with
float32 results; TensorFloat-32 has no dtype, so there it is float32 arrays multiplied by a GPU's units for it. The rounding is the same
integer kernel's; the cast behind it is exact and never relied upon to round.
Native differs from emulated where a stored value has several readers: the error from each is rounded to the array's dtype, and so is each
sum of two, where emulated rounds their float32 sum once; and in the order in which a product of that dtype is summed.

Formats with a scale: weights take it per tensor or per channel, activations per frame, so that an utterance does not depend on
its neighbours in the batch. Blocks lie along a weight's inputs (a convolution's: along its last axis) and along the last axis of
activations and errors, rounded once: in the products of the derivative the sum runs along another axis.

A stochastic rounding inside the network numbers the elements of a padded batch: what an utterance draws depends on its row and on
the padded length, in training and in evaluation.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from dsrun.arithmetic import random_bits as generator
from dsrun.arithmetic.formats import (
    DEFAULT_RANDOM_BITS,
    FLOAT32,
    NATIVE_NAMES,
    RANDOM_MODES,
    BlockFormat,
    Format,
    ScaledFormat,
)
from dsrun.arithmetic.random_bits import Key, fold_in, make_key
from dsrun.arithmetic.rounding import round_to
from dsrun.arithmetic.scaled import round_scaled
from dsrun.arithmetic.summation import Rounder, product

Role = Literal["storage", "compute", "accumulate", "gradient", "reduce", "master", "update", "state", "ctc"]
Carrier = Literal["emulated", "native"]


@dataclass(frozen=True)
class Rounding:
    """A format and how a number becomes one of its values."""

    format: Format = FLOAT32
    mode: str = "ties_to_even"
    random_bits: int = DEFAULT_RANDOM_BITS

    @property
    def is_exact(self) -> bool:
        """Nothing is rounded: float32 is what values are carried in."""
        return self.format == FLOAT32

    @property
    def draws(self) -> bool:
        """Random bits are needed."""
        return self.mode in RANDOM_MODES and not self.is_exact

    @property
    def is_elementwise(self) -> bool:
        """A value is rounded alone, whatever stands beside it and wherever it stands: no scale, no random bits."""
        return not isinstance(self.format, ScaledFormat | BlockFormat) and not self.draws

    def __call__(
        self, x: Float32[Array, "*shape"], key: Key | None = None, *, axis: int = -1
    ) -> Float32[Array, "*shape"]:
        """`x` on the grid. `axis`: along which the blocks of a block format lie."""
        if self.is_exact:
            return x
        key = key if self.draws else None
        if isinstance(self.format, BlockFormat):
            bits = None if key is None else generator.draw(key, x.shape)
            return round_scaled(x, self.format, mode=self.mode, bits=bits, random_bits=self.random_bits, axis=axis)
        return round_to(x, self.format, mode=self.mode, key=key, random_bits=self.random_bits)

    def __str__(self) -> str:
        draws = f"({self.random_bits})" if self.mode == "stochastic" else ""
        return f"{self.format}" if self.is_exact else f"{self.format} {self.mode}{draws}"


EXACT = Rounding()


@dataclass(frozen=True)
class Rule:
    """Roundings for some roles at the paths that `pattern`, a regular expression, matches as a whole."""

    pattern: str
    roundings: tuple[tuple[Role, Rounding], ...]
    chunk: int | None = None


@dataclass(frozen=True)
class Policy:
    """Roundings by role. Hashable, so that it can be a static argument of a compiled function.

    `master` None keeps one copy of the weights, in the storage format. `chunk` is the number of products whose sum a narrow
    `accumulate` takes in float32 before it rounds. `update_mode` and `update_random_bits` belong to the master's format.
    """

    storage: Rounding = EXACT
    compute: Rounding = EXACT
    accumulate: Rounding = EXACT
    chunk: int | None = None
    gradient: Rounding = EXACT
    reduce: Rounding = EXACT
    master: Format | None = FLOAT32
    update_mode: str = "ties_to_even"
    update_random_bits: int = DEFAULT_RANDOM_BITS
    compensation: Literal["none", "kahan"] = "none"
    state: Rounding = EXACT
    ctc: Rounding = EXACT
    carrier: Carrier = "emulated"
    rules: tuple[Rule, ...] = ()

    def rounding(self, role: Role, path: str) -> Rounding:
        """The rounding of a role at a path."""
        found = self._ruled(role, path)
        if role == "master":
            return found or (self.rounding("storage", path) if self.master is None else Rounding(self.master))
        if role == "update":
            found = found or Rounding(FLOAT32, self.update_mode, self.update_random_bits)
            return replace(found, format=self.rounding("master", path).format)
        return found or getattr(self, role)

    def _ruled(self, role: Role, path: str) -> Rounding | None:
        rule = self.rule_for(role, path)
        return None if rule is None else dict(rule.roundings)[role]

    def rule_for(self, role: Role, path: str) -> Rule | None:
        """The rule that decides a role at a path: the first that names the role and matches the path."""
        for rule in self.rules:
            if role in dict(rule.roundings) and re.fullmatch(rule.pattern, path):
                return rule
        return None

    def chunk_at(self, path: str) -> int | None:
        """Products that a narrow sum at this path takes in float32 before it rounds; None of a float32 sum."""
        rule = self.rule_for("accumulate", path)
        return self.chunk if rule is None else rule.chunk

    @property
    def draws_in_network(self) -> bool:
        """Some rounding inside the network is random, so a pass needs a key."""
        general = (self.storage, self.compute, self.accumulate, self.gradient, self.ctc)
        return any(rounding.draws for rounding in (*general, *(r for rule in self.rules for _, r in rule.roundings)))

    @property
    def can_overflow(self) -> bool:
        """Weights or moments are kept in a format whose range may end before float32's."""
        kept = (self.storage.format if self.master is None else self.master, self.state.format)
        return self.rules != () or any(format != FLOAT32 for format in kept)

    @property
    def stores_exactly(self) -> bool:
        """The network reads the master itself: storage is float32, or the master is already on its grid."""
        formats = [rounding.format for rule in self.rules for role, rounding in rule.roundings if role == "storage"]
        if self.master is None and not any(role == "master" for rule in self.rules for role, _ in rule.roundings):
            return True
        reads_master = self.carrier == "emulated" or self.master == FLOAT32  # a native array is in the master's dtype
        return reads_master and self.storage.is_exact and all(format == FLOAT32 for format in formats)

    def round_weight(self, x: Float[Array, "*shape"], path: str, key: Key | None = None) -> Float[Array, "*shape"]:
        """A weight as the network reads it, from the master: storage grid, and in the native carrier its dtype."""
        rounding = self.rounding("storage", path)
        return self.to_carrier(rounding(to_float32(x), key, axis=weight_block_axis(x)), rounding)

    def to_carrier(self, x: Float32[Array, "*shape"], rounding: Rounding) -> Float[Array, "*shape"]:
        """Values on a grid in the array that carries them; exact."""
        if self.carrier == "emulated" or rounding.format.name not in NATIVE_NAMES:
            return x
        return x.astype(jnp.dtype(rounding.format.name))

    def store(self, x: Float32[Array, "*shape"], path: str, key: Key | None = None) -> Float[Array, "*shape"]:
        """`x` on the storage grid; backward straight through, then on the gradient grid."""
        forward, backward = self.activation_rounding("storage", path), self.activation_rounding("gradient", path)
        if forward.is_exact and backward.is_exact:
            return x
        keys = tuple(
            site_key(key, role, path) if rounding.draws else None
            for role, rounding in (("storage", forward), ("gradient", backward))
        )
        return _passed(self, forward, backward, x, keys)

    def receive(self, x: Float32[Array, "*shape"], path: str, key: Key | None = None) -> Float32[Array, "*shape"]:
        """`x` itself; what flows back through it is put on the gradient grid."""
        backward = self.activation_rounding("gradient", path)
        return x if backward.is_exact else _passed(self, EXACT, backward, x, (None, site_key(key, "gradient", path)))

    def load(self, x: Float[Array, "*shape"]) -> Float32[Array, "*shape"]:
        """A stored value, or a weight, for arithmetic in float32."""
        return x if x.dtype == jnp.float32 else _loaded(self, x)

    def to_dtype(self, gradient: Float32[Array, "*shape"], dtype: Any) -> Float[Array, "*shape"]:
        """A gradient in the dtype of what it belongs to, as JAX asks; native carrier only.

        To nearest: the rounding that `gradient` asks for has its place where the value was stored.
        """
        return gradient if dtype == jnp.float32 else round_to(gradient, self.gradient.format).astype(dtype)

    def activation_rounding(self, role: Role, path: str) -> Rounding:
        """As `rounding`, for what layers hand on: a format with a scale takes it per frame."""
        rounding = self.rounding(role, path)
        if isinstance(rounding.format, ScaledFormat):
            return replace(rounding, format=replace(rounding.format, granularity="frame"))
        return rounding

    def dot(
        self, a: Float[Array, "... inner"], b: Float[Array, "inner outer"], path: str = "", key: Key | None = None
    ) -> Float32[Array, "... outer"]:
        """`a @ b`: operands on the compute grid, partial sums as `accumulate` says; `path` is the weight's."""
        if self.is_plain(path):
            return product(self.load(a), self.load(b))
        return _dot(self, path, a, b, key)

    def precision(self, path: str) -> Any:
        """What XLA is asked for in products of float32 arrays at this path: float32, said aloud, or the GPU's TensorFloat-32 units.

        Their operands are on TensorFloat-32's grid already, so the units' own rounding of operands has nothing to do, and a product
        of two is exact in float32: on a CPU the float32 product is the same arithmetic, summed in another order.
        """
        is_native = self.carrier == "native" and self.rounding("compute", path).format.name == "tensorfloat32"
        if is_native and jax.default_backend() == "gpu":
            return jax.lax.DotAlgorithmPreset.TF32_TF32_F32
        return jax.lax.Precision.HIGHEST

    def describe_products(self) -> str:
        """What products are whose operands are float32 arrays; JAX's own default on recent GPUs is TensorFloat-32."""
        chosen = {
            self.compute.format.name,
            *(r.format.name for rule in self.rules for name, r in rule.roundings if name == "compute"),
        }
        if self.carrier == "native" and "tensorfloat32" in chosen and jax.default_backend() == "gpu":
            return "TensorFloat-32 where arithmetic.compute is tensorfloat32, else float32 (Precision.HIGHEST)"
        return "float32 (Precision.HIGHEST)"

    def dots(
        self, a: Float[Array, "... inner"], weights: Sequence[Array], paths: Sequence[str], key: Key | None = None
    ) -> list[Float32[Array, "... _"]]:
        """`a @ b` for each weight: as one product of the weights side by side, where all have one compute rounding that acts on each
        value alone and float32 sums, and as so many products otherwise.

        Not with narrow sums: the derivative to `a` would be one running sum over all weights' columns instead of one a weight.
        """
        compute = {self.rounding("compute", path) for path in paths}
        are_wide = all(self.rounding("accumulate", path).is_exact for path in paths)
        if len(compute) > 1 or not are_wide or not all(rounding.is_elementwise for rounding in compute):
            return [self.dot(a, b, path, key) for b, path in zip(weights, paths, strict=True)]
        ends = list(itertools.accumulate(b.shape[1] for b in weights))[:-1]
        return jnp.split(self.dot(a, jnp.concatenate(weights, axis=1), paths[0], key), ends, axis=-1)

    def is_plain(self, path: str) -> bool:
        """Products at this path are float32 products of float32 arrays."""
        exact = self.rounding("compute", path).is_exact and self.rounding("accumulate", path).is_exact
        return exact and self.carrier == "emulated"

    def operand(
        self, x: Float[Array, "*shape"], path: str, side: str, key: Key | None = None, *, axis: int = -1
    ) -> Float[Array, "*shape"]:
        """An operand of a product, on the compute grid; without a rule for derivatives.

        `side` tells the operands of one product apart; `axis` is the one that the product sums over.
        """
        rounding = self._operand_rounding(path, side)
        value = to_float32(x)
        if not rounding.is_exact:
            value = rounding(value, site_key(key, f"compute {side}", path), axis=axis)
        return self.to_carrier(value, rounding)

    def _operand_rounding(self, path: str, side: str) -> Rounding:
        return self.rounding("compute", path) if side == "weight" else self.activation_rounding("compute", path)

    def sum_products(
        self, a: Float[Array, "... inner"], b: Float[Array, "inner outer"], path: str, side: str, key: Key | None = None
    ) -> Float32[Array, "... outer"]:
        """`a @ b` of operands, with the partial sums of the path's `accumulate`."""
        rounding = self.rounding("accumulate", path)
        if rounding.is_exact:
            return product(a, b, precision=self.precision(path))
        return product(
            to_float32(a),
            to_float32(b),
            chunk=self.chunk_at(path),
            round=numbered(rounding, site_key(key, f"accumulate {side}", path)),
        )

    def convolve(
        self,
        x: Float[Array, "batch height width channel_in"],
        kernel: Float[Array, "kernel_height kernel_width channel_in channel_out"],
        *,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        path: str = "",
        key: Key | None = None,
    ) -> Float32[Array, "batch height_out width_out channel_out"]:
        """2-D correlation, channels last, its products as in `dot`, in float32 arrays whatever the carrier.

        With a narrow accumulator it is a matrix product of the windows, whose chunks can be rounded: slower, and with the
        memory of the windows.
        """
        emulated = replace(self, carrier="emulated")
        x, kernel = self.load(x), self.load(kernel)
        if not self.rounding("accumulate", path).is_exact:
            return emulated._convolve_windows(x, kernel, strides=strides, padding=padding, path=path, key=key)
        left, right = (
            emulated._passed_operand(x, path, "input", key),
            emulated._passed_operand(kernel, path, "weight", key),
        )
        y: Any = jax.lax.conv_general_dilated(
            left,
            right,
            window_strides=tuple(strides),
            padding=tuple(padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self._convolution_precision(path),
        )
        incoming = self.activation_rounding("compute", path)
        if incoming.is_exact:
            return y
        return _passed(emulated, EXACT, incoming, y, (None, site_key(key, "compute gradient", path)))

    def _convolution_precision(self, path: str) -> jax.lax.Precision:
        """As `precision`; a convolution can be allowed TensorFloat-32 (JAX's default precision on a GPU), not told to use it."""
        is_float32 = self.precision(path) == jax.lax.Precision.HIGHEST
        return jax.lax.Precision.HIGHEST if is_float32 else jax.lax.Precision.DEFAULT

    def _passed_operand(
        self, x: Float32[Array, "*shape"], path: str, side: Literal["input", "weight"], key: Key | None
    ) -> Float32[Array, "*shape"]:
        """An operand on the compute grid, the gradient straight through."""
        rounding = self._operand_rounding(path, side)
        if rounding.is_exact:
            return x
        return _passed(self, rounding, EXACT, x, (site_key(key, f"compute {side}", path), None))

    def _convolve_windows(
        self,
        x: Float32[Array, "batch height width channel_in"],
        kernel: Float32[Array, "kernel_height kernel_width channel_in channel_out"],
        *,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        path: str,
        key: Key | None,
    ) -> Float32[Array, "batch height_out width_out channel_out"]:
        high, wide, channels, outputs = kernel.shape
        windows = jax.lax.conv_general_dilated_patches(
            x,
            (high, wide),
            tuple(strides),
            tuple(padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )  # features ordered channel, height, width
        matrix = jnp.transpose(kernel, (2, 0, 1, 3)).reshape(channels * high * wide, outputs)
        return self.dot(windows, matrix, path, key)


FLOAT32_POLICY = Policy()


def weight_block_axis(x: Array) -> int:
    """Along which the blocks of a weight lie: a matrix's inputs, over which a product sums; a convolution's last axis."""
    return 0 if x.ndim == 2 else -1


def to_float32(x: Float[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """A value of any carrier in float32; exact."""
    return x if x.dtype == jnp.float32 else x.astype(jnp.float32)


def site_key(key: Key | None, role: str, path: str) -> Key | None:
    """The key of a role at a path within a pass whose key is given."""
    if key is None:
        return None
    digest = hashlib.sha256(f"{role}\0{path}".encode()).digest()
    return fold_in(fold_in(key, int.from_bytes(digest[:4], "little")), int.from_bytes(digest[4:8], "little"))


def pass_key(seed: Array | int, step: Array, shard: Array) -> Key:
    """The key of one shard's pass through the network at one step."""
    return fold_in(fold_in(fold_in(make_key(0, "network", ""), seed), step), shard)


def numbered(rounding: Rounding, key: Key | None) -> Rounder:
    """The rounding of a running sum; each of its calls has a number, which is what random bits are drawn by."""
    return lambda x, number: rounding(x, None if key is None else fold_in(key, number))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _passed(policy: Policy, forward: Rounding, backward: Rounding, x: Array, keys: tuple[Key | None, ...]) -> Array:
    return policy.to_carrier(forward(x, keys[0]), forward)


def _passed_backward(
    policy: Policy, forward: Rounding, backward: Rounding, keys: Any, gradient: Array
) -> tuple[Any, ...]:
    return backward(to_float32(gradient), keys[1]), None


_passed.defvjp(
    lambda policy, forward, backward, x, keys: (_passed(policy, forward, backward, x, keys), keys), _passed_backward
)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loaded(policy: Policy, x: Array) -> Array:
    return x.astype(jnp.float32)


def _loaded_backward(policy: Policy, like: Array, gradient: Array) -> tuple[Array]:
    # The cotangent of a native array has its dtype: rounded by the kernel first, so that the cast rounds nothing.
    return (policy.to_dtype(gradient, like.dtype),)


_loaded.defvjp(lambda policy, x: (_loaded(policy, x), x[:0] if x.ndim else x), _loaded_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dot(policy: Policy, path: str, a: Array, b: Array, key: Key | None) -> Array:
    return _dot_forward(policy, path, a, b, key)[0]


def _dot_forward(policy: Policy, path: str, a: Array, b: Array, key: Key | None) -> tuple[Array, tuple[Any, ...]]:
    left, right = policy.operand(a, path, "input", key), policy.operand(b, path, "weight", key, axis=0)
    kinds = (a[:0].astype(a.dtype), b[:0].astype(b.dtype))  # dtypes of what the cotangents belong to
    return policy.sum_products(left, right, path, "output", key), (left, right, kinds, key)


def _dot_backward(policy: Policy, path: str, saved: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
    left, right, (a_kind, b_kind), key = saved
    incoming = policy.operand(gradient, path, "gradient", key)
    da = policy.sum_products(incoming, right.T, path, "input", key)
    rows = left.reshape(-1, left.shape[-1])
    db = policy.sum_products(rows.T, incoming.reshape(-1, incoming.shape[-1]), path, "weight", key)
    return policy.to_dtype(da, a_kind.dtype), policy.to_dtype(db, b_kind.dtype), None


_dot.defvjp(_dot_forward, _dot_backward)
