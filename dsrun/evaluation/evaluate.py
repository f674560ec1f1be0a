"""Evaluation: from batches to hypotheses and their errors.

Greedy (best path) decoding unless a decoder is given (`decoders.py`). The reference is the manifest's text, normalised as the alphabet
does it. What the results add up to is in `results.py`, which needs no JAX.

An utterance's text does not depend on which others share its batch, on buckets or on padding (tested): padded frames reach no valid
one. The shape of a batch may order the sums of a matrix product otherwise, so scores and losses differ in their last bits from
shape to shape; at one shape not at all. A text could turn only where two classes of a frame are that close. Two cases are outside
this: with narrow formats a last bit may become a whole step of the grid, and random roundings draw their bits by the row.
"""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from dsrun.evaluation.decoders import Decoder, GreedyDecoder
from dsrun.evaluation.results import Evaluation, score_utterance
from dsrun.evaluation.whole_pass import WholePass


class Evaluator:
    """Compiled forward pass and loss of one network; one compilation for each batch shape.

    `compile_seconds` counts what the compilations of `__call__` took, and `seconds` what recognising did without them: network and
    decoder, neither reading nor counting errors.
    """

    def __init__(self, network: WholePass):
        self._forward = jax.jit(partial(_forward, network))
        self._known: set[tuple[Any, ...]] = set()  # shapes that are compiled
        self.compile_seconds = self.seconds = 0.0

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
            inputs = _inputs(batch)
            self._compile(weights, statistics, inputs)
            started = time.monotonic()
            logits, num_frames, losses = jax.device_get(self._forward(weights, statistics, *inputs))
            texts = decoder(logits, num_frames)
            self.seconds += time.monotonic() - started
            for row, text in enumerate(texts):
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
        plan = self._program(weights, statistics, inputs).memory_analysis()
        if plan is None:
            return None
        return sum(x.nbytes for x in inputs) + plan.output_size_in_bytes + plan.temp_size_in_bytes

    def _compile(self, weights: Any, statistics: Any, inputs: tuple[np.ndarray, ...]) -> None:
        """Compile for this shape, if it is not yet, so that the time of it can be told apart."""
        if tuple(x.shape for x in inputs) not in self._known:
            started = time.monotonic()
            self._program(weights, statistics, inputs)
            self.compile_seconds += time.monotonic() - started

    def _program(self, weights: Any, statistics: Any, inputs: tuple[np.ndarray, ...]) -> Any:
        program = self._forward.lower(weights, statistics, *inputs).compile()
        self._known.add(tuple(x.shape for x in inputs))
        return program

    def decode(
        self, weights: Any, statistics: Any, batch: Any, alphabet: Any, decoder: Decoder | None = None
    ) -> list[str]:
        """Hypotheses of one batch's rows, filler rows as empty strings; greedy if no decoder is given."""
        return (decoder or GreedyDecoder(alphabet))(*self.logits(weights, statistics, batch))


def _inputs(batch: Any) -> tuple[np.ndarray, ...]:
    return batch.features, batch.num_frames, batch.labels, batch.num_labels


def _forward(network, weights, statistics, features, num_frames, labels, num_labels):
    logits, output_frames = network.scores(weights, statistics, features, num_frames)
    return logits, output_frames, network.loss(logits, output_frames, labels, num_labels)
