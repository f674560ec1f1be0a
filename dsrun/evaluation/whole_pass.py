"""The whole pass: features of whole utterances to class scores, whoever's network it is.

A checkpoint of a run computes in the arithmetic that it was trained in (`trained_pass`), an exported model in that of its products
(`deploy.network`, joined on the roof). What evaluates and transcribes is given either as two functions and does not know which.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import pass_key
from dsrun.ctc import policy_ctc_loss
from dsrun.model import ModelSettings, apply

Scores = tuple[Float32[Array, "batch output_frame class"], Int32[Array, " batch"]]


@dataclass(frozen=True)
class WholePass:
    """Two functions to be compiled together or alone.

    Fields:
        scores: (weights, statistics, features, num_frames) to class scores and each row's number of output frames. Weights are as the
            network reads them; statistics are of the normalisations, {} where they are folded into the weights.
        loss: (scores, output frames, labels, num_labels) to nats, one number a row.
    """

    scores: Callable[[Any, Any, Any, Any], Scores]
    loss: Callable[[Any, Any, Any, Any], Float32[Array, " batch"]]


def trained_pass(settings: ModelSettings, policy: Policy) -> WholePass:
    """Of a network in the arithmetic that it was trained in."""

    def key() -> Any:
        # Random roundings draw the same bits for every batch: an evaluation is a function of weights and batches.
        return pass_key(0, jnp.uint32(0), jnp.uint32(0)) if policy.draws_in_network else None

    def scores(weights: Any, statistics: Any, features: Any, num_frames: Any) -> Scores:
        output = apply(settings, policy, weights, statistics, features, num_frames, mode="evaluate", key=key())
        return output.logits, output.num_frames

    def loss(logits: Any, output_frames: Any, labels: Any, num_labels: Any) -> Any:
        return policy_ctc_loss(policy, logits, output_frames, labels, num_labels, key=key())

    return WholePass(scores, loss)
