"""What `dsrun bench` found, for people: a header with the machine and its ceilings, a table, and what was counted how.

A table has what a person compares; `--json` has everything. Rates are in TFLOP/s or GFLOP/s, whichever has digits before the point.
`of_peak` is a share of the large product measured in the same rounds, `of_sheet` of the data sheet's peak of the format, `of_FMA`
of its float32 peak, `of_copy` of the measured copy; "-" where there is none.
"""

from collections.abc import Sequence
from typing import Any

from dsrun.cli_tables import print_table

FLOAT32_IS = "float32 is true float32, products at Precision.HIGHEST; JAX's default on recent GPUs is TensorFloat-32."


def print_report(report: dict[str, Any]) -> None:
    """Whatever benchmark it is of."""
    tables = {"gru": _print_gru, "ctc": _print_ctc, "rounding": _print_rounding}
    tables |= {"step": _print_step, "data": _print_data, "scaling": _print_scaling}
    tables |= {"export": _print_export}
    tables[report["benchmark"]](report)
    if report.get("determinism", "strict") != "strict":
        print(f"determinism: {report['determinism']}")


def _print_gru(report: dict[str, Any]) -> None:
    _print_header(report, f"bidirectional GRU layer, input = hidden, residuals {report['residuals']}")
    for words in dict.fromkeys(report["loops"].values()):
        formats = ", ".join(format for format, own in report["loops"].items() if own == words)
        print(f"GRU: {words} ({report['machine']['platform']}; {formats})")
    rows = [
        {"size": row["size"], "format": row["format"], "pass": row["pass"], **_milliseconds(row)}
        | {"us_a_frame": _short(row["microseconds_a_frame"]), **_shares(row), **_costs(row)}
        for row in report["rows"]
    ]
    _print_table(rows)
    print(
        "FLOPs by formula; sequential: half of the forward pass, a third of both. Bytes: a lower bound, arguments and results once; "
        "the recurrent\nmatrices, read again at each frame where they do not stay on the chip, are not in it:"
    )
    for row in report["rows"]:
        print(
            f"  {row['size']} {row['format']} {row['pass']}: {row['recurrent_weight_bytes_a_frame'] / 1e6:.1f} MB a frame, "
            f"{row['copy_microseconds_of_recurrent_weights']:.1f} us at the copy's rate"
        )
    if any(row["format"] == "tensorfloat32" for row in report["rows"]) and report["machine"]["platform"] == "cpu":
        print(
            "tensorfloat32: the layer's operands are rounded to it and multiplied as float32: a CPU has no unit for it"
        )
    _print_footer(report)


def _print_ctc(report: dict[str, Any]) -> None:
    _print_header(report, "CTC loss and gradient, float32")
    for lattice in dict.fromkeys(row["lattice"] for row in report["rows"]):
        sizes = ", ".join(row["size"] for row in report["rows"] if row["lattice"] == lattice)
        print(f"CTC: {lattice} ({report['machine']['platform']}; {sizes})")
    rows = [
        {"size": row["size"], **_milliseconds(row), "us_a_frame": _short(row["microseconds_a_frame"])}
        | {**_shares(row), **_costs(row)}
        for row in report["rows"]
    ]
    _print_table(rows)
    print("operations: " + report["rows"][0]["operations"] + "; bytes: logits read, gradient written")
    _print_footer(report)


def _print_export(report: dict[str, Any]) -> None:
    _print_header(report, "exported models on whole utterances, in turns")
    _print_table(
        [
            {
                "model": row["model"],
                "format": row["format"],
                "scales": row["granularity"],
                "bytes": f"{row['weight_bytes']:,}",
            }
            | {"load_ms": _short(1e3 * row["load"]["seconds_median"])}
            for row in report["models"]
        ]
    )
    _print_table(
        [
            {"size": row["size"], "model": row["model"], "products": row["products"], **_milliseconds(row)}
            | {"times_real_time": _short(row["times_real_time"]), "speed_to_first": _span(row["speed_to_first"])}
            for row in report["rows"]
        ]
    )
    if products := report["products"]:
        print("the products alone, of each shape once; rows x inputs x channels:")
        _print_table(
            [
                {
                    "size": row["size"],
                    "product": row["product"],
                    "shape": f"{row['rows']}x{row['inputs']}x{row['channels']}",
                }
                | {"calls": row["calls_an_utterance"]}
                | {f"{way}_us": _short(row[f"{way}_microseconds"]) for way in ("float32", "integer", "float32 twin")}
                | {"integer_to_float32": _span(row["integer_speed_to_float32"])}
                for row in products
            ]
        )
    print(
        "size: utterances x frames; speed: median of the ratios within a round (quartiles); load: from files to arrays, with all checks"
    )
    _print_footer(report)


def _span(quartiles: Sequence[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _print_rounding(report: dict[str, Any]) -> None:
    _print_header(report, f"rounding {report['values']:,} values; FLOPs {report['flops_are']}")
    rows = [
        {"contender": row["name"], **_milliseconds(row), "million_values/s": _short(row["values_per_second"] / 1e6)}
        | {"GB/s": _short(row["gigabyte_per_second"]), "of_copy": _percent(row["share_of_copy_bandwidth"])}
        | {"rate_to_reference": _short(row["rate_to_reference"])}
        for row in report["rows"]
    ]
    _print_table(rows)
    print(f"reference: {report['reference']}, the median of the ratios within a round")
    _print_footer(report)


def _print_step(report: dict[str, Any]) -> None:
    _print_header(
        report, f"training step of {report['config']}, {report['batches']} batches of {report['shards']} shards"
    )
    print(f"GRU: {report['gru']} ({report['machine']['platform']})")
    whole, sums, features = report["whole"], report["sums"], report["features"]
    print(
        f"whole step {_spread(whole, 'seconds_a_step')}, {whole['utterances_per_second']:.1f} utterances/s, "
        f"{_rate(whole['tflop_per_second'])}, MFU {whole['mfu']:.1%} of the measured {whole['peak_format']} peak "
        f"(data sheet: {_percent(whole['share_of_datasheet_peak'])} of its peak, "
        f"{_percent(whole['share_of_datasheet_fma_peak'])} of FMA), HFU {whole['hfu']:.1%}, padding "
        f"{whole['padding_share_of_frames']:.1%} of frames"
    )
    print(
        f"moved at least {whole['bytes_lower_bound'] / report['batches'] / 1e6:.1f} MB a step ({whole['bytes_are']}): "
        f"{_short(whole['gigabyte_per_second'])} GB/s, {_percent(whole['share_of_copy_bandwidth'])} of the copy's"
    )
    rows = [
        {"view": row["view"], "part": row["name"], **_milliseconds(row, "seconds_a_step")}
        | {"of_whole": _percent(row["share_of_whole"])}
        | {"rate": _rate(row["tflop_per_second"]) if row["flops"] else "-"}
        | {"of_peak": _percent(row["share_of_measured_peak"])}
        for row in report["rows"]
    ]
    _print_table(rows)
    print(
        f"stages, each waited for: {sums['stages_of_whole']:.1%} of the whole step; update (reduce, optimizer): "
        f"{sums['update_of_whole']:.1%}. Parts, each compiled by itself: {sums['parts_of_gradient']:.1%} of the gradient, rest "
        f"{sums['rest_of_gradient']:.1%}\n(dropout, counts, casts; XLA fuses what it compiles together, so parts need not add up)"
    )
    print(
        f"features: {features['audio_hours_per_second']:.3g} hours of audio a second, decoded and computed {features['when']}"
    )
    _print_table(
        [
            {"frames": shape["frames"], "labels": shape["labels"], "compile_s": _short(shape["compile_seconds"])}
            for shape in report["batch_shapes"]
        ]
    )
    _print_footer(report)


def _print_data(report: dict[str, Any]) -> None:
    speeds = ", ".join(f"{speed:g}" for speed in report["speeds"])
    print(
        f"data of {report['config']}: {report['utterances']} utterances, {report['audio_seconds']:.0f} s of audio, speeds {speeds}"
    )
    _print_table(
        [
            {"way": row["way"], "stage": row["stage"], **_milliseconds(row, "seconds")}
            | {"audio_hours/s": _short(row["audio_hours_per_second"])}
            for row in report["rows"]
        ]
    )
    print("hours are of recordings at their own speed; cold stages and loading work at every speed")


def _print_scaling(report: dict[str, Any]) -> None:
    _print_header(report, f"scaling of {report['config']}, {report['batches']} batches of {report['shards']} shards")
    if not report["rows"]:
        print("nothing was run: FLOPs and bytes are counted")
        return _print_model(report)
    _print_table(
        [
            {"devices": row["devices"], **_milliseconds(row, "seconds_a_step")}
            | {"utterances/s": _short(row["utterances_per_second"]), "rate": _rate(row["tflop_per_second"])}
            | {
                "of_peak": _percent(row["share_of_measured_peak"]),
                "of_FMA": _percent(row["share_of_datasheet_fma_peak"]),
            }
            | {"speed_up": _short(row["speed_up"]), "efficiency": _short(row["efficiency"])}
            | {"last_loss": f"{row['last_loss']:.6g}", "its_bits": row["last_loss_bits"]}
            | {"compile_s": _short(row["compile_seconds"])}
            for row in report["rows"]
        ]
    )
    _print_reductions(report)
    same = "have the same bits" if report["equal_loss_bits"] else "DIFFER in their bits"
    print(f"{report['losses_compared']} losses of each number of devices, added up by the tree, {same}")
    print(f"the talk: efficiency {report['talk_efficiency_one_to_eight']} from one GPU to eight")
    if report["devices_share_processors"]:
        print(
            f"these are CPU devices: all share {report['devices_share_processors']} processors, so more of them bring no hardware"
        )
    _print_model(report)
    _print_footer(report)


def _print_reductions(report: dict[str, Any]) -> None:
    """The tree beside the library's all-reduce."""
    if not report["reductions"]:
        return
    print("the sum over devices: the tree, and the library's all-reduce with all other programs the same")
    rows = []
    for row in report["reductions"]:
        shown = {"devices": row["devices"], "tree_ms": _short(1e3 * row["tree_seconds_a_step_median"])}
        if "tree_over_all_reduce" in row:
            low, high = row["tree_over_all_reduce_quartiles"]
            shown |= {
                "library_ms": _short(1e3 * row["all_reduce_seconds_a_step_median"]),
                "tree/library": f"{row['tree_over_all_reduce']:.3f}",
                "(quartiles)": f"({low:.3f} to {high:.3f})",
                "library's_losses": "the same bits" if row["all_reduce_has_the_trees_loss_bits"] else "other bits",
            }
        shown |= {
            "exchanged_MB": _short(row["tree_bytes_exchanged"] / 1e6),
            "gathered_MB": _short(row["tree_bytes_gathered"] / 1e6),
            "ring_MB": _short(row["ring_bytes_sent"] / 1e6),
        }
        rows.append(shown)
    _print_table(rows)
    if report["all_reduce_left_out"]:
        print(f"not run: all_reduce: {report['all_reduce_left_out']}")
    print("MB: what the busiest device sends in a step, counted; ring: what the library's all-reduce would as a ring")


def _print_model(report: dict[str, Any]) -> None:
    model = report["model"]
    print(
        f"\nmodelled, not measured: {model['of_config']}, {model['shards_a_device']} shards a GPU; one GPU's step "
        f"{1e3 * model['one_device_seconds_a_step']:.3g} ms, {model['one_device_is']}"
    )
    _print_table(
        [
            {"GPUs": row["devices"]}
            | {"tree_sum_ms": _short(1e3 * row["tree_seconds_of_sum"]), "tree": _rate(row["tree_tflop_per_second"])}
            | {"tree_efficiency": f"{row['tree_efficiency']:.3f}"}
            | {"library_sum_ms": _short(1e3 * row["all_reduce_seconds_of_sum"])}
            | {"library": _rate(row["all_reduce_tflop_per_second"])}
            | {"library_efficiency": f"{row['all_reduce_efficiency']:.3f}"}
            for row in model["rows"]
        ]
    )


def _print_header(report: dict[str, Any], title: str) -> None:
    machine, limits = report["machine"], report.get("ceilings")
    print(title)
    print(
        f"{machine['device']}, {machine['devices']} device{'s' if machine['devices'] > 1 else ''}, {machine['threads']} threads, "
        f"jax {machine['jax']}. {FLOAT32_IS}"
    )
    if machine["platform"] != "cpu":
        print(f"flags in force: {machine['xla_flags']}")  # deterministic kernels, as training runs, may be slower ones
    if limits is None:
        return
    for name, peak in limits["products"].items():
        sheet = peak["datasheet_tflop_per_second"]
        low, high = peak["measured_quartiles"]
        print(
            f"peak {name}: {_rate(peak['measured_tflop_per_second'])} ({_rate(low)} to {_rate(high)}), measured in the same rounds, a "
            f"product of {limits['product_size']} cubed as {peak['computed_as']}; data sheet: {_rate(sheet) if sheet else 'none'}"
        )
    print(
        f"copy {limits['copy_gigabyte_per_second']:.1f} GB/s (read + written, in place); an empty turn of a scan "
        f"{limits['scan_iteration_microseconds']:.2f} us"
    )


def _print_footer(report: dict[str, Any]) -> None:
    for row in report.get("skipped", ()):
        print(f"not run: {row['size']} needs about {row['bytes_needed']:,} bytes, {row['bytes_available']:,} are free")
    cache = report["machine"]["compilation_cache"]
    if cache:
        print(f"compile times may be those of reading {cache}")
    print(f"peak memory {report['peak_memory_bytes'] / 1e6:.0f} MB ({report['peak_memory_is']})")


def _milliseconds(row: dict[str, Any], name: str = "seconds") -> dict[str, str]:
    """Median and spread."""
    median, low, high = (1e3 * row[f"{name}_{part}"] for part in ("median", "lowest", "highest"))
    return {"ms": _short(median), "(lowest": f"({_short(low)}", "highest)": f"{_short(high)})"}


def _spread(row: dict[str, Any], name: str) -> str:
    found = _milliseconds(row, name)
    return f"{found['ms']} ms {found['(lowest']} to {found['highest)']}"


def _shares(row: dict[str, Any]) -> dict[str, str]:
    return {
        "rate": _rate(row["tflop_per_second"]),
        "of_peak": _percent(row["share_of_measured_peak"]),
        "of_sheet": _percent(row["share_of_datasheet_peak"]),
        "of_FMA": _percent(row["share_of_datasheet_fma_peak"]),
        "GB/s": _short(row["gigabyte_per_second"]),
        "of_copy": _percent(row["share_of_copy_bandwidth"]),
    }


def _costs(row: dict[str, Any]) -> dict[str, str]:
    return {"compile_s": _short(row["compile_seconds"]), "planned_MB": _short(row["planned_memory_bytes"] / 1e6)}


def _rate(tflop_per_second: float) -> str:
    if tflop_per_second >= 1.0:
        return f"{_short(tflop_per_second)} TFLOP/s"
    return f"{1e3 * tflop_per_second:.3g} GFLOP/s"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _short(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    print()
    print_table(list(rows))
    print()
