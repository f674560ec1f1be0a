"""Whole runs on streamed data: loose files or tar shards, one device or two, stopped or not, the bits are the same."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import checkpoint_digests, shortest_prompts, write_config, write_rows
from test_cli import dsrun

from dsrun.speech.tar_packing import pack_manifest

pytestmark = pytest.mark.slow

STREAMED = ("--set", "data.loading=streamed", "--set", "data.normalization_utterances=5")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight clips to learn from and four to choose by, loose and packed; the config names the loose ones."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = shortest_prompts(12)
    manifests = [write_rows(folder / f"{name}.jsonl", part) for name, part in (("train", rows[:8]), ("dev", rows[8:]))]
    for manifest in manifests:
        pack_manifest(manifest, folder / f"packed_{manifest.stem}", shard_mb=1)
    return write_config(folder, train=manifests[0], dev=manifests[1], epochs=3, checkpoint_every_steps=1)


@pytest.fixture(scope="module")
def finished(corpus):
    run = corpus.parent / "finished"
    result = dsrun("train", "--config", corpus, "--run-dir", run, "--devices", 1, *STREAMED)
    assert result.returncode == 0, result.stderr
    assert "mean and deviation from 5 of 8 utterances" in result.stderr
    assert len((run / "recordings.sha256").read_text().splitlines()) == 9
    return run


def test_tar_shards_on_two_devices_give_the_bits_of_loose_files_on_one_and_so_does_a_resume(corpus, finished):
    run, folder = corpus.parent / "packed", corpus.parent
    packed = [f"--set=data.{split}={folder / f'packed_{split}' / f'{split}.jsonl'}" for split in ("train", "dev")]
    command = ("train", "--config", corpus, "--run-dir", run, "--devices", 2, *STREAMED, *packed)
    assert dsrun(*command).returncode == 0
    assert checkpoint_digests(run) == checkpoint_digests(finished)
    assert set(checkpoint_digests(run)) == {1, 2, 3, 4, 5, 6}
    for step in (4, 5, 6):
        shutil.rmtree(run / "checkpoints" / f"step_{step:06d}", ignore_errors=True)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
    result = dsrun(*command)
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stderr
    assert checkpoint_digests(run) == checkpoint_digests(finished)


def test_a_recording_that_breaks_is_an_error_or_left_out_and_told_as_the_config_says(corpus):
    folder = corpus.parent / "broken"
    folder.mkdir()
    rows = shortest_prompts(8)
    shutil.copy(rows[3]["audio_filepath"], folder / "clip.ogg")
    rows[3]["audio_filepath"] = str(folder / "clip.ogg")
    content = (folder / "clip.ogg").read_bytes()
    (folder / "clip.ogg").write_bytes(content[: len(content) // 2])
    command = (
        "train",
        "--config",
        corpus,
        "--run-dir",
        folder / "run",
        *STREAMED,
        "--set",
        f"data.train={write_rows(folder / 'train.jsonl', rows)}",
    )
    result = dsrun(*command)
    assert result.returncode == 3
    assert f"utterance '{rows[3]['id']}'" in result.stderr
    assert "Traceback" not in result.stderr
    result = dsrun(*command, "--set", "data.unreadable=drop", "--overwrite")
    assert result.returncode == 0, result.stderr
    assert "epoch 3: 1 utterances left out, their recordings cannot be used" in result.stderr
    lines = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "unreadable"]
    assert len(told) == 3
    assert all(rows[3]["id"] in line["utterances"][0] for line in told)
    assert sum(line["utterances"] for line in lines if line["event"] == "step") == 3 * 7
