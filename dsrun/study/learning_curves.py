"""Learning curves: train loss and dev CER of every setting, against steps and against time.

The thin line is the train loss, its mean over each epoch (weighted by utterances), since the loss of one step says more of the
lengths of its utterances than of the network. The bold line is the character error rate on dev, with a marker at every evaluation.
Of several seeds the line is their mean and the band goes from the lowest to the highest; seeds that did not record the same steps
(one diverged, one is not done) are drawn each for itself, since a mean whose seeds come and go is no curve.

Time is the time of the training steps on the machine that they ran on, compilation included and evaluations not. Where formats are
emulated it says what that costs there, and nothing of hardware that has the format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import Group, group_runs
from dsrun.study.learning_curves_figure import Curves, Line, draw_curves
from dsrun.study.number_words import on_seeds
from dsrun.study.outcomes import outcome
from dsrun.study.run_record import RunRecord
from dsrun.study.styles import Style, distinct_styles

FEWEST_EPOCHS = 8  # of fewer, a point each would be no curve
POINTS = 60  # of such a run's curve


@dataclass(frozen=True)
class Points:
    """A curve of one run: steps, seconds of training up to there, and values."""

    step: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


def learning_curves(runs: Sequence[RunRecord]) -> Exhibit | None:
    """Train loss and dev CER of every setting; None where no run recorded a step."""
    everything = group_runs(runs)
    styles = dict(zip(map(id, everything), distinct_styles([group.config for group in everything]), strict=True))
    groups = [group for group in everything if any(len(run.steps) for run in group.runs)]
    if not groups:
        return None
    curves = [_curves(group, styles[id(group)]) for group in groups]
    caption = " ".join([_answer(groups), *_about(groups)])
    return Exhibit(
        "learning_curves",
        "Learning curves",
        caption,
        f"Dev character error rate and train loss against steps and against time. {_answer(groups)}",
        [
            row
            for group, own in zip(groups, curves, strict=True)
            for row in [*(row for run in group.runs for row in _rows(group, run)), *_band_rows(own)]
        ],
        lambda width: draw_curves(curves, width),
    )


def losses(run: RunRecord) -> Points:
    """Train loss, the mean over each epoch; of a run of few epochs at more places, over as many steps as an epoch has before each."""
    steps = run.steps
    epochs = np.unique(steps.epoch[np.isfinite(steps.epoch)])
    if len(epochs) >= FEWEST_EPOCHS:
        pieces = [np.flatnonzero(steps.epoch == epoch) for epoch in epochs]
    else:
        window = steps_averaged(run)
        ends = np.unique(np.linspace(window, max(len(steps), window), POINTS).round().astype(int))
        pieces = [np.arange(end - window, end) for end in ends if end <= len(steps)]
    last = np.array([piece[-1] for piece in pieces], int)
    return Points(steps.step[last], run.elapsed[last], np.array([_mean_loss(run, piece) for piece in pieces]))


def steps_averaged(run: RunRecord) -> int:
    """Steps that a point of the train loss is the mean of, in a run of few epochs: an epoch, of a single one a twentieth."""
    epoch = run.steps.epoch
    first = int((epoch == epoch[0]).sum()) if len(epoch) and np.isfinite(epoch[0]) else len(epoch)
    return first if 0 < first <= len(epoch) / 2 else max(len(epoch) // 20, 1)


def _mean_loss(run: RunRecord, piece: np.ndarray) -> float:
    loss, weights = run.steps.loss[piece], run.steps.utterances[piece]
    weights = np.where(np.isfinite(weights), weights, 1.0)
    known = np.isfinite(loss)
    return float(np.average(loss[known], weights=weights[known])) if weights[known].sum() else float("nan")


def dev_rates(run: RunRecord) -> Points:
    """Dev CER at every evaluation."""
    steps = np.array([event["step"] for event in run.evaluations], float)
    elapsed = np.interp(steps, run.steps.step, run.elapsed) if len(run.steps) else np.full(len(steps), np.nan)
    return Points(steps, elapsed, np.array([event["cer"] for event in run.evaluations], float))


def _curves(group: Group, style: Style) -> Curves:
    runs = [run for run in group.runs if len(run.steps)]
    kinds = {outcome(run).kind for run in runs}
    ended = f" ({kinds.pop()})" if len(kinds) == 1 and "complete" not in kinds else ""
    cut = [outcome(run).kind != "complete" for run in runs]
    loss, cer = ([curve(run) for run in runs] for curve in (losses, dev_rates))
    return Curves(group.label, group.label + ended, style, _lines(loss, cut), _lines(cer, cut))


def _lines(seeds: Sequence[Points], cut: Sequence[bool]) -> list[Line]:
    if len(seeds) > 1 and not any(cut) and all(np.array_equal(seed.step, seeds[0].step) for seed in seeds):
        values = np.array([seed.value for seed in seeds])
        seconds = np.mean([seed.seconds for seed in seeds], axis=0)
        return [Line(seeds[0].step, seconds, values.mean(axis=0), values.min(axis=0), values.max(axis=0))]
    return [Line(seed.step, seed.seconds, seed.value, is_cut=c) for seed, c in zip(seeds, cut, strict=True)]


def _rows(group: Group, run: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "setting": group.label,
            "run": run.name,
            "seed": run.seed,
            "curve": name,
            "step": int(step),
            "seconds": float(seconds),
            "value": _known(value),
        }
        for name, points in (("train loss", losses(run)), ("dev CER", dev_rates(run)))
        for step, seconds, value in zip(points.step, points.seconds, points.value, strict=True)
    ]


def _band_rows(curves: Curves) -> list[dict[str, Any]]:
    """What is drawn of several seeds together: their mean, the lowest and the highest."""
    about = {"setting": curves.setting, "run": None}
    return [
        about | {"seed": name, "curve": curve, "step": int(step), "seconds": float(seconds), "value": _known(value)}
        for curve, lines in (("train loss", curves.loss), ("dev CER", curves.cer))
        for line in lines
        if line.low is not None and line.high is not None
        for name, values in (("mean", line.value), ("lowest", line.low), ("highest", line.high))
        for step, seconds, value in zip(line.step, line.seconds, values, strict=True)
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _answer(groups: Sequence[Group]) -> str:
    """The first sentence: how far each setting came."""
    best = [(group, [run.best["cer"] for run in group.runs if run.best]) for group in groups]
    known = sorted(((float(np.mean(rates)), group.label) for group, rates in best if rates), key=lambda found: found[0])
    if not known:
        return "No evaluation on dev was made yet, so there is only the train loss."
    if len(groups) == 1:
        return _one_setting(groups[0])
    mean = ", mean over seeds," if any(len(group.runs) > 1 for group in groups) else ""
    (low, first), (high, last) = known[0], known[-1]
    return (
        f"The lowest dev CER that a setting reached{mean} goes from {low:.3f} ({first}) to {high:.3f} ({last}); whether that is more "
        "than chance is told with the intervals under Error rates."
    )


def _one_setting(group: Group) -> str:
    texts = []
    for run in group.runs:
        if not run.best:
            continue
        first = run.evaluations[0]
        seed = f" with seed {run.seed}" if len(group.runs) > 1 else ""
        end = f"{run.best['cer']:.3f} at step {run.best['step']}"
        if len(run.evaluations) == 1:
            texts.append(f"was {end}, the only evaluation{seed}")
        elif run.best is first:
            texts.append(f"was lowest in the first of {len(run.evaluations)} evaluations, {end}{seed}")
        else:
            texts.append(f"went from {first['cer']:.3f} at step {first['step']} to {end}{seed}")
    return f"Dev CER {'; '.join(texts)}."


def _about(groups: Sequence[Group]) -> list[str]:
    runs = [run for group in groups for run in group.runs]
    texts = []
    if ended := [f"{run.name} {outcome(run).text}" for run in runs if outcome(run).kind != "complete"]:
        texts.append(f"Not complete: {'; '.join(ended)}.")
    is_by_epoch = all(len(np.unique(run.steps.epoch)) > 1 for run in runs if len(run.steps))
    each = "an epoch" if is_by_epoch else "an epoch, or a twentieth of a run of one"
    texts.append(f"Bold: CER on dev, a marker an evaluation. Thin: train loss in nats an utterance, mean over {each}.")
    texts += on_seeds(
        [len(group.runs) for group in groups],
        several="Line: mean over the seeds; band, of a single evaluation a bar: from the lowest of them to the highest.",
        one="Where there is no band there is one seed, and others may differ.",
    )
    texts.append("Time: the training steps on the machine of each run, without evaluations.")
    if any(run.steps_without_record for run in runs):
        texts.append(
            "Where not every step was recorded, the loss is the mean of those that were, and the others count as long as the median."
        )
    return texts
