"""Evaluation: hypotheses, error rates with intervals, and where the errors are.

Greedy (best path) decoding. Rates are of the corpus: all errors divided by all reference words (or characters), never a mean
of utterances' rates, never clamped: a model that inserts freely scores above 1. The reference is the manifest's text,
normalised as the alphabet does it. The empty-reference rule is `error_rate`'s.

Intervals are percentile bootstrap over utterances (Bisani & Ney 2004), seeded, so the same hypotheses give the same interval.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import pass_key
from dsrun.ctc import greedy_search, policy_ctc_loss
from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval, character_errors, total_errors, word_errors
from dsrun.model import ModelSettings, apply

BOOTSTRAP_SEED = 1


@dataclass(frozen=True)
class UtteranceResult:
    """One utterance's reference, hypothesis, loss in nats, and errors."""

    id: str
    reference: str
    hypothesis: str
    loss: float
    words: ErrorCount
    characters: ErrorCount

    def to_json(self) -> dict[str, Any]:
        """The line that `evaluation/<manifest>.jsonl` gets."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "loss": self.loss if np.isfinite(self.loss) else None,
            "words": _count_json(self.words),
            "characters": _count_json(self.characters),
        }


@dataclass(frozen=True)
class Evaluation:
    """Results over a manifest, utterances in the manifest's order."""

    utterances: tuple[UtteranceResult, ...]

    @cached_property
    def words(self) -> ErrorCount:
        """Word errors of the whole corpus."""
        return total_errors([u.words for u in self.utterances])

    @cached_property
    def characters(self) -> ErrorCount:
        """Character errors of the whole corpus, spaces counted as characters."""
        return total_errors([u.characters for u in self.utterances])

    @property
    def loss(self) -> float:
        """Mean over utterances of -log p(reference), nats; infinite if one cannot be aligned."""
        return float(np.mean([u.loss for u in self.utterances])) if self.utterances else 0.0

    def summary(self, *, intervals: bool = True) -> dict[str, Any]:
        """Rates, counts and, where asked, 95% intervals, ready for JSON."""
        summary: dict[str, Any] = {
            "utterances": len(self.utterances),
            "loss": self.loss if np.isfinite(self.loss) else None,
            "cer": self.characters.rate,
            "wer": self.words.rate,
            "characters": _count_json(self.characters),
            "words": _count_json(self.words),
        }
        if intervals:
            for name, counts in (("cer", "characters"), ("wer", "words")):
                per_utterance = [getattr(u, counts) for u in self.utterances]
                summary[f"{name}_interval"] = list(bootstrap_interval(per_utterance, seed=BOOTSTRAP_SEED))
        return summary

    def examples(self) -> dict[str, UtteranceResult]:
        """Best, median and worst utterance by character error rate, ties broken by id."""
        ranked = sorted(self.utterances, key=lambda u: (u.characters.rate, u.id))
        return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]} if ranked else {}


class Evaluator:
    """Compiled forward pass and loss for one model and policy; one compilation for each batch shape."""

    def __init__(self, settings: ModelSettings, policy: Policy):
        self._forward = jax.jit(partial(_forward, settings, policy))

    def __call__(
        self, weights: Any, statistics: Any, batches: Iterable[Any], *, references: Mapping[str, str], alphabet: Any
    ) -> Evaluation:
        """Decode and score every utterance of `batches`.

        Args:
            weights: as the network reads them (storage format).
            statistics: running mean and variance of the normalisations.
            batches: fixed-shape batches; rows with id "" are filler.
            references: normalised text by utterance id; the result is in this order.
            alphabet: turns class ids into text.
        """
        results = {}
        for batch in batches:
            inputs = (batch.features, batch.num_frames, batch.labels, batch.num_labels)
            logits, num_frames, losses = jax.device_get(self._forward(weights, statistics, *inputs))
            for row, labels in enumerate(greedy_search(logits, num_frames)):
                id = batch.ids[row]
                if id:
                    results[id] = _score(id, references[id], alphabet.decode(labels), float(losses[row]))
        return Evaluation(tuple(results[id] for id in references if id in results))

    def decode(self, weights: Any, statistics: Any, batch: Any, alphabet: Any) -> list[str]:
        """Hypotheses of one batch's rows, filler rows as empty strings."""
        inputs = (batch.features, batch.num_frames, batch.labels, batch.num_labels)
        logits, num_frames, _ = jax.device_get(self._forward(weights, statistics, *inputs))
        return [alphabet.decode(labels) for labels in greedy_search(logits, num_frames)]


def _forward(settings, policy, weights, statistics, features, num_frames, labels, num_labels):
    # Random roundings draw the same bits for every batch: an evaluation is a function of weights and batches.
    key = pass_key(0, jnp.uint32(0), jnp.uint32(0)) if policy.draws_in_network else None
    output = apply(settings, policy, weights, statistics, features, num_frames, mode="evaluate", key=key)
    losses = policy_ctc_loss(policy, output.logits, output.num_frames, labels, num_labels, key=key)
    return output.logits, output.num_frames, losses


def _score(id: str, reference: str, hypothesis: str, loss: float) -> UtteranceResult:
    words, characters = word_errors(reference, hypothesis), character_errors(reference, hypothesis)
    return UtteranceResult(id, reference, hypothesis, loss, words, characters)


def _count_json(count: ErrorCount) -> dict[str, int]:
    return {
        "errors": count.errors,
        "substitutions": count.substitutions,
        "deletions": count.deletions,
        "insertions": count.insertions,
        "reference_length": count.reference_length,
    }
