"""The scripts for clusters, on a machine without one: stubs of SLURM's commands and of dsrun, which write down how they were called.

What is tried is what costs a night when it is wrong: whether a job comes back, whether it comes back for ever, and whether the
signal arrives. That SLURM itself acts as its manual says is not tried here.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dsrun.record import RunDir

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "scripts"
SLURM_SCRIPTS = ("slurm_train.sh", "slurm_multinode.sh", "slurm_array.sh")

# dsrun as scripts see it. What it does is in files beside it: a step to reach, an exit code, or to wait for a signal.
FAKE_DSRUN = """#!/usr/bin/env bash
here="$(dirname "$0")"
run=run
case " $* " in
  *" --where "*) echo "$run"; exit 0 ;;
  *" --list "*) touch "$here/listed"; printf 'index  name\\n0  a\\n1  b\\n2  c\\n'; exit 0 ;;
esac
echo "$CUDA_VISIBLE_DEVICES|$*" >>"$here/dsrun.calls"
process=0
previous=
for word in "$@"; do [ "$previous" != --process ] || process=$word; previous=$word; done
say_step() { mkdir -p "$run"; printf '{\\n  "state": "%s",\\n  "step": %s\\n}\\n' "$1" "$2" >"$run/status.json"; }
leave() { echo "$1" >>"$here/dsrun.signals"; say_step stopped "$(cat "$here/step")"; exit "${2:-75}"; }
trap 'leave TERM' TERM
trap 'leave USR1' USR1
trap 'leave INT 130' INT
touch "$here/started.$process"
if [ -f "$here/wait.$process" ]; then for i in $(seq 600); do sleep 0.05; done; echo "no signal came" >&2; exit 99; fi
if [ -f "$here/stubborn.$process" ]; then trap '' TERM; for i in $(seq 600); do sleep 0.05; done; exit 98; fi
state=stopped
[ "$(cat "$here/code")" != 0 ] || state='done'
[ ! -f "$here/step" ] || say_step "$state" "$(cat "$here/step")"
exit "$(cat "$here/code.$process" 2>/dev/null || cat "$here/code")"
"""
RECORDER = """#!/usr/bin/env bash
echo "$*" >>"$(dirname "$0")/$(basename "$0").calls"
"""
# Runs its command once, as SLURM does on one node, and hands on the signals that srun hands on. A SIGTERM is no request to it.
FAKE_SRUN = """#!/usr/bin/env bash
echo "$*" >>"$(dirname "$0")/srun.calls"
while [ "${1#-}" != "$1" ]; do shift; done
"$@" &
task=$!
trap 'kill -USR1 $task' USR1
trap 'kill -KILL $task' TERM
while true; do code=0; wait $task || code=$?; kill -0 $task 2>/dev/null || break; done
wait $task
"""
FAKE_NVIDIA_SMI = """#!/usr/bin/env bash
case "$*" in *driver_version*) echo "0, NVIDIA Test, 580.1"; echo "1, NVIDIA Test, 580.1" ;; *) printf '0\\n1\\n2\\n3\\n' ;; esac
"""


class Cluster:
    """A folder of stubs in front of PATH, and an empty working folder."""

    def __init__(self, folder: Path):
        self.bin, self.folder = folder / "bin", folder / "work"
        self.bin.mkdir()
        self.folder.mkdir()
        stubs = {
            "dsrun": FAKE_DSRUN,
            "srun": FAKE_SRUN,
            "nvidia-smi": FAKE_NVIDIA_SMI,
            "sbatch": RECORDER,
            "scontrol": RECORDER,
        }
        for name, text in stubs.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.set(code=0, step=5)

    def set(self, **files):
        for name, value in files.items():
            (self.bin / name.replace("_", ".")).write_text(str(value))

    def calls(self, name):
        file = self.bin / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []

    def environment(self, **variables):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CUDA_VISIBLE"))}
        return (
            kept
            | {"PATH": f"{self.bin}:{kept['PATH']}", "DSRUN": "dsrun", "DSRUN_ROOT": str(REPOSITORY)}
            | {name: str(value) for name, value in variables.items()}
        )

    def start(self, script, *options, **variables):
        return subprocess.Popen(
            [SCRIPTS / script, *map(str, options)],
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *options, **variables):
        process = self.start(script, *options, **variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def wait_until_started(self, *processes):
        for _ in range(400):
            if all((self.bin / f"started.{process}").exists() for process in processes):
                return
            time.sleep(0.02)
        raise AssertionError("dsrun was not started")

    def status(self, step, state="stopped"):
        (self.folder / "run").mkdir(exist_ok=True)
        RunDir(self.folder / "run").write_status(state, step=step, exit_code=3, result={"step": 3, "state": "x"})


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.fixture
def runs(cluster):
    """A list with a comment, an empty line and no newline at its end."""
    file = cluster.folder / "runs.txt"
    file.write_text("# three runs\na.yaml --set seed=1\n\nb.yaml\n  --config=c.yaml --set seed=3")
    return file


def in_job(script, runs=None):
    """The arguments and variables with which SLURM starts a script as job 42."""
    if script == "slurm_array.sh":
        return [runs], {"SLURM_JOB_ID": 42, "SLURM_ARRAY_JOB_ID": 40, "SLURM_ARRAY_TASK_ID": 1}
    return ["--config", "b.yaml"], {"SLURM_JOB_ID": 42}


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_bash_parses_every_script_and_shellcheck_has_no_complaint(script):
    subprocess.run(["bash", "-n", SCRIPTS / script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here")
    result = subprocess.run(["shellcheck", "-x", f"scripts/{script}"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SLURM_SCRIPTS)
def test_sbatch_requeues_appends_and_signals_two_minutes_or_more_before_the_limit(script):
    options = [line.split()[1] for line in (SCRIPTS / script).read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--open-mode=append"} <= set(options)
    (asked,) = (option for option in options if option.startswith("--signal="))
    assert asked.startswith("--signal=B:USR1@")
    assert int(asked.partition("@")[2]) >= 120


@pytest.mark.parametrize("script", [*SLURM_SCRIPTS, "local_gpus.sh", "sweep_gpus.sh"])
def test_help_is_the_scripts_own_header(cluster, script):
    result = cluster.run(script, "--help")
    assert result.returncode == 0
    assert f"scripts/{script} " in result.stdout
    assert "#SBATCH" not in result.stdout
    assert "set -e" not in result.stdout
    assert cluster.calls("dsrun") == []


def test_print_shows_the_commands_and_runs_nothing(cluster, runs):
    result = cluster.run("slurm_train.sh", "--print", "--config", "b.yaml", "--set", "model.name=two words")
    assert "dsrun train --config b.yaml --set model.name=two\\ words" in result.stdout
    assert "#SBATCH --requeue" in result.stdout
    result = cluster.run("slurm_multinode.sh", "--print", "--config", "b.yaml", SLURM_GPUS_ON_NODE=4)
    assert "dsrun train --distributed --devices 4 --config b.yaml" in result.stdout
    assert "srun --ntasks-per-node=1" in result.stdout
    result = cluster.run("slurm_array.sh", "--print", "--at-once", 2, runs, "--set", "training.epochs=1")
    assert "0: dsrun train --config a.yaml --set seed=1 --set training.epochs=1\n" in result.stdout
    assert "2: dsrun train --config=c.yaml --set seed=3 --set training.epochs=1\n" in result.stdout
    assert f"sbatch --array=0-2%2 {SCRIPTS}/slurm_array.sh {runs} --set training.epochs=1" in result.stdout
    for command in ("dsrun", "srun", "sbatch", "scontrol"):
        assert cluster.calls(command) == []


@pytest.mark.parametrize("script", SLURM_SCRIPTS)
def test_exit_75_requeues_once_under_the_name_that_means_this_task_alone(cluster, runs, script):
    options, variables = in_job(script, runs)
    cluster.set(code=75)
    result = cluster.run(script, *options, **variables)
    assert result.returncode == 75, result.stderr
    assert cluster.calls("scontrol") == ["requeue 40_1" if script == "slurm_array.sh" else "requeue 42"]
    assert len(cluster.calls("dsrun")) == 1
    assert cluster.calls("dsrun")[0].endswith("--config b.yaml")


@pytest.mark.parametrize("script", SLURM_SCRIPTS)
@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130, 137])
def test_another_exit_code_comes_through_and_does_not_requeue(cluster, runs, script, code):
    options, variables = in_job(script, runs)
    cluster.set(code=code)
    assert cluster.run(script, *options, **variables).returncode == code
    assert cluster.calls("scontrol") == []
    assert len(cluster.calls("dsrun")) == 1


def test_a_start_without_a_step_does_not_come_back(cluster):
    cluster.set(code=75, step=5)
    cluster.status(5)
    result = cluster.run("slurm_train.sh", "--config", "b.yaml", SLURM_JOB_ID=42)
    assert result.returncode == 75
    assert cluster.calls("scontrol") == []
    assert "no step since this start" in result.stderr
    cluster.set(step=6)
    cluster.run("slurm_train.sh", "--config", "b.yaml", SLURM_JOB_ID=42)
    assert cluster.calls("scontrol") == ["requeue 42"]


def test_a_first_start_that_only_compiled_does_not_come_back(cluster):
    cluster.set(code=75, step=0)
    cluster.run("slurm_train.sh", "--config", "b.yaml", SLURM_JOB_ID=42)
    assert cluster.calls("scontrol") == []


def test_a_75_of_the_others_does_not_hide_that_the_first_process_failed(cluster):
    """With several processes srun reports the highest code: 75 of those that lost the one whose disk was full."""
    cluster.set(code=75)
    (cluster.bin / "step").unlink()
    cluster.status(9, state="failed")
    result = cluster.run("slurm_multinode.sh", "--config", "b.yaml", SLURM_JOB_ID=42)
    assert result.returncode == 3
    assert cluster.calls("scontrol") == []


def test_restarts_have_a_limit(cluster):
    cluster.set(code=75)
    result = cluster.run("slurm_train.sh", "--config", "b", SLURM_JOB_ID=42, SLURM_RESTART_COUNT=3, MAX_RESTARTS=3)
    assert result.returncode == 75
    assert cluster.calls("scontrol") == []
    assert "MAX_RESTARTS" in result.stderr
    cluster.status(1)
    cluster.run("slurm_train.sh", "--config", "b", SLURM_JOB_ID=42, SLURM_RESTART_COUNT=2, MAX_RESTARTS=3)
    assert cluster.calls("scontrol") == ["requeue 42"]


@pytest.mark.parametrize("script", SLURM_SCRIPTS)
def test_the_warning_before_the_time_limit_reaches_dsrun_and_the_job_comes_back(cluster, runs, script):
    options, variables = in_job(script, runs)
    cluster.set(wait_0="")
    process = cluster.start(script, *options, **variables)
    cluster.wait_until_started(0)
    process.send_signal(signal.SIGUSR1)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 75, text
    assert (cluster.bin / "dsrun.signals").read_text() == "USR1\n"
    assert len(cluster.calls("scontrol")) == 1


@pytest.mark.parametrize("script", SLURM_SCRIPTS)
def test_a_cancelled_job_writes_its_checkpoint_and_does_not_come_back(cluster, runs, script):
    """srun turns a SIGTERM of its own into a SIGKILL of its tasks, so it must get another signal."""
    options, variables = in_job(script, runs)
    cluster.set(wait_0="")
    process = cluster.start(script, *options, **variables)
    cluster.wait_until_started(0)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 75, text
    assert (cluster.bin / "dsrun.signals").read_text() == "USR1\n"
    assert cluster.calls("scontrol") == []


def test_a_job_that_comes_back_does_not_overwrite_what_it_made(cluster):
    options = ("--config", "b.yaml", "--overwrite")
    cluster.status(900, state="done")
    cluster.set(code=75)
    cluster.run("slurm_train.sh", *options, SLURM_JOB_ID=42)
    assert cluster.calls("scontrol") == ["requeue 42"], "step 5 of the new run is an advance over nothing, not over 900"
    cluster.run("slurm_train.sh", *options, SLURM_JOB_ID=42, SLURM_RESTART_COUNT=1)
    assert [call.endswith("--overwrite") for call in cluster.calls("dsrun")] == [True, False]


@pytest.mark.parametrize("script", SLURM_SCRIPTS)
def test_a_complete_run_is_left_alone(cluster, runs, script):
    options, variables = in_job(script, runs)
    cluster.status(900, state="done")
    assert cluster.run(script, *options, **variables).returncode == 0
    assert cluster.calls("dsrun") == []


def test_the_log_names_host_gpus_driver_and_commit(cluster):
    result = cluster.run("slurm_train.sh", "--config", "b.yaml", SLURM_JOB_ID=42)
    assert os.uname().nodename in result.stderr
    assert "GPU 1, NVIDIA Test, 580.1" in result.stderr
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    if git.returncode == 0:
        assert f"commit {git.stdout.strip()}" in result.stderr


@pytest.mark.parametrize("script", ["slurm_train.sh", "slurm_multinode.sh"])
def test_outside_of_a_job_the_way_in_is_told(cluster, script):
    result = cluster.run(script, "--config", "b.yaml")
    assert result.returncode == 2
    assert f"sbatch {SCRIPTS}/{script}" in result.stderr
    assert cluster.run(script, SLURM_JOB_ID=42).returncode == 2
    assert cluster.calls("dsrun") == []


def test_multinode_starts_one_process_a_node_that_sees_all_its_gpus(cluster):
    cluster.run(
        "slurm_multinode.sh", "--config", "b.yaml", SLURM_JOB_ID=42, SLURM_GPUS_ON_NODE=2, SLURM_CPUS_PER_TASK=6
    )
    (call,) = cluster.calls("srun")
    assert call.startswith("--ntasks-per-node=1 --cpus-per-task=6 ")
    assert "--kill-on-bad-exit=0" in call, "a process that leaves with 75 must not cut off the one that writes"
    assert call.endswith("dsrun train --distributed --devices 2 --config b.yaml")
    assert "gpus-per-task" not in call


def test_array_submits_all_lines_or_some(cluster, runs):
    assert cluster.run("slurm_array.sh", runs, "--set", "a=1").returncode == 0
    assert cluster.run("slurm_array.sh", "--only", "0,2", "--at-once", "8", runs).returncode == 0
    script = SCRIPTS / "slurm_array.sh"
    assert cluster.calls("sbatch") == [f"--array=0-2%4 {script} {runs} --set a=1", f"--array=0,2%8 {script} {runs}"]


@pytest.mark.parametrize(
    ("index", "options"), [(0, "--config a.yaml --set seed=1"), (2, "--config=c.yaml --set seed=3")]
)
def test_the_index_of_an_arrays_task_selects_its_line(cluster, runs, index, options):
    cluster.run("slurm_array.sh", runs, "--set", "x=1", SLURM_JOB_ID=1, SLURM_ARRAY_JOB_ID=1, SLURM_ARRAY_TASK_ID=index)
    assert cluster.calls("dsrun") == [f"|train {options} --set x=1"]


def test_an_index_or_a_list_that_does_not_fit_is_an_error(cluster, runs):
    job = {"SLURM_JOB_ID": 1, "SLURM_ARRAY_JOB_ID": 1}
    outside = cluster.run("slurm_array.sh", runs, SLURM_ARRAY_TASK_ID=3, **job)
    assert outside.returncode == 2
    assert "line 3" in outside.stderr
    assert "lines 0 to 2" in outside.stderr
    assert cluster.run("slurm_array.sh", "--only", "1,7", runs).returncode == 2
    assert cluster.run("slurm_array.sh", cluster.folder / "none.txt").returncode == 2
    assert cluster.run("slurm_array.sh", "--at-once", "0", runs).returncode == 2
    runs.write_text("a.yaml\na.yaml\n")
    twice = cluster.run("slurm_array.sh", runs)
    assert twice.returncode == 2
    assert "'a.yaml' stands there twice" in twice.stderr
    assert cluster.calls("dsrun") == cluster.calls("sbatch") == []


def test_an_array_of_a_sweep_trains_the_run_of_each_index(cluster):
    file = cluster.folder / "s.yaml"
    file.write_text("grid: {seed: [1, 2, 3]}\n")
    options = [file, "--set", "x=1", "--folder", "f"]
    assert cluster.run("slurm_array.sh", *options).returncode == 0
    assert cluster.calls("sbatch") == [f"--array=0-2%4 {SCRIPTS}/slurm_array.sh {file} --set x=1 --folder f"]
    shown = cluster.run("slurm_array.sh", "--print", "--only", "2", *options).stdout
    assert f"2: dsrun sweep {file} --index 2 --set x=1 --folder f\n" in shown
    assert cluster.calls("dsrun") == []
    outside = cluster.run("slurm_array.sh", "--only", "3", *options)
    assert outside.returncode == 2
    assert "run 3" in outside.stderr
    assert "runs 0 to 2" in outside.stderr
    (cluster.bin / "listed").unlink()
    cluster.set(code=75)
    job = {"SLURM_JOB_ID": 42, "SLURM_ARRAY_JOB_ID": 40, "SLURM_ARRAY_TASK_ID": 1}
    assert cluster.run("slurm_array.sh", *options, **job).returncode == 75
    assert not (cluster.bin / "listed").exists(), "each of N tasks would read the folders of all N runs"
    assert cluster.calls("dsrun") == [f"|sweep {file} --index 1 --set x=1 --folder f"]
    assert cluster.calls("scontrol") == ["requeue 40_1"]
    cluster.status(900, state="done")
    assert cluster.run("slurm_array.sh", *options, **job).returncode == 0
    assert len(cluster.calls("dsrun")) == 1


def test_a_sweep_on_the_gpus_of_a_node_hands_out_those_that_are_visible(cluster):
    result = cluster.run("sweep_gpus.sh", "s.yaml", "--set", "x=1", CUDA_VISIBLE_DEVICES="2,5")
    assert result.returncode == 0, result.stderr
    assert cluster.run("sweep_gpus.sh", "--runs", 2, "s.yaml").returncode == 0
    assert cluster.calls("dsrun") == ["2,5|sweep s.yaml --gpus 2,5 --set x=1", "|sweep s.yaml --gpus 0,1,2,3 --jobs 2"]
    shown = cluster.run("sweep_gpus.sh", "--print", "--runs", 1, "s.yaml", CUDA_VISIBLE_DEVICES="2,5")
    assert shown.stdout == "dsrun sweep s.yaml --gpus 2,5 --jobs 1\n"
    for options, text in [
        ([], "which sweep"),
        (["--runs", "3", "s.yaml"], "not shared out evenly"),
        (["-x", "s.yaml"], "comes after"),
    ]:
        refused = cluster.run("sweep_gpus.sh", *options)
        assert refused.returncode == 2
        assert text in refused.stderr
    cluster.set(wait_0="")
    (cluster.bin / "started.0").unlink()
    process = cluster.start("sweep_gpus.sh", "s.yaml")
    cluster.wait_until_started(0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_local_processes_share_the_gpus_and_one_coordinator(cluster):
    result = cluster.run("local_gpus.sh", "--processes", 2, "--port", 23456, "--config", "b.yaml", "--set", "seed=2")
    assert result.returncode == 0, result.stderr
    group = "--processes 2 --process {} --coordinator 127.0.0.1:23456 --config b.yaml --set seed=2"
    assert sorted(cluster.calls("dsrun")) == [
        f"0,1|train --devices 2 {group.format(0)}",
        f"2,3|train --devices 2 {group.format(1)}",
    ]
    assert (cluster.folder / "run.processes/process_1.log").exists()


def test_local_processes_default_to_one_a_gpu_of_those_that_are_visible(cluster):
    result = cluster.run("local_gpus.sh", "--print", "--config", "b", CUDA_VISIBLE_DEVICES="2,5")
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["CUDA_VISIBLE_DEVICES=2", "CUDA_VISIBLE_DEVICES=5"]
    ports = {line.partition("127.0.0.1:")[2].split()[0] for line in lines}
    assert len(ports) == 1
    assert cluster.calls("dsrun") == []


def test_local_processes_on_cpu_devices(cluster):
    result = cluster.run("local_gpus.sh", "--print", "--cpu", "--processes", 2, "--devices", 4, "--config", "b")
    assert all("JAX_PLATFORMS=cpu dsrun train --devices 4 --processes 2" in line for line in result.stdout.splitlines())


def test_one_local_process_needs_no_coordinator(cluster):
    cluster.run("local_gpus.sh", "--processes", 1, "--config", "b")
    assert cluster.calls("dsrun") == ["0,1,2,3|train --devices 4 --config b"]


def test_the_first_local_failure_ends_the_others_and_gives_its_exit_code(cluster):
    cluster.set(code_1=3, wait_0="", wait_2="", wait_3="")
    result = cluster.run("local_gpus.sh", "--config", "b.yaml")
    assert result.returncode == 3
    assert "process 1 ended with exit code 3" in result.stderr
    assert "process_1.log" in result.stderr
    assert (cluster.bin / "dsrun.signals").read_text() == "TERM\n" * 3


def test_a_local_process_that_hangs_after_a_failure_is_killed(cluster):
    cluster.set(code_1=4, stubborn_0="")
    begin = time.monotonic()
    result = cluster.run("local_gpus.sh", "--processes", 2, "--grace", 1, "--config", "b.yaml")
    assert result.returncode == 4
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize(
    ("number", "name", "code"), [("SIGTERM", "TERM", 75), ("SIGUSR1", "USR1", 75), ("SIGINT", "INT", 130)]
)
def test_a_signal_to_the_local_launcher_reaches_each_process_once(cluster, number, name, code):
    cluster.set(wait_0="", wait_1="")
    process = cluster.start("local_gpus.sh", "--processes", 2, "--config", "b.yaml")
    cluster.wait_until_started(0, 1)
    process.send_signal(getattr(signal, number))
    _, text = process.communicate(timeout=120)
    assert process.returncode == code, text
    assert (cluster.bin / "dsrun.signals").read_text() == f"{name}\n" * 2


def test_a_local_process_that_left_with_75_does_not_cut_off_the_one_that_writes(cluster):
    cluster.set(code_1=75, wait_0="")
    process = cluster.start("local_gpus.sh", "--processes", 2, "--grace", 0, "--config", "b.yaml")
    cluster.wait_until_started(0, 1)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--processes", "3", "--config", "b"], "not shared out evenly"),
        (["--processes", "4", "--devices", "2", "--config", "b"], "here are 4"),
        (["--cpu", "--config", "b"], "say how many processes"),
        (["--processes", "two", "--config", "b"], "a number is needed"),
        (["--config", "b", "--devices", "2"], "comes before"),
        ([], "nothing to train"),
    ],
)
def test_the_local_launcher_says_what_is_wrong(cluster, options, text):
    result = cluster.run("local_gpus.sh", *options)
    assert result.returncode == 2
    assert text in result.stderr
    assert cluster.calls("dsrun") == []
