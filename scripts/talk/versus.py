"""A difference of error rates with what is behind it: the seeds, those that diverged, those that are absent."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.talk.claims import FEWEST_SEEDS, Verdict, as_good, loses

if TYPE_CHECKING:
    from dsrun.study.statistics import Difference


@dataclass(frozen=True)
class Versus:
    """One variation beside another.

    Fields:
        found: over the seeds that are complete on both sides; None if none is.
        lost: seeds that diverged where the baseline's are complete. absent: that one side has and the other does not.
    """

    name: str
    baseline: str
    found: "Difference | None"
    lost: tuple[Any, ...] = ()
    absent: tuple[Any, ...] = ()

    @property
    def is_lost(self) -> bool:
        """Whether every seed that is over diverged, and there are enough of them."""
        return self.found is None and len(self.lost) >= FEWEST_SEEDS

    @property
    def seeds(self) -> int:
        """That an interval is over."""
        return len(self.found.seeds) if self.found else 0

    def as_good(self) -> Verdict:
        """No worse; see claims.py."""
        if self.is_lost:
            return "differs"
        if self.found is None or self.seeds < FEWEST_SEEDS:
            return "cannot tell"
        verdict = as_good(self.found.low, self.found.high)
        return "cannot tell" if self.lost and verdict == "agrees" else verdict

    def loses(self) -> Verdict:
        """Worse; see claims.py."""
        if self.is_lost:
            return "agrees"
        if self.found is None or self.seeds < FEWEST_SEEDS:
            return "cannot tell"
        verdict = loses(self.found.low, self.found.high)
        return "cannot tell" if self.lost and verdict == "differs" else verdict

    @property
    def words(self) -> str:
        """The difference with its interval and what that is over, and what is not in it."""
        texts = []
        if self.found:
            seen = ", no difference seen" if self.found.low <= 0 <= self.found.high else ""
            values = interval(self.found.value, self.found.low, self.found.high, digits=4, signed=True)
            texts.append(f"{values} {self.found.method} ({in_seeds(self.found.seeds)}), p = {self.found.p:.2g}{seen}")
        if self.lost:
            texts.append(f"{in_seeds(self.lost)} diverged, counted as lost")
        if self.absent:
            texts.append(f"{in_seeds(self.absent)} not complete on both sides, left out")
        return f"{self.name} less {self.baseline}: {'; '.join(texts)}"

    @property
    def numbers(self) -> dict[str, Any]:
        """For talk.json."""
        about: dict[str, Any] = {"diverged": list(self.lost), "absent": list(self.absent)}
        if self.found:
            about |= {"difference": self.found.value, "low": self.found.low, "high": self.found.high, "p": self.found.p}
            about |= {"seeds": list(self.found.seeds), "method": self.found.method}
        return about


def interval(value: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """`0.417 [0.389, 0.449]`."""
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def in_order(seeds: Iterable[Any]) -> tuple[Any, ...]:
    """Seeds of any type."""
    return tuple(sorted(seeds, key=seed_order))


def seed_order(seed: Any) -> tuple[bool, Any]:
    """Numbers by value, before whatever a stranger's config says."""
    return not isinstance(seed, int), seed if isinstance(seed, int) else str(seed)


def in_seeds(seeds: Iterable[Any]) -> str:
    """`seed 1`, `seeds 1, 2, 3`."""
    found = list(seeds)
    return f"seed{'' if len(found) == 1 else 's'} {', '.join(map(str, found))}"
