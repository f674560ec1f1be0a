"""Magnitudes: what a watched step leaves on disk, one file a step, `magnitudes/step_000100.npz`.

One row a tensor, in the network's order, columns beside one another:

| column | what it holds |
|---|---|
| `path`, `kind`, `role`, `format` | which tensor, what it is, and the format that its role has there |
| `smallest_positive`, `smallest_normal`, `largest` | of that format; NaN where it has none (a scale taken from the data) |
| `fields` [tensor, 256] | numbers of values by float32's exponent field: field k holds magnitudes from 2**(k-127) to below the double |
| `zeros`, `nans` | counted in fields 0 and 255 too, which also hold float32's subnormals and infinities |
| `flushed`, `subnormal`, `overflowed` | non-zero, but zero in the format to nearest; in its subnormal range; finite and beyond it |
| `smallest_seen`, `largest_seen` | magnitudes, non-zero and finite; NaN where there is none |
| `updates`, `changed`, `swallowed` | of kind `update`: finite and non-zero; those that changed the weight; those below half an ulp of it |

and `step`, `loss_scale`. All are exact numbers of values, so that shares of any group of rows can be formed later. A share is of
non-zero finite values. No JAX here: a study reads these files and never a live object.
"""

import os
import re
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.errors import DataError
from dsrun.record.durable import cannot_write, open_to_replace, sync

FIELDS = 256  # exponent fields of float32
BIAS = 127
KINDS = ("weight", "activation", "error", "weight_gradient", "gradient_sum", "update", "moment", "master")
_NAME = re.compile(r"step_(\d+)\.npz")
LARGEST_TABLE = 2**28  # bytes unpacked; a tensor's row has some 4 kB
MOST_VALUES = 2**48  # of one tensor: beyond it sums of counts might overflow
_LEAST_CHANGED = 3  # tensors that an event names


@dataclass(frozen=True)
class Magnitudes:
    """The table of one step; see the module for its columns."""

    step: int
    loss_scale: float
    path: np.ndarray
    kind: np.ndarray
    role: np.ndarray
    format: np.ndarray
    smallest_positive: np.ndarray
    smallest_normal: np.ndarray
    largest: np.ndarray
    fields: np.ndarray
    zeros: np.ndarray
    nans: np.ndarray
    flushed: np.ndarray
    subnormal: np.ndarray
    overflowed: np.ndarray
    smallest_seen: np.ndarray
    largest_seen: np.ndarray
    updates: np.ndarray
    changed: np.ndarray
    swallowed: np.ndarray

    def save(self, folder: Path) -> None:
        """Write the step's file, whole or not at all.

        Raises:
            DataError: the disk takes no more.
        """
        path = file_of(folder, self.step)
        aside = path.with_name(f".{path.name}.part")
        try:
            folder.mkdir(exist_ok=True)
            with open_to_replace(aside) as file:
                np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})
            sync(aside)
            os.replace(aside, path)
            sync(folder)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise cannot_write(path, error) from error

    def rows(self) -> list[dict[str, Any]]:
        """Each tensor's names and figures."""
        names = zip(self.path, self.kind, self.role, self.format, strict=True)
        return [
            {"path": str(path), "kind": str(kind), "role": str(role), "format": str(format)} | self.figures([place])
            for place, (path, kind, role, format) in enumerate(names)
        ]

    def figures(self, places: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Number of values, shares and range of some rows together; a share of nothing is None."""
        values = int(self.fields[places].sum())
        zeros, nonfinite = int(self.zeros[places].sum()), int(self.fields[places, -1].sum())
        finite = values - zeros - nonfinite
        seen = {"smallest": np.fmin.reduce(self.smallest_seen[places], initial=np.nan)}
        seen["largest"] = np.fmax.reduce(self.largest_seen[places], initial=np.nan)
        found: dict[str, Any] = {
            "values": values,
            "zero_share": _share(zeros, values),
            "underflow_share": _share(self.flushed[places].sum(), finite),
            "subnormal_share": _share(self.subnormal[places].sum(), finite),
            "overflow_share": _share(self.overflowed[places].sum(), finite),
            "nonfinite": nonfinite,
        }
        found |= {f"log2_{name}": None if np.isnan(x) else round(float(np.log2(x)), 3) for name, x in seen.items()}
        updates = int(self.updates[places].sum())
        if updates:
            found |= {
                "updates": updates,
                "changed_share": _share(self.changed[places].sum(), updates),
                "swallowed_share": _share(self.swallowed[places].sum(), updates),
            }
        return found

    def summary(self) -> dict[str, Any]:
        """What the event says: figures by role and kind, the updates that came through, and the tensors with the fewest."""
        roles: dict[str, dict[str, Any]] = {}
        for kind in dict.fromkeys(map(str, self.kind)):
            places = np.flatnonzero(self.kind == kind)
            roles.setdefault(str(self.role[places[0]]), {})[kind] = self.figures(places)
        everything = self.figures(np.arange(len(self.path)))
        rows = [row for row in self.rows() if row.get("updates")]
        rows.sort(key=lambda row: (row["changed_share"], row["path"]))
        survival = {name: everything.get(name) for name in ("updates", "changed_share", "swallowed_share")}
        least = [{name: row[name] for name in ("path", "changed_share")} for row in rows[:_LEAST_CHANGED]]
        return survival | {"least_changed": least, "roles": roles}


def file_of(folder: Path, step: int) -> Path:
    """Where a step's magnitudes are."""
    return folder / f"step_{step:06d}.npz"


def watched_steps(folder: Path) -> list[int]:
    """Steps whose magnitudes are there, in order; a pipe or a link that leads nowhere is none."""
    if not folder.is_dir():
        return []
    found = [(match, entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return sorted(int(match[1]) for match, entry in found if entry.is_file())


def load_magnitudes(path: Path) -> Magnitudes:
    """Read one file.

    Raises:
        DataError: it is damaged, or of another layout.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_TABLE:
                raise ValueError(f"more than {LARGEST_TABLE} bytes unpacked")
            with np.load(file, allow_pickle=False) as arrays:
                columns = {field.name: arrays[field.name] for field in fields(Magnitudes)}
        _require_table(columns)
    except Exception as error:  # whatever zipfile, zlib and NumPy make of damaged files
        raise DataError(f"{path}: not a whole file of magnitudes ({error}). Train again to have it anew.") from error
    return Magnitudes(**columns | {"step": int(columns["step"]), "loss_scale": float(columns["loss_scale"])})


def _require_table(columns: dict[str, np.ndarray]) -> None:
    """Raises ValueError for a column of another type or length than the module says, or counts that no tensor has."""
    rows = columns["path"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {"step": (), "loss_scale": (), "fields": (rows, FIELDS)}
    floats = ("loss_scale", "smallest_positive", "smallest_normal", "largest", "smallest_seen", "largest_seen")
    kinds = dict.fromkeys(floats, "f") | dict.fromkeys(("path", "kind", "role", "format"), "U")
    for name, column in columns.items():
        if column.shape != shapes.get(name, (rows,)) or column.dtype.kind not in kinds.get(name, "iu"):
            raise ValueError(f"{name} is {column.dtype}{list(column.shape)}")
        if column.dtype.kind in "iu" and (column < 0).any() | (column > MOST_VALUES).any():
            raise ValueError(f"{name} counts what cannot be")
    if not set(columns["kind"]) <= set(KINDS):
        raise ValueError("unknown kinds")


def remove_magnitudes_after(folder: Path, step: int) -> None:
    """Remove the files of later steps, which a resumed run will write again."""
    for later in watched_steps(folder):
        if later > step:
            file_of(folder, later).unlink()


def _share(part: Any, whole: int) -> float | None:
    return float(part) / whole if whole else None
