"""Scoring: a run's error rates on a manifest, and each utterance's result on disk.

On the roof, between `trained.py` (a run folder, ready to recognise) and the room `evaluation` (hypotheses to rates). It runs the
network; what is shown of results, and read again without one, is `score_reports.py`.
"""

import errno
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from dsrun import build
from dsrun.config import Config
from dsrun.decoding import make_decoder
from dsrun.decoding_options import GREEDY, DecodingOptions
from dsrun.dev_results import facts_of, own_manifests
from dsrun.errors import DataError
from dsrun.evaluation.results import Evaluation, own_results, results_text
from dsrun.heard import write_posteriors
from dsrun.record import RunDir, read_provenance, write_atomically
from dsrun.score_reports import Scored, where_errors_are
from dsrun.speech import Utterance, count_recordings_in, file_digest, read_manifest
from dsrun.trained import Trained, explaining_scoring, load_run
from dsrun.tuned import read_tuned


def evaluate_run(path: Path, **options: Any) -> dict[str, Any]:
    """The report of `score_run`."""
    return score_run(path, **options).report


def score_run(
    path: Path,
    *,
    manifest: Path | None,
    checkpoint: str,
    decoding: DecodingOptions = GREEDY,
    batch: int | None = None,
) -> Scored:
    """Score a run on a manifest and write each utterance's result."""
    decoding.check()
    trained = load_run(path, checkpoint)
    decoder = make_decoder(decoding, alphabet=trained.alphabet, run=trained.run)
    config = trained.config
    manifest = manifest or Path(config.data.test or config.data.dev)
    cache = build.cache_of(config, access="read")
    dataset, references, unknown = build.build_evaluation_data(
        config, manifest, trained.alphabet, trained.normalization, cache=cache
    )
    usual_batch = config.batches.global_batch
    if batch is not None:
        config = config.model_copy(update={"batches": config.batches.model_copy(update={"global_batch": batch})})
    rows = config.batches.global_batch
    batcher = build.build_batcher(config, dataset, purpose="evaluate")
    with explaining_scoring(trained, batcher, str(manifest)):
        result: Evaluation = trained.evaluator(
            trained.weights,
            trained.statistics,
            batcher.epoch(0),
            references=references,
            alphabet=trained.alphabet,
            decoder=decoder,
        )
    utterances = read_manifest(manifest)
    result = result.with_facts(facts_of(utterances))
    digest = file_digest(manifest)
    digests = digests_at_the_start(trained.run)
    is_as_trained = digest in digests.values()
    described = decoder.describe()
    name = name_of_results(
        _own_stem(manifest, digest, trained.config, digests)
        if is_as_trained and checkpoint == "best"
        else f"{manifest.stem}-{digest[:6]}-step_{trained.step:06d}",
        other_batch=None if rows == usual_batch else rows,
        decoder=described,
    )
    details = write_details(trained.run.evaluation / name, result, described, step=trained.step)
    split = "test" if config.data.test else "dev"
    if details and name == f"{own_results(split, own_manifests(config), digests)}.jsonl":  # the final scoring
        write_posteriors(trained, batcher, result, split)
    report = {
        "run": str(path),
        "step": trained.step,
        "manifest": str(manifest),
        "decoder": described,
        "batch": rows,
        "determinism": config.determinism,
        **result.summary(),
        "manifest_is_as_trained": is_as_trained,
        "tuning": _tuning(described, trained, utterances, digest),
        "unknown_characters": dict(sorted(unknown.items())),
        **where_errors_are(result),
        "details": details,
    }
    return Scored(report, result)


def _tuning(
    decoder: dict[str, Any], trained: Trained, utterances: list[Utterance], digest: str
) -> dict[str, int] | None:
    """Of weights that were tuned: on how many of these utterances, where that can still be told, and at which step; None for others."""
    if decoder.get("tuned_on_sha256") is None:
        return None
    tuned = read_tuned(trained.run)
    assert tuned, "the decoder has its weights from there"
    count = len(utterances) if tuned.manifest_sha256 == digest else 0
    manifest = Path(tuned.manifest)
    if not count and manifest.is_file() and file_digest(manifest) == tuned.manifest_sha256:
        count = count_recordings_in(utterances, read_manifest(manifest))
    return {"utterances_tuned_on": count, "step": tuned.step}


# A file of results is not called after these: paths, whose sha256 are there, and what the weights were chosen on.
UNNAMED = ("lm", "lexicon", "tuned_on_sha256", "tuned_at_step")


def name_of_results(stem: str, *, other_batch: int | None, decoder: dict[str, Any]) -> str:
    """What a file of results is called. The plain name is for the best checkpoint on the run's own data, in batches of the config's size
    and greedily decoded; nothing else may replace that file, so all others say by their name what they are.

    Args:
        stem: of the manifest, with whatever else tells data and checkpoint. other_batch: its size where it is not the config's.
        decoder: what it says of itself; named by its kind and what its settings and files hash to.
    """
    batch = "" if other_batch is None else f"-batch_{other_batch}"
    if decoder["kind"] == "greedy":
        return f"{stem}{batch}.jsonl"
    what = {name: value for name, value in decoder.items() if name not in UNNAMED}
    hashed = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:6]
    return f"{stem}{batch}-{decoder['kind']}-{hashed}.jsonl"


def _own_stem(manifest: Path, digest: str, config: Config, digests: dict[str, str]) -> str:
    """Of a manifest that the run was trained with, under whatever name it is given now; one of noises has its own."""
    paths = own_manifests(config)
    splits = [name for name, path in paths.items() if path and digests.get(name) == digest]
    named = [name for name in splits if Path(paths[name] or "").stem == manifest.stem]
    return own_results((named or splits)[0], paths, digests) if splits else manifest.stem


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


def digests_at_the_start(run: RunDir) -> dict[str, str]:
    """Of the manifests, by split."""
    found = read_provenance(run.provenance).get("data", {}) if run.provenance.is_file() else {}
    return {name: str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}
