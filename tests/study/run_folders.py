"""Run folders made by hand, for tests of what reads them: small, quick, with the figures that a test wants."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrun.evaluation.results import score_utterance
from dsrun.record import EventLog

ARITHMETIC = {
    "storage": {"format": "float32", "rounding": "ties_to_even"},
    "compute": {"format": "float32", "rounding": "ties_to_even"},
    "accumulate": {"format": "float32"},
    "gradient": {"format": "float32", "rounding": "ties_to_even"},
    "reduce": {"format": "float32"},
    "master": {"format": "float32"},
    "update": {"rounding": "ties_to_even", "random_bits": None, "compensation": "none"},
    "state": {"format": "float32"},
    "ctc": {"format": "float32"},
    "rules": [],
}
CONFIG = {
    "seed": 1,
    "data": {"train": "/corpus/train.jsonl", "dev": "/corpus/dev.jsonl", "test": "/corpus/test.jsonl"},
    "model": {"hidden": 16},
    "arithmetic": ARITHMETIC,
    "training": {"epochs": 4},
    "determinism": "strict",
}
FACTS = {
    "dsrun": "0.1.0",
    "determinism": "strict",
    "git": {"commit": "0123456789abcdef", "changes_sha256": None},
    "python": "3.11.7",
    "packages": {"jax": "0.10.2", "jaxlib": "0.10.2"},
    "platform": {"system": "Linux", "machine": "x86_64", "cpu": "A processor"},
    "jax": {"backend": "cpu", "device_kinds": ["cpu"]},
    "data": {"train": "a" * 64, "dev": "b" * 64, "test": "c" * 64},
}


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary with some values replaced, by dotted key."""
    copy = json.loads(json.dumps(tree))
    for key, value in values.items():
        *sections, last = key.split(".")
        node = copy
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return copy


def write_run_folder(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    steps: int = 8,
    dev_cer: Sequence[float] = (0.9, 0.6, 0.4, 0.3),
    state: str = "done",
    texts: Mapping[str, Sequence[tuple[str, str, str]]] | None = None,
    step_fields: Mapping[str, Any] | None = None,
    events: Sequence[tuple[str, int, Mapping[str, Any]]] = (),
    status: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder.

    Args:
        config, facts: values by dotted key that differ from `CONFIG` and `FACTS`.
        dev_cer: of evaluations, spread evenly over the steps.
        texts: by split, (id, reference, hypothesis) of each utterance.
        step_fields: more of each step's event. events: more events, each with its step. status: more of status.json.
    """
    folder.mkdir(parents=True)
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(with_values(CONFIG, config or {})))
    (folder / "provenance.json").write_text(json.dumps(with_values(FACTS, facts or {})))
    (folder / "command.txt").write_text("dsrun train --config configs/example.yaml\n")
    log = EventLog(folder / "events.jsonl")
    due = {max(1, round(steps * (n + 1) / len(dev_cer))): cer for n, cer in enumerate(dev_cer)}
    for step in range(1, steps + 1):
        fields: dict[str, Any] = {
            "loss": 50.0 / step,
            "grad_norm": 10.0 / step,
            "learning_rate": 1e-3,
            "loss_scale": 1.0,
            "finite": True,
            "skipped_steps": 0,
            "seconds": 0.5,
            "data_wait_seconds": 0.01,
            "epoch": (step - 1) * 4 // steps,
            "utterances": 16,
            "audio_seconds": 30.0,
        }
        log.append("step", step, **fields | dict(step_fields or {}))
        if step in due:
            log.append("eval", step, manifest="dev", loss=40.0 / step, cer=due[step], wer=min(2 * due[step], 1.0))
    for event, step, more in events:
        log.append(event, step, **more)
    log.close()
    about = {"state": state, "step": steps, "determinism": "strict"} | ({"exit_code": 0} if state == "done" else {})
    (folder / "status.json").write_text(json.dumps(about | dict(status or {})))
    for split, rows in (texts or {}).items():
        (folder / "evaluation").mkdir(exist_ok=True)
        lines = [json.dumps(score_utterance(id, said, read, 1.0).to_json()) for id, said, read in rows]
        (folder / "evaluation" / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder
