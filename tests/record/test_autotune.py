"""Measured choices of kernels are kept whole, and before the checkpoint that depends on them."""

from pathlib import Path

import pytest

from dsrun.errors import DataError
from dsrun.record import autotune_flags, keep_autotune_results
from dsrun.record.runtime import AUTOTUNE_DUMP_FLAG, AUTOTUNE_LOAD_FLAG


def test_a_first_start_only_writes_a_resume_reads_and_writes_and_a_reader_only_reads(tmp_path):
    assert list(autotune_flags(tmp_path)) == [AUTOTUNE_DUMP_FLAG]
    assert autotune_flags(tmp_path, writes=False) == {}
    (tmp_path / "autotune.textproto").write_text("version: 3")
    both = autotune_flags(tmp_path)
    assert both == {
        AUTOTUNE_LOAD_FLAG: tmp_path / "autotune.textproto",
        AUTOTUNE_DUMP_FLAG: tmp_path / ".autotune.textproto",
    }
    assert list(autotune_flags(tmp_path, writes=False)) == [AUTOTUNE_LOAD_FLAG]
    assert list(autotune_flags(tmp_path, is_new=True)) == [AUTOTUNE_DUMP_FLAG]  # --overwrite


def test_paths_are_absolute_because_a_process_may_change_its_folder():
    assert all(path.is_absolute() for path in autotune_flags(Path("runs/a")).values())


def test_what_xla_wrote_is_copied_whole_and_nothing_is_where_nothing_was_measured(tmp_path):
    keep_autotune_results(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for text in ("version: 3\n", "version: 3\nresults { }\n"):
        (tmp_path / ".autotune.textproto").write_text(text)
        keep_autotune_results(tmp_path)
        assert (tmp_path / "autotune.textproto").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == [".autotune.textproto", "autotune.textproto"]


def test_links_among_these_files_are_not_followed(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.write_text("mine")
    (run / ".autotune.textproto").symlink_to(outside)
    keep_autotune_results(run)
    assert not (run / "autotune.textproto").exists()
    (run / ".autotune.textproto").unlink()
    (run / ".autotune.textproto").write_text("version: 3")
    for name in ("autotune.textproto", ".autotune.textproto.part"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside)
    keep_autotune_results(run)
    assert outside.read_text() == "mine"
    assert not (run / "autotune.textproto").is_symlink()


def test_a_full_disk_is_a_message(tmp_path, monkeypatch):
    def full(*files: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / ".autotune.textproto").write_text("version: 3")
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(DataError, match=r"autotune\.textproto: could not be written .No space left"):
        keep_autotune_results(tmp_path)
