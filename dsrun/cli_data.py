"""`dsrun data`: import, check and look at what a recogniser is trained and scored on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dsrun.cli_options import ConfigOption, JsonOption

data_app = typer.Typer(help="Check and look at manifests.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("check")
def data_check(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Also check characters and CTC feasibility under this config.")
    ] = None,
    sample_rate: Annotated[int, typer.Option(help="Rate that every file must have (Hz), without --config.")] = 16_000,
    json_output: JsonOption = False,
) -> None:
    """Decode every file of a manifest and report all problems at once. Exit code 3 if there are errors."""
    from dsrun.inspection import check_data

    report = check_data(manifest, config=config, sample_rate=sample_rate)
    if json_output:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for problem in report["errors"]:
            print(f"error: {problem}")
        for problem in report["warnings"]:
            print(f"warning: {problem}")
        print("  ".join(f"{name} {value}" for name, value in report["totals"].items()))
    if report["errors"]:
        raise typer.Exit(3)


@data_app.command("show")
def data_show(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    utterance: Annotated[str | None, typer.Argument(help="Id of the utterance; default the first.")] = None,
    config: ConfigOption = Path("configs/prompts_float32.yaml"),
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose augmentation is shown beside the plain features.")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture, .png or .svg.")] = Path("utterance.png"),
) -> None:
    """Draw an utterance's features, plain and as training sees them after augmentation."""
    from dsrun.inspection import draw_utterance

    print(draw_utterance(manifest, utterance, config=config, epoch=epoch, output=output))
