"""What a claim is, what a verdict is, and how one follows from an interval.

Verdicts: `agrees`, `differs`, `cannot tell` (the interval allows both), `not testable here` (no such hardware, or not built), `not run`
(the part has not run yet, or failed: the reason says which). With toy sizes every verdict is prefixed: those numbers mean nothing.

Two rules come again and again. Both are about a difference of error rates, positive where the claim's format is worse, with its 95%
interval [low, high] over utterances and seeds together (`dsrun.study.statistics`), and a margin, `MARGIN`: two characters in a hundred,
a twentieth of the small network's own errors, and half of what bfloat16 without a master lost in earlier runs of the same configs with
the same seeds. So it was not chosen blind, and the table says so (`pages.KNOWN`).

    as good       agrees if high < margin; differs if low > 0 and high >= margin; else cannot tell
    loses         agrees if low > 0; differs if high < margin; else cannot tell

So neither "as good" nor "loses" follows from an interval that only contains zero: of that the words are "no difference seen".

With one seed the interval holds for the networks at hand and not for their settings, so from fewer than `FEWEST_SEEDS` complete seeds on
both sides nothing is told. A seed whose training diverged where the baseline's did not has no error rate and counts as lost, not as
absent: if every seed did (at least two), "loses" agrees and "as good" differs; if some did, "as good" cannot agree and "loses"
cannot differ, whatever the survivors say.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from dsrun.errors import DsrunError

Verdict = Literal["agrees", "differs", "cannot tell", "not testable here", "not run"]
MARGIN = 0.02  # of a character error rate
# What reading a damaged document, or one of another version, may end in; each claim and each run folder bears its own.
DAMAGE = (DsrunError, OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration)
FEWEST_SEEDS = 2  # from which a verdict is about settings and not about two networks


class MissingError(Exception):
    """What a claim is judged by is not there; says which part brings it, or why it cannot be had here."""


class NotHereError(Exception):
    """This machine, or this version of dsrun, cannot test the claim; says why."""


@dataclass(frozen=True)
class Judged:
    """A verdict, the measurement in words, and every number in it."""

    verdict: Verdict
    measured: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Args:
        name: stable, for talk.json and tests.
        says: the talk's claim, in our words. slide: where, "" where the number is not known.
        tested: what was run and looked at. rule: when it agrees, differs, or neither.
        part: that brings the evidence. command: to get this figure alone, with the small network; with other sizes it is the
            script's own. `tested` and `command` may name what depends on the size of the runs in braces (`sizes.Wording`).
        judge: from the evidence; raises MissingError or NotHereError.
    """

    name: str
    says: str
    slide: str
    tested: str
    rule: str
    part: str
    command: str
    judge: Callable[[Any], Judged]


def as_good(low: float, high: float, *, margin: float = MARGIN) -> Verdict:
    """No worse, by an interval of the difference."""
    if high < margin:
        return "agrees"
    return "differs" if low > 0 else "cannot tell"


def loses(low: float, high: float, *, margin: float = MARGIN) -> Verdict:
    """Worse, by an interval of the difference."""
    if low > 0:
        return "agrees"
    return "differs" if high < margin else "cannot tell"


SEEDS_RULE = f"(at least {FEWEST_SEEDS} seeds; one that diverged counts as lost)"
AS_GOOD_RULE = (
    f"agrees if the 95% interval of the difference ends below +{MARGIN:g}; differs if it ends there or above and excludes 0; else cannot "
    f"tell {SEEDS_RULE}"
)
LOSES_RULE = (
    f"agrees if the 95% interval of the difference lies above 0; differs if it does not and ends below +{MARGIN:g}; else cannot tell "
    f"{SEEDS_RULE}"
)
