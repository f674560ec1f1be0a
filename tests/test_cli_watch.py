"""`dsrun watch`: what it prints, when it leaves."""

import json
import os
import shutil

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.cli_watch import Loop, Watched, watch_in_lines
from dsrun.errors import UsageError
from dsrun.inspection import open_runs
from dsrun.watch_view import detail, overview, plain_line
from tests.study.run_folders import write_run_folder


class Script:
    """A clock that moves when one sleeps, and something that happens at each sleep."""

    def __init__(self, start, *happenings):
        self.now, self.happenings = start, list(happenings)

    def sleep(self, seconds):
        self.now += seconds
        if not self.happenings:
            raise KeyboardInterrupt
        self.happenings.pop(0)()


def nothing():
    pass


def run_lines(watched, script, *, is_forever=False, every=10.0):
    watched.look()
    watch_in_lines(Loop(watched, is_forever=is_forever, sleep=script.sleep, clock=lambda: script.now), every)


def rendered(renderable, width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_once_prints_a_row_a_run_and_json_is_one_document(tmp_path):
    for name in ("b", "a"):
        write_run_folder(tmp_path / name, config={"arithmetic.storage.format": "float16"})
    table = CliRunner().invoke(app, ["watch", str(tmp_path), "--once"])
    assert table.exit_code == 0
    assert [line.split()[:3] for line in table.stdout.splitlines()[1:]] == [["a", "done", "8"], ["b", "done", "8"]]
    document = json.loads(CliRunner().invoke(app, ["watch", str(tmp_path), "--once", "--json"]).stdout)
    assert [row["arithmetic"] for row in document["runs"]] == ["float16", "float16"]
    lines = CliRunner().invoke(app, ["watch", str(tmp_path), "--once", "--csv"]).stdout.splitlines()
    assert lines[0].startswith("run,state,step,total_steps,")
    assert lines[1].startswith(f"{tmp_path / 'a'},done,8,,")


def test_once_names_the_folder_that_has_no_runs_and_says_what_a_run_without_steps_does(tmp_path):
    found = CliRunner().invoke(app, ["watch", str(tmp_path), "--once"])
    assert found.stderr.strip() == f"no run folders in {tmp_path}"
    write_run_folder(tmp_path / "a", steps=0, dev_cer=(), state="running")
    found = CliRunner().invoke(app, ["watch", str(tmp_path), "--once"])
    assert "no step yet: it loads the data and compiles" in found.stdout


def test_runs_that_are_given_and_have_ended_are_left_at_once(tmp_path, capsys):
    folder = write_run_folder(tmp_path / "a")
    run_lines(Watched([folder], waits=False), Script(0.0))
    assert capsys.readouterr().out.startswith("a  done  step 8  epoch 4/4")


def test_in_a_folder_the_next_run_of_a_sweep_is_waited_for_and_taken_in(tmp_path, capsys):
    write_run_folder(tmp_path / "a")
    watched = Watched([tmp_path], waits=False)
    watched.look()
    start = watched.runs[0].newest
    appears = [nothing] * 4 + [lambda: write_run_folder(tmp_path / "b", dev_cer=(0.5,))] + [nothing] * 9
    run_lines(watched, Script(start + 1, *appears))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b"]


def test_forever_stays_and_a_run_that_vanishes_is_left_out(tmp_path, capsys):
    folder = write_run_folder(tmp_path / "a")
    watched = Watched([tmp_path], waits=False)
    with pytest.raises(KeyboardInterrupt):
        run_lines(watched, Script(1e12, lambda: shutil.rmtree(folder), nothing), is_forever=True)
    assert watched.runs == []


def test_news_of_a_running_run_come_every_30_seconds_and_a_change_of_state_at_once(tmp_path, capsys):
    folder = write_run_folder(tmp_path / "a", state="running")

    def step():
        with open(folder / "events.jsonl", "a") as file:
            file.write('{"event": "step", "step": 9, "loss": 1.0}\n')

    def end():
        (folder / "status.json").write_text('{"state": "failed", "step": 9, "reason": "diverged"}')

    run_lines(Watched([folder], waits=False), Script(0.0, step, nothing, nothing, end))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:3] for line in lines] == [
        ["running", "step 8"],
        ["running", "step 9"],
        ["failed", "step 9"],
    ]
    assert lines[-1].endswith("diverged")


def test_a_path_that_is_not_there_is_a_mistake_unless_one_waits_for_it(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        Watched([tmp_path / "none"], waits=False)
    Watched([tmp_path / "none"], waits=True).look()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        Watched([tmp_path / "file"], waits=True)


def test_the_log_and_the_config_that_a_sweep_keeps_beside_a_run_are_no_paths_of_runs(tmp_path):
    run = write_run_folder(tmp_path / "a-rate=0.5-123456", steps=3, state="done")
    beside = [run.with_name(f"{run.name}{ending}") for ending in (".log", ".yaml")]
    for file in beside:
        file.touch()
    paths = sorted(tmp_path.glob("a*"))
    watched = Watched(paths, waits=False)
    watched.look()
    assert [found.run.path for found in watched.runs] == [run]
    assert [found.path for found in open_runs(paths)] == [run]
    with pytest.raises(UsageError, match="a file that a sweep keeps beside a run folder. Give the folder"):
        open_runs(beside)
    (tmp_path / "other.log").touch()
    with pytest.raises(UsageError, match="other.log: a file, not a run folder"):
        open_runs([run, tmp_path / "other.log"])


def test_a_run_of_another_config_under_the_same_name_is_another_run(tmp_path):
    write_run_folder(tmp_path / "a")
    watched = Watched([tmp_path], waits=False)
    watched.look()
    shutil.rmtree(tmp_path / "a")
    write_run_folder(tmp_path / "a", steps=2, config={"arithmetic.storage.format": "bfloat16"})
    watched.look()
    assert watched.runs[0].config["arithmetic.storage.format"] == "bfloat16"
    assert watched.runs[0].steps == [1, 2]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_of_the_table_is_wider_than_the_terminal_or_cut(tmp_path, width):
    for number in range(3):
        write_run_folder(tmp_path / f"run-{number}", state="running", dev_cer=(0.5, 0.25))
    watched = Watched([tmp_path], waits=False)
    watched.look()
    text = rendered(overview(watched.runs, width=width, most=10), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "0.250" in text


def test_of_more_runs_than_lines_those_that_run_are_shown(tmp_path):
    for number in range(9):
        write_run_folder(tmp_path / f"run-{number}", state="running" if number == 7 else "done")
    watched = Watched([tmp_path], waits=False)
    watched.look()
    text = rendered(overview(watched.runs, width=160, most=3), 160)
    assert "run-7" in text
    assert "9 runs: 8 done, 1 running; 6 not shown" in text


def test_one_run_has_curves_its_newest_sample_and_no_control_characters(tmp_path):
    folder = write_run_folder(tmp_path / "a", status={"reason": "a [bold]word\x1b[2J"}, state="stopped")
    (folder / "log.txt").write_text("2026-11-26T10:00:00      said: press one\n    read: pres won\x1b[2J\n")
    watched = Watched([folder], waits=False)
    watched.look()
    text = rendered(detail(watched.runs[0], width=100), 100)
    assert "loss, steps 1 to 8 (log)" in text
    assert "dev CER, steps 2 to 8 (log)" in text
    assert "read: pres won\\x1b[2J" in text
    assert "a [bold]word\\x1b[2J" in text
    assert "\x1b" not in text


def test_the_runs_of_sweeps_two_folders_deep_are_watched_under_the_sweeps_name(tmp_path, capsys):
    for sweep in ("formats", "sizes"):
        write_run_folder(tmp_path / sweep / "float16")
    run_lines(Watched([tmp_path], waits=False), Script(1e12))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["formats/float16", "sizes/float16"]


def test_a_pipe_in_a_folder_is_told_once_and_neither_read_nor_the_end_of_the_others(tmp_path, capsys):
    write_run_folder(tmp_path / "good")
    bad = write_run_folder(tmp_path / "bad")
    (bad / "events.jsonl").unlink()
    os.mkfifo(bad / "events.jsonl")
    watched = Watched([tmp_path], waits=False)
    watched.look()
    watched.look()
    assert [run.name for run in watched.runs] == ["good"]
    assert capsys.readouterr().err.count("a pipe") == 1


def test_nothing_of_a_folder_reaches_the_terminal_as_a_command(tmp_path, capsys):
    bad = "\x1b[2J"
    config = {"arithmetic.storage.format": f"f{bad}", "training.epochs": bad, "seed": bad}
    write_run_folder(tmp_path / f"a{bad}", config=config, status={"state": f"s{bad}", "reason": bad})
    watched = Watched([tmp_path], waits=False)
    watched.look()
    shown = rendered(overview(watched.runs, width=200, most=3), 200) + rendered(detail(watched.runs[0], width=100), 100)
    shown += plain_line(watched.runs[0])
    for form in ([], ["--csv"], ["--json"], ["--md"]):
        shown += CliRunner().invoke(app, ["watch", str(tmp_path), "--once", *form]).output
        shown += CliRunner().invoke(app, ["runs", str(tmp_path), *form]).output
    assert "s\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_json_without_once_is_refused():
    for form in ("--json", "--csv", "--md"):
        result = CliRunner().invoke(app, ["watch", form])
        assert isinstance(result.exception, UsageError)
        assert f"--once {form}" in str(result.exception)
