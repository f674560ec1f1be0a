"""Speed: shares of the FMA peak, more devices, smaller formats. A CPU can say its own share and not more."""

from typing import Any

from scripts.talk.claims import Claim, Judged, MissingError, NotHereError, Verdict
from scripts.talk.evidence import Evidence

TALK_ONE, TALK_EIGHT = 0.55, 0.48  # of the FMA peak


def _is_gpu(report: dict[str, Any]) -> bool:
    return report["machine"]["platform"] != "cpu"


def _share(row: dict[str, Any]) -> str:
    low, high = row["share_of_measured_peak_quartiles"]
    return f"{row['share_of_measured_peak']:.0%} (quartiles {low:.0%}, {high:.0%})"


def _of_fma(
    row: dict[str, Any], quartiles: tuple[float, float], wanted: float
) -> tuple[Verdict, str, dict[str, float]]:
    """A share of the data sheet's FMA peak beside the talk's.

    Args:
        quartiles: of the times, the shorter first, over their median.
    """
    share = row["share_of_datasheet_fma_peak"]
    low, high = share / quartiles[1], share / quartiles[0]
    verdict: Verdict = "agrees" if low >= wanted else "differs" if high < wanted else "cannot tell"
    words = f"{share:.1%} (quartiles {low:.1%}, {high:.1%}) of the data sheet's float32 FMA peak, the talk {wanted:.0%}"
    return verdict, words, {"fma": share, "low": low, "high": high, "talk": wanted}


def _quartiles(row: dict[str, Any], name: str) -> tuple[float, float]:
    """Of times, over their median."""
    return tuple(row[f"{name}_{side}_quartile"] / row[f"{name}_median"] for side in ("lower", "upper"))  # type: ignore[return-value]


def one_device(evidence: Evidence) -> Judged:
    """A training step and the largest GRU layer, as shares of a large product's rate and of the data sheet."""
    step, gru = evidence.report("speed", "step"), evidence.report("speed", "gru")
    whole = step["whole"]
    layer = [row for row in gru["rows"] if row["pass"] == "both" and row["format"] == "float32"][-1]
    own = f"training step {_share(whole)}, GRU layer {layer['size']} forward and backward {_share(layer)} of a large product's rate"
    numbers = {"step": whole["share_of_measured_peak"], "gru": layer["share_of_measured_peak"], "talk": TALK_ONE}
    fma = whole["share_of_datasheet_fma_peak"]
    if not _is_gpu(step) or fma is None:
        reason = "a CPU" if not _is_gpu(step) else "no data sheet of this GPU"
        return Judged("not testable here", f"{reason}; its own share: {own}", numbers)
    verdict, words, found = _of_fma(whole, _quartiles(whole, "seconds_a_step"), TALK_ONE)
    return Judged(verdict, f"{words}; {own}", numbers | found)


def eight_devices(evidence: Evidence) -> Judged:
    """Measured on eight GPUs, or told what was measured and modelled."""
    report = evidence.report("speed", "scaling")
    rows = {row["devices"]: row for row in report["rows"]}
    counted = evidence.report("speed", "deep_speech_2")["model"]
    modelled = next(row for row in counted["rows"] if row["devices"] == 8)["tree_efficiency"]
    words = (
        f"modelled for eight H100 in one node from counted bytes: efficiency {modelled:.2f} (nothing of it measured)"
    )
    if not _is_gpu(report) or 8 not in rows:
        most = max(rows)
        fewest = rows[most]["relative_to_devices"]
        own = f"{most} devices here: {rows[most]['speed_up']:.2f} times {fewest}" if most > 1 else "one device"
        reason = "a CPU, whose devices share its cores" if not _is_gpu(report) else f"{most} GPUs"
        return Judged(
            "not testable here", f"{reason}; {own}; {words}", {"modelled_efficiency": modelled, "talk": TALK_EIGHT}
        )
    eight = rows[8]
    if eight["share_of_datasheet_fma_peak"] is None:
        raise NotHereError("no data sheet of this GPU")
    verdict, share, numbers = _of_fma(eight, _quartiles(eight, "seconds_a_step"), TALK_EIGHT)
    fewest = eight["relative_to_devices"]
    low, high = (ratio * fewest / 8 for ratio in eight["speed_up_quartiles"])
    beside = f"efficiency to {fewest} {eight['efficiency']:.3f} (quartiles {low:.3f}, {high:.3f})"
    return Judged(verdict, f"{share}; {beside}; {words}", numbers | {"efficiency": eight["efficiency"]})


def smaller_is_faster(evidence: Evidence) -> Judged:
    """GRU layers by format."""
    report = evidence.report("speed", "gru")
    if not _is_gpu(report):
        raise NotHereError("a CPU computes smaller formats in float32: emulated, they save nothing")
    rows = [row for row in report["rows"] if row["pass"] == "both"]
    size = rows[-1]["size"]
    times = {row["format"]: row for row in rows if row["size"] == size}
    if "float32" not in times or "bfloat16" not in times:
        raise MissingError("the bench has one format only: part speed with --full")
    wide = times["float32"]
    words = [f"{name} {row['seconds_median'] / wide['seconds_median']:.2f}" for name, row in times.items()]
    is_faster = times["bfloat16"]["seconds_upper_quartile"] < wide["seconds_lower_quartile"]
    is_slower = times["bfloat16"]["seconds_lower_quartile"] > wide["seconds_upper_quartile"]
    verdict: Verdict = "agrees" if is_faster else "differs" if is_slower else "cannot tell"
    ratios = {name: row["seconds_median"] / wide["seconds_median"] for name, row in times.items()}
    return Judged(verdict, f"GRU layer {size}, forward and backward, time over float32's: {', '.join(words)}", ratios)


def exaflops(evidence: Evidence) -> Judged:
    """The size of the talk's trainings."""
    raise NotHereError(
        "the talk's 45,000 hours of speech and weeks on GPUs are not here, and no run here comes near them"
    )


STEP = "dsrun bench step --config configs/prompts_float32.yaml; dsrun bench gru"
OVER_ROUNDS = "the quartiles of the times over the rounds of the bench"
ONE_RULE = (
    f"agrees if by both of {OVER_ROUNDS} the step reaches at least {TALK_ONE:.0%} of the data sheet's float32 FMA peak; differs if by "
    "neither; else cannot tell; not testable on a CPU"
)
EIGHT_RULE = (
    f"agrees if by both of {OVER_ROUNDS} eight GPUs reach at least {TALK_EIGHT:.0%} of the data sheet's float32 FMA peak of eight; "
    "differs if by neither; else cannot tell; not testable without eight"
)
FASTER_RULE = "agrees if bfloat16's upper quartile of times is below float32's lower one; differs the other way round; else cannot tell"

CLAIMS = [
    Claim(
        "one_gpu",
        "training reaches 55% of the FMA peak on one GPU",
        "30",
        "bench of a training step and of GRU layers, beside a large product in the same rounds",
        ONE_RULE,
        "speed",
        STEP,
        one_device,
    ),
    Claim(
        "eight_gpus",
        "training reaches about 48% of the FMA peak on eight GPUs in one node",
        "30",
        "bench of the step on one and more devices",
        EIGHT_RULE,
        "speed",
        "dsrun bench scaling --config configs/prompts_float32.yaml",
        eight_devices,
    ),
    Claim(
        "faster",
        "smaller formats buy speed",
        "31",
        "GRU layers by format, in arrays of their own",
        FASTER_RULE,
        "speed",
        "dsrun bench gru --format float32 --format bfloat16",
        smaller_is_faster,
    ),
    Claim(
        "exaflops",
        "one model takes about 20 exaflops",
        "",
        "nothing",
        "not testable here in any case",
        "speed",
        "none",
        exaflops,
    ),
]
