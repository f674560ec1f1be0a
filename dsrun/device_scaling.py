"""The same training steps on 1, 2, ... devices of this machine: how much faster, and whether the bits stay.

On the roof, since it needs a config and its data. A step's shards are spread over the devices, so the work is the same and only
the place changes (strong scaling): the promise is that losses are the same to the last bit, and the speed is what is measured. All device
counts are made in one process and take turns, a pass over all batches each; a speed-up is the median of the ratios within a round.

The talk's figures: 55% of peak on one GPU, about 48% on eight, an efficiency of 0.87. CPU devices share their cores: there
a speed-up says how well their threads fill the cores, not what more hardware would bring.
"""

import time
from collections.abc import Sequence
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
from dsrun.study.stopwatch import announce, peak_memory, quartiles, ratios, summary
from dsrun.training.step import TrainStep, split_batch

TALK_EFFICIENCY = 0.87  # from one GPU to eight


def bench_scaling(config: Config, counts: Sequence[int] | None, *, batches: int, repeats: int) -> dict[str, Any]:
    """A row for each number of devices; without counts the powers of two that there are."""
    shards = config.batches.shards
    for count in counts or ():
        if not 1 <= count <= shards:
            raise UsageError(
                f"--devices {count}: a step has {shards} shards (batches.shards), so 1 to {shards} devices."
            )
    experiment = prepare(config, devices=max(counts) if counts else None)
    available = experiment.step.devices
    chosen = sorted(set(counts)) if counts else _powers_of_two(len(available))
    steps = {count: step_on(experiment, config, available[:count]) for count in chosen}
    pieces = _batches(experiment, config, batches)
    states = {count: step.start() for count, step in steps.items()}
    limits = Ceilings([peak_format(experiment.step)], available)
    times: dict[str, list[float]] = {name: [] for name in (*map(str, chosen), *limits.calls)}
    losses: dict[int, list[float]] = {count: [] for count in chosen}
    first: dict[int, float] = {}
    for number in range(repeats + 1):
        for count, step in steps.items():
            start = time.perf_counter()
            records = []
            for batch in pieces:
                states[count], record = step(states[count], batch)
                records.append(record.loss)
            jax.block_until_ready((states[count], records))
            seconds = time.perf_counter() - start
            losses[count] += [float(loss) for loss in jax.device_get(records)]
            if number:
                times[str(count)].append(seconds)
            else:
                first[count] = seconds
                announce(f"scaling: {count} devices: compiled and first pass {seconds:.1f} s")
        for name, call in limits.calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                times[name].append(time.perf_counter() - start)
        if number:
            announce(f"scaling: round {number} of {repeats}")
    lengths = [int(n) for batch in pieces for shard in batch for n in shard.num_frames if n > 0]
    flops = network_flops(experiment.step.settings, lengths).training
    is_cpu = available[0].platform == "cpu"
    return {
        "benchmark": "scaling",
        "machine": machine_facts(available),
        "batches": len(pieces),
        "shards": shards,
        "ceilings": limits.report({name: times[name] for name in limits.calls}),
        "talk_efficiency_one_to_eight": TALK_EFFICIENCY,
        "devices_share_processors": processors() if is_cpu else None,
        "equal_loss_bits": len({_bits(losses[count]) for count in chosen}) == 1,
        "losses_compared": len(losses[chosen[0]]),
        "rows": [
            _row(count, chosen[0], times, losses[count], len(lengths), flops, first[count], len(pieces))
            | _shares(
                limits,
                times,
                peak_format(experiment.step),
                str(count),
                flops,
                1.0 if is_cpu else count / len(available),
            )
            for count in chosen
        ],
        **peak_memory(available[0]),
    }


def step_on(experiment: Experiment, config: Config, devices: Sequence[jax.Device]) -> TrainStep:
    """The experiment's step on some of the devices."""
    step, count = experiment.step, experiment.batcher.batches_per_epoch
    return build.build_step(config, step.settings, step.policy, steps_per_epoch=count, devices=devices)


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
