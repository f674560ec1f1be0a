"""`dsrun data`: import, check and look at what a recogniser is trained and scored on."""

import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsrun.cli_options import ConfigOption, JsonOption, SetOption
from dsrun.cli_tables import print_check, print_import
from dsrun.errors import UsageError

IMPORT_KINDS = (
    "librispeech, libritts, mls, common_voice, tedlium, aishell, ljspeech, deepspeech_csv, deepspeech_pytorch, nemo, kaldi, "
    "hf_folder, folder, webdataset"
)
IMPORT_EXAMPLE = "Example: dsrun data import common_voice cv-corpus-17.0/en manifests/cv_en --normalizer english"

data_app = typer.Typer(help="Import corpora; check and look at manifests.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("import", epilog=IMPORT_EXAMPLE)
def data_import(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"What the corpus is: {IMPORT_KINDS}.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The corpus's folder, or its table or tar file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the manifests and import.json into.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="NAME", help="Only this split of the corpus. Repeatable.")
    ] = None,
    split_by_hash: Annotated[
        str | None,
        typer.Option(
            metavar="80/10/10",
            help="Shares of train, dev and test for a corpus without splits: by a hash of the text, so that no text is in two.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Which text where a corpus has several: normalized, original, or a column's name."),
    ] = None,
    normalizer: Annotated[
        str,
        typer.Option(help="Leave texts out that this normaliser refuses or empties (data.normalizer of the config)."),
    ] = "nfkc_lower",
    audio_root: Annotated[
        Path | None, typer.Option(help="Folder that relative paths in tables start from, instead of the table's own.")
    ] = None,
    relative: Annotated[bool, typer.Option("--relative", help="Write paths relative to OUT, not absolute.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 if anything has to be left out, and write nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an import left in OUT.")] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Take file names that lead out of the corpus.")
    ] = False,
    allow_commands: Annotated[
        bool,
        typer.Option(
            "--allow-commands", help="Run the shell commands of a wav.scp; what they write is kept in OUT/audio."
        ),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a corpus's manifests, without copying audio, and say what had to be left out. Exit code 3 if nothing is left."""
    from dsrun.speech.importers import ImportOptions, import_corpus

    counter = RowCounter()
    report = import_corpus(
        kind,
        source,
        out,
        ImportOptions(
            splits=tuple(split or ()),
            text=text,
            audio_root=audio_root,
            allow_outside=allow_outside,
        ),
        normalizer=normalizer,
        percents=None if split_by_hash is None else _percents(split_by_hash),
        allow_commands=allow_commands,
        relative=relative,
        strict=strict,
        overwrite=overwrite,
        on_progress=counter,
    )
    counter.end()
    if json_output:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print_import(report, out)


def _percents(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(share) for share in text.split("/"))
    except ValueError:
        raise UsageError(f"--split-by-hash {text}: write three shares that add up to 100, as 80/10/10.") from None


class RowCounter:
    """Rows so far on stderr: in place on a terminal, otherwise a line every 30 seconds."""

    def __init__(self) -> None:
        self.is_terminal, self.said = sys.stderr.isatty(), time.monotonic()

    def __call__(self, rows: int) -> None:
        """So many rows have been looked at."""
        if self.is_terminal or time.monotonic() - self.said > 30:
            self.said = time.monotonic()
            print(f"{rows:,} rows looked at", end="\r" if self.is_terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """What follows begins a line."""
        if self.is_terminal:
            print(file=sys.stderr)


class Depth(StrEnum):
    """How deep `check` looks."""

    samples = "samples"
    headers = "headers"
    nothing = "nothing"


@data_app.command("check")
def data_check(
    manifests: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MANIFEST]...",
            help="JSON-lines manifests, e.g. of train, dev and test; default those of --config.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Also check characters and CTC feasibility under this config.")
    ] = None,
    sample_rate: Annotated[
        int, typer.Option(min=1000, max=192_000, help="Rate that every file must have (Hz), without --config.")
    ] = 16_000,
    audio: Annotated[
        Depth,
        typer.Option(
            help="What is read of each recording: all samples, the file's header, or nothing (the manifest is believed)."
        ),
    ] = Depth.samples,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read side by side.")] = 2,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of lengths, rates of speech and padding, .png or .svg.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look at every recording and transcript and report all problems at once, also what the manifests share. Usable are utterances
    whose recording has no error, whatever is wrong with the text. Exit code 3 if there are errors."""
    from dsrun.data_check import check_data

    if plot is not None:
        from dsrun.study.plots import check_suffix

        check_suffix(plot)
    checked = check_data(manifests or [], config=config, sample_rate=sample_rate, depth=audio.value, workers=workers)
    if json_output:
        print(json.dumps(checked.document, indent=2, ensure_ascii=False))
    else:
        print_check(checked.document)
    if plot is not None:
        from dsrun.data_check_plot import draw_check

        draw_check(checked, plot)
    if checked.document["errors"]:
        raise typer.Exit(3)


@data_app.command("show")
def data_show(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    utterance: Annotated[str | None, typer.Argument(help="Id of the utterance; default the first.")] = None,
    config: ConfigOption = Path("configs/prompts_float32.yaml"),
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose augmentation is shown beside the plain clip.")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture, .png or .svg.")] = Path("utterance.png"),
    wav: Annotated[Path | None, typer.Option(help="Also write what that epoch hears, .wav or .flac.")] = None,
) -> None:
    """Draw an utterance, plain, with each augmentation alone, and as training gets it."""
    from dsrun.data_show import show_utterance

    print(show_utterance(manifest, utterance, config=config, epoch=epoch, output=output, audio=wav))


@data_app.command("pack", epilog="Example: dsrun data pack corpus/train.jsonl packed/")
def data_pack(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    out: Annotated[Path, typer.Argument(help="New folder for the tar shards and their manifest.")],
    shard_mb: Annotated[int, typer.Option(min=1, max=1 << 20, help="MiB of recordings in a tar shard.")] = 256,
    json_output: JsonOption = False,
) -> None:
    """Copy a manifest's recordings into tar shards, which training reads as they are (no unpacking, random access)."""
    from dataclasses import asdict

    from dsrun.speech.tar_packing import pack_manifest

    packed = pack_manifest(manifest, out, shard_mb=shard_mb)
    if json_output:
        print(json.dumps(asdict(packed) | {"manifest": str(packed.manifest)}, ensure_ascii=False))
    else:
        print(
            f"{packed.manifest}: {packed.utterances} utterances, {packed.bytes / 1e9:.3g} GB in {packed.shards} tar shards"
        )


@data_app.command("augment")
def data_augment(
    manifest: Annotated[Path, typer.Argument(help="JSON-lines manifest.")],
    out: Annotated[Path, typer.Argument(help="Folder for the copy; must not be there yet.")],
    config: ConfigOption = Path("configs/prompts_float32.yaml"),
    set_: SetOption = None,
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose draws are taken.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that work side by side.")] = 2,
    json_output: JsonOption = False,
) -> None:
    """Write a copy of a manifest's clips as the config's augmentation makes them: a test set in noise, in rooms, at other speeds."""
    from dsrun.data_augment import augment_manifest

    report = augment_manifest(manifest, out, config=config, sets=set_ or (), epoch=epoch, workers=workers)
    if json_output:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("  ".join(f"{name} {value}" for name, value in report.items()))
