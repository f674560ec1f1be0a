"""How large the numbers of a training are: peaked power laws, and gradients that float16 does not hold.

The distribution of a kind of numbers in a layer (parameters, what layers hand on, gradients of weights), of the float32 run at its last
watched step, by binade, zeros left out:

* *peaked*: at least half of the values lie in the fullest binade and two on either side of it, though the binades with values are
  `LEAST_BINADES` or more;
* *a power law*: below the peak, from its second binade down to where fewer than one in 100,000 values lie, log2 of the shares is a
  straight line of the exponent (R² at least `STRAIGHT`, 5 binades or more).

The thresholds were set on a run of another network (the quickstart's) before any run of the sweep was looked at.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dsrun.record.magnitudes import BIAS, FIELDS, Magnitudes
from dsrun.study.magnitudes import layer_of
from dsrun.study.run_record import RunRecord
from scripts.talk.claims import Claim, Judged, MissingError, Verdict
from scripts.talk.evidence import Evidence, spread

KINDS = {"weight": "parameters", "activation": "inputs and outputs", "weight_gradient": "gradients"}
HALF, NEAR, LEAST_BINADES = 0.5, 2, 15
STRAIGHT, LEAST_POINTS, LEAST_SHARE = 0.95, 5, 1e-5
FLOAT16_SMALLEST, FLOAT16_NORMAL = -24, -14  # exponents of float16's smallest subnormal and smallest normal number
LEAST_UNDERFLOW, LOPSIDED = 0.01, 6


@dataclass(frozen=True)
class Shape:
    """Of one distribution."""

    near_peak: float
    binades: int
    slope: float | None
    straightness: float | None

    @property
    def is_peaked(self) -> bool:
        """See the module."""
        return self.near_peak >= HALF and self.binades >= LEAST_BINADES

    @property
    def is_straight(self) -> bool:
        """See the module."""
        return self.straightness is not None and self.straightness >= STRAIGHT


def shape_of(counts: np.ndarray) -> Shape:
    """Of numbers of values by binade; at least one of them is not 0."""
    shares = counts / counts.sum()
    peak = int(np.argmax(shares))
    near = float(shares[max(peak - NEAR, 0) : peak + NEAR + 1].sum())
    below = np.arange(0, max(peak - 1, 0))
    below = below[shares[below] >= LEAST_SHARE]
    slope = straightness = None
    if len(below) >= LEAST_POINTS:
        logs = np.log2(shares[below])
        slope, offset = np.polyfit(below, logs, 1)
        rest = ((logs - slope * below - offset) ** 2).sum()
        total = ((logs - logs.mean()) ** 2).sum()
        slope, straightness = float(slope), float(1 - rest / total) if total else 0.0
    return Shape(near, int((counts > 0).sum()), slope, straightness)


def by_binade(found: Magnitudes, places: np.ndarray) -> np.ndarray:
    """Numbers of non-zero finite values by exponent field, from the smallest normal float32 on."""
    return found.fields[places].sum(axis=0)[1 : FIELDS - 1]


def last_watched(run: RunRecord) -> Magnitudes:
    """The last step that has them.

    Raises:
        MissingError: none has.
    """
    if not run.watched_steps:
        raise MissingError(f"{run.name}: no step was watched")
    return run.magnitudes(run.watched_steps[-1])


def distributions(found: Magnitudes) -> dict[tuple[str, str], np.ndarray]:
    """Numbers by binade of each kind in each layer."""
    layers = np.array([layer_of(str(path)) for path in found.path])
    pooled = {}
    for kind in KINDS:
        for layer in dict.fromkeys(layers.tolist()):
            counts = by_binade(found, np.flatnonzero((found.kind == kind) & (layers == layer)))
            if counts.sum():
                pooled[(KINDS[kind], layer)] = counts
    return pooled


def peaked_power_laws(evidence: Evidence) -> Judged:
    """Of the float32 runs."""
    runs = evidence.group("float32").runs
    shapes = {
        (run.seed, *name): shape_of(counts) for run in runs for name, counts in distributions(last_watched(run)).items()
    }
    peaked = [shape.is_peaked for shape in shapes.values()]
    both = [shape.is_peaked and shape.is_straight for shape in shapes.values()]
    share = sum(both) / len(both)
    slopes = [shape.slope for shape in shapes.values() if shape.slope is not None]
    verdict: Verdict = "agrees" if share >= 0.9 else "differs" if share < 0.5 else "cannot tell"
    words = (
        f"{sum(both)} of {len(both)} distributions (kind, layer, seed) are both, {sum(peaked)} are peaked; in the five binades around the "
        f"peak lie {spread([s.near_peak for s in shapes.values()], digits=2)} of the values, the tails towards zero fall by "
        f"2^{np.median(slopes):.2f} a binade in the middle (2^1: what any density that is finite at zero gives), "
        f"R² {np.median([s.straightness for s in shapes.values() if s.straightness is not None]):.3f}"
    )
    exceptions = sorted(
        {f"{kind} of {layer}" for (_, kind, layer), s in shapes.items() if not (s.is_peaked and s.is_straight)}
    )
    if exceptions:
        words += f"; not both: {', '.join(exceptions)}"
    return Judged(
        verdict, words, {"share": share, "distributions": len(both), "peaked": sum(peaked), "not_both": exceptions}
    )


def gradients_below_float16(evidence: Evidence) -> Judged:
    """Weight gradients of the float32 runs, as float16 would see them without a loss scale."""
    shares: dict[int, list[tuple[float, float]]] = {}
    for run in evidence.group("float32").runs:
        for step in run.watched_steps:
            found = run.magnitudes(step)
            counts = by_binade(found, np.flatnonzero(found.kind == "weight_gradient"))
            if counts.sum():
                shares.setdefault(step, []).append(
                    (_below(counts, FLOAT16_SMALLEST - 1), _below(counts, FLOAT16_NORMAL))
                )
    if not shares:
        raise MissingError("no gradients were watched")
    last = shares[max(shares)]
    zero, subnormal = [pair[0] for pair in last], [pair[1] for pair in last]
    most = max(max(pair[0] for pair in pairs) for pairs in shares.values())
    verdict: Verdict = (
        "agrees" if min(zero) >= LEAST_UNDERFLOW else "differs" if most < LEAST_UNDERFLOW else "cannot tell"
    )
    words = (
        f"at step {max(shares)} {_percent(zero)} of the weights' gradients become 0 in float16 (below 2^-25), {_percent(subnormal)} lose "
        f"bits (below 2^-14), without a loss scale; at most {_share(most)} at any watched step"
    )
    return Judged(verdict, words, {"zero": zero, "below_normal": subnormal, "most_zero": most})


def _below(counts: np.ndarray, exponent: int) -> float:
    """Share of values below 2**exponent; place 0 is exponent 1 - BIAS."""
    return float(counts[: exponent + BIAS - 1].sum() / counts.sum())


def _percent(shares: list[float]) -> str:
    texts = [_share(share) for share in (min(shares), max(shares))]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "none" if share == 0 else f"{share * 1e6:.2g} in a million"


def lopsided(evidence: Evidence) -> Judged:
    """Median binade of weights and of updates."""
    gaps = []
    for run in evidence.group("float32").runs:
        found = last_watched(run)
        weights, updates = (
            _median(by_binade(found, np.flatnonzero(found.kind == kind))) for kind in ("weight", "update")
        )
        gaps.append(weights - updates)
    verdict: Verdict = "agrees" if min(gaps) >= LOPSIDED else "differs"
    times = f"2^{min(gaps)}" if min(gaps) == max(gaps) else f"2^{min(gaps)} to 2^{max(gaps)}"
    words = f"the middle update is {times} times smaller than the middle weight (AdamW, float32)"
    return Judged(verdict, words, {"binades": gaps})


def _median(counts: np.ndarray) -> int:
    if not counts.sum():
        raise MissingError("no weights or no updates were watched")
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1 - BIAS


def swallowed(variation: str) -> Any:
    """A judge of the updates that were lost to nearest."""

    def judge(evidence: Evidence) -> Judged:
        shares = []
        for run in evidence.group(variation).runs:
            found = last_watched(run)
            places = np.flatnonzero(found.kind == "update")
            updates = int(found.updates[places].sum())
            if not updates:
                raise MissingError(f"{run.name}: no updates were watched")
            shares.append(1.0 - int(found.changed[places].sum()) / updates)
        verdict: Verdict = "agrees" if min(shares) >= 0.1 else "differs" if max(shares) < 0.01 else "cannot tell"
        step = last_watched(evidence.group(variation).runs[0]).step
        return Judged(
            verdict,
            f"at step {step} {_percent(shares)} of the updates that are not 0 leave their weight as it is",
            {"lost": shares},
        )

    return judge


SWEEP = "dsrun sweep configs/sweeps/talk.yaml --folder runs/talk/runs --jobs 2; dsrun study magnitudes RUN"
SHAPE_RULE = (
    "peaked: half of the values in five binades, of 15 or more that have any; power law: log2 share against exponent is straight below the "
    "peak, R² at least 0.95; agrees if at least 9 in 10 distributions are both; differs if fewer than half are; else cannot tell"
)
UNDERFLOW_RULE = (
    "agrees if at the last watched step of every seed at least 1% of the gradients that are not 0 would be 0 in float16; differs if so "
    "many are at no watched step; else cannot tell"
)
LOPSIDED_RULE = f"agrees if the median update is at least 2^{LOPSIDED} times smaller than the median weight with every seed; else differs"
LOST_RULE = "agrees if with every seed at least 1 in 10 updates is lost; differs if with every seed fewer than 1 in 100; else cannot tell"
TESTED_LOST = (
    "weights in {} without a master, updates to nearest: share of the updates that are not 0 and change nothing"
)

CLAIMS = [
    Claim(
        "lopsided",
        "the terms of the update are lopsided: steps are small beside weights",
        "33, 35",
        "float32 run, last watched step",
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
        "histograms by binade of each kind in each layer, float32 run, last watched step",
        SHAPE_RULE,
        "sweep",
        SWEEP,
        peaked_power_laws,
    ),
    Claim(
        "gradients",
        "gradients lie below the range of float16",
        "31, 39",
        "weight gradients of the float32 run",
        UNDERFLOW_RULE,
        "sweep",
        SWEEP,
        gradients_below_float16,
    ),
]
