"""Calibration: what goes into each product, seen on a slice of speech, and how each input is to be coded.

The network runs in float32 with the trained weights and hands out what it stores (`taps` of `model.apply`). Three passes over the same
batches: the smallest and largest value of each place; a histogram between them, from which a `Method` takes the range; and what the
coding that was chosen does to every value. Nothing but sums is kept, so any slice fits into memory. Frames behind an utterance's end do
not count.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.deploy.codes import Coding, DeployFormat, Histogram, Method, input_coding
from dsrun.deploy.quantized import sqnr_db
from dsrun.model import ModelSettings, apply, output_frames

BINS = 8192  # of the histogram that a range is taken from
FIELDS = 256  # exponent fields of float32, for the histogram of magnitudes
Batches = Callable[[], Iterable[Any]]  # the same batches at every call, each with features and num_frames
Values = dict[str, Float32[np.ndarray, " value"]]


@dataclass(frozen=True)
class InputFacts:
    """What was seen at a place, and what its coding does to it.

    Fields:
        histogram: of the values, zeros included. fields: numbers of values by float32's exponent field, as `record.magnitudes` has them.
        coding: how they are coded. clipped: share of the values beyond it. sqnr_db: signal to quantisation noise, decibels.
    """

    histogram: Histogram
    fields: np.ndarray
    coding: Coding
    clipped: float
    sqnr_db: float


def calibrate(
    settings: ModelSettings,
    weights: Any,
    statistics: Any,
    batches: Batches,
    *,
    formats: Mapping[str, DeployFormat],
    method: Method,
) -> dict[str, InputFacts]:
    """By place, how its values are coded.

    Args:
        formats: of the places that are wanted.

    Raises:
        ValueError: no frame to look at, or a value that is not finite.
    """
    places = tuple(sorted(formats))
    values = partial(_values, settings, weights, statistics, batches, places)
    ends = _ends(values())
    if not ends:
        raise ValueError("calibration saw no frame: give a manifest with speech in it.")
    if broken := [place for place, (low, high) in ends.items() if not (np.isfinite(low) and np.isfinite(high))]:
        raise ValueError(
            f"calibration met values that are not finite, at {', '.join(broken)}: the checkpoint cannot recognise."
        )
    counts = {place: np.zeros(BINS, np.int64) for place in places}
    fields = {place: np.zeros(FIELDS, np.int64) for place in places}
    for found in values():
        for place, x in found.items():
            counts[place] += np.histogram(x, BINS, _range_of(ends[place]))[0]
            fields[place] += exponent_fields(x)
    histograms = {place: Histogram(*_range_of(ends[place]), counts[place]) for place in places}
    codings = {place: input_coding(histograms[place], formats[place], method) for place in places}
    clipped, noise = _errors(codings, values())
    return {
        place: InputFacts(histograms[place], fields[place], codings[place], clipped[place], noise[place])
        for place in places
    }


def exponent_fields(x: Float32[np.ndarray, "..."]) -> np.ndarray:
    """Numbers of values by float32's exponent field."""
    return np.bincount((x.reshape(-1).view(np.uint32) >> 23) & 0xFF, minlength=FIELDS)


def _values(
    settings: ModelSettings, weights: Any, statistics: Any, batches: Batches, places: tuple[str, ...]
) -> Iterator[Values]:
    """What stands at the places in valid frames, one batch after another."""

    @jax.jit
    def run(weights: Any, statistics: Any, features: Any, num_frames: Any) -> dict[str, Any]:
        taps: dict[str, Any] = {}
        apply(settings, FLOAT32_POLICY, weights, statistics, features, num_frames, mode="evaluate", taps=taps)
        return {place: taps[place] for place in places}

    for batch in batches():
        found = jax.device_get(run(weights, statistics, batch.features, batch.num_frames))
        yield {place: _valid(settings, place, array, np.asarray(batch.num_frames)) for place, array in found.items()}


def _valid(settings: ModelSettings, place: str, x: np.ndarray, num_frames: np.ndarray) -> Float32[np.ndarray, " value"]:
    """The values of real frames: batch first up to the front end, time-major behind it."""
    is_early = place == "features" or place.startswith("front_end.")
    by_batch = x if is_early else np.swapaxes(x, 0, 1)
    lengths = num_frames if place == "features" else _lengths(settings, place, num_frames)
    is_valid = np.arange(by_batch.shape[1])[None, :] < lengths[:, None]
    return np.asarray(by_batch[is_valid], np.float32).ravel()


def _lengths(settings: ModelSettings, place: str, num_frames: np.ndarray) -> np.ndarray:
    # Both convolutions have the time stride of the first.
    return np.asarray(output_frames(settings, num_frames))


def _ends(values: Iterable[Values]) -> dict[str, tuple[float, float]]:
    ends: dict[str, tuple[float, float]] = {}
    for found in values:
        for place, x in found.items():
            if x.size:
                low, high = ends.get(place, (np.inf, -np.inf))
                ends[place] = float(np.minimum(low, x.min())), float(np.maximum(high, x.max()))
    return ends


def _range_of(ends: tuple[float, float]) -> tuple[float, float]:
    """As NumPy does with a tensor whose values are all the same, a bin on either side."""
    low, high = ends
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _errors(codings: Mapping[str, Coding], values: Iterable[Values]) -> tuple[dict[str, float], dict[str, float]]:
    """Share of clipped values and signal to noise by place."""
    sums = {place: np.zeros(4) for place in codings}  # values, clipped, signal, noise
    for found in values:
        for place, x in found.items():
            coding = codings[place]
            error = coding.decode(coding.encode(x)).astype(np.float64) - x
            sums[place] += (x.size, coding.clipped(x), np.square(x, dtype=np.float64).sum(), np.square(error).sum())
    clipped = {place: float(clipped / count) for place, (count, clipped, _, _) in sums.items()}
    return clipped, {place: sqnr_db(signal, noise) for place, (_, _, signal, noise) in sums.items()}
