"""Options and arguments that several commands have, and a check that several options need."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dsrun.errors import UsageError


def finite(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """The value of an option, as its callback; `min` and `max` let NaN pass, and one of them alone infinity.

    Raises:
        UsageError: NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{parameter.opts[0]} {value}: write a finite number.")
    return value


class NamingValues(TyperGroup):
    """Commands whose refusals of an option's value name the value: typer says "Input should be greater than or equal to 1" alone."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, with the value in the message of an option that its type or range refuses."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Of pydantic; where click checks, it names the value itself.
            found: list[Any] = getattr(error.__cause__, "errors", list)()
            if found:
                error.message = _naming(found[0]["input"], error.message)
            raise


def _naming(value: Any, reason: str) -> str:
    text = str(value)
    shown = text if text.isprintable() and text and " " not in text else repr(text)
    try:
        if not math.isfinite(float(text)):
            return f"{shown}: write a finite number."
    except ValueError:
        pass
    return f"{shown} {reason.removeprefix('Input ')}" if reason.startswith("Input ") else f"{shown}: {reason}"


ConfigOption = Annotated[Path, typer.Option("--config", help="YAML config; see `dsrun configs list`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. --set model.hidden=512. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/prompts_float32-1a2b3c.")]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run folder, or an exported model, e.g. RUN/export/int8.")
]
CheckpointOption = Annotated[
    str | None, typer.Option(help="Of a run: best (the default), last, or a step number.", show_default=False)
]
