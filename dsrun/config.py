"""The YAML's mirror: every key of a config, its type, its range and what it means.

One typed model a section; the text under a field is its description in `configs/schema.json`, which editors read.
Models are strict (text is not a number, 1 is a fine float, nothing else is converted), frozen, and refuse unknown
keys. What an experiment is about has no default: seed, data, network, formats, optimizer, schedule, number of epochs.

A setting that dsrun does not obey yet is refused with its line and never ignored. Rooms do not import this file;
`build.py` reads the sections and calls their constructors, and a test asserts that every field is read.

`config_file.py` reads YAML, `base` and `--set`; `config_messages.py` words the problems. No JAX here: checking is
instant.
"""

import difflib
import hashlib
import json
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

from dsrun.config_file import Node, Problem, read_tree
from dsrun.config_messages import listing, problems_of
from dsrun.errors import ConfigError, UsageError

AVAILABLE_FORMATS = ("float32", "float16", "bfloat16")
FORMAT_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_OTHER_NAMES = {
    **dict.fromkeys(("half", "f16", "binary16"), "float16"),
    **dict.fromkeys(("single", "float", "f32", "binary32"), "float32"),
    **dict.fromkeys(("double", "fp64"), "float64"),
    **dict.fromkeys(("fp8", "e4m3"), "float8_e4m3fn"),
    "e5m2": "float8_e5m2",
}
_LATER_FORMAT = re.compile(
    r"float64|tfloat32|float[468]?_e\d+m\d+(fn|fnuz|fnu|b11fnuz)?|fixed_q\d+\.\d+|u?int\d+|binary1"
)
_LATER_ROUNDINGS = ("ties_to_away", "toward_zero", "toward_positive", "toward_negative", "stochastic")
_AVAILABLE = "storage and compute take float32, float16 or bfloat16; the other roles float32"


def _format(name: Any) -> Any:
    """Canonical name of a format; other types are left for the type check."""
    if not isinstance(name, str):
        return name
    name = FORMAT_ALIASES.get(name, name)
    if name in AVAILABLE_FORMATS:
        return name
    if _LATER_FORMAT.fullmatch(name):
        raise ValueError(f"{name} is not available yet: {_AVAILABLE}")
    close = difflib.get_close_matches(name, (*AVAILABLE_FORMATS, *FORMAT_ALIASES), n=1)
    meant = _OTHER_NAMES.get(name.lower()) or (close[0] if close else None)
    hint = f"did you mean {meant!r}? " if meant else ""
    raise ValueError(f"unknown format {name!r}; {hint}{_AVAILABLE[0].upper()}{_AVAILABLE[1:]}")


def _float32(name: Any) -> Any:
    name = _format(name)
    if name in AVAILABLE_FORMATS and name != "float32":
        raise ValueError(f"{name} is not available for this role yet: {_AVAILABLE}")
    return name


def _rounding(mode: Any) -> Any:
    if mode in ("nearest", "round", "nearest_even", "rne"):
        raise ValueError(
            f"{mode!r} is ambiguous: IEEE 754 has two nearest modes. Write ties_to_even or ties_to_away."
            if mode in ("nearest", "round")
            else f"unknown rounding {mode!r}; did you mean 'ties_to_even'?"
        )
    if mode in _LATER_ROUNDINGS:
        raise ValueError(f"{mode} is not available yet: write ties_to_even")
    return mode


def _carrier(carrier: Any) -> Any:
    if carrier == "native":
        raise ValueError("native is not available yet: write emulated (the format's values, carried in float32)")
    return carrier


def _master(master: Any) -> Any:
    if master in ("none", None):
        raise ValueError("training without a master copy is not available yet: write {format: float32}")
    return master


def _channel(channel: Any) -> Any:
    if channel == "mono" or (isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0):
        return channel
    raise ValueError(f"must be mono or a channel's number from 0, found {channel!r}")


def _file_path(path: str) -> str:
    if path.startswith("~"):
        raise ValueError(f"{path!r}: '~' is not expanded; write the whole path")
    return path


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_file_path)]
SmallFormat = Annotated[
    Literal["float32", "float16", "bfloat16"],
    BeforeValidator(_format),
    WithJsonSchema({"type": "string", "enum": [*AVAILABLE_FORMATS, *FORMAT_ALIASES]}),
]
OnlyFloat32 = Annotated[
    Literal["float32"], BeforeValidator(_float32), WithJsonSchema({"type": "string", "enum": ["float32", "fp32"]})
]
Rounding = Annotated[Literal["ties_to_even"], BeforeValidator(_rounding)]
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
    """How utterances are grouped. All of it changes results, except prefetch."""

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
    normalization: Literal["batch", "layer", "none"]
    """Of each layer's input projection; batch is sequence-wise with the statistics of each shard."""
    dropout: Fraction = 0.0
    """Share of each GRU layer's output set to zero in training."""
    statistics_momentum: Fraction = 0.9
    """Share of the running mean and variance that one update keeps; with batch normalisation."""
    relu_clip: Positive = 20.0
    """The front end's rectifier is min(max(x, 0), relu_clip)."""


class SmallRole(Section):
    """Format and rounding of a role that can have 16 bits."""

    format: SmallFormat
    """Which values exist: float32, float16 or bfloat16."""
    rounding: Rounding
    """How a number becomes one of them."""


class WideRole(Section):
    """Format of a role that is float32 for now."""

    format: OnlyFloat32
    """Which values exist."""


class RoundedWideRole(Section):
    """Format and rounding of a role that is float32 for now."""

    format: OnlyFloat32
    """Which values exist."""
    rounding: Rounding
    """How a number becomes one of them."""


class UpdateRole(Section):
    """Rounding of the updated weight."""

    rounding: Rounding
    """How the updated weight becomes a value of the master's format."""


class Arithmetic(Section):
    """Formats by role. Every role is written: what an experiment is about has no default."""

    storage: SmallRole
    """Weights as the network reads them, and activations as layers hand them on."""
    compute: SmallRole
    """Operands of matrix products and convolutions."""
    accumulate: WideRole
    """Partial sums of products."""
    gradient: RoundedWideRole
    """What flows back between layers."""
    reduce: WideRole
    """The sum of gradients over shards."""
    master: Annotated[WideRole, BeforeValidator(_master)]
    """The copy of the weights that accumulates updates."""
    update: UpdateRole
    """How an updated weight is rounded."""
    state: WideRole
    """The optimizer's moments."""
    ctc: WideRole
    """The CTC loss and its gradient."""
    carrier: Annotated[Literal["emulated"], BeforeValidator(_carrier)]
    """emulated: values on the format's grid, carried in float32."""


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
    log_every_steps: Count = 1
    """A line in events.jsonl for each so many steps."""


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
    optimizer: Annotated[Sgd | AdamW, Field(discriminator="kind")]
    """How gradients become updates."""
    schedule: Annotated[Constant | Anneal | WarmupCosine, Field(discriminator="kind")]
    """How the learning rate changes."""
    training: Training
    """How long, and when to look, keep and stop."""


PATH_KEYS = ("data.train", "data.dev", "data.test", "data.alphabet", "data.cache")


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
    if tree is None:
        raise ConfigError(listing(problems))
    _make_paths_absolute(tree)
    try:
        config = Config.model_validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        # A value that could not be read has its problem already; what follows from it is not a second one.
        unread = {problem.key for problem in problems}
        problems += [problem for problem in problems_of(error, tree, Config) if problem.key not in unread]
    if problems:
        raise ConfigError(listing(problems))
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
    """Rows of key, value, origin: `default`, `base.yaml:7` or `--set #2`."""
    return [
        {"key": key, "value": value, "origin": resolved.origins[key]} for key, value in flatten(resolved.config).items()
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
        if values[key] is not None:
            values[key] = "/".join(Path(values[key]).parts[-2:])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
    node = tree.find(key)
    return node.place.origin if node else "default"


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.startswith("#"):
                return ""
            if not line.startswith("# yaml-language-server"):
                return line.lstrip("# ").rstrip()
    return ""
