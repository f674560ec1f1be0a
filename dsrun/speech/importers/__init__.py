"""Importers: the corpora that people have, as dsrun's manifests.

A corpus's own tables and folders become JSON lines (`manifest.py`), one file a split. No recording is copied or converted: rows
point at the files where they lie, at parts of long ones by offset, and at members of tar shards by the bytes. Text stays as it
was written (marks that stand for no word excepted): the config's normaliser decides what is learnt.

Each kind has a module whose function reads tables and yields rows (`rows.py`); `survey.py` reads the headers and sorts out what
cannot be used, alike for all; `writing.py` writes. Every utterance that a corpus names is taken or counted under a reason with
examples: a corpus with a thousand missing files says so.

A table may come from a stranger. Kinds that name files inside the corpus refuse names that lead out of it, unless told; where
absolute paths are usual (deepspeech_csv, deepspeech_pytorch, nemo, kaldi) they are taken. A shell command is run only when
asked.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsrun.errors import DataError, UsageError
from dsrun.speech.importers.aishell import read_aishell
from dsrun.speech.importers.common_voice import read_common_voice
from dsrun.speech.importers.deepspeech import read_deepspeech_csv, read_deepspeech_pytorch
from dsrun.speech.importers.folder import read_folder
from dsrun.speech.importers.hf_folder import read_hf_folder
from dsrun.speech.importers.kaldi import read_kaldi
from dsrun.speech.importers.librispeech import read_librispeech, read_libritts, read_mls
from dsrun.speech.importers.ljspeech import read_ljspeech
from dsrun.speech.importers.nemo import read_nemo
from dsrun.speech.importers.rows import Found, ImportOptions, LeftOut, Row, readable
from dsrun.speech.importers.survey import survey
from dsrun.speech.importers.tedlium import read_tedlium
from dsrun.speech.importers.webdataset import read_webdataset
from dsrun.speech.importers.writing import Output
from dsrun.speech.normalizers import make_normalizer

KINDS: dict[str, Callable[[Path, ImportOptions], Found]] = {
    "librispeech": read_librispeech,
    "libritts": read_libritts,
    "mls": read_mls,
    "common_voice": read_common_voice,
    "tedlium": read_tedlium,
    "aishell": read_aishell,
    "ljspeech": read_ljspeech,
    "deepspeech_csv": read_deepspeech_csv,
    "deepspeech_pytorch": read_deepspeech_pytorch,
    "nemo": read_nemo,
    "kaldi": read_kaldi,
    "hf_folder": read_hf_folder,
    "folder": read_folder,
    "webdataset": read_webdataset,
}

# Which kinds read an option; given to another it would be ignored in silence. (`splits` are sorted out for all alike.)
READERS: dict[str, tuple[str, ...]] = {
    "text": ("libritts", "common_voice", "ljspeech", "nemo", "hf_folder", "webdataset"),
    "audio_root": ("deepspeech_csv", "deepspeech_pytorch", "nemo", "kaldi"),
    "allow_outside": ("librispeech", "common_voice", "ljspeech", "hf_folder"),
    "run_command": ("kaldi",),
}
FLAGS = {
    "text": "--text",
    "audio_root": "--audio-root",
    "allow_outside": "--allow-outside",
    "run_command": "--allow-commands",
}

# What a corpus of each kind is imported from.
SOURCES = {
    "librispeech": "the folder above its subsets (train-clean-100, dev-clean ...)",
    "libritts": "the folder above its subsets (train-clean-100, dev-clean ...)",
    "mls": "the folder above train, dev and test",
    "common_voice": "the locale's folder, the one with clips and train.tsv, or the one above it; --split NAME takes one table",
    "tedlium": "the folder above train, dev and test",
    "aishell": "the folder of transcript and wav",
    "ljspeech": "the folder of metadata.csv and wavs",
    "deepspeech_csv": "a CSV table or a folder of them",
    "deepspeech_pytorch": "a CSV or JSON table, a folder of them, or the folder of wav and txt",
    "nemo": "a JSON-lines manifest or a folder of them",
    "kaldi": "the folder of wav.scp and text, or the one above such folders",
    "hf_folder": "the folder of the recordings with metadata.csv or metadata.jsonl",
    "folder": "a folder of name.wav (flac, ogg, mp3 ...) with name.txt beside it",
    "webdataset": "a tar shard or a folder of them",
}
FILES_TOO = ("deepspeech_csv", "deepspeech_pytorch", "nemo", "webdataset")  # of which a source may be a single file

__all__ = ["KINDS", "ImportOptions", "LeftOut", "Row", "import_corpus"]


def import_corpus(
    kind: str,
    source: Path,
    out: Path,
    options: ImportOptions = ImportOptions(),  # noqa: B008 (frozen)
    *,
    normalizer: str = "nfkc_lower",
    percents: tuple[int, ...] | None = None,
    allow_commands: bool = False,
    relative: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write a corpus's manifests and `import.json` into the folder `out`; returns the report.

    Args:
        kind: one of KINDS.
        source: the corpus's folder, or where a kind has them its table.
        normalizer: by name; texts that it refuses or empties are left out.
        percents: train, dev and test of a corpus without splits, by a hash of the text.
        allow_commands: run commands that stand in a table instead of files (`options.run_command` is set).
        relative: paths relative to `out` instead of absolute ones.
        strict: anything wrong with the corpus is an error.
        on_progress: called with the number of rows so far.

    Raises:
        UsageError: no such kind or split, an option that the kind does not read, or `out` may not be replaced.
        DataError: no such corpus there, a table that cannot be read, nothing left, or with `strict` anything left out.
    """
    if kind not in KINDS:
        raise UsageError(f"no kind {kind!r}; there are {', '.join(KINDS)}.")
    if percents is not None and (len(percents) != 3 or min(percents) < 0 or sum(percents) != 100):
        raise UsageError(
            f"--split-by-hash {'/'.join(map(str, percents))}: write three shares that add up to 100, as 80/10/10."
        )
    _require_source(kind, source)
    _require_readers(kind, options, allow_commands)
    with Output(out, overwrite=overwrite, relative=relative) as output:
        options = replace(options, run_command=output.run_command if allow_commands else None)
        found = KINDS[kind](source, options)
        items = survey(
            found,
            normalizer=make_normalizer(normalizer),
            splits=options.splits,
            percents=percents,
            on_progress=on_progress,
        )
        try:
            totals, left_out = output.write(items)
        except OSError as error:  # a folder or a table that may not be read
            raise DataError(f"{error.filename or source}: {error.strerror}.") from None
        report = {
            "kind": kind,
            "source": readable(str(source.absolute())),
            "options": {
                "splits": list(map(readable, options.splits)),
                "text": None if options.text is None else readable(options.text),
                "audio_root": None if options.audio_root is None else readable(str(options.audio_root)),
                "normalizer": normalizer,
                "split_by_hash": None if percents is None else list(percents),
                "allow_outside": options.allow_outside,
                "allow_commands": allow_commands,
                "relative": relative,
            },
            "splits": {name: totals[name].to_json() for name in totals},
            "left_out": left_out,
        }
        _require_enough(source, report, strict)
        output.commit(report)
    return report


def _require_source(kind: str, source: Path) -> None:
    """Raises DataError that says what the kind is imported from."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. {kind} is imported from {SOURCES[kind]}.")
    if not source.is_dir() and kind not in FILES_TOO:
        raise DataError(f"{source}: a file; {kind} is imported from {SOURCES[kind]}.")


def _require_readers(kind: str, options: ImportOptions, allow_commands: bool) -> None:
    """Raises UsageError for an option that would change nothing."""
    given = {
        "text": options.text is not None,
        "audio_root": options.audio_root is not None,
        "allow_outside": options.allow_outside,
        "run_command": allow_commands or options.run_command is not None,
    }
    for name, is_given in given.items():
        if is_given and kind not in READERS[name]:
            raise UsageError(f"{FLAGS[name]}: {kind} does not read it; {', '.join(READERS[name])} do. Leave it out.")


def _require_enough(source: Path, report: dict[str, Any], strict: bool) -> None:
    left_out = report["left_out"]
    lines = [f"  {reason}: {entry['count']}, such as {entry['examples'][0]}" for reason, entry in left_out.items()]
    if not report["splits"]:
        raise DataError("\n".join([f"{source}: no utterance is left." + " Left out:" * bool(lines), *lines]))
    faults = sum(entry["count"] for entry in left_out.values() if entry["is_fault"])
    if strict and faults:
        raise DataError("\n".join([f"{source}: --strict, and {faults} would be left out:", *lines]))
