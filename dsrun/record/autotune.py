"""Measured choices of kernels, kept with the run: `determinism: autotuned`.

For a matrix product, a convolution or a fusion XLA has several kernels on a GPU that give different bits, each of them the same bits
every time. Its autotuner takes the fastest by measuring, so that two starts may choose differently. A run writes its choices down:

    RUN/.autotune.textproto   XLA's own, rewritten after every compilation; half of it may be there after a kill
    RUN/autotune.textproto    a copy that is whole, made before each checkpoint; what a resume, `eval` and `verify` load

A state of step n was computed with choices made until then, so they are on disk before its checkpoint is. What was chosen after the
last checkpoint is lost by a kill together with the steps that used it. The file is data and not code: it chooses among kernels that
this XLA makes itself, for this kind of GPU. XLA reports a file it cannot read and stops.

Not tested: everything above on a GPU. The flags parse (jaxlib 0.10.2), and on a CPU, where nothing is autotuned, XLA writes no file.
Stated by XLA's documentation or issues and not seen here: that a loaded choice is never measured again; that the single file holds
every choice that changes bits, which the cache *folder* does not (openxla/xla#37902); that the compiler gives the same program for
the same choices (openxla/xla#49047 has a counter-example). Several processes measure each for itself: give the first start one process.
"""

import hashlib
import shutil
from pathlib import Path

from dsrun.record.durable import cannot_write, open_to_replace, sync
from dsrun.record.runtime import AUTOTUNE_ASIDE, AUTOTUNE_DUMP_FLAG, AUTOTUNE_LOAD_FLAG, AUTOTUNE_NAME


def autotune_flags(run: Path, *, is_new: bool = False, writes: bool = True) -> dict[str, Path]:
    """Where XLA reads a run's choices, if there are any, and writes them.

    Args:
        run: the run folder.
        is_new: nothing that is there counts.
        writes: false for a reader of the run, which adds nothing to it.
    """
    folder = run.absolute()
    reads = not is_new and (folder / AUTOTUNE_NAME).is_file()
    flags = {AUTOTUNE_LOAD_FLAG: folder / AUTOTUNE_NAME} if reads else {}
    return flags | ({AUTOTUNE_DUMP_FLAG: folder / AUTOTUNE_ASIDE} if writes else {})


def autotune_digest(run: Path) -> str | None:
    """SHA-256 of the choices that a run folder keeps; None if there are none."""
    kept = run / AUTOTUNE_NAME
    return hashlib.sha256(kept.read_bytes()).hexdigest() if kept.is_file() else None


def keep_autotune_results(run: Path) -> None:
    """Copy what XLA wrote, whole or not at all; before a checkpoint. Nothing to do where nothing was measured."""
    aside, kept = run / AUTOTUNE_ASIDE, run / AUTOTUNE_NAME
    if aside.is_symlink() or not aside.is_file():
        return
    part = run / f".{AUTOTUNE_NAME}.part"
    try:
        with open(aside, "rb") as source, open_to_replace(part) as target:
            shutil.copyfileobj(source, target)
        sync(part)
        part.replace(kept)
        sync(run)
    except OSError as error:
        raise cannot_write(kept, error) from error
