"""Utterances that CTC cannot align, found before training.

A path through the frames emits one class each, and between two equal neighbours of a label a blank must stand. So an utterance
needs as many output frames as it has labels, plus one for each pair of equal neighbours. One that has fewer gives an
infinite loss and no gradient; whoever trains on it silently loses it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsrun.ctc import frames_needed


@dataclass(frozen=True)
class Infeasible:
    """One utterance whose label does not fit into its output frames."""

    id: str
    labels: int
    needed: int
    frames: int
    output_frames: int

    def __str__(self) -> str:
        repeats = self.needed - self.labels
        return (
            f"utterance {self.id!r}: {self.labels} labels, {repeats} of them repeats, need {self.needed} output frames; "
            f"the front end gives {self.output_frames} ({self.frames} frames). "
            "Lower the time stride or drop the utterance (data.infeasible: drop)."
        )


def find_infeasible(
    ids: Sequence[str],
    frames: Sequence[int],
    labels: Sequence[Sequence[int]],
    *,
    output_frames: Callable[[int], int],
) -> list[Infeasible]:
    """The utterances that have no valid alignment.

    Args:
        ids, frames, labels: one entry an utterance; `frames` the fewest that any speed perturbation leaves.
        output_frames: frames after the front end, as a function of frames before it.
    """
    found = []
    for id, count, label in zip(ids, frames, labels, strict=True):
        needed, available = frames_needed(label), int(output_frames(count))
        if needed > available:
            found.append(Infeasible(id, len(label), needed, count, available))
    return found
