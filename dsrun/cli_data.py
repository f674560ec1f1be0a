"""`dsrun data`: import, check and look at what a recogniser is trained and scored on."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsrun.cli_options import ConfigOption, JsonOption
from dsrun.cli_tables import print_check

data_app = typer.Typer(help="Check and look at manifests.", no_args_is_help=True, rich_markup_mode=None)


class Depth(StrEnum):
    """How deep `check` looks."""

    samples = "samples"
    headers = "headers"
    nothing = "nothing"


@data_app.command("check")
def data_check(
    manifests: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MANIFEST]...",
            help="JSON-lines manifests, e.g. of train, dev and test; default those of --config.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Also check characters and CTC feasibility under this config.")
    ] = None,
    sample_rate: Annotated[int, typer.Option(help="Rate that every file must have (Hz), without --config.")] = 16_000,
    audio: Annotated[
        Depth,
        typer.Option(
            help="What is read of each recording: all samples, the file's header, or nothing (the manifest is believed)."
        ),
    ] = Depth.samples,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read side by side.")] = 2,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of lengths, rates of speech and padding, .png or .svg.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look at every recording and transcript and report all problems at once, also what the manifests share. Exit code 3 if there are
    errors."""
    from dsrun.data_check import check_data

    if plot is not None:
        from dsrun.study.plots import check_suffix

        check_suffix(plot)
    checked = check_data(manifests or [], config=config, sample_rate=sample_rate, depth=audio.value, workers=workers)
    if json_output:
        print(json.dumps(checked.document, indent=2, ensure_ascii=False))
    else:
        print_check(checked.document)
    if plot is not None:
        from dsrun.data_check_plot import draw_check

        draw_check(checked, plot)
    if checked.document["errors"]:
        raise typer.Exit(3)


@data_app.command("show")
def data_show(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    utterance: Annotated[str | None, typer.Argument(help="Id of the utterance; default the first.")] = None,
    config: ConfigOption = Path("configs/prompts_float32.yaml"),
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose augmentation is shown beside the plain clip.")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture, .png or .svg.")] = Path("utterance.png"),
    wav: Annotated[Path | None, typer.Option(help="Also write what that epoch hears, .wav or .flac.")] = None,
) -> None:
    """Draw an utterance, plain, with each augmentation alone, and as training gets it."""
    from dsrun.data_show import show_utterance

    print(show_utterance(manifest, utterance, config=config, epoch=epoch, output=output, audio=wav))
