"""Command line of scripts/reproduce_talk.sh."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.talk.claims import DAMAGE, MissingError
from scripts.talk.parts import Part, Settings, all_parts
from scripts.talk.running import Running, StoppedError, UsageError, alone_in, begin, say

REPORT = "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code."""
    options = parse(arguments)
    try:
        settings = settings_of(options)
        parts = all_parts(settings)
        chosen = [name for name in (options.only or parts) if name != REPORT]
        if unknown := [name for name in chosen if name not in parts]:
            raise UsageError(f"--only {' '.join(unknown)}: no such part. There are {', '.join([*parts, REPORT])}.")
        if options.list:
            list_parts(parts)
            return 0
        if options.print:
            print_commands(parts, chosen)
            return 0
        begin(settings)
        failed = []
        if chosen:
            with alone_in(settings.folder):
                failed = Running(settings, parts, chosen).run()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except StoppedError as stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return stopped.code
    return 1 if not report(settings) or failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce_talk.sh",
        description="The talk's claims on this machine: runs, a table of verdicts, one report.",
        epilog="Exit codes: 0 every part ran; 1 a part failed; 2 bad usage; 75 stopped by a signal, 130 Ctrl-C (the same command goes on).",
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts and the report; --list names them")
    parser.add_argument("--list", action="store_true", help="the parts, with minutes on two quiet cores; run nothing")
    parser.add_argument("--print", action="store_true", help="the commands of the parts; run nothing")
    parser.add_argument(
        "--folder", type=Path, help="default runs/talk; with --tiny or --full runs/talk_tiny, runs/talk_full"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side on a CPU (default 2)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="configs/deep_speech_2.yaml, with --data; for GPUs")
    size.add_argument("--tiny", action="store_true", help="toy sizes, to try the script: the verdicts mean nothing")
    parser.add_argument(
        "--data",
        nargs=3,
        metavar=("TRAIN", "DEV", "TEST"),
        help="manifests for --full; on a GPU --data alone is --full",
    )
    parser.add_argument(
        "--alphabet", nargs=3, metavar=("TRAIN", "DEV", "TEST"), help="manifests of another alphabet: adds 12 minutes"
    )
    parser.add_argument(
        "--here", type=Path, default=Path(), help=argparse.SUPPRESS
    )  # what relative paths are relative to
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """What is asked for.

    Raises:
        UsageError: contradictions, or manifests that are not there.
    """
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: at least 1.")
    data = tuple(str(options.here / path) for path in options.data or ())
    if options.full and not data:
        raise UsageError(
            "--full needs manifests: --data TRAIN DEV TEST (data/README.md says how LibriSpeech's are made)."
        )
    if data and options.tiny:
        raise UsageError("--tiny brings its own data: leave --data out.")
    alphabet = tuple(str(options.here / path) for path in options.alphabet or ())
    for option, paths in (("--data", data), ("--alphabet", alphabet)):
        if missing := [path for path in paths if not Path(path).is_file()]:
            raise UsageError(f"{option}: no such file: {', '.join(missing)}.")
    size = "tiny" if options.tiny else "full" if data else "small"
    if size == "full" and not options.full and not has_gpu():
        raise UsageError("--data is for the full-size network, and this machine has no GPU; --full insists.")
    default = Path("runs") / ("talk" if size == "small" else f"talk_{size}")
    folder = (options.here / options.folder).absolute() if options.folder else default
    return Settings(folder, size, data, options.jobs, alphabet)


def has_gpu() -> bool:
    """Whether there is an NVIDIA driver with a GPU; JAX is not started for it."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*"))


def list_parts(parts: dict[str, Part]) -> None:
    """A line each."""
    for part in parts.values():
        print(f"{part.name:10} {part.minutes:6.1f} min   {part.shows}")
    print(f"{REPORT:10} {0.2:6.1f} min   talk.json, talk.md and talk.html, from what is there; made after every call")
    print(f"{'in all':10} {sum(part.minutes for part in parts.values()):6.0f} min")


def print_commands(parts: dict[str, Part], chosen: Sequence[str]) -> None:
    """Every step's; what an earlier step decides is told in words."""
    for name in chosen:
        print(f"# {name}: {parts[name].shows}")
        for step in parts[name].steps:
            try:
                print(shlex.join(["python", *step.words()]))
            except MissingError as error:
                print(f"# {step.name}: {error}")


def report(settings: Settings) -> bool:
    """Write the table and the page; False if that failed. What was measured stays, and the report can be made again."""
    from dsrun.errors import DsrunError
    from scripts.talk.pages import write_pages

    try:
        for path in write_pages(settings.folder):
            print(path)
    except (*DAMAGE, ImportError) as error:
        what = error if isinstance(error, DsrunError | OSError) else f"{type(error).__name__}: {error}"
        say(f"{REPORT}: FAILED: {what}; talk.json and talk.md are written first, and need no figure")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
