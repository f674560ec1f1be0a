"""What results depend on besides the config: thread pool and compiler flags, pinned before JAX starts and read back.

XLA:CPU's thread-pool size is a hidden input: another `NPROC` gives other bits in matrix products, reductions and convolution
gradients. It is pinned, whatever the machine has, in both variables that XLA reads (`PJRT_NPROC` wins). XLA never makes it
smaller than the number of CPU devices, so it must be at least that; a run takes its number of shards, which bounds its devices
and is in its config. More threads than that only get in one another's way (docs/MEASUREMENTS.md, training speed).

| `determinism` | thread pool | kernels on a GPU |
|---|---|---|
| strict | pinned | none whose result depends on timing; the compiler's default among the others, nothing is measured |
| autotuned | pinned | none whose result depends on timing; the fastest of the others, measured once and pinned (`autotune.py`) |
| off | the environment's | whatever XLA takes; runs are marked as such everywhere |

`--xla_allow_excess_precision=false` forbids deleting a rounding: arithmetic, so it holds in every mode. A flag that XLA does not know
aborts the process; these parse on a CPU-only jaxlib too (tested, 0.10.2). XLA defines `--xla_gpu_deterministic_ops` as
`--xla_gpu_exclude_nondeterministic_ops` without autotuning; both are written, so that either name alone would do.

A value that the environment sets already is respected if it is the same, and refused otherwise: silently another result is
worse than an error. The user's other flags stay, in every mode: which of XLA's hundreds change bits nobody knows, so all are
recorded in `provenance.json`, and a resume under others is refused (`provenance.py`). XLA parses its flags once, so
`configure_runtime` must come before the first use of JAX's backend; `in_force` therefore asks the compiler what it parsed, not
the environment what it says now.
"""

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

from dsrun.errors import UsageError

Determinism = Literal["strict", "autotuned", "off"]

POOL_SIZE = 8  # threads, where no run says otherwise
POOL_VARIABLES = ("NPROC", "PJRT_NPROC")
ALLOCATOR_VARIABLE, LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
RESTARTED = "DSRUN_RESTARTED"
DEVICE_COUNT_FLAG = "--xla_force_host_platform_device_count"

ARITHMETIC_FLAGS = {"--xla_allow_excess_precision": "false"}  # in every mode
EXCLUDE_FLAG, NO_TUNING_FLAG = "--xla_gpu_exclude_nondeterministic_ops", "--xla_gpu_deterministic_ops"
# What `strict` needs.
DETERMINISM_FLAGS = {NO_TUNING_FLAG: "true", EXCLUDE_FLAG: "true"} | ARITHMETIC_FLAGS
# XLA writes text, and not a binary message, to a name with this ending.
AUTOTUNE_NAME, AUTOTUNE_ASIDE = "autotune.textproto", ".autotune.textproto"
AUTOTUNE_DUMP_FLAG, AUTOTUNE_LOAD_FLAG = "--xla_gpu_dump_autotune_results_to", "--xla_gpu_load_autotune_results_from"
# The same flags as fields of XLA's DebugOptions message (xla.proto). Its numbers stay; jaxlib has no reader for these.
_DEBUG_OPTIONS_FIELDS = {NO_TUNING_FLAG: 148, EXCLUDE_FLAG: 297, "--xla_allow_excess_precision": 122}
# CompileOptionsProto.executable_build_options, then ExecutableBuildOptionsProto.debug_options.
_PATH_TO_DEBUG_OPTIONS = (3, 3)


def configure_runtime(
    devices: int = 1,
    *,
    pool_size: int = POOL_SIZE,
    determinism: Determinism = "strict",
    autotune: Mapping[str, Path] | None = None,
) -> None:
    """Pin pool size and flags, and make at least `devices` CPU devices. Calling it again with the same is free.

    Args:
        devices: 1 to `pool_size`.
        pool_size: threads of XLA's pool for work on the CPU; decides bits. Not pinned where determinism is off.
        determinism: see the module.
        autotune: of `autotuned`, where measured choices are written and read: `autotune_flags` of a run folder.

    Raises:
        UsageError: the environment sets one of these to something else, or JAX has started already without them.
    """
    if not 1 <= devices <= pool_size:
        raise UsageError(f"devices is {devices}: one process has 1 to {pool_size}, the pinned size of the thread pool.")
    flags = parse_flags(os.environ.get("XLA_FLAGS", ""))
    wanted = _wanted(pool_size, determinism)
    found = {name: flags.get(name) if name.startswith("--") else os.environ.get(name) for name in wanted}
    differing = [
        f"{name}={found[name]} is set in {'XLA_FLAGS' if name.startswith('--') else 'the environment'}, dsrun needs {value}"
        for name, value in wanted.items()
        if found[name] not in (None, value)
    ]
    if differing:
        raise UsageError(
            "; ".join(differing) + f" (determinism: {determinism}). Unset it: other values give other bits."
        )
    set_devices = flags.get(DEVICE_COUNT_FLAG, "1")
    if determinism != "off" and (not set_devices.isdecimal() or int(set_devices) > pool_size):
        raise UsageError(
            f"{DEVICE_COUNT_FLAG}={set_devices} is set in XLA_FLAGS, dsrun needs at most {pool_size}: XLA makes its thread pool as "
            "large as that, and another size gives other bits. Unset it, and choose devices with --devices."
        )
    lacks_devices = set_devices.isdecimal() and int(set_devices) < devices
    tuning = _autotune_flags(flags, autotune or {}, has_started=_has_started())
    if _has_started() and (lacks_devices or found != wanted):
        raise UsageError(
            "JAX has started without dsrun's thread-pool size, flags or device count, which cannot be changed any more. Call "
            "configure_runtime before the first use of JAX."
        )
    pool = {name: value for name, value in wanted.items() if not name.startswith("--")}
    flags |= {name: value for name, value in wanted.items() if name.startswith("--")} | tuning
    flags |= {DEVICE_COUNT_FLAG: str(devices)} if lacks_devices else {}
    os.environ.update(pool)
    os.environ["XLA_FLAGS"] = _flags_text(flags)


def _autotune_flags(flags: dict[str, str], wanted: Mapping[str, Path], *, has_started: bool) -> dict[str, str]:
    """The flags that keep measured choices in a run folder.

    Raises:
        UsageError: the environment, or another run in this process, keeps them elsewhere.
    """
    folders = {path.parent for path in wanted.values()}
    for name in (AUTOTUNE_DUMP_FLAG, AUTOTUNE_LOAD_FLAG) if wanted else ():
        if name in flags and Path(flags[name]).parent not in folders:
            raise UsageError(
                f"{name}={flags[name]} is set in XLA_FLAGS; under determinism: autotuned dsrun keeps these choices in the run folder. "
                "Unset it."
            )
    if has_started and wanted and not {AUTOTUNE_DUMP_FLAG, AUTOTUNE_LOAD_FLAG} & flags.keys():
        raise UsageError("JAX has started without a place for its measured choices. Call configure_runtime before.")
    return {} if has_started else {name: str(path) for name, path in wanted.items()}


def processors() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ask_for_large_pages() -> None:
    """Restart this process with an allocator that asks Linux for 2 MiB pages; returns if it does so already.

    XLA:CPU takes fresh memory for every execution, and with 4 KiB pages a training step spends its time in page faults
    and address translation (docs/MEASUREMENTS.md, training speed). glibc reads the setting when a process starts and never
    again, hence the restart: same process id, same arguments. No bit of a result depends on it. A setting of the
    user's own stays, 0 included; without glibc nothing happens.
    """
    tunables = os.environ.get(ALLOCATOR_VARIABLE, "")
    if LARGE_PAGES in tunables or RESTARTED in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ[RESTARTED] = "1"  # a loader that strips the first variable must not see this function twice
    os.environ[ALLOCATOR_VARIABLE] = ":".join(filter(None, (tunables, f"{LARGE_PAGES}=1")))
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def in_force() -> dict[str, str]:
    """The settings that decide bits: pool variables, each flag as XLA parsed it, and the text of XLA_FLAGS.

    Asking the compiler makes XLA parse its flags, so this comes after `configure_runtime`. The text lacks the run folder's own
    files of measured choices: paths decide nothing, and equal runs have equal records.
    """
    parsed = _flags_of_compiler()
    pool = {name: os.environ.get(name, "") for name in POOL_VARIABLES}
    flags = parse_flags(os.environ.get("XLA_FLAGS", ""))
    text = _flags_text({name: value for name, value in flags.items() if not _is_ours(name, value)})
    return pool | parsed | {"XLA_FLAGS": text}


def start_for_inference() -> str:
    """For a model that no config comes with: strict determinism, or what this process began with; says which."""
    if not _has_started():
        pool = os.environ.get(POOL_VARIABLES[0], "")
        configure_runtime(pool_size=int(pool) if pool.isdecimal() and int(pool) else POOL_SIZE)
    found = in_force()
    if any(found[name] != value for name, value in DETERMINISM_FLAGS.items()):
        return "off"
    return "autotuned" if found.get(NO_TUNING_FLAG) == "false" else "strict"


def require_in_force(*, pool_size: int = POOL_SIZE, determinism: Determinism = "strict") -> None:
    """Raises UsageError if a setting that decides bits is missing."""
    found = in_force()
    wanted = _wanted(pool_size, determinism)
    wrong = [
        f"{name} is {found[name] or 'not set'}, not {value}" for name, value in wanted.items() if found[name] != value
    ]
    if wrong:
        raise UsageError(
            "; ".join(wrong) + ". Runs would not be reproducible. Call configure_runtime before the first use of JAX."
        )


def flags_that_decide(text: str) -> dict[str, str]:
    """The flags of an XLA_FLAGS text that may change bits: all but the number of CPU devices and where things are written.

    Raises:
        UsageError: it names a file of flags.
    """
    return {
        name: value
        for name, value in parse_flags(text).items()
        if name not in (DEVICE_COUNT_FLAG, AUTOTUNE_DUMP_FLAG) and not name.startswith("--xla_dump_")
    }


def _wanted(pool_size: int, determinism: Determinism) -> dict[str, str]:
    """The settings that decide bits, as they must be."""
    if determinism == "off":
        return ARITHMETIC_FLAGS
    pool = dict.fromkeys(POOL_VARIABLES, str(pool_size))
    return pool | DETERMINISM_FLAGS | ({NO_TUNING_FLAG: "false"} if determinism == "autotuned" else {})


def parse_flags(text: str) -> dict[str, str]:
    """Flags by name; the last of a repeated one counts, a bare one is true, and quotes hold spaces together, as in XLA.

    Raises:
        UsageError: the text names a file of flags.
    """
    tokens = [
        re.sub(r"""(["'])(.*?)\1""", r"\2", token) for token in re.findall(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""", text)
    ]
    if tokens and not tokens[0].startswith("--"):
        raise UsageError(
            f"XLA_FLAGS={text}: it names a file of flags. Write the flags themselves, so that they are recorded."
        )
    pairs = (token.partition("=") for token in tokens)
    spellings = {"1": "true", "True": "true", "0": "false", "False": "false"}
    flags = {name: value if equals else "true" for name, equals, value in pairs}
    return {name: spellings.get(value, value) if name in DETERMINISM_FLAGS else value for name, value in flags.items()}


def _flags_text(flags: Mapping[str, str]) -> str:
    return " ".join(
        f'{name}="{value}"' if re.search(r"\s", value) else f"{name}={value}" for name, value in flags.items()
    )


def _is_ours(name: str, value: str) -> bool:
    return name in (AUTOTUNE_DUMP_FLAG, AUTOTUNE_LOAD_FLAG) and Path(value).name in (AUTOTUNE_NAME, AUTOTUNE_ASIDE)


def _has_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(bridge and bridge.backends_are_initialized())


def _flags_of_compiler() -> dict[str, str]:
    message = import_module("jax._src.lib").xla_client.CompileOptions().SerializeAsString()
    for number in _PATH_TO_DEBUG_OPTIONS:
        message = dict(_message_fields(message))[number]
    fields = dict(_message_fields(message))
    # Absent means false: proto3 does not write a false flag that has no presence bit.
    return {name: "true" if fields.get(number) else "false" for name, number in _DEBUG_OPTIONS_FIELDS.items()}


def _message_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message: integers, or the bytes of everything else."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        number, wire_type = divmod(varint(), 8)
        if wire_type == 0:
            yield number, varint()
        else:
            length = {1: 8, 5: 4}.get(wire_type) or varint()
            yield number, message[place : place + length]
            place += length
