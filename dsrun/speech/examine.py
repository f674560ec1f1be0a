"""Examine: what one recording is like, and whether training would take it.

How deep is a choice. `samples` decodes: only then are a broken middle, silence, clipping, an offset and NaN seen. `headers` opens the
file: missing, not audio, cut off, another rate or channel, a duration that disagrees. `nothing` believes the manifest.

Bytes that a manifest's `sha256` pins are compared where samples are read.

A recording's key is what makes two the same: of the samples where they are read, so that the same clip in WAV and in FLAC is found
(in MP3 it is not), otherwise of the place: file, member, part.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.audio import AudioSettings, Header, place_of, read_header, read_utterance
from dsrun.speech.manifest import Utterance

Depth = Literal["samples", "headers", "nothing"]

SILENT_PEAK = 1e-3  # -60 dBFS: nothing was said
CLIPPED_LEVEL = 0.999  # of full scale
CLIPPED_SHARE = 1e-3  # of a clip's samples
OFFSET_LEVEL = 1e-3  # -60 dBFS: a smaller mean is rounding
OFFSET_SHARE = 0.1  # of the level (RMS): a microphone or a converter was wrong


@dataclass(frozen=True)
class Examined:
    """What was found: seconds that the utterance lasts, its recording's key, the header if one was read, why training would refuse it, and
    what a person should listen to, by kind."""

    seconds: float
    key: int
    header: Header | None = None
    error: str | None = None
    warnings: tuple[tuple[str, str], ...] = ()


def examine(utterance: Utterance, audio: AudioSettings, *, depth: Depth) -> Examined:
    """Look at an utterance's recording; never raises for what is wrong with it."""
    if depth == "nothing":
        return _from_manifest(utterance, audio)
    header = None
    try:
        header = read_header(utterance, audio)
        if header.problem is not None:
            raise DataError(header.problem)
        if depth == "headers":
            return Examined(header.seconds, _key_of_place(utterance), header)
        samples = read_utterance(utterance, audio)
    except DataError as error:
        return Examined(0.0, 0, header, str(error))
    seconds = len(samples) / audio.sample_rate
    return Examined(seconds, key_of(samples.tobytes()), header, warnings=tuple(_level_problems(samples)))


def key_of(content: bytes) -> int:
    """64 bits of a hash, never 0. Among a million contents two different ones share a key once in 37 million cases."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1


def _from_manifest(utterance: Utterance, audio: AudioSettings) -> Examined:
    seconds, error = utterance.duration or 0.0, None
    if seconds <= 0:
        error = f"lasts {seconds:g} s by the manifest."
    elif seconds > audio.max_seconds:
        error = f"{seconds:.1f} s by the manifest, longer than data.max_seconds ({audio.max_seconds:g})."
    return Examined(seconds, _key_of_place(utterance), error=error)


def _key_of_place(utterance: Utterance) -> int:
    part = f"{utterance.offset} {utterance.duration}" if utterance.is_part else ""
    return key_of(f"{place_of(utterance.audio, utterance.member)}\0{part}".encode(errors="surrogateescape"))


def key_of_file(utterance: Utterance) -> int:
    """Of the file, or the member of a tar file, that an utterance is in or a part of, however its manifest reaches the folder."""
    audio = Path(_real_folder(str(utterance.audio.parent))) / utterance.audio.name
    return key_of(place_of(audio, utterance.member).encode(errors="surrogateescape"))


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def _level_problems(samples: Float32[np.ndarray, " sample"]) -> list[tuple[str, str]]:
    level = np.abs(samples)
    peak, clipped = float(level.max()), float((level >= CLIPPED_LEVEL).mean())
    if peak == 0:
        return [("silent", "every sample is zero.")]
    if peak < SILENT_PEAK:
        return [("silent", f"silent: the highest level is {20 * math.log10(peak):.0f} dBFS.")]
    found = []
    if clipped > CLIPPED_SHARE:
        found.append(("clipped", f"clipped: {clipped:.1%} of the samples are at full scale."))
    wide = samples.astype(np.float64)
    mean, rms = float(wide.mean()), math.sqrt(float(np.square(wide).mean()))
    if abs(mean) > OFFSET_LEVEL and abs(mean) > OFFSET_SHARE * rms:
        found.append(
            ("offset", f"DC offset: the mean is {mean:+.3f} of full scale, {abs(mean) / rms:.0%} of the level (RMS).")
        )
    return found
