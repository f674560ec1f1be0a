"""Commands that recognise, given an exported model: the same answers as the run's in that format, without the run."""

import functools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows

from dsrun import build
from dsrun.cli import app
from dsrun.config import load_config, to_yaml
from dsrun.decoding import make_decoder
from dsrun.decoding_options import DecodingOptions
from dsrun.deploy.folder import MODEL, WEIGHTS, save
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.exporting import ExportSettings, make_export
from dsrun.model import init_parameters, initial_statistics
from dsrun.models import load_model
from dsrun.record import RunDir
from dsrun.speech import Normalization, file_digest
from dsrun.trained import Trained

TRAIN, ROWS = shortest_prompts(6)[:2], shortest_prompts(6)[2:]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of forward layers that was never trained, as if its checkpoint had been read; its texts are noise."""
    folder = tmp_path_factory.mktemp("run")
    train, test = write_rows(folder / "train.jsonl", TRAIN), write_rows(folder / "test.jsonl", ROWS)
    # Eight shards: the pool of threads that the tests run with.
    shape = ["model.direction=forward", "model.lookahead=4", "batches.global_batch=8", "batches.shards=8"]
    config = load_config(write_config(folder, train=train, dev=train, test=test), shape).config
    (folder / "config.yaml").write_text(to_yaml(config))
    alphabet = build.build_alphabet(config, [])
    settings = build.build_model_settings(config, num_classes=alphabet.num_classes)
    bins = settings.num_bins
    digests = {"train": file_digest(train), "dev": file_digest(train), "test": file_digest(test)}
    (folder / "provenance.json").write_text(json.dumps({"data": digests}))
    return Trained(
        run=RunDir(folder),
        config=config,
        step=7,
        settings=settings,
        alphabet=alphabet,
        normalization=Normalization(np.full(bins, -14.0, np.float32), np.full(bins, 3.0, np.float32)),
        # Three times what training begins with: then the classes take turns, as a trained network's do.
        weights=jax.tree.map(lambda w: 3.0 * w, init_parameters(settings, 3)),
        statistics=initial_statistics(settings),
        evaluator=Evaluator(trained_pass(settings, build.build_policy(config))),
    )


@pytest.fixture(scope="module", autouse=True)
def read_checkpoint(run):
    """In place of reading the checkpoint that there is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsrun.trained.load_run", lambda path, checkpoint: run)
        patch.setattr("dsrun.exporting.load_run", lambda path, checkpoint: run)
        yield


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    """The run in int8, in a folder elsewhere."""
    folder = tmp_path_factory.mktemp("exports") / "int8"
    save(make_export(run.run.path, ExportSettings("int8")), folder, {}, overwrite=False)
    return folder


def dsrun(*arguments):
    """Standard output; errors are raised."""
    found = CliRunner().invoke(app, [*map(str, arguments)])
    if found.exception:
        raise found.exception
    return found.stdout


@pytest.fixture(scope="module")
def report(export):
    return json.loads(dsrun("eval", export, "--json"))


def hypotheses(path):
    return {row["id"]: row["hypothesis"] for row in map(json.loads, Path(path).read_text().splitlines())}


def test_an_export_is_scored_on_the_runs_test_manifest_and_says_what_it_is(export, report, run):
    assert report["export"] == str(export)
    assert (report["format"], report["step"]) == ("int8", 7)
    assert report["exported_from"] == run.run.path.name
    assert report["manifest"] == run.config.data.test
    assert report["manifest_is_as_trained"]
    assert report["details"] == str(export / "evaluation" / "test.jsonl")
    texts = hypotheses(report["details"])
    assert list(texts) == [row["id"] for row in ROWS]
    assert len(set(texts.values())) == len(ROWS)  # else nothing below could fail
    text = dsrun("eval", export)
    assert f"export    {export}  int8, of {run.run.path.name}, checkpoint step 7\n" in text
    assert "times real time, without reading and compiling" in text


def test_speed_is_audio_by_the_time_of_recognising_it(report):
    speed = report["speed"]
    assert speed["audio_seconds"] == pytest.approx(sum(row["duration"] for row in ROWS))
    assert speed["times_real_time"] == speed["audio_seconds"] / speed["recognising_seconds"]
    assert speed["compiling_seconds"] > speed["recognising_seconds"] > 0


def test_a_run_scored_in_a_format_gives_what_its_export_gives_and_leaves_no_folder(run, report):
    found = json.loads(dsrun("eval", run.run.path, "--format", "int8", "--against", report["details"], "--json"))
    folder = run.run.path
    assert (found["run"], found["format"], found["step"]) == (str(folder), "int8", 7)
    assert found["details"] == str(folder / "evaluation" / "test-int8.jsonl")
    assert Path(found["details"]).read_bytes() == Path(report["details"]).read_bytes()
    assert found["comparison"]["names"][0] == f"{folder}, checkpoint step 7, int8, greedy"
    assert found["comparison"]["cer"]["difference"] == 0
    assert not (folder / "export").exists()
    assert not (folder / "evaluation" / "posteriors.npz").exists()  # a report draws those of the run as it was trained


def test_an_export_and_its_run_are_compared_in_pairs_and_a_checkpoint_is_the_runs(export, run):
    found = json.loads(dsrun("eval", export, "--against", run.run.path, "--checkpoint", "last", "--json"))
    assert found["comparison"]["utterances"] == len(ROWS)
    assert found["comparison"]["names"] == [
        f"{export}, checkpoint step 7, int8, greedy",
        f"{run.run.path}, checkpoint step 7, greedy",
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("eval", "EXPORT", "--checkpoint", "best"), "--checkpoint best: for a run, and .* one checkpoint"),
        (("transcribe", "EXPORT", "a.wav", "--checkpoint", "7"), "--checkpoint 7: for a run"),
        (("eval", "EXPORT", "--format", "int8"), "--format int8: for a run"),
        (("eval", "RESULTS", "--against", "EXPORT", "--format", "int8"), "--format: for a run, and .* results"),
        (("eval", "NOTHING"), "not a run folder .no config.yaml.*no exported model .no model.json"),
        (("transcribe", "NOTHING", "a.wav", "--stream"), "not a run folder"),
    ],
)
def test_what_an_export_has_not_is_refused_with_the_way_out(arguments, reason, export, report, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    names = {"EXPORT": export, "NOTHING": tmp_path, "RESULTS": report["details"], "a.wav": tmp_path / "a.wav"}
    with pytest.raises(UsageError, match=reason):
        dsrun(*(names.get(word, word) for word in arguments))


def test_files_are_transcribed_as_they_are_scored(export, report):
    texts = [hypotheses(report["details"])[row["id"]] for row in ROWS]
    found = json.loads(dsrun("transcribe", export, *(row["audio_filepath"] for row in ROWS), "--json"))
    assert [one["text"] for one in found["results"]] == texts


def test_a_stream_ends_with_the_text_that_is_scored(export, report):
    row = ROWS[-1]
    lines = dsrun("transcribe", export, row["audio_filepath"], "--stream", "--json").splitlines()
    last = json.loads(lines[-1])
    assert last["text"] == hypotheses(report["details"])[row["id"]]
    assert "".join(json.loads(line)["new"] for line in lines) == last["text"]


@pytest.mark.slow
def test_one_utterance_is_drawn(export, tmp_path, report):
    found = json.loads(dsrun("eval", export, "--plot", ROWS[0]["id"], "-o", tmp_path / "a.svg", "--json"))
    assert found["hypothesis"] == hypotheses(report["details"])[ROWS[0]["id"]]
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_a_bidirectional_export_is_not_streamed_and_says_what_can_be(run, tmp_path):
    settings = replace(run.settings, direction="bidirectional", lookahead=0)
    weights = init_parameters(settings, 3)
    both = replace(run, settings=settings, weights=weights, statistics=initial_statistics(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsrun.exporting.load_run", lambda path, checkpoint: both)
        save(make_export(run.run.path, ExportSettings("float16")), tmp_path / "model", {}, overwrite=False)
    with pytest.raises(UsageError, match=r"model: cannot be transcribed with --stream: its layers are bidirectional"):
        dsrun("transcribe", tmp_path / "model", ROWS[0]["audio_filepath"], "--stream")


@pytest.fixture
def copy(export, tmp_path):
    shutil.copytree(export, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluation"))
    return tmp_path / "copy"


def rewritten(folder, **changes):
    document = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps(document | changes))


def test_a_test_manifest_that_is_not_there_any_more_is_told_with_the_way_out(copy):
    rewritten(copy, manifests={"test": {"path": "/gone/test.jsonl", "sha256": None}})
    with pytest.raises(UsageError, match=r"had /gone/test.jsonl as its test manifest.*--manifest"):
        dsrun("eval", copy)


def test_another_manifest_needs_no_run_and_has_its_own_name(copy, tmp_path):
    rewritten(copy, manifests={})
    other = write_rows(tmp_path / "other.jsonl", ROWS[:1])
    found = json.loads(dsrun("eval", copy, "--manifest", other, "--json"))
    digest = file_digest(other)[:6]
    assert found["details"] == str(copy / "evaluation" / f"other-{digest}-step_000007.jsonl")
    assert not found["manifest_is_as_trained"]
    with pytest.raises(UsageError, match="names no manifest of test or dev"):
        dsrun("eval", copy)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"source": None}, "does not say which run"),
        ({"source": {"run": "a", "step": "7"}}, "does not say which run"),
        ({"manifests": {"test": {"path": 3}}}, "does not say which run"),
        ({"manifests": {"../x": {"path": "a", "sha256": None}}}, "does not say which run"),
        ({"dsrun_export": 99}, "version 99"),
        ({"network": {}}, "network.front_end is None"),
        ({"format": "int7"}, "format is 'int7'"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
        ({"audio": {"resample": False, "channel": -1}}, "audio is"),
        ({"alphabet": {"symbols": ["a"], "normalizer": "none"}}, r"num_classes is \d+, of 1 symbols"),
    ],
)
def test_a_description_that_dsrun_does_not_write_is_refused_by_name(changes, name, copy):
    rewritten(copy, **changes)
    with pytest.raises(DataError, match=name) as caught:
        load_model(copy)
    assert str(copy / MODEL) in str(caught.value)


@pytest.mark.parametrize("value", [None, -1, 0, 1e308, "x", [], {}, 10**30, True])
@pytest.mark.parametrize("name", ["network.hidden", "network.layers", "features.hop_ms", "network.front_end.stride"])
def test_a_size_that_cannot_be_is_refused_before_anything_is_computed_from_it(name, value, copy):
    document = json.loads((copy / MODEL).read_text())
    *parts, last = name.split(".")
    functools.reduce(dict.__getitem__, parts, document)[last] = value
    (copy / MODEL).write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"{name} is "):
        load_model(copy)


def test_a_damaged_or_missing_file_is_named(copy):
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-200] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(DataError, match=rf"{WEIGHTS}: damaged, its SHA-256.*Export the run again"):
        dsrun("transcribe", copy, ROWS[0]["audio_filepath"])
    (copy / WEIGHTS).unlink()
    with pytest.raises(DataError, match=rf"{WEIGHTS}: cannot be read"):
        dsrun("eval", copy)


def test_results_are_not_written_through_a_link_that_leads_out_of_a_strangers_folder(copy, tmp_path):
    (tmp_path / "mine").mkdir()
    (copy / "evaluation").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="evaluation"):
        dsrun("eval", copy)
    assert not list((tmp_path / "mine").iterdir())


def test_the_best_weights_of_a_language_model_are_found_and_kept_beside_the_export(copy, tmp_path, run, monkeypatch):
    for name, value in {
        "LM_WEIGHTS": (0.0, 0.5),
        "WORD_BONUSES": (0.0, 1.0),
        "MOST_FURTHER": 0,
        "REFINEMENTS": 0,
    }.items():
        monkeypatch.setattr(f"dsrun.lm_tuning.{name}", value)
    arpa = tmp_path / "lm.arpa"
    arpa.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n-1\ta\n\n\\end\\\n")
    found = json.loads(dsrun("eval", copy, "--tune-lm", "--lm", arpa, "--beam-width", "2", "--json"))
    assert found["written"] == str(copy / "evaluation" / "lm.json")
    assert found["manifest"] == run.config.data.dev
    model = load_model(copy)
    decoder = make_decoder(DecodingOptions("beam"), alphabet=model.alphabet, run=model)
    assert decoder.describe()["tuned_at_step"] == 7
