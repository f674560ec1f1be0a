"""Scoring: a run's or exported model's error rates on a manifest, and each utterance's result on disk.

On the roof, between `models.py` (a model ready to recognise) and the room `evaluation` (hypotheses to rates). It runs the
network; what is shown of results, and read again without one, is `score_reports.py`.
"""

import errno
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from dsrun.decoding import make_decoder
from dsrun.decoding_options import GREEDY, DecodingOptions
from dsrun.dev_results import facts_of
from dsrun.errors import DataError
from dsrun.evaluation.results import Evaluation, own_results, results_text
from dsrun.heard import write_posteriors
from dsrun.models import Model, explaining_scoring, load_model
from dsrun.record import write_atomically
from dsrun.score_reports import Scored, where_errors_are
from dsrun.speech import Batcher, Utterance, count_recordings_in, file_digest, read_manifest
from dsrun.tuned import read_tuned


def evaluate_run(path: Path, **options: Any) -> dict[str, Any]:
    """The report of `score_run`."""
    return score_run(path, **options).report


def score_run(
    path: Path,
    *,
    manifest: Path | None,
    checkpoint: str | None,
    decoding: DecodingOptions = GREEDY,
    batch: int | None = None,
    format: str | None = None,
) -> Scored:
    """Score a run, or an exported model, on a manifest and write each utterance's result.

    Args:
        checkpoint: of a run; None is the best. format: of a run, to score it as it would be exported.
    """
    decoding.check()
    model = load_model(path, checkpoint, format=format)
    decoder = make_decoder(decoding, alphabet=model.alphabet, run=model)
    manifest = manifest or model.manifest_of("test", "dev")
    dataset, references, unknown = model.read(manifest)
    rows = batch or model.rows
    batcher = model.batcher(dataset, rows)
    with explaining_scoring(model, batcher, str(manifest)):
        result: Evaluation = model.evaluator(
            model.weights,
            model.statistics,
            batcher.epoch(0),
            references=references,
            alphabet=model.alphabet,
            decoder=decoder,
        )
    utterances = read_manifest(manifest)
    result = result.with_facts(facts_of(utterances))
    digest = file_digest(manifest)
    is_as_trained = digest in model.digests.values()
    described = decoder.describe()
    name = name_of_results(
        _own_stem(manifest, digest, model)
        if is_as_trained and checkpoint in (None, "best")
        else f"{manifest.stem}-{digest[:6]}-step_{model.step:06d}",
        format=format,
        other_batch=None if rows == model.rows else rows,
        decoder=described,
    )
    details = write_details(model.evaluation / name, result, described, step=model.step)
    split = "test" if model.manifests.get("test") else "dev"
    # The final scoring of a run, which its report draws.
    if details and not model.exported and name == f"{own_results(split, model.manifests, model.digests)}.jsonl":
        write_posteriors(model, batcher, result, split)
    report = {
        **model.origin,
        "manifest": str(manifest),
        "decoder": described,
        "batch": rows,
        "determinism": model.determinism,
        **result.summary(),
        "speed": _speed(model, batcher),
        "manifest_is_as_trained": is_as_trained,
        "tuning": _tuning(described, model, utterances, digest),
        "unknown_characters": dict(sorted(unknown.items())),
        **where_errors_are(result),
        "details": details,
    }
    return Scored(report, result)


def _speed(model: Model, batcher: Batcher) -> dict[str, float | None]:
    """What recognising took, network and decoder; reading files, compiling and counting errors are not in it."""
    heard, took = float(sum(batcher.dataset.seconds)), model.evaluator.seconds
    return {
        "audio_seconds": heard,
        "recognising_seconds": took,
        "compiling_seconds": model.evaluator.compile_seconds,
        "times_real_time": heard / took if took else None,
    }


def _tuning(decoder: dict[str, Any], model: Model, utterances: list[Utterance], digest: str) -> dict[str, int] | None:
    """Of weights that were tuned: on how many of these utterances, where that can still be told, and at which step; None for others."""
    if decoder.get("tuned_on_sha256") is None:
        return None
    tuned = read_tuned(model)
    assert tuned, "the decoder has its weights from there"
    count = len(utterances) if tuned.manifest_sha256 == digest else 0
    manifest = Path(tuned.manifest)
    if not count and manifest.is_file() and file_digest(manifest) == tuned.manifest_sha256:
        count = count_recordings_in(utterances, read_manifest(manifest))
    return {"utterances_tuned_on": count, "step": tuned.step}


# A file of results is not called after these: paths, whose sha256 are there, and what the weights were chosen on.
UNNAMED = ("lm", "lexicon", "tuned_on_sha256", "tuned_at_step")


def name_of_results(stem: str, *, other_batch: int | None, decoder: dict[str, Any], format: str | None = None) -> str:
    """What a file of results is called. The plain name is for the best checkpoint on the run's own data, in the arithmetic of its
    training, in batches of the config's size and greedily decoded; nothing else may replace that file, so all others say by their name
    what they are.

    Args:
        stem: of the manifest, with whatever else tells data and checkpoint. other_batch: its size where it is not the config's.
        decoder: what it says of itself; named by its kind and what its settings and files hash to. format: what a run was exported in
            to be scored.
    """
    stem = stem if format is None else f"{stem}-{format}"
    batch = "" if other_batch is None else f"-batch_{other_batch}"
    if decoder["kind"] == "greedy":
        return f"{stem}{batch}.jsonl"
    what = {name: value for name, value in decoder.items() if name not in UNNAMED}
    hashed = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:6]
    return f"{stem}{batch}-{decoder['kind']}-{hashed}.jsonl"


def _own_stem(manifest: Path, digest: str, model: Model) -> str:
    """Of a manifest that the run was trained with, under whatever name it is given now; one of noises has its own."""
    paths = model.manifests
    splits = [name for name, path in paths.items() if path and model.digests.get(name) == digest]
    named = [name for name in splits if Path(paths[name] or "").stem == manifest.stem]
    return own_results((named or splits)[0], paths, model.digests) if splits else manifest.stem


def write_details(path: Path, result: Evaluation, decoder: dict[str, Any], *, step: int) -> str | None:
    """Keep each utterance's result, with what decoded it; somebody else's run, which cannot be written in, is scored all the same."""
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, results_text(result, step=step, decoder=decoder))
    except (OSError, DataError) as error:
        cause = error.__cause__ if isinstance(error, DataError) else error
        if not isinstance(cause, OSError) or cause.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"{path}: not written ({cause.strerror}), so each utterance's result is not kept", file=sys.stderr)
        return None
    return str(path)
