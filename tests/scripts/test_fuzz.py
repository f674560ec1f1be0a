"""The fuzzer sees what it looks for, and a few cases of every kind find nothing."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
import fuzz
import fuzz_cases
from fuzz_mutations import mutated_bytes, mutated_text

from dsrun.errors import DataError


def refuse():
    raise DataError("no")


def break_down():
    raise KeyError("a bug")


def blame_the_file_for_lack_of_memory():
    try:
        raise MemoryError
    except MemoryError:
        raise DataError("breaks off") from None


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (lambda: None, "used"),
        (blame_the_file_for_lack_of_memory, "memory"),
        (refuse, "refused"),
        (lambda: Path("/nowhere/at/all").read_bytes(), "refused by the system"),
        (break_down, "traceback"),
        (lambda: Path("left").write_text(""), "stray"),
    ],
)
def test_what_came_of_a_case_is_called_by_its_name(call, outcome, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "case").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setitem(fuzz_cases.KINDS, "audio", lambda rng, folder: call)
    monkeypatch.setattr(fuzz, "_peak", lambda: 0)  # tests before this one may have left gigabytes in this process
    result = fuzz.run_case(1, 1, ["audio"], tmp_path / "case")
    assert result["outcome"] == outcome
    monkeypatch.setattr(fuzz, "_peak", lambda: fuzz.MEMORY + 1)
    assert fuzz.run_case(1, 1, ["audio"], tmp_path / "case")["outcome"] == "memory"
    assert (outcome in fuzz.FINDINGS) == (outcome in ("traceback", "memory", "stray"))


def test_a_case_is_a_function_of_its_number():
    def made(seed):
        rng = random.Random(seed)
        return mutated_bytes(rng, bytes(range(200)), b"other"), mutated_text(rng, "a b 1.5\nc d 2\n")

    assert made("1 7") == made("1 7")
    assert len({made(f"1 {number}") for number in range(50)}) > 40


class NoWorker:
    """Takes some cases, then breaks."""

    cases = 0

    def __init__(self, options):
        pass

    def run(self, number):
        if number >= self.cases:
            raise KeyError("a bug of the fuzzer")
        return {"number": number, "kind": "tar", "outcome": "used", "text": "", "seconds": 0.0, "peak": 0}

    def close(self):
        pass


@pytest.mark.parametrize(("starts", "code"), [(0, 1), (2, 1), (5, 0)])
def test_fuzzing_that_ran_fewer_cases_than_asked_has_failed(starts, code, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "Worker", NoWorker)
    monkeypatch.setattr(NoWorker, "cases", starts)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--cases", "5", "--workers", "1"])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == code
    assert (f"{starts} of 5 cases ran" in capsys.readouterr().err) == bool(code)


def test_a_worker_that_does_not_start_is_a_failure_and_not_an_end_without_cases(monkeypatch, capsys):
    monkeypatch.setattr(fuzz.sys, "executable", "/bin/false")
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--cases", "2", "--workers", "2"])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 1
    assert "a worker did not start" in capsys.readouterr().err


@pytest.mark.slow
def test_some_cases_of_every_kind_are_used_or_refused(tmp_path):
    command = [sys.executable, "scripts/fuzz.py", "--cases", "150", "--seed", "7", "--workers", "1"]
    command += ["--keep", str(tmp_path / "found"), "--json", str(tmp_path / "results.jsonl")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(results) == 150
    assert {row["kind"] for row in results} == set(fuzz_cases.KINDS)
