"""What an arithmetic costs: whole training steps of one config under several arithmetics, beside its own, in one process.

    python -m benchmarks.arithmetic_step [--config FILE] [--batches N] [--repeats N] [--carriers | --watching] [--json]

The batches are the first of the config's second epoch, as `dsrun train` would make them; each variant makes the same steps on the
same devices. They take turns, A B C A B C, a pass over all batches each; the figure is the median over the passes of a variant's
time over the baseline's in the same turn, so a busy minute of a shared machine meets both. The first pass of each compiles and does
not count. Bytes are those of the arrays that a step keeps: weights that accumulate, weights as read where they are others, the
optimizer's state, Kahan's compensation.

With --watching: what one observation of a step costs (its dispatch, its counts, and reading them), in steps of the same batches, and
so the share of the time at the config's `training.watch_every_steps`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsrun.config import load_config
from dsrun.record.runtime import ask_for_large_pages, configure_runtime

if TYPE_CHECKING:
    from dsrun.training.step import TrainStep

NONE = ("arithmetic.master=none",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "as the config says": (),
    "float16 storage": ("arithmetic.storage.format=float16",),
    "float16 storage, no master, stochastic updates": (
        "arithmetic.storage.format=float16",
        *NONE,
        "arithmetic.update.rounding=stochastic",
    ),
    "bfloat16 storage, no master, kahan": (
        "arithmetic.storage.format=bfloat16",
        *NONE,
        "arithmetic.update.compensation=kahan",
    ),
}
CARRIERS = {
    f"{format} throughout, no master, stochastic updates, {carrier}": (
        *(f"arithmetic.{role}.format={format}" for role in ("storage", "compute", "gradient")),
        f"arithmetic.state={{format: {format}, rounding: ties_to_even}}",
        *NONE,
        "arithmetic.update.rounding=stochastic",
        f"arithmetic.carrier={carrier}",
    )
    for format in ("float16", "bfloat16")
    for carrier in ("emulated", "native")
}


@dataclass(frozen=True)
class Setting:
    """The first batches of a config's second epoch, in shards, and what makes its step under other arithmetics."""

    shards: list[Any]
    make: Callable[[tuple[str, ...]], "TrainStep"]
    watch_every_steps: int | None


def prepare(config: str, *, sets: list[str], batches: int) -> Setting:
    """Data and network of a config; starts JAX."""
    base = load_config(config, sets).config
    configure_runtime(base.batches.shards, pool_size=base.batches.shards)
    import jax

    from dsrun import build
    from dsrun.training.step import TrainStep, split_batch

    data = build.build_training_data(base)
    settings = build.build_model_settings(base, num_classes=data.alphabet.num_classes)
    batcher = build.build_batcher(base, data.train, purpose="train")
    count = min(batches, batcher.batches_per_epoch)
    shards = [split_batch(batcher.batch(1, i), base.batches.shards) for i in range(count)]

    def make(changes: tuple[str, ...]) -> TrainStep:
        own = load_config(config, [*sets, *changes]).config
        devices = jax.devices()[: base.batches.shards]
        return build.build_step(
            own,
            settings,
            build.build_policy(own),
            steps_per_epoch=batcher.batches_per_epoch,
            labels=batcher.most_labels,
            devices=devices,
        )

    return Setting(shards, make, base.training.watch_every_steps)


def measure(setting: Setting, variants: dict[str, tuple[str, ...]], *, repeats: int) -> list[dict[str, Any]]:
    """A row for each variant: time relative to the first, lowest and highest, bytes kept, last loss."""
    import jax

    steps = {name: setting.make(changes) for name, changes in variants.items()}
    states = {name: step.start() for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for pieces in setting.shards:
                states[name], record = step(states[name], pieces)
            jax.block_until_ready((states[name], record))
            losses[name] = float(record.loss)
            if turn:
                seconds[name].append(time.perf_counter() - start)
            else:
                print(f"{name}: compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    first = next(iter(variants))
    rows = []
    for name, step in steps.items():
        ratios = [own / baseline for own, baseline in zip(seconds[name], seconds[first], strict=True)]
        rows.append(
            {
                "arithmetic": name,
                "time": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "ms_a_step": 1e3 * statistics.median(seconds[name]) / len(setting.shards),
                "bytes": bytes_kept(step, states[name].first),
                "loss": losses[name],
            }
        )
    return rows


def measure_watching(setting: Setting, *, repeats: int) -> dict[str, Any]:
    """An observation's time in steps of the same batch, with and without the pass through the network, and the share of step time."""
    import jax

    from dsrun.training.watch import Watcher

    step = setting.make(())
    watchers = {"with the network": Watcher(step), "update only": Watcher(step, frames=())}
    state = step.start()
    ratios: dict[str, list[float]] = {name: [] for name in watchers}
    for turn in range(repeats + 1):
        for pieces in setting.shards:
            observed = {}
            total = jax.block_until_ready(step.total(state, pieces))
            for name, watcher in watchers.items():
                start = time.perf_counter()
                watcher.read(watcher(state.first, total[0], pieces[0]), step=1, loss_scale=1.0)
                observed[name] = time.perf_counter() - start
            start = time.perf_counter()
            state, record = step(state, pieces)
            jax.block_until_ready((state, record))
            alone = time.perf_counter() - start
            if turn:
                for name in watchers:
                    ratios[name].append(observed[name] / alone)
    every = setting.watch_every_steps
    found = {name: statistics.quantiles(values, n=4, method="inclusive") for name, values in ratios.items()}
    return {
        "observation_in_steps": found,
        "watch_every_steps": every,
        "share_of_step_time": {name: values[1] / every for name, values in found.items()} if every else None,
    }


def bytes_kept(step: Any, state: Any) -> int:
    """Of the arrays that live from one step to the next, and of the weights as read."""
    import jax

    kept = [state.master, state.optimizer, state.compensation]
    if not step.policy.stores_exactly:
        kept.append(step.weights(state))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(kept))


def main() -> None:
    """Command line."""
    ask_for_large_pages()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).parent.parent / "configs" / "prompts_float32.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="for all variants")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--carriers", action="store_true", help="16 bits throughout, emulated and native, instead")
    parser.add_argument("--watching", action="store_true", help="the cost of watching instead")
    parser.add_argument("--absolute", action="store_true", help="milliseconds a step too: on a GPU of your own only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    setting = prepare(options.config, sets=options.sets, batches=options.batches)
    if options.watching:
        found = measure_watching(setting, repeats=options.repeats)
        if options.json:
            print(json.dumps(found, indent=2))
            return
        shares, every = found["share_of_step_time"], found["watch_every_steps"]
        for name, (low, middle, high) in found["observation_in_steps"].items():
            share = f", {shares[name]:.1%} of step time at every {every}th" if shares else ""
            print(f"{name:<20} {middle:.2f} steps ({low:.2f} to {high:.2f}){share}")
        return
    first = dict(list(VARIANTS.items())[:1])
    variants = first | CARRIERS if options.carriers else VARIANTS
    rows = measure(setting, variants, repeats=options.repeats)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        absolute = f"  {row['ms_a_step']:8.1f} ms" if options.absolute else ""
        print(
            f"{row['arithmetic']:<60} time {row['time']:5.2f} ({row['lowest']:.2f} to {row['highest']:.2f}){absolute}  "
            f"{row['bytes'] / 1e6:8.2f} MB  loss {row['loss']:.3f}"
        )


if __name__ == "__main__":
    main()
