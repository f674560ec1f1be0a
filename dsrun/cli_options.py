"""Options and arguments that several commands have, and a check that several options need."""

import math
from pathlib import Path
from typing import Annotated

import typer

from dsrun.errors import UsageError


def finite(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """The value of an option, as its callback; `min` and `max` let NaN pass, and one of them alone infinity.

    Raises:
        UsageError: NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{parameter.opts[0]} {value}: write a finite number.")
    return value


ConfigOption = Annotated[Path, typer.Option("--config", help="YAML config; see `dsrun configs list`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. --set model.hidden=512. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/prompts_float32-1a2b3c.")]
