"""CTC: probabilities are tiny, so it is computed in log space."""

from contextlib import suppress
from statistics import median
from typing import Any

from scripts.talk.claims import Claim, Judged, MissingError, Verdict
from scripts.talk.evidence import Evidence

LEAST_SHARE = 0.05  # of utterances: so many would be lost to training
# Of a gradient, whose elements are between -1 and 1. Set when errors of 1e-4 (plain log space, float32) and of 2e-7 (dsrun) were known.
MOST_ERROR = 1e-3
JUDGED = "log space, float32"  # the talk's; dsrun's own sums are a mantissa beside an exponent, and are told beside it


def underflow(evidence: Evidence) -> Judged:
    """Before training, and told after it."""
    before = evidence.report("ctc", "untrained")["rows"]
    words, numbers = [_in_words("before training", before)], {"untrained": _facts(before)}
    try:
        after = evidence.report("learned", "trained")["rows"]
    except MissingError:
        words.append("after training: not run")
    else:
        words.append(_in_words("after training", after))
        numbers["trained"] = _facts(after)
    low, high = numbers["untrained"]["underflow_interval"]
    verdict: Verdict = "agrees" if low > LEAST_SHARE else "differs" if high < LEAST_SHARE else "cannot tell"
    return Judged(verdict, "; ".join(words), numbers)


def _facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    lost = sum(row["plain"]["float32"] == 0.0 for row in rows)
    logs = [row["log10_probability"] for row in rows]
    return {
        "utterances": len(rows),
        "underflow": lost / len(rows),
        "underflow_interval": wilson(lost, len(rows)),
        "underflow_float16": sum(row["plain"]["float16"] == 0.0 for row in rows) / len(rows),
        "underflow_float64": sum(row["plain"]["float64"] == 0.0 for row in rows) / len(rows),
        "log10_smallest": min(logs),
        "log10_median": median(logs),
    }


def _in_words(when: str, rows: list[dict[str, Any]]) -> str:
    facts = _facts(rows)
    low, high = facts["underflow_interval"]
    return (
        f"{when} p is 10^{facts['log10_median']:.0f} in the middle and 10^{facts['log10_smallest']:.0f} at the smallest; plain "
        f"products are 0 in {facts['underflow']:.0%} [{low:.0%}, {high:.0%}] of {facts['utterances']} utterances in float32, in "
        f"{facts['underflow_float16']:.0%} in float16, in {facts['underflow_float64']:.0%} in float64"
    )


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927), which is of use at 0 and 1 too."""
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return max(centre - half, 0.0), min(centre + half, 1.0)


def accuracy(evidence: Evidence) -> Judged:
    """Log space in float32 against float64, beside dsrun's own sums and others'."""
    reports = [evidence.report("ctc", "untrained")]
    with suppress(MissingError):
        reports.append(evidence.report("learned", "trained"))
    words, numbers = [], {}
    for report in reports:
        worst = {
            name: _largest([row["gradient_error"][name] for row in report["rows"]])
            for name in report["rows"][0]["gradient_error"]
        }
        numbers[report["network"]] = worst
        listed = ", ".join(
            f"{name} {'not finite' if error is None else f'{error:.1e}'}" for name, error in worst.items()
        )
        words.append(f"{report['network']}, {len(report['rows'])} utterances: {listed}")
    own = [found[JUDGED] for found in numbers.values()]
    verdict: Verdict = "agrees" if all(error is not None and error <= MOST_ERROR for error in own) else "differs"
    return Judged(verdict, f"largest absolute error of the gradient; {'; '.join(words)}", numbers)


def _largest(errors: list[float | None]) -> float | None:
    return None if None in errors else max(error for error in errors if error is not None)


COMMAND = "python -m scripts.talk.ctc_on_corpus --config configs/prompts_small_float32.yaml; after training: {script} --only learned"
UNDERFLOW_RULE = (
    f"agrees if before training the share of utterances whose probability underflows float32 lies above {LEAST_SHARE:.0%} with its 95% "
    "interval (Wilson); differs if it lies below; else cannot tell"
)
ACCURACY_RULE = (
    f"agrees if no element of any utterance's gradient is off by more than {MOST_ERROR:g} of its range of -1 to 1 in plain log space with "
    "every result rounded to float32, before training and, where that was run, after it; else differs"
)

CLAIMS = [
    Claim(
        "tiny_probabilities",
        "CTC's probabilities are so tiny that plain products underflow",
        "26, 28",
        "the recursion on the probabilities themselves, of the corpus' own dev utterances",
        UNDERFLOW_RULE,
        "ctc",
        COMMAND,
        underflow,
    ),
    Claim(
        "log_space",
        "in log space CTC can be computed",
        "28",
        "gradient against float64 on the same utterances: plain log space in float32; dsrun's loss, other formats and optax beside it",
        ACCURACY_RULE,
        "ctc",
        COMMAND,
        accuracy,
    ),
]
