"""Where transcripts go: lines or a JSON document on standard output as they come, or files.

On the roof. Plain text and JSON are printed. Subtitles of one file, if nothing else is asked for, are printed too; otherwise each
goes to a file beside its audio. With an output folder everything goes there. What is written in files is told on standard output. No
file that is there already is replaced unless told, and that is found out before the network is loaded.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TextIO

from dsrun.errors import UsageError
from dsrun.evaluation.subtitles import srt, vtt
from dsrun.record import write_atomically
from dsrun.transcription import Failure, Transcript
from dsrun.transcription_sources import STDIN, as_text

Format = Literal["txt", "json", "srt", "vtt"]
SUBTITLES = ("srt", "vtt")


def render(transcript: Transcript, format: Format) -> str:
    """A transcript as the contents of a file."""
    if format == "json":
        return json.dumps(transcript.to_json(), ensure_ascii=False, indent=2) + "\n"
    if format == "txt":
        return transcript.text + "\n"
    write = srt if format == "srt" else vtt
    return write(transcript.words, separator=transcript.separator)


class Output:
    """Takes results one by one.

    Args:
        paths: of all audio, in order; the results come in the same order.
        formats: at least one.
        folder: for files; None for the rules above. overwrite: replace files that exist.

    Raises:
        UsageError: files would be replaced, or two recordings would write the same one.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        formats: Sequence[Format],
        *,
        folder: Path | None = None,
        overwrite: bool = False,
        stream: TextIO | None = None,
    ):
        self.stream = stream or sys.stdout
        self.has_names = len(paths) > 1
        self.printed: Format | None = None
        if folder is None:
            printed = [format for format in formats if format not in SUBTITLES]
            if not printed and len(paths) == len(formats) == 1:
                printed = list(formats)
            if len(printed) > 1:
                raise UsageError("one format can be printed: choose one, or name an --output-dir for files.")
            self.printed = printed[0] if printed else None
        in_files = [format for format in formats if format != self.printed]
        self._targets = [{format: _target(path, folder, format) for format in in_files} for path in paths]
        _require_free([target for targets in self._targets for target in targets.values()], overwrite)
        self._count = 0
        self._failures: list[Failure] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, result: Transcript | Failure) -> None:
        """The next result; a failure is told on stderr, and has no file."""
        targets = self._targets[self._count]
        if isinstance(result, Failure):
            self._failures.append(result)
            print(result.error, file=sys.stderr, flush=True)
        else:
            for format, target in targets.items():
                write_atomically(target, render(result, format))
            self._print(result, targets)
        self._count += 1

    def _print(self, result: Transcript, targets: dict[Format, Path]) -> None:
        if self.printed == "json":
            line = json.dumps(result.to_json(), ensure_ascii=False)
            is_first = self._count == len(self._failures)
            print('{"results": [' if is_first else ",", line, sep="\n", end="", file=self.stream, flush=True)
        elif self.printed == "txt":
            line = f"{result.file}: {result.text}" if self.has_names else result.text
            print(line, file=self.stream, flush=True)
        elif self.printed:
            print(render(result, self.printed), end="", file=self.stream, flush=True)
        else:
            print(*map(as_text, targets.values()), sep="\n", file=self.stream, flush=True)

    def close(self) -> list[Failure]:
        """End a document that was begun; the failures."""
        if self.printed == "json":
            has_results = self._count > len(self._failures)
            failures = json.dumps([failure.to_json() for failure in self._failures], ensure_ascii=False)
            begun = "\n" if has_results else '{"results": ['
            print(f'{begun}], "failures": {failures}}}', file=self.stream, flush=True)
        return self._failures


def _target(path: Path, folder: Path | None, format: Format) -> Path:
    if str(path) == STDIN:
        if folder is None:
            raise UsageError("standard input has no place for a file beside it: name an --output-dir.")
        return folder / f"stdin.{format}"
    if not path.name:
        raise UsageError(f"{path}: a folder without a name cannot be transcribed, nor can a file be called after it.")
    return (folder / path.name if folder else path).with_suffix(f".{format}")


def _require_free(targets: Sequence[Path], overwrite: bool) -> None:
    twice = sorted(str(target) for target, count in Counter(targets).items() if count > 1)
    if twice:
        raise UsageError(
            f"{', '.join(map(repr, twice[:5]))}: two recordings would be written there (names that differ in the ending or the "
            "folder alone). Transcribe them apart."
        )
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise UsageError(
            f"{', '.join(map(as_text, there[:5]))}{more}: there already. --overwrite replaces, --output-dir writes elsewhere."
        )
