"""Checkpoints: a state on disk that is either whole, to the bit, or not used.

Orbax writes the arrays; it commits atomically, and it restores float16, bfloat16 and float8 unchanged. Two things it does
not do are done here. It restores flipped bits in silence, and where it notices damage its threads complain long after: so
every tensor and every file has a SHA-256 in our `manifest.json`; no damaged file is given to it, and no tensor handed out
that does not match. And it does not flush folders and their names to the disk: so a step's folder is written aside, every
file and folder in it flushed, all of it read back, and only then renamed to its name. A folder with a step's name is
therefore complete, whenever the process was killed, and older ones go only after that.

    checkpoints/step_000400/manifest.json   step, best, meta, name + dtype + shape + sha256 of each tensor; digest; files
    checkpoints/step_000400/arrays/         Orbax, one entry a tensor, names joined by "/"

The digest is the SHA-256 of step, best, meta and the tensors' entries in canonical JSON, hence of all state bits: two runs
are in the same state if and only if their digests agree. (Files are not in it: Orbax draws their names at random.) Not in
a checkpoint: the random generator (every random number is a function of seed, step and place) and the loader (its state
is the step). One process writes, under the run folder's lock; anyone may read meanwhile.

A checkpoint may come from a stranger, who can make digests as well. Names in a manifest are those of keys and never of a place
elsewhere, links are damage and not followed, and nothing is unpickled.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dsrun.errors import DataError
from dsrun.record import FULL, cannot_write, sync, sync_tree
from dsrun.training.state_digest import (
    FORMAT,
    Arrays,
    describe_state,
    describe_tensor,
    digest_of_description,
    empty_dicts,
    flatten,
    unflatten,
)

MANIFEST = "manifest.json"
ARRAYS = "arrays"

# Where `fault` is called, in order; a test kills the process at each.
FAULT_POINTS = (
    "start", "arrays written", "manifest written", "synced", "verified", "old moved away", "renamed", "committed", "retired", "done"
)  # fmt: skip

_OVERHEAD = 2048  # bytes a tensor for its description and the manifest: 1,140 measured on a state of small tensors

_STEP_PREFIX, _ASIDE_PREFIX, _TRASH_PREFIX = "step_", ".writing_", ".trash_"


@dataclass(frozen=True)
class Checkpoint:
    """A verified state: nested dict of NumPy arrays, and what `save` was given beside it."""

    step: int
    arrays: Arrays
    meta: dict[str, Any]
    best: int | None
    digest: str


def save(
    folder: Path,
    step: int,
    arrays: Mapping[str, Any],
    meta: Mapping[str, Any],
    *,
    best: int | None = None,
    keep: int = 2,
    keep_every: int | None = None,
    fault: Callable[[str], None] | None = None,
) -> str:
    """Write the state after `step` updates, then remove checkpoints that are no longer kept.

    Saving a state that is there already, unharmed, changes nothing; another one of the same step is replaced.

    Args:
        folder: `checkpoints/`; created if missing. What a killed save left there is removed.
        arrays: nested dict, keys without "/"; NumPy or JAX arrays of any dtype and shape, empty ones and empty dicts too.
        meta: JSON values that belong to the state (all of it enters the digest: no times, no host names).
        best: step of the best checkpoint so far, which is kept; `restore(folder, "best")` looks it up here.
        keep: how many of the newest steps up to this one are kept besides.
        keep_every: steps that are a multiple of this are kept for good.
        fault: called with each of FAULT_POINTS when it is reached, so that tests can kill there.

    Returns:
        Digest: SHA-256 (hex) of step, best, meta and all tensors' names, dtypes, shapes and bytes; the order of keys is
        irrelevant.

    Raises:
        DataError: it could not be written (disk full, no permission); earlier checkpoints are untouched.
    """
    reached = fault or (lambda point: None)
    folder = Path(folder)
    tensors = flatten(arrays)
    manifest = describe_state(step, best, meta, tensors, empty=empty_dicts(arrays))
    final, aside = folder / _step_name(step), folder / f"{_ASIDE_PREFIX}{step}"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync(folder.parent)
        remove_leftovers(folder)
        if not _is_intact(final, step, manifest["digest"]):
            reached("start")
            _write(aside, tensors, manifest, reached)
            _read(aside, step)
            reached("verified")
            _commit(aside, final, reached)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        there = available_steps(folder) if folder.is_dir() else []
        raise DataError(
            f"{final}: the checkpoint could not be written: {_reason(error)}. Steps on disk: {there or 'none'}. Make room there, or choose "
            "another --run-dir, and run the same command again."
        ) from error
    try:
        _retire(folder, newest=step, keep=keep, keep_every=keep_every, best=best)
        reached("retired")
        remove_leftovers(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    reached("done")
    return manifest["digest"]


def restore(folder: Path, which: int | str = "last") -> Checkpoint:
    """Read a checkpoint back, exactly, every tensor verified against its SHA-256.

    Args:
        folder: `checkpoints/`.
        which: a step number, "last" or "best". A damaged "last" is warned about, by file and tensor, and the next older good one
            is used; a step that was asked for by number or as "best" is never replaced by another.

    Raises:
        DataError: there is none, or none that is good.
    """
    folder = Path(folder)
    steps = available_steps(folder)
    if not steps:
        raise DataError(
            f"{folder}: no checkpoints. The run was stopped before its first one, or this is not a run's folder."
        )
    if which == "last":
        return _newest_good(folder, steps)
    step = _best_step(folder, steps) if which == "best" else _as_step(which)
    if step not in steps:
        raise DataError(f"{folder}: no checkpoint of step {step}. There are: {', '.join(map(str, steps))}.")
    try:
        return _read(folder / _step_name(step), step)
    except _Damaged as damage:
        others = ", ".join(str(other) for other in steps if other != step) or "none"
        raise DataError(f"{damage}. Other steps: {others}; `last` takes the newest that is good.") from damage


def available_steps(folder: Path) -> list[int]:
    """Steps that were committed, oldest first; damage shows only when they are read."""
    if not Path(folder).is_dir():
        return []
    names = (entry.name for entry in Path(folder).iterdir() if entry.is_dir())
    digits = (name.removeprefix(_STEP_PREFIX) for name in names if name.startswith(_STEP_PREFIX))
    return sorted(int(text) for text in digits if text.isdecimal())


def remove_leftovers(folder: Path) -> None:
    """Remove what killed saves left behind; for the one process that writes here. `save` does it too."""
    for entry in Path(folder).glob(".*"):
        if entry.name.startswith((_ASIDE_PREFIX, _TRASH_PREFIX)):
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


class _Damaged(Exception):
    """A checkpoint that does not match its manifest; the text names file and tensor."""


def _write(
    aside: Path, tensors: dict[str, np.ndarray], manifest: dict[str, Any], reached: Callable[[str], None]
) -> None:
    _require_room(aside.parent, sum(value.nbytes + _OVERHEAD for value in tensors.values()))
    aside.mkdir()
    stored = {name: value for name, value in tensors.items() if value.size}  # Orbax refuses arrays without elements
    if stored:
        with _errors_are_raised_only(), _orbax() as writer:
            writer.save((aside / ARRAYS).absolute(), stored)
    reached("arrays written")
    with_files = manifest | {"files": _file_hashes(aside)}
    (aside / MANIFEST).write_text(json.dumps(with_files, indent=1, sort_keys=True), encoding="utf-8")
    reached("manifest written")
    sync_tree(aside)
    reached("synced")


def _orbax() -> ocp.Checkpointer:
    """Orbax for this process alone: of several processes it would wait for all, where one writes and others may read later."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"dsrun_{index}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _require_room(folder: Path, needed: int) -> None:
    """Better before than in the middle: on a disk that fills up, TensorStore's threads go on complaining after Orbax gave up."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free:,} bytes free, {needed:,} needed")


def _commit(aside: Path, final: Path, reached: Callable[[str], None]) -> None:
    if final.exists():  # damaged, or of another state: a folder cannot be renamed over a full one
        final.rename(final.with_name(f"{_TRASH_PREFIX}{final.name}"))
    reached("old moved away")
    aside.rename(final)
    reached("renamed")
    sync(final.parent)
    reached("committed")


def _retire(folder: Path, *, newest: int, keep: int, keep_every: int | None, best: int | None) -> None:
    """Remove old steps. Later ones are not counted: they are from before a resume, and will be written again."""
    earlier = [step for step in available_steps(folder) if step <= newest]
    kept = {newest, best, *earlier[max(len(earlier) - keep, 0) :]}
    for step in earlier:
        if step not in kept and (keep_every is None or step % keep_every):
            # By way of another name: a reader never sees half of a step.
            path = folder / _step_name(step)
            path.rename(path.with_name(f"{_TRASH_PREFIX}{path.name}"))


def _newest_good(folder: Path, steps: list[int]) -> Checkpoint:
    damages = []
    for step in reversed(steps):
        try:
            found = _read(folder / _step_name(step), step)
        except _Damaged as damage:
            damages.append(str(damage))
            continue
        for text in damages:
            warnings.warn(f"{text}; using the older step {step}", stacklevel=3)
        return found
    raise DataError(
        "\n".join(damages) + "\nNo checkpoint is good. Restore one from a copy, or train anew with --overwrite."
    )


def _best_step(folder: Path, steps: list[int]) -> int:
    newest = _newest_good(folder, steps)
    if newest.best is None:
        raise DataError(
            f"{folder}: no evaluation came before step {newest.step}, so no checkpoint is the best. Ask for `last`."
        )
    return newest.best


def _as_step(which: int | str) -> int:
    if isinstance(which, int):
        return which
    if which.isdecimal():
        return int(which)
    raise DataError(f"checkpoint {which!r}: write best, last or a step number.")


def _read(path: Path, step: int) -> Checkpoint:
    """Raises _Damaged if anything differs from the manifest, or the manifest from its digest."""
    _require_own_files(path)
    manifest = _read_manifest(path, step)
    _require_sound(path / MANIFEST, manifest)
    _require_whole_files(path, manifest["files"])
    tensors = {}
    stored = _read_arrays(path / ARRAYS, [entry["name"] for entry in manifest["tensors"] if 0 not in entry["shape"]])
    for entry in manifest["tensors"]:
        name = entry["name"]
        value = stored[name] if name in stored else np.empty(entry["shape"], jnp.dtype(entry["dtype"]))
        found = describe_tensor(name, value)
        differing = [key for key in ("dtype", "shape", "sha256") if found[key] != entry[key]]
        if differing:
            texts = (f"{key} is {found[key]}, the manifest says {entry[key]}" for key in differing)
            raise _Damaged(f"{path / ARRAYS}: tensor {name!r} is damaged: {'; '.join(texts)}")
        tensors[name] = value
    arrays = unflatten(tensors, manifest["empty"])
    return Checkpoint(manifest["step"], arrays, manifest["meta"], manifest["best"], manifest["digest"])


def _read_manifest(path: Path, step: int) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        content = {key: value for key, value in manifest.items() if key not in ("digest", "files")}
        is_whole = manifest["digest"] == digest_of_description(content) and manifest["step"] == step
        is_whole = is_whole and isinstance(manifest["files"], dict)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:  # no JSON of ours
        raise _Damaged(f"{path / MANIFEST} is damaged: {type(error).__name__}: {error}") from error
    if not is_whole:
        raise _Damaged(f"{path / MANIFEST} is damaged: it does not match its own digest and step")
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{path / MANIFEST}: written in format {manifest.get('format')!r:.50}, this dsrun reads {FORMAT}. Use the version of dsrun "
            "in the run's provenance.json."
        )
    return manifest


def _require_own_files(folder: Path) -> None:
    """Raises _Damaged if anything is neither a folder nor a file: a link leads elsewhere, a pipe never answers."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise _Damaged(f"{path} is damaged: a link, a pipe or gone, where a checkpoint has files of its own")


def _require_sound(path: Path, manifest: dict[str, Any]) -> None:
    """Raises _Damaged if the manifest, whose digest is right, is not one that `save` writes."""
    try:
        names = [entry["name"] for entry in manifest["tensors"]]
        keys = [*names, *manifest["empty"]]
        parents = {"/".join(key.split("/")[:depth]) for key in keys for depth in range(1, key.count("/") + 1)}
        problems = [f"name {key!r}" for key in keys if not _is_plain(key) or key in parents or keys.count(key) > 1]
        problems += [f"entry of {entry['name']!r}" for entry in manifest["tensors"] if not _is_sound(entry)]
        best = manifest["best"]
        if (
            not isinstance(manifest["meta"], dict)
            or not (best is None or type(best) is int)
            or type(manifest["step"]) is not int
        ):
            problems.append("meta, best or step")
    except (LookupError, AttributeError, TypeError) as error:
        raise _Damaged(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if problems:
        raise _Damaged(f"{path} is damaged: {problems[0]} is none that dsrun writes")


def _is_plain(name: str) -> bool:
    """Keys joined by "/", none of which means another place to a file system."""
    return not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in name.split("/"))


def _is_sound(entry: dict[str, Any]) -> bool:
    """Whether dtype and shape are those of an array of numbers."""
    shape = entry["shape"]
    if not isinstance(entry["sha256"], str) or not isinstance(shape, list) or not isinstance(entry["dtype"], str):
        return False
    try:
        dtype = jnp.dtype(entry["dtype"])
    except (TypeError, ValueError):
        return False
    is_number = jnp.issubdtype(dtype, np.number) or dtype == np.bool_
    # Within what an array can have, also where another length is 0.
    return (
        is_number
        and len(shape) <= 32
        and all(type(n) is int and n >= 0 for n in shape)
        and prod(max(n, 1) for n in shape) < 2**48
    )


def _file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): _sha256_of_file(path) for path in files}


def _sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_whole_files(folder: Path, expected: dict[str, str]) -> None:
    found = _file_hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise _Damaged(f"{folder / name} is missing")
        if found[name] != expected.get(name):
            raise _Damaged(
                f"{folder / name} is damaged: its sha256 is {found[name]}, the manifest says {expected.get(name)}"
            )


def _read_arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    try:
        with _errors_are_raised_only(), _orbax() as reader:
            return reader.restore(path.absolute(), item=dict.fromkeys(names, 0), restore_args=as_numpy)
    except Exception as error:  # whatever Orbax and TensorStore make of damaged files
        raise _Damaged(f"{path} is damaged: {_reason(error)}") from error


@contextmanager
def _errors_are_raised_only() -> Iterator[None]:
    """Orbax's threads also log what they raise, with tracebacks: of a full disk, say, of which the user is told once."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _reason(error: Exception) -> str:
    """What went wrong, in a line: of TensorStore's long texts about a full disk only that it is full."""
    text = (error.strerror if isinstance(error, OSError) else "") or str(error).strip() or type(error).__name__
    full = [os.strerror(code) for code in FULL if os.strerror(code) in text and not isinstance(error, OSError)]
    return full[0] if full else text.splitlines()[0][:300]


def _is_intact(path: Path, step: int, digest: str) -> bool:
    try:
        return path.exists() and _read(path, step).digest == digest
    except _Damaged:
        return False


def _step_name(step: int) -> str:
    return f"{_STEP_PREFIX}{step:06d}"
