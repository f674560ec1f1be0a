"""A followed log: each record once, whatever happens to the file between two looks."""

import os

import pytest

from dsrun.record import EventLog
from dsrun.record.event_tail import EventTail


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def steps(look):
    return [record["step"] for record in look.records]


def append(path, *numbers):
    log = EventLog(path)
    for number in numbers:
        log.append("step", number, loss=1.0 / number)
    log.close()


def test_each_record_comes_once_and_a_file_that_is_not_there_yet_has_none(path):
    tail = EventTail(path)
    assert tail.look().records == []
    append(path, 1, 2)
    assert steps(tail.look()) == [1, 2]
    assert tail.look().records == []
    append(path, 3)
    found = tail.look()
    assert steps(found) == [3]
    assert not found.is_anew


def test_a_cut_last_line_comes_when_it_is_whole(path):
    append(path, 1)
    tail = EventTail(path)
    whole = path.read_bytes() + b'{"event": "step", "step": 2}\n'
    for size in range(len(path.read_bytes()), len(whole)):
        path.write_bytes(whole[:size])
        tail.look()
    path.write_bytes(whole)
    found = tail.look()
    assert steps(found) == [2]
    assert found.problems == []


def test_a_log_that_a_resume_cut_back_is_told_anew_even_when_it_has_grown_past_the_old_place(path):
    append(path, 1, 2, 3)
    tail = EventTail(path)
    tail.look()
    log = EventLog(path)
    log.truncate_after(1)
    log.close()
    append(path, 2, 3, 4, 5)
    found = tail.look()
    assert found.is_anew
    assert steps(found) == [1, 2, 3, 4, 5]


def test_another_log_in_the_same_inode_is_noticed_by_its_bytes(path):
    append(path, 1, 2)
    tail = EventTail(path)
    tail.look()
    inode, content = os.stat(path).st_ino, path.read_bytes()
    with open(path, "r+b") as file:
        file.write(content.replace(b'"loss"', b'"LOSS"') * 2)
    assert os.stat(path).st_ino == inode
    assert tail.look().is_anew


def test_a_log_that_vanished_is_anew_once(path):
    append(path, 1)
    tail = EventTail(path)
    tail.look()
    path.unlink()
    assert tail.look().is_anew
    assert not tail.look().is_anew


def test_a_damaged_line_is_told_with_its_number_and_the_others_come(path):
    append(path, 1)
    with open(path, "ab") as file:
        file.write(b'{"event": "st\xff\n{"event": "step", "step": 2}\n[]\n')
    found = EventTail(path).look()
    assert steps(found) == [1, 2]
    assert [problem.split(": ")[0] for problem in found.problems] == [f"{path}:2", f"{path}:4"]


def test_blocks_end_in_the_middle_of_lines_without_losing_any(path, monkeypatch):
    monkeypatch.setattr("dsrun.record.event_tail.BLOCK", 7)
    append(path, *range(1, 30))
    tail = EventTail(path)
    assert steps(tail.look()) == list(range(1, 30))
    append(path, 30)
    found = tail.look()
    assert steps(found) == [30]
    assert not found.is_anew
