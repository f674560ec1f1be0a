"""Several processes train one model: same bits as one, stopped together, refused together."""

import json
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import REPOSITORY, checkpoint_digests, plain_environment, shortest_prompts, write_config, write_rows
from test_cli import dsrun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = shortest_prompts(12)
    train, dev = write_rows(folder / "train.jsonl", rows[:8]), write_rows(folder / "dev.jsonl", rows[8:])
    path = write_config(folder, train=train, dev=dev, test=dev, layers=1, epochs=6, checkpoint_every_steps=1)
    plain = json.loads(path.read_text())
    plain["batches"] |= {"shards": 4, "global_batch": 4}
    path.write_text(json.dumps(plain))
    return path


@pytest.fixture(scope="module")
def alone(config):
    run = config.parent / "alone"
    assert dsrun("train", "--config", config, "--run-dir", run, "--devices", 1).returncode == 0
    return checkpoint_digests(run)


def start(config, run, processes, *options, of_process=(), largest_file=None):
    """Processes with one device each; `of_process` are options of the last one alone, `largest_file` bytes limit files of the first."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = plain_environment()
    group = []
    for number in range(processes):
        command = [
            sys.executable,
            "-m",
            "dsrun",
            "train",
            "--config",
            str(config),
            "--run-dir",
            str(run),
            "--devices",
            "1",
        ]
        command += ["--processes", str(processes), "--process", str(number), "--coordinator", f"127.0.0.1:{port}"]
        command += [*options, *(of_process if number == processes - 1 else ())]
        group.append(
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                cwd=REPOSITORY,
            )
        )
    if largest_file is not None:
        resource.prlimit(group[0].pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    return group


def end(group):
    texts = [process.communicate(timeout=300)[1] for process in group]
    return [process.returncode for process in group], texts


def test_a_signal_to_one_process_stops_both_after_the_same_step_and_one_process_goes_on_to_the_same_bits(config, alone):
    run = config.parent / "signalled"
    group = start(config, run, 2)
    deadline = time.monotonic() + 250
    while not (run / "checkpoints" / "step_000001").is_dir():
        assert all(process.poll() is None for process in group), end(group)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    group[1].send_signal(signal.SIGTERM)
    codes, texts = end(group)
    assert codes == [75, 75], texts
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert len(checkpoint_digests(run)) < 12
    assert dsrun("train", "--config", config, "--run-dir", run, "--devices", 2).returncode == 0
    assert checkpoint_digests(run) == alone


def test_two_processes_tell_and_count_recordings_that_either_cannot_use_as_one_does(config):
    folder = config.parent / "broken"
    folder.mkdir()
    rows = shortest_prompts(8)
    rows[6]["audio_filepath"] = str(folder / "missing.ogg")
    streamed = ("--set", "data.loading=streamed", "--set", "data.unreadable=drop", "--set", "training.epochs=2")
    options = (*streamed, "--set", f"data.train={write_rows(folder / 'train.jsonl', rows)}")
    assert dsrun("train", "--config", config, "--run-dir", folder / "one", "--devices", 1, *options).returncode == 0
    codes, texts = end(start(config, folder / "two", 2, *options))
    assert codes == [0, 0], texts

    def told(run):
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        steps = [(e["step"], e["utterances"], e["audio_seconds"]) for e in events if e["event"] == "step"]
        return steps, [(e["step"], e["utterances"]) for e in events if e["event"] == "unreadable"]

    assert told(folder / "two") == told(folder / "one")
    assert len(told(folder / "one")[1]) == 2
    assert checkpoint_digests(folder / "two") == checkpoint_digests(folder / "one")


def test_four_processes_take_a_run_up_where_one_left_it(config, alone):
    run = config.parent / "taken up"
    first = dsrun("train", "--config", config, "--run-dir", run, "--set", "training.epochs=6", "--devices", 1)
    assert first.returncode == 0
    for step in sorted(checkpoint_digests(run))[-1:]:
        for path in sorted((run / "checkpoints").glob(f"step_{step:06d}/**/*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (run / "checkpoints" / f"step_{step:06d}").rmdir()
    (run / "status.json").write_text("{}")
    codes, texts = end(start(config, run, 4))
    assert codes == [0, 0, 0, 0], texts
    assert "resuming from step 11" in texts[0]
    assert checkpoint_digests(run) == alone


def test_processes_with_different_configs_are_all_refused_before_anything_is_trained(config):
    run = config.parent / "different"
    codes, texts = end(start(config, run, 2, of_process=("--set", "optimizer.learning_rate=0.001")))
    assert codes == [2, 2], texts
    assert all("the processes do not train the same thing" in text and "config: " in text for text in texts)
    assert not list((run / "checkpoints").glob("*"))


def test_what_keeps_the_leader_from_starting_is_told_to_all(config, alone):
    codes, texts = end(start(config, config.parent / "alone", 2))
    assert codes == [2, 2], texts
    assert all("complete" in text for text in texts)


def test_more_devices_than_shards_are_refused(config):
    codes, texts = end(start(config, config.parent / "many", 5))
    assert set(codes) == {2}, texts
    assert "5 processes with 1 devices each: a step has 4 shards" in texts[0]


def test_a_leader_that_fails_in_training_ends_with_its_own_code_and_nobody_waits_for_it(config):
    start_time = time.monotonic()
    codes, texts = end(start(config, config.parent / "full", 2, largest_file=30_000))
    assert codes[0] == 3, texts
    assert "could not be written" in texts[0]
    assert codes[1] != 0
    assert time.monotonic() - start_time < 200, "JAX alone would wait 300 s for the others, and then abort"
