"""An exported model as ONNX, and what onnxruntime makes of it: the same logits?

jax2onnx pins packages that dsrun has newer, so this runs in an environment of its own:

    python -m venv onnx-env
    onnx-env/bin/pip install jax2onnx onnxruntime soundfile soxr kaldialign pydantic ruamel.yaml
    onnx-env/bin/pip install --no-deps .
    onnx-env/bin/python scripts/export_onnx.py RUN/export/int8 int8.onnx --manifest data/prompts_en/test.jsonl

The graph takes one utterance of a fixed number of frames, padded, and its length. Three things are written for it in another way, with
the same numbers: a scan from the end to the beginning, which jax2onnx lacks, is one from the beginning over turned frames; products that
no compiler may contract are plain ones, for ONNX's operators are rounded one by one; a lone row is multiplied alone, for rows of zeros
behind it help XLA only. Integer products become MatMulInteger, whose rescaling onnxruntime's optimiser fuses with the bias; the float32
twins are MatMul. float16, bfloat16 and float8 weights are carried in float32.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import exact
from dsrun.deploy import network as deployed
from dsrun.deploy.folder import Exported, load
from dsrun.deploy.network import logits
from dsrun.speech import read_manifest
from dsrun.speech.audio import read_utterance

OPSET = 21
_scan = jax.lax.scan


def scan_forward_only(step: Any, start: Any, frames: Any, reverse: bool = False, **options: Any) -> Any:
    """`jax.lax.scan`, from the beginning always."""
    if not reverse:
        return _scan(step, start, frames, **options)
    turned = partial(jax.tree.map, lambda array: jnp.flip(array, 0))
    last, found = _scan(step, start, turned(frames), **options)
    return last, turned(found)


def convert(model: Exported, output: Path, *, frames: int, products: str) -> Any:
    """Write the graph; returns the function that it is of."""
    import jax2onnx

    network = model.network.twin() if products == "float32" else model.network
    arrays = {path: {name: _carried(array) for name, array in own.items()} for path, own in model.arrays.items()}
    formats = tuple((path, f if f in ("int8", "int4") else "float32") for path, f in network.formats)
    if any(f == "float8_e4m3fn" for _, f in network.formats):
        raise SystemExit("float8_e4m3fn: its inputs are float8 codes, which this recipe does not write; export int8.")
    if model.format in ("float16", "bfloat16"):
        print(f"{model.format}: weights as they are, carried in float32; inputs of products are not rounded to it")
    network = type(network)(network.settings, formats, network.multiply)
    run = partial(logits, network, arrays)
    jax.lax.scan, times, rows = scan_forward_only, exact.times, deployed.FEWEST_ROWS
    exact.times, deployed.FEWEST_ROWS = lambda a, b, zero: a * b, 1
    try:
        spec = [
            jax.ShapeDtypeStruct((1, frames, network.settings.num_bins), jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
        ]
        jax2onnx.to_onnx(lambda x, n: run(x, n), spec, opset=OPSET, return_mode="file", output_path=str(output))
    finally:
        jax.lax.scan, exact.times, deployed.FEWEST_ROWS = _scan, times, rows
    # Arrays as arguments: of a constant scale XLA makes a product with its reciprocal, and codes differ.
    return partial(jax.jit(partial(logits, network)), arrays)


def _carried(array: Any) -> Any:
    narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype != jnp.float32
    return array.astype(jnp.float32) if narrow else array


def sessions(path: Path) -> dict[str, Any]:
    """onnxruntime with and without its optimiser."""
    import onnxruntime as ort

    found = {}
    for name, level in (("optimised", "ORT_ENABLE_ALL"), ("as written", "ORT_DISABLE_ALL")):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        found[name] = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return found


def compare(model: Exported, run: Any, path: Path, manifest: Path, frames: int) -> dict[str, Any]:
    """Logits and texts of a manifest's utterances by both."""
    found = {
        name: {"equal_bits": 0, "largest_difference": 0.0, "equal_texts": 0, "seconds": 0.0}
        for name in ("optimised", "as written")
    }
    engines, count, audio, own_seconds = sessions(path), 0, 0.0, 0.0
    for utterance in read_manifest(manifest):
        samples = read_utterance(utterance, model.audio)
        features = model.normalization.apply(model.features.compute(samples))
        if len(features) > frames:
            print(f"{utterance.id}: {len(features)} frames, more than --frames {frames}: left out")
            continue
        count, audio = count + 1, audio + len(samples) / model.audio.sample_rate
        x, length = np.zeros((1, frames, features.shape[1]), np.float32), np.array([len(features)], np.int32)
        x[0, : len(features)] = features
        start = time.perf_counter()
        wanted, counts = (np.asarray(array) for array in run(x, length))
        own_seconds += time.perf_counter() - start if count > 1 else 0.0  # the first one compiles
        wanted = wanted[0, : counts[0]]
        for name, engine in engines.items():
            names = [own.name for own in engine.get_inputs()]
            start = time.perf_counter()
            scores = engine.run(None, dict(zip(names, (x, length), strict=True)))[0][0, : counts[0]]
            own = found[name]
            own["seconds"] += time.perf_counter() - start if count > 1 else 0.0
            own["equal_bits"] += int(np.array_equal(scores, wanted))
            own["largest_difference"] = max(own["largest_difference"], float(np.abs(scores - wanted).max()))
            own["equal_texts"] += int(np.array_equal(scores.argmax(axis=1), wanted.argmax(axis=1)))
    for own in found.values():
        own["time_to_jax"] = own.pop("seconds") / own_seconds if own_seconds else None
    return {"manifest": str(manifest), "utterances": count, "audio_seconds": audio, "onnxruntime": found}


def main() -> None:
    """Convert, compare where a manifest is given, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="folder that `dsrun export` made")
    parser.add_argument("output", type=Path, help="model.onnx")
    parser.add_argument(
        "--frames", type=int, default=1600, help="of the graph; longer utterances do not fit (default 1600)"
    )
    parser.add_argument(
        "--products", choices=("integer", "float32"), default="integer", help="of codes: MatMulInteger, or twins"
    )
    parser.add_argument("--manifest", type=Path, help="speech to compare logits and texts on")
    arguments = parser.parse_args()
    model = load(arguments.export)
    run = convert(model, arguments.output, frames=arguments.frames, products=arguments.products)
    report = {"format": model.format, "products": arguments.products, "onnx_bytes": arguments.output.stat().st_size}
    if arguments.manifest:
        report |= compare(model, run, arguments.output, arguments.manifest, arguments.frames)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
