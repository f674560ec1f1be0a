"""What a network hears of an utterance, for a picture: features, class scores, and when their frames are.

On the roof beside `scoring.py`, whose best, median and worst utterance it leaves in `evaluation/posteriors.npz`, so that a report can
draw them where there is neither audio nor JAX. The forward pass is the one that scored, in the same batches.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dsrun import build
from dsrun.evaluation.posteriors import Heard, posteriors_bytes
from dsrun.evaluation.results import Evaluation
from dsrun.models import Model
from dsrun.record.durable import write_atomically
from dsrun.speech import Batch, Batcher, FeatureSettings

POSTERIORS = "posteriors.npz"


def heard(
    model: Model, batch: Batch, row: int, logits: np.ndarray, num_frames: int, *, reference: str, hypothesis: str
) -> Heard:
    """The utterance in a row of a batch, from its row of class scores."""
    settings = model.features
    return Heard(
        id=batch.ids[row],
        reference=reference,
        hypothesis=hypothesis,
        features=batch.features[row, : batch.num_frames[row]],
        first_frame=settings.centre_seconds(0.0),
        hop=settings.hop / settings.sample_rate,
        highest=_highest(settings),
        logits=logits[:num_frames],
        clock=build.build_clock(settings, model.settings),
        symbols=model.alphabet.symbols,
        wanted=batch.labels[row, : batch.num_labels[row]].tolist(),
    )


def write_posteriors(model: Model, batcher: Batcher, result: Evaluation, split: str) -> Path:
    """Leave what was heard of the best, the median and the worst utterance of a scoring.

    Args:
        batcher: the scoring's, so that every shape is compiled and every bit the same.

    Raises:
        CannotWriteError: the folder takes no more.
    """
    examples = result.examples()
    wanted = {u.id for u in examples.values()}
    found: dict[str, Heard] = {}
    texts = {u.id: {"reference": u.reference, "hypothesis": u.hypothesis} for u in examples.values()}
    for index in range(batcher.batches_per_epoch):
        if wanted.isdisjoint(batcher.dataset.ids[member] for member in batcher.members(0, index)):
            continue
        batch = batcher.batch(0, index)
        logits, num_frames = model.evaluator.logits(model.weights, model.statistics, batch)
        for row, id in enumerate(batch.ids):
            if id in wanted:
                # A copy: on a CPU these are the device's own arrays.
                own = np.array(logits[row])
                found[id] = heard(model, batch, row, own, int(num_frames[row]), **texts[id])
        del logits, num_frames
    path = model.evaluation / POSTERIORS
    by_name: dict[str, Any] = {name: found[u.id] for name, u in examples.items()}
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, posteriors_bytes(model.step, split, by_name))
    return path


def _highest(settings: FeatureSettings) -> tuple[float, str]:
    if settings.kind == "log_spectrogram":
        return settings.sample_rate / 2000, "kHz"
    return float(settings.num_bins), "mel filter"
