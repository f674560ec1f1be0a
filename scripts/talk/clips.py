"""Which recording the recogniser is shown with: the test utterance of median length, chosen before anything was recognised."""

import json
from pathlib import Path
from typing import Any

from scripts.talk.claims import MissingError


def test_utterance(run: Path) -> dict[str, Any]:
    """The manifest's row, of the run's test set.

    Raises:
        MissingError: the run or its data are not there.
    """
    manifest = _manifest(run / "config.yaml")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    ranked = sorted(rows, key=lambda row: (row["duration"], row["audio_filepath"]))
    return ranked[len(ranked) // 2] | {"folder": str(manifest.parent)}


def test_clip(run: Path) -> Path:
    """Its recording."""
    row = test_utterance(run)
    return Path(row["folder"]) / row["audio_filepath"]


def _manifest(config: Path) -> Path:
    from dsrun.inspection import read_values

    if not config.is_file():
        raise MissingError(f"{config.parent}: not trained yet")
    manifest = Path(str(read_values(config.parent)["data.test"]))
    if not manifest.is_file():
        raise MissingError(f"{manifest}: the run's test manifest is not here")
    return manifest
