"""Part of the GPU report: exported networks, formats in turns; and whether an int8 network has the same bits here, by its twin, and on a
CPU.

Networks of Deep Speech 2's kind with initial weights: speed and bits do not depend on what they were trained for. Integer products of
int8 are the tensor cores' where XLA takes them; what stands between products is float32 on every device.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_parts import Settings, part_settings, row, spread
from dsrun.deploy.calibrate import calibrate
from dsrun.deploy.codes import DeployFormat, has_scale, input_format
from dsrun.deploy.folding import fold
from dsrun.deploy.network import Network, logits
from dsrun.deploy.quantized import CONSTANTS, Arrays, constants, product_arrays
from dsrun.model import FrameStackSettings, ModelSettings, init_parameters, initial_statistics
from dsrun.study.stopwatch import ratios, take_turns

SIZES = ((1, 300), (64, 300))  # utterances, frames
HIDDEN, TINY_HIDDEN = 1024, 16
FORMATS: tuple[DeployFormat, ...] = ("float32", "float16", "bfloat16", "float8_e4m3fn", "int8")
ROUNDS = 7


def main() -> None:
    """Bits first, then times."""
    settings = part_settings(__doc__)
    hidden = TINY_HIDDEN if settings.tiny else HIDDEN
    shape = ModelSettings(
        num_bins=161,
        num_classes=29,
        front_end=FrameStackSettings(stack=5, stride=3, hidden=hidden),
        hidden=hidden,
        layers=3,
        direction="bidirectional",
        normalization="batch",
        dropout=0.0,
        relu_clip=20.0,
    )
    networks = {format: network_in(format, shape) for format in FORMATS}
    if settings.covers("int8 bits", 20):
        compare_bits(*networks["int8"])
    for size in SIZES[:1] if settings.tiny else SIZES:
        if settings.covers("x".join(map(str, size)), 30):
            measure(settings, networks, size)


def network_in(format: DeployFormat, shape: ModelSettings) -> tuple[Network, Arrays]:
    """A network with initial weights, calibrated on noise."""
    weights, statistics = init_parameters(shape, 1), initial_statistics(shape)
    products = fold(shape, weights, statistics)
    seen: dict[str, Any] = {}
    if has_scale(format):
        batch = SimpleNamespace(features=noise(shape, 2, 60), num_frames=np.full(2, 60, np.int32))
        places = {product.source: input_format(format) for product in products.values()}
        seen = calibrate(shape, weights, statistics, lambda: [batch], formats=places, method="absmax")
    arrays = {
        path: product_arrays(
            product,
            format,
            inputs=seen[product.source].coding if seen else None,
            granularity="layer",
            method="absmax",
        )[0]
        for path, product in products.items()
    }
    arrays[CONSTANTS] = constants(shape, weights)
    return Network(shape, tuple((path, format) for path in products)), arrays


def noise(shape: ModelSettings, batch: int, frames: int) -> np.ndarray:
    """Features."""
    return np.random.default_rng(0).standard_normal((batch, frames, shape.num_bins), np.float32)


def compare_bits(network: Network, arrays: Arrays) -> None:
    """Integers, twins and a CPU on the same features."""
    inputs = arrays, noise(network.settings, 4, 120), np.full(4, 120, np.int32)
    here = np.asarray(jax.jit(partial(logits, network))(*inputs)[0])
    twin = np.asarray(jax.jit(partial(logits, network.twin()))(*inputs)[0])
    row("int8 equals its float32 twin", verdict(here, twin), largest_difference=float(np.abs(here - twin).max()))
    with jax.default_device(jax.devices("cpu")[0]):
        there = np.asarray(jax.jit(partial(logits, network))(*jax.device_put(inputs, jax.devices("cpu")[0]))[0])
    row("int8 here equals int8 on a CPU", verdict(here, there), largest_difference=float(np.abs(here - there).max()))


def verdict(a: np.ndarray, b: np.ndarray) -> str:
    """In words."""
    return "equal to the bit" if a.tobytes() == b.tobytes() else f"DIFFERENT, by up to {np.abs(a - b).max():.3g}"


def measure(settings: Settings, networks: dict[str, tuple[Network, Arrays]], size: tuple[int, int]) -> None:
    """Milliseconds of each format at one size, and the ratio to float32."""
    calls = {}
    for name, (network, arrays) in networks.items():
        inputs = jax.device_put((arrays, noise(network.settings, *size), np.full(size[0], size[1], np.int32)))
        program = jax.jit(partial(logits, network)).lower(*inputs).compile()
        calls[name] = partial(program, *inputs)
    times = take_turns(calls, settings.rounds(ROUNDS), turn_seconds=settings.unit_seconds)
    for name, own in times.items():
        low, middle, high = ratios(times["float32"], own)
        audio = size[0] * size[1] / 100
        words = f"{spread(own, 1e3, 'ms')}, {audio / float(np.median(own)):.0f} times real time, {middle:.2f} of float32's speed"
        row(f"{size[0]}x{size[1]} {name}", words, speed_to_float32=[low, middle, high], seconds=own)


if __name__ == "__main__":
    main()
