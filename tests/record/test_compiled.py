"""Compiled programs are code: only a folder that this user made in this place is read."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from dsrun.errors import UsageError
from dsrun.record import trusted_folder


@pytest.fixture
def made(tmp_path) -> Path:
    folder, note = trusted_folder(tmp_path / "compiled")
    assert note is None
    (folder / "program").write_text("code")
    return folder


def test_a_new_folder_is_closed_to_others_and_found_again_with_what_is_in_it(made):
    assert made.stat().st_mode & 0o777 == 0o700
    assert trusted_folder(made) == (made, None)
    assert (made / "program").read_text() == "code"
    moved = made.rename(made.with_name("moved"))  # a run folder may be renamed
    assert trusted_folder(moved) == (moved, None)


def archive(folder: Path) -> Path:
    """Through tar, as a stranger's run arrives, with all that tar can keep."""
    target = folder.parent / "unpacked"
    target.mkdir()
    pack = subprocess.run(["tar", "-C", folder.parent, "-cf", "-", folder.name], capture_output=True, check=True)
    subprocess.run(["tar", "-C", target, "-xpf", "-"], input=pack.stdout, check=True)
    return target / folder.name


def copy(folder: Path) -> Path:
    return shutil.copytree(folder, folder.with_name("copy"))


def link(folder: Path) -> Path:
    other = folder.with_name("link")
    other.symlink_to(folder)
    return other


def open_to_others(folder: Path) -> Path:
    folder.chmod(0o750)
    return folder


def without_seal(folder: Path) -> Path:
    (folder / ".seal").unlink()
    return folder


def with_a_guessed_seal(folder: Path) -> Path:
    """A stranger knows what a seal looks like, and not the inodes that files will get."""
    other = archive(folder)
    (other / ".seal").write_text((folder / ".seal").read_text())
    return other


def born_again(folder: Path) -> Path:
    """Even with the right inodes the time of change is another."""
    time.sleep(0.02)  # a file system may count in ticks of the kernel's clock
    (folder / ".born").chmod(0o644)
    return folder


def a_file(folder: Path) -> Path:
    other = folder.with_name("file")
    other.write_text("")
    return other


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (archive, "was not made in this place"),
        (copy, "was not made in this place"),
        (link, "it is no folder"),
        (open_to_others, "others may enter it (mode 0750"),
        (without_seal, "was not made in this place"),
        (with_a_guessed_seal, "was not made in this place"),
        (born_again, "was not made in this place"),
        (a_file, "it is no folder"),
    ],
)
def test_anything_else_is_begun_anew_and_told(made, harm, reason):
    folder = harm(made)
    found, note = trusted_folder(folder)
    assert note is not None
    assert reason in note
    assert not (found / "program").exists()
    assert not found.is_symlink()
    assert found.stat().st_mode & 0o777 == 0o700
    assert trusted_folder(found) == (found, None)
    if harm is link:
        assert (made / "program").exists()  # what a link leads to is not touched


def test_a_folder_of_another_user_is_not_trusted(made, monkeypatch):
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert "belongs to another user" in str(trusted_folder(made)[1])


def test_a_folder_that_cannot_be_replaced_is_a_message(tmp_path, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "compiled").mkdir()
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(UsageError, match=r"compiled: compiled programs cannot be kept there \(Permission denied\)"):
        trusted_folder(tmp_path / "compiled")
