"""Which GPUs a sweep may hand out, without JAX: what CUDA_VISIBLE_DEVICES allows, else what nvidia-smi lists."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec

from dsrun.errors import UsageError

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Names or numbers of the GPUs that a run here would use; none where JAX is told to use the CPU."""
    if "cpu" in environment.get("JAX_PLATFORMS", "").lower().split(","):
        return []
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=dict(environment))
        return found.stdout.split()
    return []


def gpus_of_jobs(gpus: str | None, jobs: int | None) -> tuple[int, dict[int, str] | None]:
    """How many runs side by side, and the GPUs of each (None: not handed out).

    Args:
        gpus: of --gpus: names joined by commas, `all`, or None.
        jobs: of --jobs; None is one, or with --gpus one a GPU.

    Raises:
        UsageError: the GPUs are not there, or are not shared out evenly.
    """
    if gpus is None:
        if (jobs or 1) > 1 and any(map(find_spec, PLUGINS)) and (found := visible_gpus(os.environ)):
            raise UsageError(
                f"--jobs {jobs}: each run would take all GPUs ({','.join(found)}). Write --gpus all for one run a GPU, --gpus "
                f"{','.join(found[:2])} for some, or JAX_PLATFORMS=cpu before the command for the CPU."
            )
        return jobs or 1, None
    names = visible_gpus(os.environ) if gpus == "all" else [name.strip() for name in gpus.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--gpus {gpus}: no GPU. Write their numbers, such as --gpus 0,1; nvidia-smi lists them.")
    if len(set(names)) < len(names):
        raise UsageError(f"--gpus {gpus}: one stands there twice.")
    jobs = jobs or len(names)
    if len(names) % jobs:
        raise UsageError(
            f"--jobs {jobs}: {len(names)} GPUs are not shared out evenly. Leave --jobs out for one run a GPU, or choose a divisor."
        )
    share = len(names) // jobs
    return jobs, {index: ",".join(names[index * share : (index + 1) * share]) for index in range(jobs)}
