"""Evaluating a trained run: the same texts however its test set is cut into batches; compared, as a page, drawn."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import shortest_prompts, write_config, write_rows
from test_cli import dsrun


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    rows = shortest_prompts(20)
    train, test = write_rows(folder / "train.jsonl", rows[:8]), write_rows(folder / "test.jsonl", rows)
    config = write_config(folder, train=train, dev=train, test=test, epochs=60, evaluate_every_epochs=60)
    result = dsrun("train", "--config", config, "--run-dir", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.mark.slow
def test_training_leaves_the_results_of_its_best_checkpoint_on_dev_that_eval_writes(run):
    left = (run / "evaluation" / "train.jsonl").read_bytes()  # dev is train here
    (run / "evaluation" / "train.jsonl").unlink()
    heard = (run / "evaluation" / "posteriors.npz").read_bytes()
    assert dsrun("eval", run, "--manifest", run.parent / "train.jsonl").returncode == 0
    assert (run / "evaluation" / "train.jsonl").read_bytes() == left
    assert (run / "evaluation" / "posteriors.npz").read_bytes() == heard  # of test, and left alone


@pytest.mark.slow
def test_hypotheses_are_the_same_texts_for_batches_of_1_4_and_16_and_for_other_buckets(run, tmp_path):
    texts = {}
    for batch in (1, 4, 16):
        texts[batch] = hypotheses(run, "--batch", batch)
    written = (run / "config.yaml").read_text(encoding="utf-8")
    for buckets, multiple in [(1, 60), (6, 3)]:
        other = tmp_path / f"buckets_{buckets}"
        shutil.copytree(run, other)
        changed = written.replace("buckets: 1", f"buckets: {buckets}")
        changed = changed.replace("frame_multiple: 12", f"frame_multiple: {multiple}")
        assert changed != written
        (other / "config.yaml").write_text(changed, encoding="utf-8")
        texts[buckets, multiple] = hypotheses(other)
    assert len("".join(texts[1].values())) > 20, texts[1]  # a network that writes nothing would pass
    assert all(found == texts[1] for found in texts.values())


@pytest.mark.slow
def test_a_trained_run_is_compared_with_another_written_as_a_page_and_drawn(run, tmp_path):
    page, figure = tmp_path / "page.html", tmp_path / "utterance.svg"
    shutil.copytree(run, tmp_path / "other")
    result = dsrun("eval", run, "--against", tmp_path / "other", "--html", page, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["comparison"]["cer"]["verdict"] == "no difference seen"
    assert report["comparison"]["differing"] == []
    assert report["by_length"]
    assert all(id in page.read_text(encoding="utf-8") for id in hypotheses(run))
    id = next(iter(hypotheses(run)))
    result = dsrun("eval", run, "--plot", id, "-o", figure, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["hypothesis"] == hypotheses(run)[id]
    assert b"<svg" in figure.read_bytes()


def hypotheses(run, *options) -> dict[str, str]:
    result = dsrun("eval", run, "--json", *options)
    assert result.returncode == 0, result.stderr
    lines = Path(json.loads(result.stdout)["details"]).read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["hypothesis"] for row in map(json.loads, lines)}
