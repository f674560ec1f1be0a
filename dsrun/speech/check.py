"""Check: is a manifest fit to train on?

Decodes every file once and reports all problems, not only the first. Errors are what training refuses: a file that is missing,
cut off or not audio, another rate or channel, a duration that disagrees, NaN, characters outside the alphabet. Warnings are what
training takes and a person should listen to: silence, clipping, an empty transcript, the same recording twice, a transcript far
too long or too short for its recording.

The last is judged by characters a second, on a log scale: an outlier lies more than five robust deviations (1.4826 times the
median absolute one) from the manifest's median. Clips of one word are left out: a spelled letter takes as long as a word.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.alphabet import Alphabet, encode_all
from dsrun.speech.audio import AudioSettings, read_utterance, utterance_digest
from dsrun.speech.manifest import Utterance
from dsrun.speech.normalizers import nfkc_lower

SILENT_PEAK = 1e-3  # -60 dBFS: nothing was said
CLIPPED_LEVEL = 0.999  # of full scale
CLIPPED_SHARE = 1e-3  # of a clip's samples
OUTLIER_DEVIATIONS = 5.0
FEWEST_FOR_OUTLIERS = 20  # utterances; fewer have no usable spread


@dataclass(frozen=True)
class CheckReport:
    """All that was found, one text a problem.

    `totals`: utterances; usable, those whose recording has no error; seconds of these; characters and distinct_texts of all;
    characters_per_second, the median over usable ones of more than one word (None if there are none).
    """

    errors: list[str]
    warnings: list[str]
    totals: dict[str, int | float | None]

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists and numbers."""
        return asdict(self)


def check_manifest(
    utterances: Sequence[Utterance], *, audio: AudioSettings, alphabet: Alphabet | None = None
) -> CheckReport:
    """Decode every recording, look at every transcript, and report all problems at once.

    Args:
        utterances: as `read_manifest` gives them (what is wrong with the manifest itself, that raises).
        audio: rate, channel and longest clip that training would ask for.
        alphabet: if given, characters that it lacks are errors.
    """
    errors: list[str] = []
    warnings: list[str] = []
    seconds: dict[str, float] = {}  # of usable recordings, by id
    places: dict[tuple, Utterance] = {}
    for utterance in utterances:
        try:
            samples = read_utterance(utterance, audio)
        except DataError as error:
            errors.append(f"{_place(utterance)}: {error}")
            continue
        seconds[utterance.id] = len(samples) / audio.sample_rate
        warnings += [f"{_place(utterance)}: {problem}" for problem in _level_problems(samples)]
        recording = (utterance_digest(utterance), utterance.offset, utterance.duration if utterance.is_part else None)
        first = places.setdefault(recording, utterance)
        if first is not utterance:
            warnings.append(f"{_place(utterance)}: the same recording as {_place(first)}.")
    written = {utterance.id: utterance.text for utterance in utterances}
    if alphabet is not None:
        try:
            encode_all(written, alphabet, on_unknown="error")
        except DataError as error:
            errors.append(str(error))
    texts = {id: _normalized(text, alphabet) for id, text in written.items()}
    warnings += [f"{_place(u)}: the transcript is empty." for u in utterances if not texts[u.id]]
    spoken = [u for u in utterances if u.id in seconds and " " in texts[u.id]]
    rates = np.array([len(texts[u.id]) / seconds[u.id] for u in spoken], np.float64)
    warnings += _outliers(spoken, rates)
    totals = {
        "utterances": len(utterances),
        "usable": len(seconds),
        "seconds": round(math.fsum(seconds.values()), 3),
        "characters": sum(map(len, texts.values())),
        "distinct_texts": len(set(texts.values())),
        "characters_per_second": round(float(np.median(rates)), 2) if len(rates) else None,
    }
    return CheckReport(errors, warnings, totals)


def _normalized(text: str, alphabet: Alphabet | None) -> str:
    """Also of a text that the alphabet's normaliser refuses, which is an error of its own."""
    try:
        return nfkc_lower(text) if alphabet is None else alphabet.normalize(text)
    except DataError:
        return nfkc_lower(text)


def _place(utterance: Utterance) -> str:
    return f"utterance {utterance.id!r} (line {utterance.line})"


def _level_problems(samples: Float32[np.ndarray, " sample"]) -> list[str]:
    level = np.abs(samples)
    peak, clipped = float(level.max()), float((level >= CLIPPED_LEVEL).mean())
    if peak == 0:
        return ["every sample is zero."]
    if peak < SILENT_PEAK:
        return [f"silent: the highest level is {20 * math.log10(peak):.0f} dBFS."]
    return [f"clipped: {clipped:.1%} of the samples are at full scale."] if clipped > CLIPPED_SHARE else []


def _outliers(utterances: Sequence[Utterance], rates: np.ndarray) -> list[str]:
    if len(rates) < FEWEST_FOR_OUTLIERS:
        return []
    logs = np.log(rates)
    distance = np.abs(logs - np.median(logs))
    limit = OUTLIER_DEVIATIONS * 1.4826 * np.median(distance)
    return [
        f"{_place(utterance)}: {rate:.1f} characters a second, the manifest's median is {np.median(rates):.1f}. "
        "Does the transcript belong to the recording?"
        for utterance, rate, far in zip(utterances, rates, distance, strict=True)
        if far > limit
    ]
