"""Self-check: does this machine compute what results are based on? What `dsrun doctor` prints below its facts.

A backend may delete a rounding, flush subnormals, give TensorFloat-32 for a float32 product, or saturate where another gives
NaN, and none of them says so. Three kinds of rows:

* PASS or FAIL: what dsrun promises on every device. Its roundings are not deleted and keep subnormals, its products are
  float32, its random bits are the pinned ones, and the rounding kernel gives the answers file bit for bit.
* INFO: what the backend does by itself, where dsrun does not rely on it. Worth a look before blaming a result on a format.

The answers file, `dsrun/arithmetic/answers.json`, is a sha256 of the kernel's output bits for every format and every mode that
the format can honour, on fixed inputs and, where bits are drawn, a fixed key; `scripts/regolden.py` writes it. Grid formats
read patterns of float32: every high half with one or two of 14 low halves (ties, near-ties and quarter points of the usual
widths). Formats with a scale read normal numbers near 1, because their scale comes from float arithmetic, in which some
backends flush subnormals.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from dsrun.arithmetic.formats import (
    BFLOAT16,
    FLOAT8_E4M3FN,
    FLOAT16,
    FORMATS,
    MODES,
    RANDOM_MODES,
    FixedFormat,
    FloatFormat,
    Format,
    check_rounding,
    parse_format,
)
from dsrun.arithmetic.random_bits import draw, make_key
from dsrun.arithmetic.rounding import round_to
from dsrun.arithmetic.summation import product
from dsrun.ctc import ctc_loss

ANSWERS = Path(__file__).parent / "arithmetic" / "answers.json"
Status = Literal["PASS", "FAIL", "INFO"]

# ---------------------------------------------------------------------------------------------------------------- the answers

_LOW_HALVES = (0x0, 0x1, 0xFFF, 0x1000, 0x1001, 0x2000, 0x3FFF, 0x4000, 0x4001, 0x6000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
# Of the 917,504 patterns; no factor shared with the 14 low halves, so each of them comes 5,957 times or more.
_STRIDE = 11
# Zeros, infinities, NaNs that are easily spoiled, the largest and smallest numbers, and two ties at the end of a range:
# 65520 (float16) and 464 (float8_e4m3fn).
_SPECIAL = (
    *(0x0000_0000, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFFFF_FFFF, 0x7F7F_FFFF, 0xFF7F_FFFF),
    *(0x0000_0001, 0x8000_0001, 0x007F_FFFF, 0x0080_0000, 0x477F_F000, 0x43E8_0000),
)
# Of both inputs, so that they share compiled operations. A row is a block of 32 and a block of one.
_SHAPE = (2528, 33)
_FAMILY_MEMBERS: dict[str, Format] = {
    "float_e6m5": parse_format("float_e6m5"),
    "float_e6m9": parse_format("float_e6m9"),
    "float_e8m3": parse_format("float_e8m3"),
    "float_e6m5 without subnormals": parse_format("float_e6m5", subnormals=False),
    "float16 saturate": parse_format("float16", overflow="saturate"),
    "float8_e4m3fn saturate": parse_format("float8_e4m3fn", overflow="saturate"),
    "fixed_q2.14": parse_format("fixed_q2.14"),
    "fixed_q8.8": parse_format("fixed_q8.8"),
    "fixed_q2.14 wrap": parse_format("fixed_q2.14", overflow="wrap"),
    "int8 channel": parse_format("int8", granularity="channel"),
}
ANSWERED: dict[str, Format] = FORMATS | _FAMILY_MEMBERS


def float32_patterns() -> Float32[np.ndarray, "row column"]:
    """What grid formats are tried on: 83,424 values of every kind."""
    high = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    patterns = (high[:, None] | np.array(_LOW_HALVES, np.uint32)).reshape(-1)
    patterns = np.concatenate([patterns[::_STRIDE], np.array(_SPECIAL, np.uint32)])
    return patterns.view(np.float32).reshape(_SHAPE)


def numbers_near_one() -> Float32[np.ndarray, "row column"]:
    """What formats with a scale are tried on: multiples of 2**-12 below 4, small ones as often as large ones.

    The largest is 127 * 2**-5, so int8's scale is 2**-5 and its ties are met.
    """
    counter = np.arange(np.prod(_SHAPE), dtype=np.uint64)
    # A Weyl sequence cut by a shift that cycles: no generator to depend on.
    code = ((counter * np.uint64(2654435761)) % np.uint64(1 << 14)) >> (counter % np.uint64(11))
    code = np.minimum(code, np.uint64(127 << 7))
    sign = np.where(counter % np.uint64(3) == 1, -1.0, 1.0)
    return (sign * code * 2.0**-12).astype(np.float32).reshape(_SHAPE)


def inputs_for(format: Format) -> Float32[np.ndarray, "..."]:
    """The inputs that a format's answers belong to."""
    return float32_patterns() if isinstance(format, FloatFormat | FixedFormat) else numbers_near_one()


def modes_of(format: Format) -> list[str]:
    """Modes that the format can honour."""
    return [mode for mode in MODES if _can_honour(format, mode)]


def _can_honour(format: Format, mode: str) -> bool:
    try:
        check_rounding(format, mode)
    except ValueError:
        return False
    return True


def round_in_modes(
    x: Float32[Array, "*shape"], key: Array, *, format: Format, modes: Sequence[str]
) -> dict[str, Float32[Array, "*shape"]]:
    """`x` rounded in each mode."""
    return {mode: round_to(x, format, mode=mode, key=key if mode in RANDOM_MODES else None) for mode in modes}


def answer_key() -> Array:
    """The key that stochastic answers are drawn with."""
    return make_key(0, "self_check", "answers")


def answers_of(name: str, *, modes: Sequence[str] | None = None, jit: bool = False) -> dict[str, str]:
    """For each mode the sha256 of the output bits on the default device.

    Args:
        name: a key of `ANSWERED`.
        modes: None for all that the format can honour.
        jit: all modes by one executable; otherwise operation by operation, whose compiled parts the formats share: much faster
            for many formats.
    """
    format = ANSWERED[name]
    rounder = partial(round_in_modes, format=format, modes=modes_of(format) if modes is None else modes)
    outputs = (jax.jit(rounder) if jit else rounder)(jnp.asarray(inputs_for(format)), answer_key())
    return {mode: _digest(values) for mode, values in outputs.items()}


def pinned_bits() -> list[str]:
    """The first random words under the answers' key."""
    return [f"{word:08x}" for word in np.asarray(jax.jit(partial(draw, shape=(8,)))(answer_key()))]


def all_answers() -> dict[str, Any]:
    """What the answers file holds, computed here."""
    rounding = {name: answers_of(name) for name in ANSWERED}
    return {
        "about": "sha256 of the rounding kernel's output bits, see dsrun/self_check.py; written by scripts/regolden.py",
        "inputs": {"grid formats": _digest(float32_patterns()), "formats with a scale": _digest(numbers_near_one())},
        "random_bits": pinned_bits(),
        "rounding": rounding,
    }


def read_answers() -> dict[str, Any]:
    """The answers file of this installation."""
    return json.loads(ANSWERS.read_text())


def _digest(values: Any) -> str:
    """sha256 of float32 values as little-endian bits."""
    return hashlib.sha256(np.asarray(values).astype("<f4", copy=False).tobytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------------- the checks


@dataclass(frozen=True)
class Check:
    """One row. An INFO row expects nothing and cannot fail."""

    name: str
    expected: str
    found: str
    status: Status

    @property
    def passed(self) -> bool:
        """Not a FAIL."""
        return self.status != "FAIL"

    def to_json(self) -> dict[str, Any]:
        """As `dsrun doctor --json` prints it."""
        return asdict(self) | {"passed": self.passed}


def run_self_check() -> list[Check]:
    """Every row, in the order in which they are printed; seconds on a CPU."""
    groups: tuple[Callable[[], Iterator[Check]], ...] = (
        _rounding_under_jit,
        _subnormals,
        _products,
        _compiler_habits,
        _pinned_answers,
        _ctc,
    )
    return [check for group in groups for check in group()]


def _expect(name: str, expected: Any, found: Any) -> Check:
    return Check(name, str(expected), str(found), "PASS" if expected == found else "FAIL")


def _inform(name: str, found: str) -> Check:
    return Check(name, "", found, "INFO")


def _rounding_under_jit() -> Iterator[Check]:
    """100 + 0.01, rounded before and after: a compiler that deletes the roundings gives 100.01."""
    # The spacing at 100 is 2**-4 in float16, 1/2 in bfloat16, 8 in e4m3fn, where 100 itself is a tie between 96 and 104.
    for format, expected in ((FLOAT16, 100.0), (BFLOAT16, 100.0), (FLOAT8_E4M3FN, 96.0)):
        round = partial(round_to, format=format)
        added = jax.jit(lambda x, round=round: round(round(x) + jnp.float32(0.01)))(jnp.float32(100.0))
        yield _expect(f"rounding is not deleted under jit (100 + 0.01 in {format})", expected, float(added))
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn):
        there_and_back = jax.jit(lambda x, dtype=dtype: x.astype(dtype).astype(jnp.float32))(jnp.float32(100.01))
        found = "deleted: nothing is rounded" if float(there_and_back) == float(np.float32(100.01)) else "kept"
        yield _inform(f"cast to {jnp.dtype(dtype).name} and back under jit", found)


def _subnormals() -> Iterator[Check]:
    for format in (FLOAT16, BFLOAT16):
        values = _subnormals_of(format)
        rounded = np.asarray(jax.jit(partial(round_to, format=format))(jnp.asarray(values)))
        kept = int(np.sum(rounded.view(np.uint32) == values.view(np.uint32)))
        name = f"{format}'s {values.size} positive subnormals survive rounding, bit for bit"
        yield _expect(name, f"{values.size} kept", f"{kept} kept")
    yield _expect(
        "1e-7 rounds to 2 * 2**-24 in float16",
        2 * 2.0**-24,
        float(jax.jit(partial(round_to, format=FLOAT16))(jnp.float32(1e-7))),
    )
    tiny = jnp.asarray(np.array([1 << 20], np.uint32).view(np.float32))  # 2**-129
    doubled = np.asarray(jax.jit(lambda x: x + x)(tiny)).view(np.uint32)[0]
    yield _inform("float32 subnormals in arithmetic", "kept" if doubled == 1 << 21 else "flushed to zero")


def _subnormals_of(format: FloatFormat) -> Float32[np.ndarray, " value"]:
    """Every positive subnormal of a format, assembled from bits where it is a subnormal of float32 too."""
    codes = np.arange(1, 1 << (format.precision - 1), dtype=np.uint32)
    if format.min_exponent == -126:
        return (codes << np.uint32(24 - format.precision)).view(np.float32)
    return (codes * format.smallest_positive).astype(np.float32)


def _products() -> Iterator[Check]:
    """TensorFloat-32 keeps 11 significand bits of an operand, bfloat16 keeps 8, and both call the result float32."""
    operand = (1.0 + 2.0 ** -np.arange(1, 24, dtype=np.float32)).astype(np.float32)  # 1 + 2**-k needs k + 1 bits
    matrix = jnp.asarray(np.tile(operand, (32, 1)))
    eye = jnp.eye(operand.size, dtype=jnp.float32)
    image = jnp.asarray(np.tile(operand, (1, 1, 32, 1)))
    yield _expect("dsrun's products are float32", "24 bits", _bits_kept(operand, jax.jit(product)(matrix, eye)[0]))
    highest, default = (jax.jit(partial(_convolve, precision=p))(image) for p in (jax.lax.Precision.HIGHEST, None))
    yield _expect("convolutions of highest precision are float32", "24 bits", _bits_kept(operand, highest[0, 0, 0]))
    yield _inform("jnp.matmul of float32, nothing asked for", _bits_kept(operand, jax.jit(jnp.matmul)(matrix, eye)[0]))
    yield _inform("convolution of float32, nothing asked for", _bits_kept(operand, default[0, 0, 0]))


def _convolve(
    image: Float32[Array, "1 1 row column"], *, precision: jax.lax.Precision | None
) -> Float32[Array, "1 c row column"]:
    """With 8 filters of 3 x 3 whose centre is 1 and the rest 0: each output channel is the image."""
    kernel = np.zeros((8, 1, 3, 3), np.float32)
    kernel[:, :, 1, 1] = 1.0
    return jax.lax.conv_general_dilated(image, jnp.asarray(kernel), (1, 1), "SAME", precision=precision)


def _bits_kept(operand: Float32[np.ndarray, " k"], found: Array) -> str:
    """Significand bits that came through: 1 + 2**-1, 1 + 2**-2, ... are exact up to there."""
    exact = np.asarray(found) == operand
    return f"{1 + (operand.size if exact.all() else int(np.argmin(exact)))} bits"


def _compiler_habits() -> Iterator[Check]:
    # (1 + 2**-12)**2 = 1 + 2**-11 + 2**-24, a tie that float32 rounds to 1 + 2**-11; one rounding in all keeps 2**-24.
    a = jnp.full((64,), 1.0 + 2.0**-12, jnp.float32)
    rest = jax.jit(lambda a, c: a * a + c)(a, jnp.full((64,), -(1.0 + 2.0**-11), jnp.float32))
    habit = "contracted to one rounding" if float(rest[0]) else "two roundings"
    yield _inform("a * b + c under jit", habit)
    cast = jax.jit(lambda x: x.astype(jnp.float8_e4m3fn))(jnp.float32(500.0))
    yield _inform("the backend's cast of 500 to float8_e4m3fn (largest: 448)", str(np.asarray(cast).astype(np.float32)))


def _pinned_answers() -> Iterator[Check]:
    answers = read_answers()
    yield _expect("random bits are the pinned ones", " ".join(answers["random_bits"]), " ".join(pinned_bits()))
    for format in (FLOAT16, BFLOAT16, FLOAT8_E4M3FN):
        found = {format.name: answers_of(format.name, modes=("ties_to_even", "stochastic"), jit=True)}
        yield _compare(f"{format} under jit: the answers file, nearest and stochastic", found, answers["rounding"])
    found = {name: answers_of(name) for name in ANSWERED}
    grids = {name: found[name] for name, format in ANSWERED.items() if isinstance(format, FloatFormat | FixedFormat)}
    random = {name: {mode: modes[mode] for mode in RANDOM_MODES} for name, modes in grids.items()}
    plain = {name: {mode: modes[mode] for mode in modes if mode not in RANDOM_MODES} for name, modes in grids.items()}
    scaled = {name: modes for name, modes in found.items() if name not in grids}
    yield _compare("floats and fixed point: the answers file, modes that draw nothing", plain, answers["rounding"])
    yield _compare("floats and fixed point: the answers file, stochastic modes", random, answers["rounding"])
    yield _compare("formats with a scale, and blocks: the answers file", scaled, answers["rounding"])


def _compare(name: str, found: dict[str, dict[str, str]], answers: dict[str, dict[str, str]]) -> Check:
    """A row that counts equal answers and names the others."""
    pairs = [(format, mode) for format, modes in found.items() for mode in modes]
    differing = [f"{f} {m}" for f, m in pairs if answers.get(f, {}).get(m) != found[f][m]]
    text = f"{len(pairs) - len(differing)} equal" + (f"; differ: {', '.join(differing)}" if differing else "")
    return Check(name, f"{len(pairs)} equal", text, "FAIL" if differing else "PASS")


def _ctc() -> Iterator[Check]:
    # One frame, two equal classes, no label: the only path is blank, -log(1/2).
    lengths = (jnp.array([1], jnp.int32), jnp.ones((1, 1), jnp.int32), jnp.array([0], jnp.int32))
    loss = jax.jit(ctc_loss)(jnp.zeros((1, 1, 2), jnp.float32), *lengths)
    yield _expect("CTC of one blank frame is log 2", round(float(np.log(2)), 6), round(float(loss[0]), 6))
