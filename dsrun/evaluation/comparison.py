"""Two systems on the same utterances: is one better, and where do they differ?

Utterances are paired by id, since both systems find the same ones hard: the interval of the difference is much narrower than the
two systems' own intervals would make one think (`paired_bootstrap`). The difference is the first's rate minus the second's, so a
negative one is in the first's favour. Where zero lies inside the interval the report says that no difference was seen, which is
not that there is none: the utterances may be too few to show it. It says the same where fewer than six utterances differ at all:
if neither system were better, each of them would favour either one by the toss of a coin, and five tosses fall alike once in
16, while the bootstrap of a few equal differences has an interval without zero.

Speakers, where all results have them, are drawn as a whole too (`breakdown` says why).
"""

from collections.abc import Sequence
from typing import Any

from dsrun.errors import UsageError
from dsrun.evaluation.breakdown import RATES, counts_by_speaker
from dsrun.evaluation.error_rate import ErrorCount, paired_bootstrap, total_errors
from dsrun.evaluation.results import BOOTSTRAP_SEED, Evaluation, UtteranceResult

MOST_DIFFERING = 20
MOST_NAMED = 5
FEWEST_TO_TELL = 6  # 2 * 2**-6 is the first such chance below 5%


def compare(first: Evaluation, second: Evaluation, *, samples: int = 10_000) -> dict[str, Any]:
    """Both corpus rates, the first minus the second with a 95% interval, and the utterances that differ most.

    Raises:
        UsageError: not the same utterances, or another reference for one of them: which, and why that may be.
    """
    pairs = _pairs(first, second)
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    has_speakers = all(one.speaker is not None and one.speaker == two.speaker for one, two in pairs)
    speakers = len({one.speaker for one in sides[0]}) if has_speakers else 0
    report: dict[str, Any] = {"utterances": len(pairs)}
    for name, counts in RATES:
        ours, theirs = ([getattr(result, counts) for result in side] for side in sides)
        report[name] = {
            "first": total_errors(ours).rate,
            "second": total_errors(theirs).rate,
            **_difference(ours, theirs, samples),
            "by_speaker": None,
        }
        if speakers > 1:
            ours, theirs = (counts_by_speaker(side, counts) for side in sides)
            report[name]["by_speaker"] = {"speakers": speakers, **_difference(ours, theirs, samples)}
    return report | {"differing": _differing(pairs)}


def _difference(ours: Sequence[ErrorCount], theirs: Sequence[ErrorCount], samples: int) -> dict[str, Any]:
    found = paired_bootstrap(theirs, ours, seed=BOOTSTRAP_SEED, samples=samples)  # which subtracts its first argument
    first_better = sum(a.errors < b.errors for a, b in zip(ours, theirs, strict=True))
    second_better = sum(b.errors < a.errors for a, b in zip(ours, theirs, strict=True))
    is_unseen = found.low <= 0 <= found.high or first_better + second_better < FEWEST_TO_TELL
    return {
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p_value": found.p_value,
        "verdict": "no difference seen" if is_unseen else "first is better" if found.high < 0 else "second is better",
        "first_better": first_better,
        "second_better": second_better,
    }


def _pairs(first: Evaluation, second: Evaluation) -> list[tuple[UtteranceResult, UtteranceResult]]:
    """In the first's order."""
    others = {u.id: u for u in second.utterances}
    ids = {u.id for u in first.utterances}
    missing, surplus = [u.id for u in first.utterances if u.id not in others], [id for id in others if id not in ids]
    if missing or surplus:
        sides = (("only the first has", missing), ("only the second has", surplus))
        raise UsageError(
            "a comparison needs the same utterances: "
            + "; ".join(f"{text} {len(names)}, e.g. {_named(names)}" for text, names in sides if names)
            + ". Score both on one manifest (--manifest)."
        )
    pairs = [(u, others[u.id]) for u in first.utterances]
    differing = [one for one, two in pairs if one.reference != two.reference]
    if differing:
        one, two = differing[0], others[differing[0].id]
        raise UsageError(
            f"a comparison needs the same references, and {len(differing)} differ, e.g. {one.id!r}: {one.reference!r} and "
            f"{two.reference!r}. Either the manifest was changed between the two, or the runs normalise text differently "
            "(data.normalizer): then their errors are not of the same text. Score both again on one manifest."
        )
    return pairs


def _named(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:MOST_NAMED]))


def _differing(pairs: Sequence[tuple[UtteranceResult, UtteranceResult]]) -> list[dict[str, Any]]:
    """Where the numbers of character errors are furthest apart, ties broken by id; equal ones are left out."""
    ranked = sorted(pairs, key=lambda pair: (-abs(_surplus(pair)), pair[0].id))
    return [
        {
            "id": one.id,
            "reference": one.reference,
            "first": one.hypothesis,
            "second": two.hypothesis,
            "first_errors": one.characters.errors,
            "second_errors": two.characters.errors,
        }
        for one, two in ranked[:MOST_DIFFERING]
        if _surplus((one, two))
    ]


def _surplus(pair: tuple[UtteranceResult, UtteranceResult]) -> int:
    return pair[0].characters.errors - pair[1].characters.errors
