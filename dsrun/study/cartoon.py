"""Gradient descent on one weight: Q(w) = -(w - 3)**2 + 3, learning rate 0.01, in a small format.

Q has a maximum at 3, so the update climbs: w <- w + gamma * dQ/dw = w + 2 gamma (3 - w). (The talk's slide writes a minus, which
would run away.) In real numbers the distance to 3 shrinks by 1 - 2 gamma = 0.98 a step:

    w_t = 3 + (start - 3) * (1 - 2 gamma)**t

In a format the update is 2 gamma (3 - w) and a weight moves to nearest only if that is more than half of the grid's spacing at
w. So it stalls within ulp(w) / (4 gamma) of 3: 0.049 in float16 and 0.39 in bfloat16, and no number of further steps helps.
Ways out, all here:

    ties_to_even  the stalling one
    stochastic    moves by a whole spacing with the probability that makes the mean right; the map is linear, so
                  E[w_t] is the real sequence in every format, and 3, which is on the grid, is a fixed point: all draws end there
    master        a float32 copy accumulates, its rounding to the format is what the gradient sees
    kahan         a second weight-sized array in the format keeps what the rounding lost, and adds it to the next update

What is rounded. `rounded="weight"`: the update is float32 and the new weight is rounded once; this is what a training
step does. `rounded="operations"`: the difference and the product are rounded too, by the same mode, as in arithmetic that
has nothing wider; gamma itself stays a float32 scalar. In float16 and bfloat16 nearest stops at the same place either way. In fixed
point it does not, because an update below half of the spacing is itself rounded to nothing; then a master does not help, only
stochastic rounding of the product. Kahan's four operations, and the update that enters them, are rounded to the format
in either case, so in fixed point he stalls; and with few significand bits what is owed may stop growing (float8_e5m2: he ends at 2).

Float32 itself may differ in its last bit between machines: a compiler may contract w + g * d into one rounding.

Source: the example of the talk "Computer Arithmetic in Deep Learning" (B. Catanzaro); Zamirai et al. 2020 for Kahan's sum in updates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from dsrun.arithmetic import FLOAT32
from dsrun.arithmetic.formats import DEFAULT_RANDOM_BITS, GridFormat
from dsrun.arithmetic.random_bits import fold_in, make_key
from dsrun.arithmetic.rounding import round_to
from dsrun.errors import UsageError
from dsrun.study.grid import check_mode, is_on_grid, nearest, require_in_range, ulp

Method = Literal["ties_to_even", "stochastic", "master", "kahan"]
Rounded = Literal["weight", "operations"]
METHODS: tuple[Method, ...] = get_args(Method)
TARGET = 3.0  # where Q is largest
MOST_POINTS = 120  # of a way that is drawn


@dataclass(frozen=True)
class Trajectory:
    """A weight's way in one format by one method, over independent draws of the random bits."""

    format: GridFormat
    method: Method
    random_bits: int
    start: float  # on the grid
    learning_rate: float
    final: Float32[np.ndarray, " draw"]
    last_moved: Int32[np.ndarray, " draw"]  # step; 0 for never
    mean: Float[np.ndarray, " step"]  # over draws, after 0, 1, 2, ... steps
    sd: Float[np.ndarray, " step"]

    def row(self) -> dict[str, Any]:
        """Where it ended, when it stopped, and the radius in which nearest must stall."""
        final = self.final.astype(np.float64)
        mean = float(final.mean())
        return {
            "format": self.format.name,
            "method": self.method,
            "random_bits": self.random_bits if self.method == "stochastic" else None,
            "draws": final.size,
            "start": self.start,
            "final": mean,
            "min": float(final.min()),
            "max": float(final.max()),
            "at_target": float((final == TARGET).mean()),
            "last_moved": int(self.last_moved.max()),
            "distance": abs(TARGET - mean),
            "ulp": ulp(self.format, mean),
            "stall_radius": stall_radius(self.format, mean, self.learning_rate),
        }

    def trajectory(self) -> dict[str, Any]:
        """The weight's way as it is drawn: at most `MOST_POINTS` steps, close at the beginning, beside the real sequence."""
        last = len(self.mean) - 1
        steps = np.unique(np.geomspace(1, max(last, 1), MOST_POINTS).round().astype(int))
        real = [real_sequence(int(step), start=self.start, learning_rate=self.learning_rate) for step in steps]
        return {
            **{"format": self.format.name, "method": self.method, "start": self.start, "draws": len(self.final)},
            **{"steps": steps.tolist(), "real": real},
            **{"mean": self.mean[steps].tolist(), "sd": self.sd[steps].tolist()},
        }

    def expectation_row(self, step: int) -> dict[str, Any]:
        """Mean of the draws at a step beside the real sequence."""
        expected = real_sequence(step, start=self.start, learning_rate=self.learning_rate)
        mean, sd = float(self.mean[step]), float(self.sd[step])
        error = sd / math.sqrt(len(self.final))
        return {
            "format": self.format.name,
            "step": step,
            "draws": len(self.final),
            "expected": expected,
            "mean": mean,
            "standard_error": error,
            "standard_errors_off": (mean - expected) / error if error else None,
            "sd": sd,
        }


@dataclass(frozen=True)
class CartoonStudy:
    """All that `dsrun study cartoon` shows."""

    ways: list[Trajectory]
    float32: Trajectory
    steps: tuple[int, ...]  # whose mean is compared

    def report(self) -> dict[str, Any]:
        """Rows for a table or for JSON."""
        stochastic = [way for way in self.ways if way.method == "stochastic"]
        return {
            "ways": [way.row() for way in (*self.ways, self.float32)],
            "expectation": [way.expectation_row(step) for way in stochastic for step in self.steps],
            "trajectories": [way.trajectory() for way in (*self.ways, self.float32)],
        }


def study_cartoon(
    formats: Sequence[GridFormat], *, compared: Sequence[int] = (50, 100, 200), draws: int = 10_000, **options: Any
) -> CartoonStudy:
    """All methods in every format, and float32; the stochastic mean at the steps `compared` that there are.

    Args:
        options: of `climb`.

    Raises:
        UsageError: as `climb`.
    """
    wide = climb(FLOAT32, "ties_to_even", **options)
    small = [format for format in formats if format != FLOAT32]
    ways = [climb(format, method, draws=draws, **options) for format in small for method in METHODS]
    return CartoonStudy(ways, wide, tuple(step for step in compared if step < len(wide.mean)))


def real_sequence(step: int, *, start: float, learning_rate: float) -> float:
    """w after so many steps in real numbers."""
    return TARGET + (start - TARGET) * (1 - 2 * learning_rate) ** step


def stall_radius(format: GridFormat, w: float, learning_rate: float) -> float:
    """Distance from 3 at which the update is half of the spacing at `w`."""
    return ulp(format, w) / (4 * learning_rate)


def climb(
    format: GridFormat,
    method: Method,
    *,
    start: float = 0.0,
    learning_rate: float = 0.01,
    steps: int = 2000,
    draws: int = 10_000,
    random_bits: int = DEFAULT_RANDOM_BITS,
    rounded: Rounded = "weight",
    seed: int = 0,
) -> Trajectory:
    """So many updates of the weight.

    Args:
        start: rounded to the format, to nearest, before it begins.
        learning_rate: gamma, between 0 and 1 (where the sequence converges).
        draws: independent repetitions for stochastic; the other methods need one.

    Raises:
        UsageError: the format cannot hold the start or 3, or not honour the method.
    """
    draws_bits = method == "stochastic"
    check_mode(format, "stochastic" if draws_bits else "ties_to_even", random_bits if draws_bits else None)
    if not 0 < learning_rate < 1:
        raise UsageError(
            f"the learning rate is {learning_rate:g}: between 0 and 1 the weight converges, elsewhere it does not."
        )
    require_in_range(format, start, "start")
    if not is_on_grid(format, TARGET):
        raise UsageError(
            f"Q is largest at 3, which is no value of {format} (from {format.min_value:g} to {format.max_value:g})."
        )
    first = nearest(format, start)
    count = draws if draws_bits else 1
    real = [real_sequence(step, start=first, learning_rate=learning_rate) for step in range(steps + 1)]
    final, last_moved, offset, sd = _climb(
        *(format, method, rounded, random_bits, count),
        jnp.float32(first),
        jnp.float32(2 * learning_rate),
        jnp.asarray(np.array(real[1:], np.float32)),
        jnp.uint32(seed),
    )
    mean = np.array(real) + np.concatenate([[0.0], np.asarray(offset, np.float64)])
    return Trajectory(
        *(format, method, random_bits, first, learning_rate),
        np.asarray(final),
        np.asarray(last_moved),
        mean,
        np.concatenate([[0.0], np.asarray(sd)]),
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _climb(
    format: GridFormat,
    method: Method,
    rounded: Rounded,
    random_bits: int,
    draws: int,
    start: Array,
    rate: Array,
    real: Float32[Array, " step"],
    seed: Array,
) -> tuple[Array, Array, Array, Array]:
    """Final weights, steps at which they last moved, and mean (less the real sequence) and sd after each step.

    `rate` is 2 gamma. The second array of the state is the master's float32 weight, or what Kahan's sum still owes.
    """
    key = fold_in(make_key(0, "study cartoon", format.name), seed)
    to_nearest = partial(round_to, format=format)

    def to_grid(x: Array, step: Array, operation: int) -> Array:
        """Rounded by the method's own mode."""
        if method != "stochastic":
            return to_nearest(x)
        bits = fold_in(fold_in(key, step), operation)
        return round_to(x, format, mode="stochastic", key=bits, random_bits=random_bits)

    def update(w: Array, step: Array) -> Array:
        if rounded == "weight":
            return rate * (jnp.float32(TARGET) - w)
        return to_grid(rate * to_grid(jnp.float32(TARGET) - w, step, 1), step, 2)

    def move(w: Array, second: Array, step: Array) -> tuple[Array, Array]:
        if method == "master":
            master = second + update(w, step)
            return to_nearest(master), master
        if method == "kahan":
            owed = to_nearest(to_nearest(update(w, step)) - second)
            moved = to_nearest(w + owed)
            return moved, to_nearest(to_nearest(moved - w) - owed)
        return to_grid(w + update(w, step), step, 0), second

    def advance(state: tuple[Array, Array, Array], inputs: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        w, second, last_moved = state
        step, expected = inputs
        moved, second = move(w, second, step)
        last_moved = jnp.where(moved != w, step.astype(jnp.int32), last_moved)
        offset = moved - expected  # small, so that its mean has float32's digits to itself
        mean = jnp.mean(offset)
        sd = jnp.sqrt(jnp.sum(jnp.square(offset - mean)) / jnp.float32(max(draws - 1, 1)))
        return (moved, second, last_moved), (mean, sd)

    w = jnp.full((draws,), start, jnp.float32)
    second = w if method == "master" else jnp.zeros_like(w)
    steps = jnp.arange(1, real.shape[0] + 1, dtype=jnp.uint32)
    (final, _, last_moved), (mean, sd) = jax.lax.scan(
        advance, (w, second, jnp.zeros((draws,), jnp.int32)), (steps, real)
    )
    return final, last_moved, mean, sd
