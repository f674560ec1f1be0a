"""What depends on the size of the runs and stands in the table: what was tested, and by which command it comes again.

A claim's `tested` and `command` name these in braces. With sizes other than `small` the commands of single figures would need every setting
of the script, so there the command is the script itself, for the claim's part.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.talk.claims import Claim
from scripts.talk.parts import REPOSITORY, Size, sweep_file

SCRIPT = "scripts/reproduce_talk.sh"
NETWORK: Mapping[Size, str] = {
    "small": "the small network (configs/prompts_small_float32.yaml, 30 epochs, AdamW)",
    "tiny": "a toy network, one epoch, 32 utterances: nothing can be told",
    "full": "the network of configs/deep_speech_2.yaml on the manifests of --data",
}
RECOGNISER: Mapping[Size, str] = {
    "small": "the quickstart's network (configs/prompts_float32.yaml), 75 epochs of 14 minutes of prompts",
    "tiny": "a toy network, one epoch, 32 utterances",
    "full": "the float32 run of the sweep, first seed",
}


@dataclass(frozen=True)
class Wording:
    """By name in braces."""

    folder: str
    script: str
    sweep: str
    network: str
    recogniser: str
    draws: str
    once: str


def wording(folder: Path, size: Size, data: Sequence[str] = ()) -> Wording:
    """Of a folder that was begun with these settings; of one in the repository the name there."""
    path = folder.absolute()
    shown = str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
    default = f"runs/talk{'' if size == 'small' else f'_{size}'}"
    words = [SCRIPT, *({"small": [], "tiny": ["--tiny"], "full": ["--full"]}[size])]
    words += ["--data", *data] if data else []
    words += ["--folder", shown] if shown != default else []
    return Wording(
        folder=shlex.quote(shown),
        script=shlex.join(words),
        sweep=str(sweep_file(size)),
        network=NETWORK[size],
        recogniser=RECOGNISER[size],
        draws="200" if size == "tiny" else "10,000",
        once="a thousand" if size == "tiny" else "a million",
    )


def tested(claim: Claim, words: Wording) -> str:
    """What was run and looked at."""
    return claim.tested.format(**asdict(words))


def command(claim: Claim, words: Wording, size: Size) -> str:
    """That gives the figure again."""
    if size == "small" or claim.command == "none":
        return claim.command.format(**asdict(words))
    return f"{words.script} --only {claim.part}"
