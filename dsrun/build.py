"""From config to objects: the only place that reads config sections and calls constructors.

Rooms take plain arguments and do not know the config. A new setting touches three places: its field in `config.py`, a line here,
and the room that obeys it; a test asserts that every field is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsrun.arithmetic import Policy, parse_format
from dsrun.config import Config
from dsrun.errors import DataError
from dsrun.model import FrameStackSettings, Conv2dSettings, ModelSettings, output_frames
from dsrun.speech import (
    Alphabet,
    Augmentation,
    Batcher,
    Dataset,
    FeatureCache,
    FeatureSettings,
    Normalization,
    Utterance,
    encode_all,
    read_manifest,
)
from dsrun.training.feasibility import Infeasible, find_infeasible
from dsrun.training.loop import LoopSettings
from dsrun.training.optimizer import (
    Optimizer,
    adamw_direction,
    anneal_schedule,
    constant_schedule,
    sgd_direction,
    warmup_cosine_schedule,
)
