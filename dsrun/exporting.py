"""Exporting: from a run folder to a model that recognises alone, with a table of what each layer lost.

On the roof: it reads the run (`trained`), builds calibration batches (`build`) and hands both to the room `deploy`. The slice of speech
that scales are taken from is drawn by a seed from the training manifest unless another is named; never from test.

What a layer costs is measured by quantising that layer alone, everything else in float32, on the dev manifest: the difference in
character errors, and in the CTC loss, which sees what the rounding of a count of errors hides. The shares are of the sum over layers;
single losses do not add up to that of all layers together, which stands beside them.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsrun import build
from dsrun.config import load_config
from dsrun.ctc import ctc_loss
from dsrun.deploy.calibrate import InputFacts, calibrate, exponent_fields
from dsrun.deploy.codes import (
    LARGEST_CODE,
    DeployFormat,
    Granularity,
    Method,
    has_scale,
    input_format,
)
from dsrun.deploy.folder import PROGRAM, Exported, refuse_what_is_there, save
from dsrun.deploy.folding import FloatProduct, fold
from dsrun.deploy.network import Network, logits
from dsrun.deploy.program import build_program
from dsrun.deploy.quantized import CONSTANTS, Arrays, WeightFacts, constants, product_arrays
from dsrun.deploy.script import NAME, script_text
from dsrun.deploy.storage import pack
from dsrun.errors import CannotWriteError, DataError, UsageError
from dsrun.evaluation.comparison import compare
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.results import Evaluation
from dsrun.evaluation.whole_pass import WholePass
from dsrun.export_card import card_text
from dsrun.export_document import describe_export
from dsrun.record import RunDir
from dsrun.record.durable import why_not_writable
from dsrun.speech import file_digest, read_manifest
from dsrun.study.layers_figure import draw_layers
from dsrun.trained import Trained, load_run

UTTERANCES = 64  # of the calibration slice
SEED = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and how scales are found.

    Fields:
        format: of weights and inputs (int4: weights; its inputs are int8). granularity: one scale a weight matrix, or one a channel.
        method: how a range becomes a scale. calibration: manifest to look at; None is the run's training manifest.
        utterances: of it at most, drawn by `seed`. checkpoint: of the run.
    """

    format: DeployFormat
    granularity: Granularity = "layer"
    method: Method = "absmax"
    calibration: Path | None = None
    utterances: int = UTTERANCES
    seed: int = SEED
    checkpoint: str = "best"

    @property
    def name(self) -> str:
        """What an export in these settings is called: what is not the default is said."""
        said = [self.granularity] if self.granularity != "layer" else []
        return "-".join([self.format, *said, *([self.method] if self.method != "absmax" else [])])


@dataclass(frozen=True)
class Quantizer:
    """Products of a run and what is known of their inputs: any layer in float32 or in the format, at will."""

    trained: Trained
    settings: ExportSettings
    products: Mapping[str, FloatProduct]
    inputs: Mapping[str, InputFacts]  # by place; empty where nothing is coded
    _made: dict[tuple[str, DeployFormat], tuple[dict[str, jax.Array], WeightFacts]] = field(default_factory=dict)

    def build(self, paths: Iterable[str]) -> tuple[Network, Arrays, dict[str, WeightFacts]]:
        """The network with the products at `paths` in the format and the others in float32."""
        chosen, arrays, facts = set(paths), {}, {}
        formats: dict[str, DeployFormat] = {
            path: self.settings.format if path in chosen else "float32" for path in self.products
        }
        for path in self.products:
            arrays[path], facts[path] = self._product(path, formats[path])
        arrays[CONSTANTS] = constants(self.trained.settings, self.trained.weights)
        return Network(self.trained.settings, tuple(formats.items())), arrays, facts

    def _product(self, path: str, format: DeployFormat) -> tuple[dict[str, jax.Array], WeightFacts]:
        """A product in a format, made once: each layer alone, all together, the figure and the export ask for it."""
        product, made = self.products[path], self._made
        if (path, format) not in made:
            try:
                made[path, format] = product_arrays(
                    product,
                    format,
                    inputs=self.inputs[product.source].coding if has_scale(format) else None,
                    granularity=self.settings.granularity,
                    method=self.settings.method,
                )
            except ValueError as error:
                raise DataError(f"{self.trained.run.path}: {path}: {error}") from None
        return made[path, format]


def prepare(path: Path, settings: ExportSettings, *, say: Say = lambda line: None) -> tuple[Quantizer, dict[str, Any]]:
    """A run ready to be quantised, and what calibration was made on.

    Raises:
        UsageError: no run, no checkpoint, a calibration manifest that is not there. DataError: nothing in it can be used.
    """
    trained = load_run(path, settings.checkpoint)
    products = fold(trained.settings, trained.weights, trained.statistics)
    if not has_scale(settings.format):
        return Quantizer(trained, settings, products, {}), {}
    batches, about = _calibration_batches(trained, settings)
    say(f"calibrating on {about['utterances']} utterances of {about['manifest']}")
    formats = {product.source: input_format(settings.format) for product in products.values()}
    try:
        inputs = calibrate(
            trained.settings, trained.weights, trained.statistics, batches, formats=formats, method=settings.method
        )
    except ValueError as error:
        raise DataError(f"{about['manifest']}: {error}") from None
    return Quantizer(trained, settings, products, inputs), about


def make_export(path: Path, settings: ExportSettings, *, say: Say = lambda line: None) -> Exported:
    """A run as an exported model that was not written."""
    return finish(*prepare(path, settings, say=say))


def finish(quantizer: Quantizer, calibration: dict[str, Any]) -> Exported:
    """The whole network in the format, with its description."""
    trained = quantizer.trained
    network, arrays, facts = quantizer.build(quantizer.products)
    return Exported(
        path=None,
        network=network,
        arrays=arrays,
        alphabet=trained.alphabet,
        features=build.build_features(trained.config),
        normalization=trained.normalization,
        audio=build.build_audio(trained.config),
        max_seconds=trained.config.data.max_seconds,
        document=describe_export(quantizer, network, arrays, facts, calibration),
    )


def measure_layers(quantizer: Quantizer, manifest: Path, *, say: Say = lambda line: None) -> dict[str, Any]:
    """What quantising each layer alone, and all together, costs on a manifest.

    Returns:
        `manifest`, `utterances`, `float32` and `all` ({cer, loss}), and `layers`: for each product its `cer` and `loss`, their differences
        to float32's (`cer_loss` with its 95% interval over utterances, `is_seen` if that leaves zero out, `ctc_loss`) and the shares of
        these in the sum over layers (None where there is no loss to share).
    """
    scorer = _Scorer(quantizer.trained, manifest)
    base = scorer(*quantizer.build(())[:2])
    whole = scorer(*quantizer.build(quantizer.products)[:2])
    rows = {}
    start, count = time.monotonic(), len(quantizer.products)
    for number, path in enumerate(quantizer.products):
        left = (time.monotonic() - start) / number * (count - number) if number else None
        about = f"; about {left:.0f} s left" if left is not None else ""
        say(f"layer {number + 1} of {count}: {path} alone in {quantizer.settings.format}{about}")
        found = scorer(*quantizer.build((path,))[:2])
        apart = compare(found, base)["cer"]
        rows[path] = _scores(found) | {
            "cer_loss": found.characters.rate - base.characters.rate,
            "cer_loss_interval": apart["interval"],
            "is_seen": not apart["interval"][0] <= 0.0 <= apart["interval"][1],
            "ctc_loss": found.loss - base.loss,
        }
    for name in ("cer_loss", "ctc_loss"):
        total = sum(max(row[name], 0.0) for row in rows.values())
        for row in rows.values():
            row[f"{name}_share"] = max(row[name], 0.0) / total if total > 0.0 else None
    return {
        "manifest": str(manifest),
        "manifest_sha256": file_digest(manifest),
        "utterances": len(base.utterances),
        "float32": _scores(base),
        "all": _scores(whole),
        "layers": rows,
    }


def magnitudes(quantizer: Quantizer) -> dict[str, dict[str, Any]]:
    """For a figure: by product, numbers of values by float32's exponent field, of weights and inputs, and what their codes reach."""
    found: dict[str, dict[str, Any]] = {}
    _, _, facts = quantizer.build(quantizer.products)
    for path, product in quantizer.products.items():
        scales = facts[path].scales
        found[path] = {"weight": exponent_fields(product.weight), "weight_scale": max(scales) if scales else None}
        if inputs := quantizer.inputs.get(product.source):
            found[path] |= {"input": inputs.fields, "input_scale": float(inputs.coding.scale)}
    return found


def _scores(found: Evaluation) -> dict[str, Any]:
    return {"cer": found.characters.rate, "character_errors": found.characters.errors, "loss": found.loss}


def deployed_pass(network: Network) -> WholePass:
    """The exported network's whole pass; its weights are the arrays of an export."""
    return WholePass(lambda arrays, _, features, num_frames: logits(network, arrays, features, num_frames), ctc_loss)


class _Scorer:
    """Greedy decoding and loss of a manifest by one deployed network after another."""

    def __init__(self, trained: Trained, manifest: Path):
        config = trained.config
        # Each network is compiled for each shape, and there are as many networks as layers: two shapes are enough.
        config = config.model_copy(update={"batches": config.batches.model_copy(update={"buckets": 2})})
        cache = build.cache_of(config, access="read")
        dataset, self.references, _ = build.build_evaluation_data(
            config, manifest, trained.alphabet, trained.normalization, cache=cache
        )
        self.batches = list(build.build_batcher(config, dataset, purpose="evaluate").epoch(0))
        self.alphabet = trained.alphabet

    def __call__(self, network: Network, arrays: Arrays) -> Evaluation:
        """Results in the manifest's order."""
        evaluator = Evaluator(deployed_pass(network))
        return evaluator(arrays, None, self.batches, references=self.references, alphabet=self.alphabet)


def _calibration_batches(trained: Trained, settings: ExportSettings) -> tuple[Callable[[], Iterable[Any]], dict]:
    """Batches of the slice, the same at every call, and what the slice is."""
    config, manifest = trained.config, settings.calibration or Path(trained.config.data.train)
    if not manifest.is_file():
        way = "Make a folder with `dsrun export RUN --calibration MANIFEST` and use that."
        raise UsageError(f"{manifest}: the calibration manifest is not there. {way}")
    utterances = sorted(read_manifest(manifest), key=lambda utterance: utterance.id)
    if not utterances:
        raise DataError(f"{manifest}: no utterance to calibrate on.")
    order = np.random.Generator(np.random.Philox(key=settings.seed)).permutation(len(utterances))
    chosen = [utterances[place] for place in sorted(order[: settings.utterances])]
    dataset = build.build_unlabelled_data(
        config, chosen, trained.normalization, cache=build.cache_of(config, access="read")
    )
    batcher = build.build_batcher(config, dataset, purpose="evaluate")
    about = {
        "manifest": str(manifest),
        "manifest_sha256": file_digest(manifest),
        "utterances": len(chosen),
        "of": len(utterances),
        "seed": settings.seed,
        "seconds": round(sum(utterance.duration or 0.0 for utterance in chosen), 3),
    }
    return lambda: batcher.epoch(0), about


@dataclass(frozen=True)
class Plan:
    """Where an export goes and what is measured on the way. `scored_on` None: layers are not scored one at a time."""

    output: Path
    overwrite: bool
    scored_on: Path | None


def export_run(path: Path, settings: ExportSettings, plan: Plan, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Export a run into a folder; the report, ready for JSON.

    Raises:
        UsageError, DataError: as `prepare`; the folder is there; a manifest that is needed is not.
    """
    refuse_what_is_there(plan.output, overwrite=plan.overwrite)
    if cannot := why_not_writable(plan.output.parent):
        raise CannotWriteError(f"{plan.output}: {cannot} Choose another place with --output.")
    _require_manifests(path, settings, plan)
    quantizer, calibration = prepare(path, settings, say=say)
    exported = finish(quantizer, calibration)
    losses = measure_layers(quantizer, plan.scored_on, say=say) if plan.scored_on else None
    exported = replace(exported, document=exported.document | {"layer_losses": losses})
    say("compiling the program")
    program = build_program(exported.network, *pack(exported.network, exported.arrays))
    others: dict[str, str | bytes] = {PROGRAM: program, NAME: script_text(exported.features)}
    others["MODEL_CARD.md"] = card_text(quantizer.trained, exported, losses)
    if losses:
        others["layers.svg"] = _figure(quantizer, losses)
    save(exported, plan.output, others, overwrite=plan.overwrite)
    files = {file.name: file.stat().st_size for file in sorted(plan.output.iterdir())}
    return {"run": str(path), "export": str(plan.output), "files": files, **exported.document}


def _require_manifests(path: Path, settings: ExportSettings, plan: Plan) -> None:
    """Raises UsageError that names all manifests that are needed and not there: a run that was moved has lost them together."""
    missing, calibration, config = [], settings.calibration, RunDir(path).config
    if calibration is None and config.is_file() and has_scale(settings.format):
        calibration = Path(load_config(config).config.data.train)
    if calibration is not None and not calibration.is_file():
        missing.append(f"{calibration} to calibrate on (name one with --calibration)")
    if plan.scored_on is not None and not plan.scored_on.is_file():
        missing.append(f"{plan.scored_on} to score layers on (name one with --scored-on, or --no-layers)")
    if missing:
        raise UsageError(f"{path}: its export needs what is not there: {'; '.join(missing)}.")


def _figure(quantizer: Quantizer, losses: Mapping[str, Any]) -> bytes:
    format = quantizer.settings.format
    largest = {"weight": LARGEST_CODE[format], "input": LARGEST_CODE[input_format(format)]} if has_scale(format) else {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "layers.svg"
        draw_layers(losses["layers"], magnitudes(quantizer), format=format, largest=largest, output=output)
        return output.read_bytes()
