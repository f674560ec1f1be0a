"""The command line as a user meets it: a process, its exit code, and one message without a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dsrun.config import load_config, to_yaml
from dsrun.record import RunDir

sys.path.insert(0, str(Path(__file__).parent))
from corpus import REPOSITORY, plain_environment, shortest_prompts, write_config, write_rows, write_tone

from dsrun.cli import app, runs
from dsrun.errors import DataError, UsageError
from dsrun.record import write_atomically
from dsrun.record.runtime import RESTARTED


def dsrun(*arguments, cwd=None, **options):
    """Run `python -m dsrun`, without the test run's own flags."""
    environment = plain_environment()
    return subprocess.run(
        [sys.executable, "-m", "dsrun", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd or REPOSITORY,
        env=environment,
        timeout=300,
        **options,
    )


TOGETHER = """
import contextlib, io, json, sys
from dsrun.__main__ import main

results = []
for sys.argv in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def dsrun_together(*commands, cwd=None):
    """Several commands one after another in one process: starting one, JAX with it, takes most of the time of a short command."""
    commands = [["dsrun", *map(str, command)] for command in commands]
    environment = plain_environment() | {RESTARTED: "1"}  # a restart would begin with the first command again
    process = subprocess.run(
        [sys.executable, "-c", TOGETHER, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=cwd or REPOSITORY,
        env=environment,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr
    return [
        subprocess.CompletedProcess(command, *result)
        for command, result in zip(commands, json.loads(process.stdout), strict=True)
    ]


def require_message(result, code, *parts):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.fixture
def corpus(tmp_path):
    """Eight real clips; tests spoil them."""
    rows = shortest_prompts(8)
    return tmp_path, rows


def train(folder, rows, *options, **training):
    manifest = write_rows(folder / "train.jsonl", rows)
    dev = write_rows(folder / "dev.jsonl", shortest_prompts(2))
    config = write_config(folder, train=manifest, dev=dev, **training)
    return dsrun("train", "--config", config, "--run-dir", folder / "run", *options)


def test_help_needs_no_jax_and_teaches():
    code = (
        "import sys; sys.argv = ['dsrun', '--help']\nfrom dsrun.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    code += "assert 'jax' not in sys.modules and 'numpy' not in sys.modules, 'imported'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for verb in ("train", "eval", "transcribe", "bench", "data", "configs", "schema", "doctor", "runs"):
        assert verb in result.stdout


def test_bare_call_names_the_command_to_try_first():
    result = dsrun()
    assert result.returncode == 0
    assert "dsrun train --config configs/prompts_float32.yaml" in result.stdout


def test_help_of_train_lists_the_exit_codes_and_that_of_eval_the_empty_reference_rule():
    assert "75" in dsrun("train", "--help").stdout
    text = " ".join(dsrun("eval", "--help").stdout.split())
    assert "reference is empty adds its hypothesis as insertions" in text


def test_a_config_typo_is_named_with_line_and_suggestion(tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text(f"base: {REPOSITORY}/configs/prompts_float32.yaml\nmodel:\n  hiden: 512\n")
    result = dsrun("train", "--config", config)
    require_message(result, 2, f"{config}:3:3", "model.hiden", "did you mean 'hidden'")


def test_a_wrong_type_is_named_with_its_value(tmp_path):
    result = dsrun("train", "--config", "configs/prompts_float32.yaml", "--set", "model.layers=three")
    require_message(result, 2, "--set #1", "model.layers", "three")


def test_a_missing_config_is_named():
    require_message(dsrun("train", "--config", "configs/nope.yaml"), 2, "configs/nope.yaml")


def test_an_unknown_verb_is_bad_usage():
    assert dsrun("trian").returncode == 2


def spoil(name, folder, rows):
    """Make row 3 of a good corpus bad in one way; returns what the message must say."""
    row = rows[3]
    audio = folder / "bad.wav"
    row["audio_filepath"] = str(audio)
    row["duration"] = 1.0
    if name == "missing file":
        return "bad.wav: no such file"
    if name == "unreadable audio":
        audio.write_text("this is no audio")
        return "not an audio file"
    if name == "zero length":
        soundfile.write(audio, np.zeros(0, np.float32), 16_000)
        row["duration"] = 0.0
        return "no samples"
    if name == "truncated FLAC":
        flac = write_tone(folder / "whole.flac")
        audio = folder / "bad.flac"
        audio.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
        row["audio_filepath"] = str(audio)
        return "bad.flac"
    if name == "truncated WAV":
        whole = write_tone(folder / "whole.wav")
        audio.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        return "bad.wav"
    if name == "NaN samples":
        samples = np.zeros(16_000, np.float32)
        samples[100] = np.nan
        soundfile.write(audio, samples, 16_000, subtype="FLOAT")
        return "NaN"
    if name == "wrong rate":
        write_tone(audio, rate=44_100)
        return "44100 Hz"
    if name == "stereo":
        write_tone(audio, channels=2)
        return "2 channels"
    write_tone(audio)
    if name == "empty transcript":
        row["text"] = " "
        return "empty transcript"
    if name == "label longer than its frames":
        row["text"] = "a long text " * 10
        return "output frames"
    raise AssertionError(name)


FAULTS = (
    "missing file",
    "unreadable audio",
    "zero length",
    "truncated FLAC",
    "truncated WAV",
    "NaN samples",
    "wrong rate",
    "stereo",
    "empty transcript",
    "label longer than its frames",
)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """By fault: the end of a training on data that has it, what its message must say, and the utterance."""
    expected, commands = {}, []
    for name in FAULTS:
        folder, rows = tmp_path_factory.mktemp("bad"), shortest_prompts(8)
        expected[name] = (spoil(name, folder, rows), rows[3]["id"])
        manifest, dev = write_rows(folder / "train.jsonl", rows), write_rows(folder / "dev.jsonl", shortest_prompts(2))
        config = write_config(folder, train=manifest, dev=dev)
        commands.append(("train", "--config", config, "--run-dir", folder / "run"))
    results = dsrun_together(*commands)
    return {name: (result, *expected[name]) for name, result in zip(FAULTS, results, strict=True)}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_data_is_refused_with_its_utterance(name, refused):
    result, text, utterance = refused[name]
    require_message(result, 3, text, utterance)


def test_an_unknown_character_is_counted_and_shown(corpus):
    folder, rows = corpus
    manifest = write_rows(folder / "train.jsonl", rows)
    dev = write_rows(folder / "dev.jsonl", [rows[0] | {"text": "naïve ï"}])
    result = dsrun("train", "--config", write_config(folder, train=manifest, dev=dev), "--run-dir", folder / "run")
    require_message(result, 3, "'ï'", "2 times", rows[0]["id"], "data.unknown_characters")


def test_a_duplicate_id_is_refused_with_both_lines(corpus):
    folder, rows = corpus
    rows[5]["id"] = rows[2]["id"]
    require_message(train(folder, rows), 3, "train.jsonl:6", rows[2]["id"], "3")


def test_where_prints_the_run_folder_without_jax_and_it_is_the_dry_runs(tmp_path):
    """Scripts for clusters ask at every start whether the run has advanced."""
    options = ["--config", "configs/prompts_float32.yaml", "--set", "seed=7"]
    code = f"import sys; sys.argv = ['dsrun', 'train', '--where', *{options}]\nfrom dsrun.cli import app\n"
    code += "try: app()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules, 'imported'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    dry_run = json.loads(dsrun("train", *options, "--dry-run", "--json").stdout)
    assert result.stdout.strip() == dry_run["run_dir"]
    named = dsrun("train", *options, "--where", "--run-dir", tmp_path / "mine")
    assert named.stdout.strip() == str(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_dry_run_prints_shapes_and_writes_nothing(corpus):
    folder, rows = corpus
    rows[3]["text"] = "a long text " * 10
    result = train(folder, rows, "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["parameter_count"] == sum(row["count"] for row in report["parameters"])
    assert report["batch_shapes"][0]["rows"] == 4
    assert len(report["infeasible"]) == 1
    assert rows[3]["id"] in report["infeasible"][0]
    assert {p.name for p in folder.iterdir()} == {"train.jsonl", "dev.jsonl", "tiny.yaml", "alphabet.txt"}


def test_configs_list_show_check_and_schema():
    configs = sorted((REPOSITORY / "configs").glob("*.yaml"))
    listed, shown, checked, schema = dsrun_together(
        ("configs", "list"),
        ("configs", "show", "configs/prompts_float16_storage.yaml", "--set", "seed=7"),
        ("configs", "check", *configs),
        ("schema",),
    )
    assert "prompts_float32" in listed.stdout
    assert "--set #1" in shown.stdout
    assert "prompts_float32.yaml:" in shown.stdout
    assert checked.returncode == 0
    assert json.loads(schema.stdout)


@pytest.mark.slow
def test_doctor_checks_the_arithmetic_of_this_machine():
    result = dsrun("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0
    assert all(check["passed"] for check in report["checks"])
    assert report["facts"]["NPROC"] == "8"


def test_runs_of_an_empty_folder_say_so(tmp_path):
    assert "no run folders" in dsrun("runs", tmp_path).stderr
    require_message(dsrun("eval", tmp_path), 2, "not a run folder")
    with pytest.raises(UsageError, match="nope: no such folder"):
        runs([tmp_path / "nope"])


def test_only_train_says_that_training_goes_on_where_a_file_cannot_be_written(tmp_path, monkeypatch):
    def full(*arguments, **options):
        write_atomically(tmp_path / "nope" / "status.json", "")

    monkeypatch.setattr("dsrun.experiment.train_run", full)
    with pytest.raises(DataError, match="could not be written .* goes on from the last checkpoint"):
        app(["train", "--config", "configs/prompts_float32.yaml"], standalone_mode=False)
    with pytest.raises(DataError) as elsewhere:
        full()
    assert "checkpoint" not in str(elsewhere.value)


def test_overwrite_leaves_the_old_run_alone_where_the_new_one_cannot_start(corpus):
    folder, rows = corpus
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")
    (run / "checkpoints").mkdir()
    result = train(folder, rows, "--overwrite", "--devices", 9)
    require_message(result, 2, "--devices 9: a step has 2 shards")
    assert (run / "config.yaml").read_text() == "seed: 1\n"
    assert (run / "checkpoints").is_dir()


def test_a_test_manifest_that_is_missing_is_found_before_training(corpus):
    folder, rows = corpus
    result = train(folder, rows, "--set", f"data.test={folder / 'typo.jsonl'}", "--dry-run")
    require_message(result, 3, "typo.jsonl")


def test_resume_of_a_folder_without_a_checkpoint_is_refused(corpus):
    folder, rows = corpus
    require_message(train(folder, rows, "--resume"), 2, "nothing to resume")
    with RunDir(folder / "run") as run:  # as a kill before the first checkpoint leaves it
        run.open(to_yaml(load_config(folder / "tiny.yaml").config), command=["dsrun"])
    require_message(train(folder, rows, "--resume"), 2, "holds no checkpoint to resume from")


def test_a_path_below_a_file_is_a_message_and_not_a_traceback(corpus):
    folder, rows = corpus
    (folder / "run").write_text("")
    require_message(train(folder, rows, "--run-dir", folder / "run" / "below"), 2, "Not a directory")
    require_message(dsrun("configs", "list", folder / "nowhere"), 2, "no such folder")


def test_help_takes_under_half_a_second_of_processor_time():
    def seconds():
        start = os.times()
        assert dsrun("--help").returncode == 0
        end = os.times()
        return end.children_user + end.children_system - start.children_user - start.children_system

    assert min(seconds() for _ in range(5)) < 0.5


def test_a_group_of_processes_that_is_half_described_is_refused(tmp_path):
    cases = [
        (("--processes", 2), "--coordinator, --processes and --process go together"),
        (("--distributed", "--process", 0), "--distributed finds the other processes itself"),
        (("--processes", 2, "--process", 2, "--coordinator", "127.0.0.1:9"), "of 2 processes the last is 1"),
        (("--processes", 2, "--process", 0, "--coordinator", "here"), "write HOST:PORT"),
    ]
    command = ("train", "--config", "configs/prompts_float32.yaml", "--run-dir", tmp_path / "run")
    for result, (_, text) in zip(dsrun_together(*((*command, *more) for more, _ in cases)), cases, strict=True):
        require_message(result, 2, text)
    assert not (tmp_path / "run").exists()
