"""Sweep files: which runs they mean, in which order, under which names, and what is wrong with one."""

import itertools
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from corpus import REPOSITORY

from dsrun.config import ConfigError, load_config
from dsrun.config_file import read_file
from dsrun.sweep_file import KEYS, load_sweep
from dsrun.sweep_names import labels_of, names_of
from dsrun.sweep_schema import sweep_schema

BASE = REPOSITORY / "configs" / "prompts_small_float32.yaml"
SWEEPS = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))
FLOAT16 = "arithmetic.storage: {format: float16, rounding: ties_to_even}, arithmetic.master: none"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes sweep.yaml under the base, into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, *, base: str | None = str(BASE)) -> str:
        Path("sweep.yaml").write_text((f"base: {base}\n" if base else "") + text, encoding="utf-8")
        return "sweep.yaml"

    return write


def names(path: str, *sets: str) -> list[str]:
    return [variation.name for variation in load_sweep(path, sets).variations]


def problems(path: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as found:
        load_sweep(path, sets)
    return str(found.value)


def test_runs_are_list_times_zip_times_grid_and_the_last_key_of_the_grid_changes_fastest(write):
    path = write(
        "grid: {model.hidden: [16, 32], seed: [1, 2]}\n"
        "zip: {training.epochs: [3, 5], optimizer.learning_rate: [0.1, 0.2]}\n"
        f"list: [{{name: a}}, {{name: b, set: {{{FLOAT16}}}}}]\n"
    )
    found = load_sweep(path).variations
    got = [
        (
            v.resolved.config.arithmetic.storage.format,
            v.resolved.config.training.epochs,
            v.resolved.config.optimizer.learning_rate,
            v.resolved.config.model.hidden,
            v.resolved.config.seed,
        )
        for v in found
    ]
    formats, pairs = ["float32", "float16"], [(3, 0.1), (5, 0.2)]
    assert got == [(f, *pair, h, s) for f, pair, h, s in itertools.product(formats, pairs, [16, 32], [1, 2])]
    assert [v.index for v in found] == list(range(16))
    assert len({v.folder for v in found}) == 16
    assert found[5].name == "a-epochs=5-hidden=16-seed=2"


def test_several_zips_are_combined_with_each_other(write):
    path = write("zip:\n  - {seed: [1, 2], model.hidden: [16, 32]}\n  - {training.epochs: [3, 5, 7]}\n")
    assert names(path) == [f"seed={s}-epochs={e}" for s, e in itertools.product([1, 2], [3, 5, 7])]


def test_the_rows_of_a_zip_may_have_names(write):
    path = write(
        "zip: {name: [small, large], seed: [1, 2], model.hidden: [8, 9]}\ngrid: {training.epochs: [3, 5]}\n"
        "without: [{name: small, training.epochs: 5}]\n"
    )
    assert names(path) == ["small-epochs=3", "large-epochs=3", "large-epochs=5"]
    assert "is a name already" in problems(write("zip: {name: [a, a], seed: [1, 2]}\n"))
    assert "zip: name: 2 values, and seed has 1; values go together" in problems(
        write("zip: {name: [a, b], seed: [1]}\n")
    )


def test_names_fit_into_a_folder(write):
    """With digits and an ending, of 255 bytes."""
    long = "a" * 61
    assert "60 at most, as it names a folder" in problems(write(f"list: [{{name: {long}}}, {{name: b}}]\n"))
    keys = ["seed", "model.hidden", "model.layers", "training.epochs"]
    assert (
        names(write(f"list: [{{name: {long[1:]}, set: {{seed: 1}}}}, {{name: b, set: {{seed: 2}}}}]\n"))[0] == long[1:]
    )
    rows = ", ".join(f"{'ab'[n % 2] * 59}{n}" for n in range(2))
    axes = "".join(f"  - {{name: [{rows}], {key}: [1, 2]}}\n" for key in keys)
    found = names(write(f"zip:\n{axes}"))
    assert max(map(len, found)) <= 205
    assert len(set(found)) == 16


def test_an_entry_of_the_list_may_have_another_base_and_then_the_sweep_needs_none(write):
    other = REPOSITORY / "configs" / "prompts_small_float16_storage.yaml"
    path = write(f"list: [{{name: a, base: {BASE}}}, {{name: b, base: {other}}}]\n", base=None)
    a, b = (v.resolved.config for v in load_sweep(path).variations)
    assert (a.arithmetic.storage.format, b.arithmetic.storage.format) == ("float32", "float16")


def test_precedence_is_base_then_set_then_the_entry_then_zip_and_grid_then_the_command_line(write):
    path = write(
        "set: {training.epochs: 4, model.hidden: 8, model.layers: 2}\n"
        "list: [{name: a, set: {model.hidden: 16}}, {name: b}]\n"
        "grid: {seed: [7, 8]}\n"
    )
    config = load_sweep(path, ["model.layers=3"]).variations[1].resolved.config
    assert (config.training.epochs, config.model.hidden, config.model.layers, config.seed) == (4, 16, 3, 8)
    assert load_sweep(path).variations[2].resolved.config.model.hidden == 8


def test_a_variation_is_the_config_that_train_makes_of_the_same_settings(write):
    path = write(f"list: [{{name: a, set: {{{FLOAT16}}}}}]\ngrid: {{seed: [1, 2]}}\n")
    alone = load_config(
        BASE, ["arithmetic.storage={format: float16, rounding: ties_to_even}", "arithmetic.master=none", "seed=2"]
    )
    assert load_sweep(path).variations[1].resolved.config == alone.config


def test_paths_in_a_sweep_are_relative_to_its_file_and_those_of_set_to_the_current_folder(write, tmp_path):
    folder = tmp_path / "below"
    folder.mkdir()
    Path(write("grid: {data.train: [a.jsonl, b/c.jsonl]}\n")).rename(folder / "sweep.yaml")
    first, second = load_sweep(folder / "sweep.yaml", ["data.test=t.jsonl"]).variations
    assert first.resolved.config.data.train == str(folder / "a.jsonl")
    assert second.resolved.config.data.test == str(tmp_path / "t.jsonl")
    assert second.name == "train=b_c"


def test_without_leaves_out_what_has_all_of_its_values_be_they_named_varied_or_of_the_base(write):
    path = write(
        f"list: [{{name: float32}}, {{name: float16, set: {{{FLOAT16}}}}}]\n"
        "grid: {arithmetic.update.rounding: [ties_to_even, stochastic], seed: [1, 2, 3]}\n"
        "without:\n"
        "  - {name: float32, arithmetic.update.rounding: stochastic}\n"
        "  - {arithmetic.storage: {format: float16}, seed: [2, 3]}\n"
        "  - {arithmetic.compute.format: float32, name: float32, seed: 3}\n"
    )
    assert names(path) == [
        "float32-ties_to_even-seed=1",
        "float32-ties_to_even-seed=2",
        "float16-ties_to_even-seed=1",
        "float16-stochastic-seed=1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sweep.yaml: nothing varies"),
        ("grids: {seed: [1]}\n", "nothing varies"),
        ("grid: {seed: [1]}\ngird: {}\n", "sweep.yaml:3:1  gird: unknown key; did you mean 'grid'?"),
        ("grid: {seed: [1]}\nseed: 3\n", "sweep.yaml:3:1  seed: unknown key; what is the same in all runs is written in `set`"),
        ("grid: {model.hiden: [1, 2]}\n", "sweep.yaml:2:8  grid: model.hiden: unknown key; did you mean 'hidden'?"),
        ("grid: {seed.more: [1]}\n", "seed is a value and no section"),
        ("grid: {seed: 1}\n", "sweep.yaml:2:8  grid: seed: must be a list of values"),
        ("grid: {seed: []}\n", "sweep.yaml:2:8  grid: seed: is empty; write the values"),
        ("zip: {seed: []}\n", "sweep.yaml:2:7  zip: seed: is empty; write the values"),
        ("grid: {}\n", "sweep.yaml:2:1  grid: is empty"),
        ("grid: {seed: [1]}\nzip: []\n", "sweep.yaml:3:1  zip: is empty"),
        ("grid: [seed]\n", "sweep.yaml:2:1  grid: must be a section"),
        ("grid: {base: [a.yaml]}\n", "a base is written at the top"),
        ("grid: {seed: [1, x]}\n", "sweep.yaml:2:18  seed: must be a whole number, found text 'x' (in x)"),
        ("zip: {seed: [1, 2], model.hidden: [8]}\n", "zip: model.hidden: 1 values, and seed has 2"),
        ("list: [{name: a}, {name: a}]\n", "sweep.yaml:2:19  name: 'a' is a name already, in line 2"),
        ("list: [{set: {seed: 1}}]\n", "list: name: missing"),
        ("list: [{name: a/b}]\n", "list: name: must be text of letters"),
        ("list: [{nam: a}]\n", "list: nam: unknown key; did you mean 'name'?"),
        ("list: [{name: a, base: none.yaml}]\n", "sweep.yaml:2:18  base: no such file: none.yaml"),
        ("list: [{name: a, base: sweep.yaml}]\n", "goes round in a circle"),
        ("list: [{name: a, base: swep.yaml}]\n", "no such file: swep.yaml (did you mean sweep.yaml?); paths"),
        ("grid: {seed: [1, 2]}\nwithout: [{seed: 3}]\n", "sweep.yaml:3:12  without: seed: leaves out nothing: no run has 3; write one of"),
        ("list: [{name: f32}]\nwithout: [{name: f23, seed: 1}]\n", "no run has f23; did you mean 'f32'?"),
        ("grid: {seed: [1]}\nwithout: [{data.sample_rate: 3}]\n", "no run has 3; values count that are written"),
        ("zip: {seed: [1, 2], model.hidden: [8, 9]}\nwithout: [{seed: 1, model.hidden: 9}]\n", "no run has all of these values together"),
        ("grid: {seed: [1, 2]}\nwithout: [{seed: [1, 2]}]\n", "leaves out every run"),
        ("grid: {seed: [1, 2]}\nwithout: [{sed: 1}]\n", "without: sed: unknown key; did you mean 'seed'?"),
        ("grid: {seed: [1, 2, 1]}\n", "sweep.yaml:2:21  grid: seed: 1 twice; remove one"),
        ("zip: {seed: [1, 1], model.hidden: [8, 8]}\n", "sweep.yaml:2:17  zip: seed, model.hidden: 1, 8 twice; remove one"),
        ("list: [{name: a}, {name: b}]\n", "sweep.yaml: a and b are the same config"),
        ("grid: {seed: [1, 2]}\nzip: {seed: [3]}\n", "varied in line 3 too"),
        ("list: [{name: a, set: {seed: 1}}]\ngrid: {seed: [1, 2]}\n", "varied in line 2 too"),
        ("set: {seed: 5}\ngrid: {seed: [1, 2]}\n", "sweep.yaml:2:7  set: seed: varied in line 3, so this is never used"),
        ("set: {model: {hidden: 5}}\ngrid: {model.hidden: [8, 16]}\n", "set: model.hidden: varied in line 3"),
        ("grid: {seed: [1]}\ngrid: {seed: [1]}\n", "written twice"),
        ("grid: {seed: [" + ", ".join(map(str, range(4097))) + "]}\n", "4,097 runs; at most 4,096"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_place_with_a_way_out(write, text, message):
    assert message in problems(write(text))


def test_a_sweep_without_a_base_is_told_so(write):
    assert "base: missing" in problems(write("grid: {seed: [1]}\n", base=None))


def test_all_problems_of_all_runs_come_at_once_each_with_the_runs_that_have_it(write):
    path = write(
        f"list: [{{name: float32}}, {{name: float16, set: {{{FLOAT16}}}}}]\n"
        "set: {model.hidden: 0, training.epocs: 3}\n"
        "grid:\n  arithmetic.update.rounding: [ties_to_even, stochastic, nearest]\n  seed: [1, 2]\n"
    )
    text = problems(path)
    assert "sweep.yaml:3:7  model.hidden: must be at least 1, found 0\n" in text, "in all runs: none is named"
    assert "sweep.yaml:3:24  set: training.epocs: unknown key; did you mean 'epochs'?" in text
    assert "sweep.yaml:5:46  arithmetic.update: the weights that are updated are float32" in text
    assert "stochastic cannot be honoured" in text
    assert "(in float32-stochastic-seed=1 and 1 more of 12 runs)" in text
    assert "'nearest'" in text
    assert text.endswith("4 problems")


def test_a_problem_of_the_base_is_told_once_at_its_own_place(write):
    Path("wrong.yaml").write_text(f"base: {BASE}\nmodel: {{hidden: -1}}\n")
    text = problems(write("grid: {seed: [1, 2, 3]}\n", base="wrong.yaml"))
    assert text == "wrong.yaml:2:9  model.hidden: must be at least 1, found -1"


def test_overriding_what_is_varied_is_refused_and_only_recommended(write):
    text = problems(write("grid: {seed: [1, 2]}\n"), "seed=3")
    assert text == "--set #1  seed is what sweep.yaml varies (line 2); choose among its runs with --only"
    assert names(write("grid: {seed: [1, 2]}\n"), "training.epochs=1") == ["seed=1", "seed=2"]


def test_a_sweep_given_as_a_config_or_a_base_is_refused_with_the_command_for_it(write):
    path = write("grid: {seed: [1, 2]}\n")
    Path("x.yaml").write_text("base: sweep.yaml\n")
    for file in (path, "x.yaml"):
        with pytest.raises(
            ConfigError, match=r"sweep.yaml:2:1  grid: this file is a sweep .* `dsrun sweep FILE --list`"
        ):
            load_config(file)


def named(*axes):
    return ["-".join(filter(None, parts)) for parts in itertools.product(*names_of(axes))]


def test_a_word_stands_alone_and_a_number_or_an_opaque_word_has_its_key():
    rounding = [{"arithmetic.update.rounding": mode} for mode in ("ties_to_even", "stochastic")]
    scale = [{"arithmetic.loss_scale": {"kind": kind}} for kind in ("none", "dynamic")]
    assert named(rounding, scale)[2:] == ["stochastic-loss_scale=none", "stochastic-dynamic"]
    assert named([{"a.clip": value} for value in (None, 1e-05, True)]) == ["clip=null", "clip=1e-05", "clip=true"]


def test_what_all_choices_share_and_an_axis_of_one_choice_are_left_out():
    storage = [{"arithmetic.storage": {"format": f, "rounding": "ties_to_even"}} for f in ("float16", "bfloat16")]
    assert named(storage, [{"seed": 1}]) == ["float16", "bfloat16"]


def test_a_word_that_two_keys_take_has_the_shortest_key_that_tells_them_apart():
    axes = [[{f"arithmetic.{role}.format": f} for f in ("float16", "float32")] for role in ("storage", "accumulate")]
    assert named(*axes)[1] == "storage=float16-accumulate=float32"
    assert labels_of(["arithmetic.storage.rounding", "arithmetic.update.rounding", "seed"]) == {
        "arithmetic.storage.rounding": "storage.rounding",
        "arithmetic.update.rounding": "update.rounding",
        "seed": "seed",
    }


def test_names_are_fit_for_a_folder_and_different_whatever_the_values():
    awkward = ["a b", "a_b", "../x/y.jsonl", "", "é", [1, 2.5], {"k": "v w"}, "z" * 300]
    (found,) = names_of([[{"data.x": value} for value in awkward]])
    assert len(set(found)) == len(awkward)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789=_.+-") and len(name) < 100 for name in found)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep_is_valid_opens_with_its_claim_and_has_two_seeds_or_more(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [line.split(":")[0] for line in lines[:12] if line.startswith(("# Claim:", "# Measured:", "# Run:"))]
    assert heads == ["# Claim", "# Measured", "# Run"], "a claim that nobody measured says so"
    assert f"# Run:      dsrun sweep configs/sweeps/{path.name}" in "\n".join(lines[:10])
    found = load_sweep(path)
    assert len({v.folder for v in found.variations}) == len(found.variations)
    assert len({v.resolved.config.seed for v in found.variations}) >= 2


def test_the_committed_schema_of_sweeps_is_current_and_knows_what_the_shipped_sweeps_write():
    schema = sweep_schema()
    committed = json.loads((REPOSITORY / "configs" / "sweeps" / "schema.json").read_text())
    assert committed == schema, "run: dsrun schema --sweep > configs/sweeps/schema.json"
    written = {key for path in SWEEPS for key in read_file(path, []).value}
    assert written <= schema["properties"].keys() == set(KEYS)
    references = re.findall(r'"#/\$defs/([^"]*)"', json.dumps(schema))
    assert set(references) == schema["$defs"].keys()
    assert "arithmetic.update.random_bits" in schema["properties"]["grid"]["properties"]
