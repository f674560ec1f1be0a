"""Whole runs: train, stop, resume, evaluate, transcribe, on real clips with a tiny network."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import checkpoint_digests, plain_environment, shortest_prompts, write_config, write_rows, write_tone
from test_cli import dsrun, dsrun_together, require_message

from dsrun.evaluation.posteriors import load_posteriors
from dsrun.record.tensor_hashes import read_tensor_hashes


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = shortest_prompts(12)
    train = write_rows(folder / "train.jsonl", rows[:8])
    dev = write_rows(folder / "dev.jsonl", rows[8:])
    # Two layers: more than 100 optimizer tensors, whose names then no longer sort in their order.
    return write_config(
        folder, train=train, dev=dev, test=dev, layers=2, epochs=3, checkpoint_every_steps=1, digest_every_steps=2
    )


@pytest.fixture(scope="module")
def finished(config):
    run = config.parent / "finished"
    result = dsrun("train", "--config", config, "--run-dir", run, "--json")
    assert result.returncode == 0, result.stderr
    return run, json.loads(result.stdout)


def events(run, kind):
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_run_leaves_everything_that_is_promised(finished):
    run, report = finished
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml", "command.txt", "provenance.json", "parameters.txt", "status.json", "log.txt", "events.jsonl",
        "checkpoints", "evaluation",
    }  # fmt: skip
    steps = events(run, "step")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert set(steps[0]) >= {"loss", "grad_norm", "learning_rate", "loss_scale", "finite", "seconds"}
    assert [line["step"] for line in events(run, "eval")] == [2, 4, 6]
    assert set(events(run, "eval")[0]) >= {"manifest", "loss", "cer", "wer"}
    assert set(checkpoint_digests(run)) == {1, 2, 3, 4, 5, 6}
    hashes = read_tensor_hashes(run / "tensor_hashes.bin")
    assert hashes.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert [hashes.combined(row) for row in range(6)] == [line["state_hash"] for line in steps]
    state_digests = {line["step"]: line["state_digest"] for line in events(run, "checkpoint")}
    assert {line["step"]: line["digest"] for line in events(run, "digest")} == {
        step: state_digests[step] for step in (2, 4, 6)
    }
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    costs = json.loads((run / "costs.json").read_text())
    assert (costs["steps_per_epoch"], sum(shape["utterances"] for shape in costs["batch_shapes"])) == (2, 8)
    heard = load_posteriors(run / "evaluation" / "posteriors.npz")
    assert heard.utterances["worst"].hypothesis == report["examples"]["worst"]["hypothesis"]
    assert not list((run / "evaluation").glob(".*"))
    low, high = report["cer_interval"]
    assert low <= report["cer"] <= high
    details = (run / "evaluation" / "dev.jsonl").read_text().splitlines()
    assert len(details) == 4
    assert sum(json.loads(line)["characters"]["errors"] for line in details) == report["characters"]["errors"]


@pytest.fixture(scope="module")
def refused(config, finished, tmp_path_factory):
    """Ends of trainings that are refused, by reason, and the folder of each; one process for all."""
    run, folder = finished[0], tmp_path_factory.mktemp("refused")
    changed = stopped_copy(run, folder / "changed", lambda facts: facts["data"].update(train="0" * 64))
    other = stopped_copy(run, folder / "other", lambda facts: facts["packages"].update(jaxlib="0.0.1"))
    train = ("train", "--config", config, "--run-dir")
    before = (run / "events.jsonl").read_bytes()
    commands = {
        "finished": (*train, run),
        "config": (*train, run, "--set", "seed=99"),
        "data": (*train, changed),
        "versions": (*train, other),
    }
    results = dict(zip(commands, dsrun_together(*commands.values()), strict=True))
    assert (run / "events.jsonl").read_bytes() == before
    return results, other


def test_a_finished_run_refuses_to_be_overwritten(refused):
    require_message(refused[0]["finished"], 2, "complete", "--overwrite", "dsrun eval")


def test_another_config_in_the_same_folder_is_shown_as_a_difference(refused):
    require_message(refused[0]["config"], 2, "another config", "seed: 99")


@pytest.mark.slow
def test_the_same_command_on_one_and_two_devices_gives_the_same_digests(config, finished):
    """In another process than the finished run; these three are one after another in one."""
    run, _ = finished
    two, again, other_seed = (config.parent / name for name in ("two", "again", "other"))
    train = ("train", "--config", config, "--run-dir")
    results = dsrun_together(
        (*train, two, "--devices", 2), (*train, again, "--devices", 1), (*train, other_seed, "--set", "seed=2")
    )
    assert [result.returncode for result in results] == [0, 0, 0], results
    assert checkpoint_digests(two) == checkpoint_digests(run)
    for name in ("costs.json", "evaluation/dev.jsonl", "evaluation/posteriors.npz"):
        assert (two / name).read_bytes() == (run / name).read_bytes(), name
    assert checkpoint_digests(again) == checkpoint_digests(run)
    assert not set(checkpoint_digests(other_seed).values()) & set(checkpoint_digests(run).values())


def start_and_signal(config, run, number):
    """Start training and send a signal once the second step's checkpoint is there."""
    # It compiles for itself: a kill may leave half an entry of the tests' cache, and a resumed run must not need the same executable.
    environment = plain_environment("JAX_COMPILATION_CACHE_DIR")
    command = [sys.executable, "-m", "dsrun", "train", "--config", str(config), "--run-dir", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "step_000002").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(timeout=100), process.communicate()[1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_same_bits_as_an_uninterrupted_one(config, finished, number, code):
    run = config.parent / f"stopped{number}"
    found, error = start_and_signal(config, run, number)
    assert found == code, error
    if number != signal.SIGKILL:
        assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stderr
    assert checkpoint_digests(run) == checkpoint_digests(finished[0])
    untimed = [
        [{k: v for k, v in line.items() if "seconds" not in k} for line in events(folder, "step")]
        for folder in (run, finished[0])
    ]
    assert untimed[0] == untimed[1]
    assert all(line["state_hash"] for line in untimed[0])
    for name in ("tensor_hashes.bin", "costs.json", "evaluation/dev.jsonl", "evaluation/posteriors.npz"):
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_a_run_whose_data_changed_is_not_resumed(refused):
    require_message(refused[0]["data"], 3, "data.train has changed since the run began")


def test_eval_and_transcribe_a_finished_run(finished, tmp_path):
    run, report = finished
    official = (run / "evaluation" / "dev.jsonl").read_bytes()
    fewer = write_rows(tmp_path / "dev.jsonl", shortest_prompts(1))
    row = shortest_prompts(12)[-1]
    clip = row["audio_filepath"]
    stereo = write_tone(tmp_path / "stereo.wav", rate=44_100, channels=2)
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    *evaluated, spoken, bad, converted = dsrun_together(
        ("eval", run, "--json"),
        ("eval", run, "--checkpoint", report["step"], "--json"),
        ("eval", run, "--manifest", fewer, "--json"),
        ("eval", run, "--decoder", "beam", "--beam-width", 4, "--json"),
        ("eval", run, "--batch", 2, "--json"),
        ("transcribe", run, clip),
        ("transcribe", run, stereo, text, clip, "--strict"),
        ("transcribe", run, stereo),
    )
    assert [result.returncode for result in evaluated] == [0] * 5, evaluated
    again, older, other, beam, one_by_one = (json.loads(result.stdout) for result in evaluated)
    assert again["cer"] == report["cer"]
    assert older["details"] != again["details"]
    assert older["manifest_is_as_trained"]
    assert other["utterances"] == 1
    assert not other["manifest_is_as_trained"]
    assert (beam["decoder"]["kind"], beam["decoder"]["beam_width"]) == ("beam", 4)
    assert Path(beam["details"]).name.startswith("dev-beam-")
    assert (run / "evaluation" / "dev.jsonl").read_bytes() == official
    assert one_by_one["characters"] == report["characters"]
    assert spoken.returncode == 0, spoken.stderr
    found = {line["id"]: line["hypothesis"] for line in map(json.loads, official.splitlines())}
    assert spoken.stdout == f"{found[row['id']]}\n"
    require_message(bad, 3, "44100 Hz", "2 channels", "not an audio file")
    assert bad.stdout.startswith(str(clip))
    assert converted.returncode == 0, converted.stderr
    assert "2 channels mixed, 44100 Hz resampled" in converted.stderr


def stopped_copy(run, target, change):
    """A finished run as if it had been stopped before its last step, in other circumstances."""
    shutil.copytree(run, target)
    shutil.rmtree(target / "checkpoints" / "step_000006")
    status = json.loads((target / "status.json").read_text())
    (target / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
    facts = json.loads((target / "provenance.json").read_text())
    change(facts)
    (target / "provenance.json").write_text(json.dumps(facts))
    return target


@pytest.mark.slow
def test_a_resume_under_other_versions_is_refused_unless_told_and_the_run_is_marked(config, refused, tmp_path):
    results, stopped = refused
    require_message(results["versions"], 2, "packages.jaxlib: '0.0.1' then", "--accept-changes")
    assert json.loads((stopped / "status.json").read_text())["state"] == "stopped"
    run = shutil.copytree(stopped, tmp_path / "run")
    accepted, listed = dsrun_together(
        ("train", "--config", config, "--run-dir", run, "--accept-changes"), ("runs", tmp_path, "--json")
    )
    assert accepted.returncode == 0, accepted.stderr
    assert [(e["step"], e["changed"]["packages.jaxlib"][0]) for e in events(run, "environment")] == [(5, "0.0.1")]
    assert json.loads(listed.stdout)[0]["determinism"] == "strict, changed at 5"


@pytest.mark.slow
def test_a_run_without_determinism_is_marked_everywhere(config, tmp_path):
    run = tmp_path / "run"
    sets = ("--set", "determinism=off", "--set", "training.epochs=1")
    assert "determinism: off" in dsrun("train", "--config", config, "--dry-run", *sets).stdout
    result = dsrun("train", "--config", config, "--run-dir", run, *sets)
    assert result.returncode == 0, result.stderr
    assert "determinism off" in result.stdout
    assert "warning: determinism is off" in (run / "log.txt").read_text()
    assert json.loads((run / "status.json").read_text())["determinism"] == "off"
    facts = json.loads((run / "provenance.json").read_text())
    assert facts["determinism"] == "off"
    assert (facts["in_force"]["NPROC"], facts["in_force"]["--xla_gpu_deterministic_ops"]) == ("", "false")
    assert json.loads(dsrun("eval", run, "--json").stdout)["determinism"] == "off"
    assert json.loads(dsrun("runs", tmp_path, "--json").stdout)[0]["determinism"] == "off"


@pytest.mark.slow
def test_autotuned_on_a_cpu_has_the_bits_of_strict_and_says_so(config, finished, tmp_path):
    run = tmp_path / "a run"
    result = dsrun("train", "--config", config, "--run-dir", run, "--set", "determinism=autotuned")
    assert result.returncode == 0, result.stderr
    assert "determinism: autotuned; on a CPU nothing is autotuned, so this is strict" in (run / "log.txt").read_text()
    assert checkpoint_digests(run) == checkpoint_digests(finished[0])
    assert not list(run.glob("*autotune*"))


@pytest.mark.slow
def test_compiled_programs_are_kept_and_read_by_a_resume_alone_and_change_no_bit(config, tmp_path, finished):
    run = tmp_path / "run"
    command = ("train", "--config", config, "--set", "training.compilation_cache=true", "--run-dir")
    assert dsrun(*command, run).returncode == 0
    assert checkpoint_digests(run) == checkpoint_digests(finished[0])
    compiled = run / "compiled" / "pool_2"  # as many as shards
    assert compiled.stat().st_mode & 0o777 == (run / "compiled").stat().st_mode & 0o777 == 0o700
    written = {path.name: path.stat().st_mtime_ns for path in compiled.rglob("*-cache")}
    assert len(written) > 3  # gradient, reduction, update, evaluation
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
    shutil.rmtree(run / "checkpoints" / "step_000006")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert dsrun(*command, run).returncode == 0
    assert checkpoint_digests(run) == checkpoint_digests(finished[0])
    now = {path.name: path.stat().st_mtime_ns for path in compiled.rglob("*-cache")}
    assert written.items() <= now.items()
    assert len(now) <= len(written) + 1  # the first step of a resume finds its state elsewhere; all else is read
    result = dsrun(*command, copy)  # as if from a stranger
    assert result.returncode == 0
    assert "not read and begun anew: it was not made in this place" in result.stderr
    assert checkpoint_digests(copy) == checkpoint_digests(finished[0])
    for program in compiled.iterdir():
        program.write_bytes(b"harm")
    assert dsrun("eval", run).returncode == 0


@pytest.mark.slow
def test_recomputed_gates_train_and_the_log_says_which_code_runs(config, tmp_path):
    run = tmp_path / "run"
    sets = ("--set", "model.residuals=recompute", "--set", "training.epochs=1")
    assert dsrun("train", "--config", config, "--run-dir", run, *sets, "--json").returncode == 0
    assert "gates recomputed for the backward pass" in (run / "log.txt").read_text()
    assert events(run, "step")[-1]["finite"]


@pytest.mark.slow
def test_float16_storage_trains(config):
    run = config.parent / "float16"
    options = ("--set", "arithmetic.storage.format=float16", "--set", "arithmetic.compute.format=bf16")
    result = dsrun("train", "--config", config, "--run-dir", run, *options, "--set", "training.epochs=1")
    assert result.returncode == 0, result.stderr
    assert "float16" in (run / "parameters.txt").read_text()


def test_divergence_stops_the_run_with_its_own_exit_code(config):
    run = config.parent / "diverged"
    result = dsrun(
        "train", "--config", config, "--run-dir", run, "--set",
        "optimizer={kind: sgd, learning_rate: 1.0e+30, momentum: 0.0, nesterov: false}", "--set", "schedule={kind: constant}",
        "--set", "training.max_skipped_steps=2",
    )  # fmt: skip
    require_message(result, 4, "not finite", "Utterances:")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


@pytest.mark.slow
def test_a_run_that_begins_with_another_has_its_bits_on_two_devices_and_goes_on_when_that_one_is_gone(
    config, finished, tmp_path
):
    origin = shutil.copytree(finished[0], tmp_path / "origin")
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))
    train = ("train", "--config", config, "--set", f"init_from={origin}", "--set", "seed=4", "--run-dir")
    results = dsrun_together((*train, two, "--devices", 2), (*train, one, "--devices", 1), ("verify", one, "--json"))
    assert [result.returncode for result in results] == [0, 0, 0], results
    assert checkpoint_digests(one) == checkpoint_digests(two)
    assert json.loads(results[2].stdout)["verified_up_to"] > 0
    best = min(events(origin, "eval"), key=lambda event: event["cer"])
    (begun,) = events(one, "init_from")
    facts = json.loads((one / "provenance.json").read_text())["init_from"]
    assert facts == {"run": "origin", "step": best["step"], "digest": checkpoint_digests(origin)[best["step"]]}
    assert {name: begun[name] for name in ("step", "of_step", "digest", "loss", "cer")} == {
        "step": 0, "of_step": best["step"], "digest": facts["digest"], "loss": best["loss"], "cer": best["cer"],
    }  # fmt: skip
    shutil.rmtree(origin)
    stopped_copy(one, stopped, lambda facts: None)
    (*others, on, gone) = dsrun_together(
        ("train", "--config", config, "--set", f"init_from={origin}", "--run-dir", tmp_path / "new"),
        (*train, stopped),
        ("verify", one),
    )
    require_message(others[0], 2, "init_from", "is not a run folder")
    assert on.returncode == 0, on.stderr
    assert checkpoint_digests(stopped) == checkpoint_digests(one)
    assert len(events(stopped, "init_from")) == 1
    require_message(gone, 2, "init_from", "is not a run folder")
