"""The kill drill: a real run is stopped again and again, in every way we could think of, and must end as if nothing had happened.

    python scripts/kill_drill.py                      100 lives, a summary table
    python scripts/kill_drill.py --lives 500 --seed 7 --json drill.json
    python scripts/kill_drill.py --ways kill point    only SIGKILL at random moments and inside checkpoint writing

A small network is trained undisturbed once on each device count; the digests of all checkpoints must agree. Then lives begin, each a
process of `dsrun train` with the same command but a random number of devices, and each ends in one of these ways:

    kill       SIGKILL, some steps and a part of a step after the first new one
    start      SIGKILL while it starts
    point      SIGKILL at one of `checkpoint.FAULT_POINTS`, inside the writing of a checkpoint
    term, usr1, int   the signal instead; must exit 75, 75, 130 and leave a `stop` or `checkpoint` record
    full       the disk takes no more from some checkpoint on (a limit on the size of files); must exit 3
    truncated, flipped   SIGKILL, then the newest checkpoint's largest file loses its end, or a bit; the next life must say so
    gone       a recording vanishes before the start; must exit 3 and name it

A run that reaches its end is compared and the next one begun, until all lives are used; the last run is then let go to its end.
Compared are the digest of the last checkpoint and all records of `events.jsonl`: equal up to times, to the places of `checkpoint`
records and to the records of the interruptions themselves, each exactly once. Exit code 1 if anything differs.

Most moments of a short life are start-up, which this drill does not want to test a hundred times: a life is killed by steps and not
by the clock, and compiled programs and features are kept in a folder that all lives share. The process that kills itself at a fault
point is this script's own (`--child`), which hands `checkpoint.save` a `fault`; dsrun has no hook.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsrun.record import read_events

REPOSITORY = Path(__file__).parent.parent
PROMPTS = REPOSITORY / "data" / "prompts_en"
SHARDS = 4
CHECKPOINT_EVERY = 3
SIGNALS = {"term": signal.SIGTERM, "usr1": signal.SIGUSR1, "int": signal.SIGINT}
EXPECTED = {"kill": -9, "start": -9, "point": -9, "truncated": -9, "flipped": -9, "term": 75, "usr1": 75, "int": 130}
EXPECTED |= {"full": 3, "gone": 3}
# How often each way is drawn.
WEIGHTS = {"kill": 30, "start": 5, "point": 30, "term": 8, "usr1": 4, "int": 4, "full": 6, "truncated": 5, "flipped": 5}
WEIGHTS |= {"gone": 3}
LONGEST_LIFE = 300.0  # seconds; a process that hangs is a finding and not a pause
BEGUN = "batch shapes to compile"  # dsrun says it when the event log is as at the checkpoint
INTERRUPTION = {"stop", "environment"}  # kinds of records that an undisturbed run does not have


@dataclass(frozen=True)
class Life:
    """One process: how it was to end, how it ended, and the steps of the newest checkpoint before and after it."""

    number: int
    run: int
    way: str
    point: str
    devices: int
    exit_code: int
    before: int
    after: int
    seconds: float
    finding: str


@dataclass
class Drill:
    """A folder with a corpus, a config, what all lives share, and the reference."""

    folder: Path
    steps: int
    random: random.Random
    most_devices: int = SHARDS

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = sorted(rows_of(PROMPTS / "train.jsonl"), key=lambda row: (row["duration"], row["id"]))
        rows = [row for row in rows if len(row["text"]) >= 8][:12]
        for row in rows:
            copy = self.folder / Path(row["audio_filepath"]).name
            shutil.copyfile(PROMPTS / row["audio_filepath"], copy)
            row["audio_filepath"] = str(copy)
        train, self.recordings = rows[:8], [Path(row["audio_filepath"]) for row in rows[:8]]
        # Another test set than dev: its scoring must not write the results of dev that training leaves.
        for name, part in (("train", train), ("dev", rows[8:]), ("test", rows[10:7:-1])):
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        alphabet = "".join(f"{symbol}\n" for symbol in " 'abcdefghijklmnopqrstuvwxyz")
        (self.folder / "alphabet.txt").write_text(alphabet)
        self.config = self.folder / "drill.yaml"
        self.config.write_text(json.dumps(self._config()))  # JSON is YAML
        shared = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        shared |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONUNBUFFERED": "1"}
        own = ("XLA_FLAGS", "NPROC", "PJRT_NPROC")
        self.environment = {key: value for key, value in os.environ.items() if key not in own} | shared

    def _config(self) -> dict[str, Any]:
        data = {
            "train": "train.jsonl",
            "dev": "dev.jsonl",
            "test": "test.jsonl",
            "alphabet": "alphabet.txt",
            "cache": "features",
        }
        batches = {"global_batch": 4, "shards": SHARDS, "buckets": 1, "frame_multiple": 12}
        front_end = {"kind": "frame_stack", "stack": 3, "stride": 3, "hidden": 16}
        training = {"epochs": self.steps // 2, "evaluate_every_epochs": 7, "checkpoint_every_epochs": 5}
        training |= {"checkpoint_every_steps": CHECKPOINT_EVERY, "keep_every_steps": 10 * CHECKPOINT_EVERY}
        training |= {"watch_every_steps": None}
        return {
            "base": str(REPOSITORY / "configs" / "prompts_float32.yaml"),
            "data": data,
            "batches": batches,
            "model": {"front_end": front_end, "hidden": 16, "layers": 1},
            "training": training,
        }

    def start(self, run: Path, devices: int, fault: str = "") -> subprocess.Popen:
        """A life."""
        command = [
            sys.executable,
            str(Path(__file__)),
            "--child",
            fault or "none",
            "train",
            "--config",
            str(self.config),
        ]
        command += ["--run-dir", str(run), "--devices", str(devices)]
        run.with_suffix(".out").write_bytes(b"")
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment, bufsize=0
        )
        # By way of a pipe: a limit on the size of files must not be met by what the child prints.
        self.listener = threading.Thread(target=keep_output, args=(process, run.with_suffix(".out")))
        self.listener.start()
        return process

    def reference(self) -> list[dict[str, Any]]:
        """Records of an undisturbed run, the same on each number of devices."""
        found = {}
        for devices in range(1, self.most_devices + 1):
            run = self.folder / f"reference_{devices}"
            process = self.start(run, devices)
            if process.wait() != 0:
                sys.exit(f"the undisturbed run failed: {said(run)[-2000:]}")
            found[devices] = comparable(run)
            say(f"undisturbed on {devices} devices: {final_digest(run)[:12]}")
        differing = [devices for devices in found if found[devices] != found[1]]
        if differing:
            sys.exit(f"undisturbed runs on 1 and on {differing} devices differ")
        return found[1]


def drill(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All lives; what there is to report."""
    arena = Drill(folder, options.steps, random.Random(options.seed), options.most_devices)
    began = time.monotonic()
    reference = arena.reference()
    lives: list[Life] = []
    findings: list[str] = []
    number = 0

    def finish(run: Path, exit_code: int) -> None:
        if exit_code != 0:
            findings.append(f"{run.name}: the last life ended with {exit_code}: {said(run)[-1000:]}")
        elif differences := compared(reference, comparable(run)):
            findings.append(f"{run.name}: {differences}")
        say(f"{run.name} ended: {final_digest(run)[:12] if exit_code == 0 else exit_code}")

    while len(lives) < options.lives:
        number += 1
        run = folder / f"run_{number}"
        is_complete = False
        while len(lives) < options.lives and not is_complete:
            life = live(arena, run, number, len(lives) + 1, options.ways)
            lives.append(life)
            is_complete = life.exit_code == 0
            if life.finding:
                findings.append(f"life {life.number} ({life.way} {life.point}): {life.finding}")
            say(
                f"life {life.number}/{options.lives}  {life.way} {life.point}  {life.devices} devices  steps {life.before} to "
                f"{life.after}  exit {life.exit_code}  {life.seconds:.1f} s  {life.finding}"
            )
        finish(run, 0 if is_complete else arena.start(run, arena.random.randint(1, arena.most_devices)).wait())
        if not options.keep:
            shutil.rmtree(run)
    minutes = (time.monotonic() - began) / 60
    digest = next(record["digest"] for record in reversed(reference) if record["event"] == "checkpoint")
    return {
        "seed": options.seed,
        "steps": options.steps,
        "digest": digest,
        "runs": number,
        "minutes": round(minutes, 1),
        "lives": [asdict(life) for life in lives],
        "findings": findings,
    }


def live(arena: Drill, run: Path, number_of_run: int, number: int, ways: list[str]) -> Life:
    """One process, from its start to the end that was drawn for it."""
    rng = arena.random
    before = newest(run)
    # Damage needs an older checkpoint to fall back on, and a lost recording is noticed at a start.
    drawn = rng.choices(ways, [WEIGHTS[way] for way in ways])[0]
    way = "kill" if drawn in ("truncated", "flipped") and len(steps_of(run)) < 2 else drawn
    devices, point, fault = rng.randint(1, arena.most_devices), "", ""
    if way == "point":
        from dsrun.training.checkpoint import FAULT_POINTS

        point = rng.choice(FAULT_POINTS)
        fault = f"{point}:{rng.randint(1, 3)}"
    if way == "full":
        fault = f"full:{rng.randint(1, 3)}"
    recording = rng.choice(arena.recordings)
    if way == "gone":
        recording.rename(recording.with_suffix(".gone"))
    began = time.monotonic()
    process = arena.start(run, devices, fault)
    if way == "start":
        wait_until(process, lambda: False, rng.uniform(0.2, 4.0))
        process.kill()
    elif not fault and way != "gone":
        wanted = max(before, 0) + rng.randint(1, 2 * CHECKPOINT_EVERY)
        # The records of the life before stay until this one has found its checkpoint and cut them back.
        wait_until(process, lambda: BEGUN in said(run) and last_step(run) >= wanted, LONGEST_LIFE)
        time.sleep(rng.uniform(0.0, 0.08))
        process.send_signal(SIGNALS.get(way, signal.SIGKILL))
    try:
        exit_code = process.wait(LONGEST_LIFE)
    except subprocess.TimeoutExpired:
        process.kill()
        exit_code = process.wait()
    arena.listener.join()
    seconds = time.monotonic() - began
    if way == "gone":
        recording.with_suffix(".gone").rename(recording)
    text = said(run)
    finding = judged(way, exit_code, text, run, str(recording))
    after = newest(run)
    if way in ("truncated", "flipped") and exit_code == EXPECTED[way]:
        finding = finding or damage(arena, run, way)
    return Life(number, number_of_run, way, point, devices, exit_code, before, after, round(seconds, 1), finding)


def judged(way: str, exit_code: int, text: str, run: Path, recording: str) -> str:
    """What is wrong with how a life ended; empty if nothing is."""
    if exit_code not in (EXPECTED[way], 0):  # it may have reached its end before it was hit
        return f"exit code {exit_code}, expected {EXPECTED[way]}: {text[-600:]}"
    # Where a write breaks off in the middle, threads of the library that writes arrays may print what nobody waits for any more.
    if exit_code != -signal.SIGKILL and way != "full" and "Traceback" in text:
        return f"a traceback: {text[-1500:]}"
    if exit_code == 3 and way == "gone" and recording not in text:
        return f"the recording that is gone is not named: {text[-600:]}"
    if exit_code == 3 and way == "full" and "could not be written" not in text:
        return f"the full disk is not named: {text[-600:]}"
    if exit_code in (75, 130):
        status = json.loads((run / "status.json").read_text())
        if (status["state"], status["exit_code"]) != ("stopped", exit_code):
            return f"status.json says {status}"
    return ""


def damage(arena: Drill, run: Path, way: str) -> str:
    """Harm the newest checkpoint and see that a start says so; the next life goes on from the older one."""
    steps = steps_of(run)
    if len(steps) < 2:
        return ""
    folder = run / "checkpoints" / f"step_{steps[-1]:06d}"
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.stat().st_size, path))
    content = bytearray(path.read_bytes())
    if way == "truncated":
        content = content[: len(content) // 2]
    else:
        content[arena.random.randrange(len(content))] ^= 1 << arena.random.randrange(8)
    path.write_bytes(content)
    process = arena.start(run, 1)
    is_named = wait_until(process, lambda: "using the older step" in said(run), LONGEST_LIFE)
    process.kill()
    process.wait()
    return "" if is_named else f"the damage was not named: {said(run)[-600:]}"


def compared(reference: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """The first differences between two lists of records; empty if there are none."""
    counts = Counter(json.dumps(record) for record in found)
    counts.subtract(Counter(json.dumps(record) for record in reference))
    lost = [text for text, count in counts.items() if count < 0]
    extra = [text for text, count in counts.items() if count > 0]
    return " ".join(
        f"{len(texts)} records {what}, the first {texts[0][:300]}"
        for what, texts in (("lost", lost), ("too many", extra))
        if texts
    )


def comparable(run: Path) -> list[dict[str, Any]]:
    """Records without times and interruptions, by step; then the files whose bytes an interruption must not change either."""
    records = [record for record in read_events(run / "events.jsonl") if record["event"] not in INTERRUPTION]
    records = [{key: value for key, value in record.items() if "seconds" not in key} for record in records]
    files = [run / "costs.json", *sorted((run / "evaluation").glob("*"))]
    left = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files if file.is_file()]
    return sorted(records, key=lambda record: (record["step"], record["event"])) + [
        {"event": "file", "step": 0, "name": name, "sha256": digest} for name, digest in left
    ]


def final_digest(run: Path) -> str:
    """Of the last checkpoint."""
    return next(record["digest"] for record in reversed(comparable(run)) if record["event"] == "checkpoint")


def steps_of(run: Path) -> list[int]:
    """Committed checkpoints."""
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def newest(run: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    return max(steps_of(run), default=0)


def last_step(run: Path) -> int:
    """Last step that was recorded."""
    path = run / "events.jsonl"
    return max((record["step"] for record in read_events(path) if record["event"] == "step"), default=0)


def keep_output(process: subprocess.Popen, path: Path) -> None:
    """Copy what a process prints to a file, until it ends."""
    assert process.stdout
    with process.stdout as printed, open(path, "wb", buffering=0) as file:
        while block := printed.read(65_536):
            file.write(block)


def said(run: Path) -> str:
    """What the last life of a run printed."""
    path = run.with_suffix(".out")
    return path.read_text(errors="replace") if path.exists() else ""


def wait_until(process: subprocess.Popen, is_so: Callable[[], bool], seconds: float) -> bool:
    """Until something is so, the process has ended, or the time is over."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.002)
    return is_so()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A manifest's rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def table(report: dict[str, Any]) -> str:
    """Lives by the way in which they ended, as Markdown."""
    rows = [["way", "lives", "reached the end first", "exit codes", "median seconds"], ["---"] * 5]
    for way in WEIGHTS:
        lives = [life for life in report["lives"] if life["way"] == way]
        if lives:
            codes = sorted({life["exit_code"] for life in lives if life["exit_code"] != 0})
            seconds = sorted(life["seconds"] for life in lives)[len(lives) // 2]
            finished = sum(life["exit_code"] == 0 for life in lives)
            rows.append([way, str(len(lives)), str(finished), ", ".join(map(str, codes)), f"{seconds:.1f}"])
    points = Counter(life["point"] for life in report["lives"] if life["way"] == "point" and life["exit_code"] != 0)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append(
        f"\nfault points hit: {', '.join(f'{point} {count}' for point, count in sorted(points.items())) or 'none'}"
    )
    lines.append(
        f"{len(report['lives'])} lives of {report['runs']} runs of {report['steps']} steps in {report['minutes']} minutes, seed "
        f"{report['seed']}; every run's last digest and records as undisturbed ({report['digest'][:12]}): "
        f"{'no' if report['findings'] else 'yes'}"
    )
    return "\n".join([*lines, *report["findings"]])


def child(fault: str, arguments: list[str]) -> None:
    """`dsrun train` that kills itself at the n-th visit to a fault point, or whose disk is full from the n-th save on."""
    from dsrun import cli
    from dsrun.training import checkpoint

    name, _, visit = fault.partition(":")
    save, saves, visits = checkpoint.save, Counter[str](), Counter[str]()

    def die(point: str) -> None:
        visits[point] += 1
        if point == name and visits[point] >= int(visit):
            os.kill(os.getpid(), signal.SIGKILL)

    def faulty_save(*positional: Any, **named: Any) -> str:
        saves["all"] += 1
        if name == "full" and saves["all"] >= int(visit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        return save(*positional, **named, fault=die)

    if fault != "none":
        checkpoint.save = faulty_save
    sys.argv = ["dsrun", *arguments]
    cli.main()


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="of a run; an even number")
    parser.add_argument("--most-devices", type=int, default=SHARDS, choices=range(1, SHARDS + 1), help="of a life")
    parser.add_argument("--ways", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder that is removed")
    parser.add_argument("--keep", action="store_true", help="do not remove the runs that were compared")
    parser.add_argument("--json", type=Path, help="also write the whole report here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsrun-drill-") as temporary:
        report = drill(options, options.folder or Path(temporary))
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(1 if report["findings"] else 0)


if __name__ == "__main__":
    main()
