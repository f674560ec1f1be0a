"""The same training steps on 1, 2, ... devices of this machine: how much faster, and whether the bits stay.

On the roof, since it needs a config and its data. A step's shards are spread over the devices, so the work is the same and only
the place changes (strong scaling): the promise is that losses are the same to the last bit, and the speed is what is measured. All device
counts are made in one process and take turns, a pass over all batches each; a speed-up is the median of the ratios within a round.

Each number of devices is measured with both sums over devices, the fixed tree and the library's all-reduce, which share every other
program: their ratio is what the order costs. One device has nothing to send, and there both are the same program. The library rounds
nothing, so where `arithmetic.reduce` is not float32 it is left out. Bytes are counted and not measured, also for numbers of devices that
are not here (`dsrun.study.scaling_model` draws from them).

The talk's figures: 55% of peak on one GPU, about 48% on eight, an efficiency of 0.87. CPU devices share their cores: there
a speed-up says how well their threads fill the cores, not what more hardware would bring.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from dsrun import build
from dsrun.config import Config
from dsrun.errors import UsageError
from dsrun.experiment import Experiment, prepare
from dsrun.record.runtime import processors
from dsrun.step_parts import peak_format
from dsrun.study.ceilings import Ceilings, machine_facts
from dsrun.study.flops import Work, network_flops
from dsrun.study.scaling_model import DEVICE_COUNTS
from dsrun.study.stopwatch import announce, peak_memory, quartiles, ratios, summary
from dsrun.training.exchange import ReductionKind, bytes_sent
from dsrun.training.reduction import reduces_exactly
from dsrun.training.state import ShardSums
from dsrun.training.step import TrainStep, split_batch

TALK_EFFICIENCY = 0.87  # from one GPU to eight


def bench_scaling(config: Config, counts: Sequence[int] | None, *, batches: int, repeats: int) -> dict[str, Any]:
    """A row for each number of devices; without counts the powers of two that there are.

    With no `repeats` nothing is run, and the report has what is counted.
    """
    shards = config.batches.shards
    for count in counts or ():
        if not 1 <= count <= shards:
            raise UsageError(
                f"--devices {count}: a step has {shards} shards (batches.shards), so 1 to {shards} devices."
            )
    experiment = prepare(config, devices=max(counts) if counts else None)
    available = experiment.step.devices
    chosen = sorted(set(counts)) if counts else _powers_of_two(len(available))
    pieces = _batches(experiment, config, batches)
    lengths = [int(n) for batch in pieces for shard in batch for n in shard.num_frames if n > 0]
    flops = network_flops(experiment.step.settings, lengths).training
    is_cpu = available[0].platform == "cpu"
    example = experiment.step.shapes_of_sums(pieces[0][0])
    common = {
        "benchmark": "scaling",
        "machine": machine_facts(available),
        "batches": len(pieces),
        "shards": shards,
        "talk_efficiency_one_to_eight": TALK_EFFICIENCY,
        "devices_share_processors": processors() if is_cpu else None,
        "all_reduce_left_out": None
        if reduces_exactly(experiment.step.policy)
        else "the library's all-reduce adds in float32 and rounds nothing; arithmetic.reduce is not float32",
        "counted": _counted(experiment.step, example, flops=flops, utterances=len(lengths), batches=len(pieces)),
    }
    if not repeats:
        announce("scaling: no repeats: FLOPs and bytes are counted, nothing is run")
        return common | {"rows": [], "reductions": [], "equal_loss_bits": None, "losses_compared": 0, "ceilings": None}
    contenders = _contenders(experiment, config, chosen)
    limits = Ceilings([peak_format(experiment.step)], available)
    times = _in_turns(contenders, limits, pieces, repeats)
    trees = {own.count: own for own in contenders.values() if own.kind == "tree"}
    return common | {
        "ceilings": limits.report({name: times[name] for name in limits.calls}),
        "equal_loss_bits": len({_bits(own.losses) for own in trees.values()}) == 1,
        "losses_compared": len(trees[chosen[0]].losses),
        "rows": [
            _row(count, chosen[0], times, own.losses, len(lengths), flops, own.first_seconds, len(pieces))
            | _shares(
                limits,
                times,
                peak_format(experiment.step),
                str(count),
                flops,
                1.0 if is_cpu else count / len(available),
            )
            for count, own in trees.items()
        ],
        "reductions": [
            _reduction_row(count, contenders, times, flops, len(pieces), example, _bits(trees[chosen[0]].losses))
            for count in chosen
            if count > 1
        ],
        **peak_memory(available[0]),
    }


def _counted(step: TrainStep, example: ShardSums, *, flops: int, utterances: int, batches: int) -> dict[str, Any]:
    """What a step computes and, on so many devices with this step's shards each, sends."""
    return {
        "flops_a_step": flops / batches,
        "utterances_a_step": utterances / batches,
        "shards_a_device": step.shards,
        "by_devices": [
            {"devices": count} | bytes_sent(example, step.policy, devices=count, shards=count * step.shards)
            for count in DEVICE_COUNTS
        ],
    }


@dataclass
class Contender:
    """A number of devices with one kind of sum: what is timed, and what it gave."""

    count: int
    kind: ReductionKind
    step: TrainStep
    state: Any
    losses: list[float] = field(default_factory=list)
    first_seconds: float = 0.0

    def run(self, batches: Sequence[Any]) -> float:
        """Seconds of one pass; the losses are kept."""
        start = time.perf_counter()
        records = []
        for batch in batches:
            self.state, record = self.step(self.state, batch)
            records.append(record.loss)
        jax.block_until_ready((self.state, records))
        seconds = time.perf_counter() - start
        self.losses += [float(loss) for loss in jax.device_get(records)]
        return seconds


def _contenders(experiment: Experiment, config: Config, counts: Sequence[int]) -> dict[str, Contender]:
    """By name: a count for the tree, and "N all_reduce" beside it where there is another to compare with."""
    found = {}
    for count in counts:
        step = step_on(experiment, config, experiment.step.devices[:count]).with_reduction("tree")
        found[str(count)] = Contender(count, "tree", step, step.start())
        if count > 1 and reduces_exactly(step.policy):
            library = step.with_reduction("all_reduce")
            found[_library(count)] = Contender(count, "all_reduce", library, library.start())
    return found


def _library(count: int) -> str:
    return f"{count} all_reduce"


def _in_turns(
    contenders: dict[str, Contender], limits: Ceilings, pieces: Sequence[Any], repeats: int
) -> dict[str, list[float]]:
    """Seconds of a pass by name, one figure a round; the pass that compiles is not among them."""
    times: dict[str, list[float]] = {name: [] for name in (*contenders, *limits.calls)}
    for number in range(repeats + 1):
        for name, own in contenders.items():
            seconds = own.run(pieces)
            if number:
                times[name].append(seconds)
            else:
                own.first_seconds = seconds
                announce(f"scaling: {own.count} devices, {own.kind}: compiled and first pass {seconds:.1f} s")
        for name, call in limits.calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                times[name].append(time.perf_counter() - start)
        if number:
            announce(f"scaling: round {number} of {repeats}")
    return times


def _reduction_row(
    count: int,
    contenders: dict[str, Contender],
    times: dict[str, list[float]],
    flops: int,
    batches: int,
    example: ShardSums,
    tree_bits: bytes,
) -> dict[str, Any]:
    """The tree beside the library on so many devices; of the library nothing where it was left out."""
    sent = contenders[str(count)].step.reduction.bytes_sent(example)
    row = {
        "devices": count,
        "tree_bytes_sent": sent["exchanged"] + sent["gathered"],
        "tree_bytes_exchanged": sent["exchanged"],
        "tree_bytes_received": sent["received"],
        "tree_bytes_gathered": sent["gathered"],
        "ring_bytes_sent": sent["ring"],
        **summary([seconds / batches for seconds in times[str(count)]], "tree_seconds_a_step"),
    }
    if _library(count) not in contenders:
        return row
    own = times[_library(count)]
    low, middle, high = ratios(times[str(count)], own)
    return row | {
        **summary([seconds / batches for seconds in own], "all_reduce_seconds_a_step"),
        "tree_over_all_reduce": middle,
        "tree_over_all_reduce_quartiles": [low, high],
        "all_reduce_tflop_per_second": flops / quartiles(own)[1] / 1e12,
        "all_reduce_has_the_trees_loss_bits": _bits(contenders[_library(count)].losses) == tree_bits,
    }


def step_on(experiment: Experiment, config: Config, devices: Sequence[jax.Device]) -> TrainStep:
    """The experiment's step on some of the devices."""
    step, batcher = experiment.step, experiment.batcher
    return build.build_step(
        config,
        step.settings,
        step.policy,
        steps_per_epoch=batcher.batches_per_epoch,
        labels=batcher.most_labels,
        devices=devices,
    )


def _row(
    count: int,
    fewest: int,
    times: dict[str, list[float]],
    losses: list[float],
    utterances: int,
    flops: int,
    first_seconds: float,
    batches: int,
) -> dict[str, Any]:
    own, base = times[str(count)], times[str(fewest)]
    low, speed_up, high = ratios(base, own)
    median = quartiles(own)[1]
    return {
        "devices": count,
        **summary([seconds / batches for seconds in own], "seconds_a_step"),
        "utterances_per_second": utterances / median,
        "tflop_per_second": flops / median / 1e12,
        "speed_up": speed_up,
        "speed_up_quartiles": [low, high],
        "efficiency": speed_up * fewest / count,
        "relative_to_devices": fewest,
        "last_loss": losses[-1],
        "last_loss_bits": np.float32(losses[-1]).tobytes()[::-1].hex(),
        "compile_seconds": max(first_seconds - median, 0.0),
    }


def _shares(
    limits: Ceilings, times: dict[str, list[float]], format: str, name: str, flops: int, part: float
) -> dict[str, float | None]:
    """Of what the devices in use can do: `part` of the ceilings, which were measured on all. CPU devices share their cores, so of all."""
    found = limits.figures(times, name, Work(0, flops, 0), format)
    names = ("share_of_measured_peak", "share_of_datasheet_peak", "share_of_datasheet_fma_peak")
    return {share: None if found[share] is None else found[share] / part for share in names}


def _batches(experiment: Experiment, config: Config, count: int) -> list[Any]:
    """The first of the second epoch, in shards."""
    batcher = experiment.batcher
    return [
        split_batch(batcher.batch(1, index), config.batches.shards)
        for index in range(min(count, batcher.batches_per_epoch))
    ]


def _powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ..., and `most` itself."""
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most})


def _bits(losses: Sequence[float]) -> bytes:
    return np.array(losses, np.float32).tobytes()
