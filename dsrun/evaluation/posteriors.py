"""What a network heard of a few utterances, left in a run folder: enough to draw them, without audio or JAX.

Of the best, the median and the worst utterance of the final scoring, by character error rate, `evaluation/posteriors.npz` has:

| member | what it holds |
|---|---|
| `facts` | UTF-8 JSON: `step`, `split`, `left_out`, and of each utterance texts, times of frames, and the classes that are kept |
| `features_K` [frame, bin] uint8 | normalised features: code 0 to 255 is -4 to 4 deviations from the training mean, beyond it the end |
| `log10_probs_K` [output_frame, class] float16 | of the classes that are kept: all of a small alphabet, `MOST_CLASSES` of a large one |
| `path_K` [output_frame] int32 | the best class of each output frame, by the scores themselves |

An utterance has at most `LARGEST_UTTERANCE` bytes (before compression). Of a longer one neighbouring frames of the spectrogram are
averaged, in twos, fours or eights (`pooled`; the times say so too); one that is too long even then is left out, and so is one with
scores that are not finite. The same scoring gives the same bytes again. No pickle: a folder may come from a stranger, so what is read
is checked.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from dsrun.errors import DataError
from dsrun.evaluation.clock import OutputClock

BLANK = 0  # as in dsrun.ctc, which brings in JAX
MOST_CLASSES = 40
LARGEST_UTTERANCE = 280_000
LARGEST_POOL = 8
LARGEST_FILE = 4_000_000  # unpacked
LONGEST_TEXT = 10_000
CODES_A_DEVIATION = 255 / 8
NAMES = ("best", "median", "worst")


@dataclass(frozen=True)
class _Utterance:
    """Texts and features.

    Fields:
        features: normalised, valid frames alone. first_frame, hop: middle of frame 0 and from one to the next, in seconds.
        highest: what the uppermost bin stands for, with its unit, e.g. (8.0, "kHz").
    """

    id: str
    reference: str
    hypothesis: str
    features: Float[np.ndarray, "frame bin"]
    first_frame: float
    hop: float
    highest: tuple[float, str]


@dataclass(frozen=True)
class Heard(_Utterance):
    """An utterance as the network had it.

    Fields:
        logits: of the valid output frames. clock: when these are. symbols: of the classes 1, 2, ...; 0 is blank.
        wanted: classes of the reference.
    """

    logits: Float[np.ndarray, "output_frame class"]
    clock: OutputClock
    symbols: Sequence[str]
    wanted: Sequence[int]

    def shown(self) -> "Shown":
        """What is drawn of it."""
        log_probs = log10_probabilities(self.logits)
        path = np.argmax(self.logits, axis=-1)
        classes = shown_classes(log_probs, path, self.wanted)
        symbols = {number: self.symbols[number - 1] for number in [*classes, *path.tolist()] if number != BLANK}
        times = (self.first_frame, self.hop, self.highest)
        texts = (self.id, self.reference, self.hypothesis)
        return Shown(*texts, self.features, *times, log_probs[:, classes], path, self.clock, tuple(classes), symbols)


@dataclass(frozen=True)
class Shown(_Utterance):
    """An utterance as it is drawn: as `Heard`, but of the classes some, and the best path.

    Fields:
        log10_probs: a column for each of `classes`. path: best class of each output frame. symbols: of the classes in both, by number.
    """

    log10_probs: Float[np.ndarray, "output_frame class"]
    path: Int[np.ndarray, " output_frame"]
    clock: OutputClock
    classes: tuple[int, ...]
    symbols: Mapping[int, str]

    @property
    def size(self) -> int:
        """Bytes in the file, before compression."""
        return self.features.size + 2 * self.log10_probs.size + 4 * self.path.size

    def pooled(self, count: int) -> "Shown":
        """With `count` neighbouring frames of the spectrogram averaged; a shorter rest at the end is left out."""
        frames = len(self.features) // count
        means = self.features[: frames * count].reshape(frames, count, -1).mean(axis=1, dtype=np.float32)
        first = self.first_frame + self.hop * (count - 1) / 2
        return replace(self, features=means, first_frame=first, hop=self.hop * count)


@dataclass(frozen=True)
class Posteriors:
    """The file's content: utterances by "best", "median" and "worst"; of those that are not there, why."""

    step: int
    split: str
    utterances: Mapping[str, Shown]
    left_out: Mapping[str, str]


def log10_probabilities(logits: Float[np.ndarray, "output_frame class"]) -> Float64[np.ndarray, "output_frame class"]:
    """Logarithms to base 10 of the softmax over classes."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))) / np.log(10)


def shown_classes(
    log_probs: Float[np.ndarray, "output_frame class"], path: Int[np.ndarray, " output_frame"], wanted: Sequence[int]
) -> list[int]:
    """All classes of a small alphabet; of a large one blank, those of the path and of `wanted`, and the most probable, in order."""
    count = log_probs.shape[1]
    if count <= MOST_CLASSES:
        return list(range(count))
    by_probability = np.argsort(-log_probs.max(axis=0), kind="stable")
    ranked = dict.fromkeys([BLANK, *path.tolist(), *wanted, *by_probability.tolist()])
    return sorted(list(ranked)[:MOST_CLASSES])


def posteriors_bytes(step: int, split: str, heard: Mapping[str, Heard]) -> bytes:
    """The file for these utterances, by name."""
    arrays: dict[str, np.ndarray] = {}
    utterances: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name, own in heard.items():
        found = _fitting(own)
        if isinstance(found, str):
            left_out[name] = found
            continue
        shown, pool = found
        number = len(utterances)
        codes = np.rint((np.clip(shown.features, -4, 4) + 4) * CODES_A_DEVIATION)
        arrays[f"features_{number}"] = codes.astype(np.uint8)
        arrays[f"log10_probs_{number}"] = np.maximum(shown.log10_probs, -60_000).astype(np.float16)
        arrays[f"path_{number}"] = shown.path.astype(np.int32)
        utterances.append(_facts(name, shown, pool))
    facts = {"step": step, "split": split, "utterances": utterances, "left_out": left_out}
    arrays["facts"] = np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _fitting(heard: Heard) -> tuple[Shown, int] | str:
    """The utterance, small enough, and how many frames were made one; or why it is left out."""
    if not np.isfinite(heard.logits).all():
        return "its class scores are not finite"
    if not len(heard.logits):
        return "it has no output frame"
    shown, pool = heard.shown(), 1
    found = shown
    while found.size > LARGEST_UTTERANCE:
        pool *= 2
        if pool > LARGEST_POOL:
            return f"it has {len(heard.features)} frames, and its spectrogram and probabilities {shown.size:,} bytes"
        found = shown.pooled(pool)
    return found, pool


def _facts(name: str, shown: Shown, pool: int) -> dict[str, Any]:
    return {
        "name": name,
        "id": shown.id,
        "reference": shown.reference,
        "hypothesis": shown.hypothesis,
        "first_frame": shown.first_frame,
        "hop": shown.hop,
        "pooled": pool,
        "highest": list(shown.highest),
        "clock": [shown.clock.first, shown.clock.step],
        "classes": list(shown.classes),
        "symbols": {str(number): symbol for number, symbol in sorted(shown.symbols.items())},
    }


def load_posteriors(path: Path) -> Posteriors:
    """Read the file.

    Raises:
        DataError: it is damaged, or of another layout.
    """
    try:
        if not path.is_file():
            raise ValueError("no file")
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_FILE:
                raise ValueError(f"more than {LARGEST_FILE} bytes unpacked")
            with np.load(file, allow_pickle=False) as found:
                return _read({name: found[name] for name in found.files})
    except Exception as error:  # whatever zipfile, zlib, json and NumPy make of damaged files
        raise DataError(
            f"{path}: not a whole file of posteriors ({error or type(error).__name__}). `dsrun eval RUN` writes it anew."
        ) from error


def _read(arrays: Mapping[str, np.ndarray]) -> Posteriors:
    """Raises ValueError, or whatever Python makes of it, where something is not as the module says."""
    facts = json.loads(_array(arrays, "facts", np.uint8, 1).tobytes().decode())
    utterances: dict[str, Shown] = {}
    _require(len(facts["utterances"]) <= len(NAMES), "more utterances than names")
    for number, own in enumerate(facts["utterances"]):
        _require(own["name"] in NAMES and own["name"] not in utterances, "an unknown name")
        utterances[own["name"]] = _utterance(own, arrays, number)
    left_out = {name: _text(facts["left_out"][name]) for name in NAMES if name in facts["left_out"]}
    return Posteriors(_integer(facts["step"]), _text(facts["split"]), utterances, left_out)


def _utterance(own: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int) -> Shown:
    codes = _array(arrays, f"features_{number}", np.uint8, 2)
    log_probs = _array(arrays, f"log10_probs_{number}", np.float16, 2).astype(np.float64)
    path = _array(arrays, f"path_{number}", np.int32, 1)
    classes = tuple(map(_integer, own["classes"]))
    symbols = {int(name): _text(symbol) for name, symbol in own["symbols"].items()}
    _require(0 < len(classes) <= MOST_CLASSES and list(classes) == sorted(set(classes)), "classes")
    _require(log_probs.shape == (len(path), len(classes)) and len(path) > 0 and codes.size > 0, "shapes")
    _require(set(classes) | set(path.tolist()) <= {BLANK, *symbols}, "symbols")
    _require(not np.isnan(log_probs).any() and bool((log_probs <= 0).all()), "probabilities")
    first, hop, clock = _number(own["first_frame"]), _number(own["hop"]), OutputClock(*map(_number, own["clock"]))
    top, unit = own["highest"]
    _require(hop > 1e-6 and clock.step > 1e-6 and _number(top) > 0, "times")
    id, reference, hypothesis = (_text(own[key]) for key in ("id", "reference", "hypothesis"))
    features = (codes / CODES_A_DEVIATION - 4).astype(np.float32)
    highest = (_number(top), _text(unit))
    return Shown(id, reference, hypothesis, features, first, hop, highest, log_probs, path, clock, classes, symbols)


def _array(arrays: Mapping[str, np.ndarray], name: str, dtype: Any, axes: int) -> np.ndarray:
    found = arrays[name]
    _require(found.dtype == dtype and found.ndim == axes, f"{name} is {found.dtype}{list(found.shape)}")
    return found


def _text(value: Any) -> str:
    _require(isinstance(value, str) and len(value) <= LONGEST_TEXT, "a text")
    value.encode()  # half a surrogate pair is no character
    return value


def _integer(value: Any) -> int:
    _require(type(value) is int and 0 <= value < 2**31, "a number")
    return value


def _number(value: Any) -> float:
    _require(isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e6, "a number")
    return float(value)


def _require(is_so: bool, what: str) -> None:
    if not is_so:
        raise ValueError(f"{what}: not as dsrun writes it")
