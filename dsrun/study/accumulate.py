"""Adding a small number many times: 100 + 0.01, a hundred times.

Each sum is made in float32 and rounded once to the format, which is what a narrow adder does. In float16 the spacing at 100 is
1/16, so 100.01 rounds back to 100, every time: the sum never moves. Stochastic rounding moves it by one spacing with probability
f = 0.01 / (1/16) = 0.16, so 100 additions give 101 on average, and the number of moves is binomial:

    E = start + times * increment        sd = sqrt(times * f * (1 - f)) * ulp

With n random bits f is cut to n bits: with 1 or 2 it is 0, and the sum never moves again; 3 bits give 100 + 100 * 1/8 * 1/16 =
100.78125. A float32 accumulator, rounded once at the end, gives 101 (before that rounding 101.0002: 0.01 and the hundred sums
are rounded in float32, too, which moves every mean here by as much).

The predictions are for the ideal sum, and given only where the spacing is the same wherever the sum is likely to be.
Formats of more than 11 significand bits are rounded twice, by float32's adder and then by the format; up to 11 bits the second
rounding is innocent for ties_to_even (24 >= 2 * 11 + 2).

Source: the example of the talk "Computer Arithmetic in Deep Learning" (B. Catanzaro).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt32

from dsrun.arithmetic import FLOAT32
from dsrun.arithmetic.formats import DEFAULT_RANDOM_BITS, RANDOM_MODES, GridFormat
from dsrun.arithmetic.random_bits import Key, draw, fold_in, make_key
from dsrun.arithmetic.rounding import round_on_grid, round_to
from dsrun.errors import UsageError
from dsrun.study.grid import check_mode, nearest, require_in_range, ulp

DEFAULT_MODES = ("ties_to_even", "stochastic")
SEQUENCES = 200  # of uniform numbers
MOST_POINTS = 120  # of a sum that is drawn
MAX_UNIFORMS = 2**20  # up to here their sum is exact in two uint32
_UNIFORM_BITS = 24


@dataclass(frozen=True)
class Accumulation:
    """`times` additions in one format and mode, over independent draws of the random bits."""

    format: GridFormat
    mode: str
    random_bits: int
    start: float  # on the grid
    increment: float
    times: int
    final: Float32[np.ndarray, " draw"]
    mean: Float32[np.ndarray, " step"]  # over draws, after 1, 2, ... additions
    sd: Float32[np.ndarray, " step"]

    def row(self) -> dict[str, Any]:
        """Statistics of the result beside the prediction."""
        final = self.final.astype(np.float64)
        mean, sd = _mean_and_sd(final)
        expected = predict(
            self.format, self.mode, self.random_bits, start=self.start, increment=self.increment, times=self.times
        )
        return {
            "format": self.format.name,
            "accumulator": self.format.name,
            "rounding": self.mode,
            "random_bits": self.random_bits if self.mode == "stochastic" else None,
            "draws": final.size,
            "start": self.start,
            "ulp": ulp(self.format, self.start),
            "mean": mean,
            "standard_error": sd / math.sqrt(final.size),
            "sd": sd,
            "min": float(final.min()),
            "max": float(final.max()),
            "at_start": float((final == self.start).mean()),
            "predicted_mean": expected.mean,
            "predicted_sd": expected.sd,
        }

    def growth(self) -> dict[str, Any]:
        """The sum as it is drawn: at most `MOST_POINTS` additions, none among them."""
        additions = _some(self.times)
        mean, sd = (np.concatenate([[first], rest]) for first, rest in ((self.start, self.mean), (0.0, self.sd)))
        return {
            **{"format": self.format.name, "rounding": self.mode, "draws": len(self.final)},
            **{"additions": additions, "real": [self.start + n * self.increment for n in additions]},
            **{"mean": mean[additions].astype(float).tolist(), "sd": sd[additions].astype(float).tolist()},
        }


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation by arithmetic on paper; None where that is not simple."""

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class UniformSums:
    """Sums of many uniform numbers in one format and mode, over independent sequences."""

    format: GridFormat
    accumulator: GridFormat
    mode: str
    final: Float32[np.ndarray, " sequence"]
    exact: np.ndarray  # float64, the same sequences
    mean: Float32[np.ndarray, " step"]

    def row(self) -> dict[str, Any]:
        """Statistics of the sums beside the exact ones."""
        final = self.final.astype(np.float64)
        mean, sd = _mean_and_sd(final)
        return {
            "format": self.format.name,
            "accumulator": self.accumulator.name,
            "rounding": self.mode,
            "sequences": final.size,
            "uniforms": len(self.mean),
            "mean": mean,
            "sd": sd,
            "min": float(final.min()),
            "max": float(final.max()),
            "exact_mean": float(self.exact.mean()),
            "relative_error": float(np.mean(np.abs(final - self.exact) / self.exact)),
        }

    def growth(self) -> dict[str, Any]:
        """The mean sum as it is drawn: at most `MOST_POINTS` numbers added, none among them."""
        added = _some(len(self.mean))
        mean = np.concatenate([[0.0], self.mean.astype(float)])
        about = {"format": self.format.name, "rounding": self.mode, "sequences": len(self.final)}
        return about | {"additions": added, "real": [n / 2 for n in added], "mean": mean[added].tolist()}


@dataclass(frozen=True)
class SumsStudy:
    """All that `dsrun study accumulate` shows."""

    sums: list[Accumulation]
    masters: list[dict[str, Any]]  # rows of the float32 accumulators
    sweeps: list[list[dict[str, Any]]]  # rows by number of random bits, a list for each format
    uniforms: list[UniformSums]

    def report(self) -> dict[str, Any]:
        """Rows for a table or for JSON."""
        return {
            "sums": [found.row() for found in self.sums] + self.masters,
            "random_bits": [row for rows in self.sweeps for row in rows],
            "uniforms": [found.row() for found in self.uniforms],
            "growth": [found.growth() for found in self.sums],
            "uniform_growth": [found.growth() for found in self.uniforms if found.accumulator == found.format],
        }


def _some(last: int) -> list[int]:
    """Numbers from 0 to `last`, evenly, at most `MOST_POINTS`."""
    return np.unique(np.linspace(0, last, min(last + 1, MOST_POINTS)).round().astype(int)).tolist()


def study_sums(
    formats: Sequence[GridFormat],
    modes: Sequence[str] = DEFAULT_MODES,
    *,
    start: float = 100.0,
    increment: float = 0.01,
    times: int = 100,
    draws: int = 10_000,
    random_bits: int = DEFAULT_RANDOM_BITS,
    uniforms: int = 10_000,
    seed: int = 0,
) -> SumsStudy:
    """The sums in every format and mode, each beside a float32 accumulator; the same with uniform numbers (0: without).

    Float32 itself is shown in its only mode, and the number of random bits is swept where stochastic is among the modes.

    Raises:
        UsageError: as `accumulate`.
    """
    small = [format for format in formats if format != FLOAT32]
    pairs = [(format, mode) for format in formats for mode in (modes if format in small else ("ties_to_even",))]
    for format, mode in pairs:
        check_mode(format, mode, random_bits if mode == "stochastic" else None)
        require_in_range(format, start, "start")
    numbers: dict[str, Any] = {"start": start, "increment": increment, "times": times}
    repeated = numbers | {"draws": draws, "seed": seed}
    totals = [sum_uniforms(*pair, count=uniforms, seed=seed) for pair in pairs] if uniforms else []
    if uniforms and small:
        wide = sum_uniforms(FLOAT32, "ties_to_even", count=uniforms, seed=seed)
        totals += [rounded_once(wide, format) for format in small]
    return SumsStudy(
        [accumulate(*pair, random_bits=random_bits, **repeated) for pair in pairs],
        [master_row(format, **numbers) for format in small],
        [sweep_random_bits(format, **repeated) for format in small] if "stochastic" in modes else [],
        totals,
    )


def accumulate(
    format: GridFormat,
    mode: str,
    *,
    start: float = 100.0,
    increment: float = 0.01,
    times: int = 100,
    draws: int = 10_000,
    random_bits: int = DEFAULT_RANDOM_BITS,
    seed: int = 0,
) -> Accumulation:
    """Add `increment` to `start` so many times, rounding each sum to `format`.

    Args:
        start: rounded to the format, to nearest, before it begins.
        draws: independent repetitions of a mode that draws random bits; the others need one.

    Raises:
        UsageError: the format cannot honour the mode, `start` lies beyond it, or `increment` beyond float32.
    """
    check_mode(format, mode, random_bits if mode == "stochastic" else None)
    require_in_range(format, start, "start")
    require_in_range(FLOAT32, increment, "increment")
    first = nearest(format, start)
    count = draws if mode in RANDOM_MODES else 1
    final, mean, sd = _accumulate(
        format, mode, times, count, random_bits, jnp.float32(first), jnp.float32(increment), jnp.uint32(seed)
    )
    return Accumulation(
        *(format, mode, random_bits, first, increment, times), np.asarray(final), np.asarray(mean), np.asarray(sd)
    )


def master_row(format: GridFormat, *, start: float, increment: float, times: int) -> dict[str, Any]:
    """The same sum in float32, rounded to `format` once at the end: what a high-precision copy of the weights does."""
    wide = accumulate(FLOAT32, "ties_to_even", start=start, increment=increment, times=times)
    total = float(wide.final[0])
    rounded = float(_nearest(jnp.float32(total), format))
    return wide.row() | {
        **{"format": format.name, "ulp": ulp(format, rounded)},
        **{
            "mean": rounded,
            "min": rounded,
            "max": rounded,
            "at_start": float(rounded == nearest(format, start)),
            "unrounded": total,
        },
    }


def sweep_random_bits(
    format: GridFormat,
    *,
    most: int = 10,
    start: float = 100.0,
    increment: float = 0.01,
    times: int = 100,
    draws: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The stochastic sum with 1, 2, ... `most` random bits: a row each."""
    check_mode(format, "stochastic", most)
    require_in_range(format, start, "start")
    first = nearest(format, start)
    final = np.asarray(
        _sweep(format, most, times, draws, jnp.float32(first), jnp.float32(increment), jnp.uint32(seed)), np.float64
    )
    rows = []
    for n, values in enumerate(final, start=1):
        expected = predict(format, "stochastic", n, start=first, increment=increment, times=times)
        mean, sd = _mean_and_sd(values)
        rows.append(
            {
                **{"format": format.name, "random_bits": n, "draws": draws, "mean": mean},
                **{"standard_error": sd / math.sqrt(draws), "sd": sd},
                **{"predicted_mean": expected.mean, "predicted_sd": expected.sd},
            }
        )
    return rows


def _mean_and_sd(values: np.ndarray) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):  # sums that overflowed have neither
        return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0


def predict(
    format: GridFormat, mode: str, random_bits: int, *, start: float, increment: float, times: int
) -> Prediction:
    """Mean and sd of the sum, if the spacing does not change on the way and no tie decides."""
    spacing = ulp(format, start)
    whole, f = divmod(abs(Fraction(increment)) / Fraction(spacing), 1)  # increment = (whole + f) spacings
    chance = _chance_of_moving_on(mode, f, random_bits, grows=start * increment >= 0, rises=increment > 0)
    if chance is None or format == FLOAT32:
        return Prediction(None, None)
    direction = math.copysign(spacing, increment)
    mean = start + times * float(whole + chance) * direction
    sd = math.sqrt(times * float(chance * (1 - chance))) * spacing
    reach = (start, mean - 8 * sd, mean + 8 * sd)  # beyond 8 sd no sum is seen
    is_uniform = min(reach) * max(reach) >= 0 and all(ulp(format, x) == spacing for x in reach)
    in_range = format.min_value <= min(reach) and max(reach) <= format.max_value
    return Prediction(mean, sd) if is_uniform and in_range else Prediction(None, None)


def _chance_of_moving_on(mode: str, f: Fraction, random_bits: int, *, grows: bool, rises: bool) -> Fraction | None:
    """Chance that a sum a fraction f of a spacing on its way goes on to the farther neighbour; None for a tie.

    `grows`: away from zero; `rises`: to larger numbers.
    """
    never, always = Fraction(0), Fraction(1)
    if f == 0:
        return never
    if mode == "stochastic":  # its chance of going away from zero is what is cut to n bits
        n = 2**random_bits
        return Fraction(math.floor(f * n), n) if grows else 1 - Fraction(math.floor((1 - f) * n), n)
    if mode == "stochastic_equal":
        return Fraction(1, 2)
    if mode.startswith("toward_"):
        goes_on = {"toward_zero": not grows, "toward_positive": rises, "toward_negative": not rises}[mode]
        return always if goes_on else never
    return None if f == Fraction(1, 2) else always if f > Fraction(1, 2) else never


def sum_uniforms(format: GridFormat, mode: str, *, count: int = 10_000, seed: int = 0) -> UniformSums:
    """Sums of `count` numbers drawn uniformly from [0, 1), each sum rounded to `format`; `SEQUENCES` of them.

    In float16 the nearest sum stops at 2048: there the spacing is 2, and what is less than half of it is lost. The numbers
    are multiples of 2**-24 and the same for all formats and modes.
    """
    check_mode(format, mode)
    if not 1 <= count <= MAX_UNIFORMS:
        raise UsageError(f"uniforms is {count}: 1 to {MAX_UNIFORMS}.")
    final, high, low, mean = _sum_uniforms(format, mode, count, jnp.uint32(seed))
    exact = (np.asarray(high, np.float64) * 4096 + np.asarray(low, np.float64)) * 2.0**-_UNIFORM_BITS
    return UniformSums(format, format, mode, np.asarray(final), exact, np.asarray(mean))


def rounded_once(sums: UniformSums, format: GridFormat) -> UniformSums:
    """Float32 sums, each rounded to `format` at the end."""
    final = np.asarray(_nearest(jnp.asarray(sums.final), format))
    return UniformSums(format, sums.accumulator, sums.mode, final, sums.exact, sums.mean)


_nearest = jax.jit(round_to, static_argnums=1)  # an eager round_to would compile each of its operations


def _key(seed: Array, role: str, format: GridFormat | None = None) -> Key:
    return fold_in(make_key(0, f"study {role}", format.name if format else ""), seed)


def _round(x: Array, format: GridFormat, mode: str, random_bits: int, key: Key) -> Array:
    if mode not in RANDOM_MODES:
        return round_to(x, format, mode=mode)
    return round_to(
        x, format, mode=mode, key=key, random_bits=random_bits if mode == "stochastic" else DEFAULT_RANDOM_BITS
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _accumulate(
    format: GridFormat, mode: str, times: int, draws: int, random_bits: int, start: Array, increment: Array, seed: Array
) -> tuple[Array, Array, Array]:
    key = _key(seed, "accumulate", format)

    def add(total: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
        total = _round(total + increment, format, mode, random_bits, fold_in(key, step))
        moved = total - start  # differences of neighbours are exact, so their mean has float32's digits to itself
        return total, (start + jnp.mean(moved), jnp.std(moved))

    steps = jnp.arange(1, times + 1, dtype=jnp.uint32)
    final, (mean, sd) = jax.lax.scan(add, jnp.full((draws,), start, jnp.float32), steps)
    return final, mean, sd


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sweep(
    format: GridFormat, most: int, times: int, draws: int, start: Array, increment: Array, seed: Array
) -> Float32[Array, "random_bits draw"]:
    """One compilation for all widths: n random bits are 24 of which the lowest 24 - n are zero."""
    key = _key(seed, "sweep", format)
    masks = jnp.array([[(2**32 - 1) ^ (2 ** (32 - n) - 1)] for n in range(1, most + 1)], jnp.uint32)

    def add(total: Array, step: Array) -> tuple[Array, None]:
        bits: UInt32[Array, ...] = draw(fold_in(key, step), total.shape) & jnp.broadcast_to(masks, total.shape)
        return round_on_grid(total + increment, format, mode="stochastic", bits=bits), None

    steps = jnp.arange(1, times + 1, dtype=jnp.uint32)
    return jax.lax.scan(add, jnp.full((most, draws), start, jnp.float32), steps)[0]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sum_uniforms(format: GridFormat, mode: str, count: int, seed: Array) -> tuple[Array, Array, Array, Array]:
    """Sums, the exact ones in units of 2**-12 and 2**-24, and the mean of the sums after each addition."""
    number_key, rounding_key = _key(seed, "uniform numbers"), _key(seed, "sum of uniforms", format)

    def add(carry: tuple[Array, Array, Array], step: Array) -> tuple[tuple[Array, Array, Array], Array]:
        total, high, low = carry
        number = draw(fold_in(number_key, step), total.shape) >> jnp.uint32(32 - _UNIFORM_BITS)
        uniform = number.astype(jnp.float32) * jnp.float32(2.0**-_UNIFORM_BITS)  # exact
        total = _round(total + uniform, format, mode, DEFAULT_RANDOM_BITS, fold_in(rounding_key, step))
        carry = total, high + (number >> jnp.uint32(12)), low + (number & jnp.uint32(4095))
        return carry, jnp.mean(total)

    zeros = jnp.zeros((SEQUENCES,), jnp.uint32)
    first = (jnp.zeros((SEQUENCES,), jnp.float32), zeros, zeros)
    (final, high, low), mean = jax.lax.scan(add, first, jnp.arange(count, dtype=jnp.uint32))
    return final, high, low, mean
