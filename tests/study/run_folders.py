"""Run folders made by hand, for tests of what reads them: small, quick, with the figures that a test wants."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.evaluation.results import score_utterance
from dsrun.record import EventLog
from dsrun.record.magnitudes import BIAS, FIELDS, Magnitudes

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


FORMATS = {  # smallest positive, smallest normal and largest number
    "float32": (2.0**-149, 2.0**-126, 3.4028234663852886e38),
    "float16": (2.0**-24, 2.0**-14, 65504.0),
    "bfloat16": (2.0**-133, 2.0**-126, 3.3895313892515355e38),
    "fixed_q6.10": (2.0**-10, math.nan, 32.0),
    "int8": (math.nan, math.nan, math.nan),
}


def magnitudes_of(step: int, tensors: Sequence[Mapping[str, Any]], *, loss_scale: float = 1.0) -> Magnitudes:
    """A watched step's table.

    Args:
        tensors: each with `path`, `kind`, `format`, `counts` (number of values by exponent, e.g. {-3: 100}) and, where they are not 0,
            `zeros`, `nans`, `flushed`, `subnormal`, `overflowed`, `updates`, `changed`, `swallowed`. NaNs are counted besides.
    """
    fields = np.zeros((len(tensors), FIELDS), np.int64)
    for row, tensor in zip(fields, tensors, strict=True):
        for exponent, count in tensor["counts"].items():
            row[exponent + BIAS] += count
        row[0] += tensor.get("zeros", 0)
        row[-1] += tensor.get("nans", 0)
    limits = np.array([FORMATS[tensor["format"]] for tensor in tensors], float)
    ends = [sorted(tensor["counts"]) or [math.nan] for tensor in tensors]
    counts = ("zeros", "nans", "flushed", "subnormal", "overflowed", "updates", "changed", "swallowed")
    return Magnitudes(
        step=step,
        loss_scale=loss_scale,
        **{name: np.array([str(tensor[name]) for tensor in tensors]) for name in ("path", "kind", "format")},
        role=np.array([ROLE_OF[tensor["kind"]] for tensor in tensors]),
        smallest_positive=limits[:, 0],
        smallest_normal=limits[:, 1],
        largest=limits[:, 2],
        fields=fields,
        smallest_seen=np.array([2.0 ** float(end[0]) for end in ends], np.float32),
        largest_seen=np.array([1.5 * 2.0 ** float(end[-1]) for end in ends], np.float32),
        **{name: np.array([tensor.get(name, 0) for tensor in tensors], np.int64) for name in counts},
    )


ROLE_OF = {
    "weight": "storage",
    "activation": "storage",
    "error": "gradient",
    "weight_gradient": "gradient",
    "gradient_sum": "reduce",
    "update": "update",
    "moment": "state",
    "master": "master",
}


def write_watched_run(folder: Path, tables: Sequence[Magnitudes], **options: Any) -> Path:
    """A run folder whose watched steps left these tables, and the events that tell of them; `options` of `write_run_folder`."""
    watches = [("watch", table.step, table.summary()) for table in tables]
    write_run_folder(folder, events=[*watches, *options.pop("events", ())], **options)
    for table in tables:
        table.save(folder / "magnitudes")
    return folder


def network_tensors(
    format: str = "float16", *, layers: int = 1, shift: int = 0, values: int = 1000, **of_updates: int
) -> list[dict[str, Any]]:
    """Tensors of a small network: every kind in every layer, a peak at 2**-3 (errors: 2**-10) whose share halves with each binade below.

    Args:
        shift: binades by which errors, gradients and updates are larger.
        of_updates: `changed`, `swallowed` of every update, of 10 `updates`.
    """
    names = ["front_end", *(f"gru_{n}" for n in range(layers)), "output"]
    peak = {-3 - n: max(values >> n, 1) for n in range(12)}
    small = {exponent - 7 + shift: count for exponent, count in peak.items()}
    tensors: list[dict[str, Any]] = [{"path": "features", "kind": "activation", "format": format, "counts": peak}]
    tensors += [
        {"path": f"{n}.output", "kind": "activation", "format": format, "counts": peak, "zeros": values} for n in names
    ]
    tensors += [{"path": f"{n}.output", "kind": "error", "format": format, "counts": small} for n in names]
    for kind, counts in (("weight", peak), ("weight_gradient", small), ("gradient_sum", small)):
        tensors += [{"path": f"{n}.w", "kind": kind, "format": format, "counts": counts} for n in names]
    updates = {"updates": 10, "changed": 10, "swallowed": 0} | of_updates
    return tensors + [{"path": f"{n}.w", "kind": "update", "format": format, "counts": small, **updates} for n in names]
