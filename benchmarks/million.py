"""A corpus of a million utterances: what opening its manifest, looking at its texts and planning its batches cost.

    python benchmarks/million.py                        # about a minute; a manifest of 350 MB in a temporary folder
    python benchmarks/million.py --utterances 100000 --folder /scratch

The manifest is synthetic, no audio exists: lognormal durations from 0.6 to 20 s (about 2,800 hours a million), words of 1 to 9 letters at
2.5 a second, ids of 16 characters, tar shards of 8,000 members. A fresh process opens it, so that its memory is that of the work alone:
`getrusage`'s peak, less what the imports take. Then, in the same process, who is in batch k of epoch e for random k and e, nothing
read. Seconds are the processor's (one thread), which a busy machine disturbs less; the clock's stand below.

Last, the same tones from loose files and from a tar shard, alternating, in a random order, from the page cache: the ratio is what the
tar costs.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WORDS, MEMBERS, BATCH, ROUNDS = 5000, 8000, 64, 5


def main() -> None:
    """Write the problem, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=1000, help="tones that are read loose and from a tar")
    parser.add_argument("--folder", type=Path, help="where the problem is written; default a temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        manifest = write_manifest(Path(name) / "train.jsonl", options.utterances)
        command = [sys.executable, __file__, "--worker", str(manifest)]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        result |= {"manifest_mb": manifest.stat().st_size / 1e6} | read_rates(Path(name) / "tones", options.clips)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            print(f"{key:<40} {value:,.4g}" if isinstance(value, float) else f"{key:<40} {value:,}")


def write_manifest(path: Path, count: int) -> Path:
    """A manifest of so many utterances, the same again for the same number."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkqjxz", k=rng.randint(1, 9))) for _ in range(WORDS)]
    book = rng.choices(words, k=100 * WORDS)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            seconds = round(min(20.0, max(0.6, rng.lognormvariate(2.2, 0.5))), 3)
            row = {
                "audio_filepath": f"audio-{number // MEMBERS:06d}.tar",
                "duration": seconds,
                "text": " ".join(book[(start := rng.randrange(99 * WORDS)) : start + int(2.5 * seconds) + 1]),
                "id": f"{number % 2000:04d}-{number // 200:06d}-{number % 200:04d}",
                "speaker": f"{number % 2000:04d}",
                "tar_offset": 512 + 40_448 * (number % MEMBERS),
                "tar_size": 39_936,
            }
            file.write(json.dumps(row) + "\n")
    return path


def measure(manifest: Path) -> dict[str, Any]:
    """Seconds and memory of a process that opens a manifest and plans its epochs."""
    from dsrun.speech import (
        Alphabet,
        AudioSettings,
        Augmentation,
        Batcher,
        FeatureSettings,
        open_manifest,
        scan_texts,
        stream,
    )

    alphabet = Alphabet(tuple(" 'abcdefghijklmnopqrstuvwxyz"))
    imported, found, last = peak(), {}, (time.process_time(), time.perf_counter())

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time(), time.perf_counter()
        found[f"seconds: {name}"], found[f"  of the clock: {name}"] = (b - a for a, b in zip(last, now, strict=True))
        last = now

    index = open_manifest(manifest)
    lap("open the manifest, every line checked")
    texts = scan_texts(index, alphabet, on_unknown="error")
    lap("look at every text")
    dataset = stream(
        index,
        texts,
        alphabet,
        audio=AudioSettings(16_000, max_seconds=20.0),
        features=FeatureSettings("log_spectrogram", 16_000),
        augmentation=Augmentation((0.9, 1.0, 1.1)),
        seed=1,
    )
    batcher = Batcher(dataset, global_batch=BATCH, buckets=8, frame_multiple=24, seed=1, sort_first_epoch=True)
    lap("cut into buckets")
    batcher.members(0, 0)
    lap("first batch of the sorted epoch")
    batcher.members(1, 0)
    lap("first batch of a shuffled epoch")
    rng = np.random.default_rng(0)
    places = [(int(rng.integers(1, 100)), int(rng.integers(batcher.batches_per_epoch))) for _ in range(200)]
    found["microseconds: a random batch of a random epoch"] = 1e6 * statistics.median(
        timed(batcher.members, epoch, index) for epoch, index in places
    )
    found["microseconds: a random batch of one epoch"] = 1e6 * statistics.median(
        timed(batcher.members, 1, index) for _, index in places
    )
    found["microseconds: a random utterance of the manifest"] = 1e6 * statistics.median(
        timed(index.__getitem__, int(rng.integers(len(index)))) for _ in range(200)
    )
    held = dataset.nbytes + sum(bucket.members.nbytes for bucket in batcher.buckets)
    return {
        "utterances": len(index),
        "hours": float(index.seconds.sum() / 3600),
        "batches_per_epoch": batcher.batches_per_epoch,
        **found,
        "bytes_an_utterance: held, with its id": held / len(index),
        "MiB: after the imports": imported,
        "MiB: peak": peak(),
        "bytes_an_utterance: peak less imports": (peak() - imported) * (1 << 20) / len(index),
        "MiB: at the end": resident(),
    }


def timed(call: Any, *arguments: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def peak() -> float:
    """Most memory that this process has had, MiB (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    """Memory that this process has now, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def read_rates(folder: Path, clips: int) -> dict[str, float]:
    """Reading the same tones loose and from a tar shard, in the same random order, alternating."""
    import soundfile

    from dsrun.speech import AudioSettings, open_manifest, read_utterance
    from dsrun.speech.tar_packing import pack_manifest

    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(clips):
        seconds = float(rng.uniform(2, 12))
        samples = 0.3 * np.sin(np.arange(round(16_000 * seconds)) * rng.uniform(0.05, 0.5))
        soundfile.write(folder / f"{number}.flac", samples, 16_000)
        duration = len(samples) / 16_000
        lines.append(json.dumps({"audio_filepath": f"{number}.flac", "duration": duration, "text": "a"}))
    loose = folder / "train.jsonl"
    loose.write_text("\n".join(lines), encoding="utf-8")
    packed = pack_manifest(loose, folder / "packed", shard_mb=256).manifest
    plain = folder / "plain.jsonl"  # the packed rows without their sha256
    rows = [json.loads(line) for line in packed.read_text(encoding="utf-8").splitlines()]
    plain_rows = [{key: value for key, value in row.items() if key != "sha256"} for row in rows]
    for row in plain_rows:
        row["audio_filepath"] = str(folder / "packed" / row["audio_filepath"])
    plain.write_text("\n".join(map(json.dumps, plain_rows)), encoding="utf-8")
    ways = {"loose": open_manifest(loose), "tar": open_manifest(plain), "tar, sha256 compared": open_manifest(packed)}
    settings, order = AudioSettings(16_000), rng.permutation(clips).tolist()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, index in ways.items():
            start = time.perf_counter()
            for number in order:
                read_utterance(index[number], settings)
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "milliseconds: a clip from a loose file": 1e3 * median["loose"] / clips,
        "ratio: from a tar to loose": median["tar"] / median["loose"],
        "ratio: from a tar, sha256 compared, to loose": median["tar, sha256 compared"] / median["loose"],
    }


if __name__ == "__main__":
    main()
