"""Model: the network from normalised features to logits.

Conventions: batch first outside, time-major inside the GRU stack; lengths are integers; padded frames never influence a real
one, in the convolutions, in the statistics, and in the backward direction; `Policy` decides every format. Structure is flax
NNX; recurrent unit and normalisations are our own, because flax keeps hidden float32 carries and statistics in a float16 network,
and here every cast is visible. The front end's output is the layer-0 input; logits are float32.
"""

from dsrun.model.deep_speech import (
    ModelOutput,
    ModelSettings,
    apply,
    init_parameters,
    initial_statistics,
    output_frames,
    parameter_table,
)
from dsrun.model.frontend import Conv2dSettings, FrameStackSettings, time_stride
from dsrun.model.gru import GruWeights, Recurrence, bidirectional_gru
from dsrun.model.norm import Moments, update_running

__all__ = [
    "Conv2dSettings",
    "FrameStackSettings",
    "GruWeights",
    "ModelOutput",
    "ModelSettings",
    "Moments",
    "Recurrence",
    "apply",
    "bidirectional_gru",
    "init_parameters",
    "initial_statistics",
    "output_frames",
    "parameter_table",
    "time_stride",
    "update_running",
]
