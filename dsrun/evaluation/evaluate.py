"""Evaluation: from batches to hypotheses and their errors.

Greedy (best path) decoding unless a decoder is given (`decoders.py`). The reference is the manifest's text, normalised as the alphabet
does it. What the results add up to is in `results.py`, which needs no JAX.

An utterance's text does not depend on which others share its batch, on buckets or on padding (tested): padded frames reach no valid
one. The shape of a batch may order the sums of a matrix product otherwise, so scores and losses differ in their last bits from
shape to shape; at one shape not at all. A text could turn only where two classes of a frame are that close. Two cases are outside
this: with narrow formats a last bit may become a whole step of the grid, and random roundings draw their bits by the row.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import pass_key
from dsrun.ctc import policy_ctc_loss
from dsrun.evaluation.decoders import Decoder, GreedyDecoder
from dsrun.evaluation.results import Evaluation, score_utterance
from dsrun.model import ModelSettings, apply


class Evaluator:
    """Compiled forward pass and loss for one model and policy; one compilation for each batch shape."""

    def __init__(self, settings: ModelSettings, policy: Policy):
        self._forward = jax.jit(partial(_forward, settings, policy))

    def __call__(
        self,
        weights: Any,
        statistics: Any,
        batches: Iterable[Any],
        *,
        references: Mapping[str, str],
        alphabet: Any,
        decoder: Decoder | None = None,
    ) -> Evaluation:
        """Decode and score every utterance of `batches`.

        Args:
            weights: as the network reads them (storage format).
            statistics: running mean and variance of the normalisations.
            batches: fixed-shape batches; rows with id "" are filler.
            references: normalised text by utterance id; the result is in this order.
            alphabet: turns class ids into text.
            decoder: class scores to texts; greedy if None.
        """
        decoder = decoder or GreedyDecoder(alphabet)
        results = {}
        for batch in batches:
            logits, num_frames, losses = jax.device_get(self._forward(weights, statistics, *_inputs(batch)))
            for row, text in enumerate(decoder(logits, num_frames)):
                id = batch.ids[row]
                if id:
                    results[id] = score_utterance(id, references[id], text, float(losses[row]))
            del logits, num_frames, losses  # on a CPU the device's own arrays: not kept beside the next batch's
        return Evaluation(tuple(results[id] for id in references if id in results))

    def logits(self, weights: Any, statistics: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Class scores [batch, output_frame, class] of one batch, and each row's number of valid output frames."""
        logits, num_frames, _ = jax.device_get(self._forward(weights, statistics, *_inputs(batch)))
        return logits, num_frames

    def planned_bytes(self, weights: Any, statistics: Any, batch: Any) -> int | None:
        """Bytes that one batch takes on the device: itself, results and temporary arrays as XLA plans them; None where it does not say.

        Compiles the forward pass for this shape if it is not yet; whatever evaluates such a batch then finds it compiled.
        """
        inputs = _inputs(batch)
        plan = self._forward.lower(weights, statistics, *inputs).compile().memory_analysis()
        if plan is None:
            return None
        return sum(x.nbytes for x in inputs) + plan.output_size_in_bytes + plan.temp_size_in_bytes

    def decode(
        self, weights: Any, statistics: Any, batch: Any, alphabet: Any, decoder: Decoder | None = None
    ) -> list[str]:
        """Hypotheses of one batch's rows, filler rows as empty strings; greedy if no decoder is given."""
        return (decoder or GreedyDecoder(alphabet))(*self.logits(weights, statistics, batch))


def _inputs(batch: Any) -> tuple[np.ndarray, ...]:
    return batch.features, batch.num_frames, batch.labels, batch.num_labels


def _forward(settings, policy, weights, statistics, features, num_frames, labels, num_labels):
    # Random roundings draw the same bits for every batch: an evaluation is a function of weights and batches.
    key = pass_key(0, jnp.uint32(0), jnp.uint32(0)) if policy.draws_in_network else None
    output = apply(settings, policy, weights, statistics, features, num_frames, mode="evaluate", key=key)
    losses = policy_ctc_loss(policy, output.logits, output.num_frames, labels, num_labels, key=key)
    return output.logits, output.num_frames, losses
