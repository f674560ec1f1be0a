"""What the commands print for people: tables and reports on stdout."""

from typing import Any


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows with equal keys as an aligned text table on stdout, full width whatever the terminal."""
    if not rows:
        return
    texts = [[str(name) for name in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_description(report: dict[str, Any]) -> None:
    """A dry run's report for people."""
    print(f"{report['config']} -> {report['run_dir']}")
    print_table(report["parameters"])
    print(f"parameters: {report['parameter_count']:,}")
    for name, size in report["bytes"].items():
        print(f"  {name}: {size / 1e6:.2f} MB")
    print(f"GRU: {report['gru']}")
    print(f"CTC: {report['ctc']}")
    print(f"determinism: {report['determinism']}")
    print(
        f"batches: {report['steps_per_epoch']} an epoch, {report['total_steps']} steps in all; "
        f"{len(report['batch_shapes'])} shapes (one compilation each), padding {report['padding']:.1%} of frames"
    )
    print_table(report["batch_shapes"])
    print(
        f"utterances: {report['utterances']}; seconds of audio: {report['audio_seconds']:.0f}; classes: {report['classes']}"
    )
    print(f"infeasible for CTC: {len(report['infeasible'])}")
    for text in report["infeasible"]:
        print(f"  {text}")
    print("nothing was written")
