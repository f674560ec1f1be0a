"""`dsrun export`: a trained run as a model that recognises alone, in float or integer formats."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dsrun.cli_options import JsonOption, RunArgument

EXAMPLE = (
    "Examples:  dsrun export RUN --format int8    dsrun export RUN --format int4 --granularity channel --method mse    "
    "then  dsrun eval RUN/export/int8    dsrun transcribe RUN/export/int8 a.wav"
)
# Of deploy.codes, which imports JAX; a test says that they are the same.
Format = Literal["float32", "float16", "bfloat16", "int8", "int4", "float8_e4m3fn"]
Granularity = Literal["layer", "channel"]
Method = Literal["absmax", "percentile", "mse", "minmax_of_histogram"]


def export(
    run: RunArgument,
    format: Annotated[
        Format,
        typer.Option(
            help="Of weights and of what they are multiplied with (int4: by int8). Sums are int32 or float32."
        ),
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Speech that scales of inputs are taken from. Default: the run's training manifest.",
        ),
    ] = None,
    granularity: Annotated[
        Granularity, typer.Option(help="One scale a weight matrix (a GRU layer has one a gate), or one a channel.")
    ] = "layer",
    method: Annotated[
        Method,
        typer.Option(
            help="How a range becomes a scale: all of it; 99.99 % of the values; least squared error; both ends, affine."
        ),
    ] = "absmax",
    utterances: Annotated[int, typer.Option(min=1, help="Of the calibration manifest, at most; drawn by --seed.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of that draw.")] = 1,
    layers: Annotated[
        bool, typer.Option("--layers/--no-layers", help="Score each layer quantised alone; most of the command's time.")
    ] = True,
    scored_on: Annotated[
        Path | None, typer.Option(metavar="MANIFEST", help="For --layers. Default: the run's dev manifest.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step number.")] = "best",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Default: RUN/export/FORMAT.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an export that is there, results too.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Make a folder that recognises without the run: weights, model.json, a StableHLO program, a card and a 20-line script.

    Batch normalisation is folded into the products. int8, int4 and float8_e4m3fn are codes with a scale for each weight matrix (or
    channel) and one for each layer's inputs and recurrent state, fixed by calibration; integer codes are multiplied as integers and
    summed in int32. The state, the gates and the biases stay float32, and model.json says why.

    Then, layer by layer: scales, what is clipped, signal to quantisation noise (SQNR), bytes, and what it costs to quantise that layer
    alone. int8 and int4 models give the same logits to the bit on any CPU (without layer normalisation).
    """
    from dsrun.errors import UsageError

    if scored_on is not None and not layers:
        raise UsageError("--scored-on is for --layers: leave one of them out.")
    if format in ("float32", "float16", "bfloat16") and (calibration or granularity != "layer" or method != "absmax"):
        raise UsageError(
            f"--calibration, --granularity and --method are for formats with a scale; {format} has none. Leave them out."
        )
    from dsrun.cli_study import print_json
    from dsrun.config import load_config
    from dsrun.exporting import ExportSettings, Plan, export_run

    settings = ExportSettings(format, granularity, method, calibration, utterances, seed, checkpoint)
    if layers and scored_on is None and (run / "config.yaml").is_file():
        scored_on = Path(load_config(run / "config.yaml").config.data.dev)
    plan = Plan(output or run / "export" / settings.name, overwrite, scored_on if layers else None)
    report = export_run(run, settings, plan, say=_say)
    print_json(report) if json_output else _print(report)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    from dsrun.cli_tables import print_table
    from dsrun.export_card import layer_rows
    from dsrun.study.layers_figure import worst_first

    size, losses = report["bytes"], report["layer_losses"]
    print(f"run       {report['run']}  checkpoint step {report['source']['step']}")
    print(f"export    {report['export']}  {report['format']}, {size['this']:,} bytes, {size['ratio']:.3f} of float32's")
    if report["is_exact"]:
        print("          same features, same logits to the bit on any CPU")
    print_table(layer_rows(report, losses))
    if losses:
        base, whole = losses["float32"], losses["all"]
        print(
            f"on {losses['manifest']}, {losses['utterances']} utterances: float32 CER {base['cer']:.4f}, loss {base['loss']:.4f}; all "
            f"layers in {report['format']} CER {whole['cer']:.4f}, loss {whole['loss']:.4f}"
        )
        worst = worst_first(losses["layers"])[0]
        low, high = losses["layers"][worst]["cer_loss_interval"]
        seen = "" if any(row["is_seen"] for row in losses["layers"].values()) else "; no layer's loss is told from zero"
        loss = losses["layers"][worst]["cer_loss"]
        print(
            f"lost most: {worst}, CER {loss:+.4f} [{low:+.4f}, {high:+.4f}]{seen}; figure {report['export']}/layers.svg"
        )
    print(f"next: dsrun eval {report['export']}    dsrun transcribe {report['export']} FILE")
