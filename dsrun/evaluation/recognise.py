"""Recogniser: features of clips to class scores, without references, in few compiled shapes.

A clip's scores must not depend on what else is recognised with it, and a product of another shape may be summed in another order. So
the shape that a clip is padded to is decided by its own length alone: a batch always has the same number of rows (empty ones
where clips are few), and its frames are one of a ladder of lengths, each half of the one above. A clip wastes half of its rung at
most, and there are at most `RUNGS` compilations. (A policy that draws random bits inside the network draws them by place in the batch:
there the row matters all the same.)
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.evaluation.whole_pass import WholePass
from dsrun.model import ModelSettings, output_frames

RUNGS = 4


def ladder(longest: int, multiple: int) -> tuple[int, ...]:
    """Padded lengths for clips of at most `longest` frames, shortest first; multiples of the time stride."""
    return tuple(sorted({-(-longest // (multiple << rung)) * multiple for rung in range(RUNGS)}))


class Recogniser:
    """Scores of clips; `compile_seconds` counts what the compilations took, so that speed can be told without them.

    Args:
        weights, statistics: as the network reads them. rows: of every batch. lengths: the ladder, shortest first.
    """

    def __init__(
        self,
        settings: ModelSettings,
        network: WholePass,
        weights: Any,
        statistics: Any,
        *,
        rows: int,
        lengths: Sequence[int],
    ):
        self.settings, self.rows, self.lengths = settings, rows, tuple(lengths)
        self.compile_seconds = 0.0
        self._given = weights, statistics
        self._forward = jax.jit(lambda *given: network.scores(*given)[0])
        self._compiled: dict[int, Any] = {}

    def rung(self, num_frames: int) -> int:
        """The length that a clip of so many frames is padded to."""
        return next(length for length in self.lengths if num_frames <= length)

    def __call__(self, clips: Sequence[Float32[np.ndarray, "_ bin"]]) -> list[Float32[np.ndarray, "_ class"]]:
        """Class scores of each clip's valid output frames.

        Args:
            clips: normalised features, at most `rows` of them, all of the same rung.
        """
        length = self.rung(len(clips[0]))
        features = np.zeros((self.rows, length, self.settings.num_bins), np.float32)
        num_frames = np.zeros(self.rows, np.int32)
        for row, clip in enumerate(clips):
            features[row, : len(clip)], num_frames[row] = clip, len(clip)
        scores = np.asarray(self._program(length)(*self._given, features, num_frames))
        return [scores[row, : output_frames(self.settings, len(clip))] for row, clip in enumerate(clips)]

    def _program(self, length: int) -> Any:
        if length not in self._compiled:
            started = time.monotonic()
            features = jax.ShapeDtypeStruct((self.rows, length, self.settings.num_bins), jnp.float32)
            num_frames = jax.ShapeDtypeStruct((self.rows,), jnp.int32)
            self._compiled[length] = self._forward.lower(*self._given, features, num_frames).compile()
            self.compile_seconds += time.monotonic() - started
        return self._compiled[length]


def require_finite(scores: Float32[np.ndarray, "output_frame class"]) -> None:
    """Refuse scores that say nothing.

    Raises:
        DataError: NaN or infinite scores: this checkpoint cannot recognise.
    """
    if not np.isfinite(scores).all():
        raise DataError("the network's scores are NaN or infinite. Try another checkpoint: --checkpoint.")
