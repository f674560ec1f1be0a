"""`dsrun study`: experiments with numbers alone, in seconds, each a table, a figure (-o) and one JSON document (--json).

On the roof beside `cli.py`. What a command computes is in the room `study/`; here are its options, its tables and nothing else.
Commands import what they need when they run, so that `--help` answers without JAX.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsrun.cli_options import finite
from dsrun.cli_rows import without_nonfinite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

study_app = typer.Typer(
    help="What formats and roundings do to numbers: no data and no run needed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FormatOption = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="NAME", help="Format, e.g. bfloat16, float_e6m9 or fixed_q4.12. Repeatable."),
]
DrawsOption = Annotated[int, typer.Option(min=2, max=10**6, help="Repetitions of what is rounded stochastically.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the random bits.")]
RandomBitsOption = Annotated[
    int | None, typer.Option(min=1, max=31, help="Bits that a stochastic rounding compares; default 24.")
]
FigureOption = Annotated[Path | None, typer.Option("-o", "--output", help="Draw a figure, .svg or .png.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
StartOption = Annotated[float, typer.Option(callback=finite, help="First value, rounded to each format.")]


@study_app.command(
    epilog="Example: dsrun study accumulate --format float16 --format fixed_q12.4 --rounding stochastic --random-bits 6 -o sums.svg"
)
def accumulate(
    start: StartOption = 100.0,
    increment: Annotated[float, typer.Option(callback=finite, help="Added each time.")] = 0.01,
    times: Annotated[int, typer.Option(min=1, help="Additions.")] = 100,
    format: FormatOption = None,
    rounding: Annotated[
        list[str] | None,
        typer.Option(metavar="MODE", help="Rounding mode. Repeatable. Default: ties_to_even and stochastic."),
    ] = None,
    random_bits: RandomBitsOption = None,
    draws: DrawsOption = 10_000,
    uniforms: Annotated[
        int, typer.Option(min=0, max=2**20, help="Also sum so many numbers uniform in [0, 1); 0 leaves that out.")
    ] = 10_000,
    seed: SeedOption = 0,
    output: FigureOption = None,
    json_output: JsonOption = False,
) -> None:
    """100 + 0.01, a hundred times: what small sums do in a format, by rounding, beside what must come out.

    To nearest the sum stays at 100 in float16: the spacing there is 1/16. Stochastic rounding gives 101 on average, a
    float32 accumulator rounded once at the end 101. Few random bits bring the bias back. The same with sums of uniform
    numbers, where float16 stops at 2048. Default formats: float16, bfloat16, and the integers (fixed_q16.0).

    A sum is made in float32 and then rounded: an increment below 2**-24 of it is lost before the rounding sees it, and a directed rounding
    is the second one.
    """
    from dsrun.study.grid import check_mode, parse_grid

    _check_figure(output)
    names = format or ("float16", "bfloat16", "fixed_q16.0")
    formats = list(dict.fromkeys(parse_grid(name) for name in names))
    for one in formats:
        for mode in rounding or ():
            check_mode(one, mode)
    _require_stochastic(random_bits, rounding)
    _start_jax()
    from dsrun.study.accumulate import DEFAULT_MODES, study_sums

    options: dict[str, Any] = {"start": start, "increment": increment, "times": times, "seed": seed}
    bits = {"random_bits": random_bits} if random_bits else {}
    modes = tuple(dict.fromkeys(rounding or DEFAULT_MODES))
    found = study_sums(formats, modes, **options, **bits, draws=draws, uniforms=uniforms)
    report = options | found.report() | {"figure": str(output) if output else None}
    if output is not None:
        from dsrun.study.accumulate_exhibit import draw_accumulate

        _save(draw_accumulate, report, output)
    print_json(report) if json_output else _print_sums(report)


def _print_sums(report: dict[str, Any]) -> None:
    print(f"{report['start']:g} + {report['increment']:g}, {report['times']} times")
    _print_rows(
        report["sums"],
        "format accumulator rounding draws start mean standard_error sd min max at_start predicted_mean predicted_sd",
    )
    if rows := report["random_bits"]:
        print("\nthe mean by the number of random bits")
        _print_rows(rows, "format random_bits mean standard_error predicted_mean sd predicted_sd")
    if rows := report["uniforms"]:
        print(f"\nsum of {rows[0]['uniforms']:,} numbers uniform in [0, 1), {rows[0]['sequences']} sequences")
        _print_rows(rows, "format accumulator rounding mean sd min max exact_mean relative_error")
    _print_figure(report)


@study_app.command(
    epilog="Example: dsrun study cartoon --format float16 --format fixed_q4.8 --rounded operations -o cartoon.svg"
)
def cartoon(
    format: FormatOption = None,
    start: StartOption = 0.0,
    learning_rate: Annotated[float, typer.Option(callback=finite, help="gamma: the update is 2 gamma (3 - w).")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 2000,
    rounded: Annotated[
        str,
        typer.Option(help="weight: only the new weight is rounded; operations: the difference and the product too."),
    ] = "weight",
    random_bits: RandomBitsOption = None,
    draws: DrawsOption = 10_000,
    at: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="STEP", help="Step whose mean is printed. Repeatable; default 50, 100, 200."),
    ] = None,
    seed: SeedOption = 0,
    output: FigureOption = None,
    json_output: JsonOption = False,
) -> None:
    """Gradient descent on one weight, Q = -(w-3)^2 + 3, learning rate 0.01: where nearest stalls and what does not.

    Q has a maximum at 3, so the update adds 2 gamma (3 - w) (the talk's slide writes a minus, which would run away). To
    nearest it stops at 2.953125 in float16 and at 2.625 in bfloat16, where the update is half of the spacing. Stochastic
    rounding, a float32 master and Kahan's compensated sum go on to 3; the stochastic mean is 3 (1 - 0.98^t) in every format.
    Default formats: float16, bfloat16, float8_e4m3fn, float8_e5m2.
    """
    from dsrun.errors import UsageError
    from dsrun.study.grid import parse_grid

    _check_figure(output)
    if rounded not in ("weight", "operations"):
        raise UsageError(f"--rounded is {rounded!r}: write weight or operations.")
    late = [step for step in at or () if step > steps]
    if late:
        raise UsageError(f"--at {late[0]} lies behind the last of {steps} steps; raise --steps, or lower --at.")
    names = format or ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
    formats = list(dict.fromkeys(parse_grid(name) for name in names))
    _start_jax()
    from dsrun.study.cartoon import study_cartoon

    options: dict[str, Any] = {"start": start, "learning_rate": learning_rate, "steps": steps, "rounded": rounded}
    options["seed"] = seed
    bits = {"random_bits": random_bits} if random_bits else {}
    found = study_cartoon(formats, compared=tuple(dict.fromkeys(at or (50, 100, 200))), draws=draws, **options, **bits)
    report = options | found.report() | {"figure": str(output) if output else None}
    if output is not None:
        from dsrun.study.cartoon_exhibit import draw_cartoon

        _save(draw_cartoon, report, output)
    print_json(report) if json_output else _print_ways(report)


def _print_ways(report: dict[str, Any]) -> None:
    rate, start = 2 * report["learning_rate"], report["start"]
    print(f"w <- w + {rate:g} (3 - w), {report['steps']} steps from {start:g}; rounded: {report['rounded']}")
    _print_rows(report["ways"], "format method draws final min max at_target last_moved distance stall_radius")
    if rows := report["expectation"]:
        print("\nmean of the stochastic draws beside the sequence in real numbers")
        _print_rows(rows, "format step expected mean standard_error standard_errors_off sd")
    _print_figure(report)


@study_app.command(epilog="Example: dsrun study formats float16 float_e6m9 fixed_q4.12")
def formats(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Formats; default the whole table.")
    ] = None,
    output: FigureOption = None,
    json_output: JsonOption = False,
) -> None:
    """What each format can hold: precision, range, smallest numbers, spacing at 1, how many values, what is beyond.

    Besides the table there are two families: float_eXmY (X exponent bits, Y stored significand bits; IEEE-like) and
    fixed_qM.N (M bits before the point, the sign among them, N behind). Of formats with a scale the numbers are in units of
    the scale. `values` counts different finite values, zero once. `overflow` is the default; --json lists the others.
    `roles`: what it may be in a config's `arithmetic` (with a scale, storage needs a master copy). Every format can be
    emulated in float32; a native one can also be the dtype of a network's arrays.
    """
    from dsrun.study.format_table import format_rows
    from dsrun.study.plots import draw_formats

    _check_figure(output)
    rows = format_rows(names or ())
    report = {"formats": rows, "figure": str(output) if output else None}
    if output is not None:
        draw_formats(rows, output)
    print_json(report) if json_output else _print_formats(report)


def _print_formats(report: dict[str, Any]) -> None:
    columns = (
        "format bits precision exponents largest smallest_normal smallest_subnormal spacing_at_1 values specials overflow "
        "roles carrier scale"
    )
    _print_rows([row | _format_words(row) for row in report["formats"]], columns)
    _print_figure(report)


@study_app.command(
    epilog="Example: dsrun study magnitudes runs/prompts_float16_storage-1a2b3c --layer gru_1 --step 700 -o magnitudes.svg"
)
def magnitudes(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    step: Annotated[int | None, typer.Option(min=1, help="Watched step; default the last.")] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="features, front_end, gru_0 (both directions), ..., output.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Regular expression that a tensor's whole path matches.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="storage, gradient, reduce, update, state or master; default all.")
    ] = None,
    output: FigureOption = None,
    json_output: JsonOption = False,
) -> None:
    """How large a run's numbers are: parameters, inputs, outputs, errors, gradients, updates, by role and tensor.

    Reads what training left with training.watch_every_steps. Shares are of non-zero finite values: underflow, what the role's
    format rounds to zero (to nearest); subnormal, what it holds with fewer bits; overflow, what lies beyond it. Of updates also
    the share that changed the weight, and the share swallowed: below half an ulp of it. Gradients and errors carry the
    loss scale. Numbers are seen before their role rounds them, but for the sum over shards (gradient_sum) and recurrent states, seen
    after it: what those lost shows in weight_gradient and in its zeros. The figure has a histogram by binade of each kind, log-log,
    over bands of the format's range.
    """
    from dsrun.study.magnitudes import make_panels, read_step, select, tensor_rows, total_rows
    from dsrun.study.plots import check_suffix, draw_magnitudes

    if output is not None:
        check_suffix(output)
    found, steps = read_step(run, step)
    places = select(found, layer=layer, path=path, role=role)
    kinds, tensors = total_rows(found, places), tensor_rows(found, places)
    if output is not None:
        scale = "" if found.loss_scale == 1.0 else f", loss scale {found.loss_scale:g}"
        draw_magnitudes(make_panels(found, places), f"{run.name}, step {found.step}{scale}", output)
    facts = {"run": str(run), "step": found.step, "steps": steps, "loss_scale": found.loss_scale}
    report = facts | {"kinds": kinds, "tensors": tensors, "figure": str(output) if output else None}
    if json_output:
        print_json(report)
        return
    print(f"{run}  step {found.step}  loss scale {found.loss_scale:g}  (watched: {len(steps)} steps)")
    figures = (
        "values zero_share underflow_share subnormal_share overflow_share nonfinite log2_smallest log2_largest "
        "changed_share swallowed_share"
    )
    without_updates = {"changed_share": None, "swallowed_share": None}
    _print_rows([without_updates | row for row in kinds], f"kind role tensors {figures}")
    print()
    _print_rows([without_updates | row for row in tensors], f"path kind role format {figures}")
    _print_figure(report)


def _format_words(row: dict[str, Any]) -> dict[str, Any]:
    """Several fields of a format's row in one word each, for the table."""
    specials = [word for word, name in (("inf", "infinity"), ("NaN", "nan"), ("-0", "negative_zero")) if row[name]]
    has_exponents = row["min_exponent"] is not None
    return {
        "exponents": f"{row['min_exponent']}..{row['max_exponent']}" if has_exponents else None,
        "specials": " ".join(specials) or None,
        "roles": " ".join(row["roles"]) if row["scale"] else "all" if "ctc" in row["roles"] else "all but ctc",
        "carrier": "native" if row["native"] else "emulated",
    }


def _start_jax() -> None:
    """Pin what results depend on, before JAX starts."""
    from dsrun.record import configure_runtime

    configure_runtime()


def _require_stochastic(random_bits: int | None, modes: Sequence[str] | None) -> None:
    from dsrun.errors import UsageError

    if random_bits is not None and modes and "stochastic" not in modes:
        raise UsageError("--random-bits belongs to stochastic rounding; add --rounding stochastic or leave it out.")


def _check_figure(output: Path | None) -> None:
    from dsrun.study.plots import check_suffix

    if output is not None:
        check_suffix(output)


def _save(draw: "Callable[[dict[str, Any], float], Figure]", report: dict[str, Any], output: Path) -> None:
    """The figure of a document, at the width of a report's page."""
    from dsrun.study.exhibit import WIDE
    from dsrun.study.plots import save_figure

    save_figure(draw(without_nonfinite(report), WIDE), output)


def print_json(report: dict[str, Any]) -> None:
    print(json.dumps(without_nonfinite(report), indent=2, allow_nan=False))


def _print_rows(rows: Sequence[dict[str, Any]], columns: str) -> None:
    """Some columns of rows as a table, with enough digits to see what a sum did."""
    from dsrun.cli_tables import print_table

    print_table([{name: _text(row[name]) for name in columns.split()} for row in rows])


def _text(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value


def _print_figure(report: dict[str, Any]) -> None:
    if report["figure"]:
        print(f"\nfigure: {report['figure']}")
