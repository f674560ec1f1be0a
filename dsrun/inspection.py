"""Looking at things: run folders, this machine.

On the roof beside `experiment.py`. Nothing here trains or changes a run. Data are looked at in `data_check.py` and `data_show.py`.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dsrun
from dsrun.config_file import Problem, read_tree
from dsrun.errors import UsageError
from dsrun.record import RunDir
from dsrun.record.provenance import dotted
from dsrun.study.run_record import RunRecord, read_run


def open_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """What run folders say, in the order given; a folder of run folders, such as a sweep's, stands for those in it, by name.

    A run that is given twice is taken once.

    Raises:
        UsageError: neither a run folder nor a folder of some.
        DataError: a file in one is damaged.
    """
    folders: dict[Path, Path] = {}
    for path in without_files_of_sweeps(paths):
        for folder in run_folders(path):
            folders.setdefault(folder.resolve(), folder)
    return [open_run(folder) for folder in folders.values()]


def is_run_folder(path: Path) -> bool:
    """Whether a run is in this very folder."""
    return (path / "config.yaml").is_file()


def without_files_of_sweeps(paths: Sequence[Path]) -> list[Path]:
    """The paths without a sweep's own `RUN.log` and `RUN.yaml` beside a run folder, so that `runs/formats/float16*` means the runs.

    Raises:
        UsageError: nothing else was given.
    """
    kept = [path for path in paths if not _is_file_of_sweep(path)]
    if paths and not kept:
        raise UsageError(
            f"{paths[0]}: a file that a sweep keeps beside a run folder. Give the folder, {paths[0].with_suffix('')}."
        )
    return kept


def _is_file_of_sweep(path: Path) -> bool:
    # The config is written a moment before its run folder is made.
    own = path.with_suffix("")
    is_beside = is_run_folder(own) or (
        own.with_name(f"{own.name}.log").is_file() and own.with_name(f"{own.name}.yaml").is_file()
    )
    return path.suffix in (".log", ".yaml") and path.is_file() and is_beside


def run_folders(path: Path) -> list[Path]:
    """The run folder itself, or those in a folder.

    Raises:
        UsageError: it is none and has none.
    """
    if is_run_folder(path):
        return [path]
    if not path.is_dir():
        what = "a file, not a run folder" if path.exists() else "no such folder"
        raise UsageError(f"{path}: {what}. `dsrun runs` lists the run folders there are.")
    found = sorted(file.parent for file in path.glob("*/config.yaml"))
    if not found:
        raise UsageError(
            f"{path}: neither a run folder (no config.yaml) nor a folder of run folders. `dsrun runs` lists those there are."
        )
    return found


def open_run(path: Path) -> RunRecord:
    """What a run folder says.

    Raises:
        UsageError: not a run folder, or its config is no YAML that dsrun reads.
        DataError: a file in it is damaged.
    """
    RunDir(path).require_own_contents()  # a pipe would never answer
    return read_run(path, read_values(path))


def read_values(run: Path) -> dict[str, Any]:
    """What a run's config.yaml says, by dotted key; of any version of dsrun, so it is not checked.

    Raises:
        UsageError: not a run folder, or no YAML that dsrun reads.
    """
    if not is_run_folder(run):
        raise UsageError(f"{run}: not a run folder (no config.yaml). `dsrun runs` lists those there are.")
    problems: list[Problem] = []
    tree = read_tree(run / "config.yaml", [], problems)
    if tree is None or problems:
        raise UsageError("\n".join(map(str, problems)))
    return dotted(tree.plain())


def doctor_report() -> dict[str, Any]:
    """Facts about this machine and a self-check of what results depend on."""
    from dsrun.record import configure_runtime, in_force
    from dsrun.record.runtime import ALLOCATOR_VARIABLE

    configure_runtime()
    import jax
    import soundfile

    from dsrun.arithmetic import Policy
    from dsrun.record.provenance import package_version
    from dsrun.self_check import run_self_check

    devices = jax.devices()
    cache = jax.config.values[
        "jax_compilation_cache_dir"
    ]  # of the environment: a run's own is training.compilation_cache
    facts = {
        "dsrun": dsrun.__version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")},
        "libsndfile": soundfile.__libsndfile_version__,
        "backend": jax.default_backend(),
        "devices": ", ".join(f"{device.id}: {device.device_kind}" for device in devices),
        "cores": os.cpu_count(),
        "determinism": "strict, where a config does not say otherwise",
        **in_force(),
        "float32 products": f"{Policy().describe_products()}, unless arithmetic.compute says otherwise; JAX's default here: "
        f"{jax.config.values['jax_default_matmul_precision'] or 'its own'}, which dsrun does not use",
        "compilation cache": f"{cache}: its programs are trusted code" if cache else "none",
        ALLOCATOR_VARIABLE: os.environ.get(ALLOCATOR_VARIABLE, ""),
    }
    return {"facts": facts, "checks": [check.to_json() for check in run_self_check()]}
