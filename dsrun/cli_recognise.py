"""`dsrun eval` and `dsrun transcribe`: what a trained network makes of recordings."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dsrun.cli_options import JsonOption, RunArgument
from dsrun.cli_tables import print_scores


def evaluate(
    run: RunArgument,
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest to score. Default: the config's data.test, else data.dev.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step number.")] = "best",
    decoder: Annotated[str, typer.Option(help="greedy (the only one so far).")] = "greedy",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Utterances a batch. Default: the config's global batch.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Word and character error rates of a run on a manifest, with 95% bootstrap intervals over utterances.

    Rates are of the corpus: errors divided by reference words (characters), never clamped. An utterance whose reference is
    empty adds its hypothesis as insertions and nothing to the length; if all references are empty the rate is infinite with
    any insertion and 0 without. Each utterance's reference, hypothesis and errors go to RUN/evaluation/<manifest>.jsonl.
    """
    from dsrun.scoring import evaluate_run

    report = evaluate_run(run, manifest=manifest, checkpoint=checkpoint, decoder=decoder, batch=batch)
    print(json.dumps(report, indent=2)) if json_output else print_scores(report)


def transcribe(
    run: RunArgument,
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Audio files at the config's sample rate.")],
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step number.")] = "best",
    resample: Annotated[bool, typer.Option("--resample", help="Convert other sample rates.")] = False,
    channel: Annotated[int | None, typer.Option(min=0, help="Which channel of a file with several.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Print what was said in each file, one line a file."""
    from dsrun.transcription import transcribe_files

    results, failures = transcribe_files(run, audio, checkpoint=checkpoint, resample=resample, channel=channel)
    if json_output:
        print(json.dumps({"results": results, "failures": failures}, indent=2, ensure_ascii=False))
    else:
        for result in results:
            print(f"{result['file']}: {result['text']}" if len(audio) > 1 else result["text"])
    for failure in failures:
        print(failure["error"], file=sys.stderr)
    if failures:
        raise typer.Exit(3)
