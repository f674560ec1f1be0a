"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="YAML config; see `dsrun configs list`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. --set model.hidden=512. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/prompts_float32-1a2b3c.")]
