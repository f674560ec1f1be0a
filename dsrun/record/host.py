"""Memory that this process may take. No JAX.

On a cluster it is often less than the machine has: a job's control group ends a process that takes more than it was given.
"""

import os
from pathlib import Path

from dsrun.errors import UsageError

CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that a process may still take: what Linux calls available, or what the control group leaves; None if nothing says."""
    found = [value for value in (_available(), _left_by_control_group()) if value is not None]
    if not found and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(found, default=None)


def require_memory(what: str, needed: int, available: int | None) -> None:
    """Raises UsageError where an estimate does not fit."""
    if available is not None and needed > available:
        raise UsageError(
            f"{what} needs about {needed:,} bytes ({needed / 2**30:.1f} GiB); {available:,} ({available / 2**30:.1f} GiB) are free. "
            "Choose a smaller one."
        )


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def _left_by_control_group() -> int | None:
    """Of cgroup v2, where a container or a job has a limit."""
    try:
        limit = (CONTROL_GROUP / "memory.max").read_text().strip()
        used = (CONTROL_GROUP / "memory.current").read_text()
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() else None
