"""`dsrun bench serve`: how long people wait for text when many speak at the same time."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from dsrun.cli_export import Format
from dsrun.cli_options import JsonOption

EXAMPLE = (
    "Examples:  dsrun bench serve RUN/export/float32 RUN/export/int8 --streams 1,10,30    "
    "dsrun bench serve RUN --format float32 --format int8 -o serve.svg"
)
MOST_STREAMS = 1000


def serve(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Run folders or exported models.")],
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="That a run is served in, exported for the occasion; default float32. Repeatable."
        ),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option(metavar="N,N,...", help="Streams at the same time; default 1,10,30. Repeatable."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is spoken. Default: the model's own test manifest.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of sound, in a measurement.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="Each measures everything once, models in turn.")] = 3,
    chunk_ms: Annotated[float, typer.Option(min=10, max=2000, help="Sound that a step takes in of a stream.")] = 200.0,
    block_ms: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            max=1000.0,
            help="Sound that a client sends at a time; default a hop. What a chunk waits for its block counts.",
        ),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single/--no-single", help="Measure without batches too: one stream a step.")
    ] = True,
    checkpoint: Annotated[str, typer.Option(help="Of runs: best, last, or a step number.")] = "best",
    seed: Annotated[int, typer.Option(min=0, help="Which recordings, and where each stream begins.")] = 1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Draw latency by streams, .svg or .png.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Latency of many streams served by batch dispatch, by format: median and 98th percentile, as Deep Speech 2 has them.

    Simulated clients speak a manifest's recordings at the speed of sound. When the device is free and a chunk waits, a step takes one
    chunk of every stream that has one (`--single`: and for comparison of one stream alone). Latency is from when the last sample of a
    chunk was spoken until its text is out: computing and waiting. What the network waits for by design is printed beside.

    A model that cannot keep up has no latency, since it grows as long as one measures, and that is said instead. Only networks of forward
    layers can be served in streams.
    """
    from dsrun.cli_study import print_json

    if output:
        from dsrun.study.plots import check_suffix

        check_suffix(output)
    counts = _counts(streams or ["1,10,30"])
    from dsrun.serve_rates import ServeSettings, bench_serve
    from dsrun.serve_tables import print_serve

    settings = ServeSettings(
        streams=counts,
        seconds=seconds,
        rounds=rounds,
        chunk_ms=chunk_ms,
        block_ms=block_ms,
        manifest=manifest,
        formats=_formats(format or ["float32"]),
        checkpoint=checkpoint,
        compare_single=single,
        seed=seed,
    )
    report = bench_serve(models, settings)
    print_json(report) if json_output else print_serve(report)
    if output:
        from dsrun.study.serve_figure import draw_serve

        draw_serve(report, output)


def _formats(names: list[str]) -> tuple[str, ...]:
    from dsrun.errors import UsageError

    known = get_args(Format)
    for name in names:
        if name not in known:
            raise UsageError(f"--format {name}: no run can be exported in it; there are {', '.join(known)}.")
    return tuple(dict.fromkeys(names))


def _counts(texts: list[str]) -> tuple[int, ...]:
    from dsrun.errors import UsageError

    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MOST_STREAMS for part in parts):
        raise UsageError(
            f"--streams {' '.join(texts)!r}: write numbers from 1 to {MOST_STREAMS} with commas between them, e.g. --streams 1,10,30."
        )
    return tuple(sorted({int(part) for part in parts}))
