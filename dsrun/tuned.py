"""What `dsrun eval --tune-lm` found best and left in RUN/evaluation/lm.json, read again.

On the roof, below `decoding.py`. Files are known by their sha256, so that weights are not used with other bytes than they were tuned
with; the manifest and the checkpoint are kept with them, because error rates on what weights were chosen on are too good to be true.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dsrun.decoding_options import BACKENDS
from dsrun.errors import DataError
from dsrun.speech.manifest import SHA256

TUNED = "lm.json"


class Folder(Protocol):
    """A run or an exported model: where it is, and where its results are."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def evaluation(self) -> Path:
        """The folder of results in it."""
        ...


@dataclass(frozen=True)
class Tuned:
    """Files and weights that were best; `manifest` and `step` are of what they were chosen on. The files' paths are absolute."""

    lm: str
    lm_sha256: str
    lexicon: str | None
    lexicon_sha256: str | None
    beam_width: int
    beam_backend: str
    lm_weight: float
    word_bonus: float
    manifest: str
    manifest_sha256: str
    step: int


def read_tuned(run: Folder) -> Tuned | None:
    """RUN/evaluation/lm.json, if it is there.

    Raises:
        DataError: it is there and is not what `--tune-lm` writes.
    """
    path = run.evaluation / TUNED
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = {"lexicon_sha256": None} | report | report["best"]
        tuned = Tuned(**{name: found[name] for name in Tuned.__dataclass_fields__})
        is_ours = _is_ours(tuned)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise DataError(f"{path}: not what `dsrun eval {run.path} --tune-lm` writes. Delete it, or tune again.")
    return tuned


def _is_ours(tuned: Tuned) -> bool:
    numbers = (tuned.lm_weight, tuned.word_bonus)
    digests = [tuned.lm_sha256, tuned.manifest_sha256] + [tuned.lexicon_sha256] * (tuned.lexicon is not None)
    return (
        isinstance(tuned.lm, str)
        and isinstance(tuned.manifest, str)
        and isinstance(tuned.lexicon, str | None)
        and all(isinstance(digest, str) and SHA256.fullmatch(digest) is not None for digest in digests)
        and type(tuned.step) is int
        and type(tuned.beam_width) is int
        and tuned.beam_width > 0
        and tuned.beam_backend in BACKENDS
        and all(type(number) in (int, float) and abs(number) < 1e6 for number in numbers)
        and tuned.lm_weight >= 0
    )
