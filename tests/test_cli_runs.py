"""`dsrun runs` on run folders made by hand: states, curves, order, damage."""

import csv
import io
import json
import socket
import sys

import pytest
from typer.testing import CliRunner

from dsrun.cli import app, main
from dsrun.errors import UsageError
from dsrun.record import RunDir, read_events
from dsrun.run_listing import list_runs, read_told
from tests.study.run_folders import write_run_folder

FLOAT16 = {"arithmetic.storage.format": "float16", "seed": 7}


def run(*arguments):
    return CliRunner().invoke(app, ["runs", *map(str, arguments)], catch_exceptions=False)


def test_runs_of_a_folder_and_of_sweeps_in_it_are_listed_with_what_they_are(tmp_path):
    write_run_folder(tmp_path / "alone", status={"result": {"cer": 0.35}})
    write_run_folder(tmp_path / "sweep" / "float16-7", config=FLOAT16)
    write_run_folder(tmp_path / "sweep" / "deeper" / "still" / "run")
    rows = json.loads(run(tmp_path, "--json").stdout)
    assert [row["run"] for row in rows] == [str(tmp_path / "alone"), str(tmp_path / "sweep" / "float16-7")]
    first, second = rows
    assert (first["dev_cer"], first["test_cer"], first["dev_cers"], first["step"]) == (
        0.3,
        0.35,
        [0.9, 0.6, 0.4, 0.3],
        8,
    )
    assert first["minutes"] == pytest.approx(8 * 0.5 / 60)
    assert first["data_wait"] == pytest.approx(0.01 / 0.5)
    assert (second["arithmetic"], second["seed"], second["determinism"]) == ("float16", 7, "strict")
    lines = run(tmp_path).stdout.splitlines()
    assert lines[1].split()[:5] == ["alone", "done", "8", "0.3000", "█▅▃▁"]
    assert lines[2].startswith("sweep/float16-7  done")


def test_a_run_without_evaluation_shows_its_loss_in_brackets_and_one_without_steps_nothing(tmp_path):
    write_run_folder(tmp_path / "a", dev_cer=(), state="running")
    write_run_folder(tmp_path / "b", dev_cer=(), steps=0, state="running")
    a, b = run(tmp_path).stdout.splitlines()[1:]
    assert "(█▆▄▃▃▂▁▁)" in a
    assert "(" not in b


def test_running_without_a_process_is_killed_and_only_where_that_can_be_known(tmp_path):
    for name in ("held", "left", "elsewhere", "copied"):
        write_run_folder(tmp_path / name, state="running")
    here = f"process 1 on host {socket.gethostname()}\n"
    (tmp_path / "left" / ".lock").write_text(here)
    (tmp_path / "elsewhere" / ".lock").write_text("process 1 on host some-other\n")
    held = RunDir(tmp_path / "held")
    with held:
        held._take_lock()
        states = {row["run"].rpartition("/")[2]: row["state"] for row in list_runs([tmp_path])}
    assert states == {"held": "running", "left": "killed", "elsewhere": "running", "copied": "running"}


def test_steps_to_go_come_from_costs_or_from_the_log(tmp_path):
    costs, log, none = (write_run_folder(tmp_path / name, state="stopped") for name in ("costs", "log", "none"))
    (costs / "costs.json").write_text(json.dumps({"steps_per_epoch": 5}))
    (log / "log.txt").write_text("dsrun 0.1.0\n 6 steps an epoch, 24 in all\n")
    assert [row["total_steps"] for row in list_runs([costs, log, none])] == [20, 24, None]
    assert run(costs).stdout.splitlines()[1].split()[2] == "8/20"


def test_order_and_states_are_chosen_and_what_is_not_known_comes_last(tmp_path):
    write_run_folder(tmp_path / "a", dev_cer=(0.5,))
    write_run_folder(tmp_path / "b", dev_cer=(), state="stopped")
    write_run_folder(tmp_path / "c", dev_cer=(0.2,))
    write_run_folder(tmp_path / "d", state="failed", dev_cer=(), status={"exit_code": 4})
    ordered = csv.DictReader(io.StringIO(run(tmp_path, "--sort", "cer", "--csv").stdout))
    assert [row["run"].rpartition("/")[2] for row in ordered] == ["c", "a", "b", "d"]
    chosen = json.loads(run(tmp_path, "--json", "--state", "stopped", "--state", "diverged").stdout)
    assert [row["run"].rpartition("/")[2] for row in chosen] == ["b", "d"]
    none = run(tmp_path, "--state", "killed")
    assert (none.stdout, none.stderr) == ("", "none of 4 runs is killed\n")
    assert json.loads(run(tmp_path, "--state", "killed", "--json").stdout) == []
    with pytest.raises(UsageError, match="--state over: write one of new, running, killed"):
        run(tmp_path, "--state", "over")


def test_a_rate_that_is_no_number_comes_last_too(tmp_path):
    for name, cer in (("a", "x"), ("b", 0.5), ("c", 10**400), ("d", 0.25)):
        write_run_folder(tmp_path / name, status={"result": {"cer": cer}})
    chosen = json.loads(run(tmp_path, "--sort", "test", "--json").stdout)
    assert [row["run"].rpartition("/")[2] for row in chosen] == ["d", "b", "a", "c"]


def test_numbers_cut_out_of_lines_are_those_that_the_events_have(tmp_path):
    steps = [{"loss": float("nan"), "seconds": 1.5, "data_wait_seconds": 0.25}, {"seconds": 1e-7, "loss": 3}]
    more = [("step", 9 + n, fields) for n, fields in enumerate(steps)]
    more += [("environment", 9, {"changed": {"a": [1, 2]}}), ("eval", 9, {"manifest": "dev", "cer": float("inf")})]
    path = write_run_folder(tmp_path / "run", events=more) / "events.jsonl"
    told, events = read_told(path), read_events(path)
    records = [event for event in events if event["event"] == "step"]
    assert told.losses() == [event["loss"] for event in records]
    assert told.losses(most=5) == told.losses()[::2]
    assert told.seconds == [event["seconds"] for event in records]
    assert told.wait == pytest.approx(sum(event.get("data_wait_seconds", 0) for event in records))
    assert told.dev_cers == [event["cer"] for event in events if event["event"] == "eval"]
    assert told.changed_at == [9]


def test_a_damaged_run_is_named_and_hides_no_other(tmp_path):
    write_run_folder(tmp_path / "good")
    bad = write_run_folder(tmp_path / "bad")
    with open(bad / "events.jsonl", "a") as file:
        file.write("garbage\n")
    worse = write_run_folder(tmp_path / "worse")
    (worse / "config.yaml").write_text("seed: [1\n")
    found = run(tmp_path, "--json")
    assert [row["run"] for row in json.loads(found.stdout)] == [str(tmp_path / "good")]
    assert "events.jsonl:13: not JSON" in found.stderr
    assert "worse" in found.stderr


def test_a_config_as_dsrun_writes_it_says_the_same_as_read_whole(tmp_path):
    folder = write_run_folder(tmp_path / "run", config=FLOAT16)
    as_json = list_runs([folder])
    config = json.loads((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    assert list_runs([folder]) == as_json


def test_markdown_has_a_row_for_each_run(tmp_path):
    write_run_folder(tmp_path / "a")
    lines = run(tmp_path, "--md").stdout.splitlines()
    assert lines[0].startswith("| run | state | step |")
    assert len(lines) == 3


def test_a_folder_whose_name_is_no_text_is_listed_with_its_bytes_escaped(tmp_path, monkeypatch):
    write_run_folder(tmp_path / "runs" / "a\udcff")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["dsrun", "runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as end:
        main()
    stdout.flush()
    assert end.value.code in (0, None)
    assert b"a\\udcff" in stdout.buffer.getvalue()


def test_minutes_count_the_steps_that_left_no_record(tmp_path):
    folder = write_run_folder(tmp_path / "a", steps=120)
    lines = (folder / "events.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] % 10 == 0]
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in kept))
    assert list_runs([tmp_path])[0]["minutes"] == 1.0
    assert list_runs([tmp_path])[0]["data_wait"] == pytest.approx(0.02)
