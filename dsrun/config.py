"""The config: the YAML's mirror, one page of typed, frozen models.

Checking a config is instant (no JAX, no audio) and strict: an unknown key, a text where a number belongs or a missing value is
an error, and all of them are listed at once. What an experiment is about has no default: seed, data, network, every role of
the arithmetic, optimizer, schedule and length must be written. Reading files, `base`, `--set`, and line numbers are `config_file.py`'s.

The schema knows formats and roundings that are not built yet; they are refused with their line, never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

FORMAT_ALIASES = {
    "fp32": "float32",
    "single": "float32",
    "fp16": "float16",
    "half": "float16",
    "binary16": "float16",
    "binary32": "float32",
    "bf16": "bfloat16",
}
AVAILABLE_FORMATS = ("float32", "float16", "bfloat16")
PLANNED_FORMATS = (
    "tensorfloat32",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3",
    "float8_e3m4",
    "float6_e3m2fn",
    "float6_e2m3fn",
    "float4_e2m1fn",
    "int8",
    "int4",
    "mxfp8_e4m3",
    "mxfp6",
    "mxfp4",
    "ternary",
    "binary",
)
AVAILABLE_ROUNDINGS = ("ties_to_even",)
PLANNED_ROUNDINGS = (
    "ties_to_away",
    "toward_zero",
    "toward_positive",
    "toward_negative",
    "stochastic",
    "stochastic_equal",
)


class Section(BaseModel):
    """Frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class Data(Section):
    """Which recordings, and what to do with those that do not fit."""

    train: str
    """Training manifest, JSON lines; relative to the file that says it."""
    dev: str
    """Manifest that chooses the best checkpoint."""
    test: str | None = None
    """Manifest that is scored at the end of training."""
    alphabet: str | None = None
    """File of symbols, one a line; null derives them from the training text."""
    unknown_characters: Literal["error", "drop"] = "error"
    """Characters outside the alphabet."""
    empty_transcript: Literal["error", "drop", "keep"] = "error"
    """Utterances in which nothing is said."""
    infeasible: Literal["error", "drop"] = "error"
    """Training utterances that CTC cannot align: more labels than output frames."""
    sample_rate: Positive = 16_000
    """Rate that every recording must have, Hz."""
    resample: bool = False
    """Convert recordings of another rate instead of refusing them."""
    channel: Literal["mono"] | Annotated[int, Field(ge=0)] = "mono"
    """mono: recordings must have one channel; a number takes that channel."""
    max_seconds: PositiveFloat = 20.0
    """Longest recording."""
    cache: str | None = None
    """Folder that keeps computed features; null keeps them in memory only."""


class Features(Section):
    """Samples to frames."""

    kind: Literal["log_spectrogram", "log_mel"] = "log_spectrogram"
    """log_spectrogram is Deep Speech 2's."""
    window_ms: PositiveFloat = 20.0
    """Window length, milliseconds."""
    hop_ms: PositiveFloat = 10.0
    """Step between windows, milliseconds."""
    num_mels: Positive | None = None
    """Mel filters; with log_mel only, where null means 80."""

    @model_validator(mode="after")
    def _mels_only_with_log_mel(self) -> "Features":
        if self.num_mels is not None and self.kind != "log_mel":
            raise ValueError("num_mels has no effect with log_spectrogram; remove it or set kind: log_mel")
        return self


class Batches(Section):
    """How utterances are grouped."""

    global_batch: Positive
    """Utterances an update, over all shards."""
    shards: Positive = 8
    """Pieces of fixed shape that a global batch is cut into; part of the experiment, not of the hardware."""
    buckets: Positive = 6
    """Padded shapes at most; each is compiled once."""
    frame_multiple: Positive = 12
    """Padded frames are a multiple of this."""
    sort_first_epoch: bool = True
    """SortaGrad: the first epoch in order of increasing length."""
    prefetch: Positive = 4
    """Batches made ahead by a background thread."""

    @model_validator(mode="after")
    def _shards_divide_the_batch(self) -> "Batches":
        if self.global_batch % self.shards:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of shards {self.shards}")
        return self


class Augment(Section):
    """What training utterances go through; dev and test never do."""

    speeds: tuple[PositiveFloat, ...] = (1.0,)
    """Playback speeds to choose from, each with equal chance; 1.1 is faster."""
    time_masks: Annotated[int, Field(ge=0)] = 0
    """SpecAugment masks over time."""
    max_time_frames: Annotated[int, Field(ge=0)] = 0
    """Widest time mask, frames."""
    frequency_masks: Annotated[int, Field(ge=0)] = 0
    """SpecAugment masks over frequency."""
    max_frequency_bins: Annotated[int, Field(ge=0)] = 0
    """Widest frequency mask, bins."""

    @field_validator("speeds")
    @classmethod
    def _some_speed(cls, speeds: tuple[float, ...]) -> tuple[float, ...]:
        if not speeds or len(set(speeds)) != len(speeds):
            raise ValueError("write at least one speed, each once")
        return speeds


class Conv2dFrontEnd(Section):
    """Deep Speech 2's two convolutions, 41x11 and 21x11 (frequency x time), strides 2x2 and 2x1."""

    kind: Literal["conv2d"]
    channels: Positive = 32


class FrameStackFrontEnd(Section):
    """A linear map of neighbouring frames, for CPU runs."""

    kind: Literal["frame_stack"]
    stack: Positive
    """Neighbouring frames that are stacked, an odd number."""
    stride: Positive
    """Every which frame gives an output frame."""
    hidden: Positive
    """Features an output frame."""

    @field_validator("stack")
    @classmethod
    def _odd(cls, stack: int) -> int:
        if stack % 2 == 0:
            raise ValueError(f"{stack} frames have no middle one; write an odd number")
        return stack


class Model(Section):
    """Shape of the network."""

    front_end: Annotated[Conv2dFrontEnd | FrameStackFrontEnd, Field(discriminator="kind")]
    hidden: Positive
    """Hidden units of a GRU layer, each direction."""
    layers: Positive
    """GRU layers."""
    direction: Literal["bidirectional", "forward"] = "bidirectional"
    """Two directions, summed, or the forward one."""
    normalization: Literal["batch", "layer", "none"]
    """Of the input projections: sequence-wise batch normalisation, layer normalisation, or none."""
    dropout: Share = 0.0
    """Share of each GRU layer's outputs that training sets to zero."""
    relu_clip: PositiveFloat = 20.0
    """Where the front end's rectifier is cut off."""
    statistics_momentum: Share = 0.9
    """Share of the running statistics that one update keeps; with batch normalisation."""


def _format(value: Any, available: tuple[str, ...], hint: str) -> Any:
    if not isinstance(value, str):
        return value
    name = FORMAT_ALIASES.get(value, value)
    if name in available:
        return name
    if name in PLANNED_FORMATS or name in AVAILABLE_FORMATS or name.startswith(("float_e", "fixed_q")):
        raise ValueError(f"{value} is not available here yet: {hint}")
    from difflib import get_close_matches

    close = get_close_matches(value, [*AVAILABLE_FORMATS, *PLANNED_FORMATS, *FORMAT_ALIASES], n=1)
    known = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{value!r} is no known format{known}; known: {', '.join(AVAILABLE_FORMATS + PLANNED_FORMATS)}")


def _rounding(value: Any) -> Any:
    if not isinstance(value, str) or value in AVAILABLE_ROUNDINGS:
        return value
    if value == "nearest":
        raise ValueError("'nearest' is ambiguous: IEEE 754 has two nearest modes. Write ties_to_even or ties_to_away")
    if value in PLANNED_ROUNDINGS:
        raise ValueError(f"{value} is not available yet; every role rounds ties_to_even")
    raise ValueError(f"{value!r} is no rounding mode; known: {', '.join(AVAILABLE_ROUNDINGS + PLANNED_ROUNDINGS)}")


class _Rounded(Section):
    rounding: str
    """How a number becomes one of the format's: ties_to_even."""

    @field_validator("rounding", mode="before")
    @classmethod
    def _known_rounding(cls, value: Any) -> Any:
        return _rounding(value)


class SmallRole(_Rounded):
    """A role that smaller formats are available for."""

    format: str
    """float32, float16 or bfloat16."""

    @field_validator("format", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        return _format(value, AVAILABLE_FORMATS, "storage and compute take float32, float16 or bfloat16")


class WideRole(Section):
    """A role that is float32 so far."""

    format: str
    """float32."""

    @field_validator("format", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        return _format(value, ("float32",), "this role takes float32; smaller formats work for storage and compute")


class WideRoundedRole(WideRole, _Rounded):
    """A role that is float32 so far, with a rounding."""


class UpdateRole(_Rounded):
    """How the updated weight is rounded."""


class Arithmetic(Section):
    """Which format applies where. Every role is written; nothing has a default."""

    storage: SmallRole
    """Weights as the network reads them, activations as layers hand them on, the recurrent state."""
    compute: SmallRole
    """Operands of every product, forward and backward."""
    accumulate: WideRole
    """Partial sums of products."""
    gradient: WideRoundedRole
    """What flows back between layers, and weight gradients."""
    reduce: WideRole
    """The sum over shards."""
    master: WideRole
    """The copy of the weights that accumulates updates."""
    update: UpdateRole
    """The updated weight."""
    state: WideRole
    """Momentum and Adam's moments."""
    ctc: WideRole
    """Loss and its gradient."""
    carrier: Literal["emulated", "native"]
    """emulated: values of the format held in float32 arrays."""

    @field_validator("master", mode="before")
    @classmethod
    def _has_master(cls, value: Any) -> Any:
        if value == "none":
            raise ValueError("none is not available yet; the master copy is {format: float32}")
        return value

    @field_validator("carrier")
    @classmethod
    def _emulated(cls, value: str) -> str:
        if value != "emulated":
            raise ValueError(f"{value} is not available yet; write emulated")
        return value


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    learning_rate: PositiveFloat
    momentum: Share
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class AdamW(Section):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"]
    learning_rate: PositiveFloat
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Anneal(Section):
    """The rate is divided by `factor` after each epoch."""

    kind: Literal["anneal"]
    factor: Annotated[float, Field(ge=1)]


class WarmupCosine(Section):
    """Linear rise, then half a cosine down to `final_fraction` of the rate at the last step."""

    kind: Literal["warmup_cosine"]
    warmup_steps: Annotated[int, Field(ge=0)]
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01


class Constant(Section):
    """The same rate at every step."""

    kind: Literal["constant"]


class Training(Section):
    """How long, and what to keep."""

    epochs: Positive
    """Passes over the training manifest."""
    clip_norm: PositiveFloat | None = 400.0
    """Gradients of a larger Euclidean norm are scaled down to it; null never."""
    evaluate_every_epochs: Positive = 1
    """Score dev after every so many epochs, and after the last."""
    early_stop_epochs: Positive | None = None
    """Stop when dev CER has not improved for so many epochs; null never."""
    checkpoint_every_epochs: Positive = 1
    """Keep the state after every so many epochs."""
    checkpoint_every_steps: Positive | None = None
    """Keep the state after every so many updates too; null not."""
    keep_last: Positive = 2
    """Checkpoints kept besides the best."""
    log_every_steps: Positive = 1
    """Write every so many steps to events.jsonl."""


class Config(Section):
    """One experiment."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Of initial weights, data order, augmentation and dropout."""
    data: Data
    features: Features = Features()
    batches: Batches
    augment: Augment | None = None
    model: Model
    arithmetic: Arithmetic
    optimizer: Annotated[Sgd | AdamW, Field(discriminator="kind")]
    schedule: Annotated[Anneal | WarmupCosine | Constant, Field(discriminator="kind")]
    training: Training


PATH_KEYS = ("data.train", "data.dev", "data.test", "data.alphabet", "data.cache")
"""Values that are paths, relative to the file that says them."""


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, `base` included, for editors. A file with a `base` may leave anything out."""
    schema = Config.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "Config that this one differs from."}
    schema["required"] = []
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
