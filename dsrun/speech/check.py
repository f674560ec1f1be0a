"""Check: is a manifest fit to train on?

Looks at every utterance once and reports all problems, not only the first. Errors are what training refuses: a file that is missing,
cut off or not audio, another rate or channel, a duration that disagrees, NaN; and, where the config's policy does not drop or keep
them, characters outside the alphabet and empty transcripts. Warnings are what training takes and a person should listen to: silence,
clipping, an offset, the same recording twice, a transcript far too long or too short for its recording.

The last is judged by characters a second, on a log scale: an outlier lies more than five robust deviations (1.4826 times the
median absolute one) from the manifest's median. Clips of one word are left out, since a spelled letter takes as long as a word; where
at most half of the texts have a space, as in Chinese, those of fewer than four characters are instead.

An utterance takes 64 bytes here, beside the manifest: numbers and hashes are kept, no texts. Of each kind of problem the first
thousand are kept and the others counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from dsrun.errors import DataError
from dsrun.speech.alphabet import MOST_EXAMPLES, Alphabet, unknown_text
from dsrun.speech.audio import AudioSettings, Header
from dsrun.speech.examine import Depth, Examined, examine, key_of, key_of_file
from dsrun.speech.histogram import Histogram, histogram
from dsrun.speech.manifest import Utterance
from dsrun.speech.normalizers import as_is, nfkc_lower
from dsrun.speech.workers import Workers

OUTLIER_DEVIATIONS = 5.0
FEWEST_FOR_OUTLIERS = 20  # utterances; fewer have no usable spread
SHORTEST_TEXT = 4  # characters, where words cannot be told apart
MOST_KEPT = 1000  # problems of a kind
MOST_NAMED = 3  # longest and shortest utterances


@dataclass(frozen=True)
class TextPolicy:
    """What training does with characters that its alphabet lacks and with transcripts without text, as `data` in a config says it."""

    unknown_characters: Literal["error", "drop"] = "error"
    empty_transcript: Literal["error", "drop", "keep"] = "keep"


class Problems:
    """Texts by kind, in the order found: the first thousand of each kind, and how many there were."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, text: str) -> None:
        """One more of a kind."""
        self.counts[kind] += 1
        if self.counts[kind] <= MOST_KEPT:
            self.texts.append(text)

    def listed(self) -> list[str]:
        """The texts, and a line for each kind of which there were more."""
        more = [(kind, count - MOST_KEPT) for kind, count in self.counts.items() if count > MOST_KEPT]
        return [*self.texts, *(f"... and {count} more problems of kind {kind!r}" for kind, count in more)]


@dataclass(frozen=True)
class Columns:
    """What is kept of each utterance, in the manifest's order: seconds (0 where the recording has an error), characters, and keys of
    recording, text, speaker, id and file or tar member (0 where there is none), and where in that file it begins (s)."""

    seconds: Float64[np.ndarray, " utterance"]
    characters: Int64[np.ndarray, " utterance"]
    recording: UInt64[np.ndarray, " utterance"]
    text: UInt64[np.ndarray, " utterance"]
    speaker: UInt64[np.ndarray, " utterance"]
    id: UInt64[np.ndarray, " utterance"]
    file: UInt64[np.ndarray, " utterance"]
    start: Float64[np.ndarray, " utterance"]


@dataclass(frozen=True)
class CheckReport:
    """All that was found, one text a problem, with the number of each kind.

    `totals`: utterances; usable, those whose recording has no error; seconds and hours of these; characters and distinct_texts of all;
    speakers (None if none is named); characters_per_second, the median over usable ones of more than one word (None if there are none).
    `headers`: how many recordings have which rate, number of channels and encoding; empty where none was opened.
    `longest` and `shortest`: ids with seconds. `histograms`: of seconds and of characters a second.
    """

    errors: list[str]
    warnings: list[str]
    totals: dict[str, int | float | None]
    kinds: dict[str, dict[str, int]]
    headers: dict[str, dict[str, int]]
    longest: dict[str, float]
    shortest: dict[str, float]
    histograms: dict[str, Histogram]
    columns: Columns = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists and numbers."""
        return {name: value for name, value in asdict(self).items() if name != "columns"}


def check_manifest(
    utterances: Sequence[Utterance],
    *,
    audio: AudioSettings,
    alphabet: Alphabet | None = None,
    policy: TextPolicy = TextPolicy(),
    depth: Depth = "samples",
    workers: Workers | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Examine every recording, look at every transcript, and report all problems at once.

    Args:
        utterances: as `read_manifest` or `open_manifest` gives them (what is wrong with the manifest itself, that raises).
        audio: rate, channel and longest clip that training would ask for.
        alphabet: if given, characters that it lacks are found, and its normaliser is the one that counts.
        policy: what of texts is an error, what a warning.
        depth: decode, open, or believe the manifest.
    """
    errors, warnings = Problems(), Problems()
    columns = _empty_columns(len(utterances))
    texts = _Texts(alphabet)
    headers: dict[str, Counter[str]] = {"rate": Counter(), "channels": Counter(), "encoding": Counter()}
    is_spaced = np.zeros(len(utterances), bool)
    pool = (
        workers if workers and depth != "nothing" else Workers()
    )  # without reading there is nothing to do side by side
    found = pool.map(lambda utterance: (utterance, examine(utterance, audio, depth=depth)), utterances)
    for number, (utterance, examined) in enumerate(found):
        _note_recording(utterance, examined, errors, warnings)
        _count_header(examined.header, headers)
        if examined.error is None:
            columns.seconds[number], columns.recording[number] = examined.seconds, examined.key
            columns.file[number], columns.start[number] = key_of_file(utterance), utterance.offset
        text = texts.look(utterance, errors)
        if not text:
            is_error = policy.empty_transcript == "error"
            (errors if is_error else warnings).add("empty transcript", f"{place(utterance)}: the transcript is empty.")
        is_spaced[number] = " " in text
        _keep_text(columns, number, utterance, text)
        if on_progress:
            on_progress(number + 1, len(utterances))
    _note_repeats(utterances, columns.recording, warnings)
    if texts.unknown:
        is_error = policy.unknown_characters == "error"
        (errors if is_error else warnings).add("unknown characters", unknown_text(texts.unknown, texts.examples))
    rates, judged = _rates(columns, is_spaced)
    _note_outliers(utterances, judged, rates, warnings)
    return CheckReport(
        errors.listed(),
        warnings.listed(),
        _totals(columns, rates),
        {"errors": dict(errors.counts), "warnings": dict(warnings.counts)},
        {name: dict(counts.most_common()) for name, counts in headers.items() if counts},
        *_extremes(utterances, columns.seconds),
        {"seconds": histogram(columns.seconds[columns.seconds > 0]), "characters_per_second": histogram(rates)},
        columns,
    )


def place(utterance: Utterance) -> str:
    """What a message calls an utterance."""
    return f"utterance {utterance.id!r} (line {utterance.line})"


class _Texts:
    """Transcripts as they count: normalised, their characters looked up."""

    def __init__(self, alphabet: Alphabet | None):
        self.normalize = nfkc_lower if alphabet is None else alphabet.normalize
        self.known = None if alphabet is None else set(alphabet.symbols)
        self.unknown: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def look(self, utterance: Utterance, errors: Problems) -> str:
        try:
            text = self.normalize(utterance.text)
        except DataError as error:
            errors.add("refused text", f"{place(utterance)}: {error}")
            with suppress(DataError):
                return nfkc_lower(utterance.text)
            return as_is(utterance.text)
        if self.known is not None:
            for character in set(text) - self.known:
                self.unknown[character] += text.count(character)
                seen = self.examples.setdefault(character, [])
                if len(seen) < MOST_EXAMPLES:
                    seen.append(utterance.id)
        return text


def _empty_columns(count: int) -> Columns:
    recording, text, speaker, id, file = (np.zeros(count, np.uint64) for _ in range(5))
    seconds, start = np.zeros(count, np.float64), np.zeros(count, np.float64)
    return Columns(seconds, np.zeros(count, np.int64), recording, text, speaker, id, file, start)


def _keep_text(columns: Columns, number: int, utterance: Utterance, text: str) -> None:
    columns.characters[number] = len(text)
    columns.text[number] = key_of(text.encode()) if text else 0
    columns.id[number] = key_of(utterance.id.encode())
    columns.speaker[number] = 0 if utterance.speaker is None else key_of(utterance.speaker.encode())


def _note_recording(utterance: Utterance, examined: Examined, errors: Problems, warnings: Problems) -> None:
    if examined.error is not None:
        errors.add("recording", f"{place(utterance)}: {examined.error}")
    for kind, text in examined.warnings:
        warnings.add(kind, f"{place(utterance)}: {text}")


def _count_header(header: Header | None, headers: dict[str, Counter[str]]) -> None:
    if header is not None:
        headers["rate"][f"{header.sample_rate} Hz"] += 1
        headers["channels"][str(header.channels)] += 1
        headers["encoding"][header.encoding] += 1


def _note_repeats(
    utterances: Sequence[Utterance], recording: UInt64[np.ndarray, " utterance"], warnings: Problems
) -> None:
    _, first, group = np.unique(recording, return_index=True, return_inverse=True)
    for number in np.flatnonzero((first[group] < np.arange(len(recording))) & (recording > 0)):
        there = utterances[int(first[group[number]])]
        warnings.add("same recording", f"{place(utterances[int(number)])}: the same recording as {place(there)}.")


def _rates(
    columns: Columns, is_spaced: np.ndarray
) -> tuple[Float64[np.ndarray, " judged"], Int64[np.ndarray, " judged"]]:
    """Characters a second, and of which utterances."""
    # Of a thousand Mandarin texts one has an English name in it: its space says nothing of the others.
    is_long = is_spaced if 2 * is_spaced.sum() > (columns.characters > 0).sum() else columns.characters >= SHORTEST_TEXT
    judged = np.flatnonzero(is_long & (columns.seconds > 0))
    return columns.characters[judged] / columns.seconds[judged], judged


def _note_outliers(
    utterances: Sequence[Utterance],
    judged: Int64[np.ndarray, " judged"],
    rates: Float64[np.ndarray, " judged"],
    warnings: Problems,
) -> None:
    if len(rates) < FEWEST_FOR_OUTLIERS:
        return
    logs = np.log(rates)
    distance = np.abs(logs - np.median(logs))
    limit = OUTLIER_DEVIATIONS * 1.4826 * np.median(distance)
    for far in np.flatnonzero(distance > limit):
        warnings.add(
            "rate of speech",
            f"{place(utterances[int(judged[far])])}: {rates[far]:.1f} characters a second, the manifest's median is "
            f"{np.median(rates):.1f}. Does the transcript belong to the recording?",
        )


def _totals(columns: Columns, rates: Float64[np.ndarray, " judged"]) -> dict[str, int | float | None]:
    seconds = float(columns.seconds.sum())
    return {
        "utterances": len(columns.seconds),
        "usable": int((columns.seconds > 0).sum()),
        "seconds": round(seconds, 3),
        "hours": round(seconds / 3600, 3),
        "characters": int(columns.characters.sum()),
        "distinct_texts": len(np.unique(columns.text)),
        "speakers": len(np.unique(columns.speaker[columns.speaker > 0])) or None,
        "characters_per_second": round(float(np.median(rates)), 2) if len(rates) else None,
    }


def _extremes(
    utterances: Sequence[Utterance], seconds: Float64[np.ndarray, " utterance"]
) -> tuple[dict[str, float], dict[str, float]]:
    """The longest and the shortest usable utterances."""
    usable = np.flatnonzero(seconds > 0)
    order = usable[np.argsort(seconds[usable], kind="stable")]
    named = [order[::-1][:MOST_NAMED], order[:MOST_NAMED]]
    longest, shortest = ({utterances[int(n)].id: round(float(seconds[n]), 3) for n in numbers} for numbers in named)
    return longest, shortest
