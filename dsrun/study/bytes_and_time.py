"""What a setting keeps in memory, from step to step and within one, and how long a step takes.

Bytes are counted and not measured (`costs.json`), by role: as the arrays carry the values, and as the formats themselves would need. An
emulated format is carried in float32, so it saves nothing yet, and its time says nothing about hardware that has the format: what is
drawn as needed is what such hardware would keep. Settings are compared by what they keep from step to step (`costs.py`), as verdicts and
`compare` do; the bars have the gradient and activations too. Runs of before there was a `costs.json` have no bytes here.

Time is the median over the steps (`costs.step_seconds`), and its spread the middle half of them; the few steps that compile a batch
shape lie far outside. Steps of different batch shapes take different times, which is most of the spread. Times of runs from
different devices, or from different commits of dsrun, do not compare, and then the caption compares none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dsrun.study.bytes_figure import draw_bytes_and_time
from dsrun.study.costs import Kind, bytes_by_role, bytes_kept, step_seconds
from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import Group, group_runs
from dsrun.study.number_words import size_text
from dsrun.study.run_record import RunRecord
from dsrun.study.styles import Style, distinct_styles

# In the order of the bars, each with what it is called.
ROLES = {
    "master": "weights that accumulate",
    "storage": "weights as read",
    "compensation": "Kahan's compensation",
    "state": "optimizer's state",
    "gradient": "gradient of a shard",
    "statistics": "running statistics",
    "stored": "activations of a shard",
    "gates": "GRU gates of a shard",
}


@dataclass(frozen=True)
class Setting:
    """A group.

    Fields:
        carried, needed: bytes by role, of arrays and as the formats need; {} where not known. kept: of `needed` from step to step.
        seconds: a step's quartiles. by_run: each run's median.
    """

    group: Group
    style: Style
    carried: Mapping[str, int]
    needed: Mapping[str, int]
    kept: int | None
    seconds: tuple[float, float, float] | None
    by_run: tuple[float, ...]
    is_emulated: bool

    @property
    def label(self) -> str:
        """The group's."""
        return self.group.label


def bytes_and_time(runs: Sequence[RunRecord]) -> Exhibit | None:
    """Bytes and seconds of each setting; None where neither is known.

    Raises:
        DataError: a file is damaged.
    """
    groups = group_runs(runs)
    styles = distinct_styles([group.config for group in groups])
    settings = [_setting(group, style) for group, style in zip(groups, styles, strict=True)]
    if not any(one.carried or one.seconds for one in settings):
        return None
    reasons = _apart(runs)
    answer = _answer(settings, may_compare=not reasons)
    return Exhibit(
        "bytes_and_time",
        "Bytes and time",
        " ".join([answer, *_about(settings, reasons)]),
        f"Stacked bars of bytes by role, and dots of milliseconds a step. {answer}",
        [row for one in settings for row in _rows(one, settings[0])],
        partial(draw_bytes_and_time, settings, ROLES),
    )


def _setting(group: Group, style: Style) -> Setting:
    run = next((run for run in group.runs if run.costs), group.runs[0])
    known = step_seconds(group.runs)
    quartiles = tuple(float(q) for q in np.quantile(known, [0.25, 0.5, 0.75])) if len(known) else None
    medians = tuple(own for run in group.runs if (own := run.seconds_a_step) is not None)
    is_emulated = run.costs.get("carrier", group.config.get("arithmetic.carrier")) == "emulated"
    sizes = (_bytes(run, "as_carried"), _bytes(run, "as_formats"), bytes_kept(group.runs, "as_formats"))
    return Setting(group, style, *sizes, quartiles, medians, is_emulated)  # type: ignore[arg-type]


def _bytes(run: RunRecord, kind: Kind) -> dict[str, int]:
    found = bytes_by_role(run, kind, sections=("bytes", "activations"))
    return {role: size for role, size in found.items() if role in ROLES}


def _apart(runs: Sequence[RunRecord]) -> list[str]:
    """Why times of these runs do not compare."""
    timed = [run for run in runs if run.seconds_a_step is not None]
    devices = {(run.device or "unknown", _count(run)) for run in timed}
    commits = {run.commit or "unknown" for run in timed}
    reasons = []
    if len(devices) > 1:
        texts = sorted(f"{count} x {kind}" if count else kind for kind, count in devices)
        reasons.append(f"different devices ({'; '.join(texts[:4])})")
    if len(commits) > 1:
        reasons.append(f"different commits of dsrun ({', '.join(sorted(commits)[:4])})")
    return reasons


def _count(run: RunRecord) -> int | None:
    """Devices that the run last trained on; None where it does not say."""
    devices = run.status.get("devices")
    count = devices.get("count") if isinstance(devices, Mapping) else None
    return count if type(count) is int else None


def _answer(settings: Sequence[Setting], *, may_compare: bool) -> str:
    first, others = settings[0], settings[1:]
    if not others:
        parts = []
        if first.kept is not None:
            parts.append(f"keeps {size_text(first.kept)} from step to step, as its formats need")
        if first.seconds:
            parts.append(f"takes {milliseconds(first.seconds[1])} a step (the median)")
        return f"{first.label} {' and '.join(parts)}."
    texts = []
    compared = [(one, one.kept) for one in others if one.kept is not None and first.kept]
    if compared:
        one, size = min(compared, key=lambda pair: pair[1])
        texts.append(_kept(size, first))
    else:
        one = others[0]
    if may_compare and (ratio := _time_ratio(one, first)) is not None:
        texts.append(f"takes {_times(ratio)} its time a step here")
    if not texts:
        return "Times and bytes of these settings cannot be compared."
    return f"{_rank([size for _, size in compared], first.kept or 0)}{one.label} {' and '.join(texts)}."


def _kept(size: int, first: Setting) -> str:
    assert first.kept
    if size == first.kept:
        return f"keeps as many bytes from step to step as {first.label} ({size_text(size)})"
    return (
        f"keeps {_times(size / first.kept)} the bytes of {first.label} from step to step ({size_text(size)} against "
        f"{size_text(first.kept)})"
    )


def _rank(sizes: Sequence[int], base: int) -> str:
    """What the setting that is spoken of is: the one of fewest bytes, one of those, or the least of those that need more than the first."""
    if len(sizes) < 2:
        return ""
    least = min(sizes)
    if least > base:
        return "None keeps fewer bytes than the first setting: of the others, "
    return "With the fewest bytes of all, " if [*sizes, base].count(least) == 1 else "With as few bytes as any, "


def _times(ratio: float) -> str:
    """`0.70 of`, `2.00 times`: as many digits as a verdict's."""
    return f"{ratio:.2f} of" if ratio <= 1 else f"{ratio:.2f} times"


def _time_ratio(one: Setting, first: Setting) -> float | None:
    return one.seconds[1] / first.seconds[1] if one.seconds and first.seconds and first.seconds[1] else None


def _about(settings: Sequence[Setting], reasons: Sequence[str]) -> list[str]:
    texts = []
    if reasons:
        texts.append(f"The runs come from {' and '.join(reasons)}, so their times do not compare.")
    if any(one.is_emulated and one.needed != one.carried for one in settings):
        texts.append(
            "Formats are emulated: values on their grid are carried in float32 arrays, so that the bytes are float32's and the time says "
            "nothing about hardware that has the format."
        )
    if any(one.carried for one in settings):
        texts.append(
            "Bytes are counted from shapes, by role. The bars also have what a step holds meanwhile: a shard's gradient, and of its "
            "activations, in the longest batch shape, those that the backward pass reads, a lower bound."
        )
    if missing := [one.label for one in settings if not one.carried]:
        texts.append(
            f"Bytes are not known of {' / '.join(missing)}: the run folder is of before costs.json was written."
        )
    if any(one.seconds for one in settings):
        texts.append(
            "Times: the median over the steps of all seeds together, and their middle half; hollow marks are single runs, where there are "
            "several."
        )
    return texts


def _rows(one: Setting, first: Setting) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"setting": one.label, "what": f"bytes {kind}, {ROLES[role]}", "value": size}
        for kind, sizes in (("carried", one.carried), ("needed", one.needed))
        for role, size in sorted(sizes.items(), key=lambda item: list(ROLES).index(item[0]))
    ]
    if one.kept is not None:
        rows.append({"setting": one.label, "what": "bytes needed, kept from step to step", "value": one.kept})
    if one.seconds:
        for name, value in zip(("lower quartile", "median", "upper quartile"), one.seconds, strict=True):
            rows.append({"setting": one.label, "what": f"seconds a step, {name}", "value": value})
        if (ratio := _time_ratio(one, first)) is not None:
            rows.append({"setting": one.label, "what": f"median relative to {first.label}", "value": ratio})
        rows += [
            {"setting": one.label, "what": f"seconds a step, median of run {number}", "value": value}
            for number, value in enumerate(one.by_run, start=1)
            if len(one.by_run) > 1
        ]
    return rows


def milliseconds(seconds: float) -> str:
    """With three digits."""
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
