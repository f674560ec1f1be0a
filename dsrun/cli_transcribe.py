"""`dsrun transcribe`: recordings of any length, rate and channel layout to text, JSON or subtitles."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsrun.cli_decoding import (
    BeamBackendOption,
    BeamWidthOption,
    DecoderOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    WordBonusOption,
)
from dsrun.cli_options import CheckpointOption, JsonOption, ModelArgument, finite
from dsrun.errors import UsageError

if TYPE_CHECKING:
    from dsrun.decoding_options import DecodingOptions

EXAMPLE = (
    "Examples:  dsrun transcribe RUN *.wav    dsrun transcribe RUN/export/int8 talk.mp3 --srt > talk.srt    "
    "ffmpeg -i talk.mkv -f wav - | dsrun transcribe RUN - --json"
)


def transcribe(
    model: ModelArgument,
    audio: Annotated[
        list[Path] | None,
        typer.Argument(metavar="AUDIO...", help="WAV, FLAC, Ogg, MP3 and others; - reads standard input."),
    ] = None,
    files_from: Annotated[Path | None, typer.Option(metavar="FILE", help="More paths, one a line.")] = None,
    checkpoint: CheckpointOption = None,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="N|mix", help="Channel of a file with several, from 0. Default: the config's, else the mix."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse another rate or several channels than the config allows.")
    ] = False,
    chunk_seconds: Annotated[
        float | None,
        typer.Option(callback=finite, help="Cut longer files. Default: 20, or the run's data.max_seconds if less."),
    ] = None,
    overlap_seconds: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="What two chunks share. Default: 2.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Chunks recognised together.")] = 8,
    raw_rate: Annotated[
        int | None,
        typer.Option(
            metavar="HZ",
            min=1000,
            max=768_000,
            help="Standard input is bare samples, 16-bit little-endian, one channel.",
        ),
    ] = None,
    decoder: DecoderOption = "greedy",
    beam_width: BeamWidthOption = None,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    word_bonus: WordBonusOption = None,
    lexicon: LexiconOption = None,
    beam_backend: BeamBackendOption = None,
    json_output: JsonOption = False,
    srt: Annotated[
        bool, typer.Option("--srt", help="SubRip subtitles: printed, or of several files beside them.")
    ] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="WebVTT subtitles, likewise.")] = False,
    output_dir: Annotated[Path | None, typer.Option(help="Write a file for each recording in this folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print text while one recording (a file, or - for standard input) comes.")
    ] = False,
    chunk_ms: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            max=60_000.0,
            callback=finite,
            help="With --stream: sound taken in at a time, in milliseconds. Default: 200.",
        ),
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="With --stream: a file at the speed of sound, as a microphone would be.")
    ] = False,
) -> None:
    """Print what was said in each file, in their order, each as soon as it is known.

    What is done to the samples (resampling, mixing) is told on stderr, and the speed at the end. Long files are recognised in
    overlapping chunks, which are joined where both say the same. A word's times are those of the output frames that say it; its
    confidence is the mean probability that the network gives it there, which ranks words and is not calibrated. A file that
    cannot be read is told, the others are transcribed, and the exit code is 3.

    With --stream the text so far, as soon as it is known: a network of forward layers (model.direction) hears the recording in one
    piece, and the text in the end is dsrun eval's, also where without --stream it would be cut into chunks. Its latency is printed to
    stderr; with --json each piece of new text is a line.
    """
    started = time.monotonic()
    from dsrun.decoding_options import DecodingOptions

    decoding = DecodingOptions(decoder, beam_width, lm, lm_weight, word_bonus, lexicon, beam_backend)
    chosen = _channel(channel)
    if stream:
        whole = (files_from, chunk_seconds, overlap_seconds, output_dir)
        if any(option is not None for option in whole) or srt or vtt or overwrite or decoding != DecodingOptions():
            raise UsageError(
                "--stream prints greedy text as it comes: lists, chunks of seconds, subtitles, files and decoders are for whole "
                "recordings. Leave them out, or --stream."
            )
        if chosen == "mix":
            raise UsageError("--stream takes one channel and does not mix: write its number.")
        from dsrun.cli_stream import transcribe_stream

        transcribe_stream(
            model,
            audio or [],
            as_json=json_output,
            checkpoint=checkpoint,
            chunk_ms=200.0 if chunk_ms is None else chunk_ms,
            resample=not strict,
            channel=chosen,
            raw_rate=raw_rate,
            is_paced=realtime,
        )
        return
    if chunk_ms is not None or realtime:
        raise UsageError("--chunk-ms and --realtime belong to --stream: add it, or leave them out.")
    from dsrun.transcription_sources import list_sources

    paths = list_sources(audio or [], files_from)
    asked = {"json": json_output, "srt": srt, "vtt": vtt}
    formats = [format for format, is_asked in asked.items() if is_asked] or ["txt"]
    _transcribe_whole(
        model,
        paths,
        checkpoint=checkpoint,
        settings=(chosen, strict, chunk_seconds, overlap_seconds, batch),
        decoding=decoding,
        raw_rate=raw_rate,
        output={"formats": formats, "folder": output_dir, "overwrite": overwrite},
        started=started,
    )


def _transcribe_whole(
    path: Path,
    paths: list[Path],
    *,
    checkpoint: str | None,
    settings: tuple[Any, ...],
    decoding: "DecodingOptions",
    raw_rate: int | None,
    output: dict[str, Any],
    started: float,
) -> None:
    """Whole recordings: find out what can be refused without the network, load it, and hand on results as they come."""
    from dsrun.decoding import make_decoder
    from dsrun.models import load_model
    from dsrun.speech.recording import RawFormat
    from dsrun.transcription import Settings, Transcriber
    from dsrun.transcription_output import Output
    from dsrun.transcription_sources import open_sources

    decoding.check()
    results = Output(paths, **output)
    with open_sources(paths, raw=RawFormat(raw_rate) if raw_rate else None) as sources:
        model = load_model(path, checkpoint)
        search = make_decoder(decoding, alphabet=model.alphabet, run=model)
        transcriber = Transcriber(model, Settings(*settings), decoder=search, say=_say)
        loaded = time.monotonic()
        for result in transcriber(sources):
            results.put(result)
    failures = results.close()
    loading = loaded - started + transcriber.recogniser.compile_seconds
    if done := len(paths) - len(failures):
        _say(_speed(done, transcriber.audio_seconds, time.monotonic() - started, loading))
    if failures:
        _say(f"{len(failures)} of {len(paths)} files could not be transcribed")
        raise typer.Exit(3)


def _channel(text: str | None) -> int | Literal["mix"] | None:
    if text is None:
        return None
    if text == "mix":
        return "mix"
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"--channel {text}: write a number from 0, or mix.")
    return int(text)


def _speed(files: int, audio: float, wall: float, loading: float) -> str:
    return (
        f"{files} file{'' if files == 1 else 's'}, {audio:.1f} s of audio in {wall:.1f} s: {audio / wall:.1f} times real time, "
        f"{audio / max(wall - loading, 1e-3):.1f} without loading and compiling ({loading:.1f} s)"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
