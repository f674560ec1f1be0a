"""A batch for CTC, made from a seed, and its loss and gradient in float64: what the benchmarks of accuracy and of speed share."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.reference.ctc import forward_backward


class Problem(NamedTuple):
    """Logits [batch, output_frame, class], the rest as `dsrun.ctc.ctc_loss` takes it."""

    logits: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    num_labels: np.ndarray

    def save(self, path: Path) -> None:
        """For another process to `load`."""
        np.savez(path, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> "Problem":
        """What `save` left."""
        with np.load(path) as arrays:
            return cls(*(arrays[name] for name in cls._fields))


def random_problem(
    *, utterances: int, frames: int, labels: int, classes: int, deviation: float, confidence: float, seed: int
) -> Problem:
    """Labels of labels/2 to labels, the first of the full length; all frames valid."""
    rng = np.random.default_rng(seed)
    num_labels = rng.integers(labels // 2, labels + 1, utterances).astype(np.int32)
    num_labels[0] = labels
    logits = (rng.standard_normal((utterances, frames, classes)) * deviation).astype(np.float32)
    ids = rng.integers(1, classes, (utterances, labels)).astype(np.int32)
    for row, (own, count) in enumerate(zip(ids, num_labels, strict=True)):
        path = np.zeros(frames, np.int32)
        path[((np.arange(count) + 0.5) * frames / count).astype(np.int32)] = own[:count]
        logits[row, np.arange(frames), path] += np.float32(confidence)
    return Problem(logits, np.full(utterances, frames, np.int32), ids, num_labels)


def exact(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Loss [batch] and gradient with respect to the logits in float64."""
    rows = zip(problem.logits, problem.num_frames, problem.labels, problem.num_labels, strict=True)
    pairs = [forward_backward(logits[:frames], labels[:count].tolist()) for logits, frames, labels, count in rows]
    return np.array([loss for loss, _ in pairs]), np.stack([gradient for _, gradient in pairs])


def loss_and_gradient(loss_of: Callable[..., jax.Array], logits, num_frames, labels, num_labels):
    """Of a loss function with `ctc_loss`'s arguments."""
    loss, pull = jax.vjp(lambda x: loss_of(x, num_frames, labels, num_labels), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def optax_loss_and_gradient(logits, num_frames, labels, num_labels):
    """Of optax's, whose lengths are masks."""
    frame_padding = (jnp.arange(logits.shape[1])[None, :] >= num_frames[:, None]).astype(jnp.float32)
    label_padding = (jnp.arange(labels.shape[1])[None, :] >= num_labels[:, None]).astype(jnp.float32)
    loss, pull = jax.vjp(lambda x: optax.ctc_loss(x, frame_padding, labels, label_padding), logits)
    return loss, pull(jnp.ones_like(loss))[0]
