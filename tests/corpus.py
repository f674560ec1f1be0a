"""A tiny corpus for tests: real clips of the shipped one, or generated tones, and a config for them."""

import json
import os
from pathlib import Path

import numpy as np
import soundfile

REPOSITORY = Path(__file__).parent.parent
PROMPTS = REPOSITORY / "data" / "prompts_en"


def plain_environment(*also: str) -> dict[str, str]:
    """The environment without what the tests' own process has pinned, and without `also`."""
    ours = ("XLA_FLAGS", "NPROC", "PJRT_NPROC", *also)
    return {name: value for name, value in os.environ.items() if name not in ours}


def checkpoint_digests(run: Path) -> dict[int, str]:
    """By step, as a run's events have them."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["digest"] for line in lines if line["event"] == "checkpoint"}


def shortest_prompts(count: int) -> list[dict]:
    """The shortest training utterances that have at least eight letters, absolute paths."""
    rows = [json.loads(line) for line in (PROMPTS / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = sorted((row for row in rows if len(row["text"]) >= 8), key=lambda row: (row["duration"], row["id"]))
    return [row | {"audio_filepath": str(PROMPTS / row["audio_filepath"])} for row in rows[:count]]


def write_rows(path: Path, rows: list[dict]) -> Path:
    """A manifest of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tone(path: Path, *, seconds: float = 1.0, rate: int = 16_000, channels: int = 1, **options) -> Path:
    """A tone with some noise."""
    rng = np.random.default_rng(0)
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) + 0.01 * rng.standard_normal(
        int(seconds * rate)
    )
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate, **options)
    return path


def write_alphabet(path: Path) -> Path:
    """Space, apostrophe and the 26 letters: eight clips do not have them all."""
    path.write_text("".join(f"{symbol}\n" for symbol in " 'abcdefghijklmnopqrstuvwxyz"), encoding="utf-8")
    return path


def write_config(
    folder: Path, *, train: Path, dev: Path, test: Path | None = None, layers: int = 1, **training
) -> Path:
    """A small network on the quickstart's config; three epochs unless told."""
    # Watching compiles more than these runs compute: where it is not what is tested it is off.
    quiet = {"epochs": 3, "evaluate_every_epochs": 1, "checkpoint_every_epochs": 1, "watch_every_steps": None}
    settings = quiet | training
    config = {
        "base": str(REPOSITORY / "configs" / "prompts_float32.yaml"),
        "data": {
            "train": str(train),
            "dev": str(dev),
            "test": str(test) if test else None,
            "alphabet": str(write_alphabet(folder / "alphabet.txt")),
        },
        "batches": {"global_batch": 4, "shards": 2, "buckets": 1, "frame_multiple": 12},
        "model": {
            "front_end": {"kind": "frame_stack", "stack": 3, "stride": 3, "hidden": 16},
            "hidden": 16,
            "layers": layers,
        },
        "training": settings,
    }
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path
