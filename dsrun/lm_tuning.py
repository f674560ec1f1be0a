"""Tuning: the language model's weight and the word bonus that make the fewest errors on the dev set.

On the roof. The network runs once; its class scores are decoded once for each point: a grid, further points while the errors fall
beyond its border, then twice the eight neighbours of the best point at half the step. Fewest word errors win (character errors for an
alphabet without a space), then fewest of the other kind, then the smaller weight and the smaller bonus: the same scores give the same
answer. A best point on the edge of what was tried is said to be there: beyond it may be better ones. Weights of 0 are among the
points, so the table says what the language model is worth beside a bonus alone.

The test set has no part in it: weights that were chosen on it are part of what it measures.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.ctc import log_softmax
from dsrun.decoding import BEAM_WIDTH, NO_LEXICON, choose_backend, make_search
from dsrun.decoding_options import DecodingOptions
from dsrun.errors import UsageError
from dsrun.evaluation.decoders import Search
from dsrun.evaluation.error_rate import ErrorCount, character_errors, total_errors, word_errors
from dsrun.models import Model, explaining_scoring, load_model
from dsrun.record import write_atomically
from dsrun.speech import count_recordings_in, file_digest, read_manifest
from dsrun.tuned import TUNED, Tuned

LM_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)
WORD_BONUSES = (0.0, 1.0, 2.0, 3.0, 4.0)
MOST_FURTHER = 8  # steps beyond the grid's border
REFINEMENTS = 2  # each halves the grid's steps


@dataclass(frozen=True)
class Point:
    """Weights, and the errors that decoding with them makes."""

    lm_weight: float
    word_bonus: float
    words: ErrorCount
    characters: ErrorCount


@dataclass(frozen=True)
class Scores:
    """One utterance's reference and class scores [output_frame, class]."""

    reference: str
    logits: np.ndarray


def tune_lm(
    path: Path,
    options: DecodingOptions,
    *,
    manifest: Path | None,
    checkpoint: str | None,
    batch: int | None,
    allow_test: bool,
) -> dict[str, Any]:
    """Find the best weights on a manifest (default the config's dev set), write RUN/evaluation/lm.json, and report every point.

    Raises:
        UsageError: no language model, weights that are to be found, or the run's test set without `allow_test`.
    """
    if options.lexicon == NO_LEXICON:
        options = replace(options, lexicon=None)
    if options.lm is None:
        raise UsageError("--tune-lm tunes a language model's weight: add --lm FILE.arpa (`dsrun lm train` makes one).")
    if options.lm_weight is not None or options.word_bonus is not None:
        raise UsageError("--tune-lm finds --lm-weight and --word-bonus: leave them out.")
    # Files are read before the network runs, which takes longer.
    model = load_model(path, checkpoint)
    manifest = manifest or model.manifest_of("dev")
    if not allow_test:
        _refuse_the_test_set(model, manifest)
    search = make_search(options, alphabet=model.alphabet, lm_weight=1.0, word_bonus=0.0)
    scores = class_scores(model, manifest, batch=batch)
    by_words = " " in model.alphabet.symbols
    points = search_points(search, scores, by_words=by_words)
    best = points[0]
    tuned = Tuned(
        lm=str(options.lm.resolve()),
        lm_sha256=file_digest(options.lm),
        lexicon=None if options.lexicon is None else str(options.lexicon.resolve()),
        lexicon_sha256=None if options.lexicon is None else file_digest(options.lexicon),
        beam_width=options.beam_width or BEAM_WIDTH,
        beam_backend=choose_backend(options),
        lm_weight=best.lm_weight,
        word_bonus=best.word_bonus,
        manifest=str(manifest.resolve()),
        manifest_sha256=file_digest(manifest),
        step=model.step,
    )
    report = {
        **model.origin,
        "manifest": str(manifest),
        "manifest_sha256": tuned.manifest_sha256,
        "utterances": len(scores),
        "objective": "wer" if by_words else "cer",
        "best": asdict(tuned),
        "is_on_edge": is_on_edge(points),
        "points": [
            {
                "lm_weight": point.lm_weight,
                "word_bonus": point.word_bonus,
                "wer": _finite(point.words.rate),
                "cer": _finite(point.characters.rate),
                "words": point.words.to_json(),
                "characters": point.characters.to_json(),
            }
            for point in points
        ],
    }
    model.evaluation.mkdir(exist_ok=True)
    write_atomically(model.evaluation / TUNED, json.dumps(report, indent=2, allow_nan=False) + "\n")
    return report | {"written": str(model.evaluation / TUNED)}


def class_scores(model: Model, manifest: Path, *, batch: int | None) -> list[Scores]:
    """What the network makes of every utterance of a manifest, in the manifest's order."""
    dataset, references, _ = model.read(manifest)
    found = {}
    batcher = model.batcher(dataset, batch or model.rows)
    with explaining_scoring(model, batcher, str(manifest)):
        for one in batcher.epoch(0):
            logits, num_frames = model.evaluator.logits(model.weights, model.statistics, one)
            for row, id in enumerate(one.ids):
                if id:
                    found[id] = Scores(references[id], logits[row, : num_frames[row]].copy())
    return [found[id] for id in references if id in found]


def search_points(search: Search, scores: list[Scores], *, by_words: bool) -> list[Point]:
    """Every point that was tried, best first."""
    points: dict[tuple[float, float], Point] = {}

    def errors(point: Point) -> tuple[int, int]:
        words, characters = point.words.errors, point.characters.errors
        return (words, characters) if by_words else (characters, words)

    def order(point: Point) -> tuple[float, ...]:
        return (*errors(point), point.lm_weight, point.word_bonus)

    def further(best: Point) -> list[tuple[float, float]]:
        """Beyond the border next to the best, where errors fall towards it: where all are equal nothing is to be found there."""
        found = []
        for of_lm, of_words in ((steps[0], 0.0), (0.0, steps[1]), (0.0, -steps[1])):
            inside = points.get((best.lm_weight - of_lm, best.word_bonus - of_words))
            beyond = best.lm_weight + of_lm, best.word_bonus + of_words
            if beyond not in points and inside and errors(inside) > errors(best):
                aside = (0.0, steps[1]) if of_lm else (steps[0], 0.0)
                found += [(beyond[0] + k * aside[0], beyond[1] + k * aside[1]) for k in (-1, 0, 1)]
        return found

    def try_all(candidates: Iterable[tuple[float, float]]) -> Point:
        for lm_weight, word_bonus in candidates:
            if lm_weight >= 0 and (lm_weight, word_bonus) not in points:
                point = _decode(search.with_weights(lm_weight, word_bonus), scores, lm_weight, word_bonus)
                points[lm_weight, word_bonus] = point
                print(
                    f"--lm-weight {lm_weight:g} --word-bonus {word_bonus:g}  WER {point.words.rate:.4f}  CER {point.characters.rate:.4f}",
                    file=sys.stderr,
                )
        return min(points.values(), key=order)

    best = try_all(itertools.product(LM_WEIGHTS, WORD_BONUSES))
    steps = LM_WEIGHTS[1] - LM_WEIGHTS[0], WORD_BONUSES[1] - WORD_BONUSES[0]
    for _ in range(MOST_FURTHER):
        best = try_all(further(best))
    for _ in range(REFINEMENTS):
        steps = steps[0] / 2, steps[1] / 2
        moves = itertools.product((-steps[0], 0.0, steps[0]), (-steps[1], 0.0, steps[1]))
        best = try_all([(best.lm_weight + of_lm, best.word_bonus + of_words) for of_lm, of_words in moves])
    return sorted(points.values(), key=order)


def is_on_edge(points: list[Point]) -> bool:
    """Whether the best point, the first, has the largest weight, or the largest or smallest bonus, that was tried."""
    bonuses = [point.word_bonus for point in points]
    best = points[0]
    return best.lm_weight == max(point.lm_weight for point in points) or best.word_bonus in (min(bonuses), max(bonuses))


def _decode(search: Search, scores: list[Scores], lm_weight: float, word_bonus: float) -> Point:
    words, characters = [], []
    for one in scores:
        text = search(log_softmax(one.logits))[0].text
        words.append(word_errors(one.reference, text))
        characters.append(character_errors(one.reference, text))
    return Point(lm_weight, word_bonus, total_errors(words), total_errors(characters))


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None


def _refuse_the_test_set(model: Model, manifest: Path) -> None:
    test = model.manifests.get("test")
    if test is None or not (Path(test).is_file() or manifest.resolve() == Path(test).resolve()):
        return
    count = count_recordings_in(read_manifest(manifest), read_manifest(test))
    if count:
        raise UsageError(
            f"{manifest}: {count} of its recordings are in the run's test set, {test}. Weights chosen on them make its error rates too "
            "good to be true; tune on the dev set (the default), or insist with --allow-test."
        )
