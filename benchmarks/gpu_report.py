"""What dsrun does on the device at hand, as a table: correctness first, then speed, each part in a process of its own.

A part that fails is a row that says so; the next one runs all the same. Parts that the time left does not cover are named as
not run. Absolute times are of this device and this moment; quote them with its name.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BUDGET_SECONDS = 8 * 60
ROOT = Path(__file__).parent.parent
TINY = [
    "model.front_end={kind: frame_stack, stack: 3, stride: 3, hidden: 16}",
    "model.hidden=16",
    "model.layers=1",
    "batches.buckets=1",
]
TINY_DEEP_SPEECH = ["model.hidden=16", "model.layers=1", "model.front_end.channels=2", "batches.buckets=1"]
PROMPTS = [f"data.{split}={ROOT / 'data' / 'prompts_en' / f'{split}.jsonl'}" for split in ("train", "dev", "test")]


class Report:
    """Rows of (part, result), and the clock."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def add(self, part: str, result: str) -> None:
        """One row, shown at once."""
        self.rows.append({"part": part, "result": result})
        print(f"{part:<52} {result}", flush=True)

    def left(self) -> float:
        """Seconds of the budget that remain."""
        return BUDGET_SECONDS - (time.monotonic() - self.started)


def run(report: Report, part: str, *command: str) -> str | None:
    """Output of a process, or None after a row that says what went wrong."""
    if report.left() < 20:
        report.add(part, "not run: no time left")
        return None
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=report.left(), cwd=ROOT)
    except subprocess.TimeoutExpired:
        report.add(part, "stopped: no time left")
        return None
    if found.returncode:
        report.add(part, f"FAILED ({found.returncode}): {found.stderr.strip().splitlines()[-1:]}")
        return None
    return found.stdout


def train(report: Report, part: str, config: str, folder: Path, *sets: str) -> list[dict[str, Any]] | None:
    """Events of a short training run."""
    options = [argument for value in sets for argument in ("--set", value)]
    command = [sys.executable, "-m", "dsrun", "train", "--config", config, "--run-dir", str(folder), "--json", *options]
    if run(report, part, *command) is None:
        return None
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def speed(events: list[dict[str, Any]]) -> str:
    """Utterances a second and audio seconds a second, from the median step of the second half (everything is compiled by then)."""
    steps = [event for event in events if event["event"] == "step"]
    later = steps[len(steps) // 2 :]
    utterances = statistics.median(step["utterances"] / step["seconds"] for step in later)
    audio = statistics.median(step["audio_seconds"] / step["seconds"] for step in later)
    milliseconds = statistics.median(step["seconds"] for step in later) * 1e3
    return f"{utterances:.1f} utterances/s, {audio:.0f} s of audio/s, {milliseconds:.1f} ms a step (median of {len(later)})"


def digests(events: list[dict[str, Any]]) -> list[str]:
    """Digest of each checkpoint."""
    return [event["digest"] for event in events if event["event"] == "checkpoint"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script on a CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    report = Report()
    small = TINY if options.tiny else []

    doctor = run(report, "doctor", sys.executable, "-m", "dsrun", "doctor", "--json")
    if doctor is not None:
        found = json.loads(doctor)
        report.add("device", found["facts"]["devices"])
        report.add("jax", found["facts"]["jax"])
        for check in found["checks"]:
            report.add(check["name"][:52], "PASS" if check["passed"] else f"FAIL: {check['found']}")
    accuracy = run(report, "CTC accuracy", sys.executable, "-m", "benchmarks.ctc_accuracy")
    for line in (accuracy or "").strip().splitlines():
        report.add("CTC accuracy", line.strip())

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quick = "configs/prompts_float32.yaml"
        short = [*small, "training.epochs=2", "training.evaluate_every_epochs=2", "training.checkpoint_every_epochs=1"]
        first = train(report, "quickstart float32", quick, folder / "a", *short)
        second = train(report, "quickstart float32 again", quick, folder / "b", *short)
        if first and second:
            report.add(
                "the same run twice", "equal digests" if digests(first) == digests(second) else "DIFFERENT digests"
            )
            report.add("quickstart, storage float32", speed(first))
        for format in ("float16", "bfloat16"):
            part = f"quickstart, storage {format}"
            events = train(report, part, quick, folder / format, *short, f"arithmetic.storage.format={format}")
            if events:
                report.add(part, speed(events))
        big = [*PROMPTS, *(TINY_DEEP_SPEECH if options.tiny else []), "data.cache=null", "training.epochs=1"]
        for format in ("float32", "bfloat16"):
            part = f"deep_speech_2 on the prompts, compute {format}"
            events = train(
                report,
                part,
                "configs/deep_speech_2.yaml",
                folder / f"ds2{format}",
                *big,
                f"arithmetic.compute.format={format}",
            )
            if events:
                report.add(part, speed(events))
    report.add("seconds in all", f"{time.monotonic() - report.started:.0f}")
    if options.json:
        options.json.write_text(json.dumps(report.rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
