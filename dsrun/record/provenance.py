"""Provenance: code, versions, machine and flags of a run, as a dictionary for `provenance.json`.

With `config.yaml` it is enough to say whether two runs ought to be bit-equal: same source, same package versions, same kind of
device, same settings in force, same data. It names neither host nor user nor time, so equal runs have equal files.

A run that goes on under other circumstances than it began with is another experiment from there on. `differences` names what
differs and may change bits; `dsrun train` shows it and refuses to resume, unless `--accept-changes` says to go on (which is recorded in
`events.jsonl`), or the run promises nothing (`determinism: off`). Harmless, and not a difference: the number of devices, where
dumps and measured choices of kernels are written, a commit with the same source, a patch release of Python, the name of the run whose
weights it began with (the caller adds which: `init_from`, with the checkpoint's digest).
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import dsrun
from dsrun.errors import DataError, UsageError
from dsrun.record.runtime import Determinism, flags_that_decide, in_force

# Packages whose code computes something that ends up in a result.
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "ml_dtypes",
    "soundfile",
    "soxr",
    "kaldialign",
)
# JAX's own switches that change bits.
JAX_SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")
# Settings of the libraries below XLA that change bits, or may.
VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_DETERMINISTIC")
HARMLESS = ("init_from.run",)  # a folder's name; the digest beside it says which weights they were
PACKAGE_FOLDER = Path(dsrun.__file__).parent


def provenance(
    *, data: Mapping[str, str] | None = None, determinism: Determinism = "strict", products: str = ""
) -> dict[str, Any]:
    """What a run's bits depend on besides its config. Starts JAX's backend, to name its devices.

    Args:
        data: hashes by name, e.g. of manifests; the caller knows what it read.
        determinism: of the config, here too because it says what the rest is worth.
        products: what products of float32 arrays are: `Policy.describe_products`.
    """
    return {
        "determinism": determinism,
        "dsrun": dsrun.__version__,
        "source_sha256": source_digest(),
        "git": git_state(PACKAGE_FOLDER),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "platform": {"system": platform.system(), "machine": platform.machine(), "cpu": cpu_model()},
        "in_force": in_force(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "products": products,
        "jax": _jax_facts(),
        "data": dict(data or {}),
    }


def read_provenance(path: Path) -> dict[str, Any]:
    """What a `provenance.json` holds.

    Raises:
        DataError: it is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON as dsrun writes it ({error}). Take the file from a copy.") from error
    return found


def differences(then: Any, now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What may change bits and is not as it was: {dotted name: [then, now]}, empty if nothing is.

    Args:
        then: what a `provenance.json` holds; anything, if it is damaged.
        now: of this process.
    """
    found = {}
    old, new = decisive(then), decisive(now)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            found[name] = [old.get(name), new.get(name)]
    return found


def decisive(facts: Any) -> dict[str, Any]:
    """Facts by dotted name, without those that are harmless."""
    flat = dotted(facts)
    text = flat.pop("in_force.XLA_FLAGS", "")
    try:
        flags = flags_that_decide(str(text))
    except UsageError:
        flags = {"XLA_FLAGS": str(text)}
    flat |= {f"in_force.{name}": value for name, value in flags.items()}
    flat["python"] = ".".join(str(flat.get("python")).split(".")[:2])
    return {name: value for name, value in flat.items() if name.split(".")[0] != "git" and name not in HARMLESS}


def dotted(values: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary as one of dotted keys; anything else has none."""
    flat: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def source_digest(folder: Path = PACKAGE_FOLDER) -> str:
    """SHA-256 over the names and contents of the package's Python files, whether or not they are under git."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def git_state(folder: Path) -> dict[str, str | None] | None:
    """Commit, and the SHA-256 of what differs from it (None for a clean tree); None where `folder` is not under git.

    An installed package that lies in some other project's work tree, untracked there, is not under git.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "diff", "HEAD", "--binary", "--no-ext-diff", "--", ".")
    if commit is None or changes is None:
        return None
    digest = hashlib.sha256(changes)
    untracked = _git(folder, "ls-files", "-z", "--others", "--exclude-standard", "--", ".") or b""
    names = sorted(name for name in untracked.decode(errors="surrogateescape").split("\0") if name)
    for name in names:
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    is_dirty = bool(changes or names)
    return {"commit": commit.decode().strip(), "changes_sha256": digest.hexdigest() if is_dirty else None}


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Git's output; None if it fails or is not installed."""
    try:
        found = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return found.stdout if found.returncode == 0 else None


def package_version(package: str) -> str | None:
    """Of an installed package; None where it is not, such as dsrun itself used from its checkout."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _jax_facts() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    return {
        "backend": jax.default_backend(),
        "device_kinds": sorted({device.device_kind for device in devices}),
        "backend_version": devices[0].client.platform_version,
    } | {name: getattr(jax.config, name) for name in JAX_SETTINGS}
