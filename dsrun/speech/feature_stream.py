"""Features while the samples come: the frames of `FeatureSettings.compute`, each as soon as its window is full.

What is carried is the tail of samples that later windows still see. A frame is computed from its own window alone, so frames do not
depend on the pieces in which the samples came (log-mel's product with the filters may sum in another order, in float64, before the
rounding to float32). Samples behind the last full window are dropped, as in the whole clip.
"""

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.features import FeatureSettings, Normalization


class FeatureStream:
    """Normalised features of one recording; `push` samples, and in the end `finish`."""

    def __init__(self, settings: FeatureSettings, normalization: Normalization):
        self.settings, self.normalization = settings, normalization
        self._tail = np.zeros(0, np.float32)
        self._skip = 0  # samples still to come that no window sees: a hop may be longer than a window
        self._num_samples = 0

    def push(self, samples: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, "frame bin"]:
        """Frames that are complete with these samples, which follow those pushed before."""
        settings = self.settings
        self._num_samples += len(samples)
        skipped = min(self._skip, len(samples))
        self._skip -= skipped
        self._tail = np.concatenate([self._tail, samples[skipped:]])
        count = settings.num_frames(len(self._tail))
        if count == 0:
            return np.zeros((0, settings.num_bins), np.float32)
        found = settings.compute(self._tail[: (count - 1) * settings.hop + settings.window])
        done = count * settings.hop
        self._skip = max(0, done - len(self._tail))
        self._tail = self._tail[done:]
        return self.normalization.apply(found)

    def finish(self) -> None:
        """The recording has ended. Raises DataError, as for a whole clip, if it is shorter than a window."""
        if self._num_samples < self.settings.window:
            raise DataError(
                f"{self._num_samples} samples are shorter than one window of {self.settings.window} "
                f"({self.settings.window_ms:g} ms)."
            )
