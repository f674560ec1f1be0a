"""Numbers alone: 100 + 0.01, the cartoon, and three slips of the talk's arithmetic."""

from typing import Any

from scripts.talk.claims import Claim, Judged, Verdict
from scripts.talk.evidence import Evidence

FORMATS = ("float16", "bfloat16", "fixed_q16.0")
MOST_ERRORS = 4.0  # standard errors between a mean and what it must be; by chance beyond it once in 16,000


def _sum(evidence: Evidence, format: str, rounding: str, accumulator: str | None = None) -> dict[str, Any]:
    rows = evidence.report("sums", "accumulate")["sums"]
    wanted = (format, rounding, accumulator or format)
    return next(row for row in rows if (row["format"], row["rounding"], row["accumulator"]) == wanted)


def nearest_stays(evidence: Evidence) -> Judged:
    """To nearest."""
    found = {format: _sum(evidence, format, "ties_to_even")["mean"] for format in FORMATS}
    verdict: Verdict = "agrees" if set(found.values()) == {100.0} else "differs"
    return Judged(verdict, ", ".join(f"{name} {value:g}" for name, value in found.items()), found)


def stochastic_mean(evidence: Evidence) -> Judged:
    """The mean of many sums."""
    rows = [_sum(evidence, format, "stochastic") for format in FORMATS]
    off = {row["format"]: (row["mean"] - 101.0) / row["standard_error"] for row in rows}
    words = [f"{row['format']} {row['mean']:.4f} ± {row['standard_error']:.4f}" for row in rows]
    verdict: Verdict = "agrees" if all(abs(value) <= MOST_ERRORS for value in off.values()) else "differs"
    numbers = {
        "means": {row["format"]: row["mean"] for row in rows},
        "standard_errors_off": off,
        "draws": rows[0]["draws"],
    }
    return Judged(verdict, f"means of {rows[0]['draws']:,} sums with standard errors: {', '.join(words)}", numbers)


def master_rounds_to_101(evidence: Evidence) -> Judged:
    """A float32 accumulator."""
    row = _sum(evidence, "float16", "ties_to_even", "float32")
    verdict: Verdict = "agrees" if row["mean"] == 101.0 else "differs"
    return Judged(
        verdict, f"{row['unrounded']!r} in float32, {row['mean']:g} rounded to float16", {"rounded": row["mean"]}
    )


def exactly_101(evidence: Evidence) -> Judged:
    """The talk's word `exactly`."""
    found = _sum(evidence, "float16", "ties_to_even", "float32")["unrounded"]
    verdict: Verdict = "agrees" if found == 101.0 else "differs"
    words = f"{found!r}: 0.01 and each of the hundred sums are rounded in float32 too; only rounding to float16 makes it 101"
    return Judged(verdict, words, {"float32": found})


def printed_probabilities(evidence: Evidence) -> Judged:
    """Whose the probabilities 0.99 and 0.01 are."""
    shares, errors = {}, {}
    for increment in ("0.01", "0.1"):
        row = evidence.report("sums", f"once_{increment}")["sums"][0]
        shares[increment], errors[increment] = 1.0 - row["at_start"], row["standard_error"]
    verdict: Verdict = "agrees" if abs(shares["0.1"] - 0.01) <= MOST_ERRORS * errors["0.1"] else "differs"
    words = "; ".join(
        f"100 + {name} goes up to 101 in {shares[name]:.4f} ± {errors[name]:.4f} of the draws" for name in shares
    )
    return Judged(
        verdict, f"{words}: the probabilities are those of 0.01", {"goes_up": shares, "standard_errors": errors}
    )


def _way(evidence: Evidence, format: str, method: str) -> dict[str, Any]:
    rows = evidence.report("sums", "cartoon")["ways"]
    return next(row for row in rows if (row["format"], row["method"]) == (format, method))


def nearest_stalls(evidence: Evidence) -> Judged:
    """The cartoon to nearest."""
    found = evidence.report("sums", "cartoon")
    rows = [_way(evidence, format, "ties_to_even") for format in ("float16", "bfloat16")]
    stalled = [row["final"] != 3.0 and row["last_moved"] <= found["steps"] // 2 for row in rows]
    words = [
        f"{row['format']} stops at {row['final']:.7g} after {row['last_moved']} of {found['steps']} steps"
        for row in rows
    ]
    wide = _way(evidence, "float32", "ties_to_even")["final"]
    numbers = {row["format"]: {"final": row["final"], "last_moved": row["last_moved"]} for row in rows}
    verdict: Verdict = "agrees" if all(stalled) and abs(wide - 3.0) < 1e-4 else "differs"
    return Judged(verdict, f"{'; '.join(words)}; float32 ends at {wide:.6f}", numbers | {"float32": wide})


def stochastic_arrives(evidence: Evidence) -> Judged:
    """The cartoon with stochastic rounding."""
    rows = [_way(evidence, format, "stochastic") for format in ("float16", "bfloat16")]
    expectation = [
        r for r in evidence.report("sums", "cartoon")["expectation"] if r["format"] in ("float16", "bfloat16")
    ]
    worst = max(abs(row["standard_errors_off"]) for row in expectation)
    arrived = all(row["at_target"] == 1.0 for row in rows)
    ends = ", ".join(f"{row['format']} {row['at_target']:.0%}" for row in rows)
    words = f"of {rows[0]['draws']:,} draws at 3 in the end: {ends}; means on the way within {worst:.1f} standard errors of 3 (1 - 0.98^t)"
    return Judged("agrees" if arrived and worst <= MOST_ERRORS else "differs", words, {"standard_errors_off": worst})


def master_arrives(evidence: Evidence) -> Judged:
    """The cartoon with a float32 copy."""
    found = {format: _way(evidence, format, "master")["final"] for format in ("float16", "bfloat16")}
    words = ", ".join(f"{name} ends at {value:g}" for name, value in found.items())
    return Judged("agrees" if set(found.values()) == {3.0} else "differs", words, found)


def minus_runs_away(evidence: Evidence) -> Judged:
    """Q = -(w - 3)^2 + 3 with the sign of slide 32: plain float64, nothing to measure."""
    w = 0.0
    for _ in range(200):
        w -= 0.01 * (-2.0 * (w - 3.0))
    words = f"with the minus w is {w:.1f} after 200 steps from 0 and goes on; Q's maximum is at 3, so an update that arrives adds the slope"
    return Judged("agrees" if abs(w - 3.0) < 1.0 else "differs", words, {"w_after_200_steps": w})


SUMS = "dsrun study accumulate"
ONCE = "dsrun study accumulate --format fixed_q16.0 --rounding stochastic --times 1 --uniforms 0 --draws 1000000 --increment 0.1"
CARTOON = "dsrun study cartoon"
MEAN_RULE = f"agrees if the mean is within {MOST_ERRORS:g} standard errors of what the claim says, in every format; else differs"
EXACT_RULE = "agrees if it is exactly so; else differs"
ENDS_RULE = "agrees if both stop elsewhere than at 3 in the first half of the steps and float32 comes within 0.0001 of 3; else differs"
ALL_ARRIVE_RULE = f"agrees if every draw ends at 3 and no mean on the way is off by more than {MOST_ERRORS:g} standard errors; else differs"

CLAIMS = [
    Claim(
        "sum_nearest",
        "100 + 0.01, a hundred times, rounded to nearest: the sum stays at 100",
        "38",
        "the sum in float16, bfloat16 and integers",
        EXACT_RULE,
        "sums",
        SUMS,
        nearest_stays,
    ),
    Claim(
        "sum_stochastic",
        "100 + 0.01, a hundred times, rounded stochastically: 101 on average",
        "38",
        "{draws} sums in each format",
        MEAN_RULE,
        "sums",
        SUMS,
        stochastic_mean,
    ),
    Claim(
        "sum_master",
        "100 + 0.01, a hundred times, in float32, rounded to float16 once: 101",
        "40",
        "the sum in float32, then rounded",
        EXACT_RULE,
        "sums",
        SUMS,
        master_rounds_to_101,
    ),
    Claim(
        "sum_exactly",
        "100 + 0.01, a hundred times, in float32 is exactly 101",
        "40",
        "the sum in float32, not rounded",
        EXACT_RULE,
        "sums",
        SUMS,
        exactly_101,
    ),
    Claim(
        "probabilities",
        "adding y = 0.1 stochastically to integers goes up with probability 0.01 (as printed)",
        "37",
        "one addition, {once} draws",
        MEAN_RULE,
        "sums",
        ONCE,
        printed_probabilities,
    ),
    Claim(
        "cartoon_nearest",
        "gradient descent on Q = -(w - 3)^2 + 3, learning rate 0.01, stalls before 3 in 16 bits",
        "34 to 36",
        "2000 steps from 0",
        ENDS_RULE,
        "sums",
        CARTOON,
        nearest_stalls,
    ),
    Claim(
        "cartoon_stochastic",
        "the same descent with stochastic rounding goes on to 3",
        "37, 38",
        "the same, {draws} draws",
        ALL_ARRIVE_RULE,
        "sums",
        CARTOON,
        stochastic_arrives,
    ),
    Claim(
        "cartoon_master",
        "the same descent with a float32 copy of the weight goes on to 3",
        "39, 40",
        "the same with a float32 master",
        EXACT_RULE,
        "sums",
        CARTOON,
        master_arrives,
    ),
    Claim(
        "cartoon_sign",
        "the descent subtracts the slope (as written), and w goes to 3",
        "32, 34",
        "200 steps in float64",
        "agrees if w comes within 1 of 3; else differs",
        "sums",
        "three lines of Python (scripts/talk/on_sums.py)",
        minus_runs_away,
    ),
]
