"""Training speed beside PyTorch: the same network shape, the same batches, the same two threads.

    python -m benchmarks.train_step --config configs/prompts_float32.yaml --torch-python PATH [--set KEY=VALUE] [--json]

The batches are real ones: the first of the config's second epoch (shuffled and augmented), so every padded shape has
its chance. dsrun's side is `dsrun.training.TrainStep` as `dsrun train` runs it; PyTorch's is
`peers/torch_deep_speech.py`, run by a Python that has torch. Loading audio and computing features is left out on both
sides.

Both run with the allocator setting that `dsrun train` gives itself (2 MiB pages); `--small-pages` takes it from both.
Each contender is a process of its own, since torch and XLA in one process slow one another down, and bound to the
same processors. They take turns, A B A B, a pass over all batches each, one waiting on a pipe while the other works.
The figure is the median over the passes of utterances a second, and the ratio is the median of the ratios of
neighbouring passes, so that a busy minute of a shared machine meets both. The first pass of each compiles and warms
up and does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.config import Config, load_config
from dsrun.errors import UsageError
from dsrun.record.runtime import ALLOCATOR_VARIABLE, LARGE_PAGES, configure_runtime

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


class Contender:
    """A worker process that makes one pass over the batches whenever it is asked to."""

    def __init__(self, name: str, command: Sequence[str], *, large_pages: bool):
        self.name, self.loss = name, float("nan")
        self.seconds: list[float] = []
        others = [t for t in os.environ.get(ALLOCATOR_VARIABLE, "").split(":") if t and LARGE_PAGES not in t]
        variables = os.environ | {ALLOCATOR_VARIABLE: ":".join([*others, f"{LARGE_PAGES}={large_pages:d}"])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        ready = self._line()
        self.version, self.parameters = ready["version"], ready["parameters"]

    def one_pass(self) -> None:
        """Ask for a pass and note its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("pass\n")
        self.process.stdin.flush()
        result = self._line()
        self.seconds.append(result["seconds"])
        self.loss = result["loss"]

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UsageError(f"{self.name} ended with exit code {self.process.wait()}; its message is above.")
        return json.loads(line)


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
    from dsrun.build import build_model_settings, build_optimizer, build_policy
    from dsrun.training.step import Shard, TrainStep

    settings = json.loads((folder / "settings.json").read_text())
    policy: Policy = build_policy(config)
    step = TrainStep(
        build_model_settings(config, num_classes=settings["model"]["num_classes"]),
        policy,
        build_optimizer(config, steps_per_epoch=settings["steps_per_epoch"]),
        clip_norm=config.training.clip_norm,
        shards=config.batches.shards,
        seed=config.seed,
        statistics_momentum=config.model.statistics_momentum,
        devices=jax.devices(),
    )
    with np.load(folder / "batches.npz") as arrays:
        count = sum(name.startswith("features_") for name in arrays)
        batches = [Shard(*(arrays[f"{name}_{i}"] for name in ARRAYS)) for i in range(count)]
    state = step.initial_state()
    parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(state.master))

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
    print(json.dumps({"version": f"dsrun on jax {jax.__version__}", "parameters": parameters}), flush=True)
    for _ in sys.stdin:
        state, result = one_pass(state)
        print(json.dumps(result), flush=True)


def compete(contenders: Sequence[Contender], *, repeats: int, pause_seconds: float) -> None:
    """Passes in turn; the pause lets the threads of the one before fall asleep."""
    for _ in range(repeats):
        for contender in contenders:
            time.sleep(pause_seconds)
            contender.one_pass()


def timing(contender: Contender, utterances: int) -> Timing:
    return Timing(
        contender=contender.name,
        version=contender.version,
        parameters=contender.parameters,
        seconds=contender.seconds,
        utterances_per_second=utterances / statistics.median(contender.seconds),
        loss=contender.loss,
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
        contenders = [Contender(*item, large_pages=not options.small_pages) for item in commands.items()]
        compete(contenders, repeats=options.repeats, pause_seconds=0.5)
        for contender in contenders:
            contender.close()
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
        pairs = zip(contenders[1].seconds, contenders[0].seconds, strict=True)
        ratios = sorted(other / ours for other, ours in pairs)
        result["ratio"] = {"median": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
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
        ratio = result["ratio"]
        print(f"dsrun / torch: {ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})")
    return None


if __name__ == "__main__":
    main()
