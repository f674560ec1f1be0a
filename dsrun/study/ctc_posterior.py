"""What a network heard of one utterance: spectrogram, class probabilities, best path, reference.

Drawn from `evaluation/posteriors.npz` (`evaluation.posteriors`), which the final scoring leaves; a run of before there was such a file has
nothing to show until `dsrun eval RUN` has scored it again. Shown is the median utterance by character error rate, of the first run
that has one: of the best every picture looks the same, and the worst is mostly silence or another speaker. The best and the worst
are drawn by `dsrun eval RUN --plot UTTERANCE`, where the data is.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from dsrun.evaluation.error_rate import character_errors
from dsrun.evaluation.posterior_plot import posterior_figure
from dsrun.evaluation.posteriors import BLANK, NAMES, Posteriors, Shown, load_posteriors
from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import group_runs
from dsrun.study.run_record import RunRecord

SURE = 0.9
LONGEST_TEXT = 70  # characters of a text in a caption
SHOWN_FIRST = ("median", "worst", "best")


def ctc_posterior(runs: Sequence[RunRecord]) -> Exhibit | None:
    """The median utterance of the first run that left what it heard; None if none did.

    Raises:
        DataError: the file is damaged.
    """
    found = next(((label, own) for label, run in _labelled(runs) if (own := _posteriors(run))), None)
    if found is None:
        return None
    label, posteriors = found
    name = next(name for name in SHOWN_FIRST if name in posteriors.utterances)
    shown = posteriors.utterances[name]
    answer = _answer(label, name, shown)
    return Exhibit(
        "ctc_posterior",
        "What the network heard",
        " ".join([answer, *_about(name, posteriors)]),
        f"Spectrogram of an utterance, below it the probability of each class in each output frame. {answer}",
        _rows(shown),
        partial(_draw, shown),
    )


def _draw(shown: Shown, width: float) -> Any:
    return posterior_figure(shown, width=width)


def _labelled(runs: Sequence[RunRecord]) -> list[tuple[str, RunRecord]]:
    groups = group_runs(runs)
    return [(group.label, run) for group in groups for run in group.runs]


def _posteriors(run: RunRecord) -> Posteriors | None:
    """What a run left; None where there is no file, or no utterance in it."""
    path = run.run.evaluation / "posteriors.npz"
    found = load_posteriors(path) if path.is_file() else None
    return found if found and found.utterances else None


def _answer(label: str, name: str, shown: Shown) -> str:
    blank = float(np.mean(shown.path == BLANK))
    errors = character_errors(shown.reference, shown.hypothesis)
    read = "nothing" if not shown.hypothesis else f"“{_short(shown.hypothesis)}”"
    wrong = (
        f"all {errors.reference_length} characters right"
        if not errors.errors
        else f"{errors.errors} errors in {errors.reference_length} characters"
    )
    return (
        f"Of its {name} utterance {label} reads {read}, {wrong}; blank is the best class of {blank:.0%} of its "
        f"{len(shown.path)} output frames."
    )


def _about(name: str, posteriors: Posteriors) -> list[str]:
    shown = posteriors.utterances[name]
    best = 10 ** shown.log10_probs.max(axis=1)
    texts = [
        f"Said was “{_short(shown.reference)}”." if shown.reference else "Nothing was said.",
        f"In {np.mean(best > SURE):.0%} of the frames the best class has a probability above {SURE:g}.",
        "Both panels share an axis of seconds; the orange line is the best path, a dot each label that is read from it, and the dashed "
        "line below the probability of the blank.",
        f"Weights of step {posteriors.step}, on {posteriors.split}; the {name} by character error rate.",
    ]
    if len(shown.classes) < max(shown.symbols, default=0) + 1:
        texts.append(f"Of a large alphabet {len(shown.classes)} classes are drawn.")
    left_out = [
        f"the {other} utterance is not kept: {posteriors.left_out[other]}"
        for other in NAMES
        if other in posteriors.left_out
    ]
    return texts + [f"{text[0].upper()}{text[1:]}." for text in left_out]


def _rows(shown: Shown) -> list[dict[str, Any]]:
    """A row an output frame: the path, and the probabilities of its class, the blank and the runner-up."""
    ranked = np.argsort(-shown.log10_probs, axis=1, kind="stable")
    columns = {number: place for place, number in enumerate(shown.classes)}
    rows = []
    for frame, number in enumerate(shown.path.tolist()):
        probs, order = shown.log10_probs[frame], ranked[frame]
        second = int(order[1]) if len(order) > 1 and shown.classes[int(order[0])] == number else int(order[0])
        rows.append(
            {
                "utterance": shown.id,
                "seconds": round(shown.clock.start(frame) + shown.clock.step / 2, 6),
                "best class": _symbol(shown, number),
                "its log10 probability": _rounded(probs, columns.get(number)),
                "log10 probability of blank": _rounded(probs, columns.get(BLANK)),
                "second class": _symbol(shown, shown.classes[second]),
                "log10 probability of the second": _rounded(probs, second),
            }
        )
    return rows


def _symbol(shown: Shown, number: int) -> str:
    return "blank" if number == BLANK else shown.symbols[number]


def _rounded(probs: np.ndarray, place: int | None) -> float | None:
    return None if place is None else round(float(probs[place]), 4)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
