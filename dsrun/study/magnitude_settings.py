"""What the figures of magnitudes show of a group: every kind's tallies by layer, at the first watched step and at the last.

A layer's inputs are what the layer before it hands on. Of many recurrent layers neighbours are taken together, so that
`MOST_LAYERS` rows suffice.

Seeds are added. They see their batches in other orders, and of a batch with a shape of its own not every kind is watched; so a seed's
last step is its last with every kind that is not after any other seed's last one, and seeds may have different ones. A seed that has
none is left out, and captions say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsrun.study.groups import Group, group_runs
from dsrun.study.keys import styles_of
from dsrun.study.run_record import RunRecord
from dsrun.study.styles import Style
from dsrun.study.watched import HANDED_ON, LayerStep, Range, Tally, read_layers, together

KINDS = {
    "parameters": "weight",
    "inputs": HANDED_ON,
    "outputs": "activation",
    "errors": "error",
    "gradients of weights": "weight_gradient",
    "updates": "update",
}
MOST_LAYERS = 6
_WHOLE = {"weight", "activation", "error", "weight_gradient", "update"}

Table = dict[str, dict[str, Tally]]  # by title of a kind, then layer


@dataclass(frozen=True)
class Setting:
    """A group's first and last steps of which all kinds were watched, by kind and layer.

    `runs` are those of the group that have such steps, with a first and a last step each.
    """

    group: Group
    style: Style
    runs: tuple[RunRecord, ...]
    first_steps: tuple[int, ...]
    first: Table
    last_steps: tuple[int, ...]
    last: Table
    ranges: dict[str, Range]
    first_scales: tuple[float, ...]
    last_scales: tuple[float, ...]

    @property
    def has_one_scale(self) -> bool:
        """Whether the seeds had the same loss scale, at the first step and at the last."""
        return len(self.first_scales) == 1 == len(self.last_scales)

    @property
    def first_scale(self) -> float:
        """The first seed's."""
        return self.first_scales[0]

    @property
    def loss_scale(self) -> float:
        """The first seed's at the last step."""
        return self.last_scales[0]

    def total(self, title: str) -> Tally:
        """All layers of a kind at the last step."""
        return total_of(self.last[title])

    @property
    def signature(self) -> str:
        """What has to be equal for two settings to share a figure; as a text, for a NaN is not equal to itself."""
        return repr(self.ranges)


def total_of(layers: Mapping[str, Tally]) -> Tally:
    return sum(layers.values(), Tally())


def span_text(steps: Sequence[int]) -> str:
    """`600`, `500 to 600`."""
    return f"{min(steps)}" if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"


def steps_text(steps: Sequence[int]) -> str:
    """`step 600`, `steps 500 to 600`."""
    return f"step{'' if min(steps) == max(steps) else 's'} {span_text(steps)}"


def _read(group: Group, style: Style) -> Setting | None:
    ends = [(run, own) for run in group.runs if (own := _ends(run))]
    latest = min((last for _, (_, last) in ends), default=0)
    used = [(run, first, _last_whole(run, latest)) for run, (first, _) in ends if first <= latest]
    if not used:
        return None
    first = together(read_layers(run, step) for run, step, _ in used)
    last = together(read_layers(run, step) for run, _, step in used)
    ranges = {title: last.ranges[kind] for title, kind in KINDS.items() if kind in last.ranges}
    runs, first_steps, last_steps = zip(*used, strict=True)
    return Setting(
        group,
        style,
        runs,
        first_steps,
        _table(first),
        last_steps,
        _table(last),
        ranges,
        first.loss_scales,
        last.loss_scales,
    )


def read_settings(runs: Sequence[RunRecord]) -> list[Setting]:
    """Those of all groups that have a step with every kind, in order.

    Raises:
        DataError: a file of magnitudes is damaged.
    """
    groups = group_runs(runs)
    styles = styles_of(groups)
    return [setting for group in groups if (setting := _read(group, styles[group.label]))]


def _ends(run: RunRecord) -> tuple[int, int] | None:
    """The first and the last step of which every kind was watched. Each step is a file that is read, so no more of them than needed."""
    steps = run.watched_steps
    first = next((step for step in steps if _is_whole(run, step)), None)
    return None if first is None else (first, _last_whole(run, steps[-1]))


def _last_whole(run: RunRecord, latest: int) -> int:
    """The last whole step that is not after `latest`; there is one."""
    return next(step for step in reversed(run.watched_steps) if step <= latest and _is_whole(run, step))


def _is_whole(run: RunRecord, step: int) -> bool:
    return set(read_layers(run, step).ranges) >= _WHOLE


def _table(step: LayerStep) -> Table:
    layers = step.layers
    rows = _rows([layer for layer in layers if layer != "features"])
    table: Table = {}
    for title, kind in KINDS.items():
        if title == "inputs":  # of each layer what the one before it hands on
            pairs = zip(layers[1:], layers, strict=False)
            own = {layer: step.tallies[kind, before] for layer, before in pairs if (kind, before) in step.tallies}
        else:
            own = {layer: step.tallies[kind, layer] for layer in layers if (kind, layer) in step.tallies}
        for layer, tally in own.items():
            row = rows.get(layer, layer)
            kinds = table.setdefault(title, {})
            kinds[row] = kinds[row] + tally if row in kinds else tally
    return table


def _rows(layers: Sequence[str]) -> dict[str, str]:
    """The row of each layer, at most `MOST_LAYERS`, the same for every kind: of many recurrent layers neighbours share one."""
    inner = [layer for layer in layers if layer.startswith("gru_")]
    room = max(MOST_LAYERS - (len(layers) - len(inner)), 1)
    size = -(-len(inner) // room) if len(inner) > room else 1
    parts = [inner[place : place + size] for place in range(0, len(inner), size)]
    return {layer: part[0] if len(part) == 1 else f"{part[0]}-{part[-1][4:]}" for part in parts for layer in part}
