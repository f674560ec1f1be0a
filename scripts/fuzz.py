"""Fuzzing: thousands of damaged and hostile files through the real functions and commands.

    python scripts/fuzz.py --cases 10000 --seed 1                  all kinds, in the shares of `fuzz_cases.py`
    python scripts/fuzz.py --cases 500 --kinds tar,manifest --keep found
    python scripts/fuzz.py --seed 1 --only 4711                    one case again, with its traceback

What dsrun must do with any file is use it or refuse it: a `DsrunError`, or an `OSError`, which the command line words itself. Findings are

    traceback   any other exception, or a result that cannot be right
    crash       the process is gone
    hang        more than 10 s
    memory      more than 2 GiB, asked for (RLIMIT_DATA) or resident, even where a message blames the file for it
    stray       a file or folder outside the case's own, or one that the case's text asked a shell to make

Cases run in worker processes, many in each; a case is a function of (seed, number). Inputs of findings are kept. Exit code 1 with
findings, and unless every case ran: a worker that does not start finds nothing.
"""

import argparse
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 10.0
STARTING_SECONDS = 120.0  # imports, and the examples, which are made once
MEMORY = 2 << 30
PER_WORKER = 500  # cases, then a fresh process: what leaks is not what one case takes


def run_case(seed: int, number: int, kinds: list[str], folder: Path) -> dict[str, Any]:
    """Make a case in `folder`/in and run it; what came of it."""
    from fuzz_cases import KINDS, WEIGHTS

    from dsrun.errors import DsrunError

    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(kinds, [WEIGHTS[name] for name in kinds])[0]
    own = folder / "in"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    call = KINDS[kind](rng, own)
    _forget_peak()
    start = time.monotonic()
    outcome, text = "used", ""
    try:
        call()
    except DsrunError as error:
        outcome, text = ("memory" if _lacked_memory(error) else "refused"), str(error)
    except OSError as error:
        outcome, text = "refused by the system", str(error)
    except MemoryError:
        outcome, text = "memory", traceback.format_exc()
    except Exception:
        outcome, text = "traceback", traceback.format_exc()
    strays = [path.name for path in folder.iterdir() if path.name != "in"] + [str(p) for p in Path.cwd().iterdir()]
    strays += [str(path) for path in own.rglob("pwned*")]
    if strays:
        outcome, text = "stray", f"{strays}\n{text}"
    peak = _peak()
    if peak > MEMORY:
        outcome, text = "memory", f"{peak} bytes resident\n{text}"
    seconds = time.monotonic() - start
    return {"number": number, "kind": kind, "outcome": outcome, "text": text[-4000:], "seconds": seconds, "peak": peak}


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether an error was made of a MemoryError: `raise ... from None` keeps the context."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _forget_peak() -> None:
    with suppress(OSError):  # then the peak is the process's
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Largest resident size since `_forget_peak`, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def work(seed: int, kinds: list[str], folder: Path) -> None:
    """A worker: a case for each number on stdin, an answer on stdout for each."""
    ours_in, ours_out = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # a file may name /dev/stdin, and decoders print
        os.dup2(nothing, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
    import fuzz_cases

    import dsrun.build
    import dsrun.cli  # noqa: F401

    for hours, channels, rate in fuzz_cases.BOMBS:
        fuzz_cases.silence(hours, channels, rate)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    (folder / "empty").mkdir()
    case = folder / "case"
    case.mkdir()
    os.chdir(folder / "empty")
    print("ready", file=ours_out, flush=True)
    for line in ours_in:
        print(json.dumps(run_case(seed, int(line), kinds, case)), file=ours_out, flush=True)


class Worker:
    """A process that runs cases, one at a time."""

    def __init__(self, options: argparse.Namespace):
        self.folder = Path(tempfile.mkdtemp(prefix="dsrun-fuzz-"))
        command = [sys.executable, __file__, "--work", str(self.folder), "--seed", str(options.seed)]
        self.process = subprocess.Popen(
            [*command, "--kinds", ",".join(options.kinds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if self._line(STARTING_SECONDS) != "ready\n":
            self.close()
            raise RuntimeError("a worker did not start; run one case with --only to see why")

    def run(self, number: int) -> dict[str, Any]:
        """The result of a case, or how the process ended with it."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # the process has gone since its last answer: no line will come
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        line = self._line(SECONDS)
        if line:
            return json.loads(line)
        ended = self.process.wait() if line == "" else None
        text = f"more than {SECONDS:g} s" if line is None else f"exit code {ended}"
        lost = {"number": number, "kind": "?", "text": text, "seconds": SECONDS, "peak": 0}
        return lost | {"outcome": "hang" if line is None else "crash"}

    def close(self) -> None:
        """End the process and remove its folder."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listen(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def _line(self, seconds: float) -> str | None:
        """The next line, "" at the end, None if there is none in time."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None


def fuzz(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Run all cases in `--workers` processes; results in the order of the cases, and why not all of them ran, if so."""
    numbers: queue.Queue[int] = queue.Queue()
    for number in range(options.cases):
        numbers.put(number)
    results: list[dict[str, Any]] = []
    failures: list[str] = []

    def drive() -> None:
        try:
            run_cases()
        except Exception:  # which would end the thread and nothing else
            failures.append(traceback.format_exc())

    def run_cases() -> None:
        worker, count = Worker(options), 0
        while not numbers.empty():
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                break
            result = worker.run(number)
            count += 1
            if result["outcome"] in ("hang", "crash"):
                result["kind"] = _kind(options, number)
            results.append(result)
            if result["outcome"] in FINDINGS:
                _keep(options, worker, result)
            if count == PER_WORKER or result["outcome"] in ("hang", "crash", "memory", "stray"):
                worker.close()
                worker, count = Worker(options), 0
            if len(results) % 500 == 0:
                print(f"{len(results)} of {options.cases}", file=sys.stderr, flush=True)
        worker.close()

    threads = [threading.Thread(target=drive) for _ in range(options.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) < options.cases:
        failures.append(f"{len(results)} of {options.cases} cases ran.")
    return sorted(results, key=lambda result: result["number"]), failures


FINDINGS = ("traceback", "crash", "hang", "memory", "stray")


def _kind(options: argparse.Namespace, number: int) -> str:
    from fuzz_cases import WEIGHTS

    rng = random.Random(f"{options.seed} {number}")
    return rng.choices(options.kinds, [WEIGHTS[name] for name in options.kinds])[0]


def _keep(options: argparse.Namespace, worker: Worker, result: dict[str, Any]) -> None:
    place = options.keep / f"{result['outcome']}_{result['kind'].replace(' ', '_')}_{result['number']}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(worker.folder / "case" / "in", place, symlinks=True)
    (place / "REPORT.txt").write_text(json.dumps(result | {"seed": options.seed}, indent=2) + "\n" + result["text"])


def print_table(results: list[dict[str, Any]]) -> None:
    """By kind: how many, what came of them, the slowest and the largest."""
    names = ("used", "refused", "refused by the system", *FINDINGS)
    print(
        f"{'kind':<12}{'cases':>7}"
        + "".join(f"{name:>{max(9, len(name) + 2)}}" for name in names)
        + "  slowest s  peak MiB"
    )
    for kind in [*sorted({result["kind"] for result in results}), "all"] if results else []:
        rows = [result for result in results if kind in (result["kind"], "all")]
        counts = Counter(row["outcome"] for row in rows)
        cells = "".join(f"{counts[name]:>{max(9, len(name) + 2)}}" for name in names)
        slowest, peak = max(row["seconds"] for row in rows), max(row["peak"] for row in rows)
        print(f"{kind:<12}{len(rows):>7}{cells}{slowest:>11.2f}{peak / 2**20:>10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--kinds", help="comma-separated; default all")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"), help="folder for inputs of findings")
    parser.add_argument("--only", type=int, help="run this case here and print what came of it")
    parser.add_argument("--json", type=Path, help="write every result there")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from fuzz_cases import KINDS

    options.kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    if unknown := set(options.kinds) - set(KINDS):
        raise SystemExit(f"--kinds: no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if options.work:
        return work(options.seed, options.kinds, options.work)
    if options.only is not None:
        folder = Path(tempfile.mkdtemp(prefix="dsrun-fuzz-"))
        (folder / "empty").mkdir(), (folder / "case").mkdir()
        os.chdir(folder / "empty")
        result = run_case(options.seed, options.only, options.kinds, folder / "case")
        print(result.pop("text"))
        print(json.dumps(result | {"input": str(folder / "case" / "in")}))
        return None
    results, failures = fuzz(options)
    print_table(results)
    if options.json:
        options.json.write_text("".join(json.dumps(result) + "\n" for result in results))
    found = [result for result in results if result["outcome"] in FINDINGS]
    for result in found[:50]:
        last = result["text"].strip().split("\n")[-1][:150]
        print(f"{result['outcome']} in case {result['number']} ({result['kind']}): {last}")
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if found or failures else 0)


if __name__ == "__main__":
    main()
