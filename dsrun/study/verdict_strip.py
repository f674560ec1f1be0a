"""The first thing of a report: each setting in a row, what it scored, how that differs from the baseline, what it cost, and a word.

In the page it is a table with small marks; as SVG and PNG a strip of the same.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dsrun.evaluation.page import visible
from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import group_runs
from dsrun.study.number_words import of_seeds, on_seeds, size_text
from dsrun.study.run_record import RunRecord, Split
from dsrun.study.statistics import why_not_paired
from dsrun.study.style_marks import style_mark
from dsrun.study.verdict_figure import draw_strip
from dsrun.study.verdicts import SPLITS, Verdict, chance, rule, signed, verdicts

if TYPE_CHECKING:
    from dsrun.study.statistics import Difference, Rate

MOST_LISTED = 4
MOST_SEEDS = 6
# Of one setting, of several; {} are their names.
_WORDS = {
    "worse": ("{} is worse", "{} are worse"),
    "better": ("{} is better", "{} are better"),
    "no difference seen": ("no difference was seen for {}", "no difference was seen for {}"),
    "diverged": ("{} diverged", "{} diverged"),
    "unfinished": ("{} is unfinished", "{} are unfinished"),
    "not scored": ("{} is not scored", "{} are not scored"),
    "not comparable": ("{} is not comparable", "{} are not comparable"),
}


def verdict_strip(runs: Sequence[RunRecord], *, split: Split = "test") -> Exhibit:
    """The strip; with one setting it is that setting's rates and costs."""
    found = verdicts(group_runs(runs), split)
    caption = " ".join([answer(found), *_about(found)])
    return Exhibit(
        "verdict",
        "Verdict" if len(found) > 1 else "Result",
        caption,
        answer(found),
        [_row(one) for one in found],
        lambda width: draw_strip(found, width),
        html=_table(found),
        is_pictured=False,
    )


def answer(found: Sequence[Verdict]) -> str:
    """The first sentence of the report."""
    first, split = found[0], found[0].split
    if len(found) == 1:
        return _alone(first)
    if first.word in ("diverged", "unfinished"):
        return f"No verdict: the baseline, {first.group.label}, {'diverged' if first.word == 'diverged' else 'is unfinished'}."
    if split not in first.rates:
        return f"No verdict: the baseline, {first.group.label}, has no results on {split}."
    texts = []
    for word, text in _WORDS.items():
        if own := [one for one in found[1:] if one.word == word]:
            texts.append(text[len(own) > 1].format(_listed(own)))
    return f"Against {_with_end(first)}, by CER on {split}: {'; '.join(texts)}."


def _alone(one: Verdict) -> str:
    if rate := one.rates.get(one.split):
        seeds = f", {len(rate.seeds)} seeds together" if len(rate.seeds) > 1 else ""
        return f"{_with_end(one)}: CER {rate.value:.4f} on {one.split}{interval(rate)}{seeds}."
    best = [run.best["cer"] for run in one.group.runs if run.best]
    if best:
        return f"{one.group.label}: the lowest CER on dev during training was {min(best):.4f}; not scored on {one.split} yet."
    return f"{one.group.label}: nothing was evaluated yet."


def interval(rate: "Rate") -> str:
    """A rate's interval in brackets, or nothing."""
    return "" if rate.low is None or rate.high is None else f" ({rate.low:.4f} to {rate.high:.4f})"


def _listed(found: Sequence[Verdict]) -> str:
    """With strokes between, since labels have commas of their own; and which of them are judged by a part of their runs."""
    if len(found) <= MOST_LISTED:
        return " / ".join(map(_with_end, found))
    in_part = sum(bool(one.ended) for one in found)
    return f"{len(found)} settings" + (f" (not all runs of {in_part} of them are complete)" if in_part else "")


def _with_end(one: Verdict) -> str:
    return f"{one.group.label} ({one.ended})" if one.ended else one.group.label


def on_ended(found: Sequence[Verdict]) -> list[str]:
    """That a setting's other runs do not count, where some of its runs came to their end."""
    own = [_with_end(one) for one in found if one.counted is not one.group]
    return [f"Rates and differences are of the complete runs alone: {' / '.join(own)}."] if own else []


def on_left_out(found: Sequence[Verdict], split: Split) -> list[str]:
    """Differences that are of a part of the seeds, with the rates that they are of: the column of rates has others."""
    texts = []
    for one in found:
        gap = one.differences.get(split)
        if gap and (gap.left_out or gap.baseline_left_out):
            out = [(one, gap.left_out), (found[0], gap.baseline_left_out)]
            those = " and ".join(f"{of_seeds(seeds, MOST_SEEDS)} of {side.group.label}" for side, seeds in out if seeds)
            texts.append(
                f"The difference of {one.group.label} is of {of_seeds(gap.seeds, MOST_SEEDS)} alone, which both have "
                f"({gap.rate:.4f} against {gap.baseline_rate:.4f}); {those} "
                f"{'is' if len(gap.left_out + gap.baseline_left_out) == 1 else 'are'} in its rate only."
            )
    return texts


def _about(found: Sequence[Verdict]) -> list[str]:
    texts = []
    if len(found) > 1:
        texts.append(rule(found[0]))
    if apart := [why for one in found[1:] if one.word == "not comparable" and (why := _why(one, found[0]))]:
        texts.append(f"Not comparable: {apart[0]}.")
    texts += [*on_ended(found), *on_left_out(found, found[0].split)]
    seeds = [len(one.counted.runs) for one in found]
    texts += on_seeds(seeds, several="", one="Where there is one seed, others may differ.")
    if any(one.time for one in found[1:]):
        texts.append(
            "Time: the median over the steps of all seeds together against the baseline's, as measured where each ran."
        )
    if any(one.bytes for one in found):
        texts.append(
            "Bytes: kept from step to step (weights, optimizer's state, running statistics), as their formats need."
        )
    return texts


def _why(one: Verdict, first: Verdict) -> str | None:
    return why_not_paired(one.counted, first.counted, one.split)


def _row(one: Verdict) -> dict[str, Any]:
    row: dict[str, Any] = {
        "setting": one.group.label,
        "runs": len(one.group.runs),
        "runs that count": len(one.counted.runs),
        "verdict": one.word,
        "not complete": one.ended or None,
    }
    for split in SPLITS:
        rate, difference = one.rates.get(split), one.differences.get(split)
        row |= {
            f"{split} CER": rate.value if rate else None,
            f"{split} CER low": rate.low if rate else None,
            f"{split} CER high": rate.high if rate else None,
            f"{split} difference": difference.value if difference else None,
            f"{split} difference low": difference.low if difference else None,
            f"{split} difference high": difference.high if difference else None,
            f"{split} p": difference.p if difference else None,
            f"{split} difference of seeds": " ".join(map(str, difference.seeds)) if difference else None,
        }
    return row | {"seconds a step": one.seconds, "time to baseline's": one.time, "bytes": one.bytes}


def _table(found: Sequence[Verdict]) -> Markup:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "visible": visible,
        "style_mark": style_mark,
        "size_text": size_text,
        "signed": signed,
        "chance": chance,
    }
    template = environment.from_string((files(__package__) / "verdict_strip.html").read_text(encoding="utf-8"))
    splits = [split for split in SPLITS if any(split in one.rates for one in found)]
    splits.sort(key=lambda split: split != found[0].split)
    text = template.render(
        found=found,
        splits=splits,
        # The other split's differences are under Error rates: here they would push time and bytes out of the window.
        has_differences={
            split: split == found[0].split and any(split in one.differences for one in found) for split in splits
        },
        rate_whisker={split: Whiskers([one.rates[split] for one in found if split in one.rates]) for split in splits},
        difference_whisker={
            split: Whiskers([one.differences[split] for one in found if split in one.differences], has_zero=True)
            for split in splits
        },
        has_time=any(one.seconds for one in found),
        has_bytes=any(one.bytes for one in found),
        classes={"no difference seen": "same", "not scored": "untold", "not comparable": "untold", "scored": "same"},
    )
    return Markup(text)


class Whiskers:
    """Values and intervals as small drawings on one scale."""

    def __init__(self, found: "Sequence[Rate | Difference]", *, has_zero: bool = False):
        ends = [end for one in found for end in _ends(one) if abs(end) < float("inf")]
        ends += [0.0] * has_zero
        self.low, self.high, self.has_zero = min(ends, default=0.0), max(ends, default=1.0), has_zero

    def __call__(self, one: "Rate | Difference") -> Markup:
        """A dot and its interval; nothing where one is infinite."""
        if self.high <= self.low or any(abs(end) == float("inf") for end in _ends(one)):
            return Markup("")
        low, dot, high = (f"{self._place(end):.2f}" for end in _ends(one))
        zero = Markup('<path class="zero" d="M{0} 0V12"/>').format(f"{self._place(0.0):.2f}") if self.has_zero else ""
        return Markup(
            '<svg viewBox="0 0 120 12" width="120" height="12" aria-hidden="true"><path class="axis" d="M2 6H118"/>{}'
            '<path class="span" d="M{} 6H{}"/><circle cx="{}" cy="6" r="3"/></svg>'
        ).format(zero, low, high, dot)

    def _place(self, value: float) -> float:
        return 4 + 112 * (value - self.low) / (self.high - self.low) if self.high > self.low else 60.0


def _ends(one: "Rate | Difference") -> tuple[float, float, float]:
    """Low, value and high; a value alone where no interval is known."""
    return (one.value if one.low is None else one.low, one.value, one.value if one.high is None else one.high)
