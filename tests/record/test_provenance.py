"""Provenance says what a run's bits depend on, and equal circumstances give equal text."""

import getpass
import json
import socket
import subprocess

import jax

import dsrun
from dsrun.record import provenance
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
