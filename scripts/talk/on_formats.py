"""Formats on speech: what training loses, by the sweep's character error rates on test."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from scripts.talk.claims import (
    AS_GOOD_RULE,
    FEWEST_SEEDS,
    LOSES_RULE,
    MARGIN,
    Claim,
    Judged,
    MissingError,
    NotHereError,
    Verdict,
)
from scripts.talk.evidence import BASELINE, Evidence
from scripts.talk.versus import Versus, in_seeds, interval

LEARNS = 0.8  # character error rate; fixed point that learns nothing had 0.87 in docs/MEASUREMENTS.md
Judge = Callable[[Evidence], Judged]


def _versus(evidence: Evidence, variation: str, baseline: str = BASELINE) -> Versus:
    """The difference.

    Raises:
        NotHereError: float32 itself has hardly learned, as after toy trainings, where nothing can be told apart.
    """
    learned = evidence.rate(BASELINE)
    if learned.low is not None and learned.low > LEARNS:
        raise NotHereError(
            f"float32 itself has hardly learned (test CER {learned.value:.3f}): nothing can be told apart"
        )
    return evidence.versus(variation, baseline)


def _rates(evidence: Evidence, *variations: str) -> str:
    return "test CER " + ", ".join(_rate(evidence, name) for name in variations)


def _rate(evidence: Evidence, name: str) -> str:
    diverged = evidence.diverged(name)
    try:
        rate = evidence.rate(name)
    except MissingError:
        if not diverged:
            raise
        return f"{name} none ({in_seeds(diverged)} diverged)"
    assert rate.low is not None  # of `Evidence.rate`
    assert rate.high is not None
    return f"{name} {interval(rate.value, rate.low, rate.high)} ({in_seeds(rate.seeds)})"


def as_good_as_float32(variation: str) -> Judge:
    """A judge of `as good`."""

    def judge(evidence: Evidence) -> Judged:
        found = _versus(evidence, variation)
        return Judged(found.as_good(), f"{_rates(evidence, BASELINE, variation)}; {found.words}", found.numbers)

    return judge


def worse_than_float32(variation: str) -> Judge:
    """A judge of `loses`."""

    def judge(evidence: Evidence) -> Judged:
        found = _versus(evidence, variation)
        return Judged(found.loses(), f"{_rates(evidence, BASELINE, variation)}; {found.words}", found.numbers)

    return judge


def brings_back(remedy: Verdict, lost: Verdict, gain: Verdict) -> Verdict:
    """Whether a remedy brings back what was lost without it.

    Args:
        remedy: whether with it the result is as good. lost, gain: whether it loses without, beside float32 and beside the remedy.
    """
    if remedy == "differs":
        return "differs"
    return "agrees" if (remedy, lost, gain) == ("agrees", "agrees", "agrees") else "cannot tell"


def recovered(narrow: str, remedy: str) -> Judge:
    """A judge of a remedy beside float32, of the loss without it, and of the two beside one another."""

    def judge(evidence: Evidence) -> Judged:
        nearest = f"{narrow}_nearest"
        own, lost = _versus(evidence, remedy), _versus(evidence, nearest)
        if own.is_lost:  # beside what has no error rate there is nothing
            return Judged("differs", f"{own.words}; {lost.words}", {"to_float32": own.numbers})
        gain = _versus(evidence, nearest, remedy)
        words = [_rates(evidence, BASELINE, remedy, nearest), own.words, lost.words, gain.words]
        if lost.found and lost.found.low <= 0:
            words.append("no loss of nearest was seen, so none that could be brought back")
        numbers = {"to_float32": own.numbers, "nearest_to_float32": lost.numbers, "gain": gain.numbers}
        return Judged(brings_back(own.as_good(), lost.loses(), gain.loses()), "; ".join(words), numbers)

    return judge


COPIES = {"master": "weights that accumulate", "storage": "weights as read, a second copy"}


def bytes_of_copies(evidence: Evidence) -> Judged:
    """Copies of the weights, from costs.json, in the formats' own widths."""
    found = {name: _bytes(evidence, name) for name in ("float16_nearest", BASELINE, "float16_storage")}
    totals = [sum(roles.values()) for roles in found.values()]
    listed = [
        f"{name}: {', '.join(f'{COPIES[role]} {count / 1e6:.2f}' for role, count in roles.items() if count)}"
        for name, roles in found.items()
    ]
    verdict: Verdict = "agrees" if totals[0] < totals[1] < totals[2] else "differs"
    words = f"counted, not measured: values times the bits of their formats, MB; {'; '.join(listed)}"
    return Judged(verdict, words, {"bytes": found})


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
    price = _versus(evidence, "binary")
    words, numbers = [_rates(evidence, "binary"), f"the price: {price.words}"], {"binary": price.numbers}
    with suppress(MissingError):  # beside it, for those who want more bits
        ternary = _versus(evidence, "ternary")
        words.append(f"beside it {_rates(evidence, 'ternary')}, {ternary.words}")
        numbers["ternary"] = ternary.numbers
    if price.is_lost:
        return Judged("differs", "; ".join(words), numbers)
    low, high = _widest(evidence, "binary")
    numbers["rate"] = {"low": low, "high": high}
    words.insert(1, f"over utterances or over seeds, whichever is wider: [{low:.3f}, {high:.3f}]")
    is_told = price.seeds >= FEWEST_SEEDS and not price.lost
    verdict: Verdict = "agrees" if high < LEARNS else "differs" if low > LEARNS else "cannot tell"
    return Judged(verdict if is_told else "cannot tell", "; ".join(words), numbers)


def _widest(evidence: Evidence, variation: str) -> tuple[float, float]:
    """The interval over utterances and that over seeds, taken together."""
    rate: Any = evidence.rate(variation)
    lows, highs = (rate.low, rate.seeds_low), (rate.high, rate.seeds_high)
    return min(each for each in lows if each is not None), max(each for each in highs if each is not None)


SWEEP = "dsrun sweep {sweep} --folder {folder}/runs --jobs 2; dsrun compare {folder}/runs"
TESTED = (
    "character errors on test of the best checkpoint by dev; {network}; the seeds are named. Brackets behind a rate: 95% over utterances, "
    "for these networks; behind a difference: 95% over what is said there, paired by seed and utterance, not corrected for the number "
    "of claims"
)
REMEDY_RULE = (
    f"agrees if nearest's difference to float32 lies above 0, {{0}}'s ends below +{MARGIN:g}, and nearest's difference to {{0}} lies "
    f"above 0; differs if {{0}}'s difference to float32 lies above 0 and ends at +{MARGIN:g} or above; else cannot tell, as where no "
    f"loss of nearest was seen (95% intervals; at least {FEWEST_SEEDS} seeds; one that diverged counts as lost)"
)
BYTES_RULE = (
    "agrees if narrow weights alone take less than float32's, and with the float32 copy more; else differs. This is arithmetic on the "
    "formats' widths: it would only differ if the runs kept other copies than the talk's"
)
BIT_RULE = (
    f"agrees if 1 bit learns: the intervals of its test CER over utterances and over seeds lie below {LEARNS:g}; differs if both lie "
    f"above; else cannot tell; the price is told (at least {FEWEST_SEEDS} seeds; diverged with every seed: differs, with some: cannot "
    "tell)"
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
            REMEDY_RULE.format("stochastic"),
            "sweep",
            SWEEP,
            recovered(name, f"{name}_stochastic"),
        )
        for name, words in NARROW
    ),
    Claim(
        "two_copies",
        "two copies of the weights, one wide that accumulates: nothing is lost (bfloat16)",
        "39",
        TESTED,
        REMEDY_RULE.format("the two copies"),
        "sweep",
        SWEEP,
        recovered("bfloat16", "bfloat16_storage"),
    ),
    Claim(
        "copies_bytes",
        "the second copy costs its memory",
        "39, 40",
        "bytes of the copies of the weights that a step keeps, by role, counted from the formats' widths (costs.json of one run each)",
        BYTES_RULE,
        "sweep",
        "dsrun report {folder}/runs",
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
