"""The GPU report's machinery, without a GPU: what goes wrong in a contender is a reason in words, and the others go on."""

import json
import sys

import numpy as np
import pytest

from benchmarks.gpu_parts import Failed, Worker, in_words, take_turns
from benchmarks.turns import ratio


def test_the_line_that_names_the_error_is_found_among_a_programs_complaints():
    flag = "F1125 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --xla_gpu_nothing=true"
    assert in_words(f"warming up\n{flag}\n\n  --xla_dump_to=PATH string\n") == flag
    assert in_words("Traceback\n  File x\nValueError: no such file\nbye\n") == "ValueError: no such file"
    assert in_words("one\ntwo\n") == "two"
    assert in_words("") == "it said nothing"


def test_a_contender_that_fails_is_left_out_with_its_reason_and_the_others_keep_their_rounds():
    answers = iter([1.0])

    def breaks() -> float:
        try:
            return next(answers)
        except StopIteration:
            raise Failed("out of memory") from None

    times, reasons = take_turns({"a": lambda: 2.0, "b": breaks}, 3)
    assert times == {"a": [2.0, 2.0, 2.0]}
    assert reasons == {"b": "out of memory"}


def test_a_ratio_is_the_median_of_the_ratios_within_a_round():
    # The columns' own medians are 4 and 4: their ratio would say that nothing is between them.
    assert ratio([2.0, 9.0, 4.0], [1.0, 4.0, 4.0]) == {"median": 2.0, "lowest": 1.0, "highest": 2.25}


def test_a_worker_that_dies_says_its_last_words_and_one_that_refuses_lives_on():
    dying = "import sys; sys.stderr.write('Unknown flag --x\\n'); sys.exit(3)"
    worker = Worker("dying", [sys.executable, "-c", dying])
    with pytest.raises(Failed, match="dying ended with exit code 3: Unknown flag --x"):
        worker.ask("anything")
    worker.close()
    refusing = (
        "import sys; from benchmarks.gpu_parts import serve\n"
        "def half(x):\n    if x % 2: raise ValueError('odd')\n    return {'half': x // 2}\n"
        "serve({'version': 1}, {'half': half})"
    )
    worker = Worker("refusing", [sys.executable, "-c", refusing])
    with pytest.raises(Failed, match="ValueError: odd"):
        worker.ask("half", x=3)
    assert worker.ask("half", x=4) == {"half": 2}
    worker.close()


def test_a_part_that_fails_or_outlasts_its_time_is_a_row_and_keeps_the_rows_before(monkeypatch, tmp_path):
    from benchmarks import gpu_report

    program = "from benchmarks.gpu_parts import row\nimport sys, time\nrow('first', 'done', x=1)\n"
    endings = {"fails": "raise ValueError('broken')", "hangs": "time.sleep(60)", "ends": ""}
    for name, ending in endings.items():
        (tmp_path / f"{name}.py").write_text(program + ending)
    monkeypatch.setattr(
        gpu_report, "command", lambda part, seconds, options: [sys.executable, str(tmp_path / part.module)]
    )
    monkeypatch.setattr(gpu_report, "GRACE_SECONDS", 1)
    monkeypatch.setenv("PYTHONPATH", str(gpu_report.ROOT))
    parts = {name: gpu_report.Part(f"{name}.py", 2, "") for name in endings}
    monkeypatch.setattr(gpu_report, "PARTS", parts)
    report = gpu_report.Report(100)
    for name in endings:
        gpu_report.run_part(report, name, [])
    told = [(row["part"], row["result"]) for row in report.rows if not row["case"].endswith("seconds")]
    assert told == [
        ("fails", "done"),
        ("fails", "FAILED (1): ValueError: broken"),
        ("hangs", "done"),
        ("hangs", "stopped: its 2 s were over"),
        ("ends", "done"),
    ]
    report.budget = 0
    gpu_report.run_part(report, "ends", [])
    assert report.rows[-1]["result"] == "not run: no time left"


def test_a_run_without_memory_must_end_with_the_preflights_message_and_its_exit_code():
    from benchmarks.gpu_runs import refusal

    warning = "W1126 bfc_allocator.cc:511] Allocator ran out of memory trying to allocate 1 GiB\n"
    message = "out of memory before the first step: the gradient needs about 423.9 MiB, 174.4 MiB are free."
    trying = "out of memory while trying 16 rows x 1632 frames before the first step: RESOURCE_EXHAUSTED: 4 GiB."
    for said in message, trying:
        assert refusal(2, f"{warning}Error: {said}\nbye\n") == f"exit code 2: {said}"
        assert refusal(1, f"{warning}Error: {said}\n") == f"FAIL: exit code 1: {said}"
    assert refusal(0, "step 1\nstep 2\n") == "FAIL: exit code 0: step 2"
    later = "Error: out of memory while making step 7: RESOURCE_EXHAUSTED: 4 GiB."
    assert refusal(2, f"{warning}{later}\n") == f"FAIL: exit code 2: {later}"


def test_runs_without_checkpoints_are_no_equal_runs():
    from benchmarks.gpu_runs import compared

    assert compared(["a", "b"], ["a", "b"]) == "equal digests of 2 checkpoints"
    assert compared(["a", "b"], ["a"]).startswith("FAIL: DIFFERENT")
    assert compared([], []).startswith("FAIL: the first run has no checkpoint")


def test_the_ragged_problem_has_every_corner_and_one_rule_says_what_aligns():
    from benchmarks.ctc_problem import random_problem
    from benchmarks.gpu_kernels import RAGGED_SIZE, has_alignment, ragged_problem
    from dsrun.ctc import frames_needed

    utterances, frames, labels, classes = RAGGED_SIZE
    full = random_problem(
        utterances=utterances, frames=frames, labels=labels, classes=classes, deviation=3.0, confidence=0.0, seed=1
    )
    ragged = ragged_problem(full)
    lengths = set(zip(ragged.num_frames.tolist(), ragged.num_labels.tolist(), strict=True))
    assert {(0, 0), (0, labels), (1, 1), (frames // 2, 0), (frames, labels)} <= lengths
    needed = [frames_needed(row[:count].tolist()) for row, count in zip(ragged.labels, ragged.num_labels, strict=True)]
    aligned = has_alignment(ragged)
    assert aligned.tolist() == [n <= own for n, own in zip(needed, ragged.num_frames, strict=True)]
    assert 1 < (~aligned).sum() < utterances / 2
    assert has_alignment(full).all()


def test_a_kernels_row_fails_where_one_bit_differs(capsys):
    from benchmarks.gpu_kernels import _bits_row

    x = np.float32([1, np.nan, 0])
    _bits_row("same", {"numbers": (x, x.copy())}, "they are")
    _bits_row("zeros", {"numbers": (x, np.float32([1, np.nan, -0.0])), "others": (x, x)}, "they are")
    same, zeros = (json.loads(line)["result"] for line in capsys.readouterr().out.splitlines())
    assert same == "they are"
    assert zeros == "FAIL: other bits: 1 of 3 numbers"


def test_the_speed_of_a_run_is_its_later_steps_and_says_what_share_they_waited_for_data():
    from benchmarks.gpu_runs import speed

    def step(seconds, waited):
        return {
            "event": "step",
            "seconds": seconds,
            "utterances": 16,
            "audio_seconds": 40.0,
            "data_wait_seconds": waited,
        }

    found = [step(30.0, 30.0), {"event": "eval"}, step(9.0, 0.0), step(0.5, 0.1), step(0.5, 0.0)]
    assert speed(found) == "32.0 utterances/s, 80 s of audio/s, 500.0 ms a step (median of 2), data wait 10.0%"
