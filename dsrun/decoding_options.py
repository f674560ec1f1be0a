"""What the command line says of decoding. On the roof, and light: options are checked before JAX is imported."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from dsrun.errors import UsageError

DECODERS = ("greedy", "beam")
BACKENDS = ("own", "flashlight", "auto")


@dataclass(frozen=True)
class DecodingOptions:
    """What the command line says; None is what it does not say."""

    decoder: str = "greedy"
    beam_width: int | None = None
    lm: Path | None = None
    lm_weight: float | None = None
    word_bonus: float | None = None
    lexicon: Path | None = None
    beam_backend: str | None = None

    def check(self) -> None:
        """Raises UsageError for a decoder or backend that there is not, a weight that is not finite, or options that nothing would obey."""
        if self.decoder not in DECODERS:
            raise UsageError(f"--decoder {self.decoder}: there are {', '.join(DECODERS)}.")
        if self.beam_backend not in (None, *BACKENDS):
            raise UsageError(f"--beam-backend {self.beam_backend}: there are {', '.join(BACKENDS)}.")
        for option, value in (("--lm-weight", self.lm_weight), ("--word-bonus", self.word_bonus)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{option} {value}: write a finite number.")
        given = [name for name, value in asdict(self).items() if value is not None and name != "decoder"]
        if self.decoder == "greedy" and given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"{options}: greedy decoding has no such setting; add --decoder beam.")


GREEDY = DecodingOptions()


def as_options(options: DecodingOptions) -> str:
    """As one would write them on the command line."""
    words = []
    for name, value in asdict(options).items():
        if value is not None:
            words.append(
                f"--{name.replace('_', '-')} {value:g}"
                if isinstance(value, float)
                else f"--{name.replace('_', '-')} {value}"
            )
    return " ".join(words)
