"""`dsrun bench`: how fast the parts are, as shares of what the machine can do; options in, tables or one JSON document out.

Commands import what they need when they run, so that `--help` answers without JAX; mistakes are told before JAX starts where
they can be. The tables have what a person compares, `--json` every figure with its unit in its name. `gru`, `ctc` and
`rounding` need nothing but the machine; `step`, `data` and `scaling` take a config and its data.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dsrun import cli_bench_serve

bench_app = typer.Typer(
    help="How fast training and its parts are here, as shares of what this machine can do.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
bench_app.command("serve", epilog=cli_bench_serve.EXAMPLE)(cli_bench_serve.serve)

RepeatsOption = Annotated[int, typer.Option(min=1, help="Measured rounds; everything is called once in each.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of XLA's pool on a CPU. Default: the processors of this process.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="YAML config; see `dsrun configs list`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. --set model.hidden=512. Repeatable."),
]
DevicesOption = Annotated[int | None, typer.Option(min=1, help="Devices to use; default as `dsrun train`: all.")]
BatchesOption = Annotated[int, typer.Option(min=1, help="Batches of the config's second epoch.")]


@bench_app.command(epilog="Example: dsrun bench gru --sizes 16x200x800 --format float32 --format bfloat16 --pass both")
def gru(
    sizes: Annotated[
        list[str] | None, typer.Option(metavar="BATCHxFRAMESxHIDDEN", help="Size, e.g. 16x200x256. Repeatable.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="small (default; for CPUs), deepbench (hidden 1024 to 2816) or deck (1760 and 2560)."),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="float32 (default), tensorfloat32, bfloat16 or float16. Repeatable."),
    ] = None,
    passes: Annotated[
        str, typer.Option("--pass", help="forward, both (forward and backward), or all: each of them.")
    ] = "all",
    residuals: Annotated[
        str, typer.Option(help="store: the gates are kept for the backward pass; recompute: only the states are.")
    ] = "store",
    repeats: RepeatsOption = 9,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """A bidirectional GRU layer, input as wide as its state: time of a frame, FLOP/s, share of a large product's rate.

    Both passes give gradients to input and weights. FLOPs by formula, for N frames in all and hidden H: forward 24 H^2 N, both 72 H^2 N;
    half of the forward and a third of both is sequential, the frames waiting for one another. The peak is a large
    matrix product in the same format, called in the same rounds. Formats below float32: operands, storage and errors in arrays of that
    dtype, float32 sums. float32 is true float32 (JAX's default on recent GPUs is TensorFloat-32).
    """
    from dsrun.errors import UsageError
    from dsrun.study.bench_sizes import gru_preset, parse_gru_sizes

    if sizes and preset:
        raise UsageError("--sizes and --preset both say what to measure: choose one.")
    chosen = parse_gru_sizes(sizes) if sizes else gru_preset(preset or "small")
    formats = _formats(format or ["float32"])
    wanted = _choose("--pass", passes, {"forward": ["forward"], "both": ["both"], "all": ["forward", "both"]})
    kept: Literal["store", "recompute"] = _choose(
        "--residuals", residuals, {"store": "store", "recompute": "recompute"}
    )
    _start_jax(threads)
    from dsrun.study.bench_gru import bench_gru

    fitting, skipped = _fitting(chosen, lambda size: size.bytes_needed(has_gradient="both" in wanted), bool(sizes))
    report = bench_gru(fitting, formats, wanted, residuals=kept, repeats=repeats)
    report["skipped"] = skipped
    _show(report, json_output)


@bench_app.command(epilog="Example: dsrun bench ctc --sizes 32x800x150x29 --repeats 15")
def ctc(
    sizes: Annotated[
        list[str] | None,
        typer.Option(metavar="BATCHxFRAMESxLABELSxCLASSES", help="Size, e.g. 16x400x80x29. Repeatable."),
    ] = None,
    kernel: Annotated[
        str, typer.Option(help="What walks the lattice, as kernels.ctc: scan, auto, or on an NVIDIA GPU mosaic.")
    ] = "scan",
    repeats: RepeatsOption = 9,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """CTC: loss and gradient with respect to the logits.

    Operations by formula: 8 for each of the 2 labels + 1 states of a frame, 6 for each logit; bytes: logits read and gradient
    written. Neither bounds CTC on most machines: its frames follow one another, each with little to do. Default sizes: 4x150x40x29,
    16x400x80x29, 32x800x150x29, 16x400x40x4000.
    """
    from dsrun.study.bench_sizes import CTC_SIZES, parse_ctc_sizes

    chosen = parse_ctc_sizes(sizes) if sizes else CTC_SIZES
    wanted: Literal["scan", "auto", "mosaic"] = _choose(
        "--kernel", kernel, {"scan": "scan", "auto": "auto", "mosaic": "mosaic"}
    )
    _start_jax(threads)
    from dsrun.study.bench_ctc import bench_ctc

    fitting, skipped = _fitting(chosen, lambda size: size.bytes_needed(), bool(sizes))
    report = bench_ctc(fitting, repeats=repeats, kernel=wanted)
    report["skipped"] = skipped
    _show(report, json_output)


@bench_app.command(epilog="Example: dsrun bench export RUN/export/float32 RUN/export/int8 --sizes 1x300 --sizes 16x300")
def export(
    models: Annotated[
        list[Path], typer.Argument(metavar="EXPORT...", help="Exported models; the first is the baseline.")
    ],
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BATCHxFRAMES", help="Utterances at once and their frames. Repeatable. Default: 1x300, 16x300."
        ),
    ] = None,
    programs: Annotated[
        bool, typer.Option("--programs", help="Time each folder's program.bin too, as whoever has JAX alone runs it.")
    ] = False,
    repeats: RepeatsOption = 9,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Exported models side by side: bytes, time to load, latency, times real time; integers beside their float32 twins.

    A batch of one says how long an utterance takes, a larger one how much speech a machine gets through. Then the products alone, which say
    where integers pay: they are faster where a product is large, slower where it is one row times a small matrix.
    """
    from dsrun.study.bench_sizes import EXPORT_SIZES, parse_export_sizes

    chosen = parse_export_sizes(sizes) if sizes else list(EXPORT_SIZES)
    _start_jax(threads)
    from dsrun.export_rates import bench_exports

    _show(bench_exports(models, chosen, repeats=repeats, programs=programs), json_output)


@bench_app.command(epilog="Example: dsrun bench rounding --format float16 --format mxfp4 --values 1000000")
def rounding(
    format: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Format, each in every mode. Repeatable.")
    ] = None,
    values: Annotated[int, typer.Option(min=1000, help="float32 values rounded at once.")] = 10_000_000,
    repeats: RepeatsOption = 9,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Rates of rounding, by format and mode, beside lax.reduce_precision and beside a copy.

    A rounding reads and writes four bytes a value, so a copy is its bound; it has no floating-point operations to count. Without
    --format: many formats to nearest, some stochastically, float16 in all modes, and the random bits alone.
    """
    from dsrun.study.grid import parse_named

    formats = [parse_named(name).name for name in format or ()]
    _start_jax(threads)
    from dsrun.study.bench_rounding import BYTES_A_VALUE, bench_rounding

    _require_memory(f"--values {values}", 4 * BYTES_A_VALUE * values)
    _show(bench_rounding(formats, values=values, repeats=repeats), json_output)


@bench_app.command(epilog="Example: dsrun bench step --config configs/prompts_float32.yaml --batches 8")
def step(
    config: ConfigOption,
    set: SetOption = None,
    batches: BatchesOption = 8,
    repeats: RepeatsOption = 7,
    devices: DevicesOption = None,
    json_output: JsonOption = False,
) -> None:
    """A config's training step on real batches: utterances/s, share of peak (MFU), and where the time goes.

    Whole: as `dsrun train` runs it. Stages: its three programs, each waited for. Parts: the inside of the gradient as programs of
    their own; their sum is not the gradient's time, because XLA fuses what it compiles together, so both are printed. MFU: three times
    the forward FLOPs of valid frames; HFU credits padding and recomputation too. float32 is true float32. Nothing is written but the
    feature cache; a compilation cache is left out, so that compile times are what they say.
    """
    from dsrun.config import load_config

    resolved = load_config(config, set or [])
    from dsrun.step_parts import bench_step

    report = bench_step(resolved.config, batches=batches, repeats=repeats, devices=devices)
    _show({"config": str(config), "determinism": resolved.config.determinism, **report}, json_output)


@bench_app.command(epilog="Example: dsrun bench data --config configs/prompts_float32.yaml --utterances 100")
def data(
    config: ConfigOption,
    set: SetOption = None,
    utterances: Annotated[
        int, typer.Option(min=1, help="The first of the training manifest; at least one batch of them.")
    ] = 64,
    repeats: RepeatsOption = 3,
    json_output: JsonOption = False,
) -> None:
    """Hours of audio a second: decoding, changed speeds, features, augmentation, batches.

    Cold: every stage by itself, in one thread, without a cache. As in training, from memory: loaded by one thread, by batches.workers,
    and from a cache; batches from the loader's thread. As in training, streamed: from files to batches by 0, 1 and 2 workers. No
    device. The cache is a temporary one.
    """
    from dsrun.config import load_config

    resolved = load_config(config, set or [])
    from dsrun.data_rates import bench_data

    report = bench_data(resolved.config, utterances=utterances, repeats=repeats)
    _show({"config": str(config), "determinism": resolved.config.determinism, **report}, json_output)


@bench_app.command(epilog="Example: dsrun bench scaling --config configs/prompts_float32.yaml --devices 1,2")
def scaling(
    config: ConfigOption,
    set: SetOption = None,
    devices: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Numbers of devices, e.g. 1,2,4. Default: powers of two.")
    ] = None,
    batches: BatchesOption = 8,
    repeats: Annotated[
        int, typer.Option(min=0, help="Measured rounds, everything once in each; 0 runs nothing and counts.")
    ] = 7,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw TFLOP/s against devices, .svg or .png.")
    ] = None,
    model_from: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Model many GPUs from this report of `bench scaling`, not from this run's."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """A config's step on one and more devices: utterances/s, speed-up, efficiency, and whether losses keep their bits.

    The same shards on more devices: the work stays, its place changes. Speed-ups are medians of ratios within a round. The talk has an
    efficiency of 0.87 from one GPU to eight. On a CPU all devices share its cores: a speed-up there says how well threads fill them.
    Exit code 1 if a loss differs in a bit.

    The sum over devices is measured as the fixed tree and as the library's all-reduce, in turns. From one GPU's step (measured, else
    assumed) and counted bytes follows a model of 1 to 128 GPUs; in the figure measured marks are filled and modelled ones hollow.
    """
    from dsrun.config import load_config

    counts = _device_counts(devices)
    resolved = load_config(config, set or [])
    other = _scaling_report(model_from) if model_from else None
    if plot:
        from dsrun.study.plots import check_suffix

        check_suffix(plot)
    from dsrun.device_scaling import bench_scaling
    from dsrun.study.scaling_model import measured_panel, model_report, modelled_panel

    measured = bench_scaling(resolved.config, counts, batches=batches, repeats=repeats)
    report = {"config": str(config), "determinism": resolved.config.determinism, **measured}
    report["model"] = model_report(other or report)
    _show(report, json_output)
    if plot:
        from dsrun.study.plots import draw_scaling

        measured_panels = [measured_panel(report)] if report["rows"] else []
        draw_scaling([*measured_panels, modelled_panel(other or report)], plot)
    if report["equal_loss_bits"] is False:
        raise typer.Exit(1)


def _show(report: dict[str, Any], as_json: bool) -> None:
    from dsrun.bench_tables import print_report
    from dsrun.cli_study import print_json

    print_json(report) if as_json else print_report(report)


def _formats(names: Sequence[str]) -> list[str]:
    from dsrun.errors import UsageError
    from dsrun.study.grid import parse_named

    known = ("float32", "tensorfloat32", "bfloat16", "float16")
    found = list(dict.fromkeys(parse_named(name).name for name in names))
    for name in found:
        if name not in known:
            raise UsageError(
                f"--format {name}: no matrix unit multiplies it in arrays of its own; there are {', '.join(known)}. "
                "`dsrun bench rounding` times every format's rounding."
            )
    return found


def _device_counts(text: str | None) -> list[int] | None:
    from dsrun.errors import UsageError

    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--devices {text!r}: write numbers from 1 with commas between them, e.g. --devices 1,2,4.")
    return sorted({int(part) for part in parts})


def _scaling_report(path: Path) -> dict[str, Any]:
    import json

    from dsrun.errors import UsageError

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--model-from {path}: {error}. Give what `dsrun bench scaling --json` printed.") from None
    if not isinstance(report, dict) or report.get("benchmark") != "scaling" or "counted" not in report:
        raise UsageError(
            f"--model-from {path}: no report of `dsrun bench scaling --json` with counted bytes. Run it again with this version."
        )
    return report


def _choose(option: str, value: str, choices: dict[str, Any]) -> Any:
    from dsrun.errors import UsageError

    if value not in choices:
        raise UsageError(f"{option} is {value!r}: write {', '.join(choices)}.")
    return choices[value]


def _start_jax(threads: int | None) -> None:
    """Pin what results and speed depend on, before JAX starts."""
    from dsrun.record import configure_runtime
    from dsrun.record.runtime import processors

    configure_runtime(pool_size=threads or processors())


def _fitting(
    sizes: Sequence[Any], bytes_needed: Callable[[Any], int], is_explicit: bool
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Sizes that fit in memory. One that was asked for by name and does not is an error; of a preset the others are run."""
    from dsrun.record.host import require_memory

    available, fitting, skipped = _memory(), [], []
    for size in sizes:
        needed = bytes_needed(size)
        if is_explicit:
            require_memory(f"--sizes {size}", needed, available)
        if available is None or needed <= available:
            fitting.append(size)
        else:
            skipped.append({"size": str(size), "bytes_needed": needed, "bytes_available": available})
    if not fitting:
        require_memory(f"every size, e.g. {sizes[-1]}", bytes_needed(sizes[-1]), available)
    return fitting, skipped


def _require_memory(what: str, needed: int) -> None:
    from dsrun.record.host import require_memory

    require_memory(what, needed, _memory())


def _memory() -> int | None:
    """Bytes that are free where arrays live: the device's allocator knows its limit, a CPU has the host's memory."""
    import jax

    from dsrun.record.host import available_memory

    limits = jax.devices()[0].memory_stats() or {}
    return limits.get("bytes_limit", available_memory())
