"""MODEL_CARD.md: what an exported model is, for whoever is handed it, from the run folder and the export's own description.

On the roof: it reads the run's config and results. Every number in it stands in a file of the run or of the export; what is not known is
left out or said to be unknown, and nothing is estimated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrun.config import Config
from dsrun.deploy.folder import Exported
from dsrun.deploy.script import NAME
from dsrun.dev_results import own_manifests
from dsrun.errors import DataError
from dsrun.evaluation.results import own_results, read_results
from dsrun.trained import Trained, digests_at_the_start

_ROLES = ("storage", "compute", "accumulate", "gradient", "reduce", "master", "state", "ctc")
_LICENCES = ("LICENSE*", "LICENCE*", "COPYING*")


def card_text(trained: Trained, exported: Exported, losses: Mapping[str, Any] | None) -> str:
    """The card. `losses`: what `exporting.measure_layers` found, where it was measured."""
    document = exported.document
    parts = [
        _head(trained, document),
        "## How to use it\n\n"
        "    dsrun transcribe THIS_FOLDER recording.wav\n"
        "    dsrun eval THIS_FOLDER --manifest MANIFEST\n"
        f"    python {NAME} < recording.wav        # JAX and NumPy alone, 16-bit WAV, one channel, {exported.audio.sample_rate} Hz",
        _network(trained, exported),
        _numbers(document),
        _data(trained, document),
        _rates(trained),
        _layers(document, losses),
        _limits(trained, exported),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(trained: Trained, document: Mapping[str, Any]) -> str:
    source, size = document["source"], document["bytes"]
    commit = f" at commit {source['commit'][:7]}" if source["commit"] else ""
    return (
        f"# {source['run']}, {document['format']}\n\nA speech recogniser: characters from audio. Exported by dsrun from the run "
        f"{source['run']}, step {source['step']}, trained with dsrun {source['dsrun'] or '(unknown version)'}{commit}. Weights, scales and "
        f"biases take {size['this']:,} bytes, {size['ratio']:.3f} of what they take in float32."
    )


def _network(trained: Trained, exported: Exported) -> str:
    settings, features = trained.settings, exported.features
    ahead = f", then a row convolution over {settings.lookahead} output frames to come" if settings.lookahead else ""
    kind = type(settings.front_end).__name__.removesuffix("Settings")
    return (
        f"## Network\n\nDeep Speech 2: {kind} front end, {settings.layers} {settings.direction} GRU layers of {settings.hidden}{ahead}, "
        f"{settings.num_classes} classes, {settings.normalization} normalisation (folded where it can be). Features: {features.kind}, "
        f"{features.window_ms:g} ms windows every {features.hop_ms:g} ms at {features.sample_rate} Hz, {features.num_bins} bins. "
        f"{'Streams.' if settings.direction == 'forward' else 'Hears whole recordings only: its backward layers begin at the end.'}"
    )


def _numbers(document: Mapping[str, Any]) -> str:
    lines = [f"* {name}: {text}" for name, text in document["convention"].items()]
    kept = [f"* {name}: {why}" for name, why in document["kept_in_float32"].items()]
    promise = (
        "Same features, same logits, to the bit, on any CPU: every product is of integers, and what stands between them is float32 "
        "arithmetic that no compiler may contract. (Programs for NVIDIA GPUs divide approximately, by up to 2 units in the last place.)"
        if document["is_exact"]
        else "Products are summed in the backend's order, so last bits differ from machine to machine."
    )
    calibration = document["calibration"]
    seen = (
        f"\n\nCalibrated on {calibration['utterances']} of {calibration['of']} utterances ({calibration['seconds']:.0f} s) of "
        f"{Path(calibration['manifest']).name} (sha256 {calibration['manifest_sha256'][:12]}), drawn with seed {calibration['seed']}."
        if calibration
        else ""
    )
    return "## Numbers\n\n" + "\n".join(lines) + f"\n\n{promise}{seen}\n\nKept in float32:\n\n" + "\n".join(kept)


def _data(trained: Trained, document: Mapping[str, Any]) -> str:
    config = trained.config
    rows = [
        f"* {name}: {Path(entry['path']).name}, sha256 {(entry['sha256'] or 'unknown')[:12]}"
        for name, entry in document["manifests"].items()
    ]
    roles = config.arithmetic.model_dump()
    formats = [f"{role} {roles[role]['format']}" for role in _ROLES if isinstance(roles.get(role), dict)]
    rules = f"; {len(config.arithmetic.rules)} rules by path" if config.arithmetic.rules else ""
    return (
        "## Training\n\n" + "\n".join(rows) + f"\n\nLicence of the data: {_licence(config)}\n\n"
        f"Formats by role in training: {', '.join(formats)}{rules}. {config.optimizer.kind}, {config.training.epochs} epochs, "
        f"seed {config.seed}."
    )


def _licence(config: Config) -> str:
    folder = Path(config.data.train).parent
    for pattern in _LICENCES:
        for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
            with path.open(encoding="utf-8", errors="replace") as file:
                first = next((line.strip() for line in file if line.strip()), "")
            return f'{path.name} beside the training manifest begins "{first[:120]}". Read it whole before you pass the model on.'
    return "unknown: there is no licence file beside the training manifest. Find it out before you pass the model on."


def _rates(trained: Trained) -> str:
    """Of the run as trained; the export's own is `dsrun eval`'s to measure."""
    config, lines = trained.config, []
    digests = digests_at_the_start(trained.run)
    for split in (split for split in ("test", "dev") if split in digests):
        stem = own_results(split, own_manifests(config), digests)
        path = trained.run.evaluation / f"{stem}.jsonl"
        if not path.is_file():
            continue
        try:
            found = read_results(path).summary()
        except DataError:
            continue
        low, high = found["cer_interval"]
        wide = found["wer_interval"]
        lines.append(
            f"* {split}: CER {found['cer']:.4f} [{low:.4f}, {high:.4f}], WER {found['wer']:.4f} [{wide[0]:.4f}, {wide[1]:.4f}], "
            f"{found['utterances']} utterances, greedy"
        )
    if not lines:
        return ""
    return (
        "## Error rates of the run before export\n\n"
        + "\n".join(lines)
        + "\n\n95% intervals over utterances. What this folder has is for `dsrun eval` to say."
    )


def _layers(document: Mapping[str, Any], losses: Mapping[str, Any] | None) -> str:
    rows = layer_rows(document, losses)
    names = list(rows[0])
    table = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    table += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    text = "## Layers\n\n" + "\n".join(table)
    if losses:
        whole, base = losses["all"], losses["float32"]
        text += (
            f"\n\nEach layer alone in {document['format']}, all others in float32, on {Path(losses['manifest']).name} "
            f"({losses['utterances']} utterances): float32 has CER {base['cer']:.4f} and {base['loss']:.3f} nats an utterance, all layers "
            f"together {whole['cer']:.4f} and {whole['loss']:.3f}. Shares are of the sum of what layers lost one at a time; "
            "brackets are 95% over utterances, and where they contain zero no difference "
            "was seen.\n\n"
            "![what each layer lost, and the magnitudes that explain it](layers.svg)"
        )
    return text


def layer_rows(document: Mapping[str, Any], losses: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The table of layers, one row a product."""
    rows = []
    for layer in document["layers"]:
        inputs = layer.get("input")
        scales = layer["weight_scales"]
        row: dict[str, Any] = {"product": layer["product"], "bytes": layer["bytes"]}
        if scales:
            low, high = min(scales), max(scales)
            row["weight scale"] = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            row["weight clipped %"] = 100 * layer["weight_clipped"]
        row["weight SQNR dB"] = layer["weight_sqnr_db"]
        if inputs:
            zero = f", zero {inputs['zero_point']}" if inputs["zero_point"] else ""
            row["input scale"] = f"{inputs['scale']:.3g}{zero}"
            row["input clipped %"] = 100 * inputs["clipped"]
            row["input SQNR dB"] = inputs["sqnr_db"]
        if losses:
            own = losses["layers"][layer["product"]]
            low, high = own["cer_loss_interval"]
            row["CER loss"] = f"{own['cer_loss']:+.4f} [{low:+.4f}, {high:+.4f}]"
            row["share of CER loss"] = _share(own["cer_loss_share"])
            row["CTC loss"] = f"{own['ctc_loss']:+.4f}"
            row["share of CTC loss"] = _share(own["ctc_loss_share"])
        rows.append(row)
    return rows


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.0f}%"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _limits(trained: Trained, exported: Exported) -> str:
    known = ", ".join(_shown(exported.alphabet.symbols))
    return (
        "## Limits\n\n"
        f"* It writes these symbols and no others: {known}.\n"
        f"* It was trained on recordings of up to {trained.config.data.max_seconds:g} s in the language, voices and rooms of its training "
        "data; what it does with others was not measured.\n"
        "* Confidences rank words and are not calibrated."
    )


def _shown(symbols: Sequence[str]) -> list[str]:
    return ["space" if symbol == " " else f"`{symbol}`" for symbol in symbols]
