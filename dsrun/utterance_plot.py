"""One utterance of a manifest through a network, drawn.

On the roof beside `scoring.py`: it gathers what `evaluation.posterior_plot` draws.
"""

from pathlib import Path
from typing import Any

from dsrun.ctc import greedy_search
from dsrun.data_show import find_utterance, saying_what_no_font_has
from dsrun.evaluation.posterior_plot import draw_posterior
from dsrun.evaluation.posteriors import Heard
from dsrun.evaluation.results import score_utterance
from dsrun.heard import heard
from dsrun.models import Model, explaining_scoring, load_model
from dsrun.speech import Utterance, encode_all, load_dataset, open_manifest


def plot_utterance(
    path: Path, id: str, *, manifest: Path | None, checkpoint: str | None, output: Path
) -> dict[str, Any]:
    """Draw an utterance's spectrogram and class probabilities; returns its texts and errors.

    The best path is drawn, so the hypothesis is greedy search's.

    Raises:
        DataError: no such utterance, or its audio cannot be used.
    """
    model = load_model(path, checkpoint)
    manifest = manifest or model.manifest_of("test", "dev")
    found = _hear(model, find_utterance(open_manifest(manifest), id))
    with saying_what_no_font_has(output):
        draw_posterior(found.shown(), output)
    scored = score_utterance(found.id, found.reference, found.hypothesis, 0.0).to_json()
    texts = {key: scored[key] for key in ("id", "reference", "hypothesis", "words", "characters")}
    return {**model.origin, "manifest": str(manifest), **texts, "figure": str(output)}


def _hear(model: Model, utterance: Utterance) -> Heard:
    labels = encode_all({utterance.id: utterance.text}, model.alphabet, on_unknown="drop").labels
    dataset = load_dataset(
        [utterance],
        labels,
        audio=model.audio,
        features=model.features,
        cache=model.cache,
        normalization=model.normalization,
    )
    batcher = model.batcher(dataset, 1)
    batch = batcher.batch(0, 0)
    with explaining_scoring(model, batcher, "what is drawn"):
        logits, num_frames = model.evaluator.logits(model.weights, model.statistics, batch)
    hypothesis = model.alphabet.decode(greedy_search(logits, num_frames)[0])
    texts = {"reference": model.alphabet.normalize(utterance.text), "hypothesis": hypothesis}
    return heard(model, batch, 0, logits[0], int(num_frames[0]), **texts)
