"""How large a network's numbers are, layer by layer and kind by kind, over what their format can hold; and the talk's figure of it.

`magnitude_histograms`: small multiples, a row a layer and a column a kind, at the last watched step. Settings whose formats have the
same ranges for every kind share a figure, the first as an area and the others as lines. Of a figure with one setting the area is its
first watched step instead, so that one sees what training changed. Drawn are at most
`MOST_FIGURES` figures of at most `MOST_SETTINGS` settings, the first ones.

`magnitude_distribution`: parameters, inputs, outputs and gradients of the first setting, all layers and each of them, with a linear and a
logarithmic scale of shares (slide 43 of the talk: peaked power laws).

A layer's inputs are what the layer before it hands on. Gradients and errors carry the loss scale, as the format meets them. Seeds are
added.
"""

import math
from collections.abc import Mapping, Sequence

from dsrun.study.exhibit import Exhibit
from dsrun.study.magnitude_figures import draw_distribution, draw_multiples
from dsrun.study.magnitude_panels import histogram_rows
from dsrun.study.magnitude_profile import STRAIGHT, Profile, profile
from dsrun.study.magnitude_settings import Setting, read_settings, span_text, steps_text, total_of
from dsrun.study.number_words import counted, listed, percent, power_of_two
from dsrun.study.run_record import RunRecord

SCALED = ("errors", "gradients of weights")  # carry the loss scale
TALK_KINDS = ("parameters", "inputs", "outputs", "gradients of weights")
MOST_FIGURES, MOST_SETTINGS = 4, 4
NOTICED = 0.001  # share of a kind that a format loses, worth a word


def magnitude_histograms(runs: Sequence[RunRecord]) -> list[Exhibit]:
    """A figure for each set of settings with the same formats; none where nothing was watched.

    Raises:
        DataError: a file of magnitudes is damaged.
    """
    settings = read_settings(runs)
    clusters: dict[str, list[Setting]] = {}
    for setting in settings:
        clusters.setdefault(setting.signature, []).append(setting)
    chosen = [own[:MOST_SETTINGS] for own in clusters.values()][:MOST_FIGURES]
    left = [setting.group.label for setting in settings if setting not in [s for own in chosen for s in own]]
    return [_exhibit(place, own, left if place == len(chosen) - 1 else []) for place, own in enumerate(chosen)]


def _exhibit(place: int, settings: Sequence[Setting], left: Sequence[str]) -> Exhibit:
    labels = listed([setting.group.label for setting in settings])
    answer = _losses(settings)
    caption = [answer, _widths(settings[0]), *_change(settings), _steps(settings), *_not_drawn(left)]
    return Exhibit(
        f"magnitude_histograms{f'_{place + 1}' if place else ''}",
        f"Magnitudes in {labels}",
        " ".join(caption),
        f"Histograms of magnitudes by layer and kind for {labels}, over the range of the format. {answer}",
        [row for setting in settings for row in _rows(setting)],
        lambda width: draw_multiples(width, settings),
    )


def _losses(settings: Sequence[Setting]) -> str:
    """Which kind loses most to zero or to overflow, or that everything fits."""
    found = [
        (setting.total(title).share(part), title, words, setting)
        for setting in settings
        for title in setting.last
        for part, words in (
            ("flushed", "rounded to nearest, {} of the {} become zero"),
            ("overflowed", "{} of the {} lie beyond the largest number"),
        )
        if setting.total(title).finite
    ]
    if not found:
        return "No value that is finite and not zero was seen."
    share, title, words, setting = max(found, key=lambda one: one[0])
    if share >= NOTICED:
        return f"Not everything fits: {words.format(percent(share), title)} in {setting.group.label}."
    some = "no value" if share == 0 else "less than 0.1% of any kind"
    formats = listed(list(dict.fromkeys(one.format for one in settings[0].ranges.values())))
    return f"Everything fits into {formats}: {some} underflows or overflows."


def _widths(setting: Setting) -> str:
    """How few binades hold 99% of each kind."""
    found = {title: profile(setting.total(title)) for title in setting.last}
    words = [f"{own.binades_99} of the {title}" for title, own in found.items() if own]
    zeros = [
        f"{percent(setting.total(title).zeros / max(setting.total(title).values, 1))} of the {title}"
        for title in setting.last
        if setting.total(title).zeros >= 0.01 * max(setting.total(title).values, 1)
    ]
    return f"Binades that hold 99% of what is not zero: {listed(words)}." + (
        f" Zeros: {listed(zeros)}." if zeros else ""
    )


def _change(settings: Sequence[Setting]) -> list[str]:
    """What training did to one setting, or how the others' medians differ from the first's."""
    if len(settings) > 1:
        return _beside(settings[0], settings[1:])
    setting = settings[0]
    if setting.first_steps == setting.last_steps:
        return []
    moved = {title: ends for title in setting.last if (ends := _medians(setting, title))}
    words = [
        f"the {title} {'shrink' if after < before else 'grow'} from {power_of_two(before)} to {power_of_two(after)}"
        for title, (before, after) in moved.items()
        if abs(after - before) >= 1
    ]
    between = f"Between {steps_text(setting.first_steps)} and {steps_text(setting.last_steps)}"
    without = ", the loss scale taken out" if (setting.first_scale, setting.loss_scale) != (1.0, 1.0) else ""
    return [f"{between} {listed(words)} (medians{without})." if words else f"{between} no median moves by a binade."]


def _medians(setting: Setting, title: str) -> tuple[int, int] | None:
    """The medians' exponents at the first and the last step; of what carries the loss scale without it."""
    first, last = (profile(total_of(table.get(title, {}))) for table in (setting.first, setting.last))
    if not first or not last or (title in SCALED and not setting.has_one_scale):
        return None  # of seeds with other scales the median of all is of no scale
    scales = (setting.first_scale, setting.loss_scale) if title in SCALED else (1.0, 1.0)
    return first.median - _exponent(scales[0]), last.median - _exponent(scales[1])


def _exponent(scale: float) -> int:
    return math.frexp(scale)[1] - 1


def _beside(first: Setting, others: Sequence[Setting]) -> list[str]:
    """A sentence for each whose medians differ, and one for all in which no difference is seen."""
    name = first.group.label
    moved: list[str] = []
    same: list[str] = []
    same_unscaled: list[str] = []
    for other in others:
        by = {title: _apart(first, other, title) for title in first.last if title in other.last}
        words = [f"{title} {abs(n)} {'smaller' if n < 0 else 'larger'}" for title, n in by.items() if n]
        if words:
            moved.append(f"Beside {name} the medians in {other.group.label} are, in binades: {listed(words)}.")
        else:
            has_scales = first.has_one_scale and other.has_one_scale
            (same if has_scales else same_unscaled).append(other.group.label)
    if same:
        moved.append(f"Beside {name} no difference seen in {listed(same)}: every median is in the same binade.")
    if same_unscaled:
        labels = listed(same_unscaled)
        moved.append(f"Beside {name} the medians in {labels} are in the same binades, the loss scale apart.")
    return moved


def _apart(first: Setting, other: Setting, title: str) -> int:
    if title in SCALED and not (first.has_one_scale and other.has_one_scale):
        return 0
    a, b = profile(first.total(title)), profile(other.total(title))
    return b.median - a.median if a and b else 0


def _steps(settings: Sequence[Setting]) -> str:
    words = _last_steps(settings)
    if len(settings) == 1 and settings[0].first_steps != settings[0].last_steps:
        words += f", the area {steps_text(settings[0].first_steps)}"
    elif len(settings) > 1:
        words += f", the area {settings[0].group.label}"
    seeds = max(len(setting.runs) for setting in settings)
    words += f"; up to {counted(seeds, 'seed')} together" if seeds > 1 else ""
    scales = list(dict.fromkeys(f"{scale:g}" for s in settings for scale in s.last_scales if scale != 1))
    words += f"; errors and gradients carry the loss scale of {listed(scales)}" if scales else ""
    mixed = [s.group.label for s in settings if not s.has_one_scale]
    words += f", which in {listed(mixed)} is not the same in all seeds" if mixed else ""
    left = [
        f"{counted(missing, 'seed')} of {s.group.label}"
        for s in settings
        if (missing := len(s.group.runs) - len(s.runs))
    ]
    words += f". Without such a step in time and left out: {listed(left)}" if left else ""
    return f"{words}. Shares are of all values; bars at the edges: zeros, and values that are not finite."


def _last_steps(settings: Sequence[Setting]) -> str:
    """`Step 600`; of seeds with different ones `Each seed's last step with every kind, 500 to 600`; settings apart where they differ."""
    labels: dict[str, list[str]] = {}
    for setting in settings:
        labels.setdefault(span_text(setting.last_steps), []).append(setting.group.label)
    where = (
        listed([f"{span} ({listed(own)})" for span, own in labels.items()]) if len(labels) > 1 else next(iter(labels))
    )
    if any(len(set(setting.last_steps)) > 1 for setting in settings):
        return f"Each seed's last step with every kind, {where}"
    return f"Step{'s' if len(labels) > 1 else ''} {where}"


def _not_drawn(left: Sequence[str]) -> list[str]:
    return [f"Not drawn, beyond {MOST_FIGURES} figures of {MOST_SETTINGS} settings: {listed(left)}."] if left else []


def _rows(setting: Setting) -> list[dict]:
    """Of the first steps and of the last ones; `step` is the latest of the seeds', `from_step` the earliest."""
    about = {"setting": setting.group.label, "seeds": len(setting.runs)}
    tables = [(setting.first_steps, setting.first), (setting.last_steps, setting.last)]
    return [
        row
        for steps, table in (tables[1:] if setting.first_steps == setting.last_steps else tables)
        for title, layers in table.items()
        for layer, tally in layers.items()
        for row in histogram_rows(
            tally, about | {"step": max(steps), "from_step": min(steps), "kind": title, "layer": layer}
        )
    ]


def magnitude_distribution(runs: Sequence[RunRecord]) -> Exhibit | None:
    """The talk's figure of the first setting that was watched; None where none was.

    Raises:
        DataError: a file of magnitudes is damaged.
    """
    settings = read_settings(runs)
    if not settings:
        return None
    setting = settings[0]
    profiles = {title: own for title in TALK_KINDS if title in setting.last and (own := profile(setting.total(title)))}
    answer = _shape(profiles)
    caption = [
        answer,
        _tails(profiles),
        f"{setting.group.label}, {steps_text(setting.last_steps)}, all layers (bold) and each of them.",
    ]
    return Exhibit(
        "magnitude_distribution",
        "How magnitudes are distributed",
        " ".join(text for text in caption if text),
        f"Histograms by binade of parameters, inputs, outputs and gradients, linear above and logarithmic below. {answer}",
        [row for row in _rows(setting) if row["kind"] in TALK_KINDS and row["step"] == max(setting.last_steps)],
        lambda width: draw_distribution(width, setting, [title for title in TALK_KINDS if title in profiles]),
    )


def _shape(profiles: Mapping[str, Profile]) -> str:
    peaked = [title for title, own in profiles.items() if own.is_peaked]
    flat = [title for title in profiles if title not in peaked]
    words = "All kinds are peaked" if peaked else "No kind is peaked"
    words = f"Peaked: {listed(peaked)}; not peaked: {listed(flat)}" if peaked and flat else words
    held = [
        f"of the {title} {own.binades_99} binades hold 99%, the fullest, {power_of_two(own.peak)}, {percent(own.peak_share)}"
        for title, own in profiles.items()
    ]
    return f"{words}: {'; '.join(held)}."


def _tails(profiles: Mapping[str, Profile]) -> str:
    below = {title: own.below for title, own in profiles.items() if own.below}
    straight = [
        f"{t.slope:.2f} ({title}, R² {t.straightness:.3f})" for title, t in below.items() if t.straightness >= STRAIGHT
    ]
    bent = [f"{title} (R² {t.straightness:.3f})" for title, t in below.items() if t.straightness < STRAIGHT]
    above = [f"{own.above.slope:.2f} ({title})" for title, own in profiles.items() if own.is_power_law and own.above]
    texts = []
    if straight:
        texts.append(
            f"Towards zero the shares fall as powers of the magnitude, with exponents {listed(straight)}; 1 is a share that halves with "
            "each binade, as of any numbers whose density near zero is finite, normal ones too."
        )
    if bent:
        texts.append(
            f"Towards zero no power, since log2 of the shares is no straight line of the exponent: {listed(bent)}."
        )
    texts.append(f"Above the peak {f'powers: {listed(above)}' if above else 'none falls as a power'}.")
    return " ".join(texts)
