"""Part of the GPU report: the whole training step of Deep Speech 2, by format, beside an equal PyTorch model.

The config is configs/deep_speech_2.yaml (five bidirectional layers of 800). One batch of 64 utterances of 12 to 16 s, random features and
labels, padded to 1600 frames, lies on the device on both sides: real speech would show the loader, and its lengths the padding; the
part `prompts` has those. Formats: float32, tensorfloat32 (operands of the products, on the device's units), bfloat16 and float16
(native: weights, activations and errors in arrays of the format, float32 masters and sums; float16 with a loss scale). PyTorch's peer is
`peers/torch_cuda.py`: its bfloat16 and float16 have no float32 master.

The config cuts a batch into 8 shards, so that a run has the same bits on 1 to 8 devices; one GPU works on them one after another, with
8 utterances at a time. Both that and one shard of 64 are timed. MFU counts valid frames, three times the forward FLOPs.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.gpu_parts import (
    NO_TORCH,
    ROOT,
    Failed,
    Settings,
    Worker,
    beside,
    jax_worker,
    part_settings,
    passes_for,
    row,
    serve,
    spread,
    take_turns,
    torch_worker,
)
from benchmarks.turns import ratio
from dsrun.config import Config, load_config

CONFIG = ROOT / "configs" / "deep_speech_2.yaml"
CLASSES = 29
NARROW = ["carrier=native", "loss_scale={kind: dynamic}"]
FORMATS: dict[str, list[str]] = {
    "float32": [],
    "bfloat16": ["storage.format=bfloat16", "compute.format=bfloat16", "gradient.format=bfloat16", *NARROW],
    "float16": ["storage.format=float16", "compute.format=float16", "gradient.format=float16", *NARROW],
    "tensorfloat32": ["compute.format=tensorfloat32", "carrier=native"],
}
SHARDS = (1, 8)
UTTERANCES, FRAMES, LABELS = 64, 1600, 200
TINY = ["model.hidden=16", "model.layers=1", "model.front_end.channels=2", "batches.global_batch=8"]
TINY_SIZES = (8, 48, 6)
ROUNDS = 5


def main() -> None:
    """As a part of the report, or with --work as one worker of it."""
    if "--work" in sys.argv:
        return work()
    settings = part_settings(__doc__)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_batch(folder, tiny=settings.tiny)
        write_peer_settings(load(settings.tiny, [], 1), folder)
        peer, meter = torch_worker(settings), jax_worker("products")
        try:
            if peer is None:
                row("torch Deep Speech 2", NO_TORCH)
            # One format at a time: each process keeps its activations' memory, and torch needs its own beside them.
            for format in list(FORMATS)[:2] if settings.tiny else FORMATS:
                if settings.covers(f"Deep Speech 2 {format}", 25 if settings.tiny else 35):
                    measure(settings, format, folder, peer, meter)
        finally:
            for worker in filter(None, (peer, meter)):
                worker.close()
    return None


def load(tiny: bool, sets: list[str], shards: int) -> Config:
    """The config with a format's settings; manifests are not read."""
    arithmetic = [f"arithmetic.{setting}" for setting in sets]
    return load_config(CONFIG, [*(TINY if tiny else []), f"batches.shards={shards}", *arithmetic]).config


def write_batch(folder: Path, *, tiny: bool) -> None:
    """Random utterances whose lengths are between three quarters of the longest and it."""
    utterances, frames, labels = TINY_SIZES if tiny else (UTTERANCES, FRAMES, LABELS)
    random = np.random.default_rng(0)
    num_frames = random.integers(frames * 3 // 4, frames + 1, utterances).astype(np.int32)
    num_frames[0] = frames
    np.savez(
        folder / "batch.npz",
        features=random.standard_normal((utterances, frames, 161), np.float32),
        num_frames=num_frames,
        labels=random.integers(1, CLASSES, (utterances, labels)).astype(np.int32),
        num_labels=(num_frames * labels // frames).astype(np.int32),
    )


def write_peer_settings(config: Config, folder: Path) -> None:
    """What PyTorch's model must be to be the same network."""
    model = config.model
    settings = {
        "num_bins": 161,
        "channels": model.front_end.channels,  # type: ignore[union-attr]
        "hidden": model.hidden,
        "layers": model.layers,
        "relu_clip": model.relu_clip,
        "num_classes": CLASSES,
        "learning_rate": config.optimizer.learning_rate,
        "momentum": config.optimizer.momentum,  # type: ignore[union-attr]
        "clip_norm": config.training.clip_norm,
    }
    (folder / "settings.json").write_text(json.dumps(settings))


def measure(settings: Settings, format: str, folder: Path, peer: Worker | None, meter: Worker) -> None:
    """One format: all prepared side by side, then a large product, PyTorch, one shard and eight in turn."""
    counts = SHARDS[:1] if settings.tiny else SHARDS
    ours = {f"{format} {_shards(count)}": _worker(settings, format, count, folder) for count in counts}
    facts: dict[str, Any] = {}
    try:
        for worker in ours.values():
            worker.send("prepare", unit_seconds=settings.unit_seconds)
        if peer is not None:
            peer.ask("forget")
            own = {f"{format} torch": {"kind": "step", "format": format, "folder": str(folder)}}
            facts |= peer.ask("prepare", cases=own, unit_seconds=settings.unit_seconds)
        meter.ask("forget")
        own = {f"{format} product": {"kind": "product", "format": format, "size": 256 if settings.tiny else 8192}}
        facts |= meter.ask("prepare", cases=own, unit_seconds=settings.unit_seconds)
        for name, worker in ours.items():
            facts[name] = _prepare(worker.answer)
        compare(settings, format, facts, ours, peer, meter)
    except Failed as reason:  # the product's worker or PyTorch's died
        row(f"Deep Speech 2 {format}", f"FAILED: {reason}")
    finally:
        for worker in ours.values():
            worker.close()


def _prepare(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Facts, or the error as the facts have it."""
    try:
        return answer()
    except Failed as reason:
        return {"error": str(reason)}


def compare(
    settings: Settings, format: str, facts: dict[str, Any], ours: dict[str, Worker], peer: Worker | None, meter: Worker
) -> None:
    """The contenders of one format in turn."""
    workers = {f"{format} product": meter, **({f"{format} torch": peer} if peer else {})}
    workers |= {name: worker for name, worker in ours.items() if name.startswith(f"{format} ")}
    calls = {name: partial(worker.seconds, name) for name, worker in workers.items() if "error" not in facts[name]}
    times, reasons = take_turns(calls, settings.rounds(ROUNDS))
    reasons |= {name: facts[name]["error"] for name in workers if "error" in facts[name]}
    for name, why in reasons.items():
        row(f"Deep Speech 2 {name}", f"FAILED: {why}")
    report(format, times, facts)


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"


def _worker(settings: Settings, format: str, shards: int, folder: Path) -> Worker:
    arguments = ["--work", str(folder), "--format", format, "--shards", str(shards)]
    command = [sys.executable, "-m", "benchmarks.gpu_step", *arguments]
    return Worker(f"dsrun, {_shards(shards)}", [*command, *(["--tiny"] if settings.tiny else [])])


def report(format: str, times: dict[str, list[float]], facts: dict[str, Any]) -> None:
    """A row a contender."""
    product, torch = f"{format} product", f"{format} torch"
    own = next((facts[name] for name in times if "flops" in facts[name] and name != product), {})
    for name, seconds in times.items():
        if name == product:
            continue
        middle, about = statistics.median(seconds), facts[name]
        words, figures = spread(seconds, 1e3, "ms a step"), {**about, "seconds": seconds}
        if own:
            words += f", {own['utterances'] / middle:.1f} utterances/s, {own['flops'] / middle / 1e12:.3g} TFLOP/s"
        if own and product in times:
            share = own["flops"] / facts[product]["flops"] * ratio(times[product], seconds)["median"]
            figures["share_of_product"] = share
            words += f", {share:.1%} of the product's"
        if about.get("peak_memory_bytes"):
            words += f", {about['peak_memory_bytes'] / 1e9:.1f} GB at most"
        if name == torch:
            words += f"; {about['engine']}"
        elif torch in times:
            figures["time_over_torchs"] = ratio(seconds, times[torch])
            words += "; " + beside(figures["time_over_torchs"], "torch")
        words += f"; {about['parameters'] / 1e6:.1f} M parameters, first loss {about['loss']:.0f}"
        row(f"Deep Speech 2 {name}", words, **figures)


# --- dsrun's worker ----------------------------------------------------------------------------------------------------------------


def work() -> None:
    """The training step on the batch of the folder, compiled when asked and timed when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    parser.add_argument("--format")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    from dsrun.record.runtime import configure_runtime

    configure_runtime()  # the whole pool of threads: what they compute does not differ on a GPU, and compiling is faster
    import jax

    config = load(options.tiny, FORMATS[options.format], options.shards)
    own: dict[str, Any] = {}
    handlers = {
        "prepare": lambda unit_seconds: _prepared(own, config, options.work / "batch.npz", unit_seconds),
        "time": lambda case: _timed(own),
    }
    serve({"jax": jax.__version__}, handlers)


def _prepared(own: dict[str, Any], config: Config, batch: Path, unit_seconds: float) -> dict[str, Any]:
    import jax

    from dsrun.study.flops import network_flops
    from dsrun.study.stopwatch import peak_memory

    step = _make_step(config)
    pieces, lengths = _load(batch, config.batches.shards)
    state = step.start()
    parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(state.first.master))
    start = time.perf_counter()
    own["state"], record = step(state, pieces)
    loss = float(record.loss)
    compiled = time.perf_counter() - start
    own["pass"] = lambda: own.update(state=step(own["state"], pieces)[0])
    own["count"] = passes_for(lambda: (own["pass"](), jax.block_until_ready(own["state"])), unit_seconds)
    memory = peak_memory(jax.devices()[0])
    is_devices = (
        "allocator" in memory["peak_memory_is"]
    )  # a CPU has the whole process's instead, which says little here
    return {
        "parameters": parameters,
        "loss": loss,
        "first_step_seconds": compiled,
        "utterances": len(lengths),
        "flops": network_flops(step.settings, lengths).training,
        "peak_memory_bytes": memory["peak_memory_bytes"] if is_devices else None,
    }


def _make_step(config: Config) -> Any:
    """As `dsrun train` makes it."""
    import jax

    from dsrun import build

    settings = build.build_model_settings(config, num_classes=CLASSES)
    return build.build_step(
        config, settings, build.build_policy(config), steps_per_epoch=1000, labels=LABELS, devices=jax.devices()[:1]
    )


def _load(path: Path, shards: int) -> tuple[Any, list[int]]:
    import jax

    from dsrun.training.step import Shard, split_batch

    with np.load(path) as arrays:
        batch = Shard(*(arrays[name] for name in ("features", "num_frames", "labels", "num_labels")))
    lengths = [int(frames) for frames in batch.num_frames]
    return jax.device_put(split_batch(batch, shards)), lengths


def _timed(own: dict[str, Any]) -> dict[str, float]:
    import jax

    start = time.perf_counter()
    for _ in range(own["count"]):
        own["pass"]()
    jax.block_until_ready(own["state"])
    return {"seconds": (time.perf_counter() - start) / own["count"]}


if __name__ == "__main__":
    main()
