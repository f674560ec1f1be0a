"""The same bits? Trainings with dropout, augmentation and stochastic updates of bfloat16 weights, compared step by step: JSON on stdout.

    python -m scripts.talk.equal_runs FOLDER [--set KEY=VALUE]...

    first    one device
    again    the same command
    killed   SIGKILL some steps after a checkpoint, then the same command again
    devices  two devices; left out where there is one only
    control  a learning rate that is 0.02% larger: must differ, or the comparison could not fail

Each is compared with the first by `dsrun diff`: a 64-bit hash of every tensor of the state after every step.

A signal to this program is passed on to the training, once, and it is waited for, since it holds its run folder while it writes a
checkpoint; and no training outlives this program, however that ends (`dsrun.sweep_child`). The same command goes on.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsrun.errors import EXIT_INTERRUPTED, EXIT_STOPPED
from dsrun.record.events import read_events

CONFIG = "configs/prompts_bfloat16_stochastic.yaml"
EVERY = 10  # steps between checkpoints
LONGEST = 1800.0  # seconds for one life
GRACE = 240.0  # for a checkpoint; shorter than the patience of whoever started this
SETS = (
    "data.test=null",
    "batches.shards=2",
    "batches.buckets=2",
    "training.epochs=2",
    "training.evaluate_every_epochs=2",
    f"training.checkpoint_every_steps={EVERY}",
)


class Bench:
    """Trainings in a folder; complete ones are left alone."""

    def __init__(self, folder: Path, sets: Sequence[str]):
        self.folder, self.sets = folder, sets

    def train(self, name: str, *sets: str, devices: int = 1) -> Path:
        """A training to its end."""
        run = self.folder / name
        if not is_done(run):
            with self._training(run, sets, devices) as process:
                code = process.wait(timeout=LONGEST)
            if code:
                sys.exit(
                    f"{name}: exit code {code}: {(self.folder / f'{name}.log').read_text(errors='replace')[-500:]}"
                )
        return run

    def train_killed(self, name: str) -> tuple[Path, int]:
        """A training that is killed some steps behind its first checkpoint and goes on; the step that it was killed after."""
        run, note = self.folder / name, self.folder / f"{name}.step"
        if not note.is_file():
            with self._training(run, (), 1) as process:
                deadline = time.monotonic() + LONGEST
                while process.poll() is None and last_step(run) < EVERY + 4 and time.monotonic() < deadline:
                    time.sleep(0.02)
                process.kill()  # no signal where it ended by itself
                process.wait()
            if is_done(run):
                sys.exit(f"{name}: was done before it could be killed; remove {run} and try again.")
            note.write_text(f"{last_step(run)}\n")
        self.train(name)
        return run, int(note.read_text())

    @contextmanager
    def _training(self, run: Path, sets: Sequence[str], devices: int) -> Iterator[subprocess.Popen]:
        """A training that is over when this is left, in whatever way."""
        process = self._start(run, sets, devices)
        try:
            yield process
        except SystemExit as error:  # by a signal, see `main`
            if process.poll() is None:
                process.send_signal(signal.SIGINT if error.code == EXIT_INTERRUPTED else signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=GRACE)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _start(self, run: Path, sets: Sequence[str], devices: int) -> subprocess.Popen:
        words = [word for setting in (*SETS, *self.sets, *sets) for word in ("--set", setting)]
        command = [
            sys.executable,
            "-m",
            "dsrun.sweep_child",
            str(os.getpid()),
            "train",
            "--config",
            CONFIG,
            "--run-dir",
            str(run),
            "--devices",
            str(devices),
            *words,
        ]
        with (self.folder / f"{run.name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, process_group=0)


def is_done(run: Path) -> bool:
    """Whether a run folder is of a complete training."""
    try:
        return json.loads((run / "status.json").read_text(encoding="utf-8")).get("state") == "done"
    except (OSError, ValueError):
        return False


def last_step(run: Path) -> int:
    """The last recorded step; 0 before the first."""
    path = run / "events.jsonl"
    return (
        max((event["step"] for event in read_events(path) if event["event"] == "step"), default=0)
        if path.is_file()
        else 0
    )


def compare(a: Path, b: Path) -> dict[str, Any]:
    """What `dsrun diff --json` says of two runs."""
    found = subprocess.run(
        [sys.executable, "-m", "dsrun", "diff", str(a), str(b), "--json"], capture_output=True, text=True
    )
    if found.returncode not in (0, 1):
        sys.exit(f"dsrun diff {a} {b}: {found.stderr[-500:]}")
    report = json.loads(found.stdout)
    kept = ("same", "compared", "equal_up_to", "first_different", "tensors_hashed")
    return {key: report[key] for key in kept}


def most_devices() -> int:
    """Of this machine; a CPU has as many as are asked for."""
    code = "import jax; print(8 if jax.default_backend() == 'cpu' else jax.local_device_count())"
    return int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_STOPPED))
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(EXIT_INTERRUPTED))
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.folder, options.set)
    first = bench.train("first")
    rows = [{"case": "again", **compare(first, bench.train("again"))}]
    killed, step = bench.train_killed("killed")
    rows.append({"case": "killed", "killed_after_step": step, **compare(first, killed)})
    if most_devices() > 1:
        rows.append({"case": "devices", "devices": 2, **compare(first, bench.train("devices", devices=2))})
    rows.append({"case": "control", **compare(first, bench.train("control", "optimizer.learning_rate=5.001e-4"))})
    json.dump({"config": CONFIG, "sets": list(SETS), "rows": rows}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
