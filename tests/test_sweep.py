"""Training the runs of a sweep, with a stand-in for the processes that train: what is started, skipped, resumed, and told."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpus import REPOSITORY

from dsrun import sweep
from dsrun.cli import app
from dsrun.errors import EXIT_INTERRUPTED, EXIT_STOPPED, UsageError
from dsrun.record import EventLog, RunDir, durable
from dsrun.sweep import Slot, Task, Trainer, exit_code_of, shared_slots, start_process
from dsrun.sweep_file import load_sweep
from dsrun.sweep_gpus import gpus_of_jobs, visible_gpus
from dsrun.sweep_state import digest_here, run_folders, state_of
from dsrun.training.stop import StopRequest

FILE = "four.yaml"
TEXT = f"""base: {REPOSITORY / "configs" / "prompts_small_float32.yaml"}
set: {{batches.shards: 2}}
list: [{{name: a}}, {{name: b, set: {{model.hidden: 16}}}}]
grid: {{seed: [1, 2]}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with a sweep of four runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)
    Path(FILE).write_text(TEXT, encoding="utf-8")
    return tmp_path


def tasks_of(*sets):
    found = load_sweep(FILE, sets)
    return [Task(v, run) for v, run in zip(found.variations, run_folders(found, found.folder), strict=True)]


def leave_run(task, state, *, step=3, code=0, cer=None):
    """A run folder as `dsrun train` would have left it."""
    task.run.mkdir(parents=True, exist_ok=True)
    (task.run / "config.yaml").write_text(task.variation.yaml, encoding="utf-8")
    RunDir(task.run).write_status(state, step=step, exit_code=code, result={"cer": 0.5} if state == "done" else None)
    events = EventLog(task.run / "events.jsonl")
    events.append("step", step, seconds=2.0)
    if cer is not None:
        events.append("eval", step, cer=cer)
    events.close()


class Machine:
    """Stands for the processes: each lasts so many looks at it and leaves its run in a state."""

    def __init__(self, **ends):
        self.ends, self.started, self.slots, self.most = ends, [], [], 0
        self.alive = []
        self.told = []

    def start(self, task, slot):
        name = task.variation.name
        self.started.append(name)
        self.slots.append(slot)
        assert all(other.slot is not slot for other in self.alive), "two runs in one slot"
        process = StandIn(self, task, slot, *self.ends.get(name.replace("-seed=", ""), ("done", 0)))
        self.alive.append(process)
        self.most = max(self.most, len(self.alive))
        return process


class StandIn:
    def __init__(self, machine, task, slot, state, code):
        self.machine, self.task, self.slot, self.state, self.code, self.looks = machine, task, slot, state, code, 0

    def poll(self):
        self.looks += 1
        if self.state == "runs on" and not self.machine.told:
            return None
        if self.looks < 3:
            return None
        if self.state == "runs on":
            self.state, self.code = "stopped", EXIT_STOPPED
        if self in self.machine.alive:
            self.machine.alive.remove(self)
            leave_run(self.task, self.state, step=9, code=self.code, cer=0.25)
            with self.task.log.open("a") as log:
                log.write("x.wav: is not audio\n" if self.code else "all epochs done\n")
        return self.code

    def send_signal(self, number):
        self.machine.told.append((self.task.variation.name, number))

    def kill(self):
        self.machine.told.append((self.task.variation.name, "killed"))


def train(machine, *, jobs=1, stop=None, tasks=None, **options):
    """Endings and lines of progress."""
    lines = []
    trainer = Trainer(
        tasks or tasks_of(),
        [Slot() for _ in range(jobs)],
        machine.start,
        stop or StopRequest(),
        lambda text, how: lines.append(text),
        **{"patience_seconds": 0.0, **options},
    )
    return trainer.run(), "\n".join(lines)


def test_what_is_done_is_left_alone_and_the_rest_is_started_in_order():
    tasks = tasks_of()
    leave_run(tasks[0], "done", cer=0.4)
    leave_run(tasks[2], "running", step=5)
    (tasks[2].run / "checkpoints" / "step_5").mkdir(parents=True)
    leave_run(tasks[3], "running", step=0)
    machine = Machine()
    endings, text = train(machine)
    assert machine.started == ["a-seed=2", "b-seed=1", "b-seed=2"]
    assert [ending.how for ending in endings] == ["done"] * 4
    assert [ending.was_trained for ending in endings] == [False, True, True, True]
    assert exit_code_of(endings, 0) == 0
    assert "[0] a-seed=1: done already, dev CER 0.4000" in text
    assert "b-seed=1: goes on from its last checkpoint (3 of 4)" in text
    assert "b-seed=2: goes on from its beginning, as it has no checkpoint (4 of 4)" in text
    assert "b-seed=2: done, dev CER 0.2500" in text
    assert "2 left, about 1 min" in text
    again = Machine()
    train(again)
    assert again.started == []


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again_the_next_time():
    endings, text = train(Machine(**{"a2": ("failed", 3), "b1": ("failed", -9)}))
    assert [ending.how for ending in endings] == ["done", "failed", "failed", "done"]
    assert exit_code_of(endings, 0) == 128 + 9, "the highest: killed by SIGKILL"
    assert "a-seed=2: failed, exit code 3" in text
    assert "    x.wav: is not audio" in text
    again = Machine()
    endings, _ = train(again)
    assert again.started == ["a-seed=2", "b-seed=1"]
    assert exit_code_of(endings, 0) == 0


def test_a_diverged_run_is_a_result_and_not_tried_again_unless_told():
    endings, text = train(Machine(a1=("failed", 4)))
    assert [ending.how for ending in endings] == ["diverged", "done", "done", "done"]
    assert exit_code_of(endings, 0) == 4
    again = Machine()
    endings, text = train(again)
    assert again.started == []
    assert "a-seed=1: diverged already" in text
    assert exit_code_of(endings, 0) == 4
    retried = Machine()
    train(retried, retries_diverged=True)
    assert retried.started == ["a-seed=1"]


def test_so_many_run_side_by_side_and_never_more():
    machine = Machine()
    train(machine, jobs=3)
    assert machine.most == 3
    assert len({id(slot) for slot in machine.slots}) == 3


@pytest.mark.parametrize(("code", "number"), [(EXIT_STOPPED, signal.SIGTERM), (EXIT_INTERRUPTED, signal.SIGINT)])
def test_a_signal_is_handed_on_once_and_the_sweep_waits_for_the_checkpoints(code, number):
    stop = StopRequest()
    machine = Machine(a1=("runs on", 0), a2=("runs on", 0))
    start = machine.start

    def start_then_signal(task, slot):
        process = start(task, slot)
        if len(machine.started) == 2:
            leave_run(task, "running")
            stop.exit_code = code
        return process

    machine.start = start_then_signal
    endings, text = train(machine, jobs=2, stop=stop)
    assert machine.told == [("a-seed=1", number), ("a-seed=2", number)]
    assert [ending.how for ending in endings] == ["stopped", "stopped", "left", "left"]
    assert exit_code_of(endings, stop.exit_code) == code
    assert "stopping: waiting for 1 to write a checkpoint; 1 before the first step, with nothing to keep" in text
    assert "a-seed=1: stopped at step 9" in text
    again = Machine()
    train(again)
    assert again.started == ["a-seed=1", "a-seed=2", "b-seed=1", "b-seed=2"]


def test_a_run_that_another_process_has_is_left_to_it_and_the_others_are_trained():
    tasks = tasks_of()
    leave_run(tasks[1], "running")
    with (tasks[1].run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine = Machine()
        endings, text = train(machine)
    assert "b-seed=1: starts (3 of 4)" in text, "the one in use is the second"
    assert "b-seed=2: starts (4 of 4)" in text
    assert machine.started == ["a-seed=1", "b-seed=1", "b-seed=2"]
    assert [ending.how for ending in endings] == ["done", "in use", "done", "done"]
    assert "a-seed=2: in use by another process" in text
    assert exit_code_of(endings, 0) == EXIT_STOPPED, "not all done: the same command goes on"


def test_a_run_that_another_process_took_at_the_same_moment_is_in_use_and_has_not_failed():
    """Its own process was refused, with exit code 2."""
    task = tasks_of()[0]
    machine = Machine(a1=("running", 2))
    start = machine.start
    locks = []

    def start_too_late(task, slot):
        if not locks:
            leave_run(task, "running")
            locks.append((task.run / ".lock").open("w"))
            fcntl.flock(locks[0], fcntl.LOCK_EX)
        return start(task, slot)

    machine.start = start_too_late
    endings, _ = train(machine)
    locks[0].close()
    assert [ending.how for ending in endings] == ["in use", "done", "done", "done"]
    assert task.run.is_dir()


@pytest.mark.parametrize("its_end", ["done", "stopped"])
def test_a_run_that_another_process_had_is_looked_at_again_at_the_end(its_end):
    """It was finished there, or given up there and is trained here."""
    tasks = tasks_of()
    leave_run(tasks[1], "running")
    lock = (tasks[1].run / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    machine = Machine()
    start = machine.start

    def start_and_let_go(task, slot):
        if task.variation.name == "b-seed=2":
            leave_run(tasks[1], its_end)
            lock.close()
        return start(task, slot)

    machine.start = start_and_let_go
    endings, _ = train(machine)
    assert [ending.how for ending in endings] == ["done"] * 4
    assert machine.started == ["a-seed=1", "b-seed=1", "b-seed=2"] + (["a-seed=2"] if its_end == "stopped" else [])


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_run_that_another_machine_finished_meanwhile_is_done(is_refused):
    """Before its turn here, or between the last look at it and its start, so that its own process is refused with exit code 2."""
    tasks = tasks_of()
    machine = Machine(b1=("done", 2))
    start = machine.start

    def start_while_others_train(task, slot):
        if task.variation.name == ("b-seed=1" if is_refused else "a-seed=1"):
            leave_run(tasks[2], "done", cer=0.4)
        return start(task, slot)

    machine.start = start_while_others_train
    endings, text = train(machine)
    assert [(ending.how, ending.was_trained) for ending in endings] == [
        ("done", True), ("done", True), ("done", False), ("done", True),
    ]  # fmt: skip
    assert exit_code_of(endings, 0) == 0
    assert ("b-seed=1" in machine.started) == is_refused
    assert "b-seed=1: done by another process" in text


def test_after_training_what_another_process_gave_up_there_is_a_look_at_the_others_it_had():
    """However long that took: the second was finished elsewhere meanwhile."""
    tasks = tasks_of()
    locks = {}
    for place in (1, 2):
        leave_run(tasks[place], "running")
        locks[place] = (tasks[place].run / ".lock").open("w")
        fcntl.flock(locks[place], fcntl.LOCK_EX)
    machine = Machine()
    start = machine.start

    def start_and_let_go(task, slot):
        for name, place, state in (("b-seed=2", 1, "stopped"), ("a-seed=2", 2, "done")):
            if task.variation.name == name:
                leave_run(tasks[place], state)
                locks[place].close()
        return start(task, slot)

    machine.start = start_and_let_go
    endings, _ = train(machine)
    assert machine.started == ["a-seed=1", "b-seed=2", "a-seed=2"]
    assert [ending.how for ending in endings] == ["done"] * 4
    assert exit_code_of(endings, 0) == 0


def test_a_run_that_cannot_be_started_has_failed_and_the_others_are_trained():
    machine = Machine()
    start = machine.start

    def start_or_not(task, slot):
        if task.variation.name == "a-seed=2":
            raise OSError(28, "No space left on device")
        return start(task, slot)

    machine.start = start_or_not
    endings, text = train(machine, jobs=2)
    assert [ending.how for ending in endings] == ["done", "failed", "done", "done"]
    assert exit_code_of(endings, 0) == 3
    assert "could not be started: [Errno 28] No space left on device" in text


def test_a_run_that_fails_while_the_sweep_stops_has_failed_and_its_last_words_are_shown():
    stop = StopRequest()
    machine = Machine(a1=("failed", 3), a2=("new", -signal.SIGTERM))
    start = machine.start

    def start_then_signal(task, slot):
        stop.exit_code = EXIT_STOPPED if len(machine.started) == 1 else 0
        return start(task, slot)

    machine.start = start_then_signal
    endings, text = train(machine, jobs=2, stop=stop)
    assert [ending.how for ending in endings] == ["failed", "stopped", "left", "left"]
    assert "    x.wav: is not audio" in text


def test_states_are_read_from_the_folder_alone():
    task = tasks_of()[0]
    assert str(state_of(task.variation, task.run)) == "new"
    leave_run(task, "running", step=0)
    with (task.run / "events.jsonl").open("a") as events:
        events.write('{"event": "step", "step": 40, "seconds": 1.5}\n')
    assert str(state_of(task.variation, task.run)) == "at step 40", "status.json knows the last checkpoint alone"
    leave_run(task, "failed", code=3)
    assert str(state_of(task.variation, task.run)) == "failed"
    leave_run(task, "failed", code=4)
    assert str(state_of(task.variation, task.run)) == "diverged"
    leave_run(task, "done", cer=0.125)
    state = state_of(task.variation, task.run)
    assert (state.kind, state.dev_cer, state.test_cer, state.note) == ("done", 0.125, 0.5, None)
    (task.run / "status.json").write_text("{")
    assert state_of(task.variation, task.run).kind == "failed"


def test_a_run_of_another_config_is_no_result_and_one_with_other_paths_is():
    """A folder brought from another machine has the paths of that one; its hash is the same."""
    first, second = tasks_of()[:2]
    leave_run(first, "done")
    config = first.run / "config.yaml"
    config.write_text(config.read_text().replace(str(REPOSITORY), "/elsewhere"))
    state = state_of(first.variation, first.run)
    assert (state.kind, "other paths" in state.note) == ("done", True)
    assert state_of(second.variation, first.run).kind == "differs"


def write_manifests(folder, *names):
    """Corpora whose manifests have one name, and a sweep over them; the manifests."""
    manifests = [folder / name / "en" / "train.jsonl" for name in names]
    for manifest in manifests:
        manifest.parent.mkdir(parents=True)
        manifest.write_text(f'{{"of": "{manifest.parent.parent.name}"}}\n')
    text = (
        f"base: {REPOSITORY / 'configs' / 'prompts_small_float32.yaml'}\ngrid: {{data.train: [FILES], seed: [1, 2]}}\n"
    )
    Path(FILE).write_text(text.replace("FILES", ", ".join(map(str, manifests))))
    return manifests


def test_data_of_one_name_in_two_places_are_two_runs_with_two_folders(tmp_path):
    """`config_hash` has the last two parts of a path alone, so theirs is the same."""
    manifests = write_manifests(tmp_path, "a", "b")
    first, other = tasks_of()[0], tasks_of()[2]
    assert first.variation.hash == other.variation.hash
    assert first.run.name.rsplit("-")[-1] != other.run.name.rsplit("-")[-1]
    leave_run(first, "done")
    assert [str(state_of(task.variation, task.run)) for task in tasks_of()] == ["done", "new", "new", "new"]
    # What is alone loses its twin and is found by the digits that it had with it.
    Path(FILE).write_text(Path(FILE).read_text().replace(f", {manifests[1]}", ""))
    assert (tasks_of()[0].run, tasks_of()[0].variation.digits in first.run.name) == (first.run, False)
    # In another order names change places, and runs do not.
    Path(FILE).write_text(Path(FILE).read_text().replace(str(manifests[0]), f"{manifests[1]}, {manifests[0]}"))
    assert [task.run == first.run for task in tasks_of()] == [False, False, True, False]


def test_a_folder_of_the_usual_name_with_other_data_does_not_hide_the_run(tmp_path):
    """The sweep named `a`, then both, now `b` alone, whose usual name is the one that `a` had alone."""
    a, b = write_manifests(tmp_path, "a", "b")
    both = Path(FILE).read_text()
    Path(FILE).write_text(both.replace(f", {b}", ""))
    leave_run(tasks_of()[0], "done")
    Path(FILE).write_text(both)
    of_b = tasks_of()[2]
    leave_run(of_b, "done")
    Path(FILE).write_text(both.replace(f"{a}, ", ""))
    assert tasks_of()[0].run == of_b.run


def test_a_run_on_other_data_of_the_same_name_is_not_taken_for_this_one(tmp_path):
    """The sweep named `a` before, and names `b` now: the manifests' digests tell, where the folder has them."""
    manifests = write_manifests(tmp_path, "a", "b")
    text = Path(FILE).read_text()
    Path(FILE).write_text(text.replace(f", {manifests[1]}", ""))
    task = tasks_of()[0]
    leave_run(task, "done")
    digests = {"train": digest_here(str(manifests[0]))}
    (task.run / "provenance.json").write_text(json.dumps({"data": digests}))
    assert state_of(task.variation, task.run).kind == "done"
    Path(FILE).write_text(text.replace(f"{manifests[0]}, ", ""))
    state = state_of(tasks_of()[0].variation, tasks_of()[0].run)
    assert (state.kind, "on other data" in state.note) == ("differs", True)
    manifests[1].write_bytes(manifests[0].read_bytes())
    assert state_of(tasks_of()[0].variation, tasks_of()[0].run).kind == "done", "the same data in another place"


def leave_origin(folder, digest):
    """A run folder to begin with, as far as a sweep looks into it."""
    place = folder / "checkpoints" / "step_000005"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps({"best": 5, "digest": digest}))


def test_a_run_that_began_with_other_weights_of_the_same_name_is_not_taken_for_this_one(tmp_path):
    for name, digest in (("a", "1" * 64), ("b", "2" * 64), ("c", "1" * 64)):
        leave_origin(tmp_path / name / "runs" / "old", digest)
    text = TEXT.replace("grid: {seed: [1, 2]}", "grid: {init_from: [ORIGIN]}")
    Path(FILE).write_text(text.replace("ORIGIN", "a/runs/old"))
    task = tasks_of()[0]
    leave_run(task, "done")
    (task.run / "provenance.json").write_text(json.dumps({"data": {}, "init_from": {"digest": "1" * 64}}))
    for place, kind in (("a", "done"), ("b", "differs"), ("c", "done")):
        Path(FILE).write_text(text.replace("ORIGIN", f"{place}/runs/old"))
        found = tasks_of()[0]
        assert state_of(found.variation, task.run).kind == kind, place


def test_a_run_is_found_again_when_the_sweep_has_grown_and_calls_it_otherwise():
    leave_run(tasks_of()[1], "done")
    Path(FILE).write_text(TEXT.replace("[1, 2]}", "[1, 2], training.clip_norm: [100.0, 50.0]}"))
    found = {task.variation.name: task.run.name for task in tasks_of()}
    assert found["a-seed=2-clip_norm=100.0"].startswith("a-seed=2-")
    assert "clip_norm" not in found["a-seed=2-clip_norm=100.0"]
    assert "clip_norm=50.0" in found["a-seed=2-clip_norm=50.0"]


def test_a_process_trains_the_checked_config_in_the_run_folder_and_writes_beside_it(monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **options: calls.append((words, options)))
    found = load_sweep(FILE)
    task = tasks_of()[1]
    start_process(task, Slot(devices=8, gpus="3"), sweep=found, accept_changes=True)
    ((words, options),) = calls
    run = f"runs/four/a-seed=2-{task.variation.digits}"
    assert words[1:4] == ["-m", "dsrun.sweep_child", str(os.getpid())]
    assert words[4:] == ["train", "--config", f"{run}.yaml", "--run-dir", run, "--devices", "2", "--accept-changes"], (
        "as many devices as shards at most"
    )
    assert options["env"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert options["process_group"] == 0, "or Ctrl-C at the terminal would reach it twice"
    assert Path(f"{run}.yaml").read_text().splitlines()[1:] == task.variation.yaml.splitlines()
    assert not Path(run).exists()
    assert Path(f"{run}.log").read_text().endswith("--accept-changes\n")


def test_cores_are_shared_and_one_run_alone_gets_what_train_would_take():
    assert shared_slots(1, cores=8, devices=None) == [Slot()]
    assert [slot.devices for slot in shared_slots(3, cores=8, devices=None)] == [2, 2, 2]
    assert [slot.devices for slot in shared_slots(4, cores=2, devices=None)] == [1, 1, 1, 1]
    assert [slot.devices for slot in shared_slots(2, cores=8, devices=1)] == [1, 1]


def test_gpus_are_shared_out_one_a_run_or_evenly(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert gpus_of_jobs(None, None) == (1, None)
    assert gpus_of_jobs("0,2", None) == (2, {0: "0", 1: "2"})
    assert gpus_of_jobs("all", 2) == (2, {0: "4,5", 1: "6,7"})
    for gpus, jobs, text in [("0,1,2", 2, "not shared out evenly"), ("0,0", None, "twice"), (",", None, "no GPU")]:
        with pytest.raises(UsageError, match=text):
            gpus_of_jobs(gpus, jobs)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == visible_gpus({"JAX_PLATFORMS": "cpu", "PATH": ""}) == []
    monkeypatch.setattr("dsrun.sweep_gpus.PLUGINS", ("json",))
    with pytest.raises(UsageError, match="each run would take all GPUs"):
        gpus_of_jobs(None, 2)


def test_a_child_does_not_outlive_its_parent():
    """The parent is killed with no chance to tell anyone."""
    child = "import sys, time; from dsrun.sweep_child import end_with; end_with(int(sys.argv[1]))\n"
    child += "print('here', flush=True); time.sleep(60)"
    code = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"
    begin = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code, child], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "here\n"
        parent.kill()
        assert parent.stdout.read() == "", "the child holds the other end too: this ends when it does"
    assert time.monotonic() - begin < 50


def test_a_child_whose_parent_is_gone_already_ends():
    code = "from dsrun.sweep_child import end_with; end_with(1 << 22); print('here')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (EXIT_STOPPED, "")


def dsrun(*words):
    """The command in this process."""
    return CliRunner().invoke(app, list(words))


def refusal(*words):
    found = dsrun(*words)
    assert isinstance(found.exception, UsageError), found.output
    return str(found.exception)


def test_the_list_shows_every_run_and_how_far_it_is():
    tasks = tasks_of()
    leave_run(tasks[0], "done")
    leave_run(tasks[3], "stopped", step=7)
    lines = dsrun("sweep", FILE, "--list").stdout.splitlines()
    assert lines[0].split() == ["index", "name", "differs", "state", "run"]
    assert lines[1].split() == ["0", "a-seed=1", "seed=1", "hidden=128", "done", str(tasks[0].run)]
    assert "new" in lines[2]
    assert "at step 7" in lines[4]
    rows = json.loads(dsrun("sweep", FILE, "--list", "--json", "--only", "b-*").stdout)
    assert [(row["index"], row["name"], row["state"], row["step"]) for row in rows] == [
        (2, "b-seed=1", "new", 0),
        (3, "b-seed=2", "begun", 7),
    ]
    assert rows[0]["differs"] == {"seed": 1, "model.hidden": 16}
    assert rows[0]["run"] == str(tasks[2].run)


def test_runs_of_another_set_in_the_folder_are_told_where_the_sweep_is_shown():
    leave_run(tasks_of("training.epochs=2")[0], "done")
    leave_run(tasks_of()[1], "done")
    name = tasks_of("training.epochs=2")[0].run.name
    assert f"runs/four has 1 other run than these, of another --set or of the file as it was: {name}. " in (
        dsrun("sweep", FILE, "--list").stderr
    )
    assert "1 other run" in dsrun("sweep", FILE, "--list", "--only", "b-*").stderr, "those not chosen are the sweep's"


def test_a_folder_that_takes_no_runs_is_refused_with_the_option_for_another(monkeypatch):
    monkeypatch.setattr(durable.os, "access", lambda path, mode: Path(path).name != "ro")
    Path("ro").mkdir()
    assert (
        refusal("sweep", FILE, "--folder", "ro/x")
        == "ro: dsrun cannot write there. Say where the run folders go with --folder."
    )
    Path("file").touch()
    assert "file: a file, and no folder." in refusal("sweep", FILE, "--folder", "file/x")


def test_the_list_needs_no_jax():
    code = f"import sys\nsys.argv = ['dsrun', 'sweep', '{FILE}', '--list']\n"
    code += "from dsrun.cli import app\ntry: app()\nexcept SystemExit: pass\n"
    code += "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules, 'imported'"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "b-seed=2" in found.stdout


def test_options_that_do_not_go_together_and_names_that_are_none_are_refused():
    assert refusal("sweep", FILE, "--index", "4") == f"--index 4: {FILE} has runs 0 to 3."
    assert "leave --only and --jobs out" in refusal("sweep", FILE, "--index", "1", "--only", "a*", "--jobs", "2")
    assert "--where belongs to --index" in refusal("sweep", FILE, "--where")
    assert "such as a-seed=1" in refusal("sweep", FILE, "--only", "a-seed1")
    assert "no such file" in refusal("sweep", "none.yaml")
    assert dsrun("sweep", FILE, "--index", "2", "--where").stdout.strip() == str(tasks_of()[2].run)
    assert dsrun("sweep", FILE, "--index", "2", "--where", "--folder", "f").stdout.startswith("f/b-seed=1-")


def test_an_index_that_is_over_is_no_mistake_for_a_job_array():
    first, second = tasks_of()[:2]
    leave_run(first, "done")
    leave_run(second, "failed", code=4)
    found = dsrun("sweep", FILE, "--index", "0")
    assert found.exit_code == 0
    assert "done at step 3, nothing to train" in found.stderr
    found = dsrun("sweep", FILE, "--index", "1")
    assert found.exit_code == 4
    assert "--retry tries it again" in found.stderr


def test_the_command_ends_with_a_table_the_failures_and_the_highest_code(monkeypatch):
    machine = Machine(a2=("failed", 3), b1=("failed", 4))
    monkeypatch.setattr(sweep, "start_process", lambda task, slot, **options: machine.start(task, slot))
    found = dsrun("sweep", FILE, "--set", "training.epochs=2", "--jobs", "2")
    assert found.exit_code == 4
    table = [line.split()[:5] for line in found.stdout.splitlines()]
    assert table[0] == ["index", "name", "state", "step", "dev_cer"]
    assert table[1:3] == [["0", "a-seed=1", "done", "9", "0.25"], ["1", "a-seed=2", "failed", "9", "0.25"]]
    log = tasks_of("training.epochs=2")[1].log
    alone = f"dsrun sweep {FILE} --set training.epochs=2 --index 1"
    assert f"a-seed=2: failed, exit code 3; what it said: {log}; alone: {alone}" in found.stderr
    assert "b-seed=1: diverged, exit code 4" in found.stderr
    monkeypatch.setattr(machine, "ends", {})
    document = json.loads(dsrun("sweep", FILE, "--set", "training.epochs=2", "--json", "--retry").stdout)
    assert document["exit_code"] == 0
    assert [row["state"] for row in document["runs"]] == ["done"] * 4


def test_a_dry_run_counts_and_estimates_and_writes_nothing(monkeypatch):
    described = {
        "config": FILE,
        "parameter_count": 9,
        "utterances": 8,
        "total_steps": 5,
        "batch_shapes": [1],
        "infeasible": [],
    }
    monkeypatch.setattr("dsrun.experiment.describe", lambda resolved, **options: dict(described))
    text = dsrun("sweep", FILE, "--dry-run").stdout
    assert "4 runs checked: 4 new" in text
    assert "cost: not known" in text
    assert not Path("runs").exists()
    leave_run(tasks_of()[0], "done")
    document = json.loads(dsrun("sweep", FILE, "--dry-run", "--json", "--jobs", "2").stdout)
    assert (document["left"], document["seconds_a_run"], document["seconds_left"]) == (3, 2.0, 3.0)
    assert not any(task.log.exists() or task.config.exists() for task in tasks_of())


def test_a_sweep_is_checked_like_a_config():
    assert "1 config checked" in dsrun("configs", "check", FILE).stdout
    Path(FILE).write_text(TEXT.replace("hidden", "hiden"))
    assert "did you mean 'hidden'?" in refusal("configs", "check", FILE)


# A sweep in a process of its own, whose runs are `sleep`s that leave as dsrun does after a signal.
SIGNALLED = """
import subprocess, sys
from dsrun.cli_sweep import sweep
from dsrun import sweep as trainer
from dsrun.cli import main
CHILD = '''import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130) if sys.argv[1] == "a" else None)
print("here", flush=True)
time.sleep(60)
'''
children = []
def start(task, slot, **options):
    child = subprocess.Popen([sys.executable, "-c", CHILD, task.variation.name[0]], stdout=subprocess.PIPE, process_group=0)
    child.stdout.readline()
    children.append(child)
    if len(children) == 2:
        print("ready", flush=True)
    return child
trainer.start_process = start
sys.argv = ["dsrun", "sweep", sys.argv[1], "--jobs", "2", "--only", "*seed=1"]
main()
"""


@pytest.mark.parametrize(
    ("numbers", "code", "says"),
    [
        (
            [signal.SIGTERM],
            EXIT_STOPPED,
            f"the same command goes on: dsrun sweep {FILE} --only '*seed=1'",
        ),
        ([signal.SIGINT, signal.SIGINT], EXIT_INTERRUPTED, "stopped by a second Ctrl-C"),
    ],
)
def test_a_signal_ends_the_command_in_order_and_a_second_ctrl_c_at_once(numbers, code, says):
    """At Ctrl-C one of the two runs leaves and the other does not; the second ends it."""
    begin = time.monotonic()
    words = [sys.executable, "-c", SIGNALLED, FILE]
    environment = os.environ | {"DSRUN_RESTARTED": "1"}  # `main` would replace the process to have large pages
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(numbers[0])
        for number in numbers[1:]:
            assert any("stopping: 2 before the first step, with nothing to keep" in line for line in process.stderr)
            process.send_signal(number)
        text = process.stderr.read()
        process.wait()
    assert process.returncode == code, text
    assert says in text
    assert time.monotonic() - begin < 50, "the runs, which hold the pipes, were ended"
