"""`dsrun export`: from a run to a folder that recognises, what each layer costs, and what its user can get wrong.

The network is small and was never trained; the run's checkpoint is put in its place, so that nothing is trained here.
"""

import json
import sys
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from dsrun import build, exporting
from dsrun.cli import app
from dsrun.cli_export import Format, Granularity, Method
from dsrun.config import load_config
from dsrun.deploy import codes
from dsrun.deploy.folder import load
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import init_parameters, initial_statistics
from dsrun.record import RunDir
from dsrun.speech import Alphabet, Normalization
from dsrun.trained import Trained

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = write_rows(folder / "train.jsonl", shortest_prompts(3))
    config = load_config(write_config(folder, train=rows, dev=rows), []).config
    alphabet = Alphabet(tuple(" abcdefghijklmnopqrstuvwxyz'"))
    settings = build.build_model_settings(config, num_classes=alphabet.num_classes)
    weights = jax.tree.map(lambda w: 3.0 * w, init_parameters(settings, 3))
    normalization = Normalization(*(np.full(settings.num_bins, x, np.float32) for x in (-14.0, 3.0)))
    evaluator = Evaluator(trained_pass(settings, build.build_policy(config)))
    return Trained(
        RunDir(folder), config, 7, settings, alphabet, normalization, weights, initial_statistics(settings), evaluator
    )


@pytest.fixture
def export(run, tmp_path, monkeypatch):
    """Calls the command on the run; what it printed on stdout, errors raised."""
    monkeypatch.setattr(exporting, "load_run", lambda path, checkpoint: run)

    def call(*arguments):
        words = ["export", str(run.run.path), "-o", str(tmp_path / "model"), *map(str, arguments)]
        found = CliRunner().invoke(app, words)
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return call


def test_the_commands_choices_are_the_rooms():
    assert get_args(Format) == codes.FORMATS
    assert get_args(Granularity) == codes.GRANULARITIES
    assert get_args(Method) == codes.METHODS


@pytest.mark.slow
def test_an_export_scores_each_layer_and_says_what_it_is(export, run, tmp_path):
    dev = run.config.data.dev
    report = json.loads(export("--format", "int4", "--scored-on", dev, "--json").stdout)
    folder = tmp_path / "model"
    losses = report["layer_losses"]
    assert losses["layers"].keys() == {layer["product"] for layer in report["layers"]}
    assert sum(row["ctc_loss_share"] for row in losses["layers"].values()) == pytest.approx(1.0)
    assert losses["all"]["loss"] != losses["float32"]["loss"]
    assert report["bytes"]["ratio"] == pytest.approx(0.13, abs=0.06)
    assert report["is_exact"]
    assert report["calibration"]["utterances"] == 3
    card = (folder / "MODEL_CARD.md").read_text()
    assert "CC" in card or "unknown: there is no licence file" in card
    assert all(f"| {path} |" in card for path in losses["layers"])
    assert (folder / "layers.svg").read_bytes().startswith(b"<?xml")
    assert json.loads((folder / "model.json").read_text())["layer_losses"] == losses
    assert load(folder).format == "int4"


@pytest.mark.slow
def test_a_layers_table_is_printed_and_the_same_export_twice_is_the_same_bytes(export, tmp_path):
    settings = ("--format", "int8", "--no-layers", "--granularity", "channel", "--method", "mse")
    text = export(*settings).stdout
    rows = [line for line in text.splitlines() if line.startswith(("front_end", "gru_", "output"))]
    assert all(" to " in row for row in rows), "a scale for each channel"
    assert f"next: dsrun eval {tmp_path / 'model'}" in text
    first = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    export(*settings, "--overwrite")
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == first


def test_what_cannot_be_exported_is_refused_before_the_work(export, tmp_path, run):
    for arguments, error, words in (
        (("--scored-on", "x.jsonl", "--no-layers"), UsageError, "leave one of them out"),
        (("--scored-on", tmp_path / "none.jsonl"), UsageError, "none.jsonl to score layers on"),
        (("--calibration", tmp_path / "none.jsonl", "--no-layers"), UsageError, "none.jsonl to calibrate on"),
        (
            ("--calibration", tmp_path / "none.jsonl", "--scored-on", tmp_path / "gone.jsonl"),
            UsageError,
            r"none\.jsonl to calibrate on .*; .*gone\.jsonl to score layers on",
        ),
    ):
        with pytest.raises(error, match=words):
            export("--format", "int8", *arguments)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        export("--format", "int8", "--calibration", tmp_path / "empty.jsonl", "--no-layers")
    assert export("--format", "int3").exit_code == 2
    assert not (tmp_path / "model").exists()


def test_a_run_that_is_none_is_refused(tmp_path):
    found = CliRunner().invoke(app, ["export", str(tmp_path), "--format", "float16"])
    assert isinstance(found.exception, UsageError)
    assert "not a run folder" in str(found.exception)
