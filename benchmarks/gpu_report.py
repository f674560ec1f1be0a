"""What dsrun does on the device at hand, as a table: correctness first, then speed, each part in a process of its own.

The self-check (with the answers file of the rounding kernel), CTC's accuracy, the same run twice, rates of rounding, and step times and
bytes: float32 beside float16 and bfloat16, emulated (values on the grid in float32 arrays) and native (arrays of the
format's own dtype).

A part that fails is a row that says so; the next one runs all the same. Parts that the time left does not cover are named as
not run, so what matters most comes first. Absolute times are of this device and this moment; quote them with its name.
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
# Errors have the dtype of what they are errors of in a native network, so the emulated one beside it rounds them too. The loss scale
# keeps float16's gradients finite.
NARROW_ROLES = ("storage", "compute", "gradient")
LOSS_SCALE = "arithmetic.loss_scale={kind: dynamic}"
PROMPTS = [f"data.{split}={ROOT / 'data' / 'prompts_en' / f'{split}.jsonl'}" for split in ("train", "dev", "test")]


class Report:
    """Rows of (part, result), and the clock."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def add(self, part: str, result: str) -> None:
        """One row, shown at once."""
        self.rows.append({"part": part, "result": result})
        print(f"{part:<80} {result}", flush=True)

    def left(self) -> float:
        """Seconds of the budget that remain."""
        return BUDGET_SECONDS - (time.monotonic() - self.started)


def run(report: Report, part: str, *command: str, accept: tuple[int, ...] = (0,)) -> str | None:
    """Output of a process, or None after a row that says what went wrong."""
    if report.left() < 20:
        report.add(part, "not run: no time left")
        return None
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=report.left(), cwd=ROOT)
    except subprocess.TimeoutExpired:
        report.add(part, "stopped: no time left")
        return None
    if found.returncode not in accept or not found.stdout:
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


def arithmetic(format: str, carrier: str) -> list[str]:
    """Settings of a network in this format; float32 is what the configs say."""
    if format == "float32":
        return []
    roles = [f"arithmetic.{role}.format={format}" for role in NARROW_ROLES]
    return [*roles, f"arithmetic.carrier={carrier}", LOSS_SCALE]


def self_check(report: Report) -> None:
    """The rows of `dsrun doctor`; it exits with 1 where one of them fails."""
    doctor = run(report, "doctor", sys.executable, "-m", "dsrun", "doctor", "--json", accept=(0, 1))
    if doctor is None:
        return
    found = json.loads(doctor)
    report.add("device", found["facts"]["devices"])
    report.add("jax", found["facts"]["jax"])
    for check in found["checks"]:
        wanted = f", expected {check['expected']}" if check["status"] == "FAIL" else ""
        report.add(check["name"], f"{check['status']}: {check['found']}{wanted}")


def rounding_rates(report: Report, *, values: int, rounds: int) -> None:
    """Each contender's rate, and whether the bounds hold that are stated for two CPU cores."""
    sizes = ["--values", str(values), "--rounds", str(rounds)]
    output = run(report, "rounding", sys.executable, "-m", "benchmarks.rounding", "--json", *sizes)
    if output is None:
        return
    found = json.loads(output)
    for row in found["rows"]:
        rate, ratio = row["million_values_per_second"][1], row["rate_to_reference"][1]
        report.add(
            f"rounding {values:,} values: {row['name']}",
            f"{rate:.0f} million a second, {ratio:.2f} of reduce_precision's",
        )
    missed = [f"{claim['claim']} {claim['quartiles'][1]:.2f}" for claim in found["claims"] if not claim["held"]]
    report.add(
        "rounding: bounds", f"{len(found['claims']) - len(missed)} of {len(found['claims'])} held; not: {missed}"
    )


def footprint(report: Report, part: str, config: str, *sets: str) -> str:
    """Megabytes of weights, gradients and state, by what the dry run says of the format's arrays."""
    options = [argument for value in sets for argument in ("--set", value)]
    output = run(
        report,
        f"{part}: bytes",
        sys.executable,
        "-m",
        "dsrun",
        "train",
        "--config",
        config,
        "--dry-run",
        "--json",
        *options,
    )
    if output is None:
        return "bytes unknown"
    sizes = json.loads(output)["bytes"]
    each = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
    return f"{sum(sizes.values()) / 1e6:.1f} MB ({each})"


def step_and_bytes(
    report: Report, name: str, config: str, folder: Path, variants: list[tuple[str, str]], *sets: str
) -> None:
    """A short run for each (format, carrier): step time, rate and bytes."""
    for format, carrier in variants:
        part = f"{name}, {format}{'' if format == 'float32' else f' {carrier}'}"
        own = [*sets, *arithmetic(format, carrier)]
        events = train(report, part, config, folder / f"{format}-{carrier}", *own)
        if events:
            report.add(part, speed(events))
            report.add(f"{part}: bytes", footprint(report, part, config, *own))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script on a CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    report = Report()
    small = TINY if options.tiny else []

    self_check(report)
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
            report.add("quickstart, float32", speed(first))
        big = [*PROMPTS, *(TINY_DEEP_SPEECH if options.tiny else []), "data.cache=null", "training.epochs=1"]
        narrow = [("bfloat16", "native"), ("bfloat16", "emulated"), ("float16", "native"), ("float16", "emulated")]
        step_and_bytes(
            report,
            "Deep Speech 2 on the prompts",
            "configs/deep_speech_2.yaml",
            folder / "deep_speech",
            [("float32", "emulated"), *narrow],
            *big,
        )
        # 100 million values: a GPU rounds 10 million in the time that a call takes.
        rounding_rates(report, values=10**6 if options.tiny else 10**8, rounds=5 if options.tiny else 15)
        accuracy = run(report, "CTC accuracy", sys.executable, "-m", "benchmarks.ctc_accuracy")
        for line in (accuracy or "").strip().splitlines():
            report.add("CTC accuracy", line.strip())
        step_and_bytes(report, "quickstart", quick, folder / "quickstart", narrow, *short)
    report.add("seconds in all", f"{time.monotonic() - report.started:.0f}")
    if options.json:
        options.json.write_text(json.dumps(report.rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
