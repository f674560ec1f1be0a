"""Part of the GPU report: bidirectional GRU layers, each rung of the ladder beside torch's `nn.GRU`, format by format.

Sizes are [batch, frames, hidden], input as wide as the state: the layers of the talk (64 x 800 x 1760, 128 x 800 x 2560) and DeepBench's
Deep Speech rows at 375 frames. "both" is forward and backward, with gradients to input and weights. Rungs: `together` (both directions
in one scan, what a GPU gets), `separate`, `recompute` (gates restored in the backward pass). Within a round a large product, ours and
torch's follow one another; shares are of that product. float32 is true float32 on both sides, tensorfloat32 allowed on both.
FLOPs by formula (`dsrun.study.flops`).
"""

import statistics
from functools import partial
from typing import Any

from benchmarks.gpu_parts import (
    NO_TORCH,
    Failed,
    Settings,
    Worker,
    beside,
    jax_worker,
    part_settings,
    row,
    spread,
    take_turns,
    torch_worker,
)
from benchmarks.turns import ratio
from dsrun.study.bench_sizes import GruSize
from dsrun.study.flops import gru_work

# Most telling first: what time does not cover is named. All rungs at the sizes before `ALL_RUNGS`, afterwards the default.
SIZES = ((64, 800, 1760), (32, 375, 2816), (32, 375, 1024), (128, 800, 2560), (32, 375, 2560), (32, 375, 1536))
ALL_RUNGS = 1
TINY_SIZES = ((2, 8, 16),)
FORMATS = ("bfloat16", "float32", "tensorfloat32", "float16")
PASSES = ("both", "forward")
RUNGS: dict[str, dict[str, str]] = {
    "together": {"loops": "together"},
    "separate": {"loops": "separate"},
    "recompute": {"loops": "together", "residuals": "recompute"},
}
ROUNDS = 5
LONG = 1e13  # FLOPs of a pass: three rounds are enough where float32 takes a quarter of a second and more


def main() -> None:
    """All rows, size by size."""
    settings = part_settings(__doc__)
    ours, peer = jax_worker("dsrun"), torch_worker(settings)
    try:
        if peer is None:
            row("torch nn.GRU", NO_TORCH)
        for number, size in enumerate(TINY_SIZES if settings.tiny else SIZES):
            rungs = RUNGS if number < ALL_RUNGS else {"together": RUNGS["together"]}
            name = "x".join(map(str, size))
            # A size costs the compilation of its programs and about ten passes of each; the largest ones are the slowest.
            if settings.covers(name, 4 if settings.tiny else 25):
                measure(settings, name, list(size), rungs, ours, peer)
    finally:
        for worker in filter(None, (ours, peer)):
            worker.close()


def measure(
    settings: Settings, name: str, size: list[int], rungs: dict[str, dict[str, str]], ours: Worker, peer: Worker | None
) -> None:
    """One size: every format and pass."""
    cases: dict[str, dict[str, Any]] = {}
    for format in FORMATS:
        for one_pass in PASSES:
            for rung, choice in rungs.items():
                if not (rung == "recompute" and one_pass == "forward"):  # the same program as without
                    case = {"kind": "gru", "size": size, "format": format, "pass": one_pass}
                    cases[f"{format} {one_pass} {rung}"] = case | choice
    products = {
        f"product {f}": {"kind": "product", "format": f, "size": 256 if settings.tiny else 8192} for f in FORMATS
    }
    try:
        ours.ask("forget")
        facts = ours.ask("prepare", cases=cases | products, unit_seconds=settings.unit_seconds)
    except Failed as reason:
        row(name, f"FAILED: {reason}")
        return
    for format in FORMATS:
        for one_pass in PASSES:
            case = f"{name} {format} {one_pass}"
            if settings.covers(case, 1 if settings.tiny else 4):
                compare(settings, case, GruSize(*size), format, one_pass, facts, ours, peer)


def compare(
    settings: Settings,
    case: str,
    size: GruSize,
    format: str,
    one_pass: str,
    facts: dict[str, Any],
    ours: Worker,
    peer: Worker | None,
) -> None:
    """Product, rungs and torch in turn; a row each."""
    calls = {f"product {format}": partial(ours.seconds, f"product {format}")}
    prefix = f"{format} {one_pass} "
    calls |= {key: partial(ours.seconds, key) for key in facts if key.startswith(prefix)}
    reasons: dict[str, str] = {}
    about = dict(facts)
    if peer is not None:
        request = {"kind": "gru", "size": [size.batch, size.frames, size.hidden], "format": format, "pass": one_pass}
        try:
            peer.ask("forget")
            about["torch"] = peer.ask("prepare", cases={"torch": request}, unit_seconds=settings.unit_seconds)["torch"]
            calls["torch"] = partial(peer.seconds, "torch")
        except Failed as reason:
            reasons["torch"] = str(reason)
    flops = gru_work(size, has_gradient=one_pass == "both").flops
    times, failed = take_turns(calls, settings.rounds(ROUNDS if flops < LONG else 3))
    for contender, reason in (reasons | failed).items():
        row(f"{case} {contender.removeprefix(prefix)}", f"FAILED: {about.get(contender, {}).get('error', reason)}")
    product = f"product {format}"
    for contender, seconds in times.items():
        if contender == product:
            continue
        words, figures = figures_of(seconds, flops, size.frames)
        if product in times:
            beside_product = ratio(times[product], seconds)["median"]
            figures["share_of_product"] = flops / facts[product]["flops"] * beside_product
            words += f", {figures['share_of_product']:.1%} of the product's"
        if contender == "torch":
            words += f"; {about['torch']['engine']}"
        elif "torch" in times:
            figures["time_over_torchs"] = ratio(seconds, times["torch"])
            words += "; " + beside(figures["time_over_torchs"], "torch")
        row(f"{case} {contender.removeprefix(prefix)}", words, **figures, **about.get(contender, {}))


def figures_of(seconds: list[float], flops: int, frames: int) -> tuple[str, dict[str, Any]]:
    """Time of a frame, and rate."""
    rate = flops / statistics.median(seconds) / 1e12
    words = f"{spread(seconds, 1e6 / frames, 'us a frame')}, {rate:.3g} TFLOP/s"
    return words, {"seconds": seconds, "tflop_per_second": rate}


if __name__ == "__main__":
    main()
