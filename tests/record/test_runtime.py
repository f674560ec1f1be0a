"""Flags and thread-pool size are pinned before JAX starts, and read back from the compiler."""

import os
import platform
import subprocess
import sys

import pytest

from dsrun.errors import UsageError
from dsrun.record import autotune_flags
from dsrun.record.runtime import (
    DETERMINISM_FLAGS,
    configure_runtime,
    flags_that_decide,
    in_force,
    parse_flags,
    processors,
    require_in_force,
)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own, with none of the variables that the tests themselves run under."""
    pinned = ("NPROC", "PJRT_NPROC", "XLA_FLAGS")
    plain = {name: value for name, value in os.environ.items() if name not in pinned}
    variables = plain | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)


def test_a_fresh_process_gets_its_devices_and_xla_parses_every_flag_as_set():
    found = run_python(
        "from dsrun.record import configure_runtime, in_force, require_in_force\n"
        "configure_runtime(4)\n"
        "configure_runtime(2)\n"  # nothing more to do
        "import jax\n"
        "require_in_force()\n"
        "print(len(jax.devices()), in_force()['--xla_gpu_deterministic_ops'], in_force()['--xla_allow_excess_precision'])\n"
        "print(in_force()['NPROC'], in_force()['PJRT_NPROC'])\n"
    )
    assert found.stdout.split() == ["4", "true", "false", "8", "8"], found.stderr


def test_the_users_other_flags_stay():
    found = run_python(
        "from dsrun.record import configure_runtime\nimport os\nconfigure_runtime()\nprint(os.environ['XLA_FLAGS'])\n",
        XLA_FLAGS="--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops",
    )
    assert found.stdout.split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_gpu_deterministic_ops=true",
        "--xla_gpu_exclude_nondeterministic_ops=true",
        "--xla_allow_excess_precision=false",
    ]


def test_the_last_of_a_repeated_flag_counts_for_us_as_for_xla():
    code = "from dsrun.record import in_force; print(in_force()['--xla_allow_excess_precision'])"
    twice = "--xla_allow_excess_precision=false --xla_allow_excess_precision=true"
    assert run_python(code, XLA_FLAGS=twice).stdout.split() == ["true"]
    found = run_python("from dsrun.record import configure_runtime; configure_runtime()", XLA_FLAGS=twice)
    assert "--xla_allow_excess_precision=true is set in XLA_FLAGS, dsrun needs false" in found.stderr


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("NPROC", "2", "NPROC=2 is set in the environment, dsrun needs 8"),
        ("PJRT_NPROC", "1", "PJRT_NPROC=1 is set in the environment, dsrun needs 8"),
        (
            "XLA_FLAGS",
            "--xla_gpu_deterministic_ops=0",
            "--xla_gpu_deterministic_ops=false is set in XLA_FLAGS, dsrun needs true",
        ),
        (
            "XLA_FLAGS",
            "--xla_force_host_platform_device_count=9",
            "--xla_force_host_platform_device_count=9 is set in XLA_FLAGS, dsrun needs at most 8",
        ),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=abc", "device_count=abc is set in XLA_FLAGS"),
        ("XLA_FLAGS", "/etc/flags", "XLA_FLAGS=/etc/flags: it names a file of flags"),
    ],
)
def test_an_environment_that_would_change_bits_is_refused(monkeypatch, name, value, text):
    for other in ("NPROC", "PJRT_NPROC", "XLA_FLAGS"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=text):
        configure_runtime()


@pytest.mark.parametrize("devices", [0, 9])
def test_more_devices_than_the_pool_has_threads_are_refused(devices):
    with pytest.raises(UsageError, match=f"devices is {devices}: one process has 1 to 8"):
        configure_runtime(devices)


@pytest.mark.parametrize("missing", ["NPROC", "PJRT_NPROC", "XLA_FLAGS"])
def test_once_jax_has_started_nothing_can_be_pinned_any_more(missing):
    values = {"NPROC": "8", "PJRT_NPROC": "8", "XLA_FLAGS": " ".join(f"{n}={v}" for n, v in DETERMINISM_FLAGS.items())}
    del values[missing]
    found = run_python(
        "import jax\njax.devices()\nfrom dsrun.record import configure_runtime\nconfigure_runtime()\n",
        **values,
    )
    assert "UsageError: JAX has started without dsrun's thread-pool size, flags" in found.stderr


def test_an_import_of_jax_alone_is_early_enough():
    found = run_python(
        "import jax\nfrom dsrun.record import configure_runtime\nconfigure_runtime(3)\nprint(jax.device_count())"
    )
    assert found.stdout.split() == ["3"], found.stderr


def test_flags_that_the_compiler_has_not_read_are_not_in_force_whatever_the_environment_says():
    found = run_python(
        "from jax._src.lib import xla_client\n"
        "xla_client.CompileOptions()\n"  # XLA parses its flags here, and never again; no backend has started
        "from dsrun.record import configure_runtime, require_in_force\n"
        "configure_runtime()\n"
        "require_in_force()\n"
    )
    assert (
        "UsageError: --xla_gpu_deterministic_ops is false, not true; --xla_gpu_exclude_nondeterministic_ops is false, not true; "
        "--xla_allow_excess_precision is true" in found.stderr
    )


def test_a_pool_size_that_was_changed_is_reported(monkeypatch):
    require_in_force()
    monkeypatch.setenv("PJRT_NPROC", "2")
    assert in_force()["PJRT_NPROC"] == "2"
    with pytest.raises(UsageError, match="PJRT_NPROC is 2, not 8"):
        require_in_force()


def test_a_run_may_ask_for_another_pool_and_is_told_when_it_did_not_get_it():
    found = run_python(
        "from dsrun.record import configure_runtime, in_force, require_in_force\n"
        "configure_runtime(2, pool_size=2)\n"
        "require_in_force(pool_size=2)\n"
        "print(in_force()['PJRT_NPROC'])\n"
        "require_in_force()\n"
    )
    assert found.stdout.split() == ["2"]
    assert "UsageError: NPROC is 2, not 8; PJRT_NPROC is 2, not 8" in found.stderr


SHOW_MODE = """
import os, sys
from pathlib import Path
from dsrun.record import autotune_flags, configure_runtime, in_force, require_in_force
tuning = autotune_flags(Path(sys.argv[2])) if sys.argv[1] == "autotuned" else None
configure_runtime(2, pool_size=4, determinism=sys.argv[1], autotune=tuning)
configure_runtime(2, pool_size=4, determinism=sys.argv[1], autotune=tuning)
require_in_force(pool_size=4, determinism=sys.argv[1])
import jax
x = jax.numpy.ones((64, 64))
(x @ x).block_until_ready()
configure_runtime(pool_size=4, determinism=sys.argv[1], autotune=tuning)  # an evaluation after training
found = in_force()
print(*(found[name] for name in ("NPROC", "--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops",
    "--xla_allow_excess_precision")), len(jax.devices()), sep=",")
print(found["XLA_FLAGS"])
print(os.environ["XLA_FLAGS"])
print(sorted(os.listdir(sys.argv[2])))
"""


def show_mode(mode: str, folder, **environment: str) -> list[str]:
    code = SHOW_MODE.replace("sys.argv[1]", repr(mode)).replace("sys.argv[2]", repr(str(folder)))
    found = run_python(code, **environment)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_strict_and_off_differ_in_pool_and_kernels_and_not_in_the_arithmetic(tmp_path):
    assert show_mode("strict", tmp_path)[0] == "4,true,true,false,2"
    assert show_mode("off", tmp_path)[0] == ",false,false,false,2"
    # With off, what the environment says is the user's affair, but for the arithmetic.
    assert show_mode("off", tmp_path, NPROC="3", XLA_FLAGS="--xla_gpu_deterministic_ops")[0] == "3,true,false,false,2"
    code = "from dsrun.record import configure_runtime; configure_runtime(determinism='off')"
    refused = run_python(code, XLA_FLAGS="--xla_allow_excess_precision=true")
    assert "--xla_allow_excess_precision=true is set in XLA_FLAGS, dsrun needs false" in refused.stderr


def test_autotuned_names_files_in_the_run_folder_that_xla_understands_and_a_cpu_writes_none(tmp_path):
    folder = tmp_path / "a run"  # XLA's flags are separated by spaces
    folder.mkdir()
    pool, recorded, flags, files = show_mode("autotuned", folder)
    assert pool == "4,false,true,false,2"
    assert f'--xla_gpu_dump_autotune_results_to="{folder}/.autotune.textproto"' in flags
    assert "load_autotune" not in flags  # XLA stops where that file is missing
    assert "autotune" not in recorded  # equal runs have equal records, whatever their folders are called
    assert files == "[]"
    (folder / "autotune.textproto").write_text("")
    _, recorded, flags, files = show_mode("autotuned", folder)
    assert f'--xla_gpu_load_autotune_results_from="{folder}/autotune.textproto"' in flags
    assert "autotune" not in recorded


def test_measured_choices_that_the_user_keeps_elsewhere_are_refused_under_autotuned(tmp_path, monkeypatch):
    for other in ("NPROC", "PJRT_NPROC"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_load_autotune_results_from=/else/where.textproto")
    with pytest.raises(UsageError, match=r"where\.textproto is set in XLA_FLAGS; under determinism: autotuned"):
        configure_runtime(determinism="autotuned", autotune=autotune_flags(tmp_path))


def test_flags_are_split_as_xla_splits_them():
    text = """--xla_dump_to="/a b/c" --xla_a='x  y' --xla_gpu_deterministic_ops --xla_b=--c"""
    expected = {"--xla_dump_to": "/a b/c", "--xla_a": "x  y", "--xla_gpu_deterministic_ops": "true", "--xla_b": "--c"}
    assert parse_flags(text) == expected
    assert parse_flags("") == {}


def test_flags_that_say_where_things_go_and_how_many_devices_there_are_decide_nothing():
    text = "--xla_force_host_platform_device_count=4 --xla_dump_to=/tmp/a --xla_gpu_dump_autotune_results_to=/tmp/b"
    assert flags_that_decide(text) == {}
    assert flags_that_decide(f"{text} --xla_cpu_max_isa=AVX2") == {"--xla_cpu_max_isa": "AVX2"}


SHOW_RESTART = """
import os, sys
print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), flush=True)
from dsrun.record.runtime import ask_for_large_pages
ask_for_large_pages()
print("reached")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1")],
)
def test_large_pages_restart_the_same_process_once_with_the_same_arguments(before, after):
    variables = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "DSRUN_RESTARTED")}
    variables |= {"GLIBC_TUNABLES": before} if before else {}
    command = [sys.executable, "-c", SHOW_RESTART, "an argument", "--set", "a=b c"]
    found = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=True)
    first, second, end = found.stdout.splitlines()
    assert first.endswith(f"['an argument', '--set', 'a=b c'] {before}")
    assert second == first.removesuffix(str(before)) + after  # the process id, too
    assert end == "reached"


def test_a_users_own_choice_of_pages_stays():
    variables = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    command = [sys.executable, "-c", SHOW_RESTART]
    found = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert len(found.stdout.splitlines()) == 2


def test_processors_are_those_of_this_process():
    assert 1 <= processors() <= (os.cpu_count() or 1)
