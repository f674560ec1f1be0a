"""How fast exported models recognise: whole utterances, formats in turns, integer products beside their float32 twins.

On the roof, beside the other benchmarks of whole programs; a folder's program.bin is timed too where that is asked for. Each model is
loaded from its folder (timed) and compiled for some sizes, a batch of utterances of so many frames; everything takes turns
(`study.stopwatch`), and what is quoted of two of them is the median of the ratios of one round each. Values do not matter to the time, so
features are normal noise.

Then why: the products of the first model that has codes, one by one at the same sizes, in float32, as integers (fewer than four rows are
filled up, as in the network) and as the twin. What is left of a network's time beside them is gates, rectifier, encoding, and the launch of
one small program a frame.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.deploy.codes import INTEGERS
from dsrun.deploy.folder import PROGRAM, WEIGHTS, Exported, load, verified
from dsrun.deploy.network import Network, logits, multiplied
from dsrun.deploy.storage import pack
from dsrun.errors import DataError, UsageError
from dsrun.model import output_frames
from dsrun.study.bench_sizes import ExportSize
from dsrun.study.ceilings import machine_facts
from dsrun.study.stopwatch import TURN_SECONDS, announce, compile_program, peak_memory, ratios, summary, take_turns

LOADS = 5  # times that a folder is loaded


def bench_exports(
    paths: Sequence[Path], sizes: Sequence[ExportSize], *, repeats: int, programs: bool = False
) -> dict[str, Any]:
    """A row a model, way of multiplying and size; the first model is what the others are compared with.

    Args:
        programs: time each folder's program.bin too, as whoever has JAX alone runs it.

    Raises:
        UsageError: a model named twice, or no exported model. DataError: damaged, or a program that this JAX cannot read.
    """
    if len(set(paths)) < len(paths):
        raise UsageError("a model is named twice; name each once.")
    models = {str(path): load(path) for path in paths}
    rows: list[dict[str, Any]] = []
    for size in sizes:
        rows += _rows(models, size, repeats, programs)
    coded = next((model for model in models.values() if _has_integers(model.network)), None)
    return {
        "benchmark": "export",
        "machine": machine_facts([jax.devices()[0]]),
        "models": [_facts(name, model) for name, model in models.items()],
        "rows": rows,
        "products": [row for size in sizes for row in _product_rows(coded, size, repeats)] if coded else [],
        **peak_memory(jax.devices()[0]),
    }


def _facts(name: str, model: Exported) -> dict[str, Any]:
    """Bytes, and seconds to load: from the files to arrays on the device, with every check."""
    seconds = []
    for _ in range(LOADS):
        start = time.perf_counter()
        jax.block_until_ready(load(Path(name)).arrays)
        seconds.append(time.perf_counter() - start)
    assert model.path
    return {
        "model": name,
        "format": model.format,
        "granularity": model.document.get("granularity"),
        "weight_bytes": model.document["bytes"]["this"],
        "file_bytes": (model.path / WEIGHTS).stat().st_size,
        "load": summary(seconds),
    }


def _rows(models: dict[str, Exported], size: ExportSize, repeats: int, programs: bool) -> list[dict[str, Any]]:
    calls: dict[str, Callable[[], Any]] = {}
    about: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        for way, (function, arrays) in _ways(model, programs).items():
            key = f"{name} {way}"
            announce(f"{key}, {size}: compiling")
            shape = (size.batch, size.frames, model.network.settings.num_bins)
            features = np.random.default_rng(0).standard_normal(shape, np.float32)
            inputs = arrays, jnp.asarray(features), jnp.full((size.batch,), size.frames, jnp.int32)
            program = compile_program(function, *inputs)
            calls[key] = partial(program, *inputs)
            seconds = size.frames * model.features.hop / model.features.sample_rate
            about[key] = {
                "model": name,
                "format": model.format,
                "products": way,
                "size": str(size),
                "audio_seconds": size.batch * seconds,
                "compile_seconds": program.compile_seconds,
            }
    announce(f"{size}: {repeats} rounds")
    times = take_turns(calls, repeats, turn_seconds=TURN_SECONDS)
    first = next(iter(calls))
    return [
        {
            **about[key],
            **summary(own),
            "times_real_time": about[key]["audio_seconds"] / float(np.median(own)),
            "speed_to_first": ratios(times[first], own),
        }
        for key, own in times.items()
    ]


def _ways(model: Exported, programs: bool) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Functions of features and lengths that recognise with a model, and the arrays that they take first."""
    network, arrays = model.network, model.arrays
    ways: dict[str, tuple[Callable[..., Any], Any]] = {"float32 sums": (partial(logits, network), arrays)}
    if _has_integers(network):
        ways = {"integer": ways["float32 sums"], "float32 twin": (partial(logits, network.twin()), arrays)}
    if programs:
        assert model.path
        ways[PROGRAM] = (
            _program_of(model.path, model.document).call,
            jax.tree.map(jnp.asarray, pack(network, arrays)[0]),
        )
    return ways


def _program_of(path: Path, document: Mapping[str, Any]) -> Any:
    content = bytearray(verified(path, PROGRAM, document))
    try:
        return jax.export.deserialize(content)
    except Exception as error:
        # Of a newer JAX, or no program at all: what is raised depends on where reading ends.
        raise DataError(
            f"{path / PROGRAM}: JAX {jax.__version__} cannot read it ({type(error).__name__}: {error}). Export the run again."
        ) from None


def _product_rows(model: Exported, size: ExportSize, repeats: int) -> list[dict[str, Any]]:
    """Of each shape of product once."""
    settings, rows, seen = model.network.settings, [], set()
    outputs = output_frames(settings, size.frames)
    for path, format in model.network.formats:
        weight = model.arrays[path]["weight"]
        count = size.batch if path.endswith(".u") else size.batch * outputs
        if weight.ndim != 2 or format not in INTEGERS or (count, weight.shape) in seen:
            continue
        seen.add((count, weight.shape))
        codes = np.random.default_rng(1).integers(-127, 128, (count, weight.shape[0])).astype(np.int8)
        problems = {
            "float32": (partial(multiplied, format="float32"), codes.astype(np.float32), weight.astype(jnp.float32)),
            "integer": (partial(multiplied, format=format), codes, weight),
            "float32 twin": (partial(multiplied, format=format, multiply="float32"), codes, weight),
        }
        calls = {}
        for way, (function, a, b) in problems.items():
            inputs = jnp.asarray(a), b
            calls[way] = partial(compile_program(function, *inputs), *inputs)
        times = take_turns(calls, repeats, turn_seconds=TURN_SECONDS)
        operations = 2 * count * weight.size
        rows.append(
            {"product": path, "size": str(size), "rows": count, "inputs": weight.shape[0], "channels": weight.shape[1]}
            | {"calls_an_utterance": outputs if path.endswith(".u") else 1}
            | {f"{way}_microseconds": 1e6 * float(np.median(own)) for way, own in times.items()}
            | {
                f"{way}_giga_operations_per_second": operations / float(np.median(own)) / 1e9
                for way, own in times.items()
            }
            | {"integer_speed_to_float32": ratios(times["float32"], times["integer"])}
        )
    return rows


def _has_integers(network: Network) -> bool:
    return any(format in INTEGERS for _, format in network.formats)
