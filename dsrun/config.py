"""The YAML's mirror: every key of a config, its type, its range and what it means.

One typed model a section; the text under a field is its description in `configs/schema.json`, which editors read.
Models are strict (text is not a number, 1 is a fine float, nothing else is converted), frozen, and refuse unknown
keys. What an experiment is about has no default: seed, data, network, formats, optimizer, schedule, number of epochs.

A setting that cannot be obeyed is refused with its line and never ignored. Rooms do not import this file;
`build.py` reads the sections and calls their constructors, and a test asserts that every field is read.

`config_file.py` reads YAML, `base` and `--set`; `config_messages.py` words the problems. No JAX here: checking is
instant.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from dsrun.arithmetic.formats import (
    ALIASES,
    DEFAULT_RANDOM_BITS,
    FLOAT32,
    FORMATS,
    MAX_RANDOM_BITS,
    MODES,
    NATIVE_NAMES,
    BlockFormat,
    FloatFormat,
    Format,
    ScaledFormat,
    check_rounding,
    fixed_format,
    parse_format,
)
from dsrun.config_file import Node, Problem, read_tree
from dsrun.config_messages import listing, problems_of
from dsrun.errors import ConfigError, UsageError


def _format(name: Any) -> Any:
    """Canonical name of a format, or of fixed point given by its lengths; other types are left for the type check."""
    if isinstance(name, dict) and set(name) == {"word_length", "fraction_length"}:
        lengths = {key: value for key, value in name.items() if type(value) is int}
        if len(lengths) < 2:
            raise ValueError("word_length and fraction_length are whole numbers of bits")
        return fixed_format(**lengths).name
    return parse_format(name).name if isinstance(name, str) else name


def _known_rounding(mode: Any) -> Any:
    if isinstance(mode, str):
        check_rounding(FLOAT32, mode)
    return mode


def _master(master: Any) -> Any:
    return {"format": "none"} if master in ("none", None) else master


class _OrTheWordNone:
    """Of the JSON Schema: `none` may stand in place of the section."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {"anyOf": [{"const": "none"}, handler(schema)]}


def _chosen(info: ValidationInfo) -> Format | None:
    """The format of the section that is being read, as far as it is known to be good."""
    name = info.data.get("format")
    return None if name in (None, "none") else parse_format(name)


def _random_bits(bits: int | None, info: ValidationInfo) -> int | None:
    if "rounding" not in info.data:  # it has a problem of its own
        return bits
    mode = info.data["rounding"]
    if bits is not None and mode != "stochastic":
        raise ValueError(f"belongs to rounding: stochastic; {mode or 'float32'} has no use for it, remove it")
    return DEFAULT_RANDOM_BITS if mode == "stochastic" and bits is None else bits


def _honoured(mode: str, format: Format) -> None:
    """Refuse a mode that a role of this format cannot honour."""
    if format == FLOAT32 and mode != "ties_to_even":
        raise ValueError(f"float32 is what values are carried in and is not rounded to: {mode} cannot be honoured")
    check_rounding(format, mode)


def _power_of_two(value: float) -> float:
    if math.frexp(value)[0] != 0.5:
        below = 2.0 ** math.floor(math.log2(value))
        raise ValueError(f"must be a power of two, so that scaling is exact; write {below:g} or {2 * below:g}")
    return value


def _channel(channel: Any) -> Any:
    if channel == "mono" or (isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0):
        return channel
    raise ValueError(f"must be mono or a channel's number from 0, found {channel!r}")


def _file_path(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path has no NUL character")
    if path.startswith("~"):
        raise ValueError(f"{path!r}: '~' is not expanded; write the whole path")
    return path


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_file_path)]
FORMAT_SCHEMA: list[Any] = [
    {"type": "string", "enum": [*FORMATS, *ALIASES]},
    {"type": "string", "pattern": "^(float_e[2-8]m[0-9]+|fixed_q[0-9]+\\.[0-9]+)$"},
    {
        "type": "object",
        "properties": {"word_length": {"type": "integer"}, "fraction_length": {"type": "integer"}},
        "required": ["word_length", "fraction_length"],
        "additionalProperties": False,
    },
]
FormatName = Annotated[
    str,
    BeforeValidator(_format),
    WithJsonSchema({"anyOf": FORMAT_SCHEMA}),
]
RoundingName = Annotated[str, AfterValidator(_known_rounding), WithJsonSchema({"type": "string", "enum": [*MODES]})]
RandomBits = Annotated[Annotated[int, Field(ge=1, le=MAX_RANDOM_BITS)] | None, AfterValidator(_random_bits)]
OverflowName = Literal["infinity", "nan", "saturate", "wrap"]
PowerOfTwo = Annotated[float, Field(ge=2.0**-100, le=2.0**100), AfterValidator(_power_of_two)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Common to all sections: strict, frozen, no unknown keys, field texts as descriptions."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


class Data(Section):
    """Manifests, alphabet, recordings. Paths are relative to the file that says them; --set: to the current folder."""

    train: FilePath
    """Manifest to learn from (JSON lines)."""
    dev: FilePath
    """Manifest to choose the best checkpoint and to stop by."""
    test: FilePath | None = None
    """Manifest to score when training is done; null for none."""
    alphabet: FilePath | None = None
    """Text file with one symbol a line; null takes the set of characters of the training text."""
    normalizer: Literal["nfkc_lower", "english", "as_is"] = "nfkc_lower"
    """The form in which text is learnt and scored: Unicode NFKC in lower case; for English, also without punctuation and with
    numbers spelled (or refused, where the reading is not certain); or as it is written."""
    unknown_characters: Literal["error", "drop"] = "error"
    """What to do with a character outside the alphabet; drop leaves the character out and counts it."""
    empty_transcript: Literal["error", "drop", "keep"] = "error"
    """What to do with an utterance without text."""
    infeasible: Literal["error", "drop"] = "error"
    """What to do with a training utterance that has more labels than its output frames can hold."""
    sample_rate: Annotated[int, Field(ge=1000, le=192_000)] = 16_000
    """Samples a second (Hz) that features are computed at."""
    resample: bool = False
    """Convert files of another rate; otherwise they are an error."""
    channel: Annotated[
        int | Literal["mono"],
        BeforeValidator(_channel),
        WithJsonSchema({"anyOf": [{"const": "mono"}, {"type": "integer", "minimum": 0}]}),
    ] = "mono"
    """mono: files must have one channel. A number: take that channel, counted from 0."""
    max_seconds: Positive = 20.0
    """A longer recording is an error."""
    cache: FilePath | None = None
    """Folder for computed features; null keeps them in memory only."""
    loading: Literal["memory", "streamed"] = "memory"
    """memory: everything is loaded at the start. streamed: a recording is read whenever a batch needs it, for corpora larger than memory;
    no cache of features is used, and padding is planned from the manifest's durations."""
    normalization_utterances: Count = 1000
    """Of streamed data: training utterances, drawn by the seed, that mean and deviation of the features are estimated from."""
    unreadable: Literal["error", "drop"] = "error"
    """What to do with a training recording that cannot be used; drop leaves the utterance out and tells. Dev and test: always an error."""


class LogSpectrogram(Section):
    """Deep Speech 2's features: natural logarithm of the linear power spectrogram, 161 bins at 16 kHz and 20 ms."""

    kind: Literal["log_spectrogram"]
    """Log power spectrogram."""
    window_ms: Annotated[float, Field(ge=2, le=1000)] = 20.0
    """Length of the Hann window in milliseconds."""
    hop_ms: Annotated[float, Field(ge=1, le=1000)] = 10.0
    """From one frame to the next, in milliseconds."""
    num_mels: ClassVar[None] = None  # so that `features.num_mels` can be read for either kind


class LogMel(Section):
    """Natural logarithm of the power in mel-spaced filters."""

    kind: Literal["log_mel"]
    """Log mel filter bank."""
    window_ms: Annotated[float, Field(ge=2, le=1000)] = 20.0
    """Length of the Hann window in milliseconds."""
    hop_ms: Annotated[float, Field(ge=1, le=1000)] = 10.0
    """From one frame to the next, in milliseconds."""
    num_mels: Annotated[int, Field(ge=1, le=512)] = 80
    """Number of mel filters."""


class Batches(Section):
    """How utterances are grouped. All of it changes results, except prefetch and workers."""

    global_batch: Count = 16
    """Utterances a training step, over all devices."""
    shards: Count = 8
    """Pieces that the global batch is cut into, whatever the number of devices; gradients are summed in their order."""
    buckets: Count = 4
    """Groups of similar length; each has one padded shape, and each shape is one compilation."""
    frame_multiple: Count = 24
    """Padded lengths are multiples of this many frames."""
    sort_first_epoch: bool = True
    """First epoch in order of length (SortaGrad)."""
    prefetch: CountOrZero = 2
    """Batches prepared ahead in a thread; 0 prepares each when it is needed. No effect on results."""
    workers: CountOrZero = 2
    """Threads that decode, compute features and augment; 0 or 1: one utterance after another. No effect on results."""

    @field_validator("shards")
    @classmethod
    def _shards_divide_the_batch(cls, shards: int, info: ValidationInfo) -> int:
        batch = info.data.get("global_batch", shards)
        if batch % shards:
            smaller = batch - batch % shards
            sizes = f"{smaller} or {smaller + shards}" if smaller else str(shards)
            raise ValueError(
                f"global_batch {batch} cannot be cut into {shards} shards of equal size; "
                f"make global_batch {sizes}, or change shards"
            )
        return shards


def _two_ends(ends: Any) -> Any:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        found = f"{len(ends)} values" if isinstance(ends, list | tuple) else repr(ends)
        raise ValueError(f"must be two numbers [lowest, highest], found {found}; write a fixed value twice")
    return tuple(ends)


def _lowest_first(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"is [{ends[0]:g}, {ends[1]:g}]: write the lowest first, then the highest")
    return ends


Decibels = Annotated[float, Field(ge=-100, le=100)]
DecibelRange = Annotated[tuple[Decibels, Decibels], BeforeValidator(_two_ends), AfterValidator(_lowest_first)]
Probability = Annotated[float, Field(gt=0, le=1)]


class AugmentNoise(Section):
    """Noise added to training clips: for each a recording of the manifest, from a random place on, and round again if it is short."""

    manifest: FilePath
    """Noises (JSON lines; text is not needed). All are kept in memory, 7 hours at 16 kHz at most."""
    snr_db: DecibelRange
    """[lowest, highest] ratio of the clip's energy to the noise's, dB, drawn uniformly; pauses of the clip count."""
    probability: Probability = 1.0
    """Share of clips that get any, in each epoch."""


class AugmentReverb(Section):
    """Training clips put into a room: convolved with an impulse response, direct sound first, energy kept."""

    manifest: FilePath
    """Impulse responses (JSON lines; text is not needed)."""
    probability: Probability = 1.0
    """Share of clips that are put into one, in each epoch."""


class Augment(Section):
    """Changes to training utterances, never to dev or test; a function of (seed, utterance, epoch)."""

    speeds: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    """Playing speeds, one chosen at random each epoch; 1.1 is shorter and higher."""
    time_masks: CountOrZero = 0
    """Stretches of frames hidden in each utterance (SpecAugment)."""
    max_time_frames: CountOrZero = 0
    """Longest such stretch, in frames."""
    frequency_masks: CountOrZero = 0
    """Bands of bins hidden in each utterance (SpecAugment)."""
    max_frequency_bins: CountOrZero = 0
    """Widest such band, in bins."""
    reverb: AugmentReverb | None = None
    """Rooms, before noise is added; null for none."""
    noise: AugmentNoise | None = None
    """Noise, before the gain; null for none."""
    gain_db: DecibelRange | None = None
    """[lowest, highest] change of level, dB, drawn uniformly each epoch; a peak above full scale is turned down to it. Null for none."""

    @field_validator("max_time_frames", "max_frequency_bins")
    @classmethod
    def _masks_hide_something(cls, width: int, info: ValidationInfo) -> int:
        masks = "time_masks" if info.field_name == "max_time_frames" else "frequency_masks"
        if info.data.get(masks) and not width:
            raise ValueError(f"is 0, so the {info.data[masks]} {masks} hide nothing; make it positive, or {masks} 0")
        return width


class Conv2dFrontEnd(Section):
    """Deep Speech 2's two convolutions over frequency and time (41x11 and 21x11), time stride 2."""

    kind: Literal["conv2d"]
    """Two 2-D convolutions."""
    channels: Count = 32
    """Channels of both convolutions."""


class FrameStackFrontEnd(Section):
    """A small front end for CPU runs: a linear map of neighbouring frames, every few frames."""

    kind: Literal["frame_stack"]
    """Frame stacking."""
    stack: Count
    """Neighbouring frames seen at once; odd, so that a middle exists."""
    stride: Count
    """Frames from one output frame to the next."""
    hidden: Count
    """Features of an output frame."""

    @field_validator("stack")
    @classmethod
    def _stack_is_odd(cls, stack: int) -> int:
        if stack % 2 == 0:
            raise ValueError(f"must be odd, found {stack}; write {stack - 1} or {stack + 1}")
        return stack


class Model(Section):
    """The network: front end, GRU layers, a linear layer to the characters."""

    front_end: Annotated[Conv2dFrontEnd | FrameStackFrontEnd, Field(discriminator="kind")]
    """From frames to fewer, richer output frames."""
    hidden: Count
    """Width of each GRU layer; the two directions are summed, not concatenated."""
    layers: Count
    """Number of GRU layers."""
    direction: Literal["bidirectional", "forward"]
    """forward sees the past only."""
    lookahead: CountOrZero = 0
    """Following output frames seen by a row convolution behind the last GRU layer, each unit with its own weights; 0 leaves it out. With
    direction: forward, the network that `dsrun transcribe --stream` runs."""
    normalization: Literal["batch", "layer", "none"]
    """Of each layer's input projection; batch is sequence-wise with the statistics of each shard."""
    dropout: Fraction = 0.0
    """Share of each GRU layer's output set to zero in training."""
    statistics_momentum: Fraction = 0.9
    """Share of the running mean and variance that one update keeps; with batch normalisation."""
    relu_clip: Positive = 20.0
    """The front end's rectifier is min(max(x, 0), relu_clip)."""
    residuals: Literal["store", "recompute"] = "store"
    """What a GRU layer keeps for its backward pass. store: the gates. recompute: the states alone, and a third more products to restore
    the gates; last bits differ. For GPUs, where memory ends first: on a CPU the compiler merges most of it with the forward pass."""

    @field_validator("lookahead")
    @classmethod
    def _only_forward_layers_look_ahead(cls, lookahead: int, info: ValidationInfo) -> int:
        if lookahead and info.data.get("direction") == "bidirectional":
            raise ValueError("needs direction: forward; bidirectional layers see all frames that follow. Remove this")
        return lookahead


class Grid(Section):
    """Which values exist, and what happens beyond them."""

    format: FormatName
    """Which values exist: a name such as float16, float8_e4m3fn, float_e6m9, fixed_q2.14, int8, ternary, mxfp4
    (`dsrun study formats` lists them), or {word_length: 16, fraction_length: 14}."""
    overflow: OverflowName | None = None
    """Beyond the range: infinity, nan, saturate (the largest value), or wrap (fixed point). Null is the format's own; to be written
    for formats of 8 bits and fewer, where hardware and libraries disagree."""
    subnormals: bool = True
    """false leaves them out, for float_eXmY."""
    granularity: Literal["tensor", "channel"] | None = None
    """What shares a scale, for int8, int4, ternary and binary weights: the tensor, or each output channel. Activations have one a frame."""

    @field_validator("overflow", "subnormals", "granularity")
    @classmethod
    def _fits_the_format(cls, value: Any, info: ValidationInfo) -> Any:
        format = _chosen(info)
        if "format" not in info.data:  # it has a problem of its own
            return value
        if format is None:
            if value not in (None, True):
                raise ValueError("without a master copy the weights have the storage format; say it there")
            return value
        if info.field_name == "overflow" and value is None and isinstance(format, FloatFormat) and format.bits <= 8:
            if len(format.overflows) > 1:
                raise ValueError(f"must be written for {format}: {' or '.join(format.overflows)}; the stacks disagree")
            return value
        if format == FLOAT32 and info.field_name == "overflow" and value is not None:
            raise ValueError("float32 is what values are carried in; it overflows to infinity. Remove this")
        if value is not None:
            parse_format(format.name, **{str(info.field_name): value})
        return value


class Role(Grid):
    """Format and rounding of a role."""

    rounding: RoundingName
    """How a number becomes one of the values: ties_to_even, ties_to_away, toward_zero, toward_positive, toward_negative, stochastic or
    stochastic_equal."""
    random_bits: RandomBits = None
    """Random bits that a stochastic rounding compares; 24 if not written."""

    @field_validator("rounding")
    @classmethod
    def _format_can_be_rounded_so(cls, mode: str, info: ValidationInfo) -> str:
        format = _chosen(info)
        if format is not None:
            _honoured(mode, format)
        return mode


class OptionalRole(Grid):
    """Format of a role that is float32 in most experiments, and its rounding where it is not."""

    rounding: RoundingName | None = None
    """How a number becomes one of the values; to be written unless the format is float32."""
    random_bits: RandomBits = None
    """Random bits that a stochastic rounding compares; 24 if not written."""

    @field_validator("rounding")
    @classmethod
    def _narrow_formats_say_how(cls, mode: str | None, info: ValidationInfo) -> str | None:
        format = _chosen(info)
        if format is None:
            return mode
        if format != FLOAT32 and mode is None:
            raise ValueError(f"missing: how a number becomes a {format}; write ties_to_even, or another mode")
        if mode is not None:
            _honoured(mode, format)
        return mode


class Accumulate(OptionalRole):
    """Partial sums of matrix products."""

    chunk: Count | None = None
    """Products summed in float32 before a narrow sum is rounded; 1 rounds after each. To be written unless the format is float32."""

    @field_validator("format")
    @classmethod
    def _one_grid(cls, name: str) -> str:
        return _grid_name(name, "a sum")

    @field_validator("chunk")
    @classmethod
    def _narrow_sums_have_chunks(cls, chunk: int | None, info: ValidationInfo) -> int | None:
        format = _chosen(info)
        if format is not None and (format == FLOAT32) != (chunk is None):
            raise ValueError(
                "has no effect on a float32 sum; remove it"
                if chunk
                else f"missing: products summed before {format} rounds"
            )
        return chunk


def _grid_name(name: str, what: str) -> str:
    if isinstance(parse_format(name), ScaledFormat | BlockFormat):
        raise ValueError(
            f"{name} takes a scale from finished data; {what} needs one grid: a float or fixed-point format"
        )
    return name


def _master_format(name: Any) -> Any:
    return name if name == "none" else _format(name)


class Master(Grid):
    """The copy of the weights that accumulates updates; `none` keeps one copy, in the storage format."""

    format: Annotated[
        str, BeforeValidator(_master_format), WithJsonSchema({"anyOf": [{"const": "none"}, *FORMAT_SCHEMA]})
    ]
    """none, or which values the copy has."""

    @field_validator("format")
    @classmethod
    def _one_grid(cls, name: str) -> str:
        return name if name == "none" else _grid_name(name, "the sum of updates")


class UpdateRounding(Section):
    """How an updated weight becomes a value of the master's format."""

    rounding: RoundingName
    """The rounding of weight minus learning rate times direction."""
    random_bits: RandomBits = None
    """Random bits that a stochastic rounding compares; 24 if not written."""


class Update(UpdateRounding):
    """How an updated weight becomes a value of the master's format, and whether what that takes is kept."""

    compensation: Literal["none", "kahan"] = "none"
    """kahan keeps what rounding took from each update, in the master's format, and adds it to the next."""


class NoLossScale(Section):
    """The loss as it is."""

    kind: Literal["none"]
    """No scale."""


class StaticLossScale(Section):
    """A fixed factor before the backward pass."""

    kind: Literal["static"]
    """A fixed factor."""
    scale: PowerOfTwo
    """The factor, a power of two."""


class DynamicLossScale(Section):
    """A factor that is doubled after finite steps and halved after each that is not finite."""

    kind: Literal["dynamic"]
    """A factor that follows the gradients."""
    initial: PowerOfTwo = 32768.0
    """Factor of the first step, a power of two."""
    growth_interval: Count = 2000
    """Finite steps in a row after which it is doubled."""
    minimum: PowerOfTwo = 1.0
    """Never below this."""
    maximum: PowerOfTwo = 16777216.0
    """Never above this: a scale that ran to infinity would never come back."""

    @field_validator("maximum")
    @classmethod
    def _bounds_hold_the_start(cls, maximum: float, info: ValidationInfo) -> float:
        initial, minimum = info.data.get("initial", maximum), info.data.get("minimum", maximum)
        if not minimum <= initial <= maximum:
            raise ValueError(f"initial {initial:g} must lie between minimum {minimum:g} and maximum {maximum:g}")
        return maximum


RULED_ROLES = ("storage", "compute", "accumulate", "gradient", "reduce", "master", "update", "state")


class Rule(Section):
    """Other roundings where a path matches."""

    path: Annotated[str, Field(min_length=1)]
    """Regular expression that matches a whole path: of a parameter (`dsrun train --dry-run` lists them, e.g. gru_0_forward.u_r), or
    of a place where values are stored (features, gru_0_forward.state, gru_0_forward.projection_r, gru_0.output, gru_0.dropout,
    front_end.output)."""
    storage: Role | None = None
    """Instead of arithmetic.storage."""
    compute: Role | None = None
    """Instead of arithmetic.compute."""
    accumulate: Accumulate | None = None
    """Instead of arithmetic.accumulate."""
    gradient: Role | None = None
    """Instead of arithmetic.gradient."""
    reduce: OptionalRole | None = None
    """Instead of arithmetic.reduce."""
    master: Grid | None = None
    """Instead of arithmetic.master: the format of these parameters' copy that accumulates."""
    update: UpdateRounding | None = None
    """Instead of arithmetic.update; a compensation is all parameters'."""
    state: OptionalRole | None = None
    """Instead of arithmetic.state."""

    @field_validator("path")
    @classmethod
    def _path_is_a_pattern(cls, path: str) -> str:
        try:
            re.compile(path)
        except re.error as error:
            raise ValueError(f"{path!r} is not a regular expression: {error}") from error
        return path

    @field_validator("state")
    @classmethod
    def _rule_says_something(cls, state: Any, info: ValidationInfo) -> Any:
        # What is missing was refused itself.
        if state is None and all(info.data.get(role, "refused") is None for role in RULED_ROLES if role != "state"):
            raise ValueError("the rule names no role; write one of " + ", ".join(RULED_ROLES))
        return state


class Arithmetic(Section):
    """Formats by role. Every role is written: what an experiment is about has no default."""

    storage: Role
    """Weights as the network reads them, activations as layers hand them on, and the recurrent state."""
    compute: Role
    """Operands of matrix products and convolutions, forward and backward."""
    accumulate: Accumulate
    """Partial sums of products."""
    gradient: Role
    """What flows back between layers, and the gradients of the weights."""
    reduce: OptionalRole
    """The sum of gradients over shards."""
    master: Annotated[Master, BeforeValidator(_master), _OrTheWordNone()]
    """The copy of the weights that accumulates updates, or none."""
    update: Update
    """How an updated weight is rounded."""
    state: OptionalRole
    """The optimizer's moments."""
    ctc: OptionalRole
    """The CTC loss and its gradient; another format than float32 computes it in plain log space, every result rounded."""
    carrier: Literal["emulated", "native"]
    """emulated: values on the format's grid in float32 arrays. native: float16 or bfloat16 arrays, less memory;
    compute tensorfloat32 then uses a GPU's units for it."""
    loss_scale: Annotated[NoLossScale | StaticLossScale | DynamicLossScale, Field(discriminator="kind")] = NoLossScale(
        kind="none"
    )
    """What the loss is multiplied by before the backward pass."""
    rules: tuple[Rule, ...] = ()
    """Other roundings by path; for each role the first rule counts that matches and names it."""

    @field_validator("reduce")
    @classmethod
    def _sums_have_one_grid(cls, role: OptionalRole) -> OptionalRole:
        _grid_name(role.format, "the sum over shards")
        return role

    @field_validator("master")
    @classmethod
    def _one_copy_can_accumulate(cls, master: Master, info: ValidationInfo) -> Master:
        storage = info.data.get("storage")
        if master.format == "none" and storage:
            _grid_name(storage.format, "without a master copy the sum of updates")
        return master

    @field_validator("update")
    @classmethod
    def _master_can_be_updated_so(cls, update: Update, info: ValidationInfo) -> Update:
        master, storage = info.data.get("master"), info.data.get("storage")
        if not (master and storage):
            return update
        name = storage.format if master.format == "none" else master.format
        if name == "float32" and update.rounding != "ties_to_even":
            raise ValueError(
                f"the weights that are updated are float32, which nothing rounds to: {update.rounding} cannot be honoured. Give master "
                "another format, or none with a narrower storage"
            )
        if name == "float32" and update.compensation != "none":
            raise ValueError("kahan compensates what a narrow format loses; the weights that are updated are float32")
        check_rounding(parse_format(name), update.rounding)
        return update

    @field_validator("state")
    @classmethod
    def _moments_have_one_grid(cls, role: OptionalRole) -> OptionalRole:
        _grid_name(role.format, "a moment that is summed over steps")
        return role

    @field_validator("ctc")
    @classmethod
    def _ctc_has_an_infinity(cls, role: OptionalRole) -> OptionalRole:
        format = parse_format(role.format, overflow=role.overflow)
        if not (isinstance(format, FloatFormat) and format.infinity and format.overflow == "infinity"):
            raise ValueError(
                f"{role.format} has no infinity to stand for the logarithm of 0; ctc takes float32, tensorfloat32, bfloat16, float16, "
                "float8_e5m2 or float_eXmY, with overflow infinity"
            )
        return role

    @field_validator("carrier")
    @classmethod
    def _carrier_has_the_formats(cls, carrier: str, info: ValidationInfo) -> str:
        if carrier == "emulated":
            return carrier
        roles = {
            role: info.data[role] for role in ("storage", "compute", "gradient", "master", "state") if role in info.data
        }
        gradient = roles.get("gradient")
        if isinstance(gradient, Role) and gradient.rounding != "ties_to_even":
            raise ValueError(
                f"a native array's gradient is rounded to nearest with ties to even as it becomes one; gradient asks {gradient.rounding}. "
                "Write ties_to_even there, or emulated here"
            )
        for name, role in roles.items():
            if (
                name == "compute" and role.format == "tensorfloat32"
            ):  # float32 arrays, and on a GPU the units that multiply it
                continue
            if role.format not in (*NATIVE_NAMES, "none") or role.overflow not in (None, "infinity"):
                raise ValueError(
                    f"native arrays are float32, float16 or bfloat16 with overflow to infinity (compute: tensorfloat32 too), {name} is "
                    f"{role.format}; write emulated"
                )
        storage = roles.get("storage")
        if storage and gradient and storage.format != gradient.format:
            raise ValueError(
                f"in a native network errors have the dtype of what they are errors of: gradient is {gradient.format}, storage "
                f"{storage.format}; make them equal, or write emulated"
            )
        return carrier

    @field_validator("rules")
    @classmethod
    def _rules_fit(cls, rules: tuple[Rule, ...], info: ValidationInfo) -> tuple[Rule, ...]:
        master, carrier = info.data.get("master"), info.data.get("carrier")
        for number, rule in enumerate(rules):
            if carrier == "native":
                raise ValueError(
                    f"rule {number}: a native network has one format for each role; write carrier: emulated"
                )
            if master and master.format == "none" and rule.storage:
                _grid_name(rule.storage.format, f"rule {number}: without a master copy the sum of updates")
            if rule.master:
                _grid_name(rule.master.format, f"rule {number}: the sum of updates")
            if rule.state:
                _grid_name(rule.state.format, f"rule {number}: a moment that is summed over steps")
            if rule.reduce:
                _grid_name(rule.reduce.format, f"rule {number}: the sum over shards")
        return rules


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    """SGD with momentum."""
    learning_rate: Positive
    """Factor of the update; the schedule changes it."""
    momentum: Fraction
    """Share of the last direction that is kept; Deep Speech 2 has 0.99."""
    nesterov: bool
    """Look ahead along the momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Added to the gradient as this multiple of the weight (L2)."""

    @field_validator("nesterov")
    @classmethod
    def _nesterov_needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("true has no effect with momentum 0; write false, or a momentum")
        return nesterov


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    kind: Literal["adamw"]
    """AdamW."""
    learning_rate: Positive
    """Factor of the update; the schedule changes it."""
    beta1: Fraction = 0.9
    """Decay of the mean of gradients."""
    beta2: Fraction = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Positive = 1e-8
    """Added to the root of the mean square."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Multiple of the weight that is subtracted at each step, times the learning rate."""


class Constant(Section):
    """The same learning rate at every step."""

    kind: Literal["constant"]
    """No change."""


class Anneal(Section):
    """The learning rate is divided after each epoch, as in Deep Speech 2."""

    kind: Literal["anneal"]
    """Division after each epoch."""
    factor: Annotated[float, Field(ge=1)]
    """Divisor; Deep Speech 2 has 1.2."""


class WarmupCosine(Section):
    """A linear rise, then half a cosine down to the end of the last epoch."""

    kind: Literal["warmup_cosine"]
    """Rise, then half a cosine."""
    warmup_steps: CountOrZero
    """Steps of the rise."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """What is left of the learning rate at the end."""


class Training(Section):
    """Length of training, and when to evaluate, to keep a checkpoint and to stop."""

    epochs: Count
    """Passes over the training manifest."""
    clip_norm: Positive | None = 400.0
    """A gradient with a larger norm is scaled down to it (Deep Speech 2: 400); null for never."""
    max_skipped_steps: CountOrZero = 10
    """Steps in a row that may be skipped because they are not finite; one more stops the run. While a dynamic loss scale is above its
    minimum, a skipped step halves it and does not count."""
    evaluate_every_epochs: Count = 1
    """Evaluate on dev after each so many epochs."""
    early_stop_epochs: Count | None = None
    """Stop when dev CER has not improved for so many epochs; null for never."""
    checkpoint_every_epochs: Count = 1
    """Write a checkpoint after each so many epochs."""
    checkpoint_every_steps: Count | None = None
    """Also write one after each so many steps; null for not."""
    keep_last: Count = 2
    """Checkpoints kept besides the best."""
    keep_every_steps: Count | None = None
    """Keep for good each checkpoint whose step is a multiple of this; null for none. A multiple of checkpoint_every_steps."""
    watchdog_minutes: Positive | None = 10.0
    """Without anything done for so long, say where the run hangs, on stderr and in log.txt; null for never."""
    log_every_steps: Count = 1
    """A line in events.jsonl for each so many steps."""
    watch_every_steps: Count | None = 100
    """Count magnitudes and surviving updates at step 1 and each so many steps, for `dsrun study magnitudes`; null for never."""
    hash_every_steps: Count | None = 1
    """A 64-bit hash of each tensor of the state after each so many steps, for `dsrun diff` and `dsrun verify`; null for never."""
    digest_every_steps: Count | None = 100
    """SHA-256 over all bits of the state after each so many steps, and a comparison of the devices' copies; null for at
    checkpoints alone."""
    compilation_cache: bool = False
    """Keep compiled programs in the run folder, so that a resume with the same shapes, formats and versions need not compile. They are
    code: only a resume by the user who began the run, where it began, reads them."""

    @field_validator("keep_every_steps")
    @classmethod
    def _kept_steps_have_checkpoints(cls, keep: int | None, info: ValidationInfo) -> int | None:
        if keep is None or "checkpoint_every_steps" not in info.data:
            return keep
        every = info.data["checkpoint_every_steps"]
        if every is None:
            raise ValueError("only the last step of an epoch has a checkpoint; set checkpoint_every_steps too")
        if keep % every:
            raise ValueError(
                f"no multiple of checkpoint_every_steps ({every}), so most of these steps have no checkpoint; "
                f"write {keep - keep % every + every}"
            )
        return keep


class Kernels(Section):
    """Code of our own for a GPU in place of what XLA makes of the network. Not chosen unless asked for."""

    ctc: Literal["scan", "auto", "mosaic"] = "scan"
    """What walks CTC's lattice in training. scan: two loops of XLA's, anywhere. mosaic: one kernel on an NVIDIA GPU, a thread block an
    utterance; the same bits but for the order in which a frame's blanks are summed. auto: mosaic where an H100 has shown it (compute
    capability 9.0, JAX 0.11, the float32 loss, 255 labels an utterance at most), else scan. Shown on one H100, with all frames valid:
    bits of totals and label occupancies, the gradient's error, time. Not shown, and so no default: padded frames, utterances without
    labels or without an alignment, the same gradient twice, a training step, another GPU."""


class Distribution(Section):
    """The sum over shards that lie on several devices."""

    reduction: Literal["tree", "all_reduce"] = "tree"
    """tree: one fixed order for every number of devices; all_reduce: the library's, for comparison, whose bits depend on that number."""


class Config(Section):
    """A dsrun experiment."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """All randomness is a function of this: weights, order, augmentation, dropout."""
    data: Data
    """What to learn from."""
    features: Annotated[LogSpectrogram | LogMel, Field(discriminator="kind")] = LogSpectrogram(kind="log_spectrogram")
    """From samples to frames."""
    batches: Batches = Batches()
    """How utterances are grouped."""
    augment: Augment | None = None
    """Changes to training utterances; null for none."""
    model: Model
    """The network."""
    arithmetic: Arithmetic
    """Number formats and rounding by role."""
    init_from: FilePath | None = None
    """A run folder whose best checkpoint's weights and running statistics training begins with, at step 0 and with a fresh optimizer;
    null for random weights. The feature normalisation is that run's; alphabet, features and network must be. A resume does not read it."""
    optimizer: Annotated[Sgd | AdamW, Field(discriminator="kind")]
    """How gradients become updates."""
    schedule: Annotated[Constant | Anneal | WarmupCosine, Field(discriminator="kind")]
    """How the learning rate changes."""
    training: Training
    """How long, and when to look, keep and stop."""
    kernels: Kernels = Kernels()
    """Code of our own for a GPU."""
    determinism: Literal["strict", "autotuned", "off"] = "strict"
    """strict: the same bits again. autotuned: so too within this run folder, with kernels for a GPU chosen once by measured time and kept
    there. off: neither compiler nor thread pool is told anything, bits may differ each time, and the run is marked as such everywhere."""
    distribution: Distribution = Distribution()
    """How devices' sums are added up."""

    @field_validator("distribution")
    @classmethod
    def _the_library_rounds_nothing(cls, distribution: Distribution, info: ValidationInfo) -> Distribution:
        arithmetic = info.data.get("arithmetic")
        if distribution.reduction == "all_reduce" and isinstance(arithmetic, Arithmetic):
            formats = [arithmetic.reduce.format, *(rule.reduce.format for rule in arithmetic.rules if rule.reduce)]
            if narrow := [name for name in formats if name != "float32"]:
                raise ValueError(
                    f"the library's all-reduce adds in float32 and rounds nothing; arithmetic.reduce is {narrow[0]}. Write tree"
                )
        return distribution


RUNS = Path("runs")  # where run folders are, unless --run-dir says otherwise
PATH_KEYS = (
    "data.train",
    "data.dev",
    "data.test",
    "data.alphabet",
    "data.cache",
    "augment.noise.manifest",
    "augment.reverb.manifest",
    "init_from",
)
_OF_A_MASTER = {f"arithmetic.master.{name}" for name in Master.model_fields if name != "format"}


@dataclass(frozen=True)
class Resolved:
    """A config, where each of its values came from (by dotted key), and the file that was asked for."""

    config: Config
    origins: dict[str, str]
    path: Path


@dataclass(frozen=True)
class ConfigFile:
    """A file in a folder of configs and the first line of its header."""

    name: str
    claim: str
    path: Path


def load_config(path: str | Path, sets: Sequence[str] = ()) -> Resolved:
    """Read a file, its bases and `KEY=VALUE` overrides. Paths in the result are absolute.

    Raises:
        ConfigError: the text lists every problem as `file:line:column  dotted.key: message`.
    """
    path = Path(path)
    problems: list[Problem] = []
    tree = read_tree(path, sets, problems)
    resolved = None if tree is None else resolve(tree, path, problems)
    if resolved is None:
        raise ConfigError(listing(problems))
    return resolved


def resolve(tree: Node, path: Path, problems: list[Problem]) -> Resolved | None:
    """The config that a tree of values describes; None if there are problems, which are appended. Paths become absolute in the tree too."""
    config = None
    _make_paths_absolute(tree)
    try:
        config = Config.model_validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        # A value that could not be read has its problem already; what follows from it is not a second one.
        unread = {problem.key for problem in problems}
        problems += [problem for problem in problems_of(error, tree, Config) if problem.key not in unread]
    if problems or config is None:
        return None
    return Resolved(config, {key: _origin(tree, key) for key in flatten(config)}, path)


def flatten(config: Config) -> dict[str, Any]:
    """Values by dotted key, in the order of the schema; lists and null are values."""

    def walk(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in values.items():
            flat |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return flat

    return walk(config.model_dump(mode="json"), "")


def render_origins(resolved: Resolved) -> list[dict[str, Any]]:
    """Rows of key, value, origin: `default`, `base.yaml:7` or `--set #2`; without what has no meaning, as subnormals of no master copy."""
    return [
        {"key": key, "value": value, "origin": resolved.origins[key]}
        for key, value in flatten(resolved.config).items()
        if resolved.config.arithmetic.master.format != "none" or key not in _OF_A_MASTER
    ]


def to_yaml(config: Config) -> str:
    """The whole config, defaults included, as YAML that `load_config` reads back to an equal config."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100_000
    yaml.allow_unicode = True
    text = StringIO()
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def config_hash(config: Config) -> str:
    """sha256 of the resolved values, 64 hex digits.

    Of a path only the file's name and its folder's name count, so that another checkout of the repository gives the
    same hash; corpora with equal names differ in their run folders' config.yaml, which the run folder compares.
    """
    values = flatten(config)
    for key in PATH_KEYS:
        if values.get(key) is not None:  # a section that is null has no keys
            values[key] = "/".join(Path(values[key]).parts[-2:])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def default_run_dir(resolved: Resolved) -> Path:
    """runs/<config stem>-<6 hex of the resolved config's hash>: named by content, so that the same command finds it again."""
    return RUNS / f"{resolved.path.stem}-{config_hash(resolved.config)[:6]}"


def list_configs(folder: str | Path) -> list[ConfigFile]:
    """Configs of a folder by name.

    Raises:
        UsageError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Give the folder that holds configs.")
    return [ConfigFile(path.stem, _first_comment(path), path) for path in sorted(folder.glob("*.yaml"))]


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for editors. A file with a `base` may leave out what the base says."""
    complete = Config.model_json_schema()
    definitions = complete.pop("$defs")
    definitions["Config"] = complete
    partial = {f"{name}_difference": _without_required(schema) for name, schema in definitions.items()}
    base = {"type": "string", "description": "Another config; this file is the difference. Relative to this file."}
    partial["Config_difference"]["properties"] = {"base": base, **partial["Config_difference"]["properties"]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "dsrun config",
        "if": {"required": ["base"]},
        "then": {"$ref": "#/$defs/Config_difference"},
        "else": {"$ref": "#/$defs/Config"},
        "$defs": {**definitions, **partial},
    }


def _without_required(schema: Any) -> Any:
    """A copy in which nothing is required and references stay among such copies.

    Without its `kind`, a section can match several kinds, hence anyOf.
    """
    if isinstance(schema, list):
        return [_without_required(part) for part in schema]
    if not isinstance(schema, dict):
        return f"{schema}_difference" if isinstance(schema, str) and schema.startswith("#/$defs/") else schema
    return {
        "anyOf" if key == "oneOf" else key: _without_required(part) for key, part in schema.items() if key != "required"
    }


def _make_paths_absolute(tree: Node) -> None:
    for key in PATH_KEYS:
        node = tree.find(key)
        if node and isinstance(node.value, str) and node.value and not node.value.startswith("~"):
            node.value = os.path.normpath(node.place.source.folder.resolve() / node.value)


def _origin(tree: Node, key: str) -> str:
    """Where a value was written. `master: none` is short for a section, and its line is that of `arithmetic.master.format`."""
    section, name = key.rpartition(".")[::2]
    node = tree.find(key)
    if node is None and name == "format" and (short := tree.find(section)) and not isinstance(short.value, dict):
        node = short
    return node.place.origin if node else "default"


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.startswith("#"):
                return ""
            if not line.startswith("# yaml-language-server"):
                return line.lstrip("# ").rstrip()
    return ""
