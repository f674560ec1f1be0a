"""The script that compares layouts passes where it must, and fails where bits differ."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import REPOSITORY, shortest_prompts, write_config, write_rows


@pytest.mark.slow
def test_dropout_augmentation_and_batch_normalisation_included_bits_are_equal_on_devices_and_processes(tmp_path):
    rows = shortest_prompts(12)
    train, dev = write_rows(tmp_path / "train.jsonl", rows[:8]), write_rows(tmp_path / "dev.jsonl", rows[8:])
    config = write_config(tmp_path, train=train, dev=dev, test=dev, layers=1, epochs=3, checkpoint_every_steps=50)
    plain = json.loads(config.read_text())
    plain["batches"] |= {"global_batch": 8}
    plain["training"] |= {"epochs": 5}
    config.write_text(json.dumps(plain))
    found = tmp_path / "rows.json"
    command = [sys.executable, "scripts/same_bits.py", "--config", str(config), "--json", str(found)]
    command += ["--steps", "4", "--layouts", "1", "3", "8", "2x2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    cases = {row["case"]: row for row in json.loads(found.read_text())}
    assert len(cases) == 7
    assert len({cases[f"devices {layout}"]["last_hash"] for layout in ("1", "3", "8", "2x2")}) == 1
    assert cases["library, 4 devices against 1"]["last_hash"] != cases["devices 1"]["last_hash"]
