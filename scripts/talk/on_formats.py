"""Formats on speech: what training loses, by the sweep's character error rates on test."""

from collections.abc import Callable

from scripts.talk.claims import (
    AS_GOOD_RULE,
    LOSES_RULE,
    MARGIN,
    Claim,
    Judged,
    NotHereError,
    Verdict,
    as_good,
    both,
    loses,
)
from scripts.talk.evidence import BASELINE, Evidence, interval

LEARNS = 0.8  # character error rate; fixed point that learns nothing had 0.87 in docs/MEASUREMENTS.md
Judge = Callable[[Evidence], Judged]


def _versus(evidence: Evidence, variation: str, baseline: str = BASELINE) -> tuple[float, float, str, dict[str, float]]:
    """Interval of the difference, in words, and as numbers.

    Raises:
        NotHereError: float32 itself has hardly learned, as after toy trainings, where nothing can be told apart.
    """
    learned = evidence.rate(BASELINE)
    if learned.low is not None and learned.low > LEARNS:
        raise NotHereError(
            f"float32 itself has hardly learned (test CER {learned.value:.3f}): nothing can be told apart"
        )
    found = evidence.difference(variation, baseline)
    seen = " (no difference seen)" if found.low <= 0 <= found.high else ""
    words = f"{variation} less {baseline}: {interval(found.value, found.low, found.high, signed=True)}{seen}"
    return found.low, found.high, words, {"difference": found.value, "low": found.low, "high": found.high, "p": found.p}


def _rates(evidence: Evidence, *variations: str) -> str:
    rates = {name: evidence.rate(name) for name in variations}
    return ", ".join(f"{name} {interval(rate.value, rate.low, rate.high)}" for name, rate in rates.items())


def as_good_as_float32(variation: str) -> Judge:
    """A judge of `as good`."""

    def judge(evidence: Evidence) -> Judged:
        low, high, words, numbers = _versus(evidence, variation)
        return Judged(as_good(low, high), f"test CER {_rates(evidence, BASELINE, variation)}; {words}", numbers)

    return judge


def worse_than_float32(variation: str) -> Judge:
    """A judge of `loses`."""

    def judge(evidence: Evidence) -> Judged:
        low, high, words, numbers = _versus(evidence, variation)
        return Judged(loses(low, high), f"test CER {_rates(evidence, BASELINE, variation)}; {words}", numbers)

    return judge


def recovers(narrow: str) -> Judge:
    """A judge of stochastic updates beside float32 and, where nearest lost, beside nearest."""

    def judge(evidence: Evidence) -> Judged:
        low, high, words, numbers = _versus(evidence, f"{narrow}_stochastic")
        lost_low, lost_high, lost_words, lost = _versus(evidence, f"{narrow}_nearest")
        found = {"to_float32": numbers, "nearest_to_float32": lost}
        if loses(lost_low, lost_high) != "agrees":
            verdict: Verdict = "differs" if as_good(low, high) == "differs" else "cannot tell"
            return Judged(
                verdict, f"{words}; {lost_words}: nearest loses nothing here that could be brought back", found
            )
        gain_low, gain_high, gain_words, gain = _versus(evidence, f"{narrow}_nearest", f"{narrow}_stochastic")
        verdict = both(as_good(low, high), loses(gain_low, gain_high))
        return Judged(
            verdict,
            f"test CER {_rates(evidence, f'{narrow}_stochastic')}; {words}; {gain_words}",
            found | {"gain": gain},
        )

    return judge


def two_copies(evidence: Evidence) -> Judged:
    """bfloat16 with a float32 master, beside float32 and beside bfloat16 without one."""
    low, high, words, numbers = _versus(evidence, "bfloat16_storage")
    gain_low, gain_high, gain_words, gain = _versus(evidence, "bfloat16_nearest", "bfloat16_storage")
    verdict = both(as_good(low, high), loses(gain_low, gain_high))
    return Judged(verdict, f"{words}; {gain_words}", {"to_float32": numbers, "gain": gain})


def bytes_of_copies(evidence: Evidence) -> Judged:
    """Copies of the weights, from costs.json, in the formats' own widths."""
    found = {name: _bytes(evidence, name) for name in ("float16_nearest", BASELINE, "float16_storage")}
    totals = [sum(roles.values()) for roles in found.values()]
    listed = [
        f"{name}: {', '.join(f'{role} {count / 1e6:.2f}' for role, count in roles.items() if count)}"
        for name, roles in found.items()
    ]
    verdict: Verdict = "agrees" if totals[0] < totals[1] < totals[2] else "differs"
    return Judged(verdict, f"MB in the formats' own widths; {'; '.join(listed)}", {"bytes": found})


def _bytes(evidence: Evidence, variation: str) -> dict[str, float]:
    """The copies of the weights by role.

    Raises:
        NotHereError: the run is of before costs.json.
    """
    roles = evidence.group(variation).runs[0].costs.get("bytes", {})
    if "master" not in roles:
        raise NotHereError("the runs have no costs.json: they are of an older dsrun")
    return {role: float(roles.get(role, {}).get("as_formats", 0)) for role in ("master", "storage")}


def one_bit(evidence: Evidence) -> Judged:
    """Binary weights: do they learn, and at what price."""
    rate = evidence.rate("binary")
    _, _, words, numbers = _versus(evidence, "binary")
    _, _, ternary, ternary_numbers = _versus(evidence, "ternary")
    verdict: Verdict = "agrees" if rate.high < LEARNS else "differs" if rate.low > LEARNS else "cannot tell"
    found = {"rate": [rate.low, rate.high], "binary": numbers, "ternary": ternary_numbers}
    return Judged(verdict, f"test CER {_rates(evidence, 'binary', 'ternary')}; the price: {words}; {ternary}", found)


SWEEP = "dsrun sweep configs/sweeps/talk.yaml --folder runs/talk/runs --jobs 2; dsrun compare runs/talk/runs"
TESTED = "character errors on test of the best checkpoint by dev, all seeds, paired by seed and utterance; small network, 30 epochs, AdamW"
RECOVERS_RULE = (
    f"agrees if stochastic's difference to float32 ends below +{MARGIN:g} and nearest's difference to stochastic lies above zero; "
    "cannot tell if nearest loses nothing; differs if stochastic itself loses"
)
COPIES_RULE = (
    f"agrees if with the master the difference to float32 ends below +{MARGIN:g}, and without it the rate is above "
    "the master's by an interval without zero; differs if either is refuted"
)
BYTES_RULE = "agrees if narrow weights alone take less than float32, and with the float32 copy more; else differs"
BIT_RULE = (
    f"agrees if 1 bit learns: the interval of its test CER lies below {LEARNS:g}; differs if above; the price is told"
)
NARROW = (("float16", "float16"), ("bfloat16", "bfloat16"), ("fixed16", "16-bit fixed point"))

CLAIMS = [
    Claim(
        "float16_storage",
        "float16 storage with float32 math trains as well as float32",
        "41",
        TESTED,
        AS_GOOD_RULE,
        "sweep",
        SWEEP,
        as_good_as_float32("float16_storage"),
    ),
    *(
        Claim(
            f"loses_{name}",
            f"without a second copy, to nearest, training loses: {words}",
            "36",
            TESTED,
            LOSES_RULE,
            "sweep",
            SWEEP,
            worse_than_float32(f"{name}_nearest"),
        )
        for name, words in NARROW
    ),
    *(
        Claim(
            f"recovers_{name}",
            f"stochastic rounding lets small updates through: {words}",
            "37, 38",
            TESTED,
            RECOVERS_RULE,
            "sweep",
            SWEEP,
            recovers(name),
        )
        for name, words in NARROW
    ),
    Claim(
        "two_copies",
        "two copies of the weights, one wide that accumulates: nothing is lost (bfloat16)",
        "39",
        TESTED,
        COPIES_RULE,
        "sweep",
        SWEEP,
        two_copies,
    ),
    Claim(
        "copies_bytes",
        "the second copy costs its memory",
        "39, 40",
        "bytes of the copies of the weights that a step keeps, by role",
        BYTES_RULE,
        "sweep",
        "dsrun report runs/talk/runs",
        bytes_of_copies,
    ),
    Claim(
        "float8",
        "smaller formats than 16 bits train too: float8",
        "31",
        TESTED,
        AS_GOOD_RULE,
        "sweep",
        SWEEP,
        as_good_as_float32("float8"),
    ),
    Claim(
        "one_bit",
        "down to 1 bit, depending on the problem",
        "31",
        TESTED + "; recurrent matrices of -s and s, float32 master",
        BIT_RULE,
        "sweep",
        SWEEP,
        one_bit,
    ),
    Claim(
        "ctc_float16",
        "CTC needs its precision: in float16 it costs",
        "28",
        TESTED,
        LOSES_RULE,
        "sweep",
        SWEEP,
        worse_than_float32("float16_ctc"),
    ),
]
