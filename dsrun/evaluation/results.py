"""Results of an evaluation: each utterance's texts and errors, and what they add up to.

NumPy only, no JAX: results are read again from `evaluation/<manifest>.jsonl` (one JSON object a line) long after the network is
gone, to be compared and drawn. What such a file must have is `id`, `reference` and `hypothesis`; the errors are counted anew from
the texts, so that a file means the same whoever wrote it. `loss` (nats; null: no alignment exists), `seconds` and `speaker` are
taken where they are there: files of before these two were written are still read. `step` tells which checkpoint recognised, `decoder`
how.

Rates are of the corpus: all errors divided by all reference words (or characters), never a mean of utterances' rates, never
clamped. The empty-reference rule is `error_rate`'s.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.errors import DataError
from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval, character_errors, total_errors, word_errors
from dsrun.speech import list_problems

BOOTSTRAP_SEED = 1
LONGEST_TEXT = 10_000  # characters: time and memory of an alignment grow with the product of both lengths
LONGEST_LINE = 200_000  # bytes


@dataclass(frozen=True)
class UtteranceResult:
    """One utterance's reference, hypothesis, loss in nats, and errors; length and speaker where they are known."""

    id: str
    reference: str
    hypothesis: str
    loss: float
    words: ErrorCount
    characters: ErrorCount
    seconds: float | None = None
    speaker: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line that `evaluation/<manifest>.jsonl` gets."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "loss": self.loss if np.isfinite(self.loss) else None,
            "words": self.words.to_json(),
            "characters": self.characters.to_json(),
            "seconds": self.seconds,
            "speaker": self.speaker,
        }


@dataclass(frozen=True)
class Evaluation:
    """Results over a manifest, utterances in the manifest's order."""

    utterances: tuple[UtteranceResult, ...]

    @cached_property
    def words(self) -> ErrorCount:
        """Word errors of the whole corpus."""
        return total_errors([u.words for u in self.utterances])

    @cached_property
    def characters(self) -> ErrorCount:
        """Character errors of the whole corpus, spaces counted as characters."""
        return total_errors([u.characters for u in self.utterances])

    @property
    def loss(self) -> float:
        """Mean over utterances of -log p(reference), nats; infinite if one cannot be aligned."""
        return float(np.mean([u.loss for u in self.utterances])) if self.utterances else 0.0

    def summary(self, *, intervals: bool = True) -> dict[str, Any]:
        """Rates, counts and, where asked, 95% intervals, ready for JSON."""
        summary: dict[str, Any] = {
            "utterances": len(self.utterances),
            "loss": self.loss if np.isfinite(self.loss) else None,
            "cer": self.characters.rate,
            "wer": self.words.rate,
            "characters": self.characters.to_json(),
            "words": self.words.to_json(),
        }
        if intervals:
            for name, counts in (("cer", "characters"), ("wer", "words")):
                per_utterance = [getattr(u, counts) for u in self.utterances]
                summary[f"{name}_interval"] = list(bootstrap_interval(per_utterance, seed=BOOTSTRAP_SEED))
        return summary

    def examples(self) -> dict[str, UtteranceResult]:
        """Best, median and worst utterance by character error rate, ties broken by id."""
        ranked = sorted(self.utterances, key=lambda u: (u.characters.rate, u.id))
        return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]} if ranked else {}

    def with_facts(self, facts: Mapping[str, tuple[float | None, str | None]]) -> "Evaluation":
        """The same results, each with (seconds, speaker) by utterance id."""
        return Evaluation(tuple(replace(u, seconds=facts[u.id][0], speaker=facts[u.id][1]) for u in self.utterances))


def results_text(result: Evaluation, *, step: int, decoder: Mapping[str, Any]) -> str:
    """What a file of results holds: a line an utterance, each with the checkpoint's step and what decoded it."""
    made = {"step": step, "decoder": dict(decoder)}
    return "".join(json.dumps(u.to_json() | made, ensure_ascii=False) + "\n" for u in result.utterances)


def step_of_results(path: Path) -> int | None:
    """The checkpoint that a file of results is of, by its first line; None where it does not say."""
    try:
        if not path.is_file():  # a pipe would never answer
            return None
        with path.open("rb") as file:
            row = json.loads(file.readline(LONGEST_LINE))
    except (OSError, ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int else None


def own_results(split: str, manifests: Mapping[str, str | None], digests: Mapping[str, str]) -> str:
    """Stem of the file with the results of a run's best checkpoint on one of the run's own splits.

    It is the manifest's. Two splits with different content and equal stems (en/clips.jsonl and fr/clips.jsonl) would write to one file,
    and dev's results be lost to test's: there the split's name stands behind it.

    Args:
        manifests: path by split, as the config has them. digests: sha256 by split, where it is known.
    """
    stems = {name: Path(path).stem for name, path in manifests.items() if path}
    stem, digest = stems[split], digests.get(split)
    alike = [name for name in stems if stems[name] == stem]
    if all(digests.get(name) == digest for name in alike):
        return stem
    return f"{stem}-{next(name for name in alike if digests.get(name) == digest)}"  # of equal files the first one's


def score_utterance(id: str, reference: str, hypothesis: str, loss: float) -> UtteranceResult:
    """Count the errors of one hypothesis."""
    words, characters = word_errors(reference, hypothesis), character_errors(reference, hypothesis)
    return UtteranceResult(id, reference, hypothesis, loss, words, characters)


def notes_on_tuning(report: dict[str, Any]) -> list[str]:
    """What a reader of a report must know of how its decoder's weights were chosen."""
    tuning = report.get("tuning")
    if not tuning:
        return []
    notes = []
    if count := tuning["utterances_tuned_on"]:
        where = "this manifest" if count == report["utterances"] else f"{count} of these utterances"
        notes.append(f"the decoder's weights were chosen on {where}: the rates are too good to be true")
    if tuning["step"] != report["step"]:
        notes.append(f"the decoder's weights were chosen at step {tuning['step']} of the run")
    return notes


def read_results(path: Path) -> Evaluation:
    """Results that an evaluation left on disk, in the file's order, errors counted anew.

    Raises:
        DataError: not such a file; every bad line with its number.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise DataError(f"{path}: a folder, a pipe or a device cannot be read as results.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file of results. `dsrun eval RUN` writes RUN/evaluation/<manifest>.jsonl."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}.") from None
    if _is_manifest(text):
        raise DataError(
            f"{path}: a manifest, no results. `dsrun eval RUN --manifest FILE` scores one, and leaves RUN/evaluation/<manifest>.jsonl."
        )
    utterances: dict[str, UtteranceResult] = {}
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = _parse(line)
            if found.id in utterances:
                raise DataError(f"id {found.id!r} stands in an earlier line already.")
            utterances[found.id] = found
        except DataError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise DataError(list_problems(problems))
    if not utterances:
        raise DataError(f"{path}: holds no results.")
    return Evaluation(tuple(utterances.values()))


def _is_manifest(text: str) -> bool:
    """Whether the first line names a recording, and says nothing that was recognised in it."""
    try:
        row = json.loads(text.lstrip().partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "audio_filepath" in row and "hypothesis" not in row


def _parse(line: str) -> UtteranceResult:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, and integers of thousands of digits
        raise DataError(f"not a JSON object: {error}.") from None
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__}, not a JSON object.")
    missing = [key for key in ("id", "reference", "hypothesis") if key not in row]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}; a result has id, reference and hypothesis.")
    id, reference, hypothesis = (_text(row, key) for key in ("id", "reference", "hypothesis"))
    scored = score_utterance(id, reference, hypothesis, _number(row, "loss", float("inf")))
    speaker = None if row.get("speaker") is None else _text(row, "speaker")
    seconds = None if row.get("seconds") is None else _number(row, "seconds", 0.0)
    if seconds is not None and seconds < 0:
        raise DataError(f"seconds is {seconds!r}; write a number that is not negative.")
    return replace(scored, seconds=seconds, speaker=speaker)


def _text(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{key} is {str(value)[:80]!r}; write a text.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{key} is {value[:80]!r}: half a surrogate pair, no character.")
    if len(value) > LONGEST_TEXT:
        raise DataError(f"{key} has {len(value):,} characters; the limit is {LONGEST_TEXT:,}.")
    return value


def _number(row: dict[str, Any], key: str, absent: float) -> float:
    value = row.get(key)
    if value is None:
        return absent
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise DataError(f"{key} is {str(value)[:80]!r}; write a number.")
    return float(value)
