"""The figure of `bytes_and_time`: two bars a setting, cut by role, and a dot with the middle half of its steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsrun.study.exhibit import is_narrow, new_figure
from dsrun.study.labels import elided

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Light and dark in turn, and a hatch for each, since what is told by colour alone some cannot see.
LOOKS = {
    "master": ("#33517a", ""),
    "storage": ("#86a9d6", ""),
    "compensation": ("#c8b6dc", "xx"),
    "state": ("#4f7d5a", ""),
    "gradient": ("#d9b36b", "//"),
    "statistics": ("#8c8c8c", ""),
    "stored": ("#e4e4e4", ".."),
    "gates": ("#f7f7f7", "\\\\"),
}
ROW, HEAD, FOOT = 0.78, 0.35, 0.55  # inches: of a setting, above and below a panel
BAR = 0.2  # of a row
NAME_INCHES = 3.2  # that a panel has in any figure


def draw_bytes_and_time(settings: Sequence[Any], roles: Mapping[str, str], width: float) -> "Figure":
    """Bytes left and time right; on a narrow page one below the other."""
    has_bytes, has_time = any(one.carried for one in settings), any(one.seconds for one in settings)
    panels = has_bytes + has_time
    narrow = is_narrow(width)
    height = HEAD + FOOT + ROW * len(settings)
    used = [role for role in roles if any(one.carried.get(role) or one.needed.get(role) for one in settings)]
    key = 0.2 * -(-len(used) // _key_columns(width)) + 0.15 if has_bytes else 0.0
    figure = new_figure(width, key + height * (panels if narrow else 1))
    shape = (panels, 1) if narrow else (1, panels)
    options: dict[str, Any] = {} if narrow or panels == 1 else {"width_ratios": [1.6, 1]}
    axes = list(figure.subplots(*shape, squeeze=False, gridspec_kw=options).flat)
    if has_bytes:
        _draw_bytes(axes.pop(0), settings, 1.9 if narrow else 1.4)
        handles = [_patch(role, roles[role]) for role in used]
        figure.legend(handles=handles, loc="outside upper left", ncols=_key_columns(width), fontsize=8, frameon=False)
    if has_time:
        _draw_times(axes.pop(0), settings, 1.55)
    return figure


def _key_columns(width: float) -> int:
    return 2 if is_narrow(width) else 4


def _patch(role: str, name: str) -> Any:
    from matplotlib.patches import Patch

    colour, hatch = LOOKS[role]
    return Patch(facecolor=colour, edgecolor="#444444", lw=0.4, hatch=hatch, label=name)


def _draw_bytes(axes: "Axes", settings: Sequence[Any], room: float) -> None:
    """`room`: of the longest bar and what stands behind it, in its lengths."""
    from dsrun.study.number_words import size_text

    most = max(sum(sizes.values()) for one in settings for sizes in (one.carried, one.needed))
    unit, factor = next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if most >= f or f == 1)
    for place, one in enumerate(settings):
        if not one.carried:
            _note(axes, place, "not known")
        bars = [("carried", one.carried), ("needed", one.needed)]
        if one.carried == one.needed:
            bars = [("carried and needed", one.carried)]
        for number, (name, sizes) in enumerate(bars if one.carried else ()):
            y, left = place + 0.02 + number * 1.35 * BAR, 0.0
            for role in (role for role in LOOKS if sizes.get(role)):
                colour, hatch = LOOKS[role]
                size = sizes[role] / factor
                axes.barh(y, size, BAR, left=left, color=colour, edgecolor="#444444", lw=0.4, hatch=hatch)
                left += size
            text = f" {size_text(sum(sizes.values()))} {name}"
            axes.text(left, y, text, va="center", fontsize=8, parse_math=False)
    _name_rows(axes, settings)
    axes.set_xlim(0, room * most / factor or 1.0)
    axes.set_title("bytes in a step", loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel(unit, fontsize=8.5)


def _draw_times(axes: "Axes", settings: Sequence[Any], room: float) -> None:
    from dsrun.study.bytes_and_time import milliseconds

    first = settings[0]
    most = max(one.seconds[2] for one in settings if one.seconds) * 1e3
    for place, one in enumerate(settings):
        if not one.seconds:
            _note(axes, place, "no step was timed")
            continue
        style = one.style
        low, median, high = (1e3 * seconds for seconds in one.seconds)
        y = place + 0.05
        axes.plot([low, high], [y, y], color=style.colour, lw=2)
        axes.plot(median, y, style.marker, color=style.colour, ms=7)
        if len(one.by_run) > 1:
            axes.plot(
                [1e3 * s for s in one.by_run],
                [y + 0.2] * len(one.by_run),
                style.marker,
                ms=4,
                mfc="white",
                mec=style.colour,
            )
        is_compared = one is not first and first.seconds and first.seconds[1]
        ratio = f", {one.seconds[1] / first.seconds[1]:.2f} x" if is_compared else ""
        axes.text(high, y, f"  {milliseconds(one.seconds[1])}{ratio}", va="center", fontsize=8, parse_math=False)
    _name_rows(axes, settings)
    axes.set_xlim(0, most * room or 1.0)
    axes.set_title("milliseconds a step", loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel("ms", fontsize=8.5)


def _name_rows(axes: "Axes", settings: Sequence[Any]) -> None:
    """A setting's name above its row, so that it has the whole width."""
    for place, one in enumerate(settings):
        label = elided(one.label, 8.5, NAME_INCHES)
        axes.text(
            0.005, place - 0.24, label, transform=axes.get_yaxis_transform(), fontsize=8.5, va="center", parse_math=False
        )  # fmt: skip
    axes.set_ylim(len(settings) - 0.4, -0.5)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5", lw=0.6)
    axes.set_axisbelow(True)


def _note(axes: "Axes", place: int, text: str) -> None:
    axes.text(
        0.005, place + 0.05, text, transform=axes.get_yaxis_transform(), fontsize=8, va="center", color="#555555", style="italic"
    )  # fmt: skip
