"""Row convolution: each channel's own weights over a frame and those that follow (Amodei et al. 2015, the lookahead layer).

    y[t, b, c] = sum over j of kernel[j, c] * x[t + j, b, c]

No channel is mixed with another, so there is no matrix product in it: it is written as one multiplication and one addition of whole
arrays for each row of the kernel, in the order of the rows. That order belongs to the definition: a frame's sum does not depend on how
many frames there are, so the same recording in pieces has the same sums. It is a product all the same, and rounds like one
(`Policy`): operands and the incoming error on the compute grid, partial sums as `accumulate` says, in float32 arrays whatever the
carrier, in which a product of two float16 or bfloat16 values is exact.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from dsrun.arithmetic.policy import Policy, numbered, site_key, to_float32
from dsrun.arithmetic.random_bits import Key
from dsrun.arithmetic.summation import elementwise_product


def row_convolve(
    policy: Policy,
    x: Float[Array, "frame batch channel"],
    kernel: Float[Array, "row channel"],
    path: str = "",
    key: Key | None = None,
) -> Float32[Array, "output_frame batch channel"]:
    """The frames whose sums lie within `x`: one fewer than it has for each row of the kernel but the first.

    Args:
        x: time-major; whoever wants the last frames too puts zeros behind it.
        path: the kernel's, for rules. key: for roundings that draw.
    """
    return _convolved(policy, path, x, kernel, key)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolved(policy: Policy, path: str, x: Array, kernel: Array, key: Key | None) -> Array:
    return _forward(policy, path, x, kernel, key)[0]


def _forward(policy: Policy, path: str, x: Array, kernel: Array, key: Key | None) -> tuple[Array, tuple[Any, ...]]:
    left = to_float32(policy.operand(x, path, "input", key))
    right = to_float32(policy.operand(kernel, path, "weight", key, axis=0))
    kinds = (x[:0].astype(x.dtype), kernel[:0].astype(kernel.dtype))  # dtypes of what the cotangents belong to
    frames, rows = len(x) - len(kernel) + 1, range(len(kernel))
    y = _sum(policy, [left[j : j + frames] for j in rows], _rows(right), path, "output", key)
    return y, (left, right, kinds, key)


def _backward(policy: Policy, path: str, saved: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
    left, right, (x_kind, kernel_kind), key = saved
    incoming = to_float32(policy.operand(gradient, path, "gradient", key))
    taps, frames = len(right), len(incoming)
    padded = jnp.pad(incoming, ((taps - 1, taps - 1), (0, 0), (0, 0)))
    reached = [padded[taps - 1 - j : taps - 1 - j + len(left)] for j in range(taps)]
    dx = _sum(policy, reached, _rows(right), path, "input", key)
    windows = [left[j : j + frames] for j in range(taps)]
    if policy.rounding("accumulate", path).is_exact:
        dkernel = jnp.stack([jnp.sum(incoming * window, axis=(0, 1)) for window in windows])
    else:
        cells = jnp.stack(windows, axis=2).reshape(-1, taps, left.shape[-1])
        errors = incoming.reshape(-1, 1, left.shape[-1])
        dkernel = _narrow_sum(policy, errors, cells, path, "weight", key)
    return policy.to_dtype(dx, x_kind.dtype), policy.to_dtype(dkernel, kernel_kind.dtype), None


_convolved.defvjp(_forward, _backward)


def _rows(kernel: Float32[Array, "row channel"]) -> list[Float32[Array, "1 1 channel"]]:
    return [row[None, None] for row in kernel]


def _sum(policy: Policy, a: list[Array], b: list[Array], path: str, side: str, key: Key | None) -> Array:
    """a[0] * b[0] + a[1] * b[1] + ..., in that order."""
    if not policy.rounding("accumulate", path).is_exact:
        return _narrow_sum(policy, jnp.stack(a), jnp.stack(b), path, side, key)
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def _narrow_sum(policy: Policy, a: Array, b: Array, path: str, side: str, key: Key | None) -> Array:
    rounding = policy.rounding("accumulate", path)
    round = numbered(rounding, site_key(key, f"accumulate {side}", path))
    return elementwise_product(a, b, chunk=policy.chunk_at(path), round=round)
