"""A file is replaced whole or not at all, and grows by whole lines; a full disk is an error that names the file."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from dsrun.errors import DataError
from dsrun.record import LineFile, RunDir, read_events, write_atomically


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


def test_lines_of_many_threads_are_whole_and_none_is_lost(tmp_path):
    file = LineFile(tmp_path / "log.txt")

    def write(thread: int) -> None:
        for number in range(200):
            file.append(f"{thread} {number} " + "ж" * number)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    found = [line.split() for line in file.path.read_text(encoding="utf-8").splitlines()]
    assert sorted((int(thread), int(number)) for thread, number, *_ in found) == [
        (thread, number) for thread in range(4) for number in range(200)
    ]
    assert all("".join(rest) == "ж" * int(number) for _, number, *rest in found)


def test_a_line_that_the_disk_takes_only_in_part_is_taken_back(tmp_path, monkeypatch):
    file = LineFile(tmp_path / "events.jsonl")
    file.append("first")
    write = os.write

    def fill(descriptor: int, content: bytes) -> int:
        if len(content) < 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:4])

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(
        DataError, match=r"events\.jsonl: could not be written \(No space left.*Make room.*same command"
    ):
        file.append("second")
    assert file.path.read_bytes() == b"first\n"
    monkeypatch.setattr(os, "write", write)
    file.append("third")
    file.close()
    assert file.path.read_bytes() == b"first\nthird\n"


# Each file of a run folder in its turn, in a process that may write 5,000 bytes to a file and not more.
FULL = """
import resource, sys
from pathlib import Path
from dsrun.errors import DataError
from dsrun.record import EventLog, LineFile, RunDir, write_atomically

folder = Path(sys.argv[1])
run = RunDir(folder)
run.open("seed: 1\\n", command=["dsrun"])
run.write_status("running", step=3)
events, log = EventLog(run.events), LineFile(run.log)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for write in (
    lambda: [events.append("step", step, text="x" * 90) for step in range(1000)],
    lambda: [log.append("y" * 90) for _ in range(1000)],
    lambda: run.write_status("running", step=4, reason="z" * 9000),
    lambda: write_atomically(run.parameters, "z" * 9000),
):
    try:
        write()
    except DataError as error:
        print(error.exit_code, error)
"""


def test_a_full_disk_is_one_error_for_each_file_of_a_run_and_what_was_there_stays_whole(tmp_path):
    found = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    for line, name in zip(lines, ("events.jsonl", "log.txt", "status.json", "parameters.txt"), strict=True):
        assert line.startswith(f"3 {tmp_path / name}: could not be written (File too large). Make room there")
    run = RunDir(tmp_path)
    steps = [record["step"] for record in read_events(run.events)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 10
    assert set(run.log.read_text().splitlines()) == {"y" * 90}
    assert run.read_status()["step"] == 3
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
