"""What the parts left in FOLDER, read and nothing else: no JAX, no training, so the table can be made again anywhere."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from dsrun.errors import DataError
from dsrun.study.run_record import RunRecord
from scripts.talk.claims import MissingError, NotHereError
from scripts.talk.parts import Size, seeds_of, sweep_variations
from scripts.talk.running import read_state
from scripts.talk.sizes import Wording, wording
from scripts.talk.sweep_runs import SweepRuns, read_sweep
from scripts.talk.versus import Versus, in_order, in_seeds

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
        found = self._json(self.folder / "settings.json")
        return found if isinstance(found, dict) else {"size": "small", "data": []}

    @property
    def size(self) -> Size:
        """small, tiny or full."""
        found = self.settings.get("size")
        if found not in get_args(Size):
            raise DataError(f"{self.folder / 'settings.json'}: damaged: size is {found!r}.")
        return cast(Size, found)

    @property
    def data(self) -> list[str]:
        """The user's manifests, with size full."""
        found = self.settings.get("data")
        return [str(path) for path in found] if isinstance(found, list) else []

    @cached_property
    def wording(self) -> Wording:
        """What depends on the size."""
        return wording(self.folder, self.size, self.data)

    @cached_property
    def variations(self) -> tuple[str, ...]:
        """Of this size's sweep."""
        return tuple(sweep_variations(self.size))

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
        how = {"stopped": "was stopped", "done": "is done, and this is not among what it left"}
        return f"part {part} {how.get(str(facts.get('state')), 'has not run to its end')}"

    def _json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @cached_property
    def sweep(self) -> SweepRuns:
        """Its run folders."""
        return read_sweep(self.folder, self.variations)

    @property
    def runs(self) -> list[RunRecord]:
        """Those that are over, the baseline's first; what is refused or cannot be read is left out."""
        names = sorted(self.variations, key=lambda name: (name != BASELINE, name))
        kinds = (self.sweep.complete, self.sweep.diverged)
        return [run for name in names if name not in self.sweep.refused for kind in kinds for run in kind.get(name, [])]

    @property
    def left_out(self) -> list[str]:
        """Run folders that no number is of, and why."""
        return [*self.sweep.refused.values(), *self.sweep.left_out]

    def group(self, variation: str) -> "Group":
        """The complete runs of a variation.

        Raises:
            NotHereError: this size's sweep does not have it.
            MissingError: there are none.
        """
        self._require(variation)
        runs = self.sweep.complete.get(variation)
        if not runs:
            diverged = self.diverged(variation)
            if diverged:
                raise MissingError(f"{variation} has no complete run: {in_seeds(diverged)} diverged")
            raise MissingError(f"{variation} has no complete run: {self._why(variation)}")
        from dsrun.study.groups import Group

        return Group(variation, runs[0].config, tuple(runs))

    def _require(self, variation: str) -> None:
        if variation not in self.variations:
            if self.size == "tiny":
                raise NotHereError(f"toy sizes train some of the variations only, and not {variation}")
            raise NotHereError(f"{variation} is not in the sweep of this size ({self.wording.sweep})")
        if variation in self.sweep.refused:
            raise MissingError(self.sweep.refused[variation])

    def _why(self, variation: str) -> str:
        own = [text for text in self.sweep.left_out if text.startswith(f"{variation}-")]
        return "; ".join([*own, self.why_missing("sweep")])

    def diverged(self, variation: str) -> tuple[Any, ...]:
        """Seeds whose training gave numbers that are not finite."""
        return tuple(run.seed for run in self.sweep.diverged.get(variation, []))

    def rate(self, variation: str) -> "Rate":
        """Character error rate on test, of all seeds together."""
        group = self.group(variation)
        from dsrun.study.statistics import rate_interval

        found = rate_interval(group, "test", "characters")
        if found is None or found.low is None or found.high is None:
            raise MissingError(f"{variation} was not scored on test")
        return found

    def versus(self, variation: str, baseline: str = BASELINE) -> Versus:
        """Character error rate on test less the baseline's, of the seeds that are over on both sides.

        Raises:
            NotHereError, MissingError: as `group`.
        """
        self._require(variation)
        complete = {run.seed for run in self.sweep.complete.get(variation, [])}
        diverged = set(self.diverged(variation))
        if not complete and not diverged:
            self.group(variation)  # says why
        other = {run.seed for run in self.group(baseline).runs}
        seeds = {*complete, *diverged, *other, *self.diverged(baseline), *seeds_of(self.size)}
        lost, common = diverged & other, complete & other
        if not lost and not common:
            raise MissingError(f"{variation} and {baseline} have no seed in common: {self.why_missing('sweep')}")
        found = self.difference(variation, baseline, common) if common else None
        return Versus(variation, baseline, found, in_order(lost), in_order(seeds - lost - common))

    def difference(self, variation: str, baseline: str, seeds: set[Any]) -> "Difference":
        """Of complete runs with these seeds."""
        first, second = (_with_seeds(self.group(name), seeds) for name in (variation, baseline))
        from dsrun.study.statistics import difference, why_not_paired

        found = difference(first, second, "test", "characters")
        if found is None:
            raise MissingError(str(why_not_paired(first, second, "test")))
        return found

    @property
    def commits(self) -> dict[str, list[str]]:
        """Of dsrun, with what was made at each: parts' documents where that was noted, and the sweep's runs."""
        found: dict[str, list[str]] = {}
        for part, facts in self.state.items():
            noted = facts.get("commits")
            for commit in dict.fromkeys(noted.values() if isinstance(noted, dict) else ()):
                found.setdefault(str(commit), []).append(part)
        for commit in dict.fromkeys(str(run.commit) for run in self.runs if run.commit):
            found.setdefault(commit, []).append("trainings")
        return found


def _with_seeds(group: "Group", seeds: set[Any]) -> "Group":
    from dsrun.study.groups import Group

    return Group(group.label, group.config, tuple(run for run in group.runs if run.seed in seeds))


def spread(values: Sequence[float], *, digits: int = 3) -> str:
    """`0.12 to 0.15`, or the one value."""
    low, high = min(values), max(values)
    return (
        f"{low:.{digits}f}" if f"{low:.{digits}f}" == f"{high:.{digits}f}" else f"{low:.{digits}f} to {high:.{digits}f}"
    )
