"""What this machine can do at most, measured beside what is compared with it, and what its maker's data sheet says.

* `product`: a large matrix product in the formats of the benchmark, float32 accumulation. `float32` is true float32, asked for
  by name (`Precision.HIGHEST`): JAX's default for float32 products on recent GPUs is TensorFloat-32, ten bits and seven times
  the speed. On several devices all of them multiply at the same time: CPU devices share their cores.
* `copy`: one pass in place over an array that no cache holds; bytes read plus bytes written.
* `scan`: one turn of a loop that does next to nothing. A recurrent layer cannot be faster than its frames times this.

Product and copy are called in the same rounds as the benchmark, and a share is the median over the rounds of rate over rate: on a
shared machine a peak measured a minute ago is another machine's.

Data sheets give dense rates, without sparsity; "FMA peak" is float32 on the ordinary units, the peak of the talk's 55%.
A CPU has no entry: what its cores do depends on clock and instructions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic.formats import NATIVE_NAMES
from dsrun.study.datasheets import datasheet
from dsrun.study.flops import Work
from dsrun.study.stopwatch import announce, compile_program, quartiles, ratios, take_turns

PRODUCT_SIZE = {"cpu": 2048, "gpu": 8192}
COPY_VALUES = {"cpu": 1 << 26, "gpu": 1 << 28}  # float32: 256 MiB and 1 GiB
COPY = "copy"


class Ceilings:
    """A machine's limits, to be called in the rounds of what they limit.

    Args:
        formats: of the products.
        devices: all work at the same time.
        product_size, copy_values: rows of the square matrices, values of the array; by platform unless given.
    """

    def __init__(
        self,
        formats: Sequence[str],
        devices: Sequence[jax.Device],
        *,
        product_size: int | None = None,
        copy_values: int | None = None,
    ):
        self.devices, self.formats = list(devices), tuple(formats)
        platform = "cpu" if self.devices[0].platform == "cpu" else "gpu"
        self.size = product_size or PRODUCT_SIZE[platform]
        self.copied_bytes = 2 * 4 * (copy_values or COPY_VALUES[platform]) * len(self.devices)
        self.flops = 2 * self.size**3 * len(self.devices)
        self.peaks = datasheet(self.devices[0].device_kind)
        self.calls: dict[str, Callable[[], Any]] = {
            _product(name): _large_product(name, self.size, self.devices) for name in self.formats
        }
        self.calls[COPY] = _pass_in_place(self.copied_bytes // (8 * len(self.devices)), self.devices)

    def figures(self, times: dict[str, list[float]], name: str, work: Work, format: str) -> dict[str, Any]:
        """Rates of `name`, and their shares of the ceilings, from rounds in which all of them were called."""
        median = quartiles(times[name])[1]
        shares = quartiles([work.flops / self.flops * ratio for ratio in _each(times[_product(format)], times[name])])
        sheet = {key: self.peaks[key] * 1e12 * len(self.devices) for key in self.peaks}
        rate = work.flops / median
        return {
            "flops": work.flops,
            "tflop_per_second": rate / 1e12,
            "share_of_measured_peak": shares[1],
            "share_of_measured_peak_quartiles": [shares[0], shares[2]],
            "share_of_datasheet_peak": rate / sheet[format] if format in sheet else None,
            "share_of_datasheet_fma_peak": rate / sheet["float32"] if sheet else None,
            **self.traffic(times, name, work.bytes),
        }

    def traffic(self, times: dict[str, list[float]], name: str, bytes_lower_bound: int) -> dict[str, Any]:
        """Bytes that must be moved, a second, and as a share of the copy's."""
        return {
            "bytes_lower_bound": bytes_lower_bound,
            "gigabyte_per_second": bytes_lower_bound / quartiles(times[name])[1] / 1e9,
            "share_of_copy_bandwidth": bytes_lower_bound / self.copied_bytes * ratios(times[COPY], times[name])[1],
        }

    def report(self, times: dict[str, list[float]]) -> dict[str, Any]:
        """The ceilings themselves, from all rounds of a run."""
        products = {}
        for name in self.formats:
            low, middle, high = quartiles(times[_product(name)])
            products[name] = {
                "measured_tflop_per_second": self.flops / middle / 1e12,
                "measured_quartiles": [self.flops / high / 1e12, self.flops / low / 1e12],
                "datasheet_tflop_per_second": _times(self.peaks.get(name), len(self.devices)),
                "computed_as": how_multiplied(name, self.devices[0].platform),
            }
        return {
            "product_size": self.size,
            "devices": len(self.devices),
            "products": products,
            "datasheet_fma_tflop_per_second": _times(self.peaks.get("float32"), len(self.devices)),
            "copy_gigabyte_per_second": self.copied_bytes / quartiles(times[COPY])[1] / 1e9,
            "scan_iteration_microseconds": 1e6 * scan_iteration_seconds(self.devices[0]),
        }


def machine_facts(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """What a figure must be quoted with."""
    from dsrun.record.runtime import POOL_VARIABLES, in_force

    found = in_force()
    return {
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "threads": found[POOL_VARIABLES[0]],
        "jax": jax.__version__,
        "xla_flags": found["XLA_FLAGS"],
        "compilation_cache": getattr(
            jax.config, "jax_compilation_cache_dir", None
        ),  # where it is set, a compile time may be a reading time
        "float32_is": "true float32: products at Precision.HIGHEST (JAX's default on recent GPUs is TensorFloat-32)",
    }


def how_multiplied(format: str, platform: str) -> str:
    """What the products of a format are on a platform, the ceiling's and the network's."""
    if format == "tensorfloat32" and platform == "cpu":
        return "float32: a CPU has no TensorFloat-32 unit"
    if format in ("float32", "tensorfloat32"):
        return format
    return f"{format} operands, float32 sums"


def scan_iteration_seconds(device: jax.Device, *, turns: int = 4096, rounds: int = 7) -> float:
    """Time of one turn of `lax.scan` with a small carry, an input and an output a turn.

    The difference of a long and a short loop, so that dispatch does not count.
    """

    def loop(carry: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.scan(lambda c, x: (c * 0.5 + x, c), carry, inputs)

    carry = jax.device_put(np.zeros((8, 128), np.float32), device)
    calls: dict[str, Callable[[], Any]] = {}
    for name, count in (("short", turns // 8), ("long", turns)):
        inputs = jax.device_put(np.ones((count, 8, 128), np.float32), device)
        program = compile_program(loop, carry, inputs)
        calls[name] = partial(program, carry, inputs)
    times = take_turns(calls, rounds)
    differences = [long - short for long, short in zip(times["long"], times["short"], strict=True)]
    return max(quartiles(differences)[1], 0.0) / (turns - turns // 8)


def _product(format: str) -> str:
    return f"product {format}"


def _times(value: float | None, count: int) -> float | None:
    return None if value is None else value * count


def _each(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


def _large_product(format: str, size: int, devices: Sequence[jax.Device]) -> Callable[[], Any]:
    dtype = np.dtype(jnp.dtype(format)) if format in NATIVE_NAMES else np.dtype(np.float32)
    precision: Any = jax.lax.Precision.HIGHEST
    if format == "tensorfloat32" and devices[0].platform != "cpu":
        precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32)

    # Random and not constant: a GPU that multiplies zeros draws less power and clocks higher.
    random = np.random.default_rng(0)
    values = [random.standard_normal((size, size), np.float32).astype(dtype) for _ in range(2)]
    operands = [jax.device_put(tuple(values), device) for device in devices]
    compiled = jax.jit(multiply)
    announce(f"ceilings: product of {size}x{size}, {format}")
    return lambda: [compiled(a, b) for a, b in operands]


def _pass_in_place(values: int, devices: Sequence[jax.Device]) -> Callable[[], Any]:
    negate = jax.jit(jnp.negative, donate_argnums=0)
    arrays = [jax.device_put(np.ones(values, np.float32), device) for device in devices]

    def call() -> list[jax.Array]:
        arrays[:] = [negate(x) for x in arrays]
        return arrays

    return call
