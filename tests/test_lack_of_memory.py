"""Where there is no memory left to score a data set: known before training if the config names it, and one message otherwise."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows, write_tone

from dsrun import build
from dsrun.cli import app
from dsrun.config import load_config
from dsrun.errors import DataError, UsageError
from dsrun.lm_tuning import class_scores
from dsrun.record import RunDir
from dsrun.speech import Alphabet, Normalization
from dsrun.trained import Trained


class Full:
    """An evaluator on a device without memory."""

    def __call__(self, weights, statistics, batches, **_):
        for batch in batches:
            self.logits(weights, statistics, batch)

    def logits(self, weights, statistics, batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 GiB.\nmore")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    manifest = write_rows(tmp_path / "rows.jsonl", shortest_prompts(3))
    config = load_config(write_config(tmp_path, train=manifest, dev=manifest)).config
    alphabet = Alphabet(tuple(" 'abcdefghijklmnopqrstuvwxyz"))
    found = Trained(
        run=RunDir(tmp_path / "run"),
        config=config,
        alphabet=alphabet,
        settings=build.build_model_settings(config, num_classes=alphabet.num_classes),
        normalization=Normalization(np.zeros(161, np.float32), np.ones(161, np.float32)),
        weights={}, statistics={}, evaluator=Full(), step=7,
    ).model  # fmt: skip
    monkeypatch.setattr("dsrun.scoring.load_model", lambda path, checkpoint, **_: found)
    return found


def test_an_evaluation_that_the_allocator_refuses_is_one_message_that_says_how_to_score_with_less(trained, tmp_path):
    error = CliRunner().invoke(app, ["eval", str(tmp_path / "run")]).exception
    assert isinstance(error, UsageError)
    text = str(error)
    longest = shortest_prompts(3)[-1]["id"]
    assert text.startswith(f"out of memory while scoring {tmp_path}/rows.jsonl, its longest utterance {longest!r}")
    assert "(4 rows x " in text
    said = "RESOURCE_EXHAUSTED: Out of memory allocating 4 GiB. What helps: fewer utterances at a time"
    assert f"in a batch): {said} (dsrun eval {tmp_path}/run --batch 1), or" in text
    assert "\n" not in text
    alone = str(CliRunner().invoke(app, ["eval", str(tmp_path / "run"), "--batch", "1"]).exception)
    assert "What helps: the longest utterances cut or left out, or a device with more free memory." in alone


def test_so_is_what_tuning_asks_of_the_network(trained, tmp_path):
    with pytest.raises(UsageError, match=r"^out of memory while scoring .*\(2 rows x .*--batch 1"):
        class_scores(trained, tmp_path / "rows.jsonl", batch=2)


@pytest.mark.parametrize("loading", ["memory", "streamed"])
def test_the_shapes_of_the_test_set_are_known_before_training(tmp_path, loading):
    rows = shortest_prompts(3)
    write_tone(tmp_path / "lecture.wav", seconds=9.0)
    lecture = {"audio_filepath": "lecture.wav", "duration": 9.0, "text": "a", "id": "lecture"}
    short = write_rows(tmp_path / "rows.jsonl", rows)
    test = write_rows(tmp_path / "test.jsonl", [*rows, lecture])
    path = write_config(tmp_path, train=short, dev=short, test=test)
    data = build.build_training_data(load_config(path, [f"data.loading={loading}"]).config)
    (shape,) = data.test_shapes
    assert (shape.source, shape.longest) == ("data.test", "lecture")
    assert shape.wordiest in {row["id"] for row in rows}
    assert 900 <= shape.frames < 924
    none = load_config(path, [f"data.loading={loading}", "data.test=null"]).config
    assert build.build_training_data(none).test_shapes == ()


@pytest.mark.parametrize("loading", ["memory", "streamed"])
def test_a_manifest_of_which_nothing_is_left_is_named_with_the_reason_and_the_way_out(tmp_path, loading):
    rows = shortest_prompts(2)
    train = write_rows(tmp_path / "train.jsonl", rows)
    silent = write_rows(tmp_path / "silent.jsonl", [row | {"text": " "} for row in rows])
    endless = write_rows(tmp_path / "endless.jsonl", [row | {"text": 200 * "ab "} for row in rows])

    def refusal(**manifests):
        path = write_config(tmp_path, **({"train": train, "dev": train} | manifests))
        sets = [f"data.loading={loading}", "data.empty_transcript=drop", "data.infeasible=drop"]
        with pytest.raises(DataError) as caught:
            build.build_training_data(load_config(path, sets).config)
        return str(caught.value)

    assert refusal(dev=silent) == (
        f"{silent}: no utterances are left: each of the 2 has an empty transcript, and data.empty_transcript is drop. Write what is said, "
        "or set it to keep."
    )
    text = refusal(train=endless)
    assert text.startswith(f"{endless}: no utterances are left: CTC can align none of the 2. The first, ")
    assert "needs 599 output frames and has " in text
