"""What model.json tells of an export besides what rebuilds it: conventions, scales layer by layer, bytes, origin, versions.

On the roof, beside `exporting`, which makes the export. Another program must be able to compute the same from them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.deploy.codes import (
    BITS,
    CANDIDATES,
    INTEGERS,
    LARGEST_CODE,
    PERCENTILE,
    Granularity,
    has_scale,
    input_format,
)
from dsrun.deploy.network import Network
from dsrun.deploy.quantized import CONSTANTS, Arrays, WeightFacts, byte_count, kept
from dsrun.record import read_provenance
from dsrun.record.provenance import package_version, source_digest
from dsrun.trained import Trained

if TYPE_CHECKING:
    from dsrun.exporting import ExportSettings, Quantizer


def describe_export(
    quantizer: "Quantizer",
    network: Network,
    arrays: Arrays,
    facts: Mapping[str, WeightFacts],
    calibration: dict[str, Any],
) -> dict[str, Any]:
    """The part of model.json that tells instead of rebuilding."""
    settings, format = quantizer.settings, quantizer.settings.format
    layers = [_layer(quantizer, path, arrays[path], facts[path]) for path in quantizer.products]
    size = sum(layer["bytes"] for layer in layers) + sum(array.nbytes for array in arrays[CONSTANTS].values())
    plain = size - sum(layer["bytes"] - layer["float32_bytes"] for layer in layers)
    return {
        "format": format,
        "bits": BITS[format],
        "granularity": settings.granularity if has_scale(format) else None,
        "method": settings.method if has_scale(format) else None,
        "calibration": calibration or None,
        "convention": _convention(settings),
        "is_exact": network.is_exact,
        "kept_in_float32": kept(quantizer.trained.settings),
        "source": _source(quantizer.trained),
        "manifests": _manifests(quantizer.trained),
        "bytes": {"this": size, "float32": plain, "ratio": size / plain},
        "versions": {name: package_version(name) for name in ("jax", "jaxlib", "numpy", "ml_dtypes")},
        "layers": layers,
    }


def _layer(quantizer: "Quantizer", path: str, arrays: Mapping[str, Any], facts: WeightFacts) -> dict[str, Any]:
    product, format = quantizer.products[path], quantizer.settings.format
    found: dict[str, Any] = {
        "product": path,
        "shape": list(product.weight.shape),
        "weight_scales": list(facts.scales),
        "weight_clipped": facts.clipped,
        "weight_sqnr_db": _finite(facts.sqnr_db),
        "source": product.source,
        "bytes": byte_count(arrays, format),
        "float32_bytes": 4 * (product.weight.size + product.gain.size + product.bias.size),
    }
    if inputs := quantizer.inputs.get(product.source):
        coding = inputs.coding
        found["input"] = {
            "format": coding.format,
            "scale": float(coding.scale),
            "zero_point": coding.zero_point,
            "lowest": float(coding.low),
            "highest": float(coding.high),
            "seen": [inputs.histogram.low, inputs.histogram.high],
            "clipped": inputs.clipped,
            "sqnr_db": _finite(inputs.sqnr_db),
        }
    return found


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _convention(settings: "ExportSettings") -> dict[str, Any]:
    """What another program must know to compute the same."""
    format = settings.format
    if not has_scale(format):
        return {
            "weights": f"numbers of {format}, rounded to nearest, ties to even",
            "products": f"inputs rounded to {format}, products summed in float32, then times `multiplier`, plus `bias`",
        }
    largest, coded = LARGEST_CODE[format], input_format(format)
    rounding = "to nearest, ties to even" if format in INTEGERS else "to the nearest float8_e4m3fn, ties to even"
    ranges = {
        "absmax": "the largest magnitude seen",
        "percentile": f"{PERCENTILE} % of the values seen lie within",
        "mse": f"the end with the smallest mean squared error of rounding and clipping, of {CANDIDATES - CANDIDATES // 8} tried",
        "minmax_of_histogram": "from the lowest to the highest bin of the histogram that holds a value; weights: the largest magnitude",
    }
    return {
        "weights": f"codes -{largest}..{largest}, symmetric, value = code * scale; one scale a {_shared(settings.granularity)}",
        "inputs": f"{coded} codes -{LARGEST_CODE[coded]}..{LARGEST_CODE[coded]}, value = (code - zero_point) * scale; one scale a place, "
        "fixed by calibration; affine where the values have one sign, else zero_point 0",
        "code": f"x * inverse_scale (float32; inputs' stand in weights.npz) rounded {rounding}, plus zero_point, "
        "held to the outermost codes; -128 (of int4: -8) is never used",
        "inverse_scale": "1 / scale, rounded once to float32; nobody divides, for compilers make another operation of it",
        "scale": "the smallest number of 16 significand bits whose largest code reaches the end of the range",
        "range": ranges[settings.method],
        "products": "codes x codes -> int32, plus `offset` (int32, -zero_point * column sums of the weight codes), then as float32 times "
        "`multiplier` (input scale * weight scale * gain), plus `bias`"
        if format in INTEGERS
        else "codes as float32 numbers, products summed in float32, then times `multiplier`, plus `bias`",
        "padding": "frames behind the end, and the zeros around a convolution, are the code of zero (zero_point)",
    }


def _shared(granularity: Granularity) -> str:
    return (
        "weight matrix (three to a recurrent layer, one a gate)"
        if granularity == "layer"
        else "channel (column of a weight)"
    )


def _source(trained: Trained) -> dict[str, Any]:
    provenance = read_provenance(trained.run.provenance) if trained.run.provenance.is_file() else {}
    git = provenance.get("git") or {}
    return {
        "run": trained.run.path.resolve().name,
        "step": trained.step,
        "dsrun": provenance.get("dsrun"),
        "commit": git.get("commit"),
        "exported_by_source_sha256": source_digest(),
    }


def _manifests(trained: Trained) -> dict[str, Any]:
    data = trained.config.data
    provenance = read_provenance(trained.run.provenance) if trained.run.provenance.is_file() else {}
    digests = provenance.get("data", {})
    paths = {"train": data.train, "dev": data.dev, "test": data.test}
    return {name: {"path": path, "sha256": digests.get(name)} for name, path in paths.items() if path}
