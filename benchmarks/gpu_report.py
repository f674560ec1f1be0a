"""What dsrun does on the device at hand, as a table, within 8 minutes: correctness first, then speed beside the fastest there is.

    python -m benchmarks.gpu_report [--tiny] [--only PART ...] [--torch-python PATH] [--json FILE]

Each part is a process of its own with a limit on its time, and its workers are further processes; `--list` says what they are. A part that
fails, or ends in a way that no program should, is a row that says so, and the next one runs all the same. What the time does not cover is
named as not run, so what matters most comes first. The time that each part took stands behind it.

Absolute times are of this device and this moment; quote them with its name, which is at the top of the table. Ratios are medians of the
ratios within a round. `--tiny` takes toy sizes, to try the script where there is no GPU: there the kernels are interpreted, and XLA's GPU
flags are parsed and have no effect.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import NO_TORCH, ROOT, in_words

BUDGET_SECONDS = 8 * 60
GRACE_SECONDS = 10  # a part that knows its limit ends by itself; this much later it is ended
WIDTH = 64


@dataclass(frozen=True)
class Part:
    """`python -m benchmarks.<module>`, and how long it may take on a GPU."""

    module: str
    seconds: int
    shows: str


# Most valuable first. The limits add up to more than the budget: few parts reach theirs, and the last ones get what is left.
PARTS = {
    "doctor": Part("gpu_runs doctor", 60, "self-check of the arithmetic, answers of the rounding kernel"),
    "twice": Part("gpu_runs twice", 120, "the same training run twice, and killed and resumed: equal digests"),
    "ctc-kernel": Part("gpu_kernels ctc", 50, "CTC as one Mosaic kernel: the scan's bits, error, time"),
    "gru-kernel": Part("gpu_kernels gru", 50, "a GRU frame as one Mosaic kernel: error, time of a frame"),
    "ceilings": Part("gpu_ceilings", 45, "products by format, copy, empty scan by how it is launched"),
    "gru": Part("gpu_gru", 110, "GRU layers by format and rung, beside torch's nn.GRU"),
    "flags": Part("gpu_flags", 90, "XLA's flags on a GRU layer and on CTC, each alone and together"),
    "ctc": Part("gpu_ctc", 50, "CTC beside torch's own kernel, cuDNN's and optax"),
    "step": Part("gpu_step", 130, "Deep Speech 2's training step by format, beside an equal PyTorch model"),
    "prompts": Part("gpu_runs prompts", 60, "the same on real speech, and where the time goes"),
    "memory": Part("gpu_runs memory", 40, "a run that does not fit is refused before its first step, with the shape"),
    "export": Part(
        "gpu_export", 60, "exported networks by format; int8 here, by its float32 twin and on a CPU: equal bits"
    ),
    "rounding": Part("gpu_runs rounding", 45, "rates of rounding"),
    "accuracy": Part("gpu_runs accuracy", 45, "CTC's gradient against float64, beside optax's"),
    "quickstart": Part("gpu_runs quickstart", 120, "float32 beside float16 and bfloat16, emulated and native"),
}


class Report:
    """Rows of (part, case, result, figures), shown as they come, and the clock."""

    def __init__(self, budget: float) -> None:
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()
        self.budget = budget

    def add(self, part: str, case: str, result: str, **figures: Any) -> None:
        """One row."""
        self.rows.append({"part": part, "case": case, "result": result, **figures})
        print(f"{case:<{WIDTH}} {result}", flush=True)

    @property
    def left(self) -> float:
        """Seconds of the budget that remain."""
        return self.budget - (time.monotonic() - self.started)


def run_part(report: Report, name: str, options: list[str]) -> None:
    """One part's rows, and what became of it."""
    part = PARTS[name]
    print(f"--- {name}: {part.shows}", flush=True)
    seconds = min(part.seconds, report.left - GRACE_SECONDS)
    if seconds < GRACE_SECONDS:
        report.add(name, name, "not run: no time left")
        return
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command(part, seconds, options),
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        # A session of its own: what is ended is the part and all its workers.
        timer = threading.Timer(seconds + GRACE_SECONDS, end, [process])
        timer.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    found = json.loads(line)
                    report.add(name, found.pop("case"), found.pop("result"), **found)
            code = process.wait()
        finally:
            is_over_time = not timer.is_alive()
            timer.cancel()
            end(process)
            process.stdout.close()
            process.wait()
        if is_over_time:
            report.add(name, name, f"stopped: its {seconds:.0f} s were over")
        elif code:
            complaints.seek(0)
            report.add(name, name, f"FAILED ({code}): {in_words(complaints.read())}")
    took = time.monotonic() - started
    report.add(name, f"{name}: seconds", f"{took:.0f}", seconds=took)


def command(part: Part, seconds: float, options: list[str]) -> list[str]:
    """The part's process, told how long it has."""
    module, *arguments = part.module.split()
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--seconds", f"{seconds:.0f}", *options]


def end(process: subprocess.Popen) -> None:
    """End a part and its workers; whoever ended already is no matter."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def facts(torch_python: str | None) -> list[tuple[str, str]]:
    """Names and versions that every figure must be quoted with. Nothing here starts JAX in this process."""
    found = [("GPU, driver, memory", _card())]
    code = (
        "import jax; d = jax.devices(); print(jax.__version__, '|', len(d), d[0].device_kind, '|', "
        "' '.join(d[0].client.platform_version.split()))"
    )
    found.append(("JAX | devices | XLA's platform", _said([sys.executable, "-c", code])))
    code = "import torch; print(torch.__version__, '| CUDA', torch.version.cuda, '| cuDNN', torch.backends.cudnn.version())"
    found.append(("torch", _said([torch_python, "-c", code]) if torch_python else NO_TORCH))
    return found


def _card() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return _said(query) if shutil.which(query[0]) else "no NVIDIA driver here"


def _said(program: list[str]) -> str:
    """A short program's first line."""
    try:
        found = subprocess.run(program, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"FAILED: {error}"
    lines = found.stdout.strip().splitlines()
    return lines[-1] if lines and not found.returncode else f"FAILED ({found.returncode}): {in_words(found.stderr)}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to try the script on a CPU")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help="these parts, in this order; see --list"
    )
    parser.add_argument("--list", action="store_true", help="say what the parts are, and run nothing")
    parser.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="time for everything (default 480)")
    parser.add_argument("--torch-python", help="interpreter that has torch; default: this one, if it has")
    parser.add_argument("--json", type=Path, help="write the rows, with all their figures, here too")
    options = parser.parse_args()
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:12} at most {part.seconds:4} s   {part.shows}")
        return
    torch_python = options.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    report = Report(options.seconds)
    for name, words in facts(torch_python):
        report.add("machine", name, words)
    passed_on = [
        *(["--tiny"] if options.tiny else []),
        *(["--torch-python", torch_python] if torch_python else []),
    ]
    for name in options.only or PARTS:
        run_part(report, name, passed_on)
        if options.json:  # after each part: whoever ends this program keeps what it found
            options.json.write_text(json.dumps(report.rows, indent=2) + "\n")
    report.add("machine", "seconds in all", f"{time.monotonic() - report.started:.0f}")
    bad = [row["case"] for row in report.rows if row["result"].startswith("FAIL")]
    report.add("machine", "rows that failed", f"{len(bad)}: {', '.join(bad)}" if bad else "none")
    if options.json:
        options.json.write_text(json.dumps(report.rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
