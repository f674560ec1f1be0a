"""How large the numbers of a training are: peaked power laws, and gradients that float16 does not hold.

The distribution of a kind of numbers in a layer (parameters, what layers hand on, gradients of weights), of the float32 runs at the last
step at which it was watched, by binade, zeros left out. *Peaked* and *power law* are those of `dsrun.study.magnitude_profile`, which the
page's figure uses too. A power law is looked for above the peak: below it any density that is finite at zero falls by 2 a binade,
normal numbers like all others, so nothing follows from that. The thresholds were set on drawn numbers (normal, uniform, Laplace,
logistic, exponential and log-normal ones must fail, Student's t with 1 to 3 degrees of freedom must pass), before the float32 runs were
looked at with them.

Steps whose update was skipped, since a gradient was not finite, change no weight and are left out.
"""

from typing import Any

import numpy as np

from dsrun.record.magnitudes import BIAS, FIELDS, Magnitudes
from dsrun.study.groups import Group
from dsrun.study.magnitude_profile import FEWEST_POINTS, LEAST_BINADES, STRAIGHT, Profile, profile
from dsrun.study.number_words import percent
from dsrun.study.run_record import RunRecord
from dsrun.study.watched import by_layer
from scripts.talk.claims import FEWEST_SEEDS, Claim, Judged, MissingError, Verdict
from scripts.talk.evidence import Evidence, spread
from scripts.talk.versus import in_seeds

KINDS = {"weight": "parameters", "activation": "inputs and outputs", "weight_gradient": "gradients"}
FLOAT16_SMALLEST, FLOAT16_NORMAL = -24, -14  # exponents of float16's smallest subnormal and smallest normal number
LEAST_UNDERFLOW, LOPSIDED = 0.01, 6
MOST, FEWEST = 0.9, 0.5  # shares of distributions


def by_binade(found: Magnitudes, places: np.ndarray) -> np.ndarray:
    """Numbers of non-zero finite values by exponent field, from the smallest normal float32 on."""
    return found.fields[places].sum(axis=0)[1 : FIELDS - 1]


def applied_steps(run: RunRecord) -> list[int]:
    """Watched steps whose update was not skipped.

    Raises:
        MissingError: there is none.
    """
    skipped = {int(step) for step in run.steps.step[run.steps.finite == 0]}
    if steps := [step for step in run.watched_steps if step not in skipped]:
        return steps
    raise MissingError(f"{run.name}: no step that changed the weights was watched")


def last_watched(run: RunRecord, kind: str) -> Magnitudes:
    """The last of those steps at which a kind was counted: activations and gradients are not at every watched step.

    Raises:
        MissingError: there is none.
    """
    for step in reversed(applied_steps(run)):
        found = run.magnitudes(step)
        if (found.kind == kind).any():
            return found
    raise MissingError(f"{run.name}: no {kind} was watched")


def distributions(run: RunRecord) -> dict[tuple[str, str], Profile]:
    """Of each kind in each layer."""
    found = {}
    for kind, name in KINDS.items():
        for (own, layer), tally in by_layer(last_watched(run, kind)).tallies.items():
            if own == kind and (shape := profile(tally)):
                found[(name, layer)] = shape
    return found


def with_seeds(group: Group, verdict: Verdict, words: str, numbers: dict[str, Any]) -> Judged:
    """A verdict that holds with every seed; of too few of them nothing is told."""
    few = len(group.runs) < FEWEST_SEEDS
    return Judged(
        "cannot tell" if few else verdict, f"{in_seeds(group.seeds)}: {words}", numbers | {"seeds": [*group.seeds]}
    )


def peaked_power_laws(evidence: Evidence) -> Judged:
    """Of the float32 runs."""
    group = evidence.group("float32")
    found = {(run.seed, *name): own for run in group.runs for name, own in distributions(run).items()}
    if not found:
        raise MissingError("no magnitudes were watched")
    peaked = [own.is_peaked for own in found.values()]
    both = {name for name, own in found.items() if own.is_peaked and own.is_power_law}
    share = len(both) / len(found)
    verdict: Verdict = "agrees" if share >= MOST else "differs" if share < FEWEST else "cannot tell"
    words = [
        f"of {len(found)} distributions (kind, layer, seed) {sum(peaked)} are peaked and {len(both)} are both, "
        f"{_by_kind(found, both)}; the fullest of their binades holds {spread([p.peak_share for p in found.values()], digits=2)}"
    ]
    above = [own.above for own in found.values() if own.above]
    words.append(
        f"above the peak {len(found) - len(above)} end within {FEWEST_POINTS + 1} binades"
        + (f", the others fall by 2^{np.median([t.slope for t in above]):.2f} a binade in the middle" if above else "")
        + (f", R² {spread([t.straightness for t in above], digits=2)}" if above else "")
    )
    below = [own.below for own in found.values() if own.below]
    if below:
        words.append(
            f"below it by 2^{np.median([t.slope for t in below]):.2f} (R² {np.median([t.straightness for t in below]):.3f}), and 2^1 "
            "is what any density gives that is finite at zero"
        )
    numbers = {"share": share, "distributions": len(found), "peaked": sum(peaked), "both": len(both)}
    return with_seeds(group, verdict, "; ".join(words), numbers)


def _by_kind(found: dict[tuple[Any, str, str], Profile], both: set[tuple[Any, str, str]]) -> str:
    counts = {kind: [name in both for name in found if name[1] == kind] for kind in KINDS.values()}
    return ", ".join(f"{sum(own)} of {len(own)} {kind}" for kind, own in counts.items())


def gradients_below_float16(evidence: Evidence) -> Judged:
    """Weight gradients of the float32 runs, as float16 would see them without a loss scale."""
    group = evidence.group("float32")
    last, most, steps = [], 0.0, []
    for run in group.runs:
        shares = {step: _lost_to_float16(run, step) for step in applied_steps(run)}
        steps += [max((step for step, pair in shares.items() if pair), default=0)]
        known = [pair for pair in shares.values() if pair]
        if not known:
            raise MissingError(f"{run.name}: no gradients were watched")
        last.append(known[-1])
        most = max(most, *(zero for zero, _ in known))
    zero, subnormal = [pair[0] for pair in last], [pair[1] for pair in last]
    verdict: Verdict = (
        "agrees" if min(zero) >= LEAST_UNDERFLOW else "differs" if most < LEAST_UNDERFLOW else "cannot tell"
    )
    words = (
        f"at step {', '.join(dict.fromkeys(map(str, steps)))}, the last at which they were watched, {_percent(zero)} of the weights' "
        f"gradients become 0 in float16 (below 2^-25), {_percent(subnormal)} lose bits (below 2^-14), without a loss scale; the most "
        f"that become 0 at any watched step: {_share(most)}"
    )
    return with_seeds(group, verdict, words, {"zero": zero, "below_normal": subnormal, "most_zero": most})


def _lost_to_float16(run: RunRecord, step: int) -> tuple[float, float] | None:
    """Shares of a step's gradients that become zero, and that lose bits."""
    found = run.magnitudes(step)
    counts = by_binade(found, np.flatnonzero(found.kind == "weight_gradient"))
    if not counts.sum():
        return None
    return _below(counts, FLOAT16_SMALLEST - 1), _below(counts, FLOAT16_NORMAL)


def _below(counts: np.ndarray, exponent: int) -> float:
    """Share of values below 2**exponent; place 0 is exponent 1 - BIAS."""
    return float(counts[: exponent + BIAS - 1].sum() / counts.sum())


def _percent(shares: list[float]) -> str:
    texts = [_share(share) for share in (min(shares), max(shares))]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def _share(share: float) -> str:
    return (
        percent(share) if share >= 0.001 else "none" if share == 0 else f"{float(f'{share * 1e6:.2g}'):g} in a million"
    )


def lopsided(evidence: Evidence) -> Judged:
    """Median binade of weights and of updates."""
    gaps = []
    group = evidence.group("float32")
    for run in group.runs:
        found = last_watched(run, "update")
        weights, updates = (
            _median(by_binade(found, np.flatnonzero(found.kind == kind))) for kind in ("weight", "update")
        )
        gaps.append(weights - updates)
    verdict: Verdict = "agrees" if min(gaps) >= LOPSIDED else "differs"
    times = f"2^{min(gaps)}" if min(gaps) == max(gaps) else f"2^{min(gaps)} to 2^{max(gaps)}"
    words = f"the middle update is {times} times smaller than the middle weight (binades of the medians, float32)"
    return with_seeds(group, verdict, words, {"binades": gaps})


def _median(counts: np.ndarray) -> int:
    if not counts.sum():
        raise MissingError("no weights or no updates were watched")
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1 - BIAS


def swallowed(variation: str) -> Any:
    """A judge of the updates that were lost to nearest."""

    def judge(evidence: Evidence) -> Judged:
        diverged = evidence.diverged(variation)
        try:
            group = evidence.group(variation)
        except MissingError as error:
            if not diverged:
                raise
            return Judged("cannot tell", str(error))
        shares = {run.seed: _lost(run) for run in group.runs}
        values = [share for share, _ in shares.values()]
        verdict: Verdict = "agrees" if min(values) >= 0.1 else "differs" if max(values) < 0.01 else "cannot tell"
        steps = ", ".join(dict.fromkeys(str(step) for _, step in shares.values()))
        words = f"at step {steps} {_percent(values)} of the updates that are not 0 leave their weight as it is"
        words += f"; {in_seeds(diverged)} diverged, not in these figures" if diverged else ""
        return with_seeds(group, verdict, words, {"lost": values})

    return judge


def _lost(run: RunRecord) -> tuple[float, int]:
    """Share of the updates that change nothing at the last watched step, and that step."""
    found = last_watched(run, "update")
    places = np.flatnonzero(found.kind == "update")
    updates = int(found.updates[places].sum())
    if not updates:
        raise MissingError(f"{run.name}: no updates were watched")
    return 1.0 - int(found.changed[places].sum()) / updates, found.step


SWEEP = "dsrun sweep {sweep} --folder {folder}/runs --jobs 2; dsrun study magnitudes RUN"
EVERY_SEED = f"(at least {FEWEST_SEEDS} seeds)"
SHAPE_RULE = (
    "peaked: the fullest binade holds at least twice what it would if the binades that hold 99% were equally full; power law: from "
    f"the second binade above the peak on, {LEAST_BINADES} binades or more (down to 1 value in 100,000), log2 share against exponent "
    f"is a falling straight line, R² at least {STRAIGHT:g}, which normal, Laplace, logistic and log-normal numbers are not; agrees if "
    f"at least 9 in 10 distributions are both; differs if fewer than half are; else cannot tell {EVERY_SEED}"
)
UNDERFLOW_RULE = (
    "agrees if at the last watched step of every seed at least 1% of the gradients that are not 0 would be 0 in float16; differs if so "
    "many are at no watched step; else cannot tell " + EVERY_SEED
)
LOPSIDED_RULE = (
    f"agrees if the median update is at least 2^{LOPSIDED} times smaller than the median weight with every seed; else differs "
    f"{EVERY_SEED}"
)
LOST_RULE = (
    "agrees if with every seed at least 1 in 10 updates is lost; differs if with every seed fewer than 1 in 100; else cannot tell "
    + EVERY_SEED
)
TESTED_LOST = (
    "weights in {} without a master, updates to nearest: share of the updates that are not 0 and change nothing, at the last watched "
    "step whose update was applied; {{network}}"
)

CLAIMS = [
    Claim(
        "lopsided",
        "the terms of the update are lopsided: steps are small beside weights",
        "33, 35",
        "median binades of all weights and of all updates, float32, last watched step; {network}",
        LOPSIDED_RULE,
        "sweep",
        SWEEP,
        lopsided,
    ),
    *(
        Claim(
            f"lost_{name}",
            f"small updates vanish to nearest: {words}",
            "36",
            TESTED_LOST.format(words),
            LOST_RULE,
            "sweep",
            SWEEP,
            swallowed(f"{name}_nearest"),
        )
        for name, words in (("float16", "float16"), ("bfloat16", "bfloat16"), ("fixed16", "16-bit fixed point"))
    ),
    Claim(
        "power_laws",
        "magnitudes of parameters, inputs, outputs and gradients are peaked power laws",
        "43",
        "histograms by binade of each kind in each layer, float32, the last step at which it was watched; {network}",
        SHAPE_RULE,
        "sweep",
        SWEEP,
        peaked_power_laws,
    ),
    Claim(
        "gradients",
        "gradients lie below the range of float16",
        "31, 39",
        "weight gradients of float32; {network}",
        UNDERFLOW_RULE,
        "sweep",
        SWEEP,
        gradients_below_float16,
    ),
]
