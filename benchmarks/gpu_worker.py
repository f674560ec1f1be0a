"""dsrun's side of the GPU report's comparisons: products, scans, GRU layers and CTC, compiled on request and timed when asked.

    python -m benchmarks.gpu_worker [--any-order]

Requests: `prepare` compiles cases, all of a request side by side in threads, warms them up and answers with each one's compile time
and memory, or its error; `time` times one of them; `scan` measures an empty scan's iteration; `forget` drops all. A case is
`{"kind": "product", "format": F, "size": N}`, `copy`, `{"kind": "gru", "size": [batch, frames, hidden], "format": F, "pass":
"forward" | "both", "residuals": ..., "loops": ...}` or `{"kind": "ctc", "problem": FILE, "walk": "scan" | "mosaic" | "interpreted" |
"optax", "result": FILE}`.

It runs under the flags that a strict training run sets (deterministic kernels, no excess precision) beside those of its environment;
with `--any-order` under those of a run with `determinism: off` (no excess precision alone), and then XLA tries several kernels for each
product and takes the fastest.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.gpu_parts import passes_for, reason, serve
from dsrun.record.runtime import configure_runtime

COMPILERS = 8  # programs compiled at the same time
DRAWING = Lock()
COPY_VALUES = {"cpu": 1 << 22, "gpu": 1 << 28}


class Cases:
    """What was prepared: by name, a call that queues one pass, and how many make a unit."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Callable[[], Any], int]] = {}

    def prepare(self, cases: dict[str, dict[str, Any]], unit_seconds: float) -> dict[str, Any]:
        """Compile, warm up, count: facts of each case, or its error."""
        with ThreadPoolExecutor(COMPILERS) as pool:
            programs = {name: pool.submit(_program, **case) for name, case in cases.items()}
        return {name: self._keep(name, program, unit_seconds) for name, program in programs.items()}

    def _keep(self, name: str, program: Future, unit_seconds: float) -> dict[str, Any]:
        import jax

        try:
            call, facts = program.result()
            self.calls[name] = call, passes_for(lambda: jax.block_until_ready(call()), unit_seconds)
        except Exception as error:  # the answer of this case; the request's others go on
            return {"error": reason(error)}
        return facts

    def time(self, case: str) -> dict[str, float]:
        """Seconds of a pass."""
        import jax

        if case not in self.calls:
            raise ValueError(f"{case} could not be prepared")
        call, count = self.calls[case]
        found = None
        start = time.perf_counter()
        for _ in range(count):
            found = call()
        jax.block_until_ready(found)
        return {"seconds": (time.perf_counter() - start) / count}

    def forget(self) -> None:
        """Give the cases' memory back."""
        self.calls.clear()
        _gru_arrays.cache_clear()


def _program(kind: str, **case: Any) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call that queues one pass, and what is known of it."""
    if kind in ("product", "copy"):
        return _ceiling(kind, **case)
    return {"gru": _gru, "ctc": _ctc}[kind](**case)


def _ceiling(kind: str, format: str = "float32", size: int = 8192) -> tuple[Callable[[], Any], dict[str, Any]]:
    import jax

    from dsrun.study.ceilings import COPY, Ceilings

    device = jax.devices()[0]
    is_product = kind == "product"
    values = 1024 if is_product else COPY_VALUES["cpu" if device.platform == "cpu" else "gpu"]
    limits = Ceilings([format] if is_product else [], [device], product_size=size, copy_values=values)
    if is_product:
        return limits.calls[f"product {format}"], {"flops": limits.flops, "datasheet": limits.peaks.get(format)}
    return limits.calls[COPY], {"bytes": limits.copied_bytes}


def _gru(
    size: list[int], format: str, residuals: Any = "store", loops: Any = None, **case: Any
) -> tuple[Callable[[], Any], dict[str, Any]]:
    from dsrun.study.bench_gru import layer_pass
    from dsrun.study.stopwatch import compile_program

    with DRAWING:  # once for all programs of a size: a cache alone lets every thread draw its own
        arrays = _gru_arrays(*size)
    program = compile_program(layer_pass(format, case["pass"], residuals, loops), *arrays)
    return partial(program, *arrays), {"compile_seconds": program.compile_seconds, "bytes": program.planned_bytes}


@lru_cache(maxsize=1)
def _gru_arrays(batch: int, frames: int, hidden: int) -> tuple[Any, ...]:
    """As `bench_gru.layer_arguments`, but the large arrays are drawn on the device: a host takes seconds for them."""
    import jax
    import jax.numpy as jnp

    from dsrun.study.bench_gru import layer_arguments
    from dsrun.study.bench_sizes import GruSize

    _, _, weights, _ = jax.device_put(layer_arguments(GruSize(1, 1, hidden)))
    x, incoming = (jax.random.normal(jax.random.key(i), (batch, frames, hidden), jnp.float32) for i in range(2))
    return x, jnp.full(batch, frames, jnp.int32), weights, incoming


def _ctc(problem: str, walk: str, result: str | None = None) -> tuple[Callable[[], Any], dict[str, Any]]:
    import jax
    import numpy as np

    from benchmarks.ctc_problem import Problem, loss_and_gradient, optax_loss_and_gradient
    from dsrun.ctc import ctc_loss
    from dsrun.study.stopwatch import compile_program

    own = partial(loss_and_gradient, partial(ctc_loss, kernel=walk))
    arrays = jax.device_put(tuple(Problem.load(Path(problem))))
    program = compile_program(optax_loss_and_gradient if walk == "optax" else own, *arrays)
    if result:
        loss, gradient = jax.device_get(program(*arrays))
        np.savez(result, loss=loss, gradient=gradient)
    return partial(program, *arrays), {"compile_seconds": program.compile_seconds, "bytes": program.planned_bytes}


def _empty_scan(turns: int) -> dict[str, float]:
    import jax

    from dsrun.study.ceilings import scan_iteration_seconds

    return {"seconds": scan_iteration_seconds(jax.devices()[0], turns=turns, rounds=3)}


def main() -> None:
    """Choose the flags, start JAX, serve."""
    configure_runtime(determinism="off" if "--any-order" in sys.argv else "strict")
    import jax

    device = jax.devices()[0]
    ready = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "backend": " ".join(device.client.platform_version.split()),
    }
    cases = Cases()
    handlers = {"prepare": cases.prepare, "time": cases.time, "forget": cases.forget, "scan": _empty_scan}
    serve(ready, handlers)


if __name__ == "__main__":
    main()
