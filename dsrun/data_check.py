"""What `dsrun data check` does: manifests, alone and beside each other, under a config or without.

On the roof, since a config decides what characters and lengths are allowed. Nothing here trains or writes, but for a picture.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from dsrun.config import Batches, Config, Resolved, load_config
from dsrun.errors import DataError, UsageError
from dsrun.speech import (
    Alphabet,
    AudioSettings,
    CheckReport,
    Depth,
    FeatureSettings,
    Padding,
    Problems,
    Split,
    TextPolicy,
    Utterance,
    Workers,
    check_manifest,
    encode_all,
    find_leakage,
    make_normalizer,
    open_manifest,
    padding_by_buckets,
)

CHUNK = 10_000  # utterances whose labels are in memory at once
SPLITS = ("train", "dev", "test")
LINE_EVERY = 30.0  # seconds between lines of progress where stderr is no terminal


@dataclass(frozen=True)
class Rules:
    """What manifests are checked against: a config's settings, or the defaults without alphabet and network."""

    audio: AudioSettings
    features: FeatureSettings
    batches: Batches
    speeds: tuple[float, ...] = (1.0,)
    alphabet: Alphabet | None = None
    config: Config | None = None


@dataclass(frozen=True)
class CheckedData:
    """One report a manifest with its padding, and all that is wrong: the document that `--json` prints has it all."""

    manifests: dict[str, CheckReport]
    padding: dict[str, list[Padding]]
    document: dict[str, Any]


def check_data(
    manifests: Sequence[Path], *, config: Path | None, sample_rate: int, depth: Depth = "samples", workers: int = 0
) -> CheckedData:
    """Look at manifests and their recordings: all errors and warnings, totals, and what the manifests share.

    With a config the characters (against the alphabet of its training text) and the CTC feasibility of each utterance are checked
    too; without manifests its own are taken.

    Raises:
        UsageError: neither a manifest nor a config; a manifest twice.
        DataError: a manifest that cannot be read.
    """
    loaded = load_config(config) if config else None
    resolved = loaded.config if loaded else None
    names = [str(path) for path in manifests] or _manifests_of(resolved)
    if loaded and not manifests and (missing := [text for key in SPLITS if (text := _missing(loaded, key))]):
        raise DataError("\n".join(missing))
    if len(set(names)) < len(names):
        raise UsageError("the same manifest twice: every recording would be shared. Name each once.")
    rules, refused = _rules(loaded, sample_rate)
    pool = Workers(workers)
    reports: dict[str, CheckReport] = {}
    splits, padding, warnings = [], {}, []
    # Refused texts of a manifest that is looked at are told below, each with its line.
    errors = [refused] if resolved and refused and not any(_is(resolved.data.train, name) for name in names) else []
    of_config = len(errors)
    for name in names:
        utterances = open_manifest(name)
        progress = _progress(name)
        report = check_manifest(
            utterances,
            audio=rules.audio,
            alphabet=rules.alphabet,
            policy=_policy(resolved, name),
            depth=depth,
            workers=pool,
            on_progress=progress,
        )
        found = _infeasible(rules, utterances, report.columns.seconds)
        severity = "errors" if resolved and _refuses_infeasible(resolved, name) else "warnings"
        report.kinds[severity] |= dict(found.counts)
        prefix = f"{name}: " if len(names) > 1 else ""
        errors += [prefix + text for text in report.errors + (found.listed() if severity == "errors" else [])]
        warnings += [prefix + text for text in report.warnings + (found.listed() if severity == "warnings" else [])]
        reports[name], padding[name] = report, _padding(rules, report.columns.seconds)
        splits.append(Split(name, utterances, report.columns))
    leaked, shared, rows = find_leakage(splits)
    document = {
        "errors": [*errors, *leaked.listed()],
        "warnings": [*warnings, *shared.listed()],
        "totals": _totals(reports, leaked.counts.total() + of_config, shared.counts.total()),
        "manifests": [_manifest_document(name, reports[name], padding[name]) for name in names],
        "leakage": rows,
    }
    return CheckedData(reports, padding, document)


def _manifests_of(config: Config | None) -> list[str]:
    if config is None:
        raise UsageError("nothing to check: name manifests, or --config to check its own.")
    return [path for path in (config.data.train, config.data.dev, config.data.test) if path is not None]


def _missing(loaded: Resolved, key: str) -> str | None:
    """What to say of a manifest that the config names and that is not there."""
    path = getattr(loaded.config.data, key)
    if path is None or Path(path).exists():
        return None
    return (
        f"{path}: no such manifest. data.{key} of {loaded.path} names it ({loaded.origins[f'data.{key}']}); relative paths under "
        "`data` start at the folder of the config that has them."
    )


def _rules(loaded: Resolved | None, sample_rate: int) -> tuple[Rules, str | None]:
    """What to check against, and why texts are not all checked: training texts that are not there or that the normaliser refuses."""
    if loaded is None:
        features = FeatureSettings("log_spectrogram", sample_rate)
        return Rules(AudioSettings(sample_rate, said_by="--sample-rate"), features, Batches()), None
    from dsrun import build

    config = loaded.config
    missing = _missing(loaded, "train") if config.data.alphabet is None else None
    untold = f"{missing} Without it characters and CTC feasibility are not checked."
    alphabet, refused = (None, untold) if missing else _alphabet(config)
    speeds = config.augment.speeds if config.augment else (1.0,)
    audio, features = build.build_audio(config), build.build_features(config)
    return Rules(audio, features, config.batches, tuple(speeds), alphabet, config), refused


def _alphabet(config: Config) -> tuple[Alphabet, str | None]:
    """The config's alphabet, of those training texts that its normaliser takes."""
    normalizer, path = config.data.normalizer, config.data.alphabet
    if path is not None:
        return Alphabet.from_file(Path(path), normalizer=normalizer), None
    index = open_manifest(config.data.train)
    try:
        return Alphabet.from_texts((row.fields["text"] for row in index.rows()), normalizer=normalizer), None
    except DataError as error:
        normalize = make_normalizer(normalizer)
        taken = (text for row in index.rows() if _is_accepted(text := row.fields["text"], normalize))
        refused = f"{index.path}: data.normalizer {normalizer}: {error}"
        return Alphabet.from_texts(taken, normalizer=normalizer), refused


def _is(path: str | None, name: str) -> bool:
    return path is not None and Path(path).resolve() == Path(name).resolve()


def _policy(config: Config | None, name: str) -> TextPolicy:
    """What training under the config does with a manifest's texts. Test's are only scored: nothing of them is refused."""
    if config is None:
        return TextPolicy()
    if _is(config.data.test, name) and not _is(config.data.dev, name):
        return TextPolicy("drop", "keep")
    return TextPolicy(config.data.unknown_characters, config.data.empty_transcript)


def _refuses_infeasible(config: Config, name: str) -> bool:
    """Whether training would refuse a manifest for what CTC cannot align; dev and test are not learnt from."""
    is_scored = _is(config.data.dev, name) or _is(config.data.test, name)
    return config.data.infeasible == "error" and (not is_scored or _is(config.data.train, name))


def _infeasible(rules: Rules, utterances: Sequence[Utterance], seconds: Float64[np.ndarray, " utterance"]) -> Problems:
    """Usable utterances that CTC could not align at the config's fastest speed."""
    problems = Problems()
    if rules.config is None or rules.alphabet is None:
        return problems
    from dsrun import build
    from dsrun.model import output_frames
    from dsrun.training.feasibility import find_infeasible

    settings = build.build_model_settings(rules.config, num_classes=rules.alphabet.num_classes)
    fastest = max(rules.speeds)
    for start in range(0, len(utterances), CHUNK):
        numbers = [n for n in range(start, min(start + CHUNK, len(utterances))) if seconds[n] > 0]
        texts = {u.id: _accepted(u.text, rules.alphabet) for u in (utterances[n] for n in numbers)}
        labels = encode_all(texts, rules.alphabet, on_unknown="drop").labels
        frames = [_frames(rules, seconds[n] / fastest) for n in numbers]
        for found in find_infeasible(list(texts), frames, labels, output_frames=lambda n: output_frames(settings, n)):
            problems.add("infeasible", str(found))
    return problems


def _is_accepted(text: str, normalize: Callable[[str], str]) -> bool:
    try:
        normalize(text)
    except DataError:
        return False
    return True


def _accepted(text: str, alphabet: Alphabet) -> str:
    """The text, or none if the normaliser refuses it, which is an error of its own already."""
    try:
        return alphabet.normalize(text)
    except DataError:
        return ""


def _frames(rules: Rules, seconds: float) -> int:
    return rules.features.num_frames(int(seconds * rules.audio.sample_rate))


def _padding(rules: Rules, seconds: Float64[np.ndarray, " utterance"]) -> list[Padding]:
    usable = seconds[seconds > 0]
    plain, longest = (
        np.array([_frames(rules, second / speed) for second in usable], np.int64) for speed in (1.0, min(rules.speeds))
    )
    if not plain.any():
        return []
    batches = rules.batches
    return padding_by_buckets(plain, longest, global_batch=batches.global_batch, frame_multiple=batches.frame_multiple)


def _totals(reports: dict[str, CheckReport], leaked: int, shared: int) -> dict[str, Any]:
    columns = [report.columns for report in reports.values()]
    kinds = [report.kinds for report in reports.values()]
    return {
        "utterances": sum(len(found.seconds) for found in columns),
        "usable": sum(int((found.seconds > 0).sum()) for found in columns),
        "hours": round(sum(float(found.seconds.sum()) for found in columns) / 3600, 3),
        "errors": sum(sum(row["errors"].values()) for row in kinds) + leaked,
        "warnings": sum(sum(row["warnings"].values()) for row in kinds) + shared,
    }


def _manifest_document(name: str, report: CheckReport, padding: Sequence[Padding]) -> dict[str, Any]:
    found = report.to_json()
    del found["errors"], found["warnings"]  # all manifests' are together
    return {"manifest": name, **found, "padding": [asdict(row) for row in padding]}


def _progress(name: str) -> Callable[[int, int], None]:
    """A line on stderr: kept current on a terminal, otherwise a new one every 30 seconds."""
    is_terminal, last = sys.stderr.isatty(), time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if is_terminal and (now - last > 0.2 or done == total):
            end = "\n" if done == total else ""
            print(f"\rchecking {name}: {done}/{total}", end=end, file=sys.stderr, flush=True)
            last = now
        elif not is_terminal and now - last > LINE_EVERY:
            print(f"checking {name}: {done}/{total}", file=sys.stderr, flush=True)
            last = now

    return show
