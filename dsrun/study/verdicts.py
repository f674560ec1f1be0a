"""What can be said of each setting against the baseline, by a rule that is printed beside it.

The baseline is the first setting. A setting is *better* or *worse* if the 95% interval of the paired difference of character error
rates (`statistics.difference`, which says what it is over) lies on one side of zero; otherwise *no difference was seen*, which is not
that there is none: the utterances or the seeds may be too few to show it. Only runs that came to their end count, in rates and in
differences: the others are networks that were not trained as long. A setting of which none did is *diverged* or *unfinished*, and its
rates, of the best checkpoints that there are, are shown and not compared. Against a baseline without such a run nothing is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from dsrun.study.costs import bytes_kept, seconds_a_step
from dsrun.study.groups import Group
from dsrun.study.outcomes import outcome
from dsrun.study.run_record import RunRecord, Split
from dsrun.study.statistics import Difference, Rate, difference, rate_interval
from dsrun.study.styles import Style, distinct_styles

Word = Literal[
    "baseline", "no difference seen", "better", "worse", "diverged", "unfinished", "not scored", "not comparable", "scored"
]  # fmt: skip
MARKS: dict[str, str] = {
    "baseline": "=",
    "no difference seen": "≈",
    "better": "✔",
    "worse": "✖",
    "diverged": "⚠",
    "unfinished": "…",
    "not scored": "?",
    "not comparable": "?",
    "scored": "",
}
SPLITS: tuple[Split, ...] = ("test", "dev")


@dataclass(frozen=True)
class Verdict:
    """One setting.

    Fields:
        counted: the group with the runs that came to their end alone, or all of them if none did.
        style: how it is drawn. word: of `split`. ended: how many of its runs did not come to their end, in words, or "".
        rates, differences: CER by split, where there is one; differences are to the baseline.
        time: a step's, relative to the baseline's. seconds: a step's. bytes: kept from step to step, as formats need.
    """

    group: Group
    counted: Group
    style: Style
    split: Split
    word: Word
    ended: str
    rates: dict[Split, Rate]
    differences: dict[Split, Difference]
    seconds: float | None
    time: float | None
    bytes: int | None

    @property
    def mark(self) -> str:
        """The word as a sign."""
        return MARKS[self.word]

    @property
    def label(self) -> str:
        """The setting's, and how it ended if not as it should."""
        return f"{self.group.label} ({self.word})" if self.word in ("diverged", "unfinished") else self.group.label

    @property
    def is_compared(self) -> bool:
        """Whether the difference to the baseline was put to the rule."""
        return self.word in ("no difference seen", "better", "worse")

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with this one."""
        return self.word == "baseline"


def verdicts(groups: Sequence[Group], split: Split) -> list[Verdict]:
    """One a setting, by rates on `split`, or on the other one if nobody was scored there; the first is the baseline."""
    if not any(run.results_path(split) for group in groups for run in group.runs):
        other: Split = "dev" if split == "test" else "test"
        split = other if any(run.results_path(other) for group in groups for run in group.runs) else split
    first = seconds_a_step(groups[0].runs)
    styles = distinct_styles([group.config for group in groups])
    return [
        _verdict(group, groups[0], style, split, first, is_alone=len(groups) == 1)
        for group, style in zip(groups, styles, strict=True)
    ]


def rule(verdict: Verdict) -> str:
    """How the words of the strip come about."""
    return (
        f"Rule: worse or better where the 95% interval of the difference in {verdict.split} CER to {verdict.group.label}, on the same "
        "utterances, has zero outside; no difference seen where it has zero inside."
    )


def signed(value: float) -> str:
    """A difference with its sign, a minus and no hyphen."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def chance(p: float) -> str:
    """A p as a reader wants it."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _verdict(
    group: Group, baseline: Group, style: Style, split: Split, first: float | None, *, is_alone: bool
) -> Verdict:
    counted, held_against = _counted(group), _counted(baseline)
    is_judged = group is not baseline and all(map(_is_complete, (*counted.runs, *held_against.runs)))
    rates = {own: found for own in SPLITS if (found := rate_interval(counted, own, "characters"))}
    differences = {
        own: gap for own in SPLITS if is_judged and (gap := difference(counted, held_against, own, "characters"))
    }
    seconds = seconds_a_step(group.runs)
    return Verdict(
        group,
        counted,
        style,
        split,
        _word(group, split in rates, differences.get(split), is_baseline=group is baseline, is_alone=is_alone),
        _ended(group),
        rates,
        differences,
        seconds,
        seconds / first if seconds and first else None,
        bytes_kept(group.runs, "as_formats"),
    )


def _counted(group: Group) -> Group:
    complete = tuple(filter(_is_complete, group.runs))
    return group if len(complete) in (0, len(group.runs)) else Group(group.label, group.config, complete)


def _is_complete(run: RunRecord) -> bool:
    return outcome(run).kind == "complete"


def _word(group: Group, is_scored: bool, found: Difference | None, *, is_baseline: bool, is_alone: bool) -> Word:
    kinds = {outcome(run).kind for run in group.runs}
    if "complete" not in kinds:
        return "diverged" if "diverged" in kinds else "unfinished"
    if not is_scored:
        return "not scored"
    if is_baseline:
        return "scored" if is_alone else "baseline"
    if found is None:
        return "not comparable"
    return cast(Word, found.words)


def _ended(group: Group) -> str:
    kinds = [outcome(run).kind for run in group.runs]
    texts = [
        f"{kinds.count(kind)} of {len(kinds)} runs {kind}"
        for kind in ("diverged", "unfinished")
        if kinds.count(kind) and len(kinds) > 1
    ]
    return ", ".join(texts)
