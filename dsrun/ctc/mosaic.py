"""The lattice's two loops on a GPU: `dsrun.kernels.ctc` for what `loss` has as scans, in this room's types.

A kernel is imported where it is asked for and not before: Pallas is experimental, and whoever stays with the scans must not depend on it.
"""

from typing import Literal

from jaxtyping import Array, Float32, Int32

from dsrun.ctc.cells import Cells
from dsrun.ctc.emissions import Emissions

CtcKernel = Literal["scan", "mosaic", "interpreted"]
_TARGETS: dict[CtcKernel, Literal["cuda", "interpreter"]] = {"mosaic": "cuda", "interpreted": "interpreter"}


def total(
    kernel: CtcKernel, emissions: Emissions, no_skip: Int32[Array, "batch column"], num_labels: Int32[Array, " batch"]
) -> Cells:
    """The cell of the end of each utterance, [batch]."""
    from dsrun.kernels import ctc

    own, label = _inputs(emissions, no_skip, num_labels)
    return Cells(*ctc.total(own, label, target=_TARGETS[kernel]))


def total_and_occupancies(
    kernel: CtcKernel, emissions: Emissions, no_skip: Int32[Array, "batch column"], num_labels: Int32[Array, " batch"]
) -> tuple[Cells, Float32[Array, "output_frame batch"], Float32[Array, "output_frame batch column"]]:
    """That cell, and the shares of the paths through blank and through each label at each frame."""
    from dsrun.kernels import ctc

    own, label = _inputs(emissions, no_skip, num_labels)
    found, (in_blank, in_label) = ctc.total_and_occupancies(own, label, target=_TARGETS[kernel])
    return Cells(*found), in_blank, in_label


def _inputs(emissions: Emissions, no_skip: Array, num_labels: Array) -> tuple:
    from dsrun.kernels import ctc

    blank, label = emissions
    own = ctc.Emissions(blank.mantissa[:, :, 0], blank.exponent[:, :, 0], label.mantissa, label.exponent)
    return own, ctc.Label(no_skip, num_labels)
