"""Training speed beside PyTorch: the same network shape, the same batches, the same two threads.

    python -m benchmarks.train_step --config configs/prompts_float32.yaml --torch-python PATH [--set KEY=VALUE] [--json]

The batches are real ones: the first of the config's second epoch (shuffled and augmented), so every padded shape has
its chance. dsrun's side is `dsrun.training.TrainStep` as `dsrun train` runs it; PyTorch's is
`peers/torch_deep_speech.py`, run by a Python that has torch. Loading audio and computing features is left out on both
sides.

Both run with the allocator setting that `dsrun train` gives itself (2 MiB pages); `--small-pages` takes it from both.
Each contender is a process of its own, bound to the same processors. They take turns (`turns`), a pass over all batches each.
The figure is the median over the passes of utterances a second, and the ratio is the median of the ratios of
neighbouring passes, so that a busy minute of a shared machine meets both. The first pass of each compiles and warms
up and does not count.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Contender, compete, ratio, serve
from dsrun.config import Config, load_config
from dsrun.errors import UsageError
from dsrun.record.runtime import configure_runtime

PEER = Path(__file__).parent / "peers" / "torch_deep_speech.py"
ARRAYS = ("features", "num_frames", "labels", "num_labels")


@dataclass(frozen=True)
class Timing:
    """One contender: seconds of each pass, and what shows that it did the work (parameters, loss of the last pass)."""

    contender: str
    version: str
    parameters: int
    seconds: list[float]
    utterances_per_second: float
    loss: float


def write_problem(config: Config, folder: Path, *, batches: int | None) -> tuple[int, int]:
    """Batches and settings for both workers; returns how many batches there are, and utterances in them."""
    from dsrun.build import build_batcher, build_model_settings, build_training_data
    from dsrun.model import FrameStackSettings

    data = build_training_data(config)
    model = build_model_settings(config, num_classes=data.alphabet.num_classes)
    if not isinstance(model.front_end, FrameStackSettings):
        raise UsageError("model.front_end.kind is conv2d: the PyTorch peer has frame_stack only.")
    batcher = build_batcher(config, data.train, purpose="train")
    chosen = [batcher.batch(1, index) for index in range(batcher.batches_per_epoch)][:batches]
    arrays = {f"{name}_{i}": getattr(batch, name) for i, batch in enumerate(chosen) for name in ARRAYS}
    np.savez(folder / "batches.npz", **arrays)
    settings = {
        "seed": config.seed,
        "steps_per_epoch": batcher.batches_per_epoch,
        "model": asdict(model),
        "optimizer": config.optimizer.model_dump(),
        "clip_norm": config.training.clip_norm,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return len(chosen), sum(int(np.sum(batch.num_frames > 0)) for batch in chosen)


def work(config: Config, folder: Path) -> None:
    """dsrun's worker: the training step over the batches, once for each line on stdin."""
    import jax

    from dsrun.arithmetic import Policy
    from dsrun.build import build_model_settings, build_policy, build_step
    from dsrun.training.step import Shard

    settings = json.loads((folder / "settings.json").read_text())
    with np.load(folder / "batches.npz") as arrays:
        count = sum(name.startswith("features_") for name in arrays)
        batches = [Shard(*(arrays[f"{name}_{i}"] for name in ARRAYS)) for i in range(count)]
    policy: Policy = build_policy(config)
    step = build_step(
        config,
        build_model_settings(config, num_classes=settings["model"]["num_classes"]),
        policy,
        steps_per_epoch=settings["steps_per_epoch"],
        labels=max(batch.labels.shape[1] for batch in batches),
        devices=jax.devices(),
    )
    state = step.start()
    parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(state.first.master))

    def one_pass(state: Any) -> tuple[Any, dict[str, float]]:
        from dsrun.training.step import split_batch

        start = time.perf_counter()
        losses = []
        for batch in batches:
            state, record = step(state, split_batch(batch, config.batches.shards))
            losses.append(record.loss)
        losses = [float(loss) for loss in jax.device_get(losses)]
        jax.block_until_ready(state)
        return state, {"seconds": time.perf_counter() - start, "loss": statistics.mean(losses)}

    state, _ = one_pass(state)

    def unit() -> dict[str, float]:
        nonlocal state
        state, result = one_pass(state)
        return result

    serve({"version": f"dsrun on jax {jax.__version__}", "parameters": parameters}, unit)


def timing(contender: Contender, utterances: int) -> Timing:
    return Timing(
        contender=contender.name,
        version=contender.ready["version"],
        parameters=contender.ready["parameters"],
        seconds=contender.seconds,
        utterances_per_second=utterances / statistics.median(contender.seconds),
        loss=contender.results[-1]["loss"],
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start the workers, let them take turns, gather."""
    # The peer has no schedule: with a constant rate on both sides the losses of the last pass can be compared.
    sets = [*options.set, "schedule={kind: constant}"]
    config = load_config(options.config, sets).config
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batches, utterances = write_problem(config, folder, batches=options.batches)
        threads = ["--threads", str(options.threads)]
        own = [sys.executable, "-m", "benchmarks.train_step", "--config", str(options.config), "--work", name, *threads]
        own += [word for setting in sets for word in ("--set", setting)]
        commands = {"dsrun": own}
        if options.torch_python:
            commands["torch"] = [str(options.torch_python), str(PEER), name, *threads]
        contenders = compete(commands, rounds=options.repeats, large_pages=not options.small_pages)
    result: dict[str, Any] = {
        "config": str(options.config),
        "set": sets,
        "batches": batches,
        "utterances": utterances,
        "threads": options.threads,
        "large_pages": not options.small_pages,
        "contenders": [asdict(timing(contender, utterances)) for contender in contenders],
    }
    if len(contenders) == 2:
        result["ratio"] = ratio(contenders[1].seconds, contenders[0].seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Time dsrun's training step, beside PyTorch's where it is available.")
    parser.add_argument("--config", type=Path, default=Path("configs/prompts_float32.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--torch-python", type=Path, help="a Python that has torch; without it dsrun runs alone")
    parser.add_argument("--batches", type=int, help="global batches a pass; default the whole epoch")
    parser.add_argument("--repeats", type=int, default=7, help="passes of each contender that count")
    parser.add_argument("--threads", type=int, default=2, help="processors that each contender may use")
    parser.add_argument("--small-pages", action="store_true", help="leave the allocator with 4 KiB pages")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
        config = load_config(options.config, options.set).config
        shards = config.batches.shards
        configure_runtime(min(options.threads, shards), pool_size=shards)  # as `dsrun train` does
        return work(config, options.work)
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return None
    pages = "2 MiB" if result["large_pages"] else "4 KiB"
    print(
        f"{result['utterances']} utterances in {result['batches']} batches a pass, {result['threads']} threads, {pages} pages"
    )
    for row in result["contenders"]:
        seconds = row["seconds"]
        print(
            f"{row['contender']:6} {row['utterances_per_second']:8.1f} utterances/s   "
            f"median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}   "
            f"{row['parameters']} parameters, loss {row['loss']:.1f}   {row['version']}"
        )
    if "ratio" in result:
        found = result["ratio"]
        print(f"dsrun / torch: {found['median']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f})")
    return None


if __name__ == "__main__":
    main()
