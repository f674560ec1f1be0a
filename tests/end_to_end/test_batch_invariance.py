"""A trained run's error rates do not depend on how its test set is cut into batches."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import shortest_prompts, write_config, write_rows
from test_cli import dsrun


@pytest.mark.slow
def test_hypotheses_are_the_same_texts_for_batches_of_1_4_and_16_and_for_other_buckets(tmp_path):
    rows = shortest_prompts(20)
    train, test = write_rows(tmp_path / "train.jsonl", rows[:8]), write_rows(tmp_path / "test.jsonl", rows)
    config = write_config(tmp_path, train=train, dev=train, test=test, epochs=60, evaluate_every_epochs=60)
    run = tmp_path / "run"
    result = dsrun("train", "--config", config, "--run-dir", run)
    assert result.returncode == 0, result.stderr
    texts = {}
    for batch in (1, 4, 16):
        texts[batch] = hypotheses(run, "--batch", batch)
    written = (run / "config.yaml").read_text(encoding="utf-8")
    for buckets, multiple in [(1, 60), (6, 3)]:
        other = tmp_path / f"buckets_{buckets}"
        shutil.copytree(run, other)
        changed = written.replace("buckets: 1", f"buckets: {buckets}").replace(
            "frame_multiple: 12", f"frame_multiple: {multiple}"
        )
        assert changed != written
        (other / "config.yaml").write_text(changed, encoding="utf-8")
        texts[buckets, multiple] = hypotheses(other)
    assert len("".join(texts[1].values())) > 50, texts[1]  # a network that writes nothing would pass
    assert all(found == texts[1] for found in texts.values())


def hypotheses(run, *options) -> dict[str, str]:
    result = dsrun("eval", run, "--json", *options)
    assert result.returncode == 0, result.stderr
    lines = Path(json.loads(result.stdout)["details"]).read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["hypothesis"] for row in map(json.loads, lines)}
