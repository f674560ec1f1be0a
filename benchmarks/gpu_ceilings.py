"""Part of the GPU report: what the chip can do. Products by format, a copy, and an empty scan's iteration by how XLA launches it.

float32 is true float32 (`Precision.HIGHEST`, said aloud); operands are random. A scan's iteration decides what a recurrent layer can be
at most: with command buffers (CUDA graphs) off, as XLA has them by default, and with the whole loop recorded as one graph.
"""

import statistics
from functools import partial

from benchmarks.gpu_parts import Failed, Settings, jax_worker, part_settings, row, spread, take_turns

FORMATS = ("bfloat16", "float16", "tensorfloat32", "float32")
LAUNCHES = {
    "command buffers off": ["--xla_gpu_enable_command_buffer="],
    "the default": [],
    "one graph, unrolled": [
        "--xla_gpu_enable_command_buffer=+WHILE",
        "--xla_gpu_command_buffer_unroll_loops=true",
        "--xla_gpu_graph_min_graph_size=1",
    ],
}
TURNS = 1024  # an unrolled graph of four thousand iterations takes longer to make than to run


def main() -> None:
    """All rows."""
    settings = part_settings(__doc__)
    workers = {name: jax_worker(name, flags) for name, flags in LAUNCHES.items()}
    try:
        products(settings, workers["the default"])
        for name, worker in workers.items():
            case = f"empty scan, {name}"
            if not settings.covers(case, 5):
                continue
            try:
                seconds = worker.ask("scan", turns=64 if settings.tiny else TURNS)["seconds"]
                row(case, f"{1e6 * seconds:.2f} us an iteration", seconds=seconds)
            except Failed as reason:
                row(case, f"FAILED: {reason}")
    finally:
        for worker in workers.values():
            worker.close()


def products(settings: Settings, worker) -> None:
    """Rates of products and of a copy, called in turn."""
    size = 512 if settings.tiny else 8192
    cases = {f"product {name}": {"kind": "product", "format": name, "size": size} for name in FORMATS}
    try:
        facts = worker.ask("prepare", cases={**cases, "copy": {"kind": "copy"}}, unit_seconds=settings.unit_seconds)
    except Failed as reason:
        row("products", f"FAILED: {reason}")
        return
    times, reasons = take_turns({name: partial(worker.seconds, name) for name in facts}, settings.rounds(7))
    for name, why in reasons.items():
        row(name, f"FAILED: {facts[name].get('error', why)}")
    for name, seconds in times.items():
        if name == "copy":
            rate = facts[name]["bytes"] / statistics.median(seconds)
            row("copy", f"{rate / 1e12:.2f} TB/s, bytes read and written", bytes_per_second=rate, seconds=seconds)
            continue
        rate, sheet = facts[name]["flops"] / statistics.median(seconds) / 1e12, facts[name]["datasheet"]
        share = f", {rate / sheet:.0%} of the data sheet's {sheet:g}" if sheet else ""
        exact = " (true float32, Precision.HIGHEST)" if name == "product float32" else ""
        words = f"{rate:.3g} TFLOP/s at {size}{share}{exact}; {spread(seconds, 1e3, 'ms')}"
        row(name, words, tflop_per_second=rate, seconds=seconds)


if __name__ == "__main__":
    main()
