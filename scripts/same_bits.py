"""The same bits: the first steps of real configs on every number of devices and processes, compared step by step.

    python scripts/same_bits.py                                      three configs, 30 steps, 1, 2, 3, 4, 8 devices, 2 and 4 processes
    python scripts/same_bits.py --config my.yaml --layouts 1 2 2x1 --steps 5 --shards 2 --json bits.json

A layout is a number of devices of one process, or processes x devices of each. Every layout trains in a run folder of its own until
its first steps are recorded, and is then killed. Equal are the hashes of every tensor of the state after each step: weights, moments,
statistics, loss scale, counters. Beside the layouts:

    surroundings   one core, another PYTHONHASHSEED, no loader thread: must be equal
    pool           NPROC set from outside to another size: must be refused (exit code 2), since it would change bits
    library        the library's all-reduce on 1 and on 4 devices: must differ, or the comparison could not fail

The devices are those of this machine; without GPUs, CPU devices. Exit code 1 if something is not as it must be.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.record.run_dir import RunDir
from dsrun.record.tensor_hashes import read_tensor_hashes

REPOSITORY = Path(__file__).parent.parent
CONFIGS = [
    REPOSITORY / "configs" / f"prompts_{name}.yaml" for name in ("float32", "float16_storage", "bfloat16_stochastic")
]
LAYOUTS = ["1", "2", "3", "4", "8", "2x2", "4x2"]
LONGEST = 1500.0  # seconds for one layout


@dataclass(frozen=True)
class Row:
    """What one layout gave, and whether that is as it must be."""

    config: str
    case: str
    steps: int
    last_hash: str
    expected: str
    is_as_expected: bool
    seconds: float


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", type=Path, metavar="FILE", help="config; may be repeated")
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, help=f"default {' '.join(LAYOUTS)}")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shards", type=int, default=8, help="batches.shards, at least the devices of a layout")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for dsrun train")
    parser.add_argument("--only-layouts", action="store_true", help="leave surroundings, pool and library out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsrun-same-bits-") as folder:
        bench = Bench(Path(folder), options.steps, options.shards, options.set)
        rows: list[Row] = []
        for config in options.config or CONFIGS:
            rows += bench.layouts(config, options.layouts)
        if not options.only_layouts:
            rows += bench.others((options.config or CONFIGS)[0])
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    good = sum(row.is_as_expected for row in rows)
    print(f"{good} of {len(rows)} as they must be")
    sys.exit(0 if good == len(rows) else 1)


class Bench:
    """Runs layouts in a folder."""

    def __init__(self, folder: Path, steps: int, shards: int, sets: Sequence[str]):
        self.folder, self.steps = folder, steps
        self.sets = [
            f"batches.shards={shards}",
            "training.watch_every_steps=null",
            "training.hash_every_steps=1",
            *sets,
        ]
        self.count = 0

    def layouts(self, config: Path, layouts: Sequence[str]) -> list[Row]:
        """A row for each layout, equal to the first."""
        first: np.ndarray | None = None
        rows = []
        for layout in layouts:
            words, seconds = self.train(config, layout)
            first = words if first is None else first
            rows.append(self._row(config, f"devices {layout}", words, first, seconds, must_be_equal=True))
        return rows

    def others(self, config: Path) -> list[Row]:
        """What surrounds a run, and the two that must not pass."""
        plain, _ = self.train(config, "1")
        rows = []
        changed = {"PYTHONHASHSEED": "12345"}
        words, seconds = self.train(config, "2", sets=["batches.prefetch=0"], environment=changed, cores=1)
        rows.append(self._row(config, "surroundings", words, plain, seconds, must_be_equal=True))
        rows.append(self._refused(config))
        library = ["distribution.reduction=all_reduce"]
        one, _ = self.train(config, "1", sets=library)
        four, seconds = self.train(config, "4", sets=library)
        rows.append(self._row(config, "library, 4 devices against 1", four, one, seconds, must_be_equal=False))
        return rows

    def train(
        self,
        config: Path,
        layout: str,
        *,
        sets: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        cores: int | None = None,
    ) -> tuple[np.ndarray, float]:
        """The hashes [step, tensor] of the first steps, and the seconds they took."""
        processes, devices = (int(part) for part in layout.split("x")) if "x" in layout else (1, int(layout))
        self.count += 1
        run = RunDir(self.folder / f"run_{self.count}")
        start = time.monotonic()
        command = [*self._command(config, run.path, sets), "--devices", str(devices)]
        port = _free_port()
        group: list[subprocess.Popen] = []
        logs = []
        for process in range(processes):
            own = ["--processes", str(processes), "--process", str(process), "--coordinator", f"127.0.0.1:{port}"]
            logs.append(open(self.folder / f"log_{process}.txt", "w"))  # noqa: SIM115
            group.append(
                subprocess.Popen(
                    command + (own if processes > 1 else []),
                    stdout=logs[-1],
                    stderr=subprocess.STDOUT,
                    env=_environment(environment or {}),
                    preexec_fn=_on_cores(cores),
                )
            )
        try:
            self._wait(run, group)
        finally:
            for process in group:
                process.kill()
                process.wait()
            for log in logs:
                log.close()
        words = read_tensor_hashes(run.tensor_hashes).words[: self.steps].copy()
        shutil.rmtree(run.path)
        return words, time.monotonic() - start

    def _wait(self, run: RunDir, group: list[subprocess.Popen]) -> None:
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            ended = [i for i, process in enumerate(group) if process.poll() is not None]  # before looking for records
            if len(read_tensor_hashes(run.tensor_hashes).steps) >= self.steps:
                return
            if ended:
                text = (self.folder / f"log_{ended[0]}.txt").read_text()
                sys.exit(f"process {ended[0]} ended with {group[ended[0]].returncode}:\n{text[-2000:]}")
            time.sleep(0.2)
        sys.exit(f"{run.path}: no {self.steps} steps within {LONGEST:.0f} s")

    def _command(self, config: Path, run: Path, sets: Sequence[str]) -> list[str]:
        options = [part for text in (*self.sets, *sets) for part in ("--set", text)]
        return [sys.executable, "-m", "dsrun", "train", "--config", str(config), "--run-dir", str(run), *options]

    def _refused(self, config: Path) -> Row:
        start = time.monotonic()
        command = self._command(config, self.folder / "pool", ())
        found = subprocess.run(
            command, capture_output=True, text=True, env=_environment({"NPROC": "3"}), timeout=LONGEST
        )
        is_refused = found.returncode == 2 and "NPROC=3" in found.stderr
        row = Row(config.stem, "pool, NPROC=3", 0, "", "refused", is_refused, time.monotonic() - start)
        _print(row)
        return row

    def _row(
        self, config: Path, case: str, words: np.ndarray, other: np.ndarray, seconds: float, *, must_be_equal: bool
    ) -> Row:
        is_equal = words.shape == other.shape and bool((words == other).all())
        last = f"{np.bitwise_xor.reduce(words[-1]):016x}"
        expected = "equal" if must_be_equal else "different"
        row = Row(config.stem, case, len(words), last, expected, is_equal == must_be_equal, seconds)
        _print(row)
        return row


def _print(row: Row) -> None:
    mark = "ok  " if row.is_as_expected else "FAIL"
    print(
        f"{mark} {row.config:<28} {row.case:<30} {row.steps:>3} steps  {row.last_hash:<16}  {row.expected}  {row.seconds:.0f} s",
        flush=True,
    )


def _environment(changes: dict[str, str]) -> dict[str, str]:
    own = ("XLA_FLAGS", "NPROC", "PJRT_NPROC")
    return {name: value for name, value in os.environ.items() if name not in own} | changes


def _on_cores(count: int | None) -> Callable[[], Any] | None:
    if count is None or not hasattr(os, "sched_setaffinity"):
        return None
    chosen = sorted(os.sched_getaffinity(0))[:count]
    return lambda: os.sched_setaffinity(0, chosen)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


if __name__ == "__main__":
    main()
