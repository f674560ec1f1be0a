"""The digest of a state: one SHA-256 that is equal if and only if every bit of the state is.

A state is a nested dict of arrays, and JSON values beside it. Its description lists the tensors by name (keys joined by "/",
sorted), each with dtype, shape and the SHA-256 of its elements in C order, little-endian; the digest is the SHA-256 of the
description in canonical JSON. So the order of keys, the memory layout, and NumPy or JAX make no difference; -0.0 and 0.0, two
NaNs with other payloads, and float32 ones and int32 ones do. Two descriptions name the tensors that differ.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT = 1  # of the description; another one gives other digests

Arrays = dict[str, Any]  # nested dict whose leaves are arrays


def describe_state(
    step: int, best: int | None, meta: Mapping[str, Any], tensors: Mapping[str, np.ndarray], *, empty: Iterable[str]
) -> dict[str, Any]:
    """Format, step, best, meta, an entry for each tensor, the names of empty dicts, and the digest of all that.

    `meta` comes back in JSON's types: tuples are lists, keys are texts; NaN and infinities stay.
    """
    content = {
        "format": FORMAT,
        "step": int(step),
        "best": best,
        "meta": dict(meta),
        "tensors": [describe_tensor(name, tensors[name]) for name in sorted(tensors)],
        "empty": sorted(empty),
    }
    content = json.loads(json.dumps(content))
    return content | {"digest": digest_of_description(content)}


def digest_of_description(content: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON; a float's text there is the shortest that reads back as the same float."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_tensors(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over all tensors of a nested dict, as a description lists them, and nothing beside them: no best, no meta.

    The `digest` event of a step and the `state_digest` of a checkpoint's event have it of the training state.
    """
    tensors = flatten(arrays)
    return digest_of_entries([describe_tensor(name, tensors[name]) for name in sorted(tensors)])


def digest_of_entries(entries: Iterable[Mapping[str, Any]], *, below: str = "") -> str:
    """`digest_of_tensors` from the entries of a description: of those whose names begin with `below`, which is left out."""
    kept = [
        dict(entry) | {"name": entry["name"].removeprefix(below)}
        for entry in entries
        if entry["name"].startswith(below)
    ]
    return digest_of_description({"tensors": kept})


def describe_tensor(name: str, value: np.ndarray) -> dict[str, Any]:
    """Name, dtype, shape, and the SHA-256 of the elements in C order, little-endian."""
    little_endian = value.astype(value.dtype.newbyteorder("<"), copy=False)
    sha256 = hashlib.sha256(little_endian.tobytes()).hexdigest()
    return {"name": name, "dtype": value.dtype.name, "shape": list(value.shape), "sha256": sha256}


def flatten(arrays: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """NumPy arrays by name, keys joined by "/".

    Raises:
        ValueError: a key that is not a text, is empty or has "/"; a leaf that is no array of numbers.
    """
    flat: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"key {key!r} in {prefix or 'the state'}: keys are texts, not empty and without '/'.")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        elif not isinstance(value, np.ndarray | np.generic | jax.Array):
            raise ValueError(f"{prefix}{key}: {type(value).__name__} is not an array; plain values belong in meta.")
        elif not (jnp.issubdtype(value.dtype, np.number) or value.dtype == np.bool_):
            raise ValueError(f"{prefix}{key}: {value.dtype} is not a dtype of numbers.")
        else:
            flat[prefix + key] = np.asarray(jax.device_get(value))
    return flat


def empty_dicts(arrays: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the dicts without entries, which `flatten` has no array for."""
    found: list[str] = []
    for key, value in arrays.items():
        if isinstance(value, Mapping):
            found += empty_dicts(value, f"{prefix}{key}/") if value else [prefix + key]
    return found


def unflatten(tensors: Mapping[str, np.ndarray], empty: Iterable[str]) -> Arrays:
    """The nested dict that `flatten` and `empty_dicts` took apart."""
    nested: Arrays = {}
    for name, value in [*tensors.items(), *((name, {}) for name in empty)]:
        *parents, last = name.split("/")
        place = nested
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return nested
