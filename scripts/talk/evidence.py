"""What the parts left in FOLDER, read and nothing else: no JAX, no training, so the table can be made again anywhere."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsrun.inspection import open_run
from dsrun.study.run_record import RunRecord
from scripts.talk.claims import MissingError, NotHereError
from scripts.talk.running import read_state

if TYPE_CHECKING:
    from dsrun.study.groups import Group
    from dsrun.study.statistics import Difference, Rate

BASELINE = "float32"


class Evidence:
    """A folder that scripts/reproduce_talk.sh filled, wholly or in part."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = read_state(folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the folder was begun with."""
        return self._json(self.folder / "settings.json") or {"size": "small", "data": []}

    @property
    def size(self) -> str:
        """small, tiny or full."""
        return str(self.settings["size"])

    def report(self, part: str, step: str) -> dict[str, Any]:
        """What a step said.

        Raises:
            MissingError: it is not done, and why.
        """
        found = self._json(self.folder / part / f"{step}.json")
        if not isinstance(found, dict):
            raise MissingError(self.why_missing(part))
        return found

    def why_missing(self, part: str) -> str:
        """In words."""
        facts = self.state.get(part, {})
        if facts.get("state") == "failed":
            return f"part {part} failed at {facts.get('step')}: {facts.get('reason')}"
        return f"part {part} {'was stopped' if facts.get('state') == 'stopped' else 'has not run to its end'}"

    def _json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @cached_property
    def groups(self) -> "dict[str, Group]":
        """Complete runs of the sweep by variation, each with its seeds in order."""
        found: dict[str, list[RunRecord]] = {}
        for folder in sorted((self.folder / "runs").glob("*/config.yaml")):
            run = open_run(folder.parent)
            if run.state == "done":
                found.setdefault(run.name.rsplit("-seed", 1)[0], []).append(run)
        if not found:
            return {}
        from dsrun.study.groups import Group

        return {
            name: Group(name, runs[0].config, tuple(sorted(runs, key=lambda run: run.seed)))
            for name, runs in found.items()
        }

    @property
    def runs(self) -> list[RunRecord]:
        """All complete runs of the sweep, the baseline's first."""
        names = sorted(self.groups, key=lambda name: (name != BASELINE, name))
        return [run for name in names for run in self.groups[name].runs]

    def group(self, variation: str) -> "Group":
        """The runs of a variation.

        Raises:
            MissingError: there are none.
        """
        if variation not in self.groups and self.size == "tiny":
            raise NotHereError("toy sizes train some of the variations only")
        if variation not in self.groups:
            raise MissingError(f"no complete run {variation}: {self.why_missing('sweep')}")
        return self.groups[variation]

    def rate(self, variation: str) -> "Rate":
        """Character error rate on test, of all seeds together."""
        group = self.group(variation)
        from dsrun.study.statistics import rate_interval

        found = rate_interval(group, "test", "characters")
        if found is None or found.low is None or found.high is None:
            raise MissingError(f"{variation} was not scored on test")
        return found

    def difference(self, variation: str, baseline: str = BASELINE) -> "Difference":
        """Character error rate on test less the baseline's, of the seeds that both have."""
        first, second = self.group(variation), self.group(baseline)
        common = {run.seed for run in first.runs} & {run.seed for run in second.runs}
        if not common:
            raise MissingError(f"{variation} and {baseline} have no seed in common: {self.why_missing('sweep')}")
        from dsrun.study.statistics import difference

        found = difference(_with_seeds(first, common), _with_seeds(second, common), "test", "characters")
        if found is None:
            raise MissingError(f"{variation} or {baseline} was not scored on test")
        return found


def _with_seeds(group: "Group", seeds: set[Any]) -> "Group":
    from dsrun.study.groups import Group

    return Group(group.label, group.config, tuple(run for run in group.runs if run.seed in seeds))


def interval(value: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """`0.417 [0.389, 0.449]`."""
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def spread(values: Sequence[float], *, digits: int = 3) -> str:
    """`0.12 to 0.15`, or the one value."""
    low, high = min(values), max(values)
    return (
        f"{low:.{digits}f}" if f"{low:.{digits}f}" == f"{high:.{digits}f}" else f"{low:.{digits}f} to {high:.{digits}f}"
    )
