"""Provenance says what a run's bits depend on, and equal circumstances give equal text."""

import getpass
import json
import socket
import subprocess

import jax
import pytest

import dsrun
from dsrun.errors import DataError
from dsrun.record import differences, provenance, read_provenance
from dsrun.record.provenance import git_state, source_digest


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_it_holds_versions_devices_and_settings_in_force_and_is_the_same_twice():
    found = provenance(data={"train": "0123"})
    assert found["dsrun"] == dsrun.__version__
    assert found["packages"]["jax"] == jax.__version__
    assert None not in found["packages"].values()
    assert found["in_force"]["PJRT_NPROC"] == "8"
    assert found["in_force"]["--xla_allow_excess_precision"] == "false"
    assert found["jax"]["backend"] == jax.default_backend()
    assert found["data"] == {"train": "0123"}
    assert json.loads(json.dumps(found)) == found == provenance(data={"train": "0123"})


def changed(facts: dict, name: str, value: object) -> dict:
    """The facts with one of them, by dotted name, as it was then."""
    copy = json.loads(json.dumps(facts))
    *sections, last = (
        name.split(".") if not name.startswith("in_force") else ["in_force", name.removeprefix("in_force.")]
    )
    place = copy
    for section in sections:
        place = place[section]
    place[last] = value
    return copy


@pytest.mark.parametrize(
    ("name", "value", "differing"),
    [
        ("packages.jaxlib", "0.9.0", "packages.jaxlib"),
        ("source_sha256", "0", "source_sha256"),
        ("python", "3.10.1", "python"),
        ("jax.device_kinds", ["TPU v9"], "jax.device_kinds"),
        ("jax.jax_default_matmul_precision", "highest", "jax.jax_default_matmul_precision"),
        ("variables.NVIDIA_TF32_OVERRIDE", "1", "variables.NVIDIA_TF32_OVERRIDE"),
        ("products", "TensorFloat-32", "products"),
        ("determinism", "off", "determinism"),
        ("in_force.NPROC", "2", "in_force.NPROC"),
        ("in_force.XLA_FLAGS", "--xla_cpu_max_isa=AVX2", "in_force.--xla_cpu_max_isa"),
        ("in_force.XLA_FLAGS", "/etc/flags", "in_force.XLA_FLAGS"),
    ],
)
def test_what_may_change_bits_is_a_difference_named_with_both_values(name, value, differing):
    now = provenance()
    assert differences(now, now) == {}
    found = differences(changed(now, name, value), now)
    assert differing in found
    then = {"python": "3.10", "in_force.--xla_cpu_max_isa": "AVX2"}.get(differing, value)
    assert found[differing][0] == then


def test_the_number_of_devices_a_commit_with_the_same_source_and_a_patch_release_of_python_are_none():
    now = provenance()
    text = now["in_force"]["XLA_FLAGS"]
    one_device = " ".join(word for word in text.split() if "device_count" not in word)
    for name, value in (
        ("in_force.XLA_FLAGS", f"{one_device} --xla_force_host_platform_device_count=3 --xla_dump_to=/tmp"),
        ("git", {"commit": "0" * 40, "changes_sha256": None}),
        ("python", now["python"].rsplit(".", 1)[0] + ".99"),
    ):
        assert differences(changed(now, name, value), now) == {}


@pytest.mark.parametrize(
    "damaged", [None, [], {}, {"in_force": 3}, {"packages": {"jax": [1]}, "in_force": {"XLA_FLAGS": 7}}]
)
def test_a_damaged_record_differs_and_raises_nothing(damaged):
    assert "packages.jaxlib" in differences(damaged, provenance())


def test_a_file_that_is_no_record_is_a_message(tmp_path):
    for content in (b"[1]", b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "provenance.json").write_bytes(content)
        with pytest.raises(DataError, match=r"provenance\.json: not JSON as dsrun writes it"):
            read_provenance(tmp_path / "provenance.json")


def test_it_names_no_host_and_no_user():
    values = json.dumps({key: value for key, value in provenance().items() if key not in ("packages", "git")})
    assert f'"{socket.gethostname()}"' not in values
    assert f'"{getpass.getuser()}"' not in values


def test_the_source_digest_follows_names_and_contents_of_python_files(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "b.py").write_text("")
    digests = [source_digest(tmp_path)]
    (tmp_path / "notes.txt").write_text("not source")
    assert source_digest(tmp_path) == digests[0]
    (tmp_path / "a.py").write_text("x = 2\n")
    digests.append(source_digest(tmp_path))
    (tmp_path / "room" / "b.py").rename(tmp_path / "room" / "c.py")
    digests.append(source_digest(tmp_path))
    assert len(set(digests)) == 3


def test_git_state_tells_commit_and_every_kind_of_change(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    source = package / "__init__.py"
    source.write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    assert git_state(package) is None  # untracked: some other project's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(package) == {"commit": commit, "changes_sha256": None}
    (tmp_path / "README.md").write_text("outside the package")
    assert git_state(package) == {"commit": commit, "changes_sha256": None}

    changes = []
    source.write_text("x = 2\n")
    changes.append(git_state(package)["changes_sha256"])
    source.write_text("x = 3\n")
    changes.append(git_state(package)["changes_sha256"])
    git(tmp_path, "add", ".")  # staged or not is the same content
    assert git_state(package)["changes_sha256"] == changes[-1]
    (package / "new.py").write_text("y = 1\n")
    changes.append(git_state(package)["changes_sha256"])
    (package / "new.py").write_text("y = 2\n")
    changes.append(git_state(package)["changes_sha256"])
    assert None not in changes
    assert len(set(changes)) == 4


def test_a_folder_without_git_has_no_git_state(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("")
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None
