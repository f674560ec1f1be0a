"""One utterance of a manifest through a run's network, drawn.

On the roof beside `scoring.py`: it gathers what `evaluation.posterior_plot` draws.
"""

from pathlib import Path
from typing import Any

from dsrun import build
from dsrun.ctc import greedy_search
from dsrun.data_show import find_utterance, saying_what_no_font_has
from dsrun.evaluation.posterior_plot import draw_posterior
from dsrun.evaluation.posteriors import Heard
from dsrun.evaluation.results import score_utterance
from dsrun.heard import heard
from dsrun.speech import Utterance, encode_all, load_dataset, open_manifest
from dsrun.trained import Trained, explaining_scoring, load_run


def plot_utterance(path: Path, id: str, *, manifest: Path | None, checkpoint: str, output: Path) -> dict[str, Any]:
    """Draw an utterance's spectrogram and class probabilities; returns its texts and errors.

    The best path is drawn, so the hypothesis is greedy search's.

    Raises:
        DataError: no such utterance, or its audio cannot be used.
    """
    trained = load_run(path, checkpoint)
    manifest = manifest or Path(trained.config.data.test or trained.config.data.dev)
    found = _hear(trained, find_utterance(open_manifest(manifest), id))
    with saying_what_no_font_has(output):
        draw_posterior(found.shown(), output)
    scored = score_utterance(found.id, found.reference, found.hypothesis, 0.0).to_json()
    texts = {key: scored[key] for key in ("id", "reference", "hypothesis", "words", "characters")}
    return {"run": str(path), "step": trained.step, "manifest": str(manifest), **texts, "figure": str(output)}


def _hear(trained: Trained, utterance: Utterance) -> Heard:
    config, settings = trained.config, build.build_features(trained.config)
    labels = encode_all({utterance.id: utterance.text}, trained.alphabet, on_unknown="drop").labels
    dataset = load_dataset(
        [utterance],
        labels,
        audio=build.build_audio(config),
        features=settings,
        cache=build.cache_of(config, access="read"),
        normalization=trained.normalization,
    )
    one = config.model_copy(update={"batches": config.batches.model_copy(update={"global_batch": 1})})
    batcher = build.build_batcher(one, dataset, purpose="evaluate")
    batch = batcher.batch(0, 0)
    with explaining_scoring(trained, batcher, "what is drawn"):
        logits, num_frames = trained.evaluator.logits(trained.weights, trained.statistics, batch)
    hypothesis = trained.alphabet.decode(greedy_search(logits, num_frames)[0])
    texts = {"reference": trained.alphabet.normalize(utterance.text), "hypothesis": hypothesis}
    return heard(trained, batch, 0, logits[0], int(num_frames[0]), **texts)
