"""What `dsrun bench serve` found, for people: a line a format, number of streams and kind of batching."""

from typing import Any

from dsrun.cli_tables import print_table


def print_serve(report: dict[str, Any]) -> None:
    """The whole of it."""
    print(
        f"serving by batch dispatch: streams of {report['seconds_a_round']:g} s of sound at the speed of sound in blocks of "
        f"{report['block_ms']:g} ms, {report['rounds']} rounds, the models in turn"
    )
    machine = report["machine"]
    print(
        f"{machine['device']}, {machine['devices']} device{'s' if machine['devices'] > 1 else ''}, {machine['threads']} threads, "
        f"jax {machine['jax']}"
    )
    for model in report["models"]:
        design = model["latency_by_design"]
        print(
            f"{model['name']}: {model['path'] or (model['source'] or {}).get('run', '')}, chunks of {model['chunk_ms']:g} ms, steps of "
            f"{', '.join(map(str, model['step_sizes']))} streams compiled in {model['compile_seconds']:.1f} s; by design, before this "
            f"latency, at most {design['total_ms']:g} ms"
        )
    print()
    print_table([_row(row) for row in report["rows"]])
    print()
    for row in report["rows"]:
        if not row["keeps_up"]:
            print(
                f"{row['model']}, {_streams(row['streams'])}, {_batching(row)}: cannot keep up, {row['too_slow']}; there is no latency to "
                "quote, it grows as long as one measures"
            )
    if report["not_tried"]:
        print(f"not tried, for fewer streams were too many: {_listed(report['not_tried'])}")
    _explain(report)


def _explain(report: dict[str, Any]) -> None:
    print(
        "latency: from when the last sample that a chunk needs was spoken until its text is out (features, queue, step), over all chunks\n"
        "of all rounds; ending: from a stream's end until the last of its text; busy: share of the time in steps; clients: of a processor\n"
        "for clients and features; sound/compute: seconds of sound that a second of steps takes in; of_first: over the first model's\n"
        "median, the median of the ratios within a round"
    )
    past = "; ".join(
        f"{_streams(row['streams'])} {row['median_ms']:g} and {row['percentile_98_ms']:g} ms"
        for row in report["deep_speech_2"]
    )
    print(
        f"Deep Speech 2 (Amodei et al. 2015), another network on one Quadro K1200, median and 98th percentile: {past}"
    )
    print(f"peak memory {report['peak_memory_bytes'] / 1e6:.0f} MB ({report['peak_memory_is']})")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    latency, medians, ratio = row["latency"], row["round_medians_ms"], row["median_over_first"]
    return {
        "streams": row["streams"],
        "dispatch": _batching(row),
        "model": row["model"],
        "median_ms": _ms(latency["median_ms"]),
        "(rounds)": f"({_ms(min(medians))} to {_ms(max(medians))})" if medians else "-",
        "98th_ms": _ms(latency["percentile_98_ms"]),
        "of_first": f"{ratio[1]:.2f}" if ratio else "-",
        "ending_ms": _ms(row["ending"]["median_ms"]),
        "mean_batch": f"{row['mean_batch']:.2f}",
        "ms_a_step": _ms(row["milliseconds_a_step"]),
        "busy": f"{row['busy_share']:.0%}",
        "clients": f"{row['clients_share']:.0%}",
        "sound/compute": "-" if row["sound_over_compute"] is None else f"{row['sound_over_compute']:.1f}",
        "keeps_up": _keeps_up(row),
    }


def _keeps_up(row: dict[str, Any]) -> str:
    if not row["keeps_up"]:
        return "NO"
    return (
        "yes"
        if not row["rounds_too_slow"]
        else f"in {row['rounds'] - row['rounds_too_slow']} of {row['rounds']} rounds"
    )


def _batching(row: dict[str, Any]) -> str:
    return "with batches" if row["batching"] == "eager" else "without"


def _streams(count: int) -> str:
    return f"{count} stream" + ("s" if count > 1 else "")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _listed(cells: list[dict[str, Any]]) -> str:
    return "; ".join(f"{cell['model']}, {_streams(cell['streams'])}, {_batching(cell)}" for cell in cells)
