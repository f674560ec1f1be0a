"""A run folder is found again by its config, held by one process, and never overwritten unasked."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from dsrun.errors import DataError, UsageError
from dsrun.record import RunDir
from dsrun.record.run_dir import CONTENTS

CONFIG = "seed: 1\nmodel:\n  hidden: 256\n"
COMMAND = ["dsrun", "train", "--config", "a file.yaml"]


def finished_run(path) -> RunDir:
    with RunDir(path) as run:
        run.open(CONFIG, command=COMMAND)
        run.checkpoints.mkdir()
        run.write_status("done", step=120, exit_code=0)
    return run


def test_a_new_folder_gets_its_config_and_command_and_holds_nothing_of_the_clock(tmp_path):
    with RunDir(tmp_path / "runs" / "a") as run:
        assert run.state(CONFIG) == "new"
        assert run.open(CONFIG, command=COMMAND) == "new"
        assert run.config.read_text() == CONFIG
        assert run.command.read_text() == "dsrun train --config 'a file.yaml'\n"
        assert sorted(os.listdir(run.path)) == [".lock", "command.txt", "config.yaml"]


def test_a_run_that_did_not_finish_is_resumed_by_the_same_command(tmp_path):
    for last in ("running", "stopped", "failed"):
        with RunDir(tmp_path / last) as run:
            run.open(CONFIG, command=COMMAND)
            run.write_status(last, step=7, exit_code=75)
        with RunDir(tmp_path / last) as run:
            assert run.open(CONFIG, command=COMMAND) == "incomplete"
            assert (run.read_status()["step"], run.read_status()["exit_code"]) == (7, 75)
        with RunDir(tmp_path / last) as run:
            assert run.open(CONFIG, command=COMMAND, mode="resume") == "incomplete"
        assert run.command.read_text().count("\n") == 3


@pytest.mark.parametrize("mode", ["automatic", "resume"])
def test_a_complete_run_is_refused_with_the_choices_and_left_alone(tmp_path, mode):
    run = finished_run(tmp_path / "a")
    before = {name: (run.path / name).stat().st_mtime_ns for name in os.listdir(run.path) if name != ".lock"}
    with pytest.raises(UsageError, match=r"(?s)a: complete \(step 120\).*dsrun eval .*--overwrite.*--run-dir DIR"):
        run.open(CONFIG, command=COMMAND, mode=mode)
    assert before == {name: (run.path / name).stat().st_mtime_ns for name in os.listdir(run.path) if name != ".lock"}


def test_another_config_is_shown_as_a_difference(tmp_path):
    run = finished_run(tmp_path / "a")
    with pytest.raises(UsageError, match=r"(?s)another config.*-  hidden: 256\n\+  hidden: 512") as caught:
        run.open(CONFIG.replace("256", "512"), command=COMMAND)
    assert "seed" not in str(caught.value)


def test_resume_needs_something_to_resume(tmp_path):
    with pytest.raises(UsageError, match="nothing to resume"):
        RunDir(tmp_path / "a").open(CONFIG, command=COMMAND, mode="resume")
    assert not (tmp_path / "a").exists()


def test_overwrite_removes_what_dsrun_wrote_and_nothing_else(tmp_path):
    run = finished_run(tmp_path / "a")
    for name in CONTENTS:
        if name not in ("config.yaml", "status.json", "checkpoints", "command.txt"):
            (run.path / name).write_text("old")
    (run.path / "my notes.txt").write_text("mine")
    other = CONFIG.replace("256", "512")
    with run:
        assert run.open(other, command=COMMAND, mode="overwrite") == "new"
    assert sorted(os.listdir(run.path)) == [".lock", "command.txt", "config.yaml", "my notes.txt"]
    assert run.config.read_text() == other


@pytest.mark.parametrize("mode", ["automatic", "overwrite"])
def test_a_folder_that_is_no_run_folder_is_not_touched(tmp_path, mode):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoints").mkdir()  # has dsrun's name, but without a config it is not known to be dsrun's
    with pytest.raises(UsageError, match=r"holds 'checkpoints' and no config\.yaml.*nothing there was touched"):
        RunDir(tmp_path).open(CONFIG, command=COMMAND, mode=mode)
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "thesis.tex"]
    with pytest.raises(UsageError, match=r"thesis\.tex: a file, not a run folder"):
        RunDir(tmp_path / "thesis.tex").open(CONFIG, command=COMMAND, mode=mode)


def test_a_start_that_was_killed_before_it_wrote_the_config_is_a_new_folder(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on host gone\n")
    (tmp_path / ".config.yaml.part").write_text("see")
    with RunDir(tmp_path) as run:
        assert run.open(CONFIG, command=COMMAND) == "new"


def test_overwrite_that_is_killed_on_its_way_never_leaves_a_complete_or_unknown_folder(tmp_path):
    for done in range(1, len(CONTENTS)):
        run = finished_run(tmp_path / str(done))
        for name in CONTENTS[:done]:
            path = run.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        assert run.state(CONFIG) == "incomplete"


def outside(tmp_path):
    """Something that is not to be touched: a file and a folder with a file."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("mine")
    return tmp_path / "outside"


@pytest.mark.parametrize("name", [*CONTENTS, ".lock"])
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_in_a_run_folder_is_refused_before_anything_is_written(tmp_path, name, kind):
    run, target = finished_run(tmp_path / "a"), outside(tmp_path)
    run.write_status("stopped", step=1)
    path = run.path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to({"file": target / "mine", "folder": target, "nothing": target / "new"}[kind])
    before = {entry.name: entry.lstat().st_mtime_ns for entry in run.path.iterdir()}
    for mode in ("automatic", "resume", "overwrite"):
        with pytest.raises(
            UsageError, match=rf"a/{name}: a symbolic link to .*touched nothing.*link the whole run folder"
        ):
            RunDir(run.path).open(CONFIG, command=COMMAND, mode=mode)
    assert before == {entry.name: entry.lstat().st_mtime_ns for entry in run.path.iterdir()}
    assert os.listdir(target) == ["mine"]
    assert (target / "mine").read_text() == "mine"


def test_hard_links_and_pipes_are_refused_too(tmp_path):
    run, target = finished_run(tmp_path / "a"), outside(tmp_path)
    os.link(target / "mine", run.events)
    with pytest.raises(UsageError, match=r"events\.jsonl: a file with a second name"):
        run.open(CONFIG, command=COMMAND, mode="overwrite")
    run.events.unlink()
    os.mkfifo(run.log)
    with pytest.raises(UsageError, match=r"log\.txt: a pipe"):
        run.open(CONFIG, command=COMMAND, mode="overwrite")


def test_a_run_folder_that_is_a_link_itself_is_its_users_choice(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "big disk")
    with RunDir(tmp_path / "a") as run:
        assert run.open(CONFIG, command=COMMAND) == "new"


def test_links_where_files_are_written_aside_are_replaced_and_not_followed(tmp_path):
    run, target = finished_run(tmp_path / "a"), outside(tmp_path)
    for name in (".status.json.part", ".config.yaml.part"):
        (run.path / name).symlink_to(target / "mine")
    with run:
        run.open(CONFIG, command=COMMAND, mode="overwrite")
        run.write_status("running", step=1)
    assert (target / "mine").read_text() == "mine"


def test_a_folder_that_cannot_be_written_in_is_a_message(tmp_path, monkeypatch):
    run, opened = finished_run(tmp_path / "a"), os.open

    def refuse(path, flags, *mode, **options):
        if str(path).startswith(str(run.path)) and flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        UsageError, match=r"a: dsrun cannot write there \(Permission denied\)\. Choose another --run-dir"
    ):
        run.open(CONFIG, command=COMMAND, mode="overwrite")


def test_lasting_facts_are_in_every_status(tmp_path):
    run = finished_run(tmp_path / "a")
    run.lasting = {"determinism": "off"}
    for state in ("running", "failed"):
        run.write_status(state, step=3)
        assert run.read_status()["determinism"] == "off"


HOLD = """
import sys
from dsrun.record import RunDir
run = RunDir(sys.argv[1])
run.open(sys.argv[2], command=["dsrun"])
run.write_status("running", step=3)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_by_host_and_pid_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), CONFIG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    for mode in ("automatic", "overwrite"):
        with pytest.raises(UsageError, match=rf"in use by process {holder.pid} on host {os.uname().nodename}\."):
            RunDir(tmp_path).open(CONFIG, command=COMMAND, mode=mode)
    assert (tmp_path / "command.txt").read_text() == "dsrun\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with RunDir(tmp_path) as run:
        assert run.open(CONFIG, command=COMMAND) == "incomplete"
        assert run.read_status()["state"] == "running"


def test_a_refusal_gives_the_lock_back(tmp_path):
    run = finished_run(tmp_path / "a")
    for _ in range(2):
        with pytest.raises(UsageError, match="complete"):
            RunDir(run.path).open(CONFIG, command=COMMAND)


def test_status_is_json_and_a_damaged_one_says_what_to_do(tmp_path):
    run = finished_run(tmp_path / "a")
    status = json.loads(run.status.read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("done", 120, 0)
    run.status.write_text('{"state": "do')
    with pytest.raises(DataError, match=r"status\.json: not JSON.*Remove the file"):
        run.read_status()


def test_forgetting_a_folder_undoes_its_opening_and_never_takes_a_file_that_dsrun_did_not_write(tmp_path):
    with RunDir(tmp_path / "a") as run:
        run.open(CONFIG, command=COMMAND)
        (run.path / "notes.txt").write_text("mine")
        run.forget()
        assert sorted(os.listdir(run.path)) == ["notes.txt"]
    with RunDir(tmp_path / "b") as run:
        run.open(CONFIG, command=COMMAND)
        run.forget()
        assert not run.path.exists()


@pytest.mark.parametrize("mode", ["automatic", "resume", "overwrite"])
def test_a_folder_in_which_a_run_was_found_is_not_forgotten(tmp_path, mode):
    with RunDir(tmp_path / "a") as run:
        run.open(CONFIG, command=COMMAND)
    with RunDir(tmp_path / "a") as run:
        run.open(CONFIG, command=COMMAND, mode=mode)
        run.forget()
        assert {"config.yaml", "command.txt", ".lock"} <= set(os.listdir(run.path))
