"""How far two tensors of one dtype are from one another: in bits, in units in the last place, and where first.

The distance of two numbers in ulps is the number of steps from one to the next larger value of the dtype that lead from one to the
other. A float's bits, read as an integer with a sign, count them: neighbours differ by one, through the binades, the subnormals and
zero. -0.0 and 0.0 differ in a bit and by no step. A NaN or an infinity is no number of steps away from anything: such
elements are counted by themselves. Of integers the distance is the difference.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Distance:
    """Two arrays of one shape and dtype beside one another.

    Fields:
        elements, differing: how many there are, and how many differ in a bit.
        nonfinite: of the differing ones, those where either is NaN or infinite.
        largest_ulps: among the other differing ones; None where there are none.
        first: index of the first differing element in C order; None where there is none.
        values, bits: the two values there, and their bits as hexadecimal numbers.
    """

    elements: int
    differing: int
    nonfinite: int
    largest_ulps: int | None
    first: tuple[int, ...] | None
    values: tuple[Any, Any] | None
    bits: tuple[str, str] | None


def distance(a: np.ndarray, b: np.ndarray) -> Distance:
    """The distance of two arrays of equal shape and dtype."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    raw_a, raw_b = _raw(a), _raw(b)
    places = np.flatnonzero(raw_a != raw_b)
    if not len(places):
        return Distance(a.size, 0, 0, None, None, None, None)
    flat_a, flat_b = a.reshape(-1)[places], b.reshape(-1)[places]
    is_finite = _is_finite(flat_a) & _is_finite(flat_b)
    first = int(places[0])
    return Distance(
        elements=a.size,
        differing=len(places),
        nonfinite=int((~is_finite).sum()),
        largest_ulps=_largest(flat_a[is_finite], flat_b[is_finite]),
        first=tuple(int(i) for i in np.unravel_index(first, a.shape)),
        values=(_plain(flat_a[0]), _plain(flat_b[0])),
        bits=tuple(f"0x{int(raw[first]):0{2 * a.itemsize}x}" for raw in (raw_a, raw_b)),  # type: ignore[arg-type]
    )


def _raw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(f"u{x.itemsize}")


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def _is_finite(x: np.ndarray) -> np.ndarray:
    return np.isfinite(x) if _is_float(x.dtype) else np.ones(x.shape, bool)


def _plain(x: Any) -> Any:
    return float(x) if _is_float(x.dtype) else bool(x) if x.dtype == np.bool_ else int(x)


def _largest(a: np.ndarray, b: np.ndarray) -> int | None:
    if not len(a):
        return None
    if a.itemsize == 8:  # a difference may need a 65th bit
        return max(abs(x - y) for x, y in zip(_steps(a).tolist(), _steps(b).tolist(), strict=True))
    return int(np.abs(_steps(a) - _steps(b)).max())


def _steps(x: np.ndarray) -> np.ndarray:
    """Numbers as integers, in order, neighbours one apart."""
    if not _is_float(x.dtype):
        return x if x.itemsize == 8 else x.astype(np.int64)
    sign = 1 << (ml_dtypes.finfo(x.dtype).bits - 1)
    bits = _raw(x)
    if x.itemsize == 8:
        magnitude = (bits & np.uint64(sign - 1)).astype(np.int64)
        return np.where(bits >= np.uint64(sign), -magnitude, magnitude)
    bits = bits.astype(np.int64)
    return np.where(bits & sign, -(bits & (sign - 1)), bits & (sign - 1))
