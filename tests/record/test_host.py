"""What a process may use."""

import pytest

from dsrun.errors import UsageError
from dsrun.record import host


def test_a_refusal_says_what_is_needed_and_what_is_free():
    with pytest.raises(UsageError, match=r"--sizes 1x2x3 needs about 3,221,225,472 bytes \(3.0 GiB\); 1,000 .* free"):
        host.require_memory("--sizes 1x2x3", 3 * 2**30, 1000)
    host.require_memory("--sizes 1x2x3", 1000, 1000)
    host.require_memory("--sizes 1x2x3", 3 * 2**30, None)


def test_a_control_group_leaves_its_limit_less_what_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "CONTROL_GROUP", tmp_path)
    without = host.available_memory()
    assert without is None or without > 1000
    (tmp_path / "memory.current").write_text("9000\n")
    (tmp_path / "memory.max").write_text("10000\n")
    assert host.available_memory() == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert host.available_memory() != 1000
