"""Model: the network from normalised features to logits.

Conventions: batch first outside, time-major inside the GRU stack; lengths are integers, one an utterance; padded
frames never influence a real one, in the convolutions, in the statistics and in the backward direction; `Policy`
decides every format. Structure is flax NNX; the recurrent unit and the normalisations are our own, because flax keeps
a float32 carry and float32 statistics in a float16 network, and here every cast is visible. Logits are float32,
natural scale, blank is class 0. `streaming` runs a forward network in pieces, with the same logits.

Not here: the loss (`dsrun.ctc`), the loop and the update (`dsrun.training`), language models.
"""

from dsrun.model.deep_speech import (
    ModelOutput,
    ModelSettings,
    apply,
    describe_gru,
    init_parameters,
    initial_statistics,
    output_frames,
    parameter_table,
    refuse_what_cannot_be_recomputed,
    store_weights,
    stored_places,
)
from dsrun.model.frontend import Conv2dSettings, FrameStackSettings, centre_frame, time_stride
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
    "centre_frame",
    "describe_gru",
    "init_parameters",
    "initial_statistics",
    "output_frames",
    "parameter_table",
    "refuse_what_cannot_be_recomputed",
    "store_weights",
    "stored_places",
    "time_stride",
    "update_running",
]
