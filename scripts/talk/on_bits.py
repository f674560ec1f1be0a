"""Determinism: the same bits again."""

from typing import Any

from scripts.talk.claims import Claim, Judged, NotHereError
from scripts.talk.evidence import Evidence


def _row(evidence: Evidence, case: str) -> dict[str, Any]:
    rows = {row["case"]: row for row in evidence.report("bits", "runs")["rows"]}
    if case not in rows:
        raise NotHereError("one device only")
    if rows["control"]["same"]:
        raise NotHereError("the control, another learning rate, was found equal: the comparison sees nothing")
    return rows[case]


def _judged(row: dict[str, Any], before: str) -> Judged:
    kind = row["compared"][0]
    numbers = {
        "steps": kind["steps"],
        "first_different": row["first_different"],
        "compared": [k["what"] for k in row["compared"]],
    }
    if row["same"]:
        words = f"{before}{kind['what']} of all {kind['steps']} steps are equal; the control, a learning rate 0.02% larger, differs"
        return Judged("agrees", words, numbers)
    return Judged("differs", f"{before}different from step {row['first_different']} on", numbers)


def again(evidence: Evidence) -> Judged:
    """The same command twice."""
    return _judged(_row(evidence, "again"), "")


def killed(evidence: Evidence) -> Judged:
    """A killed and resumed training."""
    row = _row(evidence, "killed")
    return _judged(row, f"killed after step {row['killed_after_step']}, resumed: ")


def devices(evidence: Evidence) -> Judged:
    """One and two devices."""
    return _judged(_row(evidence, "devices"), "1 and 2 devices: ")


RULE = "agrees if every tensor's hash is equal after every step, and the control differs; differs if one is not"
TESTED = (
    "two epochs (toy sizes: 20) with dropout, augmentation and stochastic updates of bfloat16 weights; every tensor of the state after "
    "every step"
)

CLAIMS = [
    Claim(
        "same_run",
        "the same training again has the same bits",
        "44",
        TESTED,
        RULE,
        "bits",
        "{script} --only bits; dsrun diff {folder}/bits/first {folder}/bits/again",
        again,
    ),
    Claim(
        "killed_run",
        "a training that was killed and went on has the same bits",
        "44",
        TESTED,
        RULE,
        "bits",
        "{script} --only bits; dsrun diff {folder}/bits/first {folder}/bits/killed",
        killed,
    ),
    Claim(
        "devices",
        "a training on another number of devices has the same bits",
        "44",
        TESTED,
        RULE,
        "bits",
        "{script} --only bits; dsrun diff {folder}/bits/first {folder}/bits/devices",
        devices,
    ),
]
