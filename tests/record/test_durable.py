"""A file is replaced whole or not at all."""

import os

import pytest

from dsrun.record import write_atomically


def test_content_is_replaced_byte_for_byte_and_nothing_stays_aside(tmp_path):
    path = tmp_path / "status.json"
    for text in ("one\r\n", "ж\n", ""):
        write_atomically(path, text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_writer_that_dies_before_the_rename_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_atomically(path, "old")

    def die(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
