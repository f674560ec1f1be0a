"""Configs: what is accepted, what is refused, where the message points, and what survives a round trip."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.config import (
    PATH_KEYS,
    Config,
    config_hash,
    flatten,
    json_schema,
    list_configs,
    load_config,
    render_origins,
    to_yaml,
)
from dsrun.config_file import MAX_BYTES, MAX_DEPTH, Source, parse_yaml
from dsrun.config_messages import leaves
from dsrun.errors import ConfigError, UsageError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))

COMPLETE = """\
seed: 1
data:
  train: a/train.jsonl
  dev: a/dev.jsonl
features: {kind: log_spectrogram}
batches: {global_batch: 16, shards: 8}
augment:
  speeds: [0.9, 1.0]
model:
  front_end: {kind: frame_stack, stack: 5, stride: 3, hidden: 64}
  hidden: 64
  layers: 2
  direction: bidirectional
  normalization: batch
arithmetic:
  storage: {format: float32, rounding: ties_to_even}
  compute: {format: float32, rounding: ties_to_even}
  accumulate: {format: float32}
  gradient: {format: float32, rounding: ties_to_even}
  reduce: {format: float32}
  master: {format: float32}
  update: {rounding: ties_to_even}
  state: {format: float32}
  ctc: {format: float32}
  carrier: emulated
optimizer: {kind: sgd, learning_rate: 1e-4, momentum: 0.9, nesterov: true}
schedule: {kind: constant}
training: {epochs: 3}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a complete config `x.yaml`, so that messages have short paths."""
    (tmp_path / "x.yaml").write_text(COMPLETE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: str = "x.yaml", sets: tuple[str, ...] = ()) -> str:
    """The text with which a config is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, sets)
    return str(caught.value)


def refusal_of(text: str | bytes) -> str:
    """The text with which `bad.yaml` in the current folder, holding `text`, is refused."""
    Path("bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return refusal("bad.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  hidden: 64\n", "  hiden: 64\n", "x.yaml:11:3  model.hiden: unknown key; did you mean 'hidden'?"),
        ("  hidden: 64\n", "", "x.yaml:9:1  model.hidden: missing. Width of each GRU layer"),
        ("schedule: {kind: constant}\n", "", "x.yaml:1:1  schedule: missing. How the learning rate changes."),
        ("seed: 1", "seed: '1'", "x.yaml:1:1  seed: must be a whole number, found text '1'; write it without quotes"),
        ("seed: 1", "seed: 1_000", "x.yaml:1:1  seed: must be a whole number, found text '1_000'; write it without"),
        ("seed: 1", "seed: 1.5", "x.yaml:1:1  seed: must be a whole number, found 1.5"),
        ("seed: 1", "seed: true", "x.yaml:1:1  seed: must be a whole number, found true"),
        ("seed: 1", "seed: -1", "x.yaml:1:1  seed: must be at least 0, found -1"),
        ("layers: 2", "layers: 0", "x.yaml:12:3  model.layers: must be at least 1, found 0"),
        ("1e-4", "0", "x.yaml:26:24  optimizer.learning_rate: must be greater than 0, found 0"),
        ("1e-4", ".inf", "x.yaml:26:39  optimizer.learning_rate: .inf: numbers must be finite"),
        ("1e-4", "1e999", "x.yaml:26:39  optimizer.learning_rate: 1e999: too large for a number"),
        ("momentum: 0.9", "momentum: 1", "x.yaml:26:45  optimizer.momentum: must be less than 1, found 1"),
        ("momentum: 0.9", "momentum: 0", "x.yaml:26:58  optimizer.nesterov: true has no effect with momentum 0"),
        ("nesterov: true", "nesterov: yes", "optimizer.nesterov: must be true or false, found text 'yes'; YAML 1.2"),
        ("0.9, nesterov", "0.9, beta1: 0.9, nesterov", "optimizer.beta1: belongs to kind adamw; remove it"),
        ("kind: sgd", "kind: sdg", "x.yaml:26:13  optimizer.kind: found text 'sdg'; did you mean 'sgd'? Write one"),
        ("kind: sgd, ", "", "x.yaml:26:1  optimizer.kind: missing; write one of sgd, adamw"),
        ("{kind: constant}", "constant", "x.yaml:27:1  schedule: must be a section of `key: value` lines, found text"),
        ("[0.9, 1.0]", "[0.9, -1]", "x.yaml:8:17  augment.speeds.1: must be greater than 0, found -1"),
        ("[0.9, 1.0]", "[]", "x.yaml:8:3  augment.speeds: must not be empty"),
        ("[0.9, 1.0]", "0.9", "x.yaml:8:3  augment.speeds: must be a list such as [0.9, 1.0, 1.1], found 0.9"),
        ("speeds: [0.9, 1.0]", "time_masks: 2", None),
        ("speeds", "gain_db: [3, -3]\n  speeds", "x.yaml:8:3  augment.gain_db: is [3, -3]: write the lowest first"),
        ("speeds", "gain_db: [3]\n  speeds", "x.yaml:8:3  augment.gain_db: must be two numbers [lowest, highest], found 1"),
        ("speeds", "gain_db: 3\n  speeds", "x.yaml:8:3  augment.gain_db: must be two numbers [lowest, highest], found 3"),
        ("speeds", "noise: {snr_db: [0, 20]}\n  speeds", "x.yaml:8:3  augment.noise.manifest: missing. Noises (JSON"),
        ("speeds", "reverb: {manifest: a, probability: 0}\n  speeds", "x.yaml:8:25  augment.reverb.probability: must be"),
        ("shards: 8", "shards: 3", "x.yaml:6:29  batches.shards: global_batch 16 cannot be cut into 3 shards"),
        ("stack: 5", "stack: 4", "x.yaml:10:34  model.front_end.stack: must be odd, found 4; write 3 or 5"),
        ("log_spectrogram}", "log_spectrogram, num_mels: 80}", "x.yaml:5:35  features.num_mels: belongs to kind"),
        ("a/train.jsonl", "~/train.jsonl", "x.yaml:3:3  data.train: '~/train.jsonl': '~' is not expanded"),
        ("a/train.jsonl", "3", "x.yaml:3:3  data.train: must be text, found 3"),
        ("a/train.jsonl", "''", "x.yaml:3:3  data.train: must not be empty"),
        ("  dev: ", "  channel: left\n  dev: ", "data.channel: must be mono or a channel's number from 0, found"),
        ("normalization: batch", "normalization: bacth", "found text 'bacth'; did you mean 'batch'? Write one"),
        ("seed: 1", "seed: 1\nlearning_rate: 1", "x.yaml:2:1  learning_rate: unknown key here; did you mean opti"),
        ("seed: 1", "seed: 1\nzzz: 1", "x.yaml:2:1  zzz: unknown key; the top level has seed, data, features"),
        ("seed: 1", "seed: 1\n<<: {seed: 2}", "x.yaml:2:1  <<: merge keys are not read; use `base`"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_at_its_line_with_a_way_out(folder: Path, old: str, new: str, message: str | None):
    assert COMPLETE.count(old) >= 1
    (folder / "x.yaml").write_text(COMPLETE.replace(old, new, 1))
    text = refusal() if message else refusal(sets=("augment.max_time_frames=0",))
    assert (message or "--set #1  augment.max_time_frames: is 0, so the 2 time_masks hide nothing") in text
    assert "\n" not in text, "one mistake is one problem"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("storage.format=fp17", "storage.format: unknown format 'fp17'; did you mean 'fp16'? There are float32, "),
        ("storage.format=half", "storage.format: unknown format 'half'; did you mean 'float16'?"),
        ("storage.format=16", "storage.format: must be text, found 16"),
        ("storage.format=float_e9m2", "storage.format: float_e9m2: float32 carries 2 to 8 exponent bits"),
        ("storage.format=fixed_q20.14", "storage.format: fixed point of 34 bits: 2 to 25 are carried exactly"),
        ("storage.format={word_length: 16, fraction_length: 16}", "storage.format: fixed point of 16 bits with 16"),
        ("storage.format=float8_e4m3fn", "storage.overflow: must be written for float8_e4m3fn: nan or saturate; the"),
        ("storage={format: float8_e4m3fn, overflow: infinity}", "storage.overflow: float8_e4m3fn cannot overflow to "
         "'infinity'; write nan or saturate."),
        ("storage={format: fixed_q4.12, overflow: infinity}", "storage.overflow: fixed_q4.12 cannot overflow to"),
        ("storage={format: int8, overflow: saturate}", "storage.overflow: int8 cannot overflow to 'saturate'; its scale"),
        ("storage={format: float16, granularity: channel}", "storage.granularity: float16 has no scale of its own"),
        ("storage={format: float16, subnormals: false}", "storage.subnormals: float16 is defined with subnormals"),
        ("storage.rounding=nearest", "storage.rounding: 'nearest' is ambiguous: IEEE 754 has two nearest modes. Write "
         "ties_to_even or ties_to_away."),
        ("storage.rounding=stochastic", "storage.rounding: float32 is what values are carried in and is not rounded to: "
         "stochastic cannot be honoured"),
        ("storage={format: binary, rounding: toward_zero}", "storage.rounding: binary has no value between -scale and"),
        ("storage={format: float16, random_bits: 8}", "storage.random_bits: belongs to rounding: stochastic; ties_to_even"),
        ("storage={format: float16, rounding: stochastic, random_bits: 40}", "storage.random_bits: must be at most 31"),
        ("update.rounding=ties_to_evn", "update.rounding: unknown rounding 'ties_to_evn'; did you mean 'ties_to_even'?"),
        ("update.rounding=stochastic", "update: the weights that are updated are float32, which nothing rounds to"),
        ("update.compensation=kahan", "update: kahan compensates what a narrow format loses"),
        ("master.format=int8", "master.format: int8 takes a scale from finished data; the sum of updates needs one grid"),
        ("accumulate={format: float16, chunk: 8}", "accumulate.rounding: missing: how a number becomes a float16"),
        ("accumulate={format: float16, rounding: ties_to_even}", "accumulate.chunk: missing: products summed before float16"),
        ("accumulate.chunk=8", "accumulate.chunk: has no effect on a float32 sum; remove it"),
        ("ctc={format: fixed_q4.12, rounding: ties_to_even}", "ctc: fixed_q4.12 has no infinity to stand for the log"),
        ("reduce={format: ternary, rounding: ties_to_even}", "reduce: ternary takes a scale from finished data"),
        ("loss_scale={kind: static, scale: 1000}", "loss_scale.scale: must be a power of two, so that scaling is exact; "
         "write 512 or 1024"),
        ("loss_scale={kind: dynamic, initial: 2, minimum: 4}", "loss_scale.maximum: initial 2 must lie between minimum 4"),
        ("rules=[{path: 'gru_.*'}]", "rules.0.state: the rule names no role; write one of storage, compute, "
         "accumulate, gradient, reduce, master, update, state"),
        ("rules=[{storage: {format: float16, rounding: ties_to_even}}]", "rules.0.path: missing. Regular expression"),
        ("rules=[{path: '.*', storge: {format: float16}, reduce: {format: float32}}]", "rules.0.storge: unknown key; did you "
         "mean 'storage'?"),
        ("storage.format={word_length: 32, fraction_length: 10}", "storage.format: fixed point of 32 bits"),
        ("rules=[{path: '.*', master: {format: int8}}]", "rules: int8 takes a scale from finished data; rule 0: "
         "the sum of updates"),
        ("rules=[{path: '.*', accumulate: {format: float16, rounding: ties_to_even}}]", "rules.0.accumulate.chunk: missing"),
        ("accumulate={format: float32, overflow: saturate}", "accumulate.overflow: float32 is what values are carried in"),
        ("reduce={format: float32, random_bits: 8}", "reduce.random_bits: belongs to rounding: stochastic; float32 has no"),
        ("loss_scale={kind: static, scale: 1e-60}", "loss_scale.scale: must be at least"),
        ("storage.format=float_e06m09", "storage.format: unknown format 'float_e06m09'"),
        ("rules=[{path: 'gru_(', compute: {format: float16, rounding: ties_to_even}}]", "rules.0.path: 'gru_(' is not a "
         "regular expression"),
        ("carrier=float32", "carrier: found text 'float32'; write one of emulated, native"),
    ],
)  # fmt: skip
def test_arithmetic_that_cannot_be_honoured_is_refused_at_its_line(folder: Path, sets: str, message: str):
    assert refusal(sets=(f"arithmetic.{sets}",)).startswith(f"--set #1  arithmetic.{message}")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("storage.format=int8", "master=none"), "--set #2  arithmetic.master: int8 takes a scale from finished data"),
        (("gradient={format: float16, rounding: stochastic}", "storage.format=float16", "carrier=native"),
         "--set #3  arithmetic.carrier: a native array's gradient is rounded to nearest"),
        (("storage.format=float16", "carrier=native"), "--set #2  arithmetic.carrier: in a native network errors have the dtype"),
        (("storage.format=fixed_q4.12", "carrier=native"), "--set #2  arithmetic.carrier: native arrays are float32, float16"),
        (("storage.format=binary", "update.rounding=ties_to_even", "storage.rounding=toward_zero"), "--set #3  arithmetic.storage"),
    ],
)  # fmt: skip
def test_roles_that_do_not_fit_each_other_are_refused(folder: Path, sets: tuple[str, ...], message: str):
    assert refusal(sets=tuple(f"arithmetic.{text}" for text in sets)).startswith(message)


def test_all_problems_come_at_once_in_the_order_of_lines(folder: Path):
    text = COMPLETE.replace("layers: 2", "layers: two").replace("seed: 1", "seed: -1").replace("epochs", "epoch")
    (folder / "x.yaml").write_text(text)
    lines = refusal(sets=("batches.bucket=2",)).splitlines()
    places = ["x.yaml:1:1  seed: ", "x.yaml:12:3  model.layers: ", "x.yaml:28:12  training.epoch: "]
    assert [line.startswith(place) for line, place in zip(lines, places, strict=False)] == [True] * 3
    assert lines[3:] == ["--set #1  batches.bucket: unknown key; did you mean 'buckets'?", "4 problems"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.yaml:1:1  the file is empty; start from `dsrun configs list`"),
        ("# only a comment\n", "bad.yaml:1:1  the file is empty"),
        ("- seed: 1\n", "bad.yaml:1:1  a config is a mapping of `key: value` lines"),
        ("seed: 1\n\tdata: 2\n", "bad.yaml:2:1  a tab; indent with spaces"),
        ("seed: [1\n", "bad.yaml:2:1  not YAML: "),
        ("seed: 1\n---\nseed: 2\n", "bad.yaml:2:1  a second document starts here"),
        ("%YAML 1.1\n---\nseed: 1\n", "bad.yaml:2:1  remove the % directive"),
        (b"seed: 1\n# caf\xe9\n", "bad.yaml:2:6  byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("seed: 1\nx: \x07\n", "bad.yaml:2:4  a control character; YAML allows none"),
        ("seed: " + "[" * 5000, f"bad.yaml:1:{6 + MAX_DEPTH + 1}  seed: nested deeper than {MAX_DEPTH} levels"),
        ("# " + "x" * MAX_BYTES, f"bad.yaml  is larger than {MAX_BYTES} bytes"),
        ("seed: 1\nmodel: {hidden: 1}\nseed: 2\n", "bad.yaml:3:1  seed: written twice (first in line 1); remove one"),
        ("seed: &one 1\n", "bad.yaml:1:7  seed: anchor &one: anchors are not read; use `base`"),
        ("seed: *one\n", "bad.yaml:1:7  seed: alias *one: aliases are not read"),
        ("seed: !!python/object:os.system 1\n", "bad.yaml:1:7  seed: tag tag:yaml.org,2002:python/object"),
        ("? [1, 2]\n: 3\n", "bad.yaml:1:3  a key must be a word"),
        ("seed: 1111111111111111111\n", "bad.yaml:1:7  seed: 111111111111111111...: more than 18 digits"),
        ('data: {train: "\\ud800"}\n', "bad.yaml:1:15  data.train: half a surrogate pair"),
        ("base: missing.yaml\n", "bad.yaml:1:1  base: no such file: missing.yaml; paths are relative to"),
        ("base: 3\n", "bad.yaml:1:1  base: must be the path of another config"),
        ("base: bad.yaml\n", "bad.yaml:1:1  base: goes round in a circle: bad.yaml -> bad.yaml"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config_is_refused_at_the_place(folder: Path, text: str | bytes, message: str):
    assert message in refusal_of(text)


def test_a_missing_file_and_a_folder_are_refused(folder: Path):
    assert refusal("none.yaml") == "none.yaml  no such file; `dsrun configs list` shows those in configs/"
    assert "no such file (did you mean x.yaml?); `dsrun configs list`" in refusal("xx.yaml")
    assert refusal(".") == ".  is not a file; give one YAML file"


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("speeds=[]", ["speeds: must not be empty"]),
        (
            "speeds=[0, 1.0, nan, '1_0']",
            [
                "speeds.0: must be greater than 0, found 0",
                "speeds.2: must be a number, found text 'nan'; numbers must be finite",
                "speeds.3: must be a number, found text '1_0'; write it without quotes and underscores",
            ],
        ),
        ("speeds=[.nan, 0.9]", ["speeds.0: .nan: numbers must be finite"]),
        ("gain_db=[-.inf, 6]", ["gain_db.0: -.inf: numbers must be finite"]),
        ("gain_db=[-inf, 6]", ["gain_db.0: must be a number, found text '-inf'; numbers must be finite"]),
    ],
)
def test_each_bad_element_of_a_list_is_one_line_with_its_value_and_reason(
    folder: Path, override: str, lines: list[str]
):
    found = refusal(sets=(f"augment.{override}",)).splitlines()
    assert found[: len(lines)] == [f"--set #1  augment.{line}" for line in lines]
    assert found[len(lines) :] == ([f"{len(lines)} problems"] if len(lines) > 1 else [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set #1  'seed': no '='; write --set KEY=VALUE"),
        ("=3", "--set #1  '=3': the key must be names joined by dots"),
        ("a..b=3", "--set #1  'a..b=3': the key must be names joined by dots"),
        ("augment=", "--set #1  'augment=': no value after '='; write augment=null for nothing"),
        ("base=y.yaml", "--set #1  'base=y.yaml': base belongs in the file"),
        ("augment.speeds=[1", "--set #1  not YAML: "),
        ("model.hiden=3", "--set #1  model.hiden: unknown key; did you mean 'hidden'?"),
        ("seed.x=3", "--set #1  seed: must be a whole number, found a section"),
        ("seed=.nan", "--set #1  seed: .nan: numbers must be finite"),
    ],
)
def test_a_bad_override_is_named_by_its_number(folder: Path, override: str, message: str):
    assert refusal(sets=(override,)).startswith(message)
    assert refusal(sets=("seed=2", override)).startswith(message.replace("#1", "#2"))


def test_yaml_is_version_1_2():
    text = "[1e-4, 1E3, -.5, 010, 0x1f, off, no, 12:30, 1_000, 2020-01-01, ~, null, true, '1', 0o17]"
    node = parse_yaml(text, Source("x", 0, Path()), problems := [])
    assert not problems
    assert node is not None
    expected = [1e-4, 1e3, -0.5, 10, 31, "off", "no", "12:30", "1_000", "2020-01-01", None, None, True, "1", 15]
    assert list(map(repr, node.plain())) == list(map(repr, expected))


def test_layers_are_default_then_base_then_file_then_set(folder: Path):
    (folder / "sub").mkdir()
    (folder / "sub" / "difference.yaml").write_text("base: ../x.yaml\nmodel:\n  hidden: 32\ndata: {test: t.jsonl}\n")
    resolved = load_config("sub/difference.yaml", ["model.layers=4", "model.layers=5", "data.alphabet=abc.txt"])
    rows = {row["key"]: (row["value"], row["origin"]) for row in render_origins(resolved)}
    assert rows["model.dropout"] == (0.0, "default")
    assert rows["model.direction"] == ("bidirectional", "x.yaml:13")
    assert rows["model.hidden"] == (32, "difference.yaml:3")
    assert rows["model.layers"] == (5, "--set #2")
    assert rows["data.train"] == (str(folder / "a/train.jsonl"), "x.yaml:3")
    assert rows["data.test"] == (str(folder / "sub/t.jsonl"), "difference.yaml:4")
    assert rows["data.alphabet"] == (str(folder / "abc.txt"), "--set #3")


def test_the_origin_of_no_master_is_the_line_that_says_so_and_a_master_that_is_not_there_has_no_settings(folder: Path):
    (folder / "y.yaml").write_text("base: x.yaml\narithmetic:\n  master: none\n")
    for sets, value, origin in (([], "none", "y.yaml:3"), (["arithmetic.master=none"], "none", "--set #1")):
        rows = {row["key"]: (row["value"], row["origin"]) for row in render_origins(load_config("y.yaml", sets))}
        assert {key: row for key, row in rows.items() if ".master" in key} == {
            "arithmetic.master.format": (value, origin)
        }
    rows = {row["key"] for row in render_origins(load_config("x.yaml"))}
    assert "arithmetic.master.subnormals" in rows


def test_a_problem_in_the_base_is_reported_in_the_base(folder: Path):
    (folder / "x.yaml").write_text(COMPLETE.replace("seed: 1", "sed: 1"))
    (folder / "y.yaml").write_text("base: x.yaml\nmodel: {layer: 3}\n")
    assert refusal("y.yaml").splitlines() == [
        "y.yaml:2:9  model.layer: unknown key; did you mean 'layers'?",
        "x.yaml:1:1  sed: unknown key; did you mean 'seed'?",
        "2 problems",
    ]


def test_bases_that_go_round_in_a_circle_are_refused(folder: Path):
    (folder / "y.yaml").write_text("base: z.yaml\n")
    (folder / "z.yaml").write_text("base: y.yaml\n")
    assert refusal("y.yaml") == "z.yaml:1:1  base: goes round in a circle: y.yaml -> z.yaml -> y.yaml"


def test_another_kind_starts_its_section_anew_whatever_the_order_of_overrides(folder: Path):
    sets = ["optimizer.learning_rate=0.01", "optimizer.kind=adamw"]
    for order in (sets, sets[::-1]):
        optimizer = load_config("x.yaml", order).config.optimizer
        assert (optimizer.kind, optimizer.learning_rate) == ("adamw", 0.01)
        assert not hasattr(optimizer, "momentum")
    assert load_config("x.yaml", ["optimizer.kind=sgd"]).config == load_config("x.yaml").config


def test_a_section_that_is_null_can_be_switched_off_and_on(folder: Path):
    assert load_config("x.yaml", ["augment=null"]).config.augment is None
    sets = ["augment=null", "augment.time_masks=1", "augment.max_time_frames=5"]
    augment = load_config("x.yaml", sets).config.augment
    assert augment is not None
    assert augment.speeds == (1.0,)


def test_aliases_of_formats_are_resolved_to_the_canonical_name(folder: Path):
    sets = ["arithmetic.storage.format=bf16", "arithmetic.compute.format=fp16"]
    roles = load_config("x.yaml", sets).config.arithmetic
    assert (roles.storage.format, roles.compute.format) == ("bfloat16", "float16")
    assert load_config("x.yaml", ["arithmetic.ctc.format=fp32"]).config == load_config("x.yaml").config


def test_fixed_point_by_its_lengths_has_a_canonical_name(folder: Path):
    sets = ["arithmetic.storage.format={word_length: 16, fraction_length: 12}", "arithmetic.master=none"]
    roles = load_config("x.yaml", sets).config.arithmetic
    assert (roles.storage.format, roles.master.format) == ("fixed_q4.12", "none")


def test_stochastic_rounding_has_24_random_bits_unless_written(folder: Path):
    sets = ["arithmetic.storage={format: float16, rounding: stochastic}", "arithmetic.update.rounding=ties_to_even"]
    assert load_config("x.yaml", sets).config.arithmetic.storage.random_bits == 24
    few = ["arithmetic.storage={format: float16, rounding: stochastic, random_bits: 3}"]
    assert load_config("x.yaml", few).config.arithmetic.storage.random_bits == 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_resolves_to_yaml_that_loads_to_the_same_config(path: Path, tmp_path: Path):
    config = load_config(path).config
    copy = tmp_path / "config.yaml"
    copy.write_text(to_yaml(config))
    again = load_config(copy)
    assert again.config == config
    assert to_yaml(again.config) == to_yaml(config)
    assert config_hash(again.config) == config_hash(config)
    assert "default" not in again.origins.values(), "the resolved text leaves nothing to defaults"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_opens_with_its_schema_its_claim_and_its_command(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    heads = [line[2:].split(":")[0] for line in lines[2:5]]
    assert heads == ["Claim", "Measured", "Run"]
    assert f"dsrun train --config configs/{path.name}" in lines[4]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["training.keep_every_steps=100"], "set checkpoint_every_steps too"),
        (["training.checkpoint_every_steps=30", "training.keep_every_steps=100"], "write 120"),
        (["training.checkpoint_every_steps=50", "training.keep_every_steps=100"], None),
        (["training.watchdog_minutes=0"], "greater than 0"),
    ],
)
def test_steps_kept_for_good_are_steps_with_a_checkpoint(sets: list[str], says: str | None):
    if says is None:
        assert load_config(SHIPPED[0], sets).config.training.keep_every_steps == 100
        return
    with pytest.raises(ConfigError, match=says):
        load_config(SHIPPED[0], sets)


@settings(max_examples=60, deadline=None)
@given(name=st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/~"), min_size=1))
def test_any_path_and_any_number_survive_the_resolved_yaml(name: str, tmp_path_factory: pytest.TempPathFactory):
    values = load_config(SHIPPED[0]).config.model_dump(mode="json")
    values["data"]["cache"] = f"/{name}/cache"
    values["optimizer"]["learning_rate"] = 1e-5 / 3
    config = Config.model_validate_json(json.dumps(values))
    copy = tmp_path_factory.getbasetemp() / "any.yaml"
    copy.write_text(to_yaml(config), encoding="utf-8")
    again = load_config(copy).config
    assert again.optimizer == config.optimizer
    assert again.data.cache == os.path.normpath(f"/{name}/cache")


def test_the_hash_is_the_same_in_another_checkout_and_differs_for_any_other_value(folder: Path):
    original = config_hash(load_config("x.yaml").config)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "x.yaml").write_text(COMPLETE)
    assert config_hash(load_config("elsewhere/x.yaml").config) == original
    for override in ("seed=2", "data.train=b/train.jsonl", "optimizer.momentum=0.99", "augment=null"):
        assert config_hash(load_config("x.yaml", [override]).config) != original


def test_configs_of_a_folder_are_listed_with_the_first_line_of_their_header():
    rows = {row.name: row.claim for row in list_configs(CONFIGS)}
    assert rows["prompts_float16_storage"] == "float16 storage, float32 math, float32 master copy."
    assert all(rows.values())
    with pytest.raises(UsageError, match="no such folder"):
        list_configs("no/such")


def test_the_committed_schema_is_current():
    assert json.loads((CONFIGS / "schema.json").read_text()) == json_schema(), "run: dsrun schema > configs/schema.json"


def test_every_field_and_every_section_is_described_in_the_schema():
    missing = [
        f"{name}.{key}"
        for name, section in json_schema()["$defs"].items()
        for key, field in section["properties"].items()
        if not field.get("description")
    ]
    assert missing == []


def test_every_file_path_is_made_absolute():
    def is_path(field) -> bool:
        return "_file_path" in repr(field.metadata) + repr(field.annotation)

    assert {key for key, field in leaves(Config) if is_path(field)} == set(PATH_KEYS)


def test_the_noises_manifest_is_relative_to_the_file_that_names_it_and_of_its_path_two_names_count(folder: Path):
    noise = ("augment.noise={manifest: b/noises.jsonl, snr_db: [0, 20]}",)
    (folder / "elsewhere").mkdir()
    for place in (folder, folder / "elsewhere"):
        (place / "noisy.yaml").write_text(
            COMPLETE.replace("augment:\n", "augment:\n  noise: {manifest: b/noises.jsonl, snr_db: [0, 20]}\n")
        )
    found = [load_config(name).config for name in ("noisy.yaml", "elsewhere/noisy.yaml")]
    assert [config.augment.noise.manifest for config in found] == [
        str(folder / "b/noises.jsonl"),
        str(folder / "elsewhere/b/noises.jsonl"),
    ]
    assert config_hash(found[0]) == config_hash(found[1]) == config_hash(load_config("x.yaml", noise).config)


def test_a_config_is_frozen_and_hashable():
    config = load_config(SHIPPED[0]).config
    assert hash(config) == hash(load_config(SHIPPED[0]).config)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2
    assert next(iter(flatten(config))) == "seed"


def test_importing_config_brings_no_jax_and_no_numpy():
    code = "import sys, dsrun.config; print([name for name in ('jax', 'numpy', 'flax') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        ("{global_batch: 12}", "global_batch 12 cannot be cut into 8 shards of equal size; make global_batch 8 or 16"),
        ("{global_batch: 4, shards: 8}", "make global_batch 8, or change shards"),
    ],
)
def test_shards_divide_the_global_batch_also_where_one_of_them_is_a_default(folder: Path, batches, text):
    (folder / "x.yaml").write_text(COMPLETE.replace("{global_batch: 16, shards: 8}", batches))
    with pytest.raises(ConfigError, match=text):
        load_config("x.yaml")


def test_masks_without_a_width_are_refused_also_where_the_width_is_left_out(folder: Path):
    with pytest.raises(ConfigError, match="the 2 time_masks hide nothing"):
        load_config("x.yaml", ["augment.time_masks=2"])
