"""Sizes of the layer benchmarks, as they are written on a command line, and the memory they need. No JAX.

A GRU size is BATCHxFRAMESxHIDDEN, e.g. 32x750x2560: a bidirectional layer whose input is as wide as its state. A CTC size is
BATCHxFRAMESxLABELSxCLASSES. The presets of the GRU:

* `small`: what two CPU cores do in seconds; the sizes at which docs/MEASUREMENTS.md compares with others.
* `deepbench`: the Deep Speech rows of Baidu's DeepBench, hidden 1024 to 2816, batch 32 (1024 also 64), 187 to 1500
  frames.
* `deck`: the layers of the talk's models, 64 utterances of 800 output frames at hidden 1760 and 128 at 2560.

Memory is estimated before anything runs: a host without enough of it does not fail, it kills the process (`host.py`). The estimate counts
large arrays, and was within a twentieth of what XLA planned for CPU programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dsrun.errors import UsageError

# Arrays of [batch, frame, hidden] in float32 that live at once, and sets of one direction's weights (6 hidden^2), forward and with
# gradients. XLA's plans (`memory_analysis`) on a CPU have 14.5 and 27.5 arrays, 2.8 and 6.5 sets; with bfloat16 or recomputation one
# or two arrays less (hidden 128 to 1024, frames 64 to 400).
FORWARD_ARRAYS, GRADIENT_ARRAYS = 15, 28
FORWARD_WEIGHTS, GRADIENT_WEIGHTS = 3, 7


@dataclass(frozen=True)
class GruSize:
    """A bidirectional GRU layer, input and state `hidden` wide."""

    batch: int
    frames: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.frames}x{self.hidden}"

    def bytes_needed(self, *, has_gradient: bool) -> int:
        """Estimate: the arrays of all frames, and the weights with their gradients and transposes."""
        arrays = GRADIENT_ARRAYS if has_gradient else FORWARD_ARRAYS
        weights = GRADIENT_WEIGHTS if has_gradient else FORWARD_WEIGHTS
        return 4 * (arrays * self.batch * self.frames * self.hidden + weights * 6 * self.hidden**2)


@dataclass(frozen=True)
class ExportSize:
    """A batch of whole utterances for an exported model, each of so many frames."""

    batch: int
    frames: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.frames}"


EXPORT_SIZES = (ExportSize(1, 300), ExportSize(16, 300))


@dataclass(frozen=True)
class CtcSize:
    """A batch of CTC losses: all utterances with all frames and all labels."""

    batch: int
    frames: int
    labels: int
    classes: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.frames}x{self.labels}x{self.classes}"

    def bytes_needed(self) -> int:
        """Estimate: three arrays of the logits' size; of the lattice, mantissas and exponents of two columns a label, twice."""
        logits = self.batch * self.frames * self.classes
        return 4 * (3 * logits + 2 * 4 * self.batch * self.frames * (self.labels + 1))


PRESETS: dict[str, tuple[GruSize, ...]] = {
    "small": (GruSize(8, 200, 128), GruSize(16, 200, 256), GruSize(16, 200, 800)),
    # DeepBench's training problems for Deep Speech (rnn_problems.h; 2816 at 1500 frames is in its result sheets only).
    "deepbench": (
        *(GruSize(32, frames, hidden) for hidden in (2816, 2560, 2048, 1536) for frames in (1500, 750, 375, 187)),
        GruSize(32, 1500, 1024),
        GruSize(64, 1500, 1024),
    ),
    "deck": (GruSize(64, 800, 1760), GruSize(128, 800, 2560)),
}
CTC_SIZES = (
    CtcSize(4, 150, 40, 29),
    CtcSize(16, 400, 80, 29),
    CtcSize(32, 800, 150, 29),
    CtcSize(16, 400, 40, 4000),
)


def parse_gru_sizes(texts: Sequence[str]) -> tuple[GruSize, ...]:
    """Raises UsageError for what is no size."""
    return tuple(
        GruSize(*_numbers(text, "BATCHxFRAMESxHIDDEN", "16x200x256"))
        for text in dict.fromkeys(text.lower() for text in texts)
    )


def parse_ctc_sizes(texts: Sequence[str]) -> tuple[CtcSize, ...]:
    """Raises UsageError for what is no size, or has labels that its frames or classes cannot hold."""
    sizes = tuple(
        CtcSize(*_numbers(text, "BATCHxFRAMESxLABELSxCLASSES", "16x400x80x29"))
        for text in dict.fromkeys(text.lower() for text in texts)
    )
    for size in sizes:
        if size.classes < 3 or size.labels > size.frames:
            raise UsageError(
                f"--sizes {size}: {size.labels} labels in {size.frames} frames of {size.classes} classes. Labels without repeats need as "
                "many frames and two classes besides the blank; e.g. 16x400x80x29."
            )
    return sizes


def parse_export_sizes(texts: Sequence[str]) -> list[ExportSize]:
    """Raises UsageError for what is no size."""
    unique = dict.fromkeys(text.lower() for text in texts)
    return [ExportSize(*_numbers(text, "BATCHxFRAMES", "1x300")) for text in unique]


def gru_preset(name: str) -> tuple[GruSize, ...]:
    """Raises UsageError for an unknown name."""
    if name not in PRESETS:
        raise UsageError(f"--preset {name!r}: there are {', '.join(PRESETS)}; other sizes go to --sizes.")
    return PRESETS[name]


def _numbers(text: str, form: str, example: str) -> list[int]:
    parts = text.split("x")
    is_size = len(parts) == form.count("x") + 1 and all(part.isdecimal() and int(part) > 0 for part in parts)
    if not is_size:
        raise UsageError(f"--sizes {text!r}: write {form}, whole numbers from 1, e.g. --sizes {example}.")
    return [int(part) for part in parts]
