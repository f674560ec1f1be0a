"""From files to padded batches, beside a plain PyTorch DataLoader: hours of audio a second, FLAC, Vorbis and WAV.

    python -m benchmarks.data --torch-python PATH [--utterances 400] [--join 6] [--json]

The clips are the shipped corpus's, as they are (Ogg Vorbis, 1 to 2 s) or `--join` of them in one file, which makes them as long as
a read book's sentences; each set is written once in every format. Both sides get the same files in the same batches of 16, in
order of length, and do the same: decode, log power spectrogram of 161 bins, pad. dsrun's is its training path with streamed loading:
worker threads, batches ahead in another, features in float64, rounded once. PyTorch's is `peers/torch_data.py`: worker processes, float32.

Each side is a process of its own, bound to the same processors. They take turns (`turns`), a pass over all batches each, a case (format
and number of workers) after another. The first pass of each case warms up and does not count. A ratio is the median of the
ratios of neighbouring passes; with 0 workers there is one of processor time as well, which a busy machine disturbs less.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.turns import Contender, compete, ratio, serve
from dsrun import build
from dsrun.config import load_config
from dsrun.speech import AudioSettings, Batcher, prefetch, read_manifest, read_utterance, write_manifest

PEER = Path(__file__).parent / "peers" / "torch_data.py"
CONFIG = Path(__file__).parent.parent / "configs" / "prompts_float32.yaml"
MANIFEST = Path(__file__).parent.parent / "data" / "prompts_en" / "train.jsonl"
FORMATS = {"flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "wav": ("WAV", "PCM_16")}
RATE, ROWS, AHEAD = 16_000, 16, 2
WORKERS = (0, 1, 2)


def write_problem(folder: Path, *, utterances: int, join: int) -> float:
    """Clips in every format, and which go together; returns seconds of audio."""
    found = read_manifest(MANIFEST)
    settings = AudioSettings(RATE)
    clips = [read_utterance(utterance, settings) for utterance in found]
    clips = [np.concatenate(clips[start : start + join]) for start in range(0, len(clips) - join + 1, join)][
        :utterances
    ]
    files: dict[str, list[str]] = {}
    for name, (format, subtype) in FORMATS.items():
        for number, clip in enumerate(clips):
            path = folder / f"{number:06d}.{name}"
            soundfile.write(path, clip, RATE, format=format, subtype=subtype)
            files.setdefault(name, []).append(str(path))
        lines = zip(files[name], clips, strict=True)
        write_manifest(
            folder / f"{name}.jsonl",
            ({"audio_filepath": path, "duration": len(clip) / RATE, "text": "a"} for path, clip in lines),
        )
    order = sorted(range(len(clips)), key=lambda number: (len(clips[number]), number))
    batches = [order[start : start + ROWS] for start in range(0, len(order), ROWS)]
    cases = [(name, workers) for name in FORMATS for workers in WORKERS]
    problem = {"files": files, "samples": [len(clip) for clip in clips], "batches": batches, "cases": cases}
    (folder / "problem.json").write_text(json.dumps(problem))
    return sum(map(len, clips)) / RATE


def batcher_of(manifest: Path, workers: int) -> Batcher:
    """dsrun's side of a case, as training streams its data."""
    values = {
        "data.train": manifest, "data.dev": manifest, "data.test": "null", "data.loading": "streamed", "augment": "null",
        "batches.workers": workers, "batches.global_batch": ROWS, "batches.frame_multiple": 1, "data.max_seconds": 60.0,
    }  # fmt: skip
    config = load_config(CONFIG, [f"{key}={value}" for key, value in values.items()]).config
    return build.build_batcher(config, build.build_training_data(config).train, purpose="evaluate")


def work(folder: Path) -> None:
    """dsrun's worker: a pass over one case's batches for each line on stdin."""
    problem = json.loads((folder / "problem.json").read_text())
    batchers = [
        (f"{format}, {workers} workers", batcher_of(folder / f"{format}.jsonl", workers), AHEAD if workers else 0)
        for format, workers in problem["cases"]
    ]
    turn = 0

    def unit() -> dict[str, Any]:
        nonlocal turn
        name, batcher, ahead = batchers[turn % len(batchers)]
        turn += 1
        total, started = 0.0, time.process_time()
        for batch, _ in prefetch(lambda: batcher.epoch(0), ahead):
            total += float(batch.features[0, 0].sum()) + int(batch.num_frames.sum())
        return {"case": name, "sum": total, "cpu_seconds": time.process_time() - started}

    serve({"version": "dsrun"}, unit)


def rows(contenders: Sequence[Contender], hours: float, repeats: int) -> list[dict[str, Any]]:
    """A row a case: hours of audio a second of each side, and the ratio of PyTorch's time to dsrun's."""
    names = [result["case"] for result in contenders[0].results]
    found = []
    for case in dict.fromkeys(names):
        turns = [number for number, name in enumerate(names) if name == case][-repeats:]
        seconds = {c.name: [c.seconds[turn] for turn in turns] for c in contenders}
        row: dict[str, Any] = {"case": case, "seconds": seconds}
        row["audio_hours_per_second"] = {name: hours / statistics.median(times) for name, times in seconds.items()}
        for peer in contenders[1:]:
            row[f"ratio_{peer.name}"] = ratio(seconds[peer.name], seconds["dsrun"])
            if case.endswith(" 0 workers"):  # all work is the process's own, so its processor time can be compared
                own, other = ([c.results[turn]["cpu_seconds"] for turn in turns] for c in (contenders[0], peer))
                row[f"cpu_ratio_{peer.name}"] = ratio(other, own)
        found.append(row)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Write the clips, start the workers, let them take turns."""
    with tempfile.TemporaryDirectory() as name:
        seconds = write_problem(Path(name), utterances=options.utterances, join=options.join)
        own = [sys.executable, "-m", "benchmarks.data", "--work", name]
        commands = {"dsrun": own}
        if options.torch_python:
            peer = [str(options.torch_python), str(PEER), name]
            commands |= {"torch": peer, "torch_float64": [*peer, "--double"]}
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # the contenders inherit it
        cases = len(FORMATS) * len(WORKERS)
        contenders = compete(commands, rounds=cases * (options.repeats + 1))
        clips = len(json.loads((Path(name) / "problem.json").read_text())["samples"])
    return {
        "benchmark": "data",
        "clips": clips,
        "audio_seconds": seconds,
        "threads": options.threads,
        "repeats": options.repeats,
        "versions": {contender.name: contender.ready["version"] for contender in contenders},
        "rows": rows(contenders, seconds / 3600, options.repeats),
    }


def _shown(name: str, found: dict[str, float]) -> str:
    what = name.replace("cpu_", "processor time of ").replace("ratio_", "")
    return f"{what} / dsrun {found['median']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time files to batches, beside PyTorch's DataLoader where it is available."
    )
    parser.add_argument(
        "--torch-python", type=Path, help="a Python that has torch and soundfile; without it dsrun runs alone"
    )
    parser.add_argument("--utterances", type=int, default=400, help="clips")
    parser.add_argument("--join", type=int, default=1, help="clips of the corpus in one file")
    parser.add_argument("--repeats", type=int, default=7, help="passes of each case that count")
    parser.add_argument("--threads", type=int, default=2, help="processors that each side may use")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return None
    print(
        f"{result['clips']} clips, {result['audio_seconds']:.0f} s of audio, {result['threads']} processors; hours of audio a second"
    )
    for row in result["rows"]:
        rates = "   ".join(f"{name} {rate:6.3f}" for name, rate in row["audio_hours_per_second"].items())
        ratios = "   ".join(_shown(name, found) for name, found in row.items() if "ratio_" in name)
        print(f"{row['case']:<16} {rates}   {ratios}")
    return None


if __name__ == "__main__":
    main()
