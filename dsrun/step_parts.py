"""Where the time of a config's training step goes.

On the roof, since it needs a config and its data. Three views of the same batches (the first of the config's second epoch, shuffled and
augmented, so real shapes and real padding), called in turn, a pass over all batches each:

* *whole*: as `dsrun train` runs it, from the loader on, step n + 1 dispatched before step n is done; what is quoted. The wait for
  the loader is measured in it.
* *stages*: the step's own three programs one after the other, each waited for: gradient of all shards, reduction, update. Their sum
  is more than the whole, which overlaps them with the host's work.
* *parts*: the inside of the gradient program as programs of their own, of the same shapes, one shard a device at a time: front end, GRU
  layers, output layer, CTC, and back. The forward parts keep what the backward ones read. They show what costs; their sum is
  not the gradient's time, because XLA fuses what it sees together, and each hands its arrays over in memory. `rest` is
  what is left of the gradient stage: dropout, counts, casts, and what fusion saves, so it can be negative.

MFU is three times the forward FLOPs of valid frames a second, as a share of what large products reach on the same devices in the same
rounds; HFU credits padded frames and recomputation too. See `study/flops.py`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import jax

from dsrun.config import Config
from dsrun.data_rates import feature_rates
from dsrun.experiment import Experiment, prepare
from dsrun.model import describe_gru
from dsrun.network_parts import PARTS, Clock, NetworkParts, Timings
from dsrun.speech import prefetch
from dsrun.study.ceilings import Ceilings, machine_facts
from dsrun.study.flops import NetworkFlops, Work, network_flops
from dsrun.study.stopwatch import announce, peak_memory, quartiles, summary
from dsrun.training.exchange import PartialSums
from dsrun.training.step import Shard, TrainStep, split_batch

NATIVE_PEAKS = ("tensorfloat32", "bfloat16", "float16")
STAGES = ("gradient", "reduce", "optimizer")


def bench_step(config: Config, *, batches: int, repeats: int, devices: int | None) -> dict[str, Any]:
    """Rows of stages and parts, and the whole; see the module."""
    experiment = prepare(config, devices=devices)
    step, batcher = experiment.step, experiment.batcher
    count = min(batches, batcher.batches_per_epoch)
    shards = [split_batch(batcher.batch(1, i), step.shards) for i in range(count)]
    format = peak_format(step)
    limits = Ceilings([format], step.devices)
    network = NetworkParts(step)
    announce(f"step: compiling {len({s[0].features.shape for s in shards})} batch shapes")
    state = [step.start()]
    shapes = first_steps(step, state, shards)
    views: dict[str, Callable[[], Timings]] = {
        "whole": lambda: whole_pass(experiment, state, count, config.batches.prefetch),
        "stages": lambda: stage_pass(step, state, shards),
        "parts": lambda: network.one_pass(state[0].first, shards),
        **{name: partial(_timed, call) for name, call in limits.calls.items()},
    }
    times = _take_turns(views, repeats)
    return {
        "benchmark": "step",
        "machine": machine_facts(step.devices),
        "network": {**asdict(step.settings), "carrier": step.policy.carrier, "compute": str(step.policy.compute)},
        "gru": describe_gru(step.settings, step.policy),
        "ctc": experiment.ctc,
        "batches": count,
        "shards": step.shards,
        "ceilings": limits.report({name: times[name] for name in limits.calls}),
        "whole": _whole(step, state[0].first, shards, times, limits, format),
        "rows": _rows(step, shards, times, limits, format),
        "sums": _sums(times),
        "batch_shapes": _compile_seconds(shapes, times, count),
        "features": feature_rates(config, utterances=16),
        **peak_memory(step.devices[0]),
    }


def peak_format(step: TrainStep) -> str:
    """What the products of this arithmetic are at most: in the native carrier its own rate, else that of float32."""
    name = step.policy.compute.format.name
    return name if step.policy.carrier == "native" and name in NATIVE_PEAKS else "float32"


def first_steps(step: TrainStep, state: list[Any], shards: Sequence[Sequence[Shard]]) -> list[dict[str, Any]]:
    """Seconds of the first step of each shape, which compiles."""
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for pieces in shards:
        shape = (pieces[0].features.shape[1], pieces[0].labels.shape[1])
        start = time.perf_counter()
        state[0], record = step(state[0], pieces)
        jax.block_until_ready(record)
        seconds = time.perf_counter() - start
        if shape not in found:
            found[shape] = {"frames": shape[0], "labels": shape[1], "first_step_seconds": seconds}
            announce(f"step: {shape[0]} frames, {shape[1]} labels: first step {seconds:.1f} s")
    return list(found.values())


def whole_pass(experiment: Experiment, state: list[Any], count: int, depth: int) -> Timings:
    """Steps over `count` batches from the loader, as training makes them, and the seconds waited for the loader."""
    step, batcher, waited = experiment.step, experiment.batcher, 0.0
    start = time.perf_counter()
    for batch, wait in prefetch(lambda: (batcher.batch(1, i) for i in range(count)), depth):
        waited += wait
        state[0], record = step(state[0], split_batch(batch, step.shards))
    jax.block_until_ready((state[0], record))
    return {"whole": time.perf_counter() - start, "data_wait": waited}


def stage_pass(step: TrainStep, state: list[Any], shards: Sequence[Sequence[Shard]]) -> Timings:
    """The step's programs, each waited for."""
    found = dict.fromkeys(STAGES, 0.0)
    for pieces in shards:
        clock = Clock(found)
        sums: list[PartialSums] = []

        def gradients(pieces: Sequence[Shard] = pieces, sums: list[PartialSums] = sums) -> Any:
            sums[:] = step.partial_sums(state[0], pieces)
            return [own.nodes for own in sums]

        clock("gradient", gradients)
        total = clock("reduce", partial(step.reduced, sums))
        state[0], _ = clock("optimizer", partial(step.update, state[0], total))
    return found


def _timed(call: Callable[[], Any]) -> Timings:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return {"": time.perf_counter() - start}


def _take_turns(views: dict[str, Callable[[], Timings]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every view's timings, one figure a round; the first round warms up."""
    times: dict[str, list[float]] = {}
    for number in range(repeats + 1):
        for view, call in views.items():
            for name, seconds in call().items():
                if number:
                    times.setdefault(name or view, []).append(seconds)
        announce(f"step: round {number} of {repeats}" if number else "step: warmed up")
    return times


def _lengths(shards: Sequence[Sequence[Shard]], *, padded: bool) -> list[int]:
    """Frames of each utterance; padded, of each row."""
    pieces = [piece for batch in shards for piece in batch]
    if padded:
        return [piece.features.shape[1] for piece in pieces for _ in piece.num_frames]
    return [int(frames) for piece in pieces for frames in piece.num_frames if frames > 0]


def _whole(
    step: TrainStep, state: Any, shards: Any, times: dict[str, list[float]], limits: Ceilings, format: str
) -> dict[str, Any]:
    """Rates of the step as training runs it."""
    real, padded = _lengths(shards, padded=False), _lengths(shards, padded=True)
    flops, computed = network_flops(step.settings, real), network_flops(step.settings, padded)
    recomputed = computed.gru if step.settings.residuals == "recompute" else 0
    figures = limits.figures(times, "whole", Work(0, flops.training, _bytes(step, state, len(shards))), format)
    return {
        **summary([seconds / len(shards) for seconds in times["whole"]], "seconds_a_step"),
        "utterances_per_second": len(real) / quartiles(times["whole"])[1],
        "mfu": figures["share_of_measured_peak"],
        "hfu": figures["share_of_measured_peak"] * (computed.training + recomputed) / flops.training,
        **figures,
        "padding_share_of_frames": 1.0 - sum(real) / sum(padded),
        "data_wait_seconds_a_step": quartiles(times["data_wait"])[1] / len(shards),
        "bytes_are": "weights read and gradients written by each shard, the state read and written by the update",
        "peak_format": format,
    }


def _bytes(step: TrainStep, state: Any, steps: int) -> int:
    """Of the arrays that every step must move whatever it computes; activations are not in it."""
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(step.weights(state)))
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves((state.master, state.optimizer, state.compensation)))
    return steps * (2 * step.shards * weights + 2 * kept)


def _rows(
    step: TrainStep, shards: Any, times: dict[str, list[float]], limits: Ceilings, format: str
) -> list[dict[str, Any]]:
    """Stages and parts: time a step, share of the whole, and rates where products are."""
    flops = network_flops(step.settings, _lengths(shards, padded=False))
    rows = []
    for name in ("data_wait", *STAGES, *PARTS):
        row: dict[str, Any] = {
            "name": name,
            "view": "parts" if name in PARTS else "stages" if name in STAGES else "whole",
        }
        row |= summary([seconds / len(shards) for seconds in times[name]], "seconds_a_step")
        row["share_of_whole"] = quartiles([a / b for a, b in zip(times[name], times["whole"], strict=True)])[1]
        credited = _part_flops(name, flops)
        row |= {"flops": credited, "tflop_per_second": None, "share_of_measured_peak": None}
        if credited:
            found = limits.figures(times, name, Work(0, credited, 0), format)
            row |= {key: found[key] for key in row if key in found}
        rows.append(row)
    return rows


def _part_flops(name: str, flops: NetworkFlops) -> int | None:
    """Of valid frames; a backward part has two products for each of the forward one."""
    forward = {"front_end": flops.front_end, "gru": flops.gru, "output": flops.output}
    stem, _, direction = name.rpartition("_")
    if stem in forward:
        return forward[stem] * (2 if direction == "backward" else 1)
    return flops.training if name == "gradient" else None


def _sums(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds, in shares of the whole step."""
    rounds = range(len(times["whole"]))
    parts = [sum(times[name][i] for name in PARTS) for i in rounds]
    stages = [sum(times[name][i] for name in STAGES) for i in rounds]
    return {
        "stages_of_whole": median(stages[i] / times["whole"][i] for i in rounds),
        "parts_of_gradient": median(parts[i] / times["gradient"][i] for i in rounds),
        "rest_of_gradient": median(1.0 - parts[i] / times["gradient"][i] for i in rounds),
        "update_of_whole": median((times["reduce"][i] + times["optimizer"][i]) / times["whole"][i] for i in rounds),
    }


def _compile_seconds(shapes: list[dict[str, Any]], times: dict[str, list[float]], count: int) -> list[dict[str, Any]]:
    """The first step of a shape, less a usual one."""
    usual = quartiles(times["whole"])[1] / count
    return [shape | {"compile_seconds": max(shape["first_step_seconds"] - usual, 0.0)} for shape in shapes]
