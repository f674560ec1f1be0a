"""Character error rates with their intervals, and their differences to the baseline.

A dot is the corpus's rate, of several seeds their mean, the line its 95% interval, and the small hollow marks below are the seeds. The
second panel has the differences to the first setting on the same utterances, which are known far better than the rates themselves,
since all settings find the same utterances hard. Dots and not bars: a bar's length says something only from zero on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dsrun.study.exhibit import Exhibit, is_narrow
from dsrun.study.groups import group_runs
from dsrun.study.labels import LABEL_POINTS, LINE_INCHES, broken, text_width
from dsrun.study.number_words import on_seeds
from dsrun.study.run_record import RunRecord, Split
from dsrun.study.verdict_strip import interval, on_ended, on_left_out
from dsrun.study.verdicts import SPLITS, Verdict, chance, signed, verdicts
from dsrun.study.whiskers import Whisker, draw_whiskers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, NARROW_ROW, HEAD, FOOT = 0.36, 0.52, 0.36, 0.42  # inches: of a setting, above and below a panel
WIDEST_LABEL = 2.4


def error_rates(runs: Sequence[RunRecord], *, split: Split = "test") -> Exhibit | None:
    """Rates and differences on test and dev; None where nothing was scored."""
    found = verdicts(group_runs(runs), split)
    first = found[0].split
    splits = sorted((own for own in SPLITS if any(own in one.rates for one in found)), key=lambda own: own != first)
    if not splits:
        return None
    answer = _answer(found, splits[0])
    return Exhibit(
        "error_rates",
        "Error rates",
        " ".join([answer, *_about(found, splits)]),
        f"Dots with intervals: character error rates and differences. {answer}",
        [row for own in splits for one in found for row in _rows(one, own)],
        lambda width: _draw([one for one in found if one.rates], splits, width),
    )


def _answer(found: Sequence[Verdict], split: Split) -> str:
    first = found[0]
    compared = [(one, one.differences[split]) for one in found if split in one.differences and one.is_compared]
    if not compared:
        rates = [(one, one.rates[split]) for one in found if split in one.rates]
        texts = [f"{one.group.label} {r.value:.4f}{interval(r)}" for one, r in rates[:3]]
        more = f" and {len(rates) - 3} more" if len(rates) > 3 else ""
        return f"CER on {split}: {'; '.join(texts)}{more}."
    seen = [(one, gap) for one, gap in compared if gap.is_seen]
    if not seen:
        what = "any setting" if len(compared) > 1 else compared[0][0].group.label
        return f"No difference in {split} CER was seen between {what} and {first.group.label}."
    one, gap = max(seen, key=lambda pair: abs(pair[1].value))
    what = (
        f"The largest difference to {first.group.label}"
        if len(compared) > 1
        else f"The difference to {first.group.label}"
    )
    whose = f"that of {one.group.label}: " if len(compared) > 1 else ""
    unseen = len(compared) - len(seen)
    rest = f"; with {unseen} of {len(compared)} settings no difference was seen" if unseen else ""
    return f"{what} in {split} CER is {whose}{signed(gap.value)} ({signed(gap.low)} to {signed(gap.high)}){rest}."


def _about(found: Sequence[Verdict], splits: Sequence[Split]) -> list[str]:
    texts = []
    most = {own: max(one.rates[own].utterances for one in found if own in one.rates) for own in splits}
    if counts := [f"{count} of {own}" for own, count in most.items() if count]:
        texts.append(f"Intervals of rates are over utterances ({' and '.join(counts)}).")
    if unknown := [own for own, count in most.items() if not count]:
        texts.append(f"Errors of each utterance of {' and '.join(unknown)} are not known, so there are no intervals.")
    seeds = [max(len(rate.seeds) for rate in one.rates.values()) for one in found if one.rates]
    one = "Where there is none there is one seed, and others may differ."
    texts += on_seeds(seeds, several="Hollow marks are single seeds.", one=one)
    texts += [*on_ended(found), *(text for own in splits for text in on_left_out(found, own))]
    if methods := {gap.method for one in found for gap in one.differences.values()}:
        texts.append(f"Those of differences: {'; '.join(sorted(methods))}. Left of zero is fewer errors.")
    missing = [one.group.label for one in found if not one.rates]
    if missing:
        texts.append(f"Not scored: {' / '.join(missing)}.")
    return texts


def _rows(one: Verdict, split: Split) -> list[dict[str, Any]]:
    rows = []
    if rate := one.rates.get(split):
        numbers = {
            "value": rate.value,
            "low": rate.low,
            "high": rate.high,
            "p": None,
            "seeds": len(rate.seeds),
            "utterances": rate.utterances,
        }
        rows.append({"setting": one.group.label, "split": split, "what": "CER"} | numbers)
        for seed, value in zip(rate.seeds, rate.by_seed, strict=True):
            rows.append({"setting": one.group.label, "split": split, "what": f"CER of seed {seed}", "value": value})
    if gap := one.differences.get(split):
        numbers = {
            "value": gap.value,
            "low": gap.low,
            "high": gap.high,
            "p": gap.p,
            "seeds": len(gap.seeds),
            "utterances": gap.utterances,
        }
        rows.append({"setting": one.group.label, "split": split, "what": "difference"} | numbers)
    return rows


def _draw(found: Sequence[Verdict], splits: Sequence[Split], width: float) -> "Figure":
    from matplotlib.figure import Figure

    narrow = is_narrow(width)
    names = [broken(one.label, LABEL_POINTS, width - 1.7 if narrow else WIDEST_LABEL) for one in found]
    row = (NARROW_ROW if narrow else ROW) + max(name.count("\n") for name in names) * LINE_INCHES
    has_differences = any(one.differences for one in found)
    kinds = [(own, kind) for own in splits for kind in ("rate", "difference")[: 1 + has_differences]]
    is_drawn = [kind == "rate" or any(own in one.differences for one in found) for own, kind in kinds]
    # On a wide page an empty panel keeps its place, so that the others stand below one another.
    panels = [panel if drawn else None for panel, drawn in zip(kinds, is_drawn, strict=True) if drawn or not narrow]
    inside = row * len(found)
    count = len(panels) if narrow else len(splits)
    height = (HEAD + FOOT + inside) * count
    figure = Figure(figsize=(width, height), facecolor="white")
    left, right, gap = _margins(found, names, width, has_differences=has_differences)
    across = 1 if narrow or not has_differences else 2
    wide = (width - left - right - gap * (across - 1)) / across
    for number, panel in enumerate(panels):
        if panel is None:
            continue
        own, kind = panel
        x = left + (wide + gap) * (number % across)
        bottom = height - (HEAD + FOOT + inside) * (number // across) - HEAD - inside
        axes = figure.add_axes((x / width, bottom / height, wide / width, inside / height))
        rows = [_whisker(one, own, kind) for one in found]
        labels = names if narrow or number % across == 0 else [""] * len(names)
        absent = [_absent(one, own, kind) for one in found]
        draw_whiskers(axes, rows, labels, has_zero=kind == "difference", is_narrow=narrow, absent=absent)
        axes.set_title(
            f"{own} CER" + (" minus the baseline's" if kind == "difference" else ""),
            loc="left",
            fontweight="bold",
            pad=6,
        )
    return figure


def _margins(
    found: Sequence[Verdict], names: Sequence[str], width: float, *, has_differences: bool
) -> tuple[float, float, float]:
    """Inches at the left for labels, at the right for the differences' texts, and between two columns."""
    if is_narrow(width):
        return 0.15, 0.15, 0.0
    left = max(text_width(name, LABEL_POINTS) for name in names) + 0.2
    notes = [_note(one, own) for one in found for own in SPLITS]
    right = max(text_width(note, LABEL_POINTS) for note in notes) + 0.3 if has_differences else 0.3
    return left, right, 0.5


def _whisker(one: Verdict, split: Split, kind: str) -> Whisker | None:
    style, label = one.style, one.group.label
    if kind == "rate":
        rate = one.rates.get(split)
        return Whisker(style, label, rate.value, rate.low, rate.high, rate.by_seed) if rate else None
    gap = one.differences.get(split)
    return Whisker(style, label, gap.value, gap.low, gap.high, note=_note(one, split)) if gap else None


def _absent(one: Verdict, split: Split, kind: str) -> str:
    if one.is_baseline and kind == "difference":
        return "baseline"
    return "not comparable" if split in one.rates and kind == "difference" else "not scored"


def _note(one: Verdict, split: Split) -> str:
    gap = one.differences.get(split)
    return f"{signed(gap.value)}, {chance(gap.p)}" if gap else ""
