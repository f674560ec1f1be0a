"""Folder: an exported model on disk, written whole or not at all, and read without anything else.

    model.json      what it is: network, formats, scales, conventions, alphabet, features, origin, versions, SHA-256 of each file
    weights.npz     arrays of the products, as `storage` packs them
    features.npz    mean and deviation of each bin, and what `script` needs to compute features
    program.bin     StableHLO (`program`)
    MODEL_CARD.md, run_with_jax.py    for people

A folder may come from a stranger: nothing is unpickled, every file must have the SHA-256 that model.json says, and arrays that do not fit
the network are refused by name.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsrun.deploy.codes import FORMATS, INTEGERS, most_inputs
from dsrun.deploy.description import problem_of
from dsrun.deploy.network import Network
from dsrun.deploy.quantized import Arrays
from dsrun.deploy.script import script_arrays
from dsrun.deploy.storage import Shapes, Stored, pack, stored_layout, unpack
from dsrun.errors import DataError, UsageError
from dsrun.model import Conv2dSettings, FrameStackSettings, ModelSettings, parameter_table
from dsrun.record import cannot_write, sync_tree
from dsrun.speech import Alphabet, AudioSettings, FeatureSettings, Normalization

MODEL, WEIGHTS, FEATURES, PROGRAM = "model.json", "weights.npz", "features.npz", "program.bin"
VERSION = 1  # of the folder; another one is refused
_ALSO = "Export the run again with this version of dsrun, or restore the folder from a copy."


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to recognise. `document` is model.json; `path` None is a model that was never written."""

    path: Path | None
    network: Network
    arrays: Arrays
    alphabet: Alphabet
    features: FeatureSettings
    normalization: Normalization
    audio: AudioSettings
    max_seconds: float
    document: dict[str, Any]

    @property
    def format(self) -> str:
        """What it was exported in."""
        return str(self.document["format"])


def is_export(path: Path) -> bool:
    """Whether a folder is (meant to be) an exported model."""
    return (path / MODEL).is_file()


def describe(exported: Exported) -> dict[str, Any]:
    """The part of model.json that rebuilds the model: what `load` reads."""
    audio = exported.audio
    return {
        "dsrun_export": VERSION,
        "network": asdict(exported.network.settings),
        "formats": dict(exported.network.formats),
        "alphabet": {
            "symbols": list(exported.alphabet.symbols),
            "normalizer": exported.alphabet.normalizer,
            "blank": 0,
        },
        "features": asdict(exported.features),
        "audio": {"resample": audio.resample, "channel": audio.channel},
        "max_seconds": exported.max_seconds,
    }


def save(exported: Exported, folder: Path, others: Mapping[str, str | bytes], *, overwrite: bool) -> None:
    """Write an export. `others`: more files by name, the program and what is for people.

    Raises:
        UsageError: something is there, and is not to be replaced, or is no export. DataError: the disk takes no more.
    """
    refuse_what_is_there(folder, overwrite=overwrite)
    stored, shapes = pack(exported.network, exported.arrays)
    files = {WEIGHTS: _npz(stored), FEATURES: _npz(_feature_arrays(exported))}
    files |= {name: text.encode() if isinstance(text, str) else text for name, text in others.items()}
    document = describe(exported) | exported.document
    document["packed_shapes"] = {name: list(shape) for name, shape in shapes.items()}
    document["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MODEL] = (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
    aside, old = (folder.with_name(f".{folder.name}.{word}") for word in ("part", "old"))
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, content in files.items():
            (aside / name).write_bytes(content)
        sync_tree(aside)
        # Killed between the two renames, the old one is there under its other name, whole.
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(aside, folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise cannot_write(folder, error) from error


def refuse_what_is_there(folder: Path, *, overwrite: bool) -> None:
    """Raises UsageError where an export cannot be put without losing something."""
    if not folder.exists() and not folder.is_symlink():
        return
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.is_symlink() or not (is_empty or is_export(folder)):
        raise UsageError(f"{folder}: is there and is no exported model; choose another place with --output.")
    if not is_empty and not overwrite:
        raise UsageError(
            f"{folder}: an exported model is there; --overwrite replaces it, --output chooses another place."
        )


def load(path: Path) -> Exported:
    """An exported model from its folder.

    Raises:
        UsageError: no exported model. DataError: damaged, of another version, or not what its model.json says.
    """
    if not is_export(path):
        raise UsageError(f"{path}: no exported model (no {MODEL}). `dsrun export RUN --format int8` makes one.")
    document = _read_document(path / MODEL)
    try:
        network = Network(_settings_of(document["network"]), tuple(document["formats"].items()))
        alphabet = Alphabet(tuple(document["alphabet"]["symbols"]), document["alphabet"]["normalizer"])
        features = FeatureSettings(**document["features"])
        audio = AudioSettings(features.sample_rate, max_seconds=float(document["max_seconds"]), **document["audio"])
        shapes = {str(name): tuple(map(int, shape)) for name, shape in document["packed_shapes"].items()}
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path / MODEL}: not as dsrun writes it ({type(error).__name__}: {error}). {_ALSO}") from None
    if unknown := sorted({str(format) for _, format in network.formats} - set(FORMATS)):
        raise DataError(f"{path / MODEL}: formats {', '.join(unknown)} are none that this version knows. {_ALSO}")
    stored = _arrays(path, WEIGHTS, document)
    normalization = _arrays(path, FEATURES, document)
    if PROGRAM in document["files"]:
        verified(path, PROGRAM, document)  # nobody here runs it, and whoever passes the folder on wants to know
    _require_fitting(path, network, stored, shapes, normalization)
    arrays = unpack(network, {name: jax.numpy.asarray(x) for name, x in stored.items()}, shapes)
    return Exported(
        path,
        network,
        arrays,
        alphabet,
        features,
        Normalization.from_arrays(normalization),
        audio,
        float(document["max_seconds"]),
        document,
    )


def verified(path: Path, name: str, document: Mapping[str, Any]) -> bytes:
    """A file's content. Raises DataError where it is missing or not what model.json says."""
    expected = document.get("files", {}).get(name)
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise DataError(f"{path / name}: cannot be read ({error.strerror}). {_ALSO}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise DataError(f"{path / name}: damaged, its SHA-256 is not the one in {MODEL}. {_ALSO}")
    return content


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON as dsrun writes it ({error}). {_ALSO}") from None
    if not isinstance(document, dict) or not isinstance(document.get("files"), dict):
        raise DataError(f"{path}: not a description that dsrun writes. {_ALSO}")
    if (version := document.get("dsrun_export")) != VERSION:
        raise DataError(f"{path}: version {version!r} of the folder; this dsrun reads {VERSION}. {_ALSO}")
    if problem := problem_of(document):
        raise DataError(f"{path}: not as dsrun writes it: {problem}. {_ALSO}")
    return document


def _settings_of(found: Mapping[str, Any]) -> ModelSettings:
    front_end = dict(found["front_end"])
    kind = FrameStackSettings if "stack" in front_end else Conv2dSettings
    return ModelSettings(**{**found, "front_end": kind(**front_end)})


def _arrays(path: Path, name: str, document: Mapping[str, Any]) -> Stored:
    content = verified(path, name, document)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise DataError(f"{path / name}: no arrays as dsrun writes them ({error}). {_ALSO}") from None


def _require_fitting(path: Path, network: Network, stored: Stored, shapes: Shapes, normalization: Stored) -> None:
    """Refuse arrays of another network than the description's, which would fail far from here or, worse, not at all."""
    found = {name: (x.shape, str(x.dtype)) for name, x in stored.items()}
    weights = _weight_shapes({name: shape for name, shape, _ in parameter_table(network.settings)})
    packed = {f"{path}/weight": weights.get(path) for path, format in network.formats if format == "int4"}
    expected = stored_layout(network, weights) if list(dict(network.formats)) == list(weights) else {}
    bins = (network.settings.num_bins,)
    if found != expected or shapes != packed:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise DataError(f"{path / WEIGHTS}: not the arrays of the network in {MODEL} ({', '.join(wrong[:5])}). {_ALSO}")
    for product, format in network.formats:
        if format in INTEGERS and (count := math.prod(weights[product][:-1])) > (most := most_inputs(format)):
            raise DataError(
                f"{path / MODEL}: {product} has {count} inputs, and an int32 sum of more than {most} could wrap. "
                "Export the run in float16."
            )
    if any(normalization.get(name, np.zeros(0)).shape != bins for name in ("mean", "deviation")):
        raise DataError(f"{path / FEATURES}: not a mean and a deviation for {bins[0]} bins. {_ALSO}")


def _weight_shapes(sizes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of each product, from those of the parameters; in the network's order."""
    early = {name: shape for name, shape in sizes.items() if name.startswith("front_end.kernel")}
    layers = sorted({name.split(".")[0] for name in sizes if name.startswith("gru_")}, key=_layer_and_direction)
    found = dict(sorted(early.items()))
    for layer in layers:
        for kind in "wu":
            inputs, hidden = sizes[f"{layer}.{kind}_r"]
            found[f"{layer}.{kind}"] = (inputs, 3 * hidden)
    return found | {"output_kernel": sizes["output_kernel"]}


def _layer_and_direction(name: str) -> tuple[int, bool]:
    _, layer, direction = name.split("_")
    return int(layer), direction == "backward"


def _feature_arrays(exported: Exported) -> Stored:
    return exported.normalization.to_arrays() | script_arrays(exported.features, exported.alphabet)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict(sorted(arrays.items())))  # type: ignore[arg-type]
    return buffer.getvalue()
