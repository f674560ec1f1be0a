"""`dsrun transcribe --stream`: what is printed while the sound comes.

On a terminal one line is rewritten and its end shown where it grows wider than the terminal; elsewhere the text alone when all has been
heard, or with --json one JSON document a line, whenever the text grows and at the end: with what is new of it, and at the end with all
of it too, so that a stream of days writes no text twice. Delay and time of computing go to stderr.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, cast

from dsrun.cli_tables import printable
from dsrun.errors import UsageError

CLEAR_TO_END = "\x1b[K"
WIDEST = 10_000  # columns


def transcribe_stream(run: Path, audio: list[Path], *, as_json: bool, **options: Any) -> None:
    """Transcribe one source as it comes, and print."""
    from dsrun.streaming import stream_file

    if len(audio) != 1:
        raise UsageError(f"--stream takes one recording, a file or - for standard input; {len(audio)} are named.")
    if options["raw_rate"] is not None and str(audio[0]) != "-":
        raise UsageError(
            f"--raw-rate is for bare samples on standard input (-); {audio[0]} is a file, which says its rate."
        )
    if options["is_paced"] and str(audio[0]) == "-":
        raise UsageError("--realtime paces a file; standard input comes as fast as it comes. Leave it out.")
    is_terminal = sys.stdout.isatty() and not as_json
    on_text = _print_json if as_json else TerminalLine() if is_terminal else _print_nothing
    report = stream_file(run, audio[0], pipe=cast(Any, sys.stdin.buffer), on_text=on_text, say=_say, **options)
    if as_json:
        _print_line(report | {"is_final": True})
        return
    print(f"\r{CLEAR_TO_END}{printable(report['text'])}" if is_terminal else report["text"], flush=True)
    print(latency_line(report), file=sys.stderr)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def latency_line(report: dict[str, Any]) -> str:
    """Delay and time of computing in words."""
    latency, compute = report["latency"], report["compute"]
    parts = [
        f"{name.replace('_', ' ')} {latency[f'{name}_ms']:g}"
        for name in ("chunk", "window", "front_end", "lookahead", "resampler")
        if f"{name}_ms" in latency
    ]
    return (
        f"latency at most {latency['total_ms']:g} ms ({', '.join(parts)}) and computing: {compute['median_ms']:.1f} ms a chunk, at most "
        f"{compute['max_ms']:.1f}; {100 * compute['share_of_real_time']:.1f}% of real time for {report['seconds']:.1f} s"
    )


def _print_json(new: str, seconds: float) -> None:
    _print_line({"seconds": seconds, "new": new, "is_final": False})


def _print_line(document: dict[str, Any]) -> None:
    print(json.dumps(document, ensure_ascii=False), flush=True)


class TerminalLine:
    """A line that is rewritten as the text grows; of what does not fit the end is shown, and no more is kept."""

    def __init__(self) -> None:
        self._end = ""

    def __call__(self, new: str, seconds: float) -> None:
        """Show new text."""
        text, room = self._end + printable(new), shutil.get_terminal_size().columns - 1
        shown = text if len(text) <= room else "…" + text[len(text) - room + 1 :]
        self._end = text[-WIDEST:]
        print(f"\r{shown}{CLEAR_TO_END}", end="", flush=True)


def _print_nothing(new: str, seconds: float) -> None:
    pass
